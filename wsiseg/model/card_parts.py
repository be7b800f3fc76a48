"""The parts of a card: classes, inputs, outputs, weights, stages, calibration, provenance."""

import unicodedata
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    JsonValue,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from wsiseg.geometry import COARSEST_UM, FINEST_UM
from wsiseg.model.activation import OFFSETS, Scaling
from wsiseg.model.scan_card import (
    ClipStep,
    N4Step,
    PercentileClipStep,
    PercentileWindowStep,
    ResampleSpec,
    RescaleStep,
    WindowSpec,
    WindowStep,
    WithinSpec,
    ZscoreStep,
)

__all__ = [
    "GAUSSIANS",
    "RGB",
    "SCAN",
    "SLIDE",
    "Byte",
    "Calibration",
    "CardPart",
    "Check",
    "ClassSpec",
    "FileName",
    "Identifier",
    "InputSpec",
    "InstanceSpec",
    "Label",
    "NormalizeStep",
    "OutputSpec",
    "Provenance",
    "ScaleStep",
    "SpacingUm",
    "StageSpec",
    "Step",
    "Task",
    "Text",
    "WeightsSpec",
]

SLIDE = "slide"
"""What an input reads when it reads no earlier stage."""

SCAN = "scan"
"""The same for volumes."""

GAUSSIANS = ("gaussian-monai", "gaussian-nnunet")

RGB = ("R", "G", "B")


def _printable(name: str) -> str:
    """Refuse what QuPath refuses (blank, line break) or silently changes (outer spaces)."""
    if name != name.strip() or not name:
        raise ValueError(f"name {name!r} is blank or has outer spaces; remove them")
    if any(unicodedata.category(c) in {"Cc", "Zl", "Zp", "Cs"} for c in name):
        raise ValueError(f"name {name!r} holds a line break or control character; remove it")
    return name


Byte = Annotated[int, Field(ge=0, le=255)]
SpacingUm = Annotated[float, Field(ge=FINEST_UM, le=COARSEST_UM)]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]
Label = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
Text = Annotated[str, Field(min_length=1, pattern=r"\S")]

Task = Literal["semantic", "embedding"]
"""What a model gives: a class for each pixel, or a vector for each patch."""

OTHER_WEIGHTS = ("pretrained", "checkpoint")
"""How arguments begin by which networks of timm and MONAI would fetch weights, or load any file as
weights, a pickle that runs code among them."""


class CardPart(BaseModel):
    """A part of the card; a misspelled key is an error, not a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ClassSpec(CardPart):
    """One output class; the first is what stays unannotated."""

    name: Label
    color: tuple[Byte, Byte, Byte] = (64, 64, 64)


class ScaleStep(CardPart):
    """Divide every value."""

    name: Literal["scale"]
    divide_by: PositiveFloat


class NormalizeStep(CardPart):
    """Subtract a mean and divide by a standard deviation, per channel."""

    name: Literal["normalize"]
    mean: tuple[float, ...]
    std: tuple[PositiveFloat, ...]


Step = Annotated[
    ScaleStep
    | NormalizeStep
    | ClipStep
    | WindowStep
    | PercentileClipStep
    | PercentileWindowStep
    | ZscoreStep
    | RescaleStep
    | N4Step,
    Field(discriminator="name"),
]
"""Of slides only `scale`, `normalize` and, where the whole is seen, `rescale` to 0..1, which run
inside the network's graph. Those of scans run before it, as most of them measure the scan."""


class InputSpec(CardPart):
    """One input of a stage. Sizes are pixels at `spacing_um`, one value per axis (y, x)."""

    model_config = ConfigDict(populate_by_name=True)

    source: Annotated[str, Field(alias="from")]
    """`slide` or `scan`, or the output name of an earlier stage."""

    channels: Annotated[tuple[Label, ...], Field(min_length=1)]
    """`R`, `G`, `B` of the slide, names of a scan's channels, or class names of an earlier
    output."""

    spacing_um: tuple[SpacingUm, ...] | None = None
    """Required for extent `window`; `None` of a scan: as it is stored."""

    spacing_tolerance: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """How much coarser than `spacing_um` (relative) a slide may be; it is then read as it is."""

    spacing_range_um: tuple[SpacingUm, SpacingUm] | None = None
    """Allowed effective spacing of a letterboxed view; required for extent `whole`."""

    patch: tuple[PositiveInt, ...]
    stride: tuple[PositiveInt, ...] | None = None
    """Distance between patches; default: the patch without its halo. First input only."""

    steps: tuple[Step, ...] = ()
    resample: ResampleSpec | None = None
    """Scans only; default: linear, outer faces kept."""

    encoding: Literal["probabilities", "labels"] = "probabilities"
    """How an earlier stage is read. `labels` (volumes only; nnU-Net's cascade): 1 where the class
    is the most probable one on the grid of this input, else 0."""

    @property
    def reads_image(self) -> bool:
        """Whether it reads the slide or scan, and not an earlier stage."""
        return self.source in (SLIDE, SCAN)


