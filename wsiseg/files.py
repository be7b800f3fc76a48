"""Files that are whole under their name, or not there."""

import os
from contextlib import suppress
from pathlib import Path

from wsiseg.errors import unwritable

__all__ = ["write_whole"]


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears under its name when it is complete.

    Raises
    ------
    DiskFullError
        If there is no room left.
    RunError
        If the file cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise unwritable(error, path) from error
    finally:
        with suppress(OSError):  # the first error is the one to tell
            part.unlink(missing_ok=True)
