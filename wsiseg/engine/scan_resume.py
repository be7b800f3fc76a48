"""What finished planes of a scan depend on, and which of them a run may therefore keep.

The same rules as for slides (`wsiseg.engine.resume`), with the scan and the part of it that is
looked at in the place of slide and tissue. The last stage keeps planes of labels, on the scan's own
voxels: a plane that is missing asks for the planes of the network's grid that it lies between.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg import __version__
from wsiseg.engine.execute import Pace
from wsiseg.engine.graph import StageSetup, kept_channels
from wsiseg.engine.journal import Journal, StageEntry
from wsiseg.engine.kept import KeptRows, Span
from wsiseg.engine.provenance import code_fingerprint, hardware
from wsiseg.engine.resume import digest_of, library_versions, version_of
from wsiseg.engine.scan_record import scan_identity
from wsiseg.model import Model
from wsiseg.resample import bracket
from wsiseg.stitch import Sink
from wsiseg.volume.block_export import Part
from wsiseg.volume.scan import Scan

__all__ = ["CODES", "LABELS", "KeptPlanes", "ScanResume"]

CODES, LABELS, PROBABILITIES = "codes", "labels", "probabilities"
"""Names of the arrays of a stage, for what is kept."""

LIBRARIES = ("scipy", "nibabel", "pydicom")
"""Beside those of slides, what reads and resamples scans."""


@dataclass(frozen=True, slots=True)
class KeptPlanes:
    """Planes of labels that are finished, per block; see `Kept` of the engine."""

    rows: KeptRows
    setup: StageSetup
    scan: Scan
    parts: Sequence[Part]

    def wanted(self, part: Part) -> NDArray[np.bool_]:
        """Return which planes of the whole scan are to be made of a block, bool (plane,)."""
        return self.rows.missing(part.columns)

    def sinks(self, sinks: Sequence[Sink]) -> list[Sink]:
        """Return sinks that take the missing planes, and give all to labels and probabilities."""
        parts = (LABELS, PROBABILITIES)
        return [self.rows.sink(part, sink) for part, sink in zip(parts, sinks, strict=False)]

    def missing(self, span: Span) -> NDArray[np.bool_]:
        """Return which planes of the network's grid are needed of a block, bool (plane,)."""
        layout = self.setup.reference.layout
        assert layout is not None
        (part,) = (part for part in self.parts if part.decided == span)
        back = layout.maps[0].inverse
        low, high, _ = bracket(back, 0, back.target, order=layout.export_orders[0])
        mine = self.wanted(part)[self.scan.box.start[0] : self.scan.box.stop[0]]
        needed = np.zeros(self.setup.grid.shape[0], np.bool_)
        needed[low[mine]] = needed[high[mine]] = True
        return needed


class ScanResume:
    """What is kept of an earlier run on a scan, and what this one finishes.

    Parameters
    ----------
    journal
        Of the scan's working folder.
    scan
        The part looked at.
    model
        That runs.
    names
        Of the classes whose probabilities are kept.
    """

    def __init__(
        self, journal: Journal, scan: Scan, model: Model, names: tuple[str, ...] = ()
    ) -> None:
        self._journal, self._scan, self._model, self._names = journal, scan, model, names
        self._about = _about(scan)
        self._made: dict[str, str] = {}

    def paces(
        self, setups: Sequence[StageSetup], selected: Sequence[NDArray[np.bool_]]
    ) -> dict[str, Pace]:
        """Return how the stages whose planes are there were driven, by name."""
        made: dict[str, str] = {}
        found: dict[str, Pace] = {}
        for setup, chosen in zip(setups, selected, strict=True):
            entry = self._journal.find(setup.spec.name)
            what = StageEntry.plain("", self._what(setup, chosen, made), {}, {}).what
            if entry is not None and entry.what == what:
                made[setup.spec.output.name] = entry.id
                found[setup.spec.name] = Pace(**entry.notes["pace"])
        return found

    def stage(
        self, setup: StageSetup, selected: NDArray[np.bool_], pace: Pace, *, last: bool
    ) -> KeptRows:
        """Return the finished rows of a stage, of which there are none where anything differs."""
        entry = StageEntry.plain(
            setup.spec.name,
            self._what(setup, selected, self._made),
            _how(self._model, setup, pace),
            {"pace": asdict(pace)},
        )
        log = self._journal.begin(entry)
        self._made[setup.spec.output.name] = entry.id
        if last:
            parts = (LABELS, PROBABILITIES) if self._names else (LABELS,)
            return KeptRows(log, parts, self._scan.whole[0])
        return KeptRows(log, (CODES,), setup.placement.shape[0])

    def _what(
        self, setup: StageSetup, selected: NDArray[np.bool_], made: Mapping[str, str]
    ) -> dict[str, Any]:
        """Return what a stage computes, by names for people."""
        card, spec = self._model.card, setup.spec
        assert card.scan is not None
        read = [item.source for item in spec.inputs if not item.reads_image]
        last = spec is card.stages[-1]
        return self._about | {
            "network": [w.model_dump(mode="json", exclude={"file"}) for w in spec.every_weights],
            "stage in the model's card": spec.model_dump(mode="json", exclude={"weights", "folds"}),
            "frame": card.scan.model_dump(mode="json"),
            "classes": [[one.name for one in card.classes], kept_channels(card, setup)],
            "regions": [region.model_dump(mode="json") for region in card.regions],
            "calibration": asdict(setup.scaling),
            "threshold": card.threshold if last else None,
            "probabilities": self._names if last else None,
            "grid": [asdict(setup.grid), setup.reference.downsample, setup.reference.origin],
            "windows that run": digest_of(selected),
            "earlier heatmap": [made.get(name) for name in read],
            "wsiseg": [__version__, code_fingerprint()],
            "libraries": library_versions() | {name: version_of(name) for name in LIBRARIES},
        }


def _about(scan: Scan) -> dict[str, Any]:
    """Return what identifies a scan; arrays are told by their content."""
    volumes = [volume.as_stored() for volume in scan.volumes]
    return {
        "scan": [scan_identity(volume) or volume.fingerprint() for volume in volumes],
        "affine": [volume.affine.matrix for volume in volumes],
        "reader": [volume.metadata.reader for volume in volumes],
        "looked at": [scan.box.start, scan.box.stop],
    }


def _how(model: Model, setup: StageSetup, pace: Pace) -> dict[str, Any]:
    """Return what may change the last bits, by names for people."""
    return {
        "backend": model.backend,
        "version of the backend": version_of(model.backend),
        "device": model.device.partition(":")[0],
        "processor": hardware(model.device),
        "precision": model.precision,
        "window": setup.grid.patch,
        "batch size": pace.batch_size,
        "columns": [pace.column, pace.turned],
        "threads of a call": pace.threads,
    }
