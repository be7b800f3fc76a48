"""What finished blocks depend on, and which of them a run may therefore keep.

A block is kept if all of this is as it was when it was made:

* What is computed: the slide (by its fingerprint), its pixel size and reader; the stage as the
  card has it, with its weights, grid, classes, calibration and threshold; the layers of
  uncertainty; which tiles have tissue; `skip_below`; the heatmaps it reads, and so on for these;
  wsiseg's version and code; the versions of the libraries that decode, reduce and predict.
* How: backend, precision, processor or kind of GPU; exact or scaled decoding; the window, batch
  size, columns and their direction; cores per call of the network. These may change the last bits.
  Where the user leaves them to the planner, the choices of the first run are taken again.

Nothing else invalidates a block: not the number of threads or workers, memory, which GPU of several
of one kind, options of the annotations, of Parquet or of the output folder, progress, the name or
place of slide and model, nor tissue options that leave the same tiles.
"""

import hashlib
import importlib.metadata
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg import __version__
from wsiseg.engine.decoding import DecodingChoice
from wsiseg.engine.execute import Pace
from wsiseg.engine.graph import StageSetup, kept_channels
from wsiseg.engine.journal import Journal, StageEntry
from wsiseg.engine.kept import KeptRows, Span
from wsiseg.engine.provenance import code_fingerprint, fingerprint, hardware
from wsiseg.errors import ModelError
from wsiseg.model import Model, load_model
from wsiseg.options import Backend, RunOptions
from wsiseg.source import Pyramid

__all__ = ["Pinned", "Resume", "digest_of", "library_versions", "version_of"]

log = logging.getLogger(__name__)

