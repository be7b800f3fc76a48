"""What a run can be told: small frozen groups, one per step of the flow."""

from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "Backend",
    "Detector",
    "ExportOptions",
    "Frame",
    "Precision",
    "RunOptions",
    "SegmentOptions",
    "TissueOptions",
]

Backend = Literal["auto", "onnxruntime", "openvino", "torch"]
Detector = Literal["auto", "saturation", "color", "none"]
Frame = Literal["qupath", "level0"]
Precision = Literal["float32", "bfloat16", "int8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TissueOptions:
    """Where it is worth looking."""

    detector: Detector = "auto"
    """`none` takes the whole slide as tissue."""

    spacing_um: float = 8.0
    """µm per pixel of the image the detector looks at."""

    closing_um: float = 40.0
    """Gaps narrower than this are closed."""

    min_hole_um2: float = 20_000.0
    """Holes smaller than this are filled."""

    min_speck_um2: float = 10_000.0
    """Pieces of tissue smaller than this are dropped."""

    exclude_pen: bool = True
    """Green, blue, red and black marker is not tissue; switch off for stains of such colours."""

    min_fraction: float = 0.05
    """A tile is looked at when at least this share of it is tissue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What the annotations look like."""

    frame: Frame = "qupath"
    """Pixels of the image QuPath shows, or of the whole level 0."""

    simplify_um: float = 0.0
    """Tolerance of simplification in µm; 0 keeps the exact pixel outline."""

    min_area_um2: float = 0.0
    min_hole_um2: float = 0.0
    object_type: Literal["annotation", "detection"] = "annotation"
    compress: bool = False
    """Write `.geojson.gz` instead of `.geojson`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How the machine is used.

    Threads never change a bit of the result. Backend, device and batch size may change the last
    bits of probabilities: libraries choose other kernels. What was used stands in `run.json`.
    """

    backend: Backend = "auto"
    device: str = "auto"
    precision: Precision = "float32"
    """`bfloat16` needs a GPU, `int8` a CPU; both change probabilities, see `model.load_model`."""

    batch_size: int | None = None
    """Patches per batch; `None` lets the planner choose."""

    threads: int | None = None
    """Cores used; `None`: all this process may use."""

    memory_bytes: int | None = None
    """The plan is refused above this; `None` means three quarters of the machine's memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentOptions:
    """All options of one segmentation."""

    tissue: TissueOptions = field(default_factory=TissueOptions)
    export: ExportOptions = field(default_factory=ExportOptions)
    run: RunOptions = field(default_factory=RunOptions)
