"""Which change suits which file: by its name, and by its first bytes."""

import gzip
import hashlib
import io
import json
import re
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from wsiseg.testing.fuzz.tiff import change_tiff
from wsiseg.testing.fuzz.values import any_bytes, any_number, any_text, any_value, odd_integer

__all__ = ["change_file", "mutate"]

BYTEWISE = 0.15
"""Share of the changes that know nothing of the format."""

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
LENGTHS = (b"OB", b"OW", b"OF", b"SQ", b"UT", b"UN", b"UC", b"UR")
"""VRs whose length has four bytes."""

DIMENSIONS = (40, 42, 44, 46, 48, 56, 70, 72, 76, 80, 84, 88, 108, 112, 252, 254, 280, 344)
"""Where numbers lie in the header of NIfTI-1."""


def mutate(original: Path, target: Path, random: Random) -> Path:
    """Copy a file or folder to `target`, with one of its files changed.

    Parameters
    ----------
    original
        A valid file, or a folder of files that belong together.
    target
        Made anew.
    random
        Decides everything: the same state, the same bytes.
    """
    if original.is_file():
        target.write_bytes(change_file(original.name, original.read_bytes(), random))
        return target
    shutil.copytree(original, target)
    files = sorted(path for path in target.rglob("*") if path.is_file())
    described = [path for path in files if path.name.endswith((".json", ".zattrs", ".zarray"))]
    changed = random.choice(described if described and random.random() < 0.6 else files)
    if random.random() < 0.05:
        changed.unlink()
    else:
        changed.write_bytes(change_file(changed.name, changed.read_bytes(), random))
    if random.random() < 0.7:
        _restate_hashes(target, changed)
    return target


def change_file(name: str, content: bytes, random: Random) -> bytes:
    """Return the changed content of a file."""
    if random.random() < BYTEWISE:
        return any_bytes(content, random)
    return _change_for(name.lower(), content)(content, random)


def _change_for(name: str, content: bytes) -> Callable[[bytes, Random], bytes]:
    if content[:4] in TIFF:
        return change_tiff
    if content[128:132] == b"DICM":
        return _dicom
    if name.endswith(".gz"):
        return _gzip
    if name.endswith((".npz", ".zip")):
        return _zip
    if name.endswith((".json", ".geojson", ".zattrs", ".zarray", ".zgroup", ".zmetadata")):
        return _json
    if name.endswith(".safetensors"):
        return _safetensors
    if name.endswith(".nii"):
        return _nifti
    if name.endswith((".xml", ".csv")):
        return _text
    if content.startswith((b"NRRD", b"ObjectType")):
        return _lines
    return any_bytes


def _lines(content: bytes, random: Random) -> bytes:
    """Change a text header, whose last line lies before the voxels; they mostly stay."""
    lines = content.split(b"\n")
    last = next((n for n, line in enumerate(lines) if not line or b"ElementDataFile" in line), 1)
    at = random.randrange(max(1, last))
    kind = random.random()
    if kind < 0.2:
        lines[at] = any_bytes(lines[at] or b" ", random)
    elif kind < 0.3:
        del lines[at]
    else:
        numbers = re.sub(rb"[0-9.]+", lambda _: str(any_number(random)).encode(), lines[at])
        lines[at] = numbers if numbers != lines[at] else lines[at] + b" 4"
    return b"\n".join(lines)


def _restate_hashes(folder: Path, changed: Path) -> None:
    """Let a model's card state the hash of changed weights, so that they are looked at."""
    card = folder / "model.json"
    if not card.is_file() or not changed.is_file() or changed == card:
        return
    stated = json.loads(card.read_bytes())
    for stage in stated["stages"]:
        if stage["weights"]["file"] == changed.name:
            stage["weights"]["sha256"] = hashlib.sha256(changed.read_bytes()).hexdigest()
    card.write_text(json.dumps(stated))


def _json(content: bytes, random: Random) -> bytes:
    """Change values, keys and structure; the rest stays valid."""
    try:
        document: Any = json.loads(content)
    except ValueError:
        return any_bytes(content, random)
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        document = _change_value(document, random)
    text = json.dumps(document, ensure_ascii=random.random() < 0.5)
    if random.random() < 0.2:
        text = _doubled_key(text, random)
    return text.encode("utf-8", "surrogatepass")


