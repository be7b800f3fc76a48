"""Whether a probability means what it says: that of 100 pixels called 80 %, 80 are right.

Sums over bins are all that is kept, so pixels may come block after block without end.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.evaluate.values import IGNORE, LabelArray, check_labels, pieces, share

__all__ = ["Calibrated", "CalibrationBins", "Probabilities", "ReliabilityBin", "with_background"]

Probabilities = NDArray[np.float32]

BINS = 50

SMALLEST = 1e-12
"""No probability is smaller in a logarithm: one sure mistake costs 28, not infinity."""


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """One bar of the reliability diagram."""

    low: float
    high: float
    pixels: int
    confidence: float
    """Mean probability of the most probable class; NaN where there is no pixel."""

    accuracy: float
    """Share of the pixels whose most probable class is the right one."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """How far the probabilities can be trusted; everything NaN without pixels.

    Attributes
    ----------
    ece
        Expected calibration error: mean over pixels of |accuracy - confidence| of their bin, for
        the most probable class. M. P. Naeini et al., AAAI 2015, doi:10.1609/aaai.v29i1.9602; C.
        Guo et al., ICML 2017.
    mce
        The largest |accuracy - confidence| of any bin.
    brier
        Mean over pixels of the sum over classes of (probability - truth)^2, 0 to 2. G. W. Brier,
        Mon. Weather Rev. 78:1, 1950.
    nll
        Mean of -log(probability of the right class), natural logarithm.
    pixels
        Scored.
    bins
        The reliability diagram.
    """

    ece: float
    mce: float
    brier: float
    nll: float
    pixels: int
    bins: tuple[ReliabilityBin, ...]


class CalibrationBins:
    """Sums over pixels by confidence, block after block; those of several slides can be added.

    Parameters
    ----------
    classes
        How many, the background counted.
    bins
        Of equal width, `[low, high)`; the last one holds 1, too.
    """

    def __init__(self, classes: int, *, bins: int = BINS) -> None:
        self.classes = classes
        self.pixels: NDArray[np.int64] = np.zeros(bins, np.int64)
        self.right: NDArray[np.int64] = np.zeros(bins, np.int64)
        self.confidence: NDArray[np.float64] = np.zeros(bins)
        self.squares = 0.0
        self.surprise = 0.0

    def add(self, probabilities: Probabilities, reference: LabelArray) -> None:
        """Count one block.

        Parameters
        ----------
        probabilities
            float (*shape, class), the background first. Where all are 0 there is no answer
            (nodata), and nothing is counted; so where one is NaN.
        reference
            uint8 of `shape`; 255 is not scored.

        Raises
        ------
        UsageError
            If the shapes do not fit.
        LabelError
            If a value stands for no class.
        """
        if probabilities.shape != (*reference.shape, self.classes):
            raise UsageError(
                f"probabilities of {probabilities.shape} do not fit labels of {reference.shape} "
                f"and {self.classes} classes; needed {(*reference.shape, self.classes)}"
            )
        flat, labels = probabilities.reshape(-1, self.classes), reference.reshape(-1)
        for piece in pieces(labels.size):
            self._add_piece(flat[piece], labels[piece])

    def _add_piece(self, probabilities: Probabilities, labels: LabelArray) -> None:
        columns = probabilities.T.astype(np.float64, order="C")  # classes are few, pixels many
        known = (labels != IGNORE) & (columns.sum(axis=0) > 0)
        if not known.all():
            columns, labels = columns[:, known], labels[known]
        if not len(labels):
            return
        check_labels(int(labels.max()), self.classes, "reference")
        confidence = columns.max(axis=0)
        predicted = np.zeros(len(labels), np.uint8)
        for index in reversed(range(self.classes)):  # the first of equal ones wins
            predicted[columns[index] == confidence] = index
        given = columns[labels, np.arange(len(labels))]
        count = len(self.pixels)
        place = np.clip((confidence * count).astype(np.intp), 0, count - 1)
        self.pixels += np.bincount(place, minlength=count)
        self.right += np.bincount(place[predicted == labels], minlength=count)
        self.confidence += np.bincount(place, confidence, minlength=count)
        self.squares += float((columns**2).sum() + (1 - 2 * given).sum())
        self.surprise -= float(np.log(np.maximum(given, SMALLEST)).sum())

    def __iadd__(self, other: "CalibrationBins") -> "CalibrationBins":
        if (self.classes, len(self.pixels)) != (other.classes, len(other.pixels)):
            raise UsageError(
                f"sums of {other.classes} classes in {len(other.pixels)} bins cannot be added to "
                f"those of {self.classes} in {len(self.pixels)}"
            )
        self.pixels += other.pixels
        self.right += other.right
        self.confidence += other.confidence
        self.squares += other.squares
        self.surprise += other.surprise
        return self

    def scores(self) -> Calibrated:
        """Return what the sums say."""
        count, total = len(self.pixels), int(self.pixels.sum())
        edges = np.linspace(0, 1, count + 1)
        bins = tuple(
            ReliabilityBin(
                float(edges[i]),
                float(edges[i + 1]),
                int(pixels),
                confidence=share(float(self.confidence[i]), int(pixels)),
                accuracy=share(int(self.right[i]), int(pixels)),
            )
            for i, pixels in enumerate(self.pixels)
        )
        gaps = np.abs(self.right - self.confidence)
        some = self.pixels > 0
        return Calibrated(
            ece=share(float(gaps.sum()), total),
            mce=float((gaps[some] / self.pixels[some]).max()) if total else float("nan"),
            brier=share(self.squares, total),
            nll=share(self.surprise, total),
            pixels=total,
            bins=bins,
        )


def with_background(foreground: Probabilities) -> Probabilities:
    """Return probabilities (..., class) with the background put first: 1 minus the sum."""
    rest = np.clip(1 - foreground.sum(axis=-1, keepdims=True), 0, 1)
    return np.concatenate([rest, foreground], axis=-1)
