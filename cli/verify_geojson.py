"""`wsiseg verify-geojson`: whether QuPath will read a file as meant."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["verify_geojson"]


def verify_geojson(
    files: Annotated[
        list[Path], typer.Argument(help="GeoJSON files (.geojson, .json, .gz, .zip).")
    ],
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines.")] = False,
) -> None:
    """Check that QuPath (0.5 and newer) will read a GeoJSON file as meant."""
    import json

    import wsiseg

    failed = False
    for path in files:
        report = wsiseg.verify_geojson(path)
        failed |= report.verdict == "error" or (strict and report.verdict != "clean")
        typer.echo(json.dumps(report.to_dict()) if as_json else str(report))
    if failed:
        raise typer.Exit(1)
