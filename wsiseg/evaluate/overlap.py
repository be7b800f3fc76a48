"""How much of the area is right: counts of pixels, and the shares made of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.evaluate.values import (
    IGNORE,
    Empty,
    LabelArray,
    check_labels,
    check_same_shape,
    emptiness,
    pieces,
    share,
)

__all__ = ["Confusion", "Overlap", "compare_masks"]


@dataclass(frozen=True, slots=True)
class Overlap:
    """Pixels of one class, and the shares made of them.

    Where a share has nothing below the line it is NaN, and left out of every mean: nothing was
    asked, so nothing was answered. With `empty`:

    ============  ====  ===  =========  ======
    empty         dice  iou  precision  recall
    ============  ====  ===  =========  ======
    `both`        NaN   NaN  NaN        NaN
    `prediction`  0     0    NaN        0
    `reference`   0     0    0          NaN
    ============  ====  ===  =========  ======
    """

    true_positives: int
    false_positives: int
    false_negatives: int

    def __add__(self, other: "Overlap") -> "Overlap":
        return Overlap(
            self.true_positives + other.true_positives,
            self.false_positives + other.false_positives,
            self.false_negatives + other.false_negatives,
        )

    @property
    def predicted(self) -> int:
        """Pixels predicted to be of this class."""
        return self.true_positives + self.false_positives

    @property
    def expected(self) -> int:
        """Pixels of this class in the reference."""
        return self.true_positives + self.false_negatives

    @property
    def empty(self) -> Empty:
        """Which side has no pixel of this class."""
        return emptiness(prediction=self.predicted > 0, reference=self.expected > 0)

    @property
    def dice(self) -> float:
        """Twice the common pixels over the sum of both (the F1 of pixels)."""
        return share(2 * self.true_positives, self.predicted + self.expected)

    @property
    def iou(self) -> float:
        """Common pixels over those of either (Jaccard)."""
        return share(self.true_positives, self.predicted + self.false_negatives)

    @property
    def precision(self) -> float:
        """Share of the predicted pixels that is right."""
        return share(self.true_positives, self.predicted)

    @property
    def recall(self) -> float:
        """Share of the reference that was found (sensitivity)."""
        return share(self.true_positives, self.expected)


class Confusion:
    """Counts of pixels by class in the reference and in the prediction, block after block.

    Parameters
    ----------
    classes
        How many, the background (value 0) counted.

    Attributes
    ----------
    counts
        int64 (class in the reference, class in the prediction).
    ignored
        Pixels that were not scored, because the reference is 255 there.
    """

    def __init__(self, classes: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros((classes, classes), np.int64)
        self.ignored = 0

    @property
    def scored(self) -> int:
        """Pixels that were compared."""
        return int(self.counts.sum())

    def add(self, prediction: LabelArray, reference: LabelArray) -> None:
        """Count one block.

        Parameters
        ----------
        prediction, reference
            uint8 of one shape, any number of axes; 0 is the background, k is class k. 255 in the
            reference is not scored. 255 in the prediction counts as background: who does not
            answer must not score better than who does.

        Raises
        ------
        UsageError
            If the shapes differ.
        LabelError
            If a value stands for no class.
        """
        check_same_shape(prediction, reference)
        flat_prediction, flat_reference = prediction.reshape(-1), reference.reshape(-1)
        for piece in pieces(flat_reference.size):
            self._add_piece(flat_prediction[piece], flat_reference[piece])

    def _add_piece(self, prediction: LabelArray, reference: LabelArray) -> None:
        classes = len(self.counts)
        # one count over all 256 x 256 pairs finds ignored and unknown values on the way
        joint = reference.astype(np.uint16) << 8 | prediction
        pairs = np.bincount(joint, minlength=1 << 16).reshape(256, 256)
        by_reference, by_prediction = pairs.sum(axis=1), pairs[:IGNORE].sum(axis=0)
        for pixels, side in ((by_reference, "reference"), (by_prediction, "prediction")):
            check_labels(int(np.flatnonzero(pixels[:IGNORE]).max(initial=0)), classes, side)
        self.ignored += int(pairs[IGNORE].sum())
        self.counts += pairs[:classes, :classes]
        self.counts[:, 0] += pairs[:classes, IGNORE]

    def of_class(self, index: int) -> Overlap:
        """Return the counts of one class against all others."""
        hit = int(self.counts[index, index])
        return Overlap(
            true_positives=hit,
            false_positives=int(self.counts[:, index].sum()) - hit,
            false_negatives=int(self.counts[index].sum()) - hit,
        )

    @property
    def accuracy(self) -> float:
        """Share of the scored pixels that have the right class, the background counted."""
        return share(int(np.trace(self.counts)), self.scored)


def compare_masks(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> Overlap:
    """Return the overlap of two masks of one shape, any number of axes."""
    check_same_shape(prediction, reference)
    hit = int(np.count_nonzero(prediction & reference))
    return Overlap(
        true_positives=hit,
        false_positives=int(np.count_nonzero(prediction)) - hit,
        false_negatives=int(np.count_nonzero(reference)) - hit,
    )
