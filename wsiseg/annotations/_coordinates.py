"""Coordinates of polygons as JSON, all at once: digits are looked up, four at a time."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from wsiseg.annotations.polygons import Polygons

__all__ = ["coordinates"]

Integers = NDArray[np.int32 | np.int64]
Words = NDArray[np.uint32]
"""Four bytes of text each, of which zeros do not count."""

BASE = 10_000
"""Integers that fit in a word."""


def coordinates(outlines: Polygons) -> list[bytes]:
    """Return the JSON array of each object's rings, of its parts where there are several.

    Parameters
    ----------
    outlines
        Coordinates from 0, multiples of 0.01; whole ones are written without decimals.
    """
    if not len(outlines):
        return []
    hundredths = np.rint(outlines.points * 100)
    small = hundredths.max() <= np.iinfo(np.int32).max
    whole, fraction = _split(hundredths.astype(np.int32 if small else np.int64), 100)
    columns = [_before_vertices(outlines)]
    for axis, end in ((0, b","), (1, b"]")):
        columns += [*_digits(whole[:, axis]), _fractions(end)[fraction[:, axis]]]
    text = np.stack(columns, axis=1).tobytes().translate(None, b"\0")
    several = (np.diff(outlines.objects) > 1).tolist()
    return [
        b"[[[%b]]]" % rings.replace(b"|", b"]],[[") if parts else b"[[%b]]" % rings
        for rings, parts in zip(text.split(b"\n")[1:], several, strict=True)
    ]


def _before_vertices(outlines: Polygons) -> Words:
    """Return (vertex,) what stands before each: a line for an object, `|` for a further part."""
    marks = np.full(len(outlines.points), _word(b",["), np.uint32)
    marks[outlines.rings[:-1]] = _word(b"],[[")
    marks[outlines.rings[outlines.parts[:-1]]] = _word(b"|[")
    marks[outlines.spans[:-1]] = _word(b"\n[")
    return marks


def _split(numbers: Integers, base: int) -> tuple[Integers, Integers]:
    """Return quotients and remainders of integers from 0; `np.divmod` takes five times as long."""
    quotients = numbers // base
    return quotients, numbers - quotients * base


def _digits(numbers: Integers) -> list[Words]:
    """Return the decimal digits of integers from 0, the most significant word first."""
    lowest, padded, plain = _tables()
    words: list[Words] = []
    table = lowest
    while True:
        numbers, rest = _split(numbers, BASE)
        leading = numbers == 0
        if leading.all():
            return [table[rest], *words]
        words.insert(0, np.where(leading, table[rest], padded[rest]))
        table = plain


@cache
def _tables() -> tuple[Words, Words, Words]:
    """Return words of 0 to 9999: as they are, with zeros in front, and as they are but for 0."""
    plain = [b"%d" % value for value in range(BASE)]
    padded = [b"%04d" % value for value in range(BASE)]
    return _words(plain), _words(padded), _words([b"", *plain[1:]])


@cache
def _fractions(end: bytes) -> Words:
    """Return words of 0 to 99 hundredths with what follows them."""
    shortest = [(b".%02d" % value).rstrip(b"0").rstrip(b".") for value in range(100)]
    return _words([digits + end for digits in shortest])


def _words(texts: list[bytes]) -> Words:
    return np.array(texts, "S4").view(np.uint32)


def _word(text: bytes) -> np.uint32:
    word: np.uint32 = _words([text])[0]
    return word
