"""What a slide is called in the names of its files."""

__all__ = ["stem_of"]


def stem_of(path: str) -> str:
    """Return the name of a file, folder or URL without folder and suffix; `slide` if it has none.

    `.ome.tif`, `.ome.zarr`, `.nii.gz` and the like count as one suffix, in upper case, too.
    """
    if "://" in path:
        path = path.partition("?")[0]
    path = path.replace("\\", "/").rstrip("/")
    while path.endswith("/."):
        path = path.removesuffix("/.").rstrip("/")
    name = path.rpartition("/")[2]  # pathlib would take six times as long, for each of many slides
    dot = name.rfind(".")
    stem = name[:dot] if 0 < dot < len(name) - 1 else name
    if stem.lower().endswith((".ome", ".nii")) and len(stem) > 4:
        stem = stem[:-4]
    return stem if stem.strip(".") else "slide"
