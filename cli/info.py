"""`wsiseg info`: what a slide file or a scan says."""

import json
from collections.abc import Iterator

import typer

from .arguments import AllowGap, Mpp, Reader, Series, Slides, Tilt, parse_mpp
from .console import failed

__all__ = ["info"]

_TOLD = (".affine", ".forms", ".unit", ".space", ".directions", ".orientation")
"""Properties of a scan that say how its place was told; `--json` has them all."""


def info(
    slides: Slides,
    mpp: Mpp = None,
    reader: Reader = None,
    series: Series = None,
    allow_gap: AllowGap = False,
    tilt: Tilt = None,
    as_json: bool = typer.Option(False, "--json", help="JSON lines instead of a table."),
) -> None:
    """Print what a slide or scan says: levels or grid, sizes, maker; the series of a DICOM folder.

    Exits with 1 where a file cannot be opened, or a series makes no volume.
    """
    import wsiseg
    from wsiseg.run import (
        describe_scan,
        describe_slide,
        failure_text,
        list_slides,
        scans_and_others,
    )

    scans, others = scans_and_others(slides)
    failures = 0
    for path in scans:
        try:
            records = describe_scan(
                path, series=series, allow_gap=allow_gap, tilt=tilt, reader=reader
            )
        except wsiseg.WsisegError as error:
            failures += 1
            failed(failure_text(error, path))
            continue
        for record in records:
            failures += bool(record["problems"])
            typer.echo(json.dumps(record) if as_json else "\n".join(_scan_lines(record)))
    jobs = list_slides(others, mpp=parse_mpp(mpp), reader=reader, nested=True) if others else ()
    for job in jobs:
        try:
            with wsiseg.open(job.path, mpp=job.mpp, reader=job.reader) as slide:
                record = describe_slide(slide)
        except wsiseg.WsisegError as error:
            failures += 1
            failed(failure_text(error, job.path))
            continue
        typer.echo(json.dumps(record) if as_json else _table(record))
    if failures:
        raise typer.Exit(1)


def _scan_lines(record: dict[str, object]) -> Iterator[str]:
    """Yield the lines of a scan, or of a series of a DICOM folder."""
    yield str(record["name"])
    if "series" in record:
        yield f"  {'series':18} {record['series']}"
        yield f"  {'images':18} {record['images']} in {record['files']} files, {record['kind']}"
    yield f"  {'reader':18} {record['reader']}"
    yield f"  {'modality':18} {_words(record['modality'])}"
    if "shape" in record:
        colour = f", {record['channels']} channels" if record["channels"] != 1 else ""
        yield f"  {'voxels (x, y, z)':18} {_words(record['shape'])}{colour}"
        yield f"  {'spacing in mm':18} {_words(record['spacing_mm'])}"
        yield f"  {'orientation':18} {record['orientation']}"
        yield f"  {'type':18} {record['dtype']}"
    properties = record.get("properties")
    for key, value in properties.items() if isinstance(properties, dict) else ():
        if key.endswith(_TOLD):
            yield f"  {key:18} {value}"
    problems = record["problems"]
    for problem in problems if isinstance(problems, list) else ():
        yield f"  {'no volume':18} {problem['error']}: {problem['text']}"


def _table(record: dict[str, object]) -> str:
    lines = [str(record["name"])]
    for key in ("reader", "vendor", "mpp", "objective_power", "bounds", "associated_images"):
        lines.append(f"  {key.replace('_', ' '):18} {_words(record[key])}")
    lines.append("  level   pixels (x, y)      downsample          µm per pixel        block")
    levels = record["levels"]
    for row in levels if isinstance(levels, list) else []:
        lines.append(
            f"  {row['level']:<7} {_words(row['size']):18} {_words(row['downsample']):19} "
            f"{_words(row['mpp']):19} {_words(row['block'])}"
        )
    return "\n".join(lines)


def _words(value: object) -> str:
    if value is None:
        return "not in the file"
    if isinstance(value, list | tuple):
        joint = ", " if value and isinstance(value[0], str) else " x "
        return joint.join(_words(part) for part in value) if value else "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
