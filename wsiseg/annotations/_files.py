"""Files that are whole or absent: written under another name, then renamed."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from wsiseg.errors import AnnotationError, WsisegError, unwritable

__all__ = ["staging_folder", "writing", "writing_whole"]


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file and the cause where the system refuses to write.

    Raises
    ------
    DiskFullError
        If no room is left.
    AnnotationError
        If the system refuses for another reason.
    """
    try:
        yield
    except WsisegError:
        raise
    except OSError as error:
        raise unwritable(error, path, AnnotationError) from error


@contextmanager
def writing_whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that appears under its name only once it is whole."""
    part = path.with_name(f".{path.name}.part")
    with writing(path):
        try:
            with part.open("wb") as stream:
                yield stream
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def staging_folder(folder: Path, name: str) -> Iterator[Path]:
    """Make a folder for files that belong together; it is gone at the end, whatever happens."""
    staging = folder / f".{name}.part"
    with writing(folder):
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)
