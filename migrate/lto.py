"""How long LTO drives and libraries take: a planner's model, good to about 15 percent.

Source: drive manuals and the LTO consortium's tables as gathered in docs/operations.md, "Planning
times"; full-height drives, native (uncompressed) rates.
"""

from __future__ import annotations

from dataclasses import dataclass

MB = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One LTO generation. rate is bytes per second; the rest is seconds, or bytes."""

    name: str
    capacity: int
    rate: int
    load_s: float
    locate_s: float
    rewind_s: float
    unload_s: float


_TB = 1_000_000 * MB
GENERATIONS = {
    generation.name: generation
    for generation in (
        Generation(name="LTO-5", capacity=1_500_000 * MB, rate=140 * MB, load_s=12, locate_s=60,
                   rewind_s=60, unload_s=17),
        Generation(name="LTO-6", capacity=2_500_000 * MB, rate=160 * MB, load_s=12, locate_s=62,
                   rewind_s=60, unload_s=17),
        Generation(name="LTO-7", capacity=6 * _TB, rate=300 * MB, load_s=15, locate_s=56,
                   rewind_s=60, unload_s=20),
        Generation(name="LTO-8", capacity=12 * _TB, rate=360 * MB, load_s=15, locate_s=59,
                   rewind_s=59, unload_s=24),
        Generation(name="LTO-9", capacity=18 * _TB, rate=400 * MB, load_s=16, locate_s=65,
                   rewind_s=62, unload_s=56),
        Generation(name="LTO-10", capacity=30 * _TB, rate=400 * MB, load_s=16, locate_s=65,
                   rewind_s=62, unload_s=56),
    )
}  # fmt: skip
_SUFFIXES = {
    "L5": "LTO-5", "LV": "LTO-5",
    "L6": "LTO-6", "LW": "LTO-6",
    "L7": "LTO-7", "LX": "LTO-7", "M8": "LTO-7",
    "L8": "LTO-8", "LY": "LTO-8",
    "L9": "LTO-9", "LZ": "LTO-9",
    "LA": "LTO-10", "PA": "LTO-10",
}  # fmt: skip
ASSUMED = "LTO-6"
ROBOT_S = 20.0
"""Seconds that a library takes to bring a cartridge; 10 to 30 are usual."""


def generation_of(barcode: str) -> Generation | None:
    """The generation that a barcode's last two characters name, or None."""
    name = _SUFFIXES.get(barcode[-2:].upper())
    return GENERATIONS[name] if name else None


def mount_seconds(generation: Generation) -> float:
    """Bring a cartridge, load it, rewind and unload it again."""
    return ROBOT_S + generation.load_s + generation.rewind_s + generation.unload_s


def skip_seconds(generation: Generation, gap: int | None) -> float:
    """Pass over gap bytes that are not wanted: read past them or locate, whichever is shorter.

    gap None: unknown, an average locate.
    """
    if gap is None:
        return generation.locate_s
    return min(generation.locate_s, gap / generation.rate)
