"""Zarr hierarchies that nobody vouches for: damaged, cut short, or made to do harm."""

import bz2
import lzma
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import zarr
from zarr.abc.store import ByteRequest, RangeByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from wsiseg.errors import SourceError, UnsupportedFormatError
from wsiseg.source import remote

__all__ = [
    "CODECS",
    "ZARR_ERRORS",
    "CheckedStore",
    "ChunkLimit",
    "check_array",
    "codec_names",
    "open_store",
]

MAX_BLOCK_BYTES = 512 << 20
"""Metadata may ask for any chunk size; a larger one would be a mistake or an attack."""

MAX_SHARD_CHUNKS = 1 << 22
"""The index of a shard has 16 bytes for each of its chunks, and is read whole."""

HEADER = 1 << 12
"""Bytes of a chunk that codecs may add, and of which the first tell its size."""

SLACK = 0.05
"""What packing may add to bytes that cannot be packed, relatively."""

UNPACKERS: Mapping[str, Callable[[], Any]] = {
    "gzip": partial(zlib.decompressobj, 32 + zlib.MAX_WBITS),
    "zlib": partial(zlib.decompressobj, 32 + zlib.MAX_WBITS),
    "bz2": bz2.BZ2Decompressor,
    "lzma": lzma.LZMADecompressor,
}
"""Codecs whose chunks do not begin with the size they unpack to."""

