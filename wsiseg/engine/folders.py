"""Folders in which stores are written, and from which they are copied to a slide's results."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

__all__ = ["link_tree", "temporary_folder"]


def temporary_folder() -> Path:
    """Return a folder that goes when the program ends: stores may outlive their result."""
    folder = Path(tempfile.mkdtemp(prefix="wsiseg-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def link_tree(source: Path, target: Path) -> None:
    """Copy a folder, by hard links where the file system has them: stores are never changed."""

    def link_or_copy(a: str, b: str) -> str:
        try:
            os.link(a, b)
        except OSError:
            shutil.copyfile(a, b)
        return b

    shutil.copytree(source, target, copy_function=link_or_copy)
