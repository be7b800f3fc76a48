"""`wsiseg info`: what a slide file says."""

import json

import typer

from .arguments import Mpp, Reader, Slides, parse_mpp
from .console import failed

__all__ = ["info"]


def info(
    slides: Slides,
    mpp: Mpp = None,
    reader: Reader = None,
    as_json: bool = typer.Option(False, "--json", help="JSON lines instead of a table."),
) -> None:
    """Print what a slide file says: levels, pixel size, vendor."""
    import wsiseg
    from wsiseg.run import describe_slide, failure_text, list_slides

    failures = 0
    for job in list_slides(slides, mpp=parse_mpp(mpp), reader=reader, nested=True):
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
