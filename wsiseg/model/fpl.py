"""Text pipelines of FAST and FastPathology (`.fpl`): what they say of their networks.

The format is lines in blocks: `ProcessObject <id> <Class>`, then `Attribute <name> <values>` and
`Input <port> <object>`; `#` begins a comment, `@@name=default@@` is a variable
(https://fast.eriksmistad.no/text-pipelines.html). Three shapes are taken: a patch classifier with
a stitcher, a segmenter of patches with a stitcher, and either of them refined by a segmentation
network that sees the whole slide beside the stitched result, as in H2G-Net.
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wsiseg.errors import ModelCardError

__all__ = ["FPL_SUFFIX", "PatchNetwork", "Pipeline", "WholeNetwork", "read_pipeline"]

FPL_SUFFIX = ".fpl"
MAX_BYTES = 1 << 20

OBJECTIVE_UM = 10.0
"""µm per pixel times magnification: how FAST tells spacing from `patch-magnification`."""

VARIABLE = re.compile(r"@@([^@=]+)(?:=([^@]*))?@@")
NETWORKS = ("NeuralNetwork", "SegmentationNetwork")
PASSING = frozenset(
    {"PatchStitcher", "RunUntilFinished", "TensorToImage", "IntensityNormalization"}
)
"""Objects that hand on what they get, changed in no way that matters to where it comes from."""


@dataclass(frozen=True, slots=True)
class PatchNetwork:
    """A network that sees patches."""

    model: Path
    patch: tuple[int, int]
    """Pixels (y, x)."""

    spacing_um: float | None
    """`None`: the pipeline names a level of the pyramid, which says nothing of the pixel size."""

    overlap: float
    """Share of the patch, per side."""

    scale: float
    """What pixel values are multiplied by."""


@dataclass(frozen=True, slots=True)
class WholeNetwork:
    """A network that sees the whole slide, and what an earlier network made of it."""

    model: Path
    scale: float
    spreads: bool
    """Whether pixel values are spread from 0 to 1 before."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What a pipeline does."""

    name: str
    description: str
    classes: tuple[str, ...]
    """Empty where it does not say."""

    patches: PatchNetwork
    refinement: WholeNetwork | None
    provenance: Mapping[str, str] = field(default_factory=dict)
    """What is known of the networks from elsewhere, as cards have it."""


@dataclass(slots=True)
class _Object:
    """One block of the file."""

    kind: str
    attributes: dict[str, list[str]] = field(default_factory=dict)
    inputs: dict[int, str] = field(default_factory=dict)


def read_pipeline(path: Path) -> Pipeline:
    """Read a pipeline; nothing in it is run.

    Raises
    ------
    ModelCardError
        If it cannot be read, or is of another shape than those above; says what was found.
    """
    head, objects = _blocks(path)
    networks = [name for name, item in objects.items() if item.kind in NETWORKS]
    on_patches = [n for n in networks if "PatchGenerator" in _sources(objects, n, path).values()]
    whole = [n for n in networks if n not in on_patches]
    if len(on_patches) != 1 or len(whole) > 1:
        raise ModelCardError(
            f"{path}: {len(on_patches)} networks on patches and {len(whole)} on the whole slide: "
            "needed one on patches, and at most one that refines it; write a model.json by hand"
        )
    first = _patch_network(path, objects, on_patches[0])
    refinement = _whole_network(path, objects, whole[0], on_patches[0]) if whole else None
    classes = tuple(name.strip() for name in "".join(head.get("classes", [])).split(";"))
    return Pipeline(
        name=" ".join(head.get("PipelineName", [])) or path.stem,
        description=" ".join(head.get("PipelineDescription", [])),
        classes=classes if classes != ("",) else (),
        patches=first,
        refinement=refinement,
    )


