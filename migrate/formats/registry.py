"""The tape formats by the name of the product, and where a demultiplexer comes from."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping

from catalog.errors import ConfigError
from migrate.formats.interface import Demultiplexer, Label, TapeFormat
from migrate.formats.nbu import NetBackup
from migrate.formats.tar import Tar

Maker = Callable[[bool, Demultiplexer | None], TapeFormat]

FORMATS: Mapping[str, Maker] = {
    # in the order in which a first block is asked: tar, which only a checksum tells, is the last
    "netbackup": lambda keeps_records, demultiplexer: NetBackup(
        keeps_records=keeps_records, demultiplexer=demultiplexer
    ),
    "tar": lambda _keeps_records, _demultiplexer: Tar(),
}


def format_named(
    product: str, *, keeps_records: bool = True, demultiplexer: Demultiplexer | None = None
) -> TapeFormat:
    """The format that a product writes; keeps_records is the source's.

    Raises:
        ConfigError: no format goes by this name.
    """
    maker = FORMATS.get(product)
    if maker is None:
        raise ConfigError(
            f"no tape format is known for {product!r}", hint=f"known are {', '.join(FORMATS)}"
        )
    return maker(keeps_records, demultiplexer)


def identify_tape(first_block: bytes) -> Label | None:
    """What a tape's first block says it is; None when no format knows it."""
    for maker in FORMATS.values():
        label = maker(True, None).identify(first_block)
        if label is not None:
            return label
    return None


def load_demultiplexer(spec: str) -> Demultiplexer:
    """Load a plug-in from ``module:attribute``: a demultiplexer, or a class that makes one.

    Raises:
        ConfigError: the module or the attribute is missing, fails, or has no ``extract``.
    """
    hint = "give MODULE:ATTRIBUTE, with the module on PYTHONPATH"
    module_name, colon, attribute = spec.partition(":")
    if not (module_name and colon and attribute):
        raise ConfigError(f"{spec!r} does not name a demultiplexer", hint=hint)
    try:
        found = getattr(importlib.import_module(module_name), attribute)
        plugin = found() if isinstance(found, type) else found
    except Exception as exc:  # whatever a stranger's module raises
        raise ConfigError(
            f"cannot load the demultiplexer {spec!r}: {type(exc).__name__}: {exc}", hint=hint
        ) from exc
    if not callable(getattr(plugin, "extract", None)):
        raise ConfigError(
            f"{spec!r} is no demultiplexer: it has no extract()",
            hint="see Demultiplexer in migrate/formats/interface.py",
        )
    demultiplexer: Demultiplexer = plugin
    return demultiplexer
