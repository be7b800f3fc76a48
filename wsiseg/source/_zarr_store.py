"""Zarr hierarchies that nobody vouches for: damaged, cut short, or made to do harm."""

import lzma
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from wsiseg.errors import SourceError
from wsiseg.source import remote

__all__ = ["CODECS", "ZARR_ERRORS", "CheckedStore", "codec_names", "is_blosc", "open_store"]

CODECS = frozenset({
    "adler32", "blosc", "bytes", "bz2", "crc32", "crc32c", "delta", "endian", "fletcher32", "gzip",
    "jenkins_lookup3", "lz4", "lzma", "sharding_indexed", "shuffle", "transpose", "zlib", "zstd",
})  # fmt: skip
"""Codecs that turn bytes into numbers and nothing else. numcodecs also knows `pickle`, which runs
code from the file, and plugins may add others."""

ZARR_ERRORS = (
    ValueError,
    TypeError,
    LookupError,
    RuntimeError,
    OSError,
    EOFError,
    AttributeError,
    zlib.error,
    lzma.LZMAError,
)
"""What zarr and its codecs raise on broken metadata and chunks."""


def open_store(path: str | Path, storage_options: Mapping[str, Any] | None) -> "CheckedStore":
    """Return the store of a local folder or a URL, read-only.

    Raises
    ------
    SourceError
        If there is no such folder, or the URL cannot be served.
    """
    if isinstance(path, str) and remote.is_url(path):
        from fsspec.implementations.asyn_wrapper import (  # type: ignore[import-untyped]
            AsyncFileSystemWrapper,
        )

        # A blocking file system closes its connections by itself when it is no longer used.
        filesystem, inside = remote.open_filesystem(path, storage_options)
        wrapped = AsyncFileSystemWrapper(filesystem, asynchronous=True)
        store = FsspecStore(wrapped, read_only=True, path=inside.rstrip("/"))
        return CheckedStore(store, url=path)
    if not Path(path).is_dir():
        raise SourceError(f"{path}: needed a folder of an OME-Zarr image, found none", path=path)
    return CheckedStore(LocalStore(path, read_only=True))


class CheckedStore(WrapperStore[Store]):
    """A store whose network errors are this project's, and whose Blosc chunks are whole.

    Blosc takes the compressed size from the chunk's header and would read behind the end of a
    chunk that was cut short, without an error.
    """

    def __init__(self, store: Store, url: str | None = None) -> None:
        super().__init__(store)
        self._url = url
        self.blosc_arrays: tuple[str, ...] = ()

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the bytes of a key, or `None` if there are none."""
        if self._url is None:
            value = await self._store.get(key, prototype, byte_range)
        else:
            with remote.remote_errors(self._url):
                value = await self._store.get(key, prototype, byte_range)
        if value is not None and byte_range is None and self._is_blosc_chunk(key):
            header = value.as_numpy_array()[12:16].tobytes()
            if int.from_bytes(header, "little") != len(value):
                raise ValueError(f"Blosc chunk of {len(value)} bytes, cut short or damaged")
        return value

    def _is_blosc_chunk(self, key: str) -> bool:
        is_metadata = key.rpartition("/")[2] in {"zarr.json", ".zarray", ".zattrs", ".zgroup"}
        return not is_metadata and any(key.startswith(f"{a}/") for a in self.blosc_arrays)


def codec_names(metadata: object) -> set[str]:
    """Return the names of all codecs in an array's metadata (Zarr v2 and v3), nested ones too."""
    if isinstance(metadata, list | tuple):
        return set().union(*map(codec_names, metadata))
    if not isinstance(metadata, dict):
        return set()
    names = {metadata[key] for key in ("id", "name") if isinstance(metadata.get(key), str)}
    parts = ("codecs", "index_codecs", "configuration", "compressor", "filters")
    nested = set().union(*(codec_names(metadata.get(part)) for part in parts))
    return {name.removeprefix("numcodecs.") for name in names} | nested


def is_blosc(metadata: Mapping[str, Any]) -> bool:
    """Return whether what an array stores (Zarr v2 or v3) was last packed by Blosc."""
    codecs = metadata.get("codecs") or [metadata.get("compressor")]
    return "blosc" in codec_names(codecs[-1])
