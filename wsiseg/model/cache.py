"""Where models and what is derived from them live on this machine, and how files get there.

`WSISEG_HOME` holds both (`models/` and `cache/`); without it the platform's own folders do.
Nothing is created before something is written.
"""

import atexit
import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path

__all__ = [
    "cache_folder",
    "cache_key",
    "cached_file",
    "code_fingerprint",
    "compiled_folder",
    "kept_models",
    "user_models",
    "write_atomically",
]

log = logging.getLogger(__name__)


def user_models() -> Path:
    """Return the folder of the models this user added; it may not exist."""
    if home := os.environ.get("WSISEG_HOME"):
        return Path(home).expanduser() / "models"
    if sys.platform == "win32":
        return _windows_home() / "models"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "wsiseg" / "models"
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "wsiseg" / "models"


def cached_file(kind: str, key: str, suffix: str, make: Callable[[], bytes]) -> Path:
    """Return the cached file of `key`, making it on the first call.

    Processes that make the same file at the same time do the work twice and leave one file. Where
    the cache cannot be written, the file goes to a private folder that ends with this process.

    Parameters
    ----------
    kind
        Folder inside the cache.
    key, suffix
        File name.
    make
        Gives the content; not called when the file is there.
    """
    path = cache_folder() / kind / f"{key}{suffix}"
    if path.is_file():
        return path
    content = make()
    try:
        return write_atomically(path, content)
    except OSError as error:
        _say_unwritable(cache_folder(), error.strerror)
    private = Path(tempfile.mkdtemp(prefix="wsiseg-"))  # mode 0700: nobody else plants a file here
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    return write_atomically(private / path.name, content)


def kept_models() -> Path:
    """Return the folder of models that were sent here, by their digest; it may not exist."""
    return cache_folder() / "models"


def compiled_folder() -> Path | None:
    """Return the folder where a library may keep compiled networks; `None`: nothing can be kept."""
    folder = cache_folder() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


@cache
def _say_unwritable(folder: Path, reason: str) -> None:
    """Warn once per process, not for each file."""
    log.warning(
        "%s: cannot be written (%s), so models start slowly; set WSISEG_HOME to a folder that can "
        "be written",
        folder,
        reason,
    )


def write_atomically(path: Path, content: bytes) -> Path:
    """Write a file that is either complete under its name or not there; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def cache_key(*parts: object) -> str:
    """Return a file name that stands for `parts` (anything JSON can hold)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]


@cache
def code_fingerprint() -> str:
    """Return a hash of the code and versions that turn weights into outputs.

    What is cached is made anew when any of them changes. torch is not imported for it.
    """
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for path in sorted([*here.glob("*.py"), *(here / "networks").glob("*.py")]):
        digest.update(path.read_bytes())
    for name in ("torch", "monai", "timm"):
        digest.update(f"{name} {_version(name)};".encode())
    return digest.hexdigest()


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "none"


def cache_folder() -> Path:
    """Return the folder of what is derived and can be made anew; it may not exist."""
    if home := os.environ.get("WSISEG_HOME"):
        return Path(home).expanduser() / "cache"
    if sys.platform == "win32":
        return _windows_home() / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "wsiseg"
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "wsiseg"


def _windows_home() -> Path:
    return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "wsiseg"
