"""A slide's output folder: there when everything in it is there, and never somebody else's."""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wsiseg.engine.marker import Marker, carry_over
from wsiseg.engine.working import working_folder
from wsiseg.errors import RunError, WsisegError, WsisegWarning, unwritable
from wsiseg.files import make_durable, make_durable_name

__all__ = ["REPLACES", "Publishing", "check_name", "finished_folder", "refuse_foreign"]

RESERVED = re.compile(
    r"(con|prn|aux|nul|com\d|lpt\d)(\..*)? | (summary|failures)\.csv | report\.html | \.wsiseg.*",
    re.VERBOSE | re.IGNORECASE,
)
"""Names of devices on Windows, whatever their suffix, and of what a run itself writes."""

LONGEST_NAME = 240
"""Bytes of a name that every file system takes, with something to spare."""

REPLACES: Mapping[str, tuple[str, ...]] = {"segment": ("segment", "tissue")}
"""Command -> the commands whose results it may replace, where these are not its own alone:
`segment` writes all that `tissue` does."""


@dataclass(frozen=True, slots=True)
class Publishing:
    """What a run over many slides asks of the way a result gets its name."""

    workspace: Path | None = None
    """Where the folder is filled, on the file system of the output; `None`: beside its final place.
    Whoever takes the workspace away keeps the result from getting its name."""

    seal: Callable[[Path], None] | None = None
    """Called with the folder when all else is in it; what it raises keeps it from its name."""

    replaces: str | None = None
    """Fingerprint of an earlier state of the slide, whose result may be replaced as well."""


PLAIN = Publishing()


@contextmanager
def finished_folder(
    out: Path,
    name: str,
    *,
    kind: str = "segment",
    slide: str | None = None,
    publishing: Publishing = PLAIN,
) -> Iterator[Path]:
    """Yield a folder to fill; it becomes `out/name` only when the block ends without an error.

    A folder of that name is replaced if the same kind of run wrote it for the same slide, told
    by its fingerprint (`None`: not compared); what a user put there, or changed, is kept.

    Raises
    ------
    RunError
        If `out` cannot be written, `name` leads outside of it, or `out/name` is there and is not
        an earlier result of this kind and slide: see `refuse_foreign`.
    DiskFullError
        If there is no room left; nothing half-written stays.

    Warns
    -----
    WsisegWarning
        If a file was changed since wsiseg wrote it: it is kept under another name.
    """
    check_name(name)
    final = out / name
    if not final.resolve().is_relative_to(out.resolve()) or final.resolve() == out.resolve():
        raise RunError(
            f"{name!r}: would write outside the output folder {out}; choose another name"
        )
    refuse_foreign(final, kind, slide, publishing.replaces)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        place = _on_one_disk(publishing.workspace, final.parent)
        with working_folder(place) as partial, _final_names(partial, final):
            yield partial
            if publishing.seal is not None:
                publishing.seal(partial)
            Marker.of_folder(partial, kind, slide).write(partial)
            make_durable(partial)
            renamed = _replace(partial, final)
            make_durable_name(final)
    except OSError as error:
        if isinstance(error, WsisegError):
            raise
        raise unwritable(error, final) from error
    for old, new in renamed.items():
        warnings.warn(
            f"{final}: {old} was changed since wsiseg wrote it; kept as {new}",
            WsisegWarning,
            stacklevel=3,
        )


def check_name(name: str) -> None:
    """Refuse a name that no folder of results may have.

    Parameters
    ----------
    name
        Below the output folder; parts between slashes are folders in one another.

    Raises
    ------
    RunError
        If a part has control characters, is too long, or is reserved by the system or by a run.
    """
    for part in name.split("/"):
        if any(ord(character) < 32 or ord(character) == 127 for character in part):
            trouble = "has control characters"
        elif len(part.encode(errors="surrogateescape")) > LONGEST_NAME:
            trouble = f"is longer than {LONGEST_NAME} bytes"
        elif RESERVED.fullmatch(part):
            trouble = "is reserved"
        else:
            continue
        shown = part if len(part) < 100 else f"{part[:100]}..."
        raise RunError(f"{shown!r}: the name {trouble}; rename the slide, or choose another name")


@contextmanager
def _final_names(partial: Path, final: Path) -> Iterator[None]:
    """Let errors name files as they would have been called, not by the hidden folder."""
    try:
        yield
    except WsisegError as error:
        if str(partial) not in str(error):
            raise
        raise type(error)(str(error).replace(str(partial), str(final))) from error


def may_replace(final: Path, kind: str) -> bool:
    """Return whether `final` holds no result of a command that this one must not replace."""
    marker = Marker.read(final)
    return marker is None or marker.kind in REPLACES.get(kind, (kind,))


def refuse_foreign(
    final: Path, kind: str, slide: str | None = None, replaces: str | None = None
) -> None:
    """Refuse a folder that a run of this kind must not replace.

    Parameters
    ----------
    final
        The folder.
    kind
        The command.
    slide
        Fingerprint of the slide; `None`: not compared.
    replaces
        That of an earlier state of the slide.

    Raises
    ------
    RunError
        If `final` is there and is a slide's own folder, another command's output, or the result of
        another slide of this name.
    """
    if not final.exists() or (final.is_dir() and not any(final.iterdir())):
        return
    marker = Marker.read(final)
    if marker is None:
        what = "was not written by wsiseg"
    elif not may_replace(final, kind):
        what = f"was written by {marker.kind!r}"
    elif not marker.is_of(slide) and not (replaces and marker.slide == replaces):
        what = "is the result of another slide"
    else:
        return
    raise RunError(f"{final}: is there and {what}; needed a free name: choose another --out")


def _on_one_disk(workspace: Path | None, parent: Path) -> Path:
    """Return the workspace; `parent` where there is none, or it cannot be renamed from there."""
    if workspace is None or workspace.stat().st_dev != parent.stat().st_dev:
        return parent
    return workspace


def _replace(partial: Path, final: Path) -> dict[str, str]:
    """Give `partial` its final name; an earlier result goes, but for what users put there.

    Returns
    -------
    dict of str to str
        The files that users changed, and the names they have got.
    """
    if not final.exists():
        partial.rename(final)
        return {}
    renamed = carry_over(final, partial)
    with working_folder(final.parent, aside=True) as aside:
        final.rename(aside / final.name)
        try:
            partial.rename(final)
        except OSError:
            (aside / final.name).rename(final)
            raise
    return renamed
