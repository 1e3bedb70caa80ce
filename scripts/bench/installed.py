"""Makes this Python the installation that users have. Imports nothing that costs time."""

from __future__ import annotations

from importlib.abc import MetaPathFinder


class AsInstalled(MetaPathFinder):
    """An installation in which there is no pandas and no numpy.

    pyarrow imports those that it finds, though nothing here uses them: 50 MiB, half a second, and
    threads of numpy's that spin.
    """

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name in ("numpy", "pandas"):
            raise ModuleNotFoundError(name)