class OutputSpec(CardPart):
    """What a stage gives."""

    name: Identifier
    activation: Literal["softmax", "sigmoid", "none"] = "softmax"
    """What turns network values into probabilities; `none` where they are probabilities."""

    halo: tuple[NonNegativeInt, ...] | None = None
    """Pixels per side that are predicted and thrown away."""

    blend: Literal["crop", "constant", "gaussian", "gaussian-monai", "gaussian-nnunet"] = "crop"
    stitched: Literal["probabilities", "raw"] = "probabilities"
    """What is blended where windows overlap. `raw` (MONAI, nnU-Net; volumes only): the activation
    comes after blending and resampling."""

    offsets: Annotated[
        bool,
        Field(
            description="After the classes come two channels: how far a pixel lies from the centre "
            "of its object, down and to the right, -1 and 1 at its edges. Last stage, segmenter."
        ),
    ] = False
    """After the classes come two channels: how far each pixel lies below and to the right of the
    centre of its object, -1 and 1 at its edges, the horizontal and vertical maps of HoVer-Net."""

    max_patch: Annotated[
        tuple[PositiveInt, ...] | None,
        Field(
            description="Largest window, pixels per axis, that the network may run on instead of "
            "patches: 2 * halo and whole steps of patch - 2 * halo. States that the values inside "
            "the halo are the same there; this is compared before it is relied on."
        ),
    ] = None
    """Largest window the network may run on instead of a patch, pixels per axis: `2 * halo` and a
    whole number of steps of `patch - 2 * halo`. States that what lies inside the halo is then the
    same, which is compared before it is relied on. `None`: patches only."""


