"""What a run can be told: small frozen groups, one per step of the flow.

What makes no sense is a `UsageError` when the group is made.
"""

import math
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Literal, get_args

from wsiseg.errors import UsageError
from wsiseg.geometry import COARSEST_UM, FINEST_UM

__all__ = [
    "DETECTORS",
    "Backend",
    "DamageOptions",
    "Decoding",
    "Detector",
    "EmbedOptions",
    "ExportOptions",
    "FolderOptions",
    "Frame",
    "MemoryPlan",
    "Precision",
    "RunOptions",
    "SegmentOptions",
    "TissueOptions",
    "UncertaintyLayer",
    "UncertaintyOptions",
]

Backend = Literal["auto", "onnxruntime", "openvino", "torch"]
Decoding = Literal["exact", "auto", "scaled"]
Detector = Literal["auto", "saturation", "color", "none"]
Frame = Literal["qupath", "level0"]
ObjectType = Literal["annotation", "detection"]
MemoryPlan = Literal["device", "slab", "spill", "blocks"]
Precision = Literal["float32", "bfloat16", "int8"]
UncertaintyLayer = Literal["entropy", "overlap", "tta", "dropout"]

VIEWS = (4, 8)
"""How many turned and mirrored views test-time augmentation may take."""

DETECTORS = "wsiseg.tissue_detectors"
"""Entry points of installed packages that add detectors to the built-in ones."""


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

    def __post_init__(self) -> None:
        _need_choice(self, "detector", Detector, group=DETECTORS)
        _need_number(self, "spacing_um", FINEST_UM, COARSEST_UM)
        for name in ("closing_um", "min_hole_um2", "min_speck_um2"):
            _need_number(self, name)
        _need_number(self, "min_fraction", 0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What the annotations look like."""

    frame: Frame = "qupath"
    """Pixels of the image QuPath shows, or of the whole level 0."""

    simplify_um: float = 0.0
    """Tolerance of simplification in µm; 0 keeps the exact pixel outline."""

    min_area_um2: float = 0.0
    min_hole_um2: float = 0.0
    object_type: ObjectType = "annotation"
    compress: bool = False
    """Write `.geojson.gz` instead of `.geojson`."""

    probabilities: tuple[str, ...] = ()
    """Of scans: classes whose probabilities are written beside the labels; `all`: every one.
    Slides have heatmaps in any case."""

    def __post_init__(self) -> None:
        _need_choice(self, "frame", Frame)
        _need_choice(self, "object_type", ObjectType)
        for name in ("simplify_um", "min_area_um2", "min_hole_um2"):
            _need_number(self, name)
        given = self.probabilities
        if not isinstance(given, tuple | list) or any(
            not isinstance(name, str) or not name for name in given
        ):
            raise _refusal(self, "probabilities", "a tuple of names of classes")
        object.__setattr__(self, "probabilities", tuple(given))


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

    decoding: Decoding = "exact"
    """`scaled` lets JPEG and JPEG 2000 be reduced while decoded: faster, other pixels by a little.
    `auto` does so where the card allows it, decoding is the bottleneck and the probabilities of
    some patches of the slide change by at most 0.01 on average."""

    skip_below: float = 0.0
    """A stage that reads an earlier heatmap runs only where that gives some class at least this
    probability; 0 runs it on all tissue. What that loses is estimated from a sample."""

    memory_bytes: int | None = None
    """The plan is refused above this; `None` means three quarters of the machine's memory."""

    memory_plan: MemoryPlan | None = None
    """Where the sums of a scan's windows are: on the `device` of the network (torch), in memory
    (`slab`), in a file (`spill`), or in memory for one of several `blocks` after the other, whose
    edges are predicted twice. `None`: the first of these that there is room for. No bit of the
    result differs. Slides have plans of their own."""

    def __post_init__(self) -> None:
        _need_choice(self, "backend", Backend)
        _need_choice(self, "precision", Precision)
        _need_choice(self, "decoding", Decoding)
        if self.memory_plan is not None:
            _need_choice(self, "memory_plan", MemoryPlan)
        _need_number(self, "skip_below", 0, 1)
        for name in ("batch_size", "threads", "memory_bytes"):
            if getattr(self, name) is not None:
                _need_number(self, name, 1, whole=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class UncertaintyOptions:
    """Which layers of uncertainty come with the heatmap of the last stage; none by default.

    Each becomes a store of its own, and a mean per object; `docs/uncertainty.md` says what they
    mean and cost.
    """

    layers: tuple[UncertaintyLayer, ...] = ()
    """`entropy` of the probabilities; `overlap`, how far patches that see the same place differ;
    `tta`, how far turned and mirrored patches differ, whose mean then is the heatmap; `dropout`,
    how far networks with some of their units dropped differ. In this order, however given."""

    tta_views: int = 8
    """8: all turns and mirror images of the square; 4: those without quarter turns."""

    dropout_samples: int = 8
    seed: int = 0
    """Of the units that are dropped."""

    def __post_init__(self) -> None:
        known = get_args(UncertaintyLayer)
        given = self.layers
        if not isinstance(given, tuple | list) or any(name not in known for name in given):
            raise _refusal(self, "layers", f"a tuple of {', '.join(known)}")
        object.__setattr__(self, "layers", tuple(name for name in known if name in given))
        for name, low in (("tta_views", 4), ("dropout_samples", 2), ("seed", 0)):
            _need_number(self, name, low, whole=True)
        if self.tta_views not in VIEWS:
            raise _refusal(self, "tta_views", " or ".join(map(str, VIEWS)))


@dataclass(frozen=True, slots=True, kw_only=True)
class DamageOptions:
    """What becomes of a slide of which some blocks cannot be decoded."""

    max_corrupt: float = 0.01
    """The slide fails where more than this share of its tissue is affected, 0-1. A handful of
    tiles is less; a file that was cut short, or lost a row of tiles, is more."""

    degraded: bool = True
    """Let a coarser level stand in for a damaged block; otherwise there is no result for it."""

    def __post_init__(self) -> None:
        _need_number(self, "max_corrupt", 0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentOptions:
    """All options of one segmentation."""

    tissue: TissueOptions = field(default_factory=TissueOptions)
    export: ExportOptions = field(default_factory=ExportOptions)
    run: RunOptions = field(default_factory=RunOptions)
    uncertainty: UncertaintyOptions = field(default_factory=UncertaintyOptions)
    damage: DamageOptions = field(default_factory=DamageOptions)

    def __post_init__(self) -> None:
        _need_group(self, "tissue", TissueOptions)
        _need_group(self, "export", ExportOptions)
        _need_group(self, "run", RunOptions)
        _need_group(self, "uncertainty", UncertaintyOptions)
        _need_group(self, "damage", DamageOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedOptions:
    """All options of computing the vectors of tiles."""

    tissue: TissueOptions = field(default_factory=lambda: TissueOptions(min_fraction=0.5))
    run: RunOptions = field(default_factory=RunOptions)
    parquet: bool = True
    """Write `embeddings.parquet` beside the Zarr store; needs the extra `notebook`."""

    def __post_init__(self) -> None:
        _need_group(self, "tissue", TissueOptions)
        _need_group(self, "run", RunOptions)
        if self.run.decoding != "exact" or self.run.skip_below:
            raise UsageError("vectors need decoding 'exact' and skip_below 0; leave both alone")


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderOptions:
    """How a run over many slides goes; changes no result."""

    again: bool = False
    """Work on slides that have a finished result, too."""

    timeout_s: float | None = None
    """Seconds a slide may take; `None`: any time. The networks then run in a process of its own,
    which can be ended if need be, unless a loaded model is given."""

    grace_s: float = 30.0
    """Seconds after that in which the work may end by itself."""

    expiry_s: float = 120.0
    """Seconds without a sign of life after which a process on another machine counts as dead."""

    attempts: int = 3
    """A slide at one place of which so many processes died is a failure."""

    split_over_gigapixels: float | None = None
    """With a cluster: slides of more are done by several workers; `None`: each by one."""

    wait: bool = True
    """Wait at the end for slides that other processes have, to see that none is lost."""

    isolate: bool = False
    """Open slides in a process of its own only: one that makes a library crash, or takes all
    memory, is a failure, and a new process goes on. For files that nobody vouches for. Needs a
    model by name or folder."""

    def __post_init__(self) -> None:
        for name in ("timeout_s", "grace_s", "expiry_s"):
            if getattr(self, name) is not None:
                _need_number(self, name, 1e-3)
        if self.split_over_gigapixels is not None:
            _need_number(self, "split_over_gigapixels")
        _need_number(self, "attempts", 1, whole=True)

    @property
    def apart(self) -> bool:
        """Whether slides are worked on in a process that can be ended."""
        return self.isolate or self.timeout_s is not None


def _need_number(
    options: object, name: str, low: float = 0, high: float = math.inf, *, whole: bool = False
) -> None:
    """Refuse what is no finite number from `low` to `high`; make NumPy's numbers Python's."""
    value = getattr(options, name)
    is_number = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if not (is_number and low <= value <= high and math.isfinite(value)):
        kind = "a whole number" if whole else "a finite number"
        limits = f"of at least {low}" if math.isinf(high) else f"from {low} to {high}"
        raise _refusal(options, name, f"{kind} {limits}")
    object.__setattr__(options, name, int(value) if whole else float(value))


def _need_choice(options: object, name: str, choices: object, *, group: str = "") -> None:
    """Refuse what is neither of `choices`, a `Literal`, nor an entry point of `group`."""
    value, known = getattr(options, name), get_args(choices)
    if value in known:
        return
    if group:
        from importlib.metadata import entry_points  # slow to import, and seldom needed

        known = (*known, *sorted(entry_points(group=group).names))
    if value not in known:
        raise _refusal(options, name, f"one of {', '.join(known)}")


def _need_group(options: object, name: str, group: type) -> None:
    """Refuse what is no `group` of options."""
    if not isinstance(getattr(options, name), group):
        raise _refusal(options, name, f"{group.__name__}(...)")


def _refusal(options: object, name: str, needed: str) -> UsageError:
    found = getattr(options, name)
    return UsageError(f"{type(options).__name__}.{name}: needed {needed}, found {found!r}")
