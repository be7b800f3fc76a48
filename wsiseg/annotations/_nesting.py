"""Objects within parents: QuPath's hierarchy as nested `childObjects`, in bounded memory."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.annotations._features import FeatureChunk

__all__ = ["Item", "nested"]


class Item(NamedTuple):
    """A Feature and the objects in it: one, or a parent with its children."""

    text: bytes
    objects: int = 1


def nested(
    parents: Iterable[FeatureChunk],
    chunks: Iterable[FeatureChunk],
    folder: Path,
    limits: tuple[int, int],
) -> Iterator[Item]:
    """Yield parents with their children, then what lies in no parent.

    Parameters
    ----------
    parents
        Areas that do not overlap.
    chunks
        Objects; each belongs to the parent that holds its `point_on_surface`.
    folder
        Where children wait, parent by parent, until all have come.
    limits
        (objects, bytes) of one file. Children that do not fit beside their parent follow it
        without parent; QuPath's `resolveHierarchy()` nests them.
    """
    texts: list[bytes] = []
    outlines: list[NDArray[np.object_]] = [np.empty(0, object)]
    for chunk in parents:
        texts += chunk.texts
        held = chunk.outlines
        outlines.append(held if isinstance(held, np.ndarray) else held.to_shapely())
    files = [folder / f".children-{i}" for i in range(len(texts))]
    orphans = folder / ".children-none"
    tree = shapely.STRtree(np.concatenate(outlines))
    for chunk in chunks:
        _put_aside(chunk.texts, _parent_of(tree, chunk), [*files, orphans])
    for text, file in zip(texts, files, strict=True):
        yield from _family(text, file, limits)
    yield from map(Item, _lines(orphans))


def _parent_of(tree: shapely.STRtree, chunk: FeatureChunk) -> NDArray[np.int64]:
    """Return the index (n,) of the parent of each object, -1 for none."""
    found = np.full(len(chunk.texts), -1, np.int64)
    row, parent = tree.query(chunk.anchors(), predicate="intersects")
    found[row[::-1]] = parent[::-1]  # the first, where two share a border
    return found


def _put_aside(texts: Iterable[bytes], parents: NDArray[np.int64], files: list[Path]) -> None:
    lines: dict[int, list[bytes]] = {}
    for text, parent in zip(texts, parents.tolist(), strict=True):
        lines.setdefault(parent, []).append(text + b"\n")
    for parent, own in lines.items():
        with files[parent].open("ab") as stream:
            stream.writelines(own)


def _lines(file: Path) -> Iterator[bytes]:
    if file.exists():
        with file.open("rb") as stream:
            for line in stream:
                yield line[:-1]


def _family(text: bytes, file: Path, limits: tuple[int, int]) -> Iterator[Item]:
    children = _lines(file)
    kept: list[bytes] = []
    size = len(text)
    left = None
    for child in children:
        size += len(child) + 2
        if len(kept) + 2 > limits[0] or size > limits[1]:
            left = child
            break
        kept.append(child)
    if kept:
        text = b'%b,"childObjects":[\n%b\n]}}' % (text[:-2], b",\n".join(kept))
    yield Item(text, 1 + len(kept))
    if left is not None:
        yield Item(left)
    yield from map(Item, children)
