"""`wsiseg verify-geojson`: whether QuPath will read a file as meant."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsiseg.errors import UsageError, WsisegError

from .console import failed

if TYPE_CHECKING:
    from wsiseg.annotations import VerifyReport

__all__ = ["verify_geojson"]

CHANGES_SHOWN = 20
Option = typer.Option


def verify_geojson(
    files: Annotated[
        list[Path],
        typer.Argument(help="GeoJSON files (.geojson, .json, .gz, .zip); folders for *.geojson*."),
    ],
    strict: Annotated[bool, Option("--strict", help="Warnings fail, too.")] = False,
    fix: Annotated[
        bool, Option("--fix", help="Write what is not clean, mended, as <name>.fixed.geojson.")
    ] = False,
    overlay: Annotated[
        Path | None, Option(help="PNG to write: the objects on the thumbnail of --slide.")
    ] = None,
    slide: Annotated[Path | None, Option(help="The slide, for --overlay.")] = None,
    mpp: Annotated[float | None, Option(help="µm per pixel of a slide that has none.")] = None,
    as_json: Annotated[bool, Option("--json", help="JSON lines.")] = False,
) -> None:
    """Check that QuPath (0.5 and newer) will read a GeoJSON file as meant."""
    if overlay is not None and (slide is None or len(files) != 1 or _is_folder(files[0])):
        raise UsageError("--overlay needs one file and --slide")
    passed = True
    for given in files:
        found = _geojson_files(given) if _is_folder(given) else [given]
        if not found:
            passed = False
            nothing = UsageError(f"{given}: no *.geojson* in it; check the path")
            _report_failure(given, nothing, as_json=as_json)
        for path in found:
            try:
                passed &= _verified(path, fix=fix, strict=strict, as_json=as_json)
                if overlay is not None and slide is not None:
                    _draw(path, slide, mpp, overlay)
            except WsisegError as error:
                passed = False
                _report_failure(path, error, as_json=as_json)
    if not passed:
        raise typer.Exit(1)


def _verified(path: Path, *, fix: bool, strict: bool, as_json: bool) -> bool:
    """Print the report on a file, mended if asked for; return whether it passes."""
    import wsiseg

    report = wsiseg.verify_geojson(path)
    if not fix or report.verdict == "clean":
        typer.echo(json.dumps(report.to_dict()) if as_json else str(report))
        return _passes(report, strict=strict)
    out = path.with_name(f"{path.name.split('.geojson')[0].removesuffix('.json')}.fixed.geojson")
    done = wsiseg.fix_geojson(path, out)
    after = wsiseg.verify_geojson(out)
    if as_json:
        changes = [asdict(change) for change in done.changes]
        fixed: dict[str, Any] = after.to_dict() | {"changes": changes, "removed": done.removed}
        typer.echo(json.dumps(report.to_dict() | {"fixed": fixed}))
    else:
        typer.echo(str(report))
        for change in done.changes[:CHANGES_SHOWN]:
            typer.echo(f"  fixed: {change}")
        if len(done.changes) > CHANGES_SHOWN:
            typer.echo(f"  and {len(done.changes) - CHANGES_SHOWN} more changes (--json lists all)")
        typer.echo(f"  {done.objects} objects written, {done.removed} removed")
        typer.echo(str(after))
    return _passes(after, strict=strict)


def _passes(report: "VerifyReport", *, strict: bool) -> bool:
    return report.verdict == "clean" or (report.verdict == "warning" and not strict)


def _draw(path: Path, slide: Path, mpp: float | None, overlay: Path) -> None:
    import wsiseg
    from wsiseg.draw import save_png
    from wsiseg.exchange.picture import draw_annotations

    with wsiseg.open(slide, mpp=mpp) as opened:
        save_png(overlay, draw_annotations(path, opened))
    typer.echo(str(overlay))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # the reader says what is wrong with it
        return False


def _geojson_files(folder: Path) -> list[Path]:
    """Return the GeoJSON files of a folder and its subfolders, but for hidden ones."""
    return sorted(
        path
        for path in folder.rglob("*.geojson*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _report_failure(path: Path, error: WsisegError, *, as_json: bool) -> None:
    failed(error)
    if as_json:
        row = {"path": str(path), "error": str(error), "error_class": type(error).__name__}
        typer.echo(json.dumps(row))
