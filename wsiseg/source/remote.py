"""Slides behind a URL: `http(s)://` and `s3://`, read in blocks, from many threads at once.

fsspec's own buffered files keep one position and one cache without a lock; here only its range
request is used, under a cache that threads may share.
"""

import io
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import SourceError
from wsiseg.source._cache import BlockCache

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["RemoteFile", "is_url", "open_filesystem", "open_remote", "redacted", "remote_errors"]

SCHEMES = ("http", "https", "s3")

BLOCK_BYTES = 1 << 20
"""One request: some 20 neighbouring tiles of 50 kB, the time of one round trip at 100 Mbit/s."""

CACHE_BYTES = 64 << 20

ATTEMPTS = 3
"""A request that fails for a passing reason is made this often, after 0.2 and 0.8 seconds."""


def is_url(path: object) -> bool:
    """Return whether `path` is text that starts with `scheme://` (a drive letter is no scheme)."""
    return isinstance(path, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path) is not None


def redacted(text: str) -> str:
    """Return `text` without the user names, passwords and signed queries of the URLs in it."""
    text = re.sub(r"://[^\s/?'\"]*@", "://", text)
    return re.sub(r"(://[^\s?'\"]*)\?[^\s'\"]*", r"\1", text)


def open_remote(url: str, storage_options: Mapping[str, Any] | None = None) -> "RemoteFile":
    """Open a file behind a URL for reading at any position.

    Parameters
    ----------
    url
        `http://`, `https://` or `s3://`.
    storage_options
        Passed to fsspec, such as `{"anon": True}` for a public bucket.

    Raises
    ------
    SourceError
        If the scheme is not supported, a package is missing, the file is not there or not
        allowed, or the server cannot send parts of it.
    """
    filesystem, path = open_filesystem(url, storage_options)
    with remote_errors(url):
        # The block size only says "seekable"; with `none` fsspec caches nothing.
        file = filesystem.open(path, "rb", block_size=BLOCK_BYTES, cache_type="none")
        parts = _sends_parts(file)
    if not parts:
        raise SourceError(
            f"{redacted(url)}: needed a server that sends parts of a file (HTTP range requests), "
            "found one that sends it whole only; download the slide and open it from disk",
            path=redacted(url),
        )
    return RemoteFile(url, file)


def open_filesystem(url: str, storage_options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """Return the fsspec file system of a URL and the path in it."""
    scheme = url.partition("://")[0].lower()
    if scheme not in SCHEMES:
        raise SourceError(
            f"{redacted(url)}: needed a URL of http, https or s3, found {scheme}://; "
            "download the slide and open it from disk",
            path=redacted(url),
        )
    with remote_errors(url):
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]

        filesystem, path = url_to_fs(url, **dict(storage_options or {}))
    return filesystem, path


class _RangeFile(Protocol):
    """The part of fsspec's `AbstractBufferedFile` used here; its range request is stateless."""

    size: int | None

    def _fetch_range(self, start: int, end: int) -> bytes: ...

    def close(self) -> None: ...


