"""`wsiseg verify-geojson`: whether QuPath will read a file as meant."""

import json
from pathlib import Path
from typing import Annotated

import typer

from wsiseg.errors import UsageError, WsisegError

from .console import failed

__all__ = ["verify_geojson"]


def verify_geojson(
    files: Annotated[
        list[Path],
        typer.Argument(help="GeoJSON files (.geojson, .json, .gz, .zip); folders for *.geojson*."),
    ],
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines.")] = False,
) -> None:
    """Check that QuPath (0.5 and newer) will read a GeoJSON file as meant."""
    import wsiseg

    passed = True
    for given in files:
        found = _geojson_files(given) if _is_folder(given) else [given]
        if not found:
            passed = False
            nothing = UsageError(f"{given}: no *.geojson* in it; check the path")
            _report_failure(given, nothing, as_json=as_json)
        for path in found:
            try:
                report = wsiseg.verify_geojson(path)
            except WsisegError as error:
                passed = False
                _report_failure(path, error, as_json=as_json)
                continue
            passed &= report.verdict == "clean" or (report.verdict == "warning" and not strict)
            typer.echo(json.dumps(report.to_dict()) if as_json else str(report))
    if not passed:
        raise typer.Exit(1)


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
