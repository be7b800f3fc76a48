"""Vectors of tiles on disk: a Zarr group with one row per tile."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import HeatmapError, HeatmapExistsError, unwritable
from wsiseg.stitch.pyramid import partial_path
from wsiseg.stitch.slab import Slab

if TYPE_CHECKING:
    import zarr

__all__ = ["VectorStore", "VectorWriter"]

CHUNK_BYTES = 1 << 22
"""Of vectors: what is in memory at once when they are written or walked."""


class VectorStore:
    """Finished vectors, read-only.

    On disk: a Zarr v3 group of three arrays with a row per tile, and `attributes`.

    Attributes
    ----------
    vectors
        float32 (n, length).
    coordinates
        int64 (n, 4): y0, x0, y1, x1 in level-0 pixels; may overhang the slide.
    tissue
        float32 (n,): share of the tile that is tissue.
    attributes
        What was given to the writer.

    Raises
    ------
    HeatmapError
        If there are no finished vectors at `path`.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            import zarr

            group = zarr.open_group(self.path, mode="r", zarr_format=3)
            names = ("vectors", "coordinates", "tissue")
            self.vectors, self.coordinates, self.tissue = (_array(group, name) for name in names)
        except (FileNotFoundError, KeyError) as error:
            raise HeatmapError(
                f"{self.path}: no vectors here: needed a Zarr group written by `wsiseg embed`"
            ) from error
        self.attributes: Mapping[str, Any] = group.attrs.asdict()

    def __len__(self) -> int:
        return int(self.vectors.shape[0])

    @property
    def length(self) -> int:
        """Values per vector."""
        return int(self.vectors.shape[1])

    def chunks(self) -> Iterator[slice]:
        """Yield ranges of rows, each a chunk on disk."""
        return _row_chunks(len(self), int(self.vectors.chunks[0]))


class VectorWriter:
    """Keeps the vector of each covered cell, as a row of a `VectorStore`.

    A `Reducer` of the slabs of a `CellStitcher`, used as a context manager. Rows are in row-major
    order of the grid, also where the slide is walked in columns: until the end vectors wait at
    their place in a file without a name, so that memory does not grow with their number.

    Parameters
    ----------
    path
        Folder to make; it appears there when everything is in it.
    selected
        bool, shape of the grid: the cells that will be covered.
    length
        Values per vector.
    coordinates, tissue
        Rows of these arrays of the store.
    attributes
        Anything JSON can hold.

    Raises
    ------
    HeatmapExistsError
        If there is something at `path`.
    DiskFullError
        Here or in any other method, if there is no room left.
    """

    def __init__(
        self,
        path: Path,
        selected: NDArray[np.bool_],
        length: int,
        *,
        coordinates: NDArray[np.int64],
        tissue: NDArray[np.float32],
        attributes: Mapping[str, Any],
    ) -> None:
        if path.exists():
            raise HeatmapExistsError(f"{path}: is there already; choose an empty folder")
        self._path, self._partial = path, partial_path(path)
        self._row = np.cumsum(selected).reshape(selected.shape) - 1  # of each selected cell
        self._shape = (int(selected.sum()), length)
        self._columns: dict[str, NDArray[Any]] = {"coordinates": coordinates, "tissue": tissue}
        self._attributes = dict(attributes)
        with self._disk():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._waiting = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - `__exit__`

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._waiting.close()
        shutil.rmtree(self._partial, ignore_errors=True)  # nothing where it was finished

    def push(self, slab: Slab) -> None:
        """Put the covered cells of some rows of the grid to their places."""
        top, left = slab.box.start
        for y, covered in enumerate(slab.covered):
            (cells,) = np.nonzero(covered)
            if len(cells):  # neighbours among the selected: their rows follow each other
                with self._disk():
                    self._waiting.seek(int(self._row[top + y, left + cells[0]]) * self._row_bytes)
                    self._waiting.write(slab.values[y, cells].tobytes())

    def finish(self) -> None:
        """Write the store, chunk by chunk, and give it its name."""
        with self._disk():
            self._write()
            self._partial.rename(self._path)

    def _write(self) -> None:
        shutil.rmtree(self._partial, ignore_errors=True)
        import zarr

        group = zarr.create_group(self._partial, zarr_format=3, attributes=self._attributes)
        rows = max(1, CHUNK_BYTES // self._row_bytes)
        vectors = group.create_array(
            "vectors", shape=self._shape, chunks=(rows, self._shape[1]), dtype=np.float32
        )
        self._waiting.seek(0)
        for part in _row_chunks(self._shape[0], rows):
            data = self._waiting.read((part.stop - part.start) * self._row_bytes)
            vectors[part] = np.frombuffer(data, np.float32).reshape(-1, self._shape[1])
        for name, column in self._columns.items():
            chunks = (CHUNK_BYTES // column.itemsize // 4, *column.shape[1:])
            array = group.create_array(name, shape=column.shape, chunks=chunks, dtype=column.dtype)
            array[:] = column

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """Say what it means where the system refuses to write."""
        try:
            yield
        except OSError as error:
            raise unwritable(error, self._path, HeatmapError) from error

    @property
    def _row_bytes(self) -> int:
        return self._shape[1] * np.dtype(np.float32).itemsize


def _row_chunks(count: int, rows: int) -> Iterator[slice]:
    for start in range(0, count, rows):
        yield slice(start, min(start + rows, count))


def _array(group: "zarr.Group", name: str) -> Any:  # noqa: ANN401 - Zarr's types depend on the version
    return group[name]