MOST_PACKED = {"gzip": 1032, "zlib": 1032, "bz2": 1_500_000, "lzma": 10_000}
"""Bytes that one packed byte stands for at the most: a property of deflate; of the others not less
than what zeros give."""

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
    ArithmeticError,
    RuntimeError,
    SystemError,
    MemoryError,
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
    """A store whose network errors are this project's, and whose chunks are what they claim.

    Blosc takes the compressed size from the chunk's header and would read behind the end of a
    chunk that was cut short, without an error. And codecs set aside what a chunk says it unpacks
    to, however little the array's metadata leaves room for.

    Attributes
    ----------
    chunk_limits
        By path of an array: how its chunks are packed.
    """

    def __init__(self, store: Store, url: str | None = None) -> None:
        super().__init__(store)
        self._url = url
        self.chunk_limits: Mapping[str, ChunkLimit] = {}

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the bytes of a key, or `None` if there are none."""
        if self._url is None:
            value = await self._store.get(key, prototype, byte_range)
        else:
            with remote.remote_errors(self._url):
                value = await self._store.get(key, prototype, byte_range)
        if value is not None:
            limit = self._limit(key)
            if limit is not None and limit.is_of(byte_range):
                limit.check(value.as_numpy_array().data)
        return value

    def _limit(self, key: str) -> "ChunkLimit | None":
        if key.rpartition("/")[2] in {"zarr.json", ".zarray", ".zattrs", ".zgroup"}:
            return None
        limits = self.chunk_limits.items()
        return next((limit for path, limit in limits if key.startswith(f"{path}/")), None)


@dataclass(frozen=True, slots=True)
class ChunkLimit:
    """What a chunk of an array may be, told from its length and first bytes."""

    nbytes: int
    """Bytes of an unpacked chunk."""

    codec: str | None
    """What it was last packed by; `None` where that is none of those known."""

    in_shards: bool = False
    index_first: bool = False
    """Whether shards begin with their index."""

    @classmethod
    def of(cls, metadata: Mapping[str, Any], nbytes: int) -> "ChunkLimit":
        """Return the limit of an array, Zarr v2 or v3."""
        codecs = metadata.get("codecs") or [metadata.get("compressor")]
        shard: Mapping[str, Any] = {}
        if codec_names(codecs[0]) >= {"sharding_indexed"}:
            shard = codecs[0]["configuration"]
            codecs = shard["codecs"]
        last = codec_names(codecs[-1]) & {"blosc", "zstd", *UNPACKERS}
        codec = next(iter(last), None)
        return cls(nbytes, codec, bool(shard), shard.get("index_location") == "start")

    def is_of(self, byte_range: ByteRequest | None) -> bool:
        """Tell whether what is read is one chunk: a whole file, or a part of a shard."""
        if not self.in_shards:
            return byte_range is None
        if not isinstance(byte_range, RangeByteRequest):
            return False
        return not (self.index_first and byte_range.start == 0)

    def check(self, content: memoryview) -> None:
        """Raise `ValueError` where a chunk is cut short, or claims to unpack to too much, or does.

        What tells no size is unpacked for that, but where it cannot be more than any chunk may be.
        """
        header, length = content[:HEADER].tobytes(), len(content)
        if length > self.nbytes * (1 + SLACK) + HEADER:
            raise ValueError(f"a chunk of {self.nbytes} bytes, packed into {length}")
        claimed: int | None = None
        if self.codec == "blosc":
            if int.from_bytes(header[12:16], "little") != length:
                raise ValueError(f"Blosc chunk of {length} bytes, cut short or damaged")
            claimed = int.from_bytes(header[4:8], "little")
        elif self.codec == "zstd":
            claimed = _zstd_size(header)
        elif self.codec and length * MOST_PACKED[self.codec] > MAX_BLOCK_BYTES:
            unpacker = UNPACKERS[self.codec]()
            unpacked = unpacker.decompress(content, self.nbytes + 1)
            if len(unpacked) > self.nbytes or (unpacker.eof and unpacker.unused_data):
                raise ValueError(f"a chunk of {self.nbytes} bytes that unpacks to more")
        if claimed is not None and claimed > self.nbytes:
            raise ValueError(f"a chunk of {self.nbytes} bytes that claims {claimed}")


def check_array(array: zarr.Array[Any], path: str, name: str, block_bytes: int) -> ChunkLimit:
    """Refuse an array whose codecs do more than decode, or whose blocks are too large.

    Parameters
    ----------
    array, path, name
        The array, where it lies in the hierarchy, and what messages call the image.
    block_bytes
        Unpacked bytes of the chunks that are read together.

    Returns
    -------
    ChunkLimit
        What a stored chunk may be.

    Raises
    ------
    UnsupportedFormatError
        If a codec is unknown, or chunks or shards are too large.
    """
    metadata = array.metadata.to_dict()
    if unknown := codec_names(metadata) - CODECS:
        raise UnsupportedFormatError(
            f"{name}: array {path!r} uses the codec {', '.join(sorted(unknown))}, needed "
            f"{', '.join(sorted(CODECS))}; write it again with one of these"
        )
    if min(array.chunks) < 1 or block_bytes > MAX_BLOCK_BYTES:
        raise UnsupportedFormatError(
            f"{name}: array {path!r} has chunks {array.chunks}, needed 1 to "
            f"{MAX_BLOCK_BYTES} bytes; write it again in smaller chunks"
        )
    per_shard = math.prod(
        shard // chunk
        for shard, chunk in zip(array.shards or array.chunks, array.chunks, strict=True)
    )
    if per_shard > MAX_SHARD_CHUNKS:
        raise UnsupportedFormatError(
            f"{name}: array {path!r} has {per_shard} chunks per shard, needed at most "
            f"{MAX_SHARD_CHUNKS}; write it again in smaller shards"
        )
    return ChunkLimit.of(metadata, math.prod(array.chunks) * array.dtype.itemsize)


def _zstd_size(header: bytes) -> int | None:
    """Return the size that a Zstandard frame claims (RFC 8878, 3.1.1.1); `None` if it does not."""
    if len(header) < 18 or not header.startswith(b"\x28\xb5\x2f\xfd"):
        return None
    flags = header[4]
    single, dictionary = flags >> 5 & 1, (0, 1, 2, 4)[flags & 3]
    size = (single, 2, 4, 8)[flags >> 6]
    at = 5 + (not single) + dictionary
    claimed = int.from_bytes(header[at : at + size], "little")
    return (claimed + 256 if size == 2 else claimed) if size else None


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
