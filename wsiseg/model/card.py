"""What is known about a network: `model.json`. Data, never code; imports no torch."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    ValidationError,
    model_validator,
)

from wsiseg.errors import ModelCardError
from wsiseg.files import require_file
from wsiseg.model.card_parts import (
    GAUSSIANS,
    RGB,
    SCAN,
    SLIDE,
    Calibration,
    CardPart,
    Check,
    ClassSpec,
    FileName,
    InputSpec,
    InstanceSpec,
    NormalizeStep,
    OutputSpec,
    Provenance,
    ScaleStep,
    StageSpec,
    Step,
    Task,
    Text,
    WeightsSpec,
)
from wsiseg.model.scan_card import (
    RegionSpec,
    RescaleStep,
    ScanSpec,
)

__all__ = [
    "GAUSSIANS",
    "RGB",
    "SCAN",
    "SLIDE",
    "Calibration",
    "Check",
    "ClassSpec",
    "InputSpec",
    "InstanceSpec",
    "ModelCard",
    "NormalizeStep",
    "OutputSpec",
    "Provenance",
    "ScaleStep",
    "StageSpec",
    "Step",
    "Task",
    "WeightsSpec",
    "card_schema",
]
CARD_FILE = "model.json"
"""Name of the card inside a model package."""


class ModelCard(CardPart):
    """`model.json`: everything that is needed to run a network right."""

    schema_version: Literal[1]
    name: FileName
    version: Text
    task: Task
    axes: Literal["yx", "zyx"]
    classes: Annotated[tuple[ClassSpec, ...], Field(max_length=250)] = ()
    """At least two; none for task `embedding`."""

    stages: Annotated[tuple[StageSpec, ...], Field(min_length=1, max_length=16)]
    scan: ScanSpec | None = None
    """Needed by axes `zyx`."""

    regions: Annotated[tuple[RegionSpec, ...], Field(max_length=250)] = ()
    """Channels of networks whose channels overlap (activation `sigmoid`), in the order in which
    they are written; empty: the channels are the classes."""

    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Two classes: the second wins at or above this probability; `None`: the most probable."""

    calibration: Calibration = Calibration()
    instances: InstanceSpec | None = None
    """How pixels become objects; `None`: each connected region of a class is one."""

    provenance: Provenance
    check: Check = Check()

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of what networks give per pixel: regions, or else classes."""
        return tuple(part.name for part in self.regions or self.classes)

    @property
    def scan_channels(self) -> tuple[str, ...]:
        """Channels that scans have for this model, in order."""
        read = (spec for stage in self.stages for spec in stage.inputs if spec.source == SCAN)
        return tuple(dict.fromkeys(name for spec in read for name in spec.channels))

    @property
    def title(self) -> str:
        """Name and version, as people are told them."""
        return f"{self.name} {self.version}"

    @model_validator(mode="after")
    def _task(self) -> Self:
        kinds = [stage.kind for stage in self.stages]
        if self.task == "embedding":
            if self.classes or kinds != ["embedder"]:
                raise ValueError(
                    "task 'embedding' needs one stage of kind 'embedder' and no classes, found "
                    f"kinds {kinds} and {len(self.classes)} classes"
                )
        elif len(self.classes) < 2 or "embedder" in kinds:
            raise ValueError(
                f"task {self.task!r} needs at least two classes and no stage of kind 'embedder', "
                f"found {len(self.classes)} classes and kinds {kinds}"
            )
        return self

    @model_validator(mode="after")
    def _names(self) -> Self:
        _unique("class", (c.name for c in self.classes))
        _unique("stage", (s.name for s in self.stages))
        _unique("output", [SLIDE, SCAN, *(s.output.name for s in self.stages)])
        if self.threshold is not None and len(self.classes) != 2:
            raise ValueError(
                f"a threshold needs two classes, found {len(self.classes)}; remove the threshold"
            )
        if self.calibration.method != "none" and self.stages[-1].output.activation == "none":
            raise ValueError("calibration needs raw outputs; activation 'none' has none")
        if self.calibration.method == "vector":
            needed = 2 * len(self.classes)
            if len(self.calibration.values) != needed:
                raise ValueError(
                    f"calibration 'vector' of {len(self.classes)} classes needs {needed} values, "
                    f"found {len(self.calibration.values)}"
                )
        return self

    @model_validator(mode="after")
    def _scan(self) -> Self:
        volumes = self.axes == "zyx"
        if volumes != (self.scan is not None):
            raise ValueError(
                f"axes {self.axes!r} {'need' if volumes else 'have no'} 'scan'; "
                f"{'add' if volumes else 'remove'} it"
            )
        names = {c.name for c in self.classes}
        if unknown := [r.label for r in self.regions if r.label not in names]:
            raise ValueError(f"regions name {unknown}, which are no classes of this model")
        _unique("region", (r.name for r in self.regions))
        if self.regions and (self.threshold is not None or not volumes):
            raise ValueError("regions are for axes 'zyx' and go without a threshold")
        for stage in self.stages:
            if stage.reads_scan != volumes:
                raise ValueError(
                    f"stage {stage.name!r}: patch {stage.inputs[0].patch} needs {len(self.axes)} "
                    f"values, one per axis of {self.axes!r}"
                )
            check_scan_stage(stage, regions=bool(self.regions))
            self._check_within(stage)
            if self.scan is not None:
                _check_masks(stage, self.scan)
        return self

    @model_validator(mode="after")
    def _objects(self) -> Self:
        *earlier, last = self.stages
        for stage in self.stages:
            if stage.output.offsets and (stage in earlier or stage.kind != "segmenter"):
                raise ValueError(
                    f"stage {stage.name!r}: offsets are for a last stage of kind 'segmenter'"
                )
        if last.output.offsets and self.calibration.method != "none":
            raise ValueError("calibration and offsets do not go together; remove the calibration")
        spec = self.instances
        if spec is None:
            return self
        if last.kind != "segmenter" or self.axes != "yx":
            raise ValueError("instances need axes 'yx' and a last stage of kind 'segmenter'")
        if spec.split == "offsets" and not last.output.offsets:
            raise ValueError(f"split 'offsets' needs offsets in the output of {last.name!r}")
        names = [c.name for c in self.classes[1:]]
        for name in (spec.cell, spec.nucleus):
            if name is not None and name not in names:
                raise ValueError(f"instances: {name!r} is no class; needed one of {names}")
        return self

    @model_validator(mode="after")
    def _inputs(self) -> Self:
        known = {SCAN if self.axes == "zyx" else SLIDE}
        classes = self.channel_names
        for stage in self.stages:
            for i, spec in enumerate(stage.inputs):
                where = f"input {i} of stage {stage.name!r}"
                if spec.source not in known:
                    raise ValueError(
                        f"{where} reads {spec.source!r}, which no earlier stage gives; known "
                        f"here: {sorted(known)}"
                    )
                self._check_axes(where, spec)
                _check_channels(where, spec, classes, planar=self.axes == "yx")
            known.add(stage.output.name)
        return self

    @model_validator(mode="after")
    def _files(self) -> Self:
        reserved = {CARD_FILE, self.check.file, "README.md"}
        seen: dict[str, tuple[str, str]] = {}
        for stage, weights in ((s, w) for s in self.stages for w in s.every_weights):
            identity = (weights.sha256, weights.architecture)
            if weights.file in reserved or self.check.file == CARD_FILE:
                raise ValueError(f"stage {stage.name!r}: file name {weights.file!r} is taken")
            if seen.setdefault(weights.file, identity) != identity:
                raise ValueError(
                    f"stage {stage.name!r}: {weights.file} has another hash or architecture than "
                    "in an earlier stage"
                )
        return self

    def _check_within(self, stage: StageSpec) -> None:
        """Refuse a look around what was found that is not the last of several."""
        if stage.within is None or not stage.reads_scan:
            return
        where = f"stage {stage.name!r}: within"
        if len(self.stages) == 1 or stage is not self.stages[-1]:
            raise ValueError(f"{where} is for the last of several stages")
        if any(spec.source != SCAN for spec in stage.inputs):
            raise ValueError(f"{where} needs inputs from the scan alone")
        early = [spec for one in self.stages[:-1] for spec in one.inputs if spec.source == SCAN]
        for inputs in (early, stage.inputs):
            read = tuple(dict.fromkeys(name for spec in inputs for name in spec.channels))
            if read != self.scan_channels:
                raise ValueError(
                    f"{where} needs the same channels before and in it, in the same order: found "
                    f"{list(read)} of {list(self.scan_channels)}"
                )
        names = [one.name for one in self.classes[1:]]
        if unknown := [name for name in stage.within.classes if name not in names]:
            raise ValueError(f"{where} names {unknown}, which are none of the classes {names}")

    def _check_axes(self, where: str, spec: InputSpec) -> None:
        sizes = {"patch": spec.patch, "stride": spec.stride, "spacing_um": spec.spacing_um}
        for field, value in sizes.items():
            if value is not None and len(value) != len(self.axes):
                raise ValueError(
                    f"{where}: {field} {value} needs {len(self.axes)} values, one per axis of "
                    f"{self.axes!r}"
                )

    @classmethod
    def read(cls, path: Path) -> "ModelCard":
        """Read `model.json`; raise `ModelCardError` naming the first wrong field."""
        try:
            require_file(path)
            return cls.parse(path.read_bytes(), name=str(path))
        except OSError as error:
            raise ModelCardError(f"{path}: cannot be read: {error.strerror}") from error

    @classmethod
    def parse(cls, text: bytes | str, *, name: str = "model card") -> "ModelCard":
        """Return the card in a JSON text; `name` is what messages call it.

        Raises
        ------
        ModelCardError
            If it is no JSON, or a field is unknown, missing or wrong; names the first.
        """
        try:
            return cls.model_validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "card"
            reason = first["msg"].removeprefix("Value error, ")
            raise ModelCardError(f"{name}: {field}: {reason}; fix the card") from error

    def _repr_html_(self) -> str:
        from wsiseg.model.describe import card_html

        return card_html(self)

    def to_json(self) -> str:
        """Return the text of `model.json`."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"


