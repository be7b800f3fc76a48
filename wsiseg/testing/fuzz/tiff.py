"""Changes of TIFF files: tags, types, counts, offsets, directories, blocks."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from wsiseg.testing.fuzz.values import NUMERAL, any_bytes, any_number, any_text, odd_integer

__all__ = ["change_tiff"]

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4,
         16: 8, 17: 8, 18: 8}  # fmt: skip
"""Bytes of a value of each type."""

LAYOUT = (
    254, 256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 284, 317, 322, 323, 324, 325, 330, 339,
    347, 530, 32997,
)  # fmt: skip
"""Tags that say how pixels lie."""

DESCRIPTION, TILES, COUNTS, SUBIFDS, TABLES = 270, (273, 324), (279, 325), 330, 347
CODECS = (1, 2, 5, 6, 7, 8, 34712, 33003, 33005, 50000, 50001, 50002, 34892, 34925, 32773, 7777)
MAX_DIRECTORIES = 40


@dataclass(frozen=True, slots=True)
class _Entry:
    """A tag, and where in the file it and its values lie."""

    at: int
    tag: int
    type: int
    count: int
    value_at: int


class _Tiff:
    """The directories of a TIFF, classic or big, of either byte order."""

    def __init__(self, data: bytes) -> None:
        self.order = "<" if data[:2] == b"II" else ">"
        self.is_big = data[2:4] in (b"\x2b\x00", b"\x00\x2b")
        self._data = data
        self.wide = "Q" if self.is_big else "I"
        self.entry_size = 20 if self.is_big else 12
        self.entries: list[_Entry] = []
        self.nexts: list[int] = []
        """Places of the offsets that lead to directories."""

        self.directories: list[int] = []
        start = 8 if self.is_big else 4
        self._walk(start)

    def numbers(self, entry: _Entry) -> list[int]:
        """Return the values of an entry of whole numbers."""
        code = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}.get(entry.type)
        size = SIZES.get(entry.type, 1)
        there = self._data[entry.value_at : entry.value_at + entry.count * size]
        if code is None or len(there) < entry.count * size:
            return []
        return list(struct.unpack(f"{self.order}{entry.count}{code}", there))

    def _walk(self, place: int) -> None:
        while len(self.directories) < MAX_DIRECTORIES:
            self.nexts.append(place)
            at = self._read(self.wide, place)
            if not at or at in self.directories:
                return
            self.directories.append(at)
            number = self._read("Q" if self.is_big else "H", at)
            first = at + (8 if self.is_big else 2)
            for index in range(min(number, 100)):
                entry = self._entry(first + index * self.entry_size)
                self.entries.append(entry)
                if entry.tag == SUBIFDS and entry.count < 20:
                    step = 8 if self.is_big else SIZES.get(entry.type, 4)
                    for sub in range(entry.count):
                        self._walk(entry.value_at + sub * step)
            place = first + number * self.entry_size

    def _entry(self, at: int) -> _Entry:
        tag, kind = self._read("H", at), self._read("H", at + 2)
        count = self._read(self.wide, at + 4)
        value = at + (12 if self.is_big else 8)
        room = 8 if self.is_big else 4
        if SIZES.get(kind, 1) * count > room:
            value = self._read(self.wide, value)
        return _Entry(at, tag, kind, count, value)

    def _read(self, code: str, at: int) -> int:
        size = struct.calcsize(code)
        there = self._data[at : at + size]
        return int(struct.unpack(self.order + code, there)[0]) if len(there) == size else 0


def change_tiff(content: bytes, random: Random) -> bytes:
    """Return a TIFF with some of what its directories or blocks say changed."""
    tiff = _Tiff(content)
    if not tiff.entries:
        return any_bytes(content, random)
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 3, 6))):
        random.choice(_CHANGES)(data, tiff, random)
    return bytes(data)


def _put(data: bytearray, tiff: _Tiff, code: str, at: int, value: int) -> None:
    size = struct.calcsize(code)
    if at >= 0 and at + size <= len(data):
        struct.pack_into(tiff.order + code, data, at, value % (1 << 8 * size))


def _layout_entry(tiff: _Tiff, random: Random) -> _Entry:
    known = [entry for entry in tiff.entries if entry.tag in LAYOUT]
    return random.choice(known or tiff.entries)


def _value(data: bytearray, tiff: _Tiff, random: Random) -> None:
    entry = _layout_entry(tiff, random)
    value = random.choice(CODECS) if entry.tag == 259 else odd_integer(random)
    size = SIZES.get(entry.type, 1)
    code = {1: "B", 2: "H", 4: "I", 8: "Q"}[size]
    at = entry.value_at + size * random.randrange(max(1, min(entry.count, 1000)))
    _put(data, tiff, code, at, value)


def _near(data: bytearray, tiff: _Tiff, random: Random) -> None:
    """Change a value by a little, which passes more checks."""
    entry = _layout_entry(tiff, random)
    numbers = tiff.numbers(entry)
    if numbers:
        index = random.randrange(len(numbers))
        value = numbers[index] + random.choice((-1, 1, 16, -16, numbers[index], -numbers[index]))
        size = SIZES[entry.type]
        code = {1: "B", 2: "H", 4: "I", 8: "Q"}[size]
        _put(data, tiff, code, entry.value_at + index * size, value)


def _kind(data: bytearray, tiff: _Tiff, random: Random) -> None:
    entry = random.choice(tiff.entries)
    _put(data, tiff, "H", entry.at + 2, random.choice((*SIZES, 0, 14, 255, 65_535)))


def _tag(data: bytearray, tiff: _Tiff, random: Random) -> None:
    entry = random.choice(tiff.entries)
    _put(data, tiff, "H", entry.at, random.choice((*LAYOUT, 270, 65_420, 34_665, 0, 65_535)))


def _count(data: bytearray, tiff: _Tiff, random: Random) -> None:
    entry = random.choice(tiff.entries)
    value = random.choice((odd_integer(random), entry.count - 1, entry.count + 1, entry.count * 2))
    _put(data, tiff, tiff.wide, entry.at + 4, value)


def _offset(data: bytearray, tiff: _Tiff, random: Random) -> None:
    entry = random.choice(tiff.entries)
    at = entry.at + (12 if tiff.is_big else 8)
    value = random.choice((odd_integer(random), len(data) - 1, random.randrange(len(data)), at))
    _put(data, tiff, tiff.wide, at, value)


def _next(data: bytearray, tiff: _Tiff, random: Random) -> None:
    """Lead the chain of directories astray, or in a circle."""
    value = random.choice(
        (*tiff.directories, 0, 1, 7, len(data), random.randrange(len(data)), 2**32 - 1)
    )
    _put(data, tiff, tiff.wide, random.choice(tiff.nexts), value)


def _entries(data: bytearray, tiff: _Tiff, random: Random) -> None:
    at = random.choice(tiff.directories)
    value = random.choice((0, 1, 3, 200, 65_535, 2**40))
    _put(data, tiff, "Q" if tiff.is_big else "H", at, value)


def _description(data: bytearray, tiff: _Tiff, random: Random) -> None:
    """Change a number or a piece of what the descriptions say, keeping their length."""
    for entry in _chosen(tiff, (DESCRIPTION,), random):
        text = data[entry.value_at : entry.value_at + entry.count]
        found = list(NUMERAL.finditer(text))
        if found and random.random() < 0.7:
            where = random.choice(found)
            new = any_number(random).encode()[: where.end() - where.start()]
            text[where.start() : where.end()] = new.ljust(where.end() - where.start())
        elif text:
            new = any_text(random).encode("utf-8", "surrogatepass")[: len(text)]
            at = random.randrange(len(text) - len(new) + 1)
            text[at : at + len(new)] = new
        data[entry.value_at : entry.value_at + len(text)] = text


def _block(data: bytearray, tiff: _Tiff, random: Random) -> None:
    """Damage some blocks, or claim that they are shorter or lie elsewhere."""
    pairs = list(_blocks(tiff))
    for _ in range(random.choice((1, 1, 3, 20))):
        if not pairs:
            return
        at, size = random.choice(pairs)
        if size < 4 or at + size > len(data):
            continue
        block = any_bytes(bytes(data[at : at + size]), random)[:size]
        filling = random.choice((b"\0", b"\xff")) * (size - len(block))
        data[at : at + size] = block + filling


def _tables(data: bytearray, tiff: _Tiff, random: Random) -> None:
    for entry in _chosen(tiff, (TABLES,), random):
        there = bytes(data[entry.value_at : entry.value_at + entry.count])
        if there:
            new = any_bytes(there, random)[: len(there)]
            data[entry.value_at : entry.value_at + len(new)] = new


def _cut_off(data: bytearray, tiff: _Tiff, random: Random) -> None:
    del data[max(16, int(len(data) * (1 - random.random() ** 2))) :]


def _chosen(tiff: _Tiff, tags: tuple[int, ...], random: Random) -> Iterator[_Entry]:
    found = [entry for entry in tiff.entries if entry.tag in tags]
    if found:
        yield random.choice(found)


def _blocks(tiff: _Tiff) -> Iterator[tuple[int, int]]:
    """Yield offset and size of the blocks of all pages."""
    offsets = [entry for entry in tiff.entries if entry.tag in TILES]
    counts = [entry for entry in tiff.entries if entry.tag in COUNTS]
    for one, other in zip(offsets, counts, strict=False):
        yield from zip(tiff.numbers(one), tiff.numbers(other), strict=False)


_CHANGES = (
    _value, _value, _near, _near, _kind, _tag, _count, _offset, _next, _entries, _description,
    _block, _block, _tables, _cut_off,
)  # fmt: skip