class WeightsSpec(CardPart):
    """Where the weights are and what they must hash to."""

    file: FileName
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    architecture: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")]
    """`wsiseg.<name>`, `monai.<name>`, `timm.<name>`, or `onnx` for a graph that is complete."""

    arguments: dict[str, JsonValue] = {}
    """Keyword arguments of the architecture, whatever JSON can say. For `onnx` only `output`: the
    name of the graph's output to use, where it has several."""

    layout: Literal["channels_first", "channels_last"] | None = None
    """Axis order of the inputs of an `onnx` graph; `None`: told by its declared shape."""

    @field_validator("arguments")
    @classmethod
    def _no_other_weights(cls, arguments: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if found := sorted(name for name in arguments if name.lower().startswith(OTHER_WEIGHTS)):
            raise ValueError(f"weights come from the package alone: leave out {', '.join(found)}")
        return arguments


class StageSpec(CardPart):
    """One network and how it is walked over the slide."""

    name: Identifier
    kind: Literal["classifier", "segmenter", "embedder"]
    """One value per class and patch, one per class and pixel, or one vector per patch, whose length
    is that of the output recorded in the check."""

    extent: Literal["window", "whole", "slab"] = "window"
    """`whole` sees everything in one patch; `slab` (volumes) all of the last two axes, brought to
    the size of the patch, and steps along the first."""
    fit: Literal["letterbox", "stretch"] = "letterbox"
    """How a view of the whole slide fills its patch: its shape kept, with padding below or to the
    right, or each axis reduced by itself."""

    inputs: Annotated[tuple[InputSpec, ...], Field(min_length=1, max_length=16)]
    """The first input defines the grid."""

    output: OutputSpec
    weights: WeightsSpec
    folds: Annotated[tuple[WeightsSpec, ...], Field(max_length=31)] = ()
    """More weights of the network: the result is the mean of all raw values, patch by patch."""

    windows: WindowSpec | None = None
    """Where windows lie, if not on the regular grid of patch, stride and halo. Volumes only."""

    within: WithinSpec | None = None
    """Of the last stage: it looks around what the stage before it found. Volumes only."""

    mirror_axes: tuple[NonNegativeInt, ...] = ()
    """The result is the mean of the raw values over all mirrorings along these axes. Volumes
    only."""

    allows_scaled_decoding: bool = False
    """Whether pixels of the slide may come from a decoder that reduces, if asked for."""

    @model_validator(mode="after")
    def _extent(self) -> Self:
        if self.reads_scan:
            return self
        window = self.extent == "window"
        for i, spec in enumerate(self.inputs):
            where = f"input {i} of stage {self.name!r}"
            if window and (spec.spacing_um is None or spec.spacing_range_um is not None):
                raise ValueError(f"{where}: extent 'window' needs spacing_um, no spacing_range_um")
            if not window and (spec.spacing_um is not None or spec.spacing_range_um is None):
                raise ValueError(f"{where}: extent 'whole' needs spacing_range_um, no spacing_um")
            if spec.spacing_range_um and spec.spacing_range_um[0] > spec.spacing_range_um[1]:
                raise ValueError(f"{where}: spacing_range_um {spec.spacing_range_um} runs backward")
            if spec.stride is not None and (i > 0 or not window):
                raise ValueError(
                    f"{where}: only the first input of extent 'window' has a stride; remove it"
                )
        if window and self.fit != "letterbox":
            raise ValueError(f"stage {self.name!r}: fit is for extent 'whole'; remove it")
        for i, spec in enumerate(self.inputs):
            steps = [step.name for step in spec.steps]
            on_slide = not window and spec.source == SLIDE
            if "rescale" in steps[1:] or ("rescale" in steps and not on_slide):
                raise ValueError(
                    f"input {i} of stage {self.name!r}: rescale is the first step, and of the "
                    "slide in extent 'whole': in windows it would show their borders"
                )
        if not window and self.kind != "segmenter":
            raise ValueError(
                f"stage {self.name!r}: kind {self.kind!r} gives values per patch, so its extent is "
                "'window'"
            )
        if not window and any(self.output.halo or ()):
            raise ValueError(f"stage {self.name!r}: extent 'whole' has no halo; remove it")
        return self

    @model_validator(mode="after")
    def _tiling(self) -> Self:
        patch, halo = self.inputs[0].patch, self.output.halo
        halo = halo or (0,) * len(patch)
        if len(halo) != len(patch):
            raise ValueError(f"stage {self.name!r}: halo {halo} needs {len(patch)} values")
        inner = tuple(p - 2 * h for p, h in zip(patch, halo, strict=True))
        if self.kind != "segmenter" and any(halo):
            raise ValueError(
                f"stage {self.name!r}: kind {self.kind!r} gives values per patch and has no halo"
            )
        if min(inner) < 1:
            raise ValueError(
                f"stage {self.name!r}: halo {halo} leaves nothing of patch {patch}; needed "
                "2 * halo < patch"
            )
        stride = self.inputs[0].stride or inner
        if len(stride) == len(patch) and any(s > i for s, i in zip(stride, inner, strict=True)):
            raise ValueError(
                f"stage {self.name!r}: stride {stride} leaves gaps between patches of {patch} "
                f"with halo {halo}; needed at most {inner}"
            )
        return self

    @model_validator(mode="after")
    def _windows(self) -> Self:
        largest = self.output.max_patch
        if largest is None:
            return self
        first, where = self.inputs[0], f"stage {self.name!r}: max_patch {largest}"
        halo = self.output.halo or ()
        if (self.kind, self.extent) != ("segmenter", "window") or not any(halo):
            raise ValueError(
                f"{where} is for kind 'segmenter' of extent 'window' with a halo; remove it"
            )
        step = self.step
        if self.output.blend != "crop" or (first.stride or step) != step:
            raise ValueError(
                f"{where} needs blend 'crop' and stride {step}, found {self.output.blend!r} and "
                f"{first.stride}; remove it"
            )
        if len(largest) != len(first.patch):
            raise ValueError(f"{where} needs {len(first.patch)} values")
        fits = tuple(
            p + max(0, n - p) // s * s for n, p, s in zip(largest, first.patch, step, strict=True)
        )
        if fits != largest:
            raise ValueError(
                f"{where}: needed patch {first.patch} and whole steps of {step}, such as {fits}"
            )
        found = {(spec.patch, spec.spacing_um) for spec in self.inputs}
        if len(found) > 1:
            raise ValueError(
                f"{where} needs one patch and one spacing_um for all inputs, found "
                f"{sorted(found)}; remove it"
            )
        return self

    @property
    def reads_scan(self) -> bool:
        """Whether it is a stage of a model for volumes."""
        return len(self.inputs[0].patch) == 3

    @property
    def every_weights(self) -> tuple[WeightsSpec, ...]:
        """The weights and those of further folds."""
        return (self.weights, *self.folds)

    @property
    def as_folds(self) -> tuple["StageSpec", ...]:
        """The stage once for each of its weights, with these alone."""
        if not self.folds:
            return (self,)
        parts = ({"weights": weights, "folds": ()} for weights in self.every_weights)
        return tuple(self.model_copy(update=part) for part in parts)

    @property
    def step(self) -> tuple[int, ...]:
        """Pixels per axis that a patch decides: what its halo leaves."""
        patch = self.inputs[0].patch
        halo = self.output.halo or (0,) * len(patch)
        return tuple(p - 2 * h for p, h in zip(patch, halo, strict=True))

    def values(self, classes: int) -> int:
        """Return how many values the network gives per patch or pixel for so many classes."""
        return classes + OFFSETS * self.output.offsets

    @model_validator(mode="after")
    def _vectors(self) -> Self:
        if self.kind == "embedder" and self.output.activation != "none":
            raise ValueError(
                f"stage {self.name!r}: activation {self.output.activation!r} is for probabilities; "
                "an embedder needs activation 'none'"
            )
        return self

    @model_validator(mode="after")
    def _weights(self) -> Self:
        weights = self.weights
        if weights.architecture == "onnx":
            if unknown := weights.arguments.keys() - {"output"}:
                raise ValueError(f"stage {self.name!r}: onnx has no argument {sorted(unknown)}")
        elif weights.layout is not None:
            raise ValueError(f"stage {self.name!r}: layout is for architecture 'onnx' only")
        return self


class Calibration(CardPart):
    """How raw outputs become probabilities one can trust.

    `temperature` divides the last stage's raw outputs by its one value before the activation,
    `vector` multiplies those of each class by its weight and adds its bias: the values are the
    weights of all classes, then the biases (Guo et al. 2017,
    https://proceedings.mlr.press/v70/guo17a.html).
    """

    method: Literal["none", "temperature", "vector"] = "none"
    values: tuple[FiniteFloat, ...] = (1.0,)

    @property
    def scaling(self) -> Scaling:
        """What is done to raw values."""
        if self.method == "vector":
            half = len(self.values) // 2
            return Scaling(self.values[:half], self.values[half:])
        return Scaling((1 / self.values[0],))

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        if self.method == "vector":
            if len(self.values) < 4 or len(self.values) % 2:
                raise ValueError(
                    "calibration 'vector' needs a weight and a bias per class, found "
                    f"{len(self.values)} values"
                )
            return self
        if len(self.values) != 1 or self.values[0] <= 0:
            raise ValueError(
                f"calibration needs exactly one value above 0, found {list(self.values)}"
            )
        if self.method == "none" and self.values != (1.0,):
            raise ValueError(
                f"calibration value {self.values[0]} would be ignored by method 'none'; "
                "set method 'temperature'"
            )
        return self


class InstanceSpec(CardPart):
    """How the pixels of a dense model become objects."""

    split: Literal["none", "distance", "offsets"] = "none"
    """Objects that touch: not told apart, at necks of their shape, or by the offsets of the last
    stage."""

    depth: PositiveFloat | None = None
    """How much deeper the way between two objects is than the centre of the smaller one: µm for
    `distance` (default 0.75), a share of the way from centre to edge for `offsets` (0.3)."""

    cell: Label | None = None
    nucleus: Label | None = None
    """Classes of a cell's body and of its nucleus, which become one object."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.cell is None) != (self.nucleus is None) or (
            self.cell is not None and self.cell == self.nucleus
        ):
            raise ValueError(
                f"cell {self.cell!r} and nucleus {self.nucleus!r}: needed two classes, or neither"
            )
        if self.split == "none" and self.depth is not None:
            raise ValueError("depth is for split 'distance' or 'offsets'; remove it")
        if self.split == "offsets" and self.depth is not None and self.depth > 1:
            raise ValueError(f"depth {self.depth}: needed a share up to 1 for split 'offsets'")
        return self


class Provenance(CardPart):
    """Where the model comes from and what it is for."""

    license: Text
    citation: str = ""
    trained_on: Text
    intended_use: Text
    limits: Text
    metrics: dict[str, float | str] = {}


class Check(CardPart):
    """An input and the output it must give, run once when the model is loaded.

    Outputs agree when they differ by at most `tolerance * max(1, largest |expected value|)`.
    """

    file: FileName = "check.npz"
    tolerance: PositiveFloat = 1e-4
    int8_tolerance: PositiveFloat = 0.05
    """The tolerance at reduced precision (int8, bfloat16)."""