def _blocks(path: Path) -> tuple[dict[str, list[str]], dict[str, _Object]]:
    """Return what stands before the objects, and the objects by their ids."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ModelCardError(f"{path}: cannot be read: {error.strerror}") from error
    if len(text) > MAX_BYTES:
        raise ModelCardError(f"{path}: more than {MAX_BYTES} bytes: no text pipeline")
    head: dict[str, list[str]] = {}
    objects: dict[str, _Object] = {}
    current: _Object | None = None
    for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), start=1):
        words = _words(_filled(line, path), path, number)
        match words:
            case []:
                continue
            case ["ProcessObject", name, kind]:
                current = objects[name] = _Object(kind)
            case ["Renderer" | "View", *_]:
                current = _Object("Renderer")
            case ["Attribute", name, *values]:
                (current.attributes if current else head)[name] = values
            case ["Input", port, name, *_] if current and port.isdigit():
                current.inputs[int(port)] = name
            case [key, *values] if key.startswith("Pipeline"):
                head[key] = values
            case _:
                raise ModelCardError(f"{path}: line {number}: {line.strip()!r} is not understood")
    return head, objects


def _words(line: str, path: Path, number: int) -> list[str]:
    words = shlex.shlex(line, posix=True)
    words.whitespace_split, words.commenters, words.escape = True, "#", ""
    try:
        return list(words)
    except ValueError as error:
        raise ModelCardError(f"{path}: line {number}: {error}") from error


def _filled(line: str, path: Path) -> str:
    """Return a line with its variables as their defaults."""

    def default(found: re.Match[str]) -> str:
        if found[2] is None and not line.lstrip().startswith("#"):
            raise ModelCardError(
                f"{path}: variable {found[1]!r} has no default; write its value into the file"
            )
        return found[2] or ""

    return VARIABLE.sub(default, line)


def _sources(objects: Mapping[str, _Object], name: str, path: Path) -> dict[str, str]:
    """Return what an object's inputs come from, past what only hands on: id and kind."""
    found: dict[str, str] = {}
    waiting, seen = list(objects[name].inputs.values()), {name}
    while waiting:
        source = waiting.pop()
        if source in seen:
            continue
        seen.add(source)
        item = objects.get(source)
        if item is not None and item.kind in PASSING:
            waiting += item.inputs.values()
        else:
            found[source] = item.kind if item is not None else "input"
    return found


def _patch_network(path: Path, objects: Mapping[str, _Object], name: str) -> PatchNetwork:
    item = objects[name]
    (generator,) = (
        objects[source]
        for source, kind in _sources(objects, name, path).items()
        if kind == "PatchGenerator"
    )
    told = generator.attributes
    size = _numbers(told.get("patch-size", []), path, "patch-size")
    if len(size) not in (2, 3) or (len(size) == 3 and size[2] != 1):
        raise ModelCardError(f"{path}: patch-size {size}: needed width and height")
    magnification = told.get("patch-magnification")
    spacing = None
    if magnification:
        (factor,) = _numbers(magnification, path, "patch-magnification")
        spacing = OBJECTIVE_UM / factor if factor > 0 else None
    (overlap,) = _numbers(told.get("patch-overlap", ["0"]), path, "patch-overlap")
    return PatchNetwork(
        _model(path, item), (int(size[1]), int(size[0])), spacing, overlap, _scale(path, item)
    )


def _whole_network(
    path: Path, objects: Mapping[str, _Object], name: str, refined: str
) -> WholeNetwork:
    item = objects[name]
    sources = _sources(objects, name, path)
    if len(item.inputs) != 2 or refined not in sources:
        raise ModelCardError(
            f"{path}: {name} has inputs from {sorted(sources)}: needed the whole slide and what "
            f"{refined} gives; write a model.json by hand"
        )
    direct = [objects[source].kind for source in item.inputs.values() if source in objects]
    return WholeNetwork(_model(path, item), _scale(path, item), "IntensityNormalization" in direct)


def _model(path: Path, item: _Object) -> Path:
    told = " ".join(item.attributes.get("model", []))
    if not told:
        raise ModelCardError(f"{path}: a {item.kind} without model; correct the file")
    return path.parent / told.replace("$CURRENT_PATH$", path.parent.absolute().as_posix())


def _scale(path: Path, item: _Object) -> float:
    if item.attributes.get("signed-input-normalization", ["false"])[0].lower() in {"true", "1"}:
        raise ModelCardError(
            f"{path}: signed-input-normalization cannot be taken over; write a model.json by hand"
        )
    (scale,) = _numbers(item.attributes.get("scale-factor", ["1"]), path, "scale-factor")
    if scale <= 0:
        raise ModelCardError(f"{path}: scale-factor {scale}: needed more than 0")
    return scale


def _numbers(words: list[str], path: Path, name: str) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError as error:
        raise ModelCardError(f"{path}: {name} {' '.join(words)!r}: needed numbers") from error
