"""A slide's output folder: there when everything in it is there, and never somebody else's."""

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsiseg.errors import DiskFullError, RunError, WsisegError

__all__ = ["MARKER", "as_run_error", "finished_folder"]

MARKER = ".wsiseg"
"""File that says which command wrote a folder, and the fingerprint of the slide it is of; folders
without it are never touched."""

UNKNOWN = "-"


@contextmanager
def finished_folder(
    out: Path, name: str, *, kind: str = "segment", slide: str | None = None
) -> Iterator[Path]:
    """Yield a folder to fill; it becomes `out/name` only when the block ends without an error.

    A folder of that name is replaced if the same kind of run wrote it for the same slide, told
    by its fingerprint (`None`: not compared).

    Raises
    ------
    RunError
        If `out` cannot be written, `name` leads outside of it, or `out/name` is there and is not
        an earlier result of this kind and slide: a slide's own folder, another command's output,
        or the result of another slide of this name.
    DiskFullError
        If there is no room left; nothing half-written stays.
    """
    final = out / name
    if not final.resolve().is_relative_to(out.resolve()) or final.resolve() == out.resolve():
        raise RunError(
            f"{name!r}: would write outside the output folder {out}; choose another name"
        )
    _refuse_foreign(final, kind, slide)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".wsiseg-", dir=final.parent))
        partial.chmod(0o755)  # mkdtemp's folders are for their owner alone
    except OSError as error:
        raise as_run_error(error, final) from error
    try:
        yield partial
        (partial / MARKER).write_text(f"{kind} {slide or UNKNOWN}\n", encoding="utf-8")
        _replace(partial, final)
    except OSError as error:
        if isinstance(error, WsisegError):
            raise
        raise as_run_error(error, final) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def as_run_error(error: OSError, path: Path) -> RunError:
    """Return what an operating system's refusal to write means for a run."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(
            f"{path}: no room left on the disk; free some, or choose another --out"
        )
    return RunError(f"{path}: cannot be written: {error.strerror or error}; choose another --out")


def _refuse_foreign(final: Path, kind: str, slide: str | None) -> None:
    if not final.exists() or (final.is_dir() and not any(final.iterdir())):
        return
    marker = final / MARKER
    text = marker.read_text(encoding="utf-8").strip() if marker.is_file() else ""
    found, _, of = text.partition(" ")
    if found == kind and (slide is None or of in (slide, UNKNOWN)):
        return
    what = "was not written by wsiseg"
    if found:
        other = found != kind
        what = f"was written by {found!r}" if other else "is the result of another slide"
    raise RunError(f"{final}: is there and {what}; needed a free name: choose another --out")


def _replace(partial: Path, final: Path) -> None:
    """Give `partial` its final name; an earlier result goes."""
    if final.exists():
        old = Path(tempfile.mkdtemp(prefix=".wsiseg-old-", dir=final.parent))
        final.rename(old / final.name)
        partial.rename(final)
        shutil.rmtree(old, ignore_errors=True)
    else:
        partial.rename(final)
