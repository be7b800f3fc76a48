"""`wsiseg import`: annotations of other programs as GeoJSON for QuPath."""

from pathlib import Path
from typing import Annotated

import typer

from wsiseg.errors import UsageError, WsisegError

from .arguments import AsJson, Mpp, Reader, parse_mpp
from .export import Frame, Gzip, Overwrite, PerFile, print_failure, print_written

__all__ = ["import_"]

Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="geojson, geojson-level0, asap, imagescope, wsinfer, clam, tiatoolbox or "
        "histomicsui; told from the content by default.",
    ),
]
SlideOption = Annotated[
    str | None, typer.Option("--slide", help="The slide; files of wsiseg itself need none.")
]


def import_(
    files: Annotated[list[Path], typer.Argument(help="Annotation files of one slide.")],
    slide: SlideOption = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the GeoJSON.")] = Path(
        "imported"
    ),
    format: Format = None,
    mpp: Mpp = None,
    reader: Reader = None,
    frame: Frame = "qupath",
    gzip: Gzip = False,
    max_objects: PerFile = 100_000,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Make GeoJSON for QuPath of what other programs drew or predicted, in OUT."""
    import wsiseg
    from wsiseg.exchange import ExportRequest
    from wsiseg.exchange.imports import import_annotations, write_imported
    from wsiseg.exchange.request import MAX_BYTES

    stems = [_stem(path) for path in files]
    if len(set(stems)) < len(stems):
        raise UsageError("files of one name would overwrite each other; import to two --out")
    request = ExportRequest(
        frame=frame,  # type: ignore[arg-type]  # checked there
        compress=gzip,
        limits=(max_objects, MAX_BYTES),
        overwrite=overwrite,
    )
    opened = None
    if slide is not None:
        opened = wsiseg.open(slide, mpp=parse_mpp(mpp), reader=reader)
    failures = 0
    for path, stem in zip(files, stems, strict=True):
        try:
            found = import_annotations(path, opened, format=format)  # type: ignore[arg-type]
            report = write_imported(found, out, stem, request=request)
        except UsageError:
            raise
        except WsisegError as error:
            failures += 1
            print_failure(path, error, as_json=as_json)
        else:
            print_written(path, report, as_json=as_json)
    if failures:
        raise typer.Exit(1)


def _stem(path: Path) -> str:
    """Return the name of a file without the endings of annotation files."""
    name = path.name
    for ending in (".gz", ".geojson", ".json", ".zip", ".xml", ".csv", ".h5", ".hdf5", ".db"):
        name = name.removesuffix(ending)
    return name
