"""Large numbers in few characters."""

from __future__ import annotations

_DECIMAL = ("", " k", " M", " G", " T", " P", " E")
_BINARY = (" B", " KiB", " MiB", " GiB", " TiB", " PiB")


def count(number: float) -> str:
    """``count(22713216)`` is ``"22.7 M"``; below 10,000 every digit is shown."""
    if number < 10_000:
        return f"{number:,.0f}"
    return _scaled(number, 1000, _DECIMAL)


def size(number: float) -> str:
    """A number of bytes: ``size(90852864)`` is ``"86.6 MiB"``."""
    return f"{number:.0f} B" if number < 1024 else _scaled(number, 1024, _BINARY)


def ratio(after: float, before: float) -> str:
    """``after`` as a part of ``before``, to two significant digits."""
    return f"{after / before:.2g}" if before else ""


def plural(number: int, noun: str) -> str:
    """``plural(2, "axis")`` is ``"2 axes"``."""
    ending = {"axis": "axes", "branch": "branches"}.get(noun, noun + "s")
    return f"{number:,} {noun if number == 1 else ending}"


def _scaled(number: float, base: int, units: tuple[str, ...]) -> str:
    unit = 0
    while number >= base and unit < len(units) - 1:
        number /= base
        unit += 1
    digits = 2 if number < 10 else 1
    return f"{number:.{digits}f}{units[unit]}"
