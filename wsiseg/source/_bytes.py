"""Bytes at an offset, from many threads at once."""

import os
import threading
from pathlib import Path
from typing import Protocol

__all__ = ["ByteReader", "FileLike", "LocalBytes", "OffsetBytes", "SharedBytes", "open_bytes"]


class ByteReader(Protocol):
    """Random access to the bytes of a file; shorter than asked for only at its end."""

    def read(self, offset: int, nbytes: int) -> bytes:
        """Return up to `nbytes` bytes from `offset`."""
        ...


class FileLike(Protocol):
    """An open, seekable binary file. Where it has `pread`, threads need not wait for each other."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move the position."""
        ...

    def read(self, size: int = -1, /) -> bytes | None:
        """Return up to `size` bytes from the position, and move it."""
        ...


class LocalBytes:
    """A local file through positional reads, which need no lock and share no file position.

    The descriptor is closed with the last reference, so a read in flight never meets a descriptor
    that was closed, or worse, given to another file.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        self._size = os.fstat(self._descriptor).st_size

    def read(self, offset: int, nbytes: int) -> bytes:
        """Return up to `nbytes` bytes from `offset`."""
        # `pread` sets aside what is asked for, however little is there.
        return os.pread(self._descriptor, max(0, min(nbytes, self._size - offset)), offset)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


class SharedBytes:
    """A file-like object (remote file, memory), behind a lock unless it has `pread`; not closed."""

    def __init__(self, file: FileLike) -> None:
        self._file = file
        self._pread = getattr(file, "pread", None)
        self._lock = threading.Lock()

    def read(self, offset: int, nbytes: int) -> bytes:
        """Return up to `nbytes` bytes from `offset`."""
        if self._pread is not None:
            return bytes(self._pread(offset, nbytes))
        with self._lock:
            self._file.seek(offset)
            return self._file.read(nbytes) or b""


class OffsetBytes:
    """The bytes of a file from an offset on."""

    def __init__(self, content: ByteReader, offset: int) -> None:
        self._content, self._offset = content, offset

    def read(self, offset: int, nbytes: int) -> bytes:
        """Return up to `nbytes` bytes from `offset`."""
        return self._content.read(self._offset + offset, nbytes)


def open_bytes(file: Path | FileLike) -> ByteReader:
    """Return the fastest safe reader of `file`."""
    if not isinstance(file, Path):
        return SharedBytes(file)
    if hasattr(os, "pread"):
        return LocalBytes(file)
    return SharedBytes(file.open("rb"))  # Windows
