"""Scans whose channels are files of their own: numbered, in one cell of a table, or named."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from wsiseg.errors import UsageError
from wsiseg.run.jobs import SlideJob
from wsiseg.source.naming import stem_of

__all__ = ["scan_of_channels", "with_channels"]


def scan_of_channels(
    names: Sequence[str],
    channels: Mapping[str, str],
    priors: Mapping[str, str],
    scan: str | None = None,
) -> SlideJob:
    """Return the scan whose channels are files named one by one.

    Parameters
    ----------
    names
        Of all channels that the model reads, in order.
    channels, priors
        Files by name; names count in upper or lower case.
    scan
        File of the one channel that is not named.

    Raises
    ------
    UsageError
        If a channel is unknown, named twice or missing.
    """
    known = {name.casefold(): name for name in names}
    given: dict[str, str] = {}
    for name, path in [*channels.items(), *priors.items()]:
        own = known.get(name.casefold())
        if own is None or own in given:
            raise UsageError(
                f"channel {name!r}: {'given twice' if own else 'the model has none of that name'}; "
                f"needed each of {', '.join(names)} once"
            )
        given[own] = path
    missing = [name for name in names if name not in given]
    if scan is not None and len(missing) == 1:
        given[missing.pop()] = scan
    if missing or (scan is not None and scan not in given.values()):
        raise UsageError(
            f"channels: needed {', '.join(names)}, found {', '.join(given) or 'none'}"
            f"{f' and {scan}' if scan else ''}; add --channel NAME=FILE for each"
        )
    held = {name.casefold() for name in priors}
    first, *more = [given[name] for name in names if name.casefold() not in held] or [""]
    if names[0].casefold() in held:
        raise UsageError(f"--prior {names[0]}: is the model's first channel, which is the scan's")
    known_before = tuple((name, given[name]) for name in names if name.casefold() in held)
    return SlideJob(first, stem_of(first), more=tuple(more), priors=known_before)


CHANNEL = re.compile(r"(.+)_(\d{4})$")
"""How nnU-Net numbers the files of a scan, before the suffix."""


def with_channels(job: SlideJob, count: int) -> SlideJob:
    """Return a scan with the files of all its channels.

    Raises
    ------
    UsageError
        If one of them is not there.
    """
    paths = [part.strip() for part in job.path.split(";")]
    if len(paths) > 1:  # of a table
        return replace(job, path=paths[0], output=stem_of(paths[0]), more=tuple(paths[1:]))
    stem = stem_of(job.path)
    numbered = CHANNEL.match(stem)
    if count == 1 or numbered is None or "://" in job.path:
        return job
    name, suffix = Path(job.path).name, numbered[1]
    files = [
        str(Path(job.path).with_name(f"{suffix}_{k:04}{name[len(stem) :]}")) for k in range(count)
    ]
    if missing := [path for path in files if not Path(path).exists()]:
        raise UsageError(
            f"{job.path}: needed {count} channels, {Path(files[0]).name} to "
            f"{Path(files[-1]).name}, found no {Path(missing[0]).name}; the model reads them all"
        )
    return replace(job, path=files[0], output=suffix, more=tuple(files[1:]))
