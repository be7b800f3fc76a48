"""What damage to the file means for a result: how much tissue, and where."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.annotations import AnnotationClass, Annotations, ImageRef
from wsiseg.annotations.chunks import in_shapely
from wsiseg.engine.gaps import Gaps, disjoint
from wsiseg.errors import TooDamagedError
from wsiseg.options import DamageOptions
from wsiseg.source import DamagedBlock, Pyramid, State
from wsiseg.tissue import TissueMask

__all__ = [
    "CORRUPT",
    "DEGRADED_SHARE",
    "Damage",
    "DamageWatch",
    "lost_places",
    "with_degraded_shares",
]

CORRUPT, NAME = AnnotationClass("Ignore*", (180, 180, 180)), "Corrupt"
"""QuPath's own class for what is not to be measured, and the name of its objects here."""

DEGRADED_SHARE = "wsiseg: Degraded share"

NAMED_BLOCKS = 3
"""Blocks that an error names."""

Boxes = NDArray[np.float64]
"""(n, 4): y0, x0, y1, x1 in level-0 pixels."""


@dataclass(frozen=True, slots=True)
class Damage:
    """The damaged blocks that a run met, and the tissue they lie on."""

    blocks: tuple[DamagedBlock, ...] = ()
    tissue_mm2: float = 0.0
    degraded_mm2: float = 0.0
    """Tissue whose pixels come from a coarser level."""

    nodata_mm2: float = 0.0
    """Tissue that no level shows."""

    unpredicted_mm2: float = 0.0
    """Area without a result for that reason: patches reach beyond the damaged blocks."""

    @property
    def share(self) -> float:
        """Share of the tissue that is affected, 0-1."""
        affected = self.degraded_mm2 + self.nodata_mm2
        return min(1.0, affected / self.tissue_mm2) if self.tissue_mm2 else 0.0

    def summary(self) -> dict[str, float]:
        """Return the columns of `summary.csv`."""
        return {
            "corrupt_blocks": len(self.blocks),
            "corrupt_share": round(self.share, 6),
            "degraded_mm2": round(self.degraded_mm2, 6),
            "nodata_mm2": round(self.nodata_mm2, 6),
            "unpredicted_mm2": round(self.unpredicted_mm2, 6),
        }

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the blocks by level and state."""
        found: dict[str, dict[str, int]] = {}
        for block in self.blocks:
            states = found.setdefault(str(block.level), {})
            states[block.state.name.lower()] = states.get(block.state.name.lower(), 0) + 1
        return found

    def record(self) -> dict[str, Any]:
        """Return the content of `corrupt.json`: the sums, and every block; x before y."""
        return {
            **self.summary(),
            "blocks_by_level": self.counts(),
            "blocks": [_describe(block) for block in self.blocks],
        }

    def __str__(self) -> str:
        states = [block.state for block in self.blocks]
        words = {
            State.NODATA: "unreadable",
            State.DEGRADED: "replaced by a coarser level",
            State.RESTORED: "restored from a finer level",
        }
        parts = [f"{states.count(s)} {words[s]}" for s in words if s in states]
        return (
            f"{len(self.blocks)} damaged blocks ({', '.join(parts)}), {_percent(self.share)} of "
            "the tissue affected"
        )


class DamageWatch:
    """Looks at the damage of a slide as a run goes on.

    Parameters
    ----------
    slide
        One that is read on where it is damaged.
    tissue
        Its tissue.
    options
        How much is too much.
    """

    def __init__(self, slide: Pyramid, tissue: TissueMask, options: DamageOptions) -> None:
        self._slide, self._tissue, self._options = slide, tissue, options

    def look(self, unpredicted_mm2: float = 0.0) -> Damage:
        """Return what is known by now.

        A degraded block may be as good as new at the spacing of a stage that reads a coarser
        level: it counts, since nobody looked.
        """
        ledger = self._slide.ledger
        blocks = ledger.blocks if ledger is not None else ()
        if not blocks:
            return Damage(tissue_mm2=self._tissue.area_mm2)
        nodata = self._tissue_mm2([b for b in blocks if b.state == State.NODATA])
        both = self._tissue_mm2([b for b in blocks if b.state >= State.DEGRADED])
        whole = self._tissue.area_mm2
        return Damage(blocks, whole, max(0.0, both - nodata), nodata, unpredicted_mm2)

    def check(self) -> None:
        """Raise `TooDamagedError` where more of the tissue is affected than allowed."""
        found, limit = self.look(), self._options.max_corrupt
        if found.share <= limit:
            return
        worst = sorted(found.blocks, key=lambda b: (-b.state, b.level, b.index))[:NAMED_BLOCKS]
        places = "; ".join(_place(block) for block in worst)
        more = "; ..." if len(found.blocks) > len(worst) else ""
        raise TooDamagedError(
            f"{self._slide.name}: {found}, allowed are {_percent(limit)}: {places}{more}; copy the "
            "file anew, or allow more with --max-corrupt",
            path=self._slide.path,
            found=found.summary(),
        )

    def _tissue_mm2(self, blocks: Sequence[DamagedBlock]) -> float:
        """Return the tissue in the union of some blocks."""
        boxes = disjoint(np.array([(*b.l0_box.start, *b.l0_box.stop) for b in blocks], np.float64))
        sizes = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        pixels = float((self._tissue.fraction(boxes) * sizes).sum())
        return pixels * self._slide.spacing.area_um2 * 1e-6


def lost_places(slide: Pyramid, blocks: Sequence[DamagedBlock], gaps: Gaps) -> Annotations:
    """Return where there is no result, and where the slide cannot be read, as objects `Corrupt`."""
    own = [(*b.l0_box.start, *b.l0_box.stop) for b in blocks if b.state == State.NODATA]
    unread = np.array(own, np.float64).reshape(-1, 4)
    boxes = np.concatenate([unread, gaps.l0_boxes(State.NODATA)])
    region = shapely.intersection(_union(boxes), shapely.box(0, 0, *slide.shape[::-1]))
    polygons = shapely.get_parts(region)
    polygons = polygons[shapely.area(polygons) > 0]
    index, names = np.zeros(len(polygons), np.int64), np.full(len(polygons), NAME, np.object_)
    return Annotations(polygons, index, (CORRUPT,), ImageRef.of(slide), names=names)


def with_degraded_shares(annotations: Annotations, gaps: Gaps) -> Annotations:
    """Return the objects with the share of each that rests on degraded pixels, where any are.

    That is the part which patches with such pixels decided.
    """
    boxes = gaps.l0_boxes(State.DEGRADED)
    if not len(boxes):
        return annotations
    region, outlines = _union(boxes), annotations.outlines
    shapely.prepare(region)
    shares = np.zeros(len(outlines))
    for chunk, shapes in in_shapely(outlines):
        hit = np.flatnonzero(shapely.intersects(region, shapes))
        whole = shapely.area(shapes[hit])
        part = shapely.area(shapely.intersection(shapes[hit], region))
        shares[chunk.start + hit] = part / whole
    measured = {**annotations.measurements, DEGRADED_SHARE: np.clip(shares, 0, 1)}
    return replace(annotations, geometries=outlines, measurements=measured)


def _union(boxes: Boxes) -> shapely.Geometry:
    parts = disjoint(boxes)
    return shapely.union_all(shapely.box(parts[:, 1], parts[:, 0], parts[:, 3], parts[:, 2]))


def _describe(block: DamagedBlock) -> dict[str, Any]:
    (y0, x0), (y1, x1) = block.l0_box.start, block.l0_box.stop
    return {
        "level": block.level,
        "row": block.index[0],
        "column": block.index[1],
        "level0": {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0},
        "state": block.state.name.lower(),
        "replaced_from_level": block.source_level,
        "reason": block.reason,
    }


def _place(block: DamagedBlock) -> str:
    row, column = block.index
    y, x = block.l0_box.start
    return (
        f"level {block.level}, tile at row {row}, column {column} (level-0 pixel x {x}, y {y}), "
        f"{block.state.name.lower()}"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
