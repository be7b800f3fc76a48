"""What `wsiseg doctor` says: rates and counts in, seconds, bytes and the bottleneck out."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

__all__ = ["Checkup", "Machine", "Rates", "StageRates", "StageWork", "StepName", "Work"]

StepName = Literal[
    "tissue", "plan", "file", "decode", "reduce", "cut", "copy", "predict", "write", "files"
]

READING: tuple[StepName, ...] = ("file", "decode", "reduce", "cut")
DEVICE: tuple[StepName, ...] = ("copy", "predict")
ONCE: tuple[StepName, ...] = ("tissue", "plan", "files")
"""Before and after the stages, when nothing else runs."""

FIXED_BYTES = 6_000
"""Of `run.json` and the attributes of the Zarr groups."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What is there to work with."""

    cores: int
    """Those this process may use."""

    memory_bytes: int
    gpus: int
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StageRates:
    """How fast one stage of the model goes, all its workers busy."""

    stage: str
    cut_per_s: float
    """Patches cut from decoded pixels and put into batches."""

    predict_per_s: float
    """Patches through the network; on a GPU with the copies there and back."""

    start_s: float = 0.0
    """What the first calls take longer than later ones: libraries allocate and choose kernels."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What was measured on this machine and this slide."""

    file_mb_s: float | None
    """Compressed bytes, the first time they are read here. The system's file cache may have served
    them. `None` where the reader does not say where tiles lie, or the file is not a local one."""

    decode_one_mpx_s: float
    """Million level pixels decoded per second by one thread."""

    decode_mpx_s: float
    """The same with all cores of the run."""

    reduce_mpx_s: float | None
    """Million level pixels reduced to the model's spacing; `None` where none are."""

    scaled_gain: float | None
    """How many times faster tissue is read where the codec reduces while it decodes; `None` where
    it cannot for the first stage's spacing, or the model's card does not allow it."""

    copy_mb_s: float | None
    """From pinned memory of the host to the GPU; `None` without one."""

    write_mpx_s: float
    """Million output pixels stitched, encoded and written into heatmap and mask, by one thread."""

    outline_mpx_s: float
    """Million mask pixels outlined and written as GeoJSON, by one thread."""

    stages: tuple[StageRates, ...]


@dataclass(frozen=True, slots=True)
class StageWork:
    """What one stage has to do on the whole slide."""

    stage: str
    patches: int
    """Through the network, those that fill up batches included."""

    batch_size: int
    workers: int
    batch_bytes: int
    """Inputs of one batch."""

    output_mpx: float
    """Million pixels written: those of tiles with tissue."""

    patch: str
    """What the network runs on, such as `64 x 64 px`."""


@dataclass(frozen=True, slots=True)
class Work:
    """What there is to do on the whole slide, and what takes no rate to know."""

    compressed_mb: float
    decode_mpx: float
    """Million level pixels of the compressed tiles that the stages touch."""

    reduce_mpx: float
    """The same, once per stage that reads the level at a coarser spacing."""

    stages: tuple[StageWork, ...]
    tissue_s: float
    """Opening the slide and finding tissue, which were done in full."""

    plan_s: float
    """Planning, which times a batch of each stage: done in full, too."""

    picture_s: float
    """Drawing and packing the overview, done in full but for the objects."""

    output_bytes_per_px: float
    """Of heatmap and mask on disk, coarser levels included, for each pixel of the sample."""

    outline_bytes_per_px: float
    """Of GeoJSON, for each mask pixel of the sample."""

    picture_bytes: int
    """Of the overview and the tissue outline."""