LIBRARIES = (
    "numpy",
    "opencv-python-headless",
    "imagecodecs",
    "simplejpeg",
    "tifffile",
    "openslide-python",
    "openslide-bin",
    "wsidicom",
)
"""Those that decode and reduce; the one that predicts comes to them."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """Choices of an earlier run that may change the last bits, to be taken again."""

    backend: Backend | None = None
    decoding: DecodingChoice | None = None
    paces: Mapping[str, Pace] = field(default_factory=dict)
    """By stage."""

    patches: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """What the network ran on, by stage."""


class Resume:
    """What is kept of an earlier run on a slide, and what this one finishes.

    Parameters
    ----------
    journal
        Of the slide's working folder.
    slide
        The slide.
    options
        How the machine is used.
    """

    def __init__(self, journal: Journal, slide: Pyramid, options: RunOptions) -> None:
        self._journal = journal
        self._slide = slide
        self._options = options
        self._about = _about_slide(slide)
        self._made: dict[str, str] = {}  # id of the work behind each stage's output

    def again(
        self, model: Model, setups: Sequence[StageSetup], selected: Sequence[NDArray[np.bool_]]
    ) -> tuple[Model, Pinned]:
        """Return the choices behind the blocks that are there, and the model that ran then.

        It is another one only where its backend was chosen by a measurement, which may come out
        otherwise the next time.

        Parameters
        ----------
        model
            As loaded.
        setups, selected
            The stages, and which of their tiles have tissue.
        """
        found = self._pinned(model, setups, selected)
        if found.backend in (None, model.backend) or model.tuning is None:
            return model, found
        try:
            earlier = load_model(
                model.path,
                backend=found.backend,
                device=model.device,
                precision=model.precision,
                threads=self._options.threads,
            )
        except ModelError as error:
            log.info("%s: cannot go on with %s: %s", self._slide.name, found.backend, error)
            return model, found
        return earlier, found

    def _pinned(
        self, model: Model, setups: Sequence[StageSetup], selected: Sequence[NDArray[np.bool_]]
    ) -> Pinned:
        made: dict[str, str] = {}
        paces: dict[str, Pace] = {}
        patches: dict[str, tuple[int, ...]] = {}
        backend: Any = None
        decoding = None
        for setup, chosen in zip(setups, selected, strict=True):
            entry = self._journal.find(setup.spec.name)
            what = StageEntry.plain("", self._what(model, setup, chosen, made), {}, {}).what
            if entry is None or entry.what != what:
                continue
            made[setup.spec.output.name] = entry.id
            paces[setup.spec.name] = Pace(**entry.notes["pace"])
            patches[setup.spec.name] = tuple(entry.notes["patch"])
            backend = backend or entry.how["backend"]
            decoding = decoding or DecodingChoice(**entry.notes["decoding"])
        return Pinned(backend, decoding, paces, patches)

    def stage(
        self,
        model: Model,
        setup: StageSetup,
        selected: NDArray[np.bool_],
        *,
        pace: Pace,
        decoding: DecodingChoice,
        parts: Sequence[str],
        wanted: Mapping[Span, slice] | None = None,
    ) -> KeptRows:
        """Return the finished rows of a stage, of which there are none where anything differs.

        Parameters
        ----------
        selected
            Tiles with tissue, bool of `decided.counts`.
        pace, decoding
            Of the plan.
        parts
            Names of the arrays the stage gives.
        wanted
            See `KeptRows`.
        """
        name = setup.spec.name
        entry = StageEntry.plain(
            name,
            self._what(model, setup, selected, self._made),
            _how(model, setup, pace, decoding),
            {"pace": asdict(pace), "decoding": asdict(decoding), "patch": setup.grid.patch},
        )
        known = self._journal.find(name)
        rows = self._journal.begin(entry)
        if known is not None and known.id != entry.id:
            changed = ", ".join(entry.changed_since(known))
            log.info("%s: %s starts over; changed: %s", self._slide.name, name, changed)
        elif rows.blocks or rows.damaged:
            damaged = f", {rows.damaged} are damaged" if rows.damaged else ""
            count = len(rows.blocks)
            text = "%s: %s goes on: %d blocks are finished%s"
            log.info(text, self._slide.name, name, count, damaged)
        self._made[setup.spec.output.name] = entry.id
        if self._slide.ledger is not None:
            rows.follow(self._slide.ledger)
        height = setup.placement.shape[-1 if pace.turned else 0]
        return KeptRows(rows, parts, height, wanted)

    def _what(
        self,
        model: Model,
        setup: StageSetup,
        selected: NDArray[np.bool_],
        made: Mapping[str, str],
    ) -> dict[str, Any]:
        """Return what a stage computes, by names for people."""
        card, spec = model.card, setup.spec
        read = [item.source for item in spec.inputs if item.source != "slide"]
        last = spec is card.stages[-1]
        channels = kept_channels(card, setup) if spec.kind != "embedder" else len(setup.channels)
        return self._about | {
            "network": [w.model_dump(mode="json", exclude={"file"}) for w in spec.every_weights],
            "stage in the model's card": spec.model_dump(mode="json", exclude={"weights", "folds"}),
            "classes": [[one.name for one in card.classes], channels],
            "calibration": asdict(setup.scaling),
            "threshold": card.threshold if last else None,
            "uncertainty": asdict(setup.layers) if setup.layers.names else None,
            "grid": [asdict(setup.decided), setup.reference.downsample],
            "tiles with tissue": digest_of(selected),
            "skip_below": self._options.skip_below if read else None,
            "damaged blocks": self._slide.on_damage,
            "earlier heatmap": [made.get(name) for name in read],
            "wsiseg": [__version__, code_fingerprint()],
            "libraries": library_versions(),
        }


def _about_slide(slide: Pyramid) -> dict[str, Any]:
    """Return what identifies a slide; arrays and URLs, which may change, are never the same."""
    known = fingerprint(slide.path) if slide.path else None
    return {
        "slide": known or f"unknown {uuid.uuid4()}",
        "pixel size": slide.spacing.um,
        "reader": slide.metadata.reader,
    }


def _how(model: Model, setup: StageSetup, pace: Pace, decoding: DecodingChoice) -> dict[str, Any]:
    """Return what may change the last bits, by names for people."""
    return {
        "backend": model.backend,
        "version of the backend": version_of(model.backend),
        "device": model.device.partition(":")[0],
        "processor": hardware(model.device),
        "precision": model.precision,
        "decoding": "scaled" if decoding.scaled else "exact",
        "window": setup.grid.patch,
        "batch size": pace.batch_size,
        "columns": [pace.column, pace.turned],
        "threads of a call": pace.threads,
    }


@cache
def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that decode and reduce."""
    return {name: version_of(name) for name in LIBRARIES}


@cache
def version_of(name: str) -> str:
    """Return the version of a library; `none` where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def digest_of(selected: NDArray[np.bool_]) -> str:
    """Return what tells a choice of tiles from others."""
    return hashlib.sha256(np.packbits(selected).tobytes()).hexdigest()[:16]
