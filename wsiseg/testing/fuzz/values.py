"""Values and bytes that programs stumble over, and changes that know no format."""

import re
from random import Random
from typing import Any

__all__ = ["any_bytes", "any_number", "any_text", "any_value", "odd_integer"]

INTEGERS = (
    0, 1, 2, 3, 7, 8, 15, 16, 255, 256, 32_767, 32_768, 65_535, 65_536, 99_840,
    2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, -1, -2, -(2**31),
)  # fmt: skip
NUMBERS = (
    *map(str, INTEGERS), "1e400", "-1e400", "1e-400", "-0.0", "0.5", "1e308", "NaN", "Infinity",
    "-Infinity", "0x10", "1_000", "1,5", "+1", "01", "1.", ".5", "1e", "", "9" * 400, "٣",
)  # fmt: skip
TEXTS = (
    "", " ", "\0", "\n", "..", "../../x", "/", "CON", "a" * 70_000, "\ud800", "\u202e",
    "\U0001d518" * 50,
    "%s%n", "{}", "NaN", "null", "é" * 300, "\x1b[31m", "<!ENTITY a 'b'>", "file:///etc/hostname",
)  # fmt: skip
SPLICES = (
    b"\0" * 16, b"\xff" * 16, b"\xff\xd9", b"\xff\xd8", b"\xff\xda", b"\xff\x4f\xff\x51",
    b"[" * 5000, b'{"a":' * 5000, b"<a>" * 5000, b"\x80\x04\x95", b"PK\x03\x04", b"\x1f\x8b\x08",
    b"\n",
)  # fmt: skip
NUMERAL = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def odd_integer(random: Random) -> int:
    """Return a number at the edge of some type."""
    return random.choice(INTEGERS)


def any_number(random: Random) -> str:
    """Return the text of a number that is odd, or none."""
    return random.choice(NUMBERS)


def any_text(random: Random) -> str:
    """Return a text that is odd for a name, a path or a value."""
    return random.choice(TEXTS)


def any_value(random: Random, *, deep: bool = True) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Return a value of any type that JSON can hold, and some that it cannot."""
    kind = random.randrange(9 if deep else 7)
    if kind == 0:
        return odd_integer(random)
    if kind == 1:
        return random.choice((0.5, -0.0, 1e308, 5e-324, float("nan"), float("inf"), -1e30))
    if kind == 2:
        return any_text(random)
    if kind == 3:
        return random.choice((None, True, False))
    if kind == 4:
        return [odd_integer(random) for _ in range(random.randrange(5))]
    if kind == 5:
        return {any_text(random): odd_integer(random)}
    if kind == 6:
        return random.choice(([], {}, [[]], [None], {"": {}}))
    if kind == 7:
        return [any_value(random, deep=False) for _ in range(random.randrange(300))]
    nested: Any = 1
    listed = random.random() < 0.5
    for _ in range(random.choice((20, 300))):  # deeper ones are spliced in as text
        nested = [nested] if listed else {"a": nested}
    return nested


def any_bytes(content: bytes, random: Random) -> bytes:
    """Return a file changed without knowing what it is: cut, flipped, overwritten, spliced."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        if not data:
            break
        random.choice(_CHANGES)(data, random)
    return bytes(data)


def _flip(data: bytearray, random: Random) -> None:
    for _ in range(random.choice((1, 2, 8, 64))):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _fill(data: bytearray, random: Random) -> None:
    start, size = _range(data, random)
    value = random.choice((0, 255, 32, None))
    filling = random.randbytes(size) if value is None else bytes([value]) * size
    data[start : start + size] = filling


def _cut(data: bytearray, random: Random) -> None:
    keep = random.choice((random.random(), random.random() ** 3, 1 - random.random() ** 3))
    del data[int(len(data) * keep) :]


def _remove(data: bytearray, random: Random) -> None:
    start, size = _range(data, random)
    del data[start : start + size]


def _repeat(data: bytearray, random: Random) -> None:
    start, size = _range(data, random)
    data[start:start] = data[start : start + size]


def _splice(data: bytearray, random: Random) -> None:
    at = random.randrange(len(data) + 1)
    data[at:at] = random.choice(SPLICES)


def _integer(data: bytearray, random: Random) -> None:
    size = random.choice((1, 2, 4, 8))
    at = min(random.randrange(len(data)), int(len(data) * random.random() ** 2))
    value = odd_integer(random) % (1 << 8 * size)
    data[at : at + size] = value.to_bytes(size, random.choice(("little", "big")))


def _numeral(data: bytearray, random: Random) -> None:
    """Replace a number written as text."""
    found = list(NUMERAL.finditer(data[: 1 << 20]))
    if found:
        where = random.choice(found)
        data[where.start() : where.end()] = any_number(random).encode("utf-8", "surrogatepass")


def _range(data: bytearray, random: Random) -> tuple[int, int]:
    start = random.randrange(len(data))
    size = max(1, min(len(data) - start, int(len(data) * random.random() ** 4)))
    return start, size


_CHANGES = (_flip, _fill, _cut, _remove, _repeat, _splice, _integer, _numeral)
