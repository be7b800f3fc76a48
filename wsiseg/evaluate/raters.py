"""Several people drew the reference, and they differ: scores that take this as information.

The measures of the CURVAS challenge (arXiv:2505.08685), block after block.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.evaluate.calibration import Calibrated, CalibrationBins, Probabilities
from wsiseg.evaluate.overlap import Overlap
from wsiseg.evaluate.values import IGNORE, LabelArray, check_same_shape, share

__all__ = ["RaterScores", "Raters", "crps_normal"]


@dataclass(frozen=True, slots=True)
class RaterScores:
    """How one class compares with what several raters drew.

    Attributes
    ----------
    consensus
        Overlap where all raters agree: all say this class, or none does. Pixels they disagree on
        do not count. `consensus.dice` is NaN where both sides are empty there.
    confidence
        ((1 - mean probability where no rater says it) + mean probability where all do) / 2; NaN
        where one of the two places does not exist, or there are no probabilities.
    volume, rater_volumes
        Expected volume (sum of the probabilities, or of the labels where there are none) and that
        of each rater, in µm² (µm³ along three axes).
    crps
        Continuous ranked probability score of the volume against a normal distribution of those
        of the raters, in the same unit; lower is better.
    """

    consensus: Overlap
    confidence: float
    volume: float
    rater_volumes: tuple[float, ...]
    crps: float


class Raters:
    """Counts over one slide that several raters have annotated.

    Parameters
    ----------
    raters
        How many, at least two.
    classes
        How many, the background (value 0) counted.
    pixel_volume
        µm² (µm³) per pixel.
    bins
        For the calibration against each rater.

    Raises
    ------
    UsageError
        If there is only one rater.
    """

    def __init__(self, raters: int, classes: int, *, pixel_volume: float, bins: int = 50) -> None:
        if raters < 2:
            raise UsageError(f"agreement needs at least two raters, found {raters}")
        self.pixel_volume = pixel_volume
        self._overlaps = [Overlap(0, 0, 0)] * classes
        self._mass = np.zeros((classes, 2))  # sum of probability, by consensus: none, all
        self._pixels = np.zeros((classes, 2), np.int64)
        self._predicted = np.zeros(classes)
        self._drawn = np.zeros((raters, classes), np.int64)
        self._calibration = [CalibrationBins(classes, bins=bins) for _ in range(raters)]
        self._probable = False

    def add(
        self,
        prediction: LabelArray,
        raters: Sequence[LabelArray],
        probabilities: Probabilities | None = None,
    ) -> None:
        """Count one block.

        Parameters
        ----------
        prediction
            uint8, value k is class k.
        raters
            The same of each rater; where one says 255, the pixel is not scored.
        probabilities
            float (*shape, class), the background first; with all blocks or with none.

        Raises
        ------
        UsageError
            If shapes or the number of raters do not fit.
        """
        if len(raters) != len(self._drawn):
            raise UsageError(f"needed labels of {len(self._drawn)} raters, found {len(raters)}")
        for drawn in raters:
            check_same_shape(prediction, drawn)
        known = np.logical_and.reduce([drawn != IGNORE for drawn in raters])
        chosen = prediction[known]
        opinions = [drawn[known] for drawn in raters]
        likely = None if probabilities is None else probabilities[known]
        for index in range(len(self._overlaps)):
            says = [opinion == index for opinion in opinions]
            self._add_class(index, chosen == index, says, likely)
        if likely is not None:
            self._probable = True
            for bins, opinion in zip(self._calibration, opinions, strict=True):
                bins.add(likely, opinion)

    def _add_class(
        self,
        index: int,
        predicted: NDArray[np.bool_],
        says: Sequence[NDArray[np.bool_]],
        likely: Probabilities | None,
    ) -> None:
        everyone, nobody = np.logical_and.reduce(says), ~np.logical_or.reduce(says)
        hits = int(np.count_nonzero(predicted & everyone))
        self._overlaps[index] += Overlap(
            hits,
            int(np.count_nonzero(predicted & nobody)),
            int(np.count_nonzero(everyone)) - hits,
        )
        self._drawn[:, index] += [np.count_nonzero(one) for one in says]
        if likely is None:
            self._predicted[index] += np.count_nonzero(predicted)
            return
        probability = likely[:, index].astype(np.float64)
        self._predicted[index] += probability.sum()
        for side, place in enumerate((nobody, everyone)):
            self._mass[index, side] += probability[place].sum()
            self._pixels[index, side] += np.count_nonzero(place)

    def of_class(self, index: int) -> RaterScores:
        """Return the scores of one class."""
        drawn = tuple(float(count) * self.pixel_volume for count in self._drawn[:, index])
        volume = float(self._predicted[index]) * self.pixel_volume
        (low, high), (nobody, everyone) = self._mass[index], self._pixels[index]
        confidence = (1 - share(float(low), int(nobody)) + share(float(high), int(everyone))) / 2
        return RaterScores(
            consensus=self._overlaps[index],
            confidence=confidence if self._probable else float("nan"),
            volume=volume,
            rater_volumes=drawn,
            crps=crps_normal(volume, float(np.mean(drawn)), float(np.std(drawn))),
        )

    def calibrations(self) -> tuple[Calibrated, ...]:
        """Return the calibration against each rater; the mean of their `ece` is CURVAS' figure."""
        return tuple(bins.scores() for bins in self._calibration)


def crps_normal(value: float, mean: float, std: float) -> float:
    """Return the continuous ranked probability score of `value` against a normal distribution.

    In closed form (T. Gneiting, A. E. Raftery, J. Am. Stat. Assoc. 102:359, 2007,
    doi:10.1198/016214506000001437): exact however far `value` lies out. Where `std` is 0, all
    agree, and it is the distance to what they agree on.

    Parameters
    ----------
    value
        What was predicted.
    mean, std
        Of the raters; the standard deviation is that of the raters themselves (divided by n).
    """
    if std == 0:
        return abs(value - mean)
    z = (value - mean) / std
    below = math.erfc(-z / math.sqrt(2)) / 2
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return std * (z * (2 * below - 1) + 2 * density - 1 / math.sqrt(math.pi))
