"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from wsiseg.errors import UsageError
from wsiseg.options import (
    Backend,
    Detector,
    FolderOptions,
    MemoryPlan,
    Precision,
    RunOptions,
    TissueOptions,
    UncertaintyLayer,
)

__all__ = [
    "DEFAULT_TISSUE",
    "Again",
    "AllowGap",
    "AsJson",
    "Batch",
    "Device",
    "Expiry",
    "Isolate",
    "Limit",
    "Match",
    "Memory",
    "MemoryPlanName",
    "MinTissue",
    "ModelName",
    "Mpp",
    "Nested",
    "NoWait",
    "Numbers",
    "Out",
    "Quiet",
    "Reader",
    "Recursive",
    "RunBy",
    "Scheduler",
    "Series",
    "Slides",
    "SplitOver",
    "Threads",
    "Tilt",
    "Timeout",
    "Tissue",
    "folder_options",
    "parse_files",
    "parse_layers",
    "parse_mpp",
    "run_options",
]

DEFAULT_TISSUE = TissueOptions()

Slides = Annotated[
    list[str],
    typer.Argument(
        help="Slide files, folders, globs, URLs, or a CSV with the columns slide,mpp.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")]
Mpp = Annotated[
    str | None,
    typer.Option(
        "--mpp",
        help="µm per pixel at level 0, 0.25 or x,y: 0.25,0.26; replaces what a file says.",
    ),
]
Reader = Annotated[
    str | None,
    typer.Option("--reader", help="Force tiff, openslide, omezarr, dicom or image."),
]
Series = Annotated[
    str | None,
    typer.Option(
        "--series", help="DICOM: series instance UID, or its end, of several in a folder."
    ),
]
AllowGap = Annotated[
    bool,
    typer.Option("--allow-gap", help="DICOM: interpolate where slices are missing or uneven."),
]
Tilt = Annotated[
    Literal["shear"] | None,
    typer.Option("--tilt", help="DICOM: shear accepts a stack that leans (gantry tilt)."),
]
Recursive = Annotated[bool, typer.Option("--recursive", help="Look into subfolders.")]
Nested = Annotated[
    bool, typer.Option("--nested", help="Tell slides of one name apart by their folder.")
]
Match = Annotated[
    list[str] | None,
    typer.Option("--match", help="Only slides whose name or path is like this glob; repeatable."),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N slides.")]
Again = Annotated[
    bool, typer.Option("--again", "--overwrite", help="Redo slides that are finished, too.")
]
Timeout = Annotated[
    str | None, typer.Option("--timeout", help="A slide that takes longer fails: 90, 30m, 2h.")
]
Expiry = Annotated[
    str,
    typer.Option(
        "--expiry", help="A process elsewhere that gives no sign of life for this long is dead."
    ),
]
Isolate = Annotated[
    bool,
    typer.Option(
        "--isolate", help="Open slides in a process of its own, which may crash: untrusted files."
    ),
]
NoWait = Annotated[
    bool, typer.Option("--no-wait", help="Leave slides to other processes that have them.")
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler", help="Let a Dask cluster do it: tcp://host:8786, or a scheduler file."
    ),
]
SplitOver = Annotated[
    float | None,
    typer.Option(
        "--split-over",
        min=0.001,
        help="With --scheduler: several workers share slides of more gigapixels than this.",
    ),
]
Tissue = Annotated[Detector, typer.Option("--tissue", help="Tissue detector.")]
AsJson = Annotated[bool, typer.Option("--json", help="Results as JSON lines.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
MinTissue = Annotated[
    float,
    typer.Option(
        "--min-tissue", min=0.0, max=1.0, help="Least share of tissue for a patch to be used."
    ),
]
ModelName = Annotated[str, typer.Option("--model", "-m", help="Name of a model, or its folder.")]
RunBy = Annotated[Backend, typer.Option(help="What runs the networks.")]
Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda (all GPUs, a process each) or cuda:0,1.")
]
Numbers = Annotated[
    Precision, typer.Option("--precision", help="float32; bfloat16 on a GPU; int8 on a CPU.")
]
Batch = Annotated[int | None, typer.Option("--batch", "-b", min=1, help="Patches per batch.")]
Memory = Annotated[str | None, typer.Option(help="Refuse plans above this, for example 4GB.")]
MemoryPlanName = Annotated[
    MemoryPlan | None,
    typer.Option(
        help="Where the sums of a scan's windows are: on the device, in memory (slab), in a file "
        "(spill), or in memory block by block; default: the first with room. Same result."
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Cores used.")]


def parse_mpp(text: str | None) -> float | tuple[float, float] | None:
    """Return `--mpp` as a number, or (x, y).

    Raises
    ------
    UsageError
        If it is no possible pixel size.
    """
    from wsiseg.run import parse_mpp as parse

    return None if text is None else parse(text)


def parse_layers(text: str) -> tuple[UncertaintyLayer, ...]:
    """Return the names in `--uncertainty`; whether they are known is the options' business."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    return cast("tuple[UncertaintyLayer, ...]", names)


def parse_files(option: str, texts: list[str] | None) -> dict[str, str]:
    """Return the files of `NAME=FILE`, by name."""
    found: dict[str, str] = {}
    for text in texts or []:
        name, equals, path = text.partition("=")
        if not (name and equals and path) or name in found:
            raise UsageError(f"{option} {text!r}: needed NAME=FILE, each name once")
        found[name] = path
    return found


def folder_options(
    *,
    again: bool,
    timeout: str | None = None,
    expiry: str,
    no_wait: bool,
    isolate: bool = False,
    split_over: float | None = None,
) -> FolderOptions:
    """Return what the options that runs over folders take come to.

    Raises
    ------
    UsageError
        If one of them is impossible.
    """
    from wsiseg.run import parse_seconds

    return FolderOptions(
        again=again,
        timeout_s=parse_seconds(timeout) if timeout else None,
        expiry_s=parse_seconds(expiry),
        wait=not no_wait,
        isolate=isolate,
        split_over_gigapixels=split_over,
    )


def run_options(
    backend: Backend,
    device: str,
    precision: Precision,
    batch: int | None,
    threads: int | None,
    memory: str | None = None,
    memory_plan: MemoryPlan | None = None,
) -> RunOptions:
    """Return what the options that every run takes come to.

    Raises
    ------
    UsageError
        If one of them is impossible.
    """
    from wsiseg.run import parse_bytes

    return RunOptions(
        backend=backend,
        device=device,
        precision=precision,
        batch_size=batch,
        threads=threads,
        memory_bytes=parse_bytes(memory) if memory else None,
        memory_plan=memory_plan,
    )