def card_schema() -> dict[str, Any]:
    """Return the JSON schema of `model.json`; a copy is kept in `docs/`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **ModelCard.model_json_schema(by_alias=True),
    }


def check_scan_stage(stage: StageSpec, *, regions: bool) -> None:
    """Refuse of a stage what only volumes, or only slides, have.

    Raises
    ------
    ValueError
        With the remedy.
    """
    where, output = f"stage {stage.name!r}", stage.output
    if not stage.reads_scan:
        for field, found in (
            ("extent 'slab'", stage.extent == "slab"),
            ("folds", stage.folds),
            ("windows", stage.windows),
            ("mirror_axes", stage.mirror_axes),
            ("within", stage.within),
            ("stitched 'raw'", output.stitched == "raw"),
            (f"blend {output.blend!r}", output.blend in GAUSSIANS),
            ("resample", any(spec.resample for spec in stage.inputs)),
            ("encoding 'labels'", any(spec.encoding == "labels" for spec in stage.inputs)),
        ):
            if found:
                raise ValueError(f"{where}: {field} is for axes 'zyx' only; remove it")
        return
    if stage.kind != "segmenter":
        raise ValueError(f"{where}: kind {stage.kind!r} is for axes 'yx' only")
    if stage.windows and (any(output.halo or ()) or stage.inputs[0].stride):
        raise ValueError(f"{where}: a window plan goes without halo and stride; remove them")
    if stage.windows and output.blend == "crop":
        raise ValueError(f"{where}: windows overlap; needed a blend such as 'gaussian'")
    if max(stage.mirror_axes, default=0) > 2 or len(set(stage.mirror_axes)) < len(
        stage.mirror_axes
    ):
        raise ValueError(f"{where}: mirror_axes {stage.mirror_axes} are no axes, each once")
    if regions and output.activation == "softmax":
        raise ValueError(f"{where}: regions overlap, so the activation is 'sigmoid'")
    for spec in stage.inputs:
        if any(step.name == "n4" for step in spec.steps[1:]):
            raise ValueError(f"{where}: n4 is the first step, or none")


def _check_masks(stage: StageSpec, scan: ScanSpec) -> None:
    """Refuse steps in the mask beside others that measure, or after resampling."""
    for spec in stage.inputs:
        regions = [getattr(step, "region", "all") for step in spec.steps]
        alone = len(spec.steps) == 1 and scan.order == "normalize_first"
        if "mask" in regions and not alone:
            raise ValueError(
                f"stage {stage.name!r}: region 'mask' is for the only step of an input, and for "
                "order 'normalize_first'"
            )


def _unique(kind: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{kind} name {name!r} is taken; names must differ")
        seen.add(name)


def _check_channels(where: str, spec: InputSpec, classes: tuple[str, ...], *, planar: bool) -> None:
    """Compare the channels with what their source has, and the steps with the channels."""
    _unique(f"{where}: channel", spec.channels)
    if not spec.reads_image:
        if unknown := [c for c in spec.channels if c not in classes]:
            raise ValueError(
                f"{where}: channels {unknown} are no classes of this model; known: {list(classes)}"
            )
    elif planar and spec.channels != RGB:
        raise ValueError(
            f"{where}: a slide gives channels ['R', 'G', 'B'], found {list(spec.channels)}; a "
            "network trained on another order needs the weights of its first layer reordered"
        )
    for step in spec.steps:
        ours = isinstance(step, RescaleStep) and step.to == (0.0, 1.0)
        if planar and not (ours or isinstance(step, ScaleStep | NormalizeStep)):
            raise ValueError(f"{where}: step {step.name!r} is for scans only; remove it")
        if isinstance(step, NormalizeStep) and {len(step.mean), len(step.std)} != {
            len(spec.channels)
        }:
            raise ValueError(
                f"{where}: normalize needs {len(spec.channels)} means and deviations, one per "
                f"channel; found {len(step.mean)} and {len(step.std)}"
            )
