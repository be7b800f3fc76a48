"""Results as GeoJSON for QuPath: annotations, detections, cells, points or tiles."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from wsiseg.annotations import write_annotations
from wsiseg.errors import UsageError
from wsiseg.exchange._writing import refuse_existing
from wsiseg.exchange.finished import FinishedResult
from wsiseg.exchange.objects import result_objects
from wsiseg.exchange.request import ExportReport, ExportRequest

__all__ = ["to_qupath"]


def to_qupath(result: FinishedResult, out: Path, request: ExportRequest) -> ExportReport:
    """Write `<name>.geojson`, or several files with an index where one would be too large.

    Objects keep their ids, so that importing again replaces them; tiles have those of their place.

    Raises
    ------
    RunError
        If a file of that name is there and not to be overwritten.
    AnnotationError, LabelError, DiskFullError
        As `write_annotations`.
    """
    ending = ".geojson.gz" if request.compress else ".geojson"
    for name in (f"{result.name}{ending}", f"{result.name}.index.json"):
        refuse_existing(out / name, overwrite=request.overwrite)
    notes: Counter[str] = Counter()
    parents = None
    if request.parents:
        parents = next(result.objects("tissue"))
        if parents.object_type != "annotation":
            raise UsageError(f"{result.folder}: tissue.geojson holds {parents.object_type}s")
        parents = replace(parents, geometries=parents.outlines, is_locked=request.locked)
    written = write_annotations(
        out,
        result_objects(result, request, notes),
        name=result.name,
        frame=request.frame,
        compress=request.compress,
        extra=_origin(result),
        limits=request.limits,
        parents=parents,
    )
    notes += Counter(written.dropped)
    notes += Counter({"repaired": written.repaired, "cut at the slide's edge": written.clipped})
    return ExportReport(written.files, written.objects, dict(notes))


def _origin(result: FinishedResult) -> dict[str, str]:
    """Return what the collection says of the model whose objects these are."""
    model = result.record.get("model", {})
    if "name" not in model:
        return {}
    title = f"{model['name']} {model.get('version', '')}".strip()
    return {"model": title, "intended_use": str(model.get("intended_use", ""))}
