"""What a slide is called in the names of its files."""

from pathlib import PurePosixPath

__all__ = ["stem_of"]


def stem_of(path: str) -> str:
    """Return the name of a file, folder or URL without folder and suffix; `slide` if it has none.

    `.ome.tif`, `.ome.zarr` and the like count as one suffix, in upper case, too.
    """
    if "://" in path:
        path = path.partition("?")[0]
    name = PurePosixPath(path.replace("\\", "/")).name
    stem = PurePosixPath(name).stem
    if stem.lower().endswith(".ome"):
        stem = stem[: -len(".ome")]
    return stem or "slide"
