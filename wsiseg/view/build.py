"""The page: made once of the sources in `web/` where npm is there, found where it was made.

A wheel has it; a checkout makes it when it is first needed, and again when its sources changed.
"""

import hashlib
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from wsiseg.errors import RunError

__all__ = ["COMMAND", "STATIC", "WEB", "build_page", "page_files", "ready_page"]

WEB = Path(__file__).parent / "web"
STATIC = Path(__file__).parent / "static"
STAMP = "sources.sha256"
"""In `static/`: what the page was made of."""

COMMAND = f'npm --prefix "{WEB}" ci && npm --prefix "{WEB}" run build'
SOURCES = ("*.json", "*.js", "*.html", "src/**/*.js", "src/**/*.css", "src/**/*.svg")
TOO_LONG_S = 600
QUIET = ("--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=1")


def page_files() -> dict[str, Path]:
    """Return the files of the page by their path in it; empty where it was not made."""
    if not (STATIC / "index.html").is_file():
        return {}
    found = (path for path in STATIC.rglob("*") if path.is_file() and path.name != STAMP)
    return {path.relative_to(STATIC).as_posix(): path for path in found}


def ready_page() -> Mapping[str, Path]:
    """Return the files of the page, made first where that is needed and possible.

    Raises
    ------
    RunError
        If it is not there and cannot be made; it names the command.
    """
    if WEB.is_dir() and _said() != _digest():
        if shutil.which("npm") is not None:
            build_page()
        elif not page_files():
            raise RunError(
                "the viewer's page needs to be built once, and npm is not there; install Node.js "
                f"20.19 or newer, then run: {COMMAND}"
            )
    files = page_files()
    if not files:
        raise RunError(
            "this wsiseg was installed without the viewer's page, as npm was not there; install "
            "Node.js 20.19 or newer and run pip install --force-reinstall on wsiseg's sources, or "
            "install a wheel"
        )
    return files


def build_page() -> None:
    """Install what `package-lock.json` names, and make the page.

    Raises
    ------
    RunError
        If npm fails; it says why, and names the command.
    """
    npm = shutil.which("npm") or "npm"
    for step in ((npm, "ci", *QUIET), (npm, "run", "build", "--silent")):
        try:
            done = subprocess.run(
                step,
                cwd=WEB,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=TOO_LONG_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _failed(str(error)) from error
        if done.returncode:
            raise _failed((done.stderr or done.stdout).strip()[-400:])
    (STATIC / STAMP).write_text(_digest(), encoding="ascii")


def _failed(why: str) -> RunError:
    return RunError(f"the viewer's page cannot be built: {why}; try it by hand: {COMMAND}")


def _said() -> str:
    try:
        return (STATIC / STAMP).read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""


def _digest() -> str:
    """Return the hash of the page's sources."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in SOURCES for path in WEB.glob(pattern)}):
        digest.update(path.relative_to(WEB).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
