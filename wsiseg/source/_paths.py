"""What is wrong with a path, before any reader stumbles over it."""

from pathlib import Path

from wsiseg.errors import DamagedFileError, SourceError

__all__ = ["check_path"]


def check_path(path: Path) -> None:
    """Say what is wrong with a path.

    Raises
    ------
    SourceError
        If there is nothing, or it cannot be read, or is a pipe or a device: reading may never end.
    DamagedFileError
        If the file is empty.
    """
    try:
        size = path.stat().st_size
        if path.is_file():
            path.open("rb").close()
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        shown = path.name if len(path.name) < 100 else f"{path.name[:100]}..."
        reason = getattr(error, "strerror", None) or error
        raise SourceError(f"{shown}: cannot be opened ({reason}); check the path") from error
    if not path.is_file() and not path.is_dir():
        raise SourceError(f"{path.name}: needed a file or a folder, found a pipe or a device")
    if path.is_file() and not size:
        raise DamagedFileError(f"{path.name}: the file is empty; copy it anew", path=path)
