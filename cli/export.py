"""`wsiseg export`: finished results for other programs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsiseg.errors import UsageError, WsisegError

from .arguments import AsJson
from .console import failed, say

__all__ = ["export", "print_failure", "print_written"]

if TYPE_CHECKING:
    from wsiseg.exchange import ExportReport

Option = typer.Option
To = Annotated[
    str,
    Option(
        help="ro-crate, qupath, wsinfer, ome-tiff, ome-zarr, spatialdata, clam, geoparquet, coco, "
        "dicom-seg or dicom-ann; of scans nifti, dicom-seg, rtstruct, stl, ply, obj or ome-zarr."
    ),
]
As = Annotated[
    str,
    Option(
        "--as", help="result, annotations, detections, cells, points; of the heatmap tiles, peaks."
    ),
]
Frame = Annotated[str, Option(help="qupath: pixels of the image QuPath shows; or level0.")]
Gzip = Annotated[bool, Option("--gzip", help="Write .geojson.gz.")]
Locked = Annotated[bool, Option("--locked", help="Lock objects in QuPath.")]
Names = Annotated[bool, Option("--names", help="Call objects Tumor 1, Tumor 2, ...")]
Parents = Annotated[
    bool, Option("--tissue-parents", help="Nest objects in the pieces of tissue they lie in.")
]
MinArea = Annotated[float, Option(min=0.0, help="Leave out objects below this many µm².")]
Simplify = Annotated[
    float, Option(min=0.0, help="Simplify outlines by this many µm; 0 keeps them exact.")
]
MaxVertices = Annotated[
    int, Option(min=0, help="Simplify outlines of more vertices by themselves; 0 for any number.")
]
PerFile = Annotated[
    int, Option("--max-objects", min=1, help="Objects per GeoJSON file; more make several files.")
]
Heatmap = Annotated[
    str, Option(help="Heatmap that tiles are made of, such as stage-heatmap; its file's name.")
]
Tile = Annotated[
    float,
    Option("--tile", min=0.0, help="µm per side of a tile; 0: cells over 8 µm as they are, or 64."),
]
Peak = Annotated[
    float, Option("--peak", min=0.0, max=1.0, help="Least probability of a peak of the heatmap.")
]
Version = Annotated[str, Option("--ngff", help="OME-Zarr 0.4 (QuPath reads it) or 0.5.")]
SlideOption = Annotated[
    Path | None,
    Option("--slide", help="Where slide or scan are, if moved; DICOM needs it."),
]
License = Annotated[
    str, Option(help="Of the data of an RO-Crate: a URL, or an SPDX name such as CC-BY-4.0.")
]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace files that are there.")]


def export(
    results: Annotated[
        list[Path], typer.Argument(help="Result folders, or the --out folders of runs.")
    ],
    to: To,
    out: Annotated[
        Path | None,
        Option("--out", "-o", help="Folder for the files (export); an RO-Crate is made in place."),
    ] = None,
    kind: As = "result",
    frame: Frame = "qupath",
    gzip: Gzip = False,
    locked: Locked = False,
    names: Names = False,
    tissue_parents: Parents = False,
    min_area: MinArea = 0.0,
    simplify: Simplify = 0.0,
    max_vertices: MaxVertices = 0,
    max_objects: PerFile = 100_000,
    heatmap: Heatmap = "heatmap",
    tile: Tile = 0.0,
    peak: Peak = 0.5,
    ngff: Version = "0.4",
    slide: SlideOption = None,
    license: License = "",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write finished results for QuPath and other programs, in OUT."""
    from wsiseg.exchange import ExportRequest, FinishedResult, export_result, find_results
    from wsiseg.exchange.export import check_format
    from wsiseg.exchange.request import MAX_BYTES

    check_format(to)  # before anything is looked at
    if to == "ro-crate" and out is None:
        _describe(results, license, overwrite=overwrite, as_json=as_json)
        return
    out = out or Path("export")
    request = ExportRequest(
        kind=kind,  # type: ignore[arg-type]  # checked there
        frame=frame,  # type: ignore[arg-type]
        compress=gzip,
        locked=locked,
        named=names,
        parents=tissue_parents,
        min_area_um2=min_area,
        simplify_um=simplify,
        max_vertices=max_vertices,
        limits=(max_objects, MAX_BYTES),
        heatmap=heatmap,
        tile_um=tile,
        least_peak=peak,
        ngff=ngff,
        license=license,
        overwrite=overwrite,
    )
    folders = [folder for given in results for folder in find_results(given)]
    stems = {folder.resolve().name for folder in folders}
    if len(stems) < len(folders):
        raise UsageError("results of one name would overwrite each other; export to two --out")
    if slide is not None and len(folders) > 1:
        raise UsageError(f"--slide {slide}: needed one result, found {len(folders)}")
    failures = 0
    for folder in folders:
        try:
            report = export_result(FinishedResult(folder, slide), to, out, request=request)
        except UsageError:
            raise
        except WsisegError as error:
            failures += 1
            print_failure(folder, error, as_json=as_json)
        else:
            print_written(folder, report, as_json=as_json)
    if failures:
        say(f"{len(folders) - failures} of {len(folders)} results exported")
        raise typer.Exit(1)


def _describe(folders: list[Path], license: str, *, overwrite: bool, as_json: bool) -> None:
    """Make RO-Crates of folders where they are."""
    from wsiseg.exchange import describe_in_place

    failures = 0
    for folder in folders:
        try:
            report = describe_in_place(folder, license=license, overwrite=overwrite)
        except WsisegError as error:
            failures += 1
            print_failure(folder, error, as_json=as_json)
        else:
            print_written(folder, report, as_json=as_json)
    if failures:
        raise typer.Exit(1)


def print_written(source: Path, report: "ExportReport", *, as_json: bool) -> None:
    """Print the files written, and what could not be written as it was."""
    if as_json:
        files = [str(path) for path in report.files]
        row = {"from": str(source), "files": files, "objects": report.objects}
        typer.echo(json.dumps({**row, "notes": dict(report.notes)}))
        return
    for path in report.files:
        typer.echo(path)
    for what, count in report.notes.items():
        say(f"{source.name}: {count} {what}")


def print_failure(source: Path, error: WsisegError, *, as_json: bool) -> None:
    """Print which file or folder failed and why."""
    failed(error if str(source) in str(error) else f"{source}: {error}")
    if as_json:
        typer.echo(json.dumps({"from": str(source), "error": str(error)}))