def _change_value(document: Any, random: Random) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Return a document with one value replaced, removed, added or moved, at any depth."""
    inner = isinstance(document, dict | list) and len(document) > 0
    if not inner or random.random() < 0.12:
        return _other_value(document, random)
    keys = list(document) if isinstance(document, dict) else range(len(document))
    key = random.choice(keys)
    choice = random.random()
    if choice < 0.08:
        del document[key]
    elif choice < 0.12 and isinstance(document, dict):
        document[any_text(random)] = any_value(random)
    elif choice < 0.16:
        document[key] = document[random.choice(keys)]
    elif choice < 0.20 and isinstance(document, list):
        document *= random.choice((2, 50))
    else:
        document[key] = _change_value(document[key], random)
    return document


def _other_value(value: Any, random: Random) -> Any:  # noqa: ANN401
    if isinstance(value, int | float) and random.random() < 0.6:
        return random.choice((odd_integer(random), -value, value + 1, value * 1e9, value / 3))
    if isinstance(value, str) and random.random() < 0.5:
        return random.choice((value * 2, value[:-1], value.upper(), any_text(random)))
    return any_value(random)


def _doubled_key(text: str, random: Random) -> str:
    found = list(re.finditer(r'"(\w+)": ', text))
    if not found:
        return text
    where = random.choice(found)
    return (
        f"{text[: where.start()]}{where[0]}{any_number(random) or 'null'}, {text[where.start() :]}"
    )


def _text(content: bytes, random: Random) -> bytes:
    """Change words and numbers of XML or a table."""
    text = content.decode("utf-8", "replace")
    for _ in range(random.choice((1, 1, 2, 5))):
        found = list(re.finditer(r"[^\s<>=,\"/]+", text))
        if not found:
            break
        where = random.choice(found)
        new = random.choice(
            (any_number(random), any_text(random), "", where[0] * 2, where[0][:-1], ",", '"', "<")
        )
        text = text[: where.start()] + new + text[where.end() :]
    return text.encode("utf-8", "surrogatepass")


def _gzip(content: bytes, random: Random) -> bytes:
    inner = gzip.decompress(content)
    name = ".nii" if inner[344:347] in (b"n+1", b"ni1") else ".json"
    return gzip.compress(change_file(name, inner, random), mtime=0)


def _zip(content: bytes, random: Random) -> bytes:
    """Change one member; the archive itself stays whole."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    changed = random.choice(list(members))
    inner = members[changed]
    head = inner[: 10 + int.from_bytes(inner[8:10], "little")]
    if inner[:6] == b"\x93NUMPY" and random.random() < 0.7:
        members[changed] = _text(head, random)[: len(head)].ljust(len(head)) + inner[len(head) :]
    else:
        members[changed] = change_file(changed, inner, random)
    if random.random() < 0.15:
        members[any_text(random)[:200].replace("\ud800", "")] = members.pop(changed)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, member in members.items():
            archive.writestr(zipfile.ZipInfo(name or "a", (1980, 1, 1, 0, 0, 0)), member)
    return made.getvalue()


def _safetensors(content: bytes, random: Random) -> bytes:
    size = int.from_bytes(content[:8], "little")
    head = _json(content[8 : 8 + size], random)
    stated = len(head) if random.random() < 0.8 else odd_integer(random) % 2**64
    return stated.to_bytes(8, "little") + head + content[8 + size :]


def _nifti(content: bytes, random: Random) -> bytes:
    data = bytearray(content)
    for _ in range(random.choice((1, 2, 4))):
        at, size = random.choice(DIMENSIONS), random.choice((2, 4))
        value = odd_integer(random) % (1 << 8 * size)
        data[at : at + size] = value.to_bytes(size, "little")
    return bytes(data)


def _dicom(content: bytes, random: Random) -> bytes:
    """Change tags, VRs, lengths and values of elements, at any depth of sequences."""
    places = _elements(content)
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4))):
        at, vr, size_at, value_at, size = random.choice(places)
        choice = random.randrange(5)
        if choice == 0 and vr:
            data[at + 4 : at + 6] = random.choice(
                (b"UL", b"US", b"SQ", b"OB", b"DS", b"IS", b"FD", b"UN", b"UI", b"??", b"\0\0")
            )
        elif choice == 1:
            width = value_at - size_at
            odd = random.choice((odd_integer(random), size + 2, size - 2, size + 1, 2**32 - 1))
            data[size_at:value_at] = (odd % (1 << 8 * width)).to_bytes(width, "little")
        elif choice == 2:
            struct.pack_into("<HH", data, at, *random.choice(
                ((0x0028, 0x0010), (0x7FE0, 0x0010), (0xFFFE, 0xE0DD), (0xFFFE, 0xE000), (0, 0),
                 (0x0048, 0x0006), (0x5200, 0x9230), (0x0002, 0x0010))
            ))  # fmt: skip
        elif size and value_at + size <= len(data):
            there = bytes(data[value_at : value_at + size])
            new = _other_element(vr, there, random)[:size]
            data[value_at : value_at + len(new)] = new
    return bytes(data)


def _other_element(vr: bytes, value: bytes, random: Random) -> bytes:
    if vr in (b"US", b"UL", b"SS", b"SL", b"FL", b"FD"):
        return (odd_integer(random) % (1 << 8 * len(value))).to_bytes(len(value), "little")
    if vr in (b"DS", b"IS"):
        return any_number(random).encode("utf-8", "replace").ljust(len(value))
    if vr in (b"OB", b"OW", b""):
        return any_bytes(value, random)
    return random.choice((any_text(random).encode("utf-8", "replace"), any_bytes(value, random)))


def _elements(content: bytes) -> list[tuple[int, bytes, int, int, int]]:
    """Return (place, VR, place of the length, place of the value, length) of all elements.

    Sequences and items are walked into, since what follows their head are elements again.
    """
    places: list[tuple[int, bytes, int, int, int]] = []
    at = 132
    while at + 8 <= len(content):
        group = int.from_bytes(content[at : at + 2], "little")
        vr = b"" if group == 0xFFFE else content[at + 4 : at + 6]
        if vr in LENGTHS:
            size_at, value_at = at + 8, at + 12
        else:
            size_at, value_at = at + (6 if vr else 4), at + 8
        size = int.from_bytes(content[size_at:value_at], "little")
        pixels = content[at : at + 4] == b"\xe0\x7f\x10\x00"
        inside = vr in (b"SQ", b"") or size == 2**32 - 1
        is_frame = (
            not vr and places and size > 64 and content[value_at : value_at + 2] == b"\xff\xd8"
        )
        known = 0 if size == 2**32 - 1 else min(size, len(content) - value_at)
        places.append((at, vr, size_at, value_at, known))
        at = value_at + (0 if (inside and not is_frame) or (pixels and not known) else known)
    return places