class RemoteFile(io.RawIOBase):
    """A read-only file behind a URL, in blocks of 1 MiB of which 64 MiB are kept.

    `pread` may be called from any number of threads; `read` and `seek` share one position, as
    in any file.

    Parameters
    ----------
    url
        For messages.
    file
        An open fsspec file with a known `size`.
    """

    def __init__(self, url: str, file: _RangeFile) -> None:
        super().__init__()
        self.url = redacted(url)
        self.name = Path(self.url).name
        self.size = file.size or 0
        self._file = file
        self._position = 0
        self._blocks = BlockCache(CACHE_BYTES)

    def pread(self, offset: int, nbytes: int) -> bytes:
        """Return up to `nbytes` bytes from `offset`; fewer only at the end of the file.

        Raises
        ------
        SourceError
            If the file is closed or the server does not deliver.
        """
        if self.closed:
            raise SourceError(f"{self.url}: the file is closed; open it again", path=self.url)
        start, stop = max(offset, 0), min(offset + nbytes, self.size)
        parts = []
        while start < stop:
            index, skip = divmod(start, BLOCK_BYTES)
            block = self._blocks.get(index, partial(self._fetch, index * BLOCK_BYTES))
            parts.append(block[skip : skip + stop - start].tobytes())
            start += len(parts[-1])
        return b"".join(parts)

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill `buffer` from the position and move it; return the number of bytes."""
        view = memoryview(buffer).cast("B")
        data = self.pread(self._position, len(view))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position; return the new one."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readable(self) -> bool:
        """Return `True`."""
        return True

    def seekable(self) -> bool:
        """Return `True`."""
        return True

    def close(self) -> None:
        """Free the cache; reading afterwards raises `SourceError`."""
        if not self.closed:
            self._blocks.clear()
            self._file.close()
        super().close()

    def _fetch(self, start: int) -> NDArray[np.uint8]:
        stop = min(start + BLOCK_BYTES, self.size)
        with remote_errors(self.url):
            data = _request(self._file, start, stop)
        if len(data) != stop - start:
            raise SourceError(
                f"{self.url}: needed bytes {start} to {stop}, received {len(data)} bytes; "
                "the file changed or the connection broke; open it again",
                path=self.url,
            )
        return np.frombuffer(data, np.uint8)


@contextmanager
def remote_errors(url: str) -> Iterator[None]:
    """Turn what fsspec and the libraries under it raise into a `SourceError` with a remedy."""
    shown = redacted(url)
    try:
        yield
    except ImportError as error:
        message = f"needs a package that is missing ({error}); pip install 'wsiseg[remote]'"
        raise SourceError(f"{shown}: {message}", path=shown) from error
    except _network_errors() as error:
        # Over HTTP, fsspec says "not found" for anything that went wrong; what did is the cause.
        is_http = type(error.__cause__).__module__.startswith("aiohttp")
        cause = error.__cause__ if is_http and error.__cause__ else error
        reason = redacted(str(cause)) or type(cause).__name__
        advice = _diagnosis(cause, is_s3=shown.lower().startswith("s3:")).format(reason)
        raise SourceError(f"{shown}: {advice}", path=shown) from error


def _diagnosis(error: BaseException, *, is_s3: bool) -> str:
    """Return what went wrong and what to do about it."""
    status = getattr(error, "status", None)
    denied = isinstance(error, PermissionError) or status in {401, 403}
    if denied or "credential" in str(error).lower():
        if not is_s3:
            return "access denied ({}); pass storage_options with credentials, or download it"
        return (
            "access denied ({}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or for a public "
            "bucket FSSPEC_S3_ANON=true, in the environment (in Python also: storage_options with "
            "credentials, or {{'anon': True}})"
        )
    if isinstance(error, FileNotFoundError) or status in {404, 410}:
        return "not found ({}); check the address"
    return "cannot be read over the network ({}); try again, or download the slide"


def _request(file: "_RangeFile", start: int, stop: int) -> bytes:
    """Return a range of bytes; a request that fails for a passing reason is made again."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return file._fetch_range(start, stop)
        except (FileNotFoundError, PermissionError, ValueError):
            raise
        except _network_errors():
            time.sleep(0.2 * 4**attempt)
    return file._fetch_range(start, stop)


def _sends_parts(file: "_RangeFile") -> bool:
    """Return whether the last byte can be had without the bytes before it."""
    if not file.size:
        return False
    try:
        return len(_request(file, file.size - 1, file.size)) == 1
    except ValueError:  # fsspec received the whole file
        return False


def _network_errors() -> tuple[type[Exception], ...]:
    """Return what a request may raise; the libraries' own errors only exist once imported."""
    own = (("aiohttp", "ClientError"), ("botocore.exceptions", "BotoCoreError"))
    loaded = [getattr(sys.modules[module], name) for module, name in own if module in sys.modules]
    return (OSError, ValueError, *loaded)
