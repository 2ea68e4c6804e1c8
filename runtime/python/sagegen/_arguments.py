"""Arguments that are no arrays: each check names the argument, what it was given, and what is legal."""
from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

from .errors import ArgumentError, DTypeError

LARGEST_INT, LARGEST_SIZE = 2**31 - 1, 2**63 - 1
SMALLEST_FLOAT, LARGEST_FLOAT = 2.0**-126, (2 - 2.0**-23) * 2.0**127


def flag(name: str, value: object, more: str = "") -> bool:
    if isinstance(value, bool):
        return value
    raise DTypeError(f"{name} {shown(value)} is refused: it is True or False{more}")


def text(name: str, value: object, rule: str) -> str:
    if isinstance(value, str):
        return value
    raise DTypeError(f"{name} {shown(value)} is refused: it is {rule}")


def word(name: str, value: object, words: Iterable[str]) -> str:
    if isinstance(value, str) and value in words:
        return value
    error = ArgumentError if isinstance(value, str) else DTypeError
    raise error(f"{name} {shown(value)} is refused: there are {', '.join(map(repr, words))}")


def path(name: str, value: Any) -> str:
    """Of a text or an os.PathLike."""
    try:
        found = os.fspath(value)
    except TypeError:
        found = None
    return text(name, found if isinstance(found, str) else value, "a path, as a text or an os.PathLike")


def whole(name: str, value: Any, least: int, most: int) -> int:
    """An int, or what counts as one, as NumPy's do; no bool, and nothing is rounded."""
    rule = f"a whole number from {least} to {most}"
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise DTypeError(f"{name} {shown(value)} is refused: it is {rule}")
    try:
        number = value if isinstance(value, int) else operator.index(value)
    except TypeError:
        raise DTypeError(f"{name} {shown(value)} is refused: it is {rule}") from None
    if least <= number <= most:
        return number
    raise ArgumentError(f"{name} {shown(value)} is refused: it is {rule}")


def positive(name: str, value: Any, more: str = "") -> float:
    """A number that is one of float32, too."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Real)):
        raise DTypeError(f"{name} {shown(value)} is refused: it is a positive, finite number{more}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not 0 < number < math.inf:
        raise ArgumentError(f"{name} {shown(value)} is refused: it is a positive, finite number{more}")
    if not SMALLEST_FLOAT <= number <= LARGEST_FLOAT:
        raise ArgumentError(f"{name} {shown(value)} is refused: in float32 it is from {SMALLEST_FLOAT:.3g} to {LARGEST_FLOAT:.3g}{more}")
    return number


def sequence(name: str, value: Any, rule: str) -> Sequence[Any]:
    if isinstance(value, (list, tuple)):
        return value
    raise DTypeError(f"{name} {shown(value)} is refused: it is {rule}")


def shown(value: object) -> str:
    """The value, or of what is long its type."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"of type {type(value).__name__} and shape {tuple(shape)}"
    if isinstance(value, int) and value.bit_length() > 4000:  # which Python may refuse to print
        return f"of {value.bit_length()} bits"
    said = repr(value)
    return said if len(said) <= 200 else f"{said[:100]}... of type {type(value).__name__}"
