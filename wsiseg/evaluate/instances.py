"""How well objects are found, one by one: AJI, AJI+, panoptic quality and F1.

Everything follows from the areas of objects and of their overlaps, so blocks of a slide can be
added one after the other: memory grows with the number of objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.evaluate.values import Empty, check_same_shape, emptiness, share

__all__ = ["InstanceOverlap", "InstanceScores", "compare_labels", "compare_polygons"]

MATCH_IOU = 0.5
"""Objects match above it: then each has at most one partner (A. Kirillov et al., CVPR 2019,
doi:10.1109/CVPR.2019.00963)."""

Keys = NDArray[np.uint64]
Pixels = NDArray[np.int64]
Areas = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class InstanceScores:
    """How well the objects of one class were found.

    With no object on either side everything is NaN (left out of means). With objects on one side
    only, or none that match, `sq` is NaN and the others are 0.

    Attributes
    ----------
    aji
        Aggregated Jaccard index: each object of the reference with the predicted one of largest
        IoU, which may serve several. N. Kumar et al., IEEE TMI 36:1550, 2017,
        doi:10.1109/TMI.2017.2677499.
    aji_plus
        The same with one-to-one pairs that maximise the sum of IoU. S. Graham et al., Med. Image
        Anal. 58:101563, 2019, doi:10.1016/j.media.2019.101563.
    true_positives, false_positives, false_negatives
        Objects that match with IoU above 0.5, predicted ones that do not, and missed ones.
    sq
        Segmentation quality: mean IoU of the objects that match.
    empty
        Which side has no object.
    """

    aji: float
    aji_plus: float
    true_positives: int
    false_positives: int
    false_negatives: int
    sq: float
    empty: Empty

    @property
    def dq(self) -> float:
        """Detection quality, which is the F1 of objects at IoU 0.5."""
        objects = 2 * self.true_positives + self.false_positives + self.false_negatives
        return share(2 * self.true_positives, objects)

    @property
    def pq(self) -> float:
        """Panoptic quality, `dq * sq`; 0 where nothing matches."""
        return self.dq * self.sq if self.true_positives else self.dq

    @property
    def f1(self) -> float:
        """F1 of objects at IoU 0.5."""
        return self.dq

    @property
    def precision(self) -> float:
        """Share of the predicted objects that match."""
        return share(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """Share of the objects of the reference that were found."""
        return share(self.true_positives, self.true_positives + self.false_negatives)


class InstanceOverlap:
    """Areas of objects and of their overlaps, block after block.

    An object that several blocks share must have the same number in each.
    """

    def __init__(self) -> None:
        self._pairs: list[tuple[Keys, Pixels]] = []
        self._waiting = 0

    def add(
        self,
        prediction: NDArray[np.integer],
        reference: NDArray[np.integer],
        *,
        merge: int = 1 << 20,
    ) -> None:
        """Count one block.

        Parameters
        ----------
        prediction, reference
            Integers of one shape, any number of axes: 0 is no object, up to 2^32 - 1.
        merge
            Sums of blocks are merged whenever so many wait.

        Raises
        ------
        UsageError
            If the shapes differ or a number is out of range.
        """
        check_same_shape(prediction, reference)
        for labels, side in ((prediction, "prediction"), (reference, "reference")):
            if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < 1 << 32:
                raise UsageError(
                    f"numbers of objects in the {side} need to be from 0 to {2**32 - 1}, found "
                    f"{labels.min()} to {labels.max()}"
                )
        joint = reference.astype(np.uint64).reshape(-1) << np.uint64(32)
        keys, counts = np.unique(
            joint | prediction.astype(np.uint64).reshape(-1), return_counts=True
        )
        self._pairs.append((keys, counts.astype(np.int64)))
        self._waiting += len(keys)
        if self._waiting > merge:
            self._merge()

    def _merge(self) -> tuple[Keys, Pixels]:
        """Return pairs of numbers and their pixels, each pair once."""
        keys = np.concatenate([np.empty(0, np.uint64), *(pair for pair, _ in self._pairs)])
        counts = np.concatenate([np.empty(0, np.int64), *(count for _, count in self._pairs)])
        distinct, place = np.unique(keys, return_inverse=True)
        sums = np.zeros(len(distinct), np.int64)
        np.add.at(sums, place, counts)
        self._pairs, self._waiting = [(distinct, sums)], 0
        return distinct, sums

    def scores(self) -> InstanceScores:
        """Return the scores of everything added."""
        keys, pixels = self._merge()
        places, areas = [], []
        for numbers in (keys >> np.uint64(32), keys & np.uint64(0xFFFFFFFF)):
            known, place = np.unique(numbers, return_inverse=True)
            area = np.bincount(place, pixels, minlength=len(known))
            background = int(len(known) > 0 and known[0] == 0)
            places.append(place - background)  # -1 where there is no object
            areas.append(area[background:].astype(np.float64))
        both = (places[0] >= 0) & (places[1] >= 0)
        overlaps = _Overlaps(
            reference=places[0][both],
            prediction=places[1][both],
            area=pixels[both].astype(np.float64),
            reference_areas=areas[0],
            prediction_areas=areas[1],
        )
        return overlaps.scores()


def compare_labels(
    prediction: NDArray[np.integer], reference: NDArray[np.integer]
) -> InstanceScores:
    """Return the scores of two label images of objects; 0 is no object."""
    overlap = InstanceOverlap()
    overlap.add(prediction, reference)
    return overlap.scores()


def compare_polygons(
    prediction: Sequence[object] | NDArray[np.object_],
    reference: Sequence[object] | NDArray[np.object_],
) -> InstanceScores:
    """Return the scores of two sets of polygons, shapely geometries in one frame.

    Areas are exact, and objects of one side may overlap each other. Polygons that cross themselves
    must be repaired before.

    Raises
    ------
    UsageError
        If a geometry is not valid.
    """
    import shapely

    sides = [np.asarray(side, np.object_).reshape(-1) for side in (prediction, reference)]
    for polygons, name in zip(sides, ("prediction", "reference"), strict=True):
        invalid = np.flatnonzero(~shapely.is_valid(polygons))
        if len(invalid):
            reason = shapely.is_valid_reason(polygons[invalid[0]])
            raise UsageError(
                f"polygon {invalid[0]} of the {name} is not valid ({reason}), so it has no area; "
                "repair it"
            )
    tree = shapely.STRtree(sides[0])
    reference_at, prediction_at = tree.query(sides[1], predicate="intersects")
    area = shapely.area(shapely.intersection(sides[1][reference_at], sides[0][prediction_at]))
    some = area > 0
    return _Overlaps(
        reference=reference_at[some],
        prediction=prediction_at[some],
        area=area[some],
        reference_areas=shapely.area(sides[1]),
        prediction_areas=shapely.area(sides[0]),
    ).scores()


@dataclass(frozen=True, slots=True, eq=False)
class _Overlaps:
    """Pairs of objects that overlap, in columns, and the areas of all objects."""

    reference: NDArray[np.intp]
    """Index of an object of the reference (n,)."""

    prediction: NDArray[np.intp]
    area: Areas
    """Common area (n,)."""

    reference_areas: Areas
    prediction_areas: Areas

    @property
    def union(self) -> Areas:
        whole = self.reference_areas[self.reference] + self.prediction_areas[self.prediction]
        united: Areas = whole - self.area
        return united

    def scores(self) -> InstanceScores:
        expected, predicted = len(self.reference_areas), len(self.prediction_areas)
        iou = self.area / self.union
        matched = iou > MATCH_IOU
        hits = int(np.count_nonzero(matched))
        return InstanceScores(
            aji=self._jaccard(self._best_of_each(iou)),
            aji_plus=self._jaccard(self._best_pairs(iou)),
            true_positives=hits,
            false_positives=predicted - hits,
            false_negatives=expected - hits,
            sq=float(iou[matched].mean()) if hits else float("nan"),
            empty=emptiness(prediction=predicted > 0, reference=expected > 0),
        )

    def _jaccard(self, chosen: NDArray[np.intp]) -> float:
        """Return the common area of the chosen pairs over their union and all that is left over."""
        alone = [
            float(np.delete(areas, np.unique(side[chosen])).sum())
            for areas, side in (
                (self.reference_areas, self.reference),
                (self.prediction_areas, self.prediction),
            )
        ]
        whole = float(self.union[chosen].sum()) + sum(alone)
        return share(float(self.area[chosen].sum()), whole)

    def _best_of_each(self, iou: Areas) -> NDArray[np.intp]:
        """Return, for each object of the reference, its pair with the largest IoU."""
        order = np.lexsort((self.prediction, -iou, self.reference))
        _, first = np.unique(self.reference[order], return_index=True)
        best: NDArray[np.intp] = order[first]
        return best

    def _best_pairs(self, iou: Areas) -> NDArray[np.intp]:
        """Return one-to-one pairs with the largest sum of IoU, group of touching objects by group.

        Objects that do not overlap cannot be paired, so each connected group is solved alone: a
        matrix of all objects of a slide would not fit in memory.
        """
        from scipy.optimize import linear_sum_assignment
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        if not len(iou):
            return np.empty(0, np.intp)
        expected, predicted = len(self.reference_areas), len(self.prediction_areas)
        nodes = expected + predicted
        edges = (iou, (self.reference, expected + self.prediction))
        group = connected_components(coo_array(edges, shape=(nodes, nodes)), directed=False)[1]
        of_pair = group[self.reference]
        order = np.argsort(of_pair, kind="stable")
        cuts = np.flatnonzero(np.diff(of_pair[order])) + 1
        chosen = []
        for pairs in np.split(order, cuts):
            if len(pairs) == 1:
                chosen.append(pairs)
                continue
            rows, row = np.unique(self.reference[pairs], return_inverse=True)
            columns, column = np.unique(self.prediction[pairs], return_inverse=True)
            table = np.zeros((len(rows), len(columns)))
            table[row, column] = iou[pairs]
            taken = np.zeros(table.shape, bool)
            taken[linear_sum_assignment(table, maximize=True)] = True
            chosen.append(pairs[taken[row, column]])
        return np.concatenate(chosen)
