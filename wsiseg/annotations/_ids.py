"""Ids that stay: a UUID made of the image's name, the class and the outline."""

import hashlib
import uuid
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wsiseg.annotations.base import Annotations, Frame
from wsiseg.annotations.frames import qupath_frame
from wsiseg.annotations.polygons import Polygons

__all__ = ["Namer", "chosen_ids"]

NAMESPACE = uuid.UUID("8f0c3a54-3f0b-5f5e-9d5c-6a1f2c7f4b10")
"""Never change it: the ids of all objects written so far depend on it."""

DASHES = (8, 12, 16, 20)
"""Hexadecimal digits of a UUID before each of its dashes."""


class Namer:
    """Gives each object an id that depends on the image, the class and the outline alone.

    Parameters
    ----------
    annotations, frame
        The objects, and the frame of the outlines that are named.
    seen
        Takes what was given; objects of several `Annotations` in one file share it.
    """

    def __init__(
        self, annotations: Annotations, frame: Frame, seen: set[int] | None = None
    ) -> None:
        self._class_index = annotations.class_index
        # Level-0 coordinates are hashed, so that both frames give the same ids.
        offset = qupath_frame(annotations.image).offset if frame == "qupath" else (0, 0)
        self._offset = np.array(offset, dtype=np.int64) * 100
        start = NAMESPACE.bytes + annotations.image.name.encode("utf-8", "replace")
        self._starts = [
            b"\0".join((start, item.name.encode("utf-8", "replace"), b""))
            for item in annotations.classes
        ]
        self._starts.append(b"\0".join((start, b"", b"")))  # UNCLASSIFIED, the last one
        self._seen: set[int] = set() if seen is None else seen

    def names(self, rows: NDArray[np.int64], outlines: Polygons) -> NDArray[np.bytes_]:
        """Return one UUID (version 5, RFC 9562) per object, all different within a file."""
        texts, spans = _hashed(outlines, self._offset)
        starts = [self._starts[index] for index in self._class_index[rows].tolist()]
        sha1 = hashlib.sha1
        uuids = _uuids(
            [
                sha1(start + texts[a:b]).digest()
                for start, (a, b) in zip(starts, pairwise(spans), strict=True)
            ]
        )
        tails = _tails(uuids)
        if len(set(tails)) < len(tails) or not self._seen.isdisjoint(tails):
            for i, (a, b) in enumerate(pairwise(spans)):
                text = starts[i] + texts[a:b]
                while tails[i] in self._seen:
                    text += b"again"  # an object drawn twice
                    uuids[i] = _uuids([sha1(text).digest()])[0]
                    (tails[i],) = _tails(uuids[i : i + 1])
                self._seen.add(tails[i])
        self._seen.update(tails)
        return _spelled(uuids)


def chosen_ids(
    annotations: Annotations, rows: NDArray[np.int64], outlines: Polygons, namer: Namer
) -> NDArray[np.bytes_]:
    """Return the ids (n,) that objects bring along; those of `namer` where they bring none."""
    if annotations.ids is None:
        return namer.names(rows, outlines)
    given = annotations.ids[rows]
    without = np.flatnonzero(given == b"")
    if not len(without):
        return given
    ids = given.astype("S36")
    ids[without] = namer.names(rows[without], outlines.take(without))
    return ids


def _hashed(outlines: Polygons, offset: NDArray[np.int64]) -> tuple[bytes, list[int]]:
    """Return what is hashed of all objects, and its offsets (n + 1,).

    It is, in little-endian int64, the vertices in hundredths, then the vertices of each ring, then
    the rings of each part.
    """
    points = np.rint(outlines.points * 100).astype("<i8") + offset
    columns = [
        (points.ravel(), 2 * outlines.spans),
        (np.diff(outlines.rings), outlines.parts[outlines.objects]),
        (np.diff(outlines.parts), outlines.objects),
    ]
    sizes = np.stack([np.diff(spans) for _, spans in columns], axis=1)
    places = np.concatenate([[0], np.cumsum(sizes)])
    hashed = np.empty(places[-1], "<i8")
    for k, (column, spans) in enumerate(columns):
        shift = np.repeat(places[k:-1:3] - spans[:-1], sizes[:, k])
        hashed[np.arange(len(column)) + shift] = column
    return hashed.tobytes(), (8 * places[::3]).tolist()


def _uuids(digests: list[bytes]) -> NDArray[np.uint8]:
    """Return the UUIDs (n, 16) of version 5 made of SHA-1 digests (RFC 9562, 5.5)."""
    uuids = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 20)[:, :16].copy()
    uuids[:, 6] = uuids[:, 6] & 0x0F | 0x50
    uuids[:, 8] = uuids[:, 8] & 0x3F | 0x80
    return uuids


def _tails(uuids: NDArray[np.uint8]) -> list[int]:
    """Return the last 60 bits of UUIDs, enough to tell them apart in half the memory."""
    tails: list[int] = (uuids[:, 8:].copy().view("<u8")[:, 0] >> np.uint64(4)).tolist()
    return tails


def _spelled(uuids: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """Return UUIDs (n,) as text."""
    digits = np.frombuffer(uuids.tobytes().hex().encode(), np.uint8).reshape(-1, 32)
    texts: NDArray[np.bytes_] = np.insert(digits, DASHES, ord("-"), axis=1).view("S36")[:, 0]
    return texts
