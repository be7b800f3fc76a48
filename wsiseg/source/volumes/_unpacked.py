"""Packed voxels, unpacked once: small ones into memory, large ones into a temporary file.

gzip and zlib can only be read from the beginning. So the whole is unpacked at the first read, a
piece at a time, and read by position from then on; memory does not grow with the volume.
"""

import shutil
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal

from wsiseg.errors import DamagedFileError, DiskFullError, SourceError, unwritable

__all__ = ["DEFLATE_RATIO", "Packing", "UnpackedBytes", "check_ratio", "gzip_head"]

Packing = Literal["gzip", "zlib"]

IN_MEMORY_BYTES = 64 << 20
"""Up to here no temporary file is made."""

PIECE_BYTES = 1 << 20
"""Unpacked at once."""

DEFLATE_RATIO = 1032
"""The most that deflate can shrink anything."""

HEAD_BYTES = 64 << 10
"""Of a gzip file, enough to unpack a header that follows a long file name."""

GZIP_WINDOW = 31
"""Tells zlib to expect gzip."""

TRAILING_BYTES = 1 << 20
"""Read beyond the voxels, to reach the checksum at the end of the stream."""


class UnpackedBytes:
    """The unpacked content of a packed file, as a `ByteReader`; unpacked at the first read.

    Parameters
    ----------
    path
        The packed file.
    packing
        `gzip` (a whole file), or `zlib` from an offset on.
    skip
        Unpacked bytes before the first that is wanted.
    nbytes
        Unpacked bytes that are wanted.
    start
        Where the packed stream begins in the file.
    """

    def __init__(
        self, path: Path, packing: Packing, skip: int, nbytes: int, *, start: int = 0
    ) -> None:
        check_ratio(path, path.stat().st_size - start, skip + nbytes)
        self._path = path
        self._packing: Packing = packing
        self._skip, self._nbytes, self._start = skip, nbytes, start
        self._lock = threading.Lock()
        self._file: BinaryIO | bytearray | None = None
        self._closed = False

    def read(self, offset: int, nbytes: int) -> bytes:
        """Return up to `nbytes` bytes from `offset`.

        Raises
        ------
        DamagedFileError
            If the stream is damaged or ends early.
        DiskFullError
            If there is no room for the unpacked voxels.
        """
        with self._lock:
            if self._closed:
                raise SourceError(f"{self._path.name}: the volume is closed; open it again")
            if self._file is None:
                self._file = self._unpack()
            if isinstance(self._file, bytearray):
                return bytes(memoryview(self._file)[offset : offset + nbytes])
            self._file.seek(offset)
            return self._file.read(nbytes)

    def close(self) -> None:
        """Forget the content; a temporary file is removed."""
        with self._lock:
            self._closed = True
            if self._file is not None and not isinstance(self._file, bytearray):
                self._file.close()
            self._file = None

    def _unpack(self) -> BinaryIO | bytearray:
        """Return the unpacked content, in memory or in a file that has no name."""
        if self._nbytes <= IN_MEMORY_BYTES:
            content = bytearray()
            self._fill(content.extend)
            return content
        folder = Path(tempfile.gettempdir())
        free = shutil.disk_usage(folder).free
        if free < self._nbytes:
            raise DiskFullError(
                f"{self._path.name}: unpacking needs {self._nbytes >> 20} MiB in {folder}, found "
                f"{free >> 20} MiB free; free some, or set TMPDIR to another folder"
            )
        file: IO[bytes] = tempfile.TemporaryFile(prefix="wsiseg-")  # noqa: SIM115 - kept open
        try:
            self._fill(file.write)
            file.flush()
        except BaseException as error:
            with suppress(OSError):
                file.close()
            if isinstance(error, OSError) and not isinstance(error, SourceError):
                raise unwritable(error, folder) from error
            raise
        return file  # type: ignore[return-value]

    def _fill(self, write: Callable[[bytes], object]) -> None:
        """Unpack everything into `write`, checking that it is whole."""
        skip, missing = self._skip, self._nbytes
        for piece in self._pieces():
            kept = piece[skip : skip + missing]
            skip -= min(skip, len(piece))
            missing -= len(kept)
            write(kept)
        if missing:
            raise DamagedFileError(
                f"{self._path.name}: the packed voxels end early: needed {self._nbytes} bytes, "
                f"found {self._nbytes - missing}; copy the file anew",
                path=self._path,
            )

    def _pieces(self) -> Iterator[bytes]:
        """Yield what is unpacked, until the end or a little beyond what is needed."""
        wanted = self._skip + self._nbytes + TRAILING_BYTES
        try:
            with self._path.open("rb") as file:
                file.seek(self._start)
                stream = _gunzip(file) if self._packing == "gzip" else _inflate(file)
                for piece in stream:
                    yield piece
                    wanted -= len(piece)
                    if wanted <= 0:
                        return
        except _UNPACK_ERRORS as error:
            if isinstance(error, SourceError | DiskFullError):
                raise
            raise DamagedFileError(
                f"{self._path.name}: the packed voxels are damaged ({error}); copy the file anew",
                path=self._path,
            ) from error


_UNPACK_ERRORS = (OSError, EOFError, zlib.error)


def check_ratio(path: Path, packed: int, unpacked: int) -> None:
    """Refuse a header that promises more than its packed voxels can hold.

    Raises
    ------
    DamagedFileError
        If it does; before anything is unpacked.
    """
    if unpacked > packed * DEFLATE_RATIO:
        raise DamagedFileError(
            f"{path.name}: the header promises {unpacked} bytes, more than {packed} packed ones "
            "can hold; copy the file anew",
            path=path,
        )


def gzip_head(path: Path, nbytes: int) -> bytes:
    """Return up to `nbytes` bytes from the beginning of a gzip file; fewer where it is damaged."""
    with path.open("rb") as file:
        packed = file.read(nbytes + HEAD_BYTES)
    try:
        return zlib.decompressobj(GZIP_WINDOW).decompress(packed, nbytes)
    except zlib.error:
        return b""


def _gunzip(file: BinaryIO) -> Iterator[bytes]:
    from isal import igzip, igzip_lib

    damaged: Any = igzip_lib.IsalError
    try:
        with igzip.IGzipFile(fileobj=file) as stream:
            while piece := stream.read(PIECE_BYTES):
                yield piece
    except damaged as error:
        raise OSError(str(error)) from error


def _inflate(file: BinaryIO) -> Iterator[bytes]:
    unpacker = zlib.decompressobj()
    while not unpacker.eof:
        packed = unpacker.unconsumed_tail or file.read(PIECE_BYTES)
        if not packed:
            raise EOFError("it ends early")
        yield unpacker.decompress(packed, PIECE_BYTES)
