"""Files and folders of an export: whole under their name or not there, never somebody else's."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wsiseg.errors import RunError, WsisegError, unwritable

__all__ = ["refuse_existing", "whole_file", "whole_folder"]


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Refuse to replace what is there, unless that is wanted.

    Raises
    ------
    RunError
        If it is there, and not to be overwritten.
    """
    if not overwrite and path.exists():
        raise RunError(f"{path}: is there already; pass --overwrite, or choose another --out")


@contextmanager
def whole_file(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a name to write to; what is there becomes `path` when the block ends without an error.

    Raises
    ------
    RunError
        If `path` is there and not to be overwritten, or cannot be written.
    DiskFullError
        If there is no room left.
    """
    refuse_existing(path, overwrite=overwrite)
    # The ending stays in front: libraries tell formats by it.
    part = path.with_name(f".{os.getpid()}.part.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except OSError as error:
        if isinstance(error, WsisegError):
            raise
        raise unwritable(error, path) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a folder to fill that becomes `path` when the block ends without an error.

    Raises
    ------
    RunError, DiskFullError
        As for `whole_file`.
    """
    refuse_existing(path, overwrite=overwrite)
    part = path.with_name(f".{os.getpid()}.part.{path.name}")
    try:
        part.mkdir(parents=True)
        yield part
        if path.is_dir():
            shutil.rmtree(path)
        part.replace(path)
    except OSError as error:
        if isinstance(error, WsisegError):
            raise
        raise unwritable(error, path) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
