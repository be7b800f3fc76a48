"""The objects as GeoParquet, for analysis."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from wsiseg.annotations import Annotations
from wsiseg.annotations.geoparquet import write_geoparquet
from wsiseg.exchange._writing import refuse_existing
from wsiseg.exchange.finished import FinishedResult
from wsiseg.exchange.objects import result_objects
from wsiseg.exchange.request import ExportReport, ExportRequest

__all__ = ["to_geoparquet"]


def to_geoparquet(result: FinishedResult, out: Path, request: ExportRequest) -> ExportReport:
    """Write `<name>.parquet`, a row per object or tile.

    Raises
    ------
    RunError
        If the file is there and not to be overwritten.
    AnnotationError, DiskFullError
        As `write_geoparquet`.
    """
    path = out / f"{result.name}.parquet"
    refuse_existing(path, overwrite=request.overwrite)
    out.mkdir(parents=True, exist_ok=True)
    notes: Counter[str] = Counter()
    several = result_objects(result, request, notes)
    count = 0

    def counted() -> Iterator[Annotations]:
        nonlocal count
        for group in several:
            count += len(group)
            yield group

    write_geoparquet(counted(), path, frame=request.frame)
    return ExportReport((path,), count, dict(notes))
