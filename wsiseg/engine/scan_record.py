"""Where the result of a scan comes from: the record that stands beside it as `run.json`."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wsiseg import __version__
from wsiseg.engine.execute import StageReport
from wsiseg.engine.provenance import code_fingerprint, describe_model, fingerprint, versions
from wsiseg.engine.scan_plan import ScanPlan
from wsiseg.model import Model
from wsiseg.options import RunOptions
from wsiseg.source import Volume
from wsiseg.volume.scan import Scan

__all__ = ["scan_identity", "scan_record"]


def scan_record(
    scan: Scan,
    model: Model,
    options: RunOptions,
    plan: ScanPlan,
    reports: Sequence[StageReport],
    *,
    summary: dict[str, Any],
) -> dict[str, Any]:
    """Return the content of `run.json`: scan, model, options, plan, machine, times."""
    return {
        "wsiseg": __version__,
        "code": code_fingerprint(),
        "command": "segment",
        "scan": _describe(scan.volumes[0].as_stored()),
        "channels": [_describe(volume.as_stored()) for volume in scan.volumes[1:]],
        "model": describe_model(model),
        "options": {"run": asdict(options)},
        "plan": plan.to_dict(),
        "stages": [asdict(report) for report in reports],
        "summary": summary,
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }


def _describe(volume: Volume) -> dict[str, Any]:
    """Return what tells a scan from others, and how it was read; sizes are (x, y, z)."""
    metadata = volume.metadata
    return {
        "name": volume.name,
        "path": str(volume.path) if volume.path else None,
        "sha256_sampled": scan_identity(volume),
        "reader": metadata.reader,
        "modality": metadata.modality,
        "spacing_mm": list(volume.affine.spacing_mm[::-1]),
        "size": list(volume.shape[::-1]),
        "orientation": volume.affine.orientation,
        "affine": volume.affine.to_nifti().tolist(),
        "properties": dict(metadata.properties),
        **({"opened": dict(metadata.opened)} if metadata.opened else {}),
    }


def scan_identity(volume: Volume) -> str | None:
    """Return the hash that tells a scan from others; `None` for arrays."""
    return fingerprint(Path(volume.path)) if volume.path else None
