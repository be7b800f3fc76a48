"""Where a result comes from: the record that stands beside it as `run.json`."""

import hashlib
import importlib.metadata
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import orjson

from wsiseg import __version__
from wsiseg.engine.execute import StageReport
from wsiseg.engine.plan import Plan
from wsiseg.machine import cpu_name
from wsiseg.model import Model
from wsiseg.model.gpus import gpu_name
from wsiseg.options import EmbedOptions, SegmentOptions
from wsiseg.source import Pyramid
from wsiseg.tissue import TissueMask

__all__ = [
    "code_fingerprint",
    "describe_model",
    "fingerprint",
    "hardware",
    "lasting",
    "run_record",
    "summary_head",
    "versions",
]

BLOCK = 1 << 16
SAMPLES = 64

PACKAGES = (
    "numpy",
    "onnxruntime",
    "openslide-python",
    "tifffile",
    "imagecodecs",
    "openvino",
    "torch",
    "simplejpeg",
    "zarr",
    "shapely",
    "scipy",
    "opencv-python-headless",
)


CODE = ("engine", "grid", "model", "resample", "source", "stitch", "tissue", "volume")
"""Folders whose code makes heatmaps, masks and vectors."""

MOMENTARY = (
    "slide.path",
    "model.path",
    "model.device",
    "model.processor",
    "model.tuning",
    "options.run.threads",
    "options.run.memory_bytes",
    "options.run.device",
    "plan.projected_bytes",
    "plan.memory_bytes",
    "plan.seconds",
    "plan.decoding.read_s",
    "plan.decoding.predict_s",
    "plan.stages.seconds",
    "plan.stages.buffer_bytes",
    "plan.stages.pace.workers",
    "stages.seconds",
    "stages.read_s",
    "stages.predict_s",
    "stages.write_s",
    "stages.wait_s",
    "stages.starve_s",
    "stages.kept",
    "reads",
    "summary.seconds",
    "ended",
    "versions.system",
)
"""Parts of `run.json` that are of the moment or the machine; see `lasting`."""


def run_record(
    slide: Pyramid,
    model: Model,
    options: SegmentOptions | EmbedOptions,
    plan: Plan,
    reports: Sequence[StageReport],
    *,
    summary: dict[str, Any],
) -> dict[str, Any]:
    """Return the content of `run.json`: slide, model, options, spacing, reads, machine, times."""
    return {
        "wsiseg": __version__,
        "code": code_fingerprint(),
        "command": "embed" if isinstance(options, EmbedOptions) else "segment",
        "slide": _describe_slide(slide),
        "model": describe_model(model),
        "options": asdict(options),
        "plan": plan.to_dict(),
        "stages": [asdict(report) for report in reports],
        "reads": _describe_reads(slide),
        "summary": summary,
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }


def lasting(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record without what two runs of the same work may say differently.

    That is times, memory, what was decoded and what was kept of a run that was ended; workers; and
    where slide, model and the machine are found.
    """
    found: dict[str, Any] = orjson.loads(orjson.dumps(record))
    for path in MOMENTARY:
        _drop(found, path.split("."))
    return found


def _drop(found: Any, path: Sequence[str]) -> None:  # noqa: ANN401 - JSON
    first, *rest = path
    if isinstance(found, list):
        for item in found:
            _drop(item, path)
    elif isinstance(found, dict) and rest:
        _drop(found.get(first), rest)
    elif isinstance(found, dict):
        found.pop(first, None)


def hardware(device: str) -> str:
    """Return the name of what computes: of the processor, or of the GPU."""
    return cpu_name() if device == "cpu" else gpu_name(device)


@cache
def code_fingerprint() -> str:
    """Return a hash of the code that makes heatmaps, masks and vectors."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    paths = [path for folder in CODE for path in sorted((package / folder).rglob("*.py"))]
    for path in [*paths, *sorted(package.glob("*.py"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def summary_head(slide: Pyramid, model: Model, tissue: TissueMask) -> dict[str, Any]:
    """Return the columns of `summary.csv` that every kind of run has."""
    return {
        "slide": slide.name,
        "model": model.card.title,
        "mpp_x": slide.spacing.um[1],
        "mpp_y": slide.spacing.um[0],
        "width": slide.shape[1],
        "height": slide.shape[0],
        "tissue_mm2": round(tissue.area_mm2, 6),
    }


def _describe_slide(slide: Pyramid) -> dict[str, Any]:
    """Return what tells a slide from others, and how it was read; mpp and size are (x, y)."""
    metadata = slide.metadata
    return {
        "name": slide.name,
        "path": str(slide.path) if slide.path else None,
        "sha256_sampled": fingerprint(slide.path) if slide.path else None,
        "reader": metadata.reader,
        "vendor": metadata.vendor,
        "mpp": list(slide.spacing.um[::-1]),
        "mpp_from": "file" if slide.spacing == slide.source.metadata.spacing else "user",
        "size": list(slide.shape[::-1]),
    }


def _describe_reads(slide: Pyramid) -> dict[str, Any] | None:
    """Return what was decoded since the slide was opened; `None` where the reader does not count.

    `amplification` is how often a compressed tile was decoded on average.
    """
    reads = slide.reads
    return None if reads is None else asdict(reads) | {"amplification": reads.amplification}


def describe_model(model: Model) -> dict[str, Any]:
    """Return which model it was, and what ran it."""
    return {
        "name": model.card.name,
        "version": model.card.version,
        "digest": model.digest,
        "path": str(model.path),
        "license": model.card.provenance.license,
        "intended_use": model.card.provenance.intended_use,
        "backend": model.backend,
        "device": model.device,
        "processor": hardware(model.device),
        "precision": model.precision,
        "tuning": asdict(model.tuning) if model.tuning else None,
    }


def fingerprint(path: Path | str) -> str | None:
    """Return a hash that tells slides apart without reading all of them; `None` for URLs.

    SHA-256 over the size, the first and last 64 KiB (where headers and tables lie) and 64 evenly
    spread blocks of 64 KiB; of a folder (Zarr, DICOM), over that of each of its files in the order
    of their names. Modification times never count.

    Parameters
    ----------
    path
        A file or a folder.
    """
    path = Path(path)
    if not path.exists():
        return None
    if path.is_dir():
        digest = hashlib.sha256()
        for part in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(part.relative_to(path).as_posix().encode())
            digest.update(str(fingerprint(part)).encode())
        return digest.hexdigest()
    # An index of MIRAX: the pixels are in the folder beside it.
    beside = str(fingerprint(path.with_suffix(""))) if path.suffix.lower() == ".mrxs" else ""
    told = path.stat()
    return _fingerprint_of_file(path, beside, (told.st_size, told.st_mtime_ns, told.st_ino))


@lru_cache(maxsize=256)
def _fingerprint_of_file(path: Path, beside: str, state: tuple[int, int, int]) -> str:
    size, *_ = state
    digest = hashlib.sha256(beside.encode())
    digest.update(str(size).encode())
    with path.open("rb") as file:
        for offset in _offsets(size):
            file.seek(offset)
            digest.update(file.read(BLOCK))
    return digest.hexdigest()


def _offsets(size: int) -> Iterator[int]:
    last = max(0, size - BLOCK)
    spread = {last * i // (SAMPLES - 1) for i in range(SAMPLES)}
    return iter(sorted(spread))


def versions() -> dict[str, str]:
    """Return the versions of Python, the system and the packages that can change a result."""
    found = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