@dataclass(frozen=True, slots=True)
class Checkup:
    """How long a segmentation will take here, why, and what would help."""

    slide: str
    model: str
    backend: str
    device: str
    precision: str
    cores_used: int
    machine: Machine
    rates: Rates
    work: Work
    projected_memory_bytes: int
    """Peak resident memory by the plan."""

    free_disk_bytes: int
    """In the file system of the output folder."""

    start_s: float
    """Starting the command, where it is one, and loading the model; once per run, not per slide.
    Exporting and tuning the model the first time on a machine count, too."""

    remedies: tuple[str, ...] = ()

    @property
    def on_device(self) -> bool:
        """Whether the network runs beside the cores, not on them."""
        return self.device != "cpu"

    @property
    def seconds(self) -> dict[StepName, float]:
        """Seconds of each step for the slide, with all it may use.

        Writing has a thread of its own, on the cores of the workers where those predict.
        """
        rates, work = self.rates, self.work
        pairs = list(zip(work.stages, rates.stages, strict=True))
        outputs = sum(stage.output_mpx for stage in work.stages)
        copied = sum(w.patches / w.batch_size * w.batch_bytes for w in work.stages) / 1e6
        last = work.stages[-1].output_mpx
        shared = 1 if self.on_device else self.cores_used
        return {
            "tissue": work.tissue_s,
            "plan": work.plan_s,
            "file": _over(work.compressed_mb, rates.file_mb_s),
            "decode": work.decode_mpx / rates.decode_mpx_s,
            "reduce": _over(work.reduce_mpx, rates.reduce_mpx_s),
            "cut": sum(w.patches / r.cut_per_s for w, r in pairs),
            "copy": _over(copied, rates.copy_mb_s),
            "predict": sum(r.start_s + w.patches / r.predict_per_s for w, r in pairs),
            "write": outputs / rates.write_mpx_s / shared,
            "files": work.picture_s + last / rates.outline_mpx_s,
        }

    @property
    def total_s(self) -> float:
        """Seconds for the slide, from opening it to its last file.

        On a CPU the steps share the cores, so their seconds add up. With a GPU reading, the device
        and writing run at once, and the slowest of the three decides; a prediction that was
        measured holds its copies.
        """
        seconds = self.seconds
        if not self.on_device:
            return sum(seconds.values())
        return max(self._at_once.values()) + sum(seconds[step] for step in ONCE)

    @property
    def bottleneck(self) -> StepName:
        """The step that takes longest; planning, which costs any slide the same, does not count.

        With a GPU the steps of reading count together, since they share the cores: where their sum
        decides, it is the longest of them.
        """
        seconds = self.seconds
        alone = ONCE if self.on_device else tuple(seconds)
        groups: dict[tuple[StepName, ...], float]
        groups = {(step,): seconds[step] for step in alone if step != "plan"}
        if self.on_device:
            groups |= self._at_once
        slowest = max(groups, key=groups.__getitem__)
        return max(slowest, key=seconds.__getitem__)

    @property
    def _at_once(self) -> dict[tuple[StepName, ...], float]:
        """Seconds of the groups of steps that run beside each other where there is a GPU."""
        seconds = self.seconds
        return {
            READING: sum(seconds[step] for step in READING),
            DEVICE: max(seconds[step] for step in DEVICE),
            ("write",): seconds["write"],
        }

    @property
    def disk_bytes(self) -> int:
        """Bytes of all files of the slide's output folder."""
        outputs = sum(stage.output_mpx for stage in self.work.stages) * 1e6
        outlines = self.work.stages[-1].output_mpx * 1e6
        return round(
            outputs * self.work.output_bytes_per_px
            + outlines * self.work.outline_bytes_per_px
            + self.work.picture_bytes
            + FIXED_BYTES
        )

    def with_remedies(self, remedies: tuple[str, ...]) -> "Checkup":
        """Return the same with what would help."""
        return replace(self, remedies=remedies)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: what was measured, and what follows from it."""
        seconds: dict[str, float] = dict(self.seconds.items())
        derived = {
            "seconds": seconds | {"total": self.total_s},
            "disk_bytes": self.disk_bytes,
            "bottleneck": self.bottleneck,
        }
        return {**asdict(self), **derived}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Checkup":
        """Return what `to_dict` was made from; what follows from the rest is worked out anew."""
        plain = {key: record[key] for key in cls.__dataclass_fields__}
        rates, work = dict(record["rates"]), dict(record["work"])
        rates["stages"] = tuple(StageRates(**stage) for stage in rates["stages"])
        work["stages"] = tuple(StageWork(**stage) for stage in work["stages"])
        plain["machine"] = Machine(**record["machine"])
        plain["rates"], plain["work"] = Rates(**rates), Work(**work)
        plain["remedies"] = tuple(record["remedies"])
        return cls(**plain)


def _over(amount: float, rate: float | None) -> float:
    return amount / rate if rate else 0.0
