"""The process that `wsiseg.model.child` starts: `python -m wsiseg.model <folder>`."""

import sys
import warnings
from pathlib import Path
from typing import Any

from wsiseg.model.child import serve

__all__: list[str] = []


def _export(request: dict[str, Any]) -> bytes:
    from wsiseg.model.export import export_job

    return export_job(request)


def _quantize(request: dict[str, Any]) -> bytes:
    from wsiseg.model.quantize import quantize_job

    return quantize_job(request)


def _measure(request: dict[str, Any]) -> bytes:
    from wsiseg.model.measure import measure_job

    return measure_job(request)


def _unpickle(request: dict[str, Any]) -> bytes:
    from wsiseg.model.importers.checkpoint import unpickle_job

    return unpickle_job(request)


JOBS = {"export": _export, "quantize": _quantize, "measure": _measure, "unpickle": _unpickle}

if __name__ == "__main__":
    warnings.simplefilter("ignore")  # stderr is for the reason of a failure
    raise SystemExit(serve(JOBS, Path(sys.argv[1])))
