"""How far a mean over few slides can be trusted, and whether two designs differ at all."""

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError

__all__ = ["Interval", "PairDifference", "bootstrap", "compare_designs"]

Values = NDArray[np.float64]
Statistic = Callable[[Values], float]
Method = Literal["percentile", "bca"]

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure, and where it may lie for other slides of the same kind.

    Attributes
    ----------
    value
        NaN where no slide has the figure.
    low, high
        Ends of the confidence interval; NaN with fewer than two slides (patients): one says
        nothing about others.
    count
        Values it was made of.
    groups
        Slides, or patients, that were drawn.
    """

    value: float
    low: float
    high: float
    count: int
    groups: int


@dataclass(frozen=True, slots=True)
class PairDifference:
    """Two designs compared: mean of `first` minus mean of `second`."""

    first: str
    second: str
    difference: float
    low: float
    high: float
    p_value: float


def mean(values: Values) -> float:
    """Return the mean of the values."""
    return float(values.mean())


def bootstrap(
    values: Sequence[float] | Values,
    *,
    statistic: Statistic = mean,
    groups: Sequence[Hashable] | None = None,
    method: Method = "percentile",
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """Return a figure of slides with its bootstrap confidence interval.

    Parameters
    ----------
    values
        float (n,) or (n, m): one row per slide. Rows with NaN or infinity are left out.
    statistic
        Makes a number of rows; default: their mean.
    groups
        Patient of each slide: patients are drawn instead of slides, and bring all their slides.
    method
        `percentile`, or `bca`, which corrects bias and skewness (B. Efron, J. Am. Stat. Assoc.
        82:171, 1987, doi:10.1080/01621459.1987.10478410); where its correction is not defined
        (all resamples alike) it is `percentile`.
    resamples, confidence, seed
        How many, what share the interval covers, and where chance begins: the same seed gives the
        same interval.

    Raises
    ------
    UsageError
        If sizes do not fit, or the confidence is not between 0 and 1.
    """
    table = np.asarray(values, np.float64)
    names = list(range(len(table))) if groups is None else list(groups)
    if len(names) != len(table) or not 0 < confidence < 1 or resamples < 1:
        raise UsageError(
            f"a bootstrap needs a group for each of {len(table)} values, a confidence between 0 "
            f"and 1 and a resample, found {len(names)} groups, {confidence} and {resamples}"
        )
    usable = np.flatnonzero(np.isfinite(table).all(axis=tuple(range(1, table.ndim))))
    members: dict[Hashable, list[int]] = {}
    for row in usable:
        members.setdefault(names[row], []).append(int(row))
    clusters = [np.array(own) for own in members.values()]
    if not clusters:
        return Interval(np.nan, np.nan, np.nan, 0, 0)
    value = float(statistic(table[usable]))
    if len(clusters) < 2:
        return Interval(value, np.nan, np.nan, len(usable), 1)
    drawn = np.random.default_rng(seed).integers(0, len(clusters), (resamples, len(clusters)))
    found = _drawn(table, clusters, drawn, statistic)
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    if method == "bca":
        left_out = [
            float(statistic(table[np.concatenate(clusters[:i] + clusters[i + 1 :])]))
            for i in range(len(clusters))
        ]
        tails = _corrected(tails, found, value, np.array(left_out))
    low, high = np.percentile(found, 100 * tails)
    return Interval(value, float(low), float(high), len(usable), len(clusters))


def _drawn(
    table: Values, clusters: Sequence[NDArray[np.intp]], drawn: NDArray[np.int64], of: Statistic
) -> Values:
    """Return the statistic of each draw of clusters."""
    if of is mean and table.ndim == 1:  # thousands of draws at once
        sums = np.array([table[own].sum() for own in clusters])
        sizes = np.array([len(own) for own in clusters])
        means: Values = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
        return means
    return np.array([of(table[np.concatenate([clusters[i] for i in draw])]) for draw in drawn])


def _corrected(tails: Values, found: Values, value: float, left_out: Values) -> Values:
    """Return the tails that correct bias and skewness; the tails as they are where undefined."""
    from scipy.special import ndtr, ndtri

    below = float(np.count_nonzero(found < value) + np.count_nonzero(found <= value)) / 2
    bias = ndtri(below / len(found))
    away = left_out.mean() - left_out
    spread = float((away**2).sum()) ** 1.5
    if spread == 0 or not np.isfinite(bias):
        return tails
    skew = float((away**3).sum()) / (6 * spread)
    z = bias + np.asarray(ndtri(tails))
    return np.asarray(ndtr(bias + z / (1 - skew * z)))


def compare_designs(
    samples: Mapping[str, Sequence[float]], *, confidence: float = CONFIDENCE
) -> tuple[PairDifference, ...]:
    """Compare each pair of designs by Tukey's honestly significant difference.

    The p-values hold for all pairs together (J. W. Tukey, Biometrics 5:99, 1949,
    doi:10.2307/3001913; unequal sizes after C. Y. Kramer, Biometrics 12:307, 1956).

    Parameters
    ----------
    samples
        Values (one per slide or seed) by the name of the design.
    confidence
        Share that the intervals cover, all together.

    Raises
    ------
    UsageError
        If there are fewer than two designs, or one has fewer than two finite values.
    """
    from scipy.stats import tukey_hsd

    columns = {name: np.asarray(values, np.float64) for name, values in samples.items()}
    columns = {name: column[np.isfinite(column)] for name, column in columns.items()}
    short = {name: len(column) for name, column in columns.items() if len(column) < 2}
    if len(columns) < 2 or short:
        raise UsageError(
            f"comparing designs needs two of them with two values each, found {len(columns)}"
            f"{f', with too few values: {short}' if short else ''}"
        )
    result = tukey_hsd(*columns.values())
    interval = result.confidence_interval(confidence)
    low, high = np.asarray(interval.low), np.asarray(interval.high)
    return tuple(
        PairDifference(
            first,
            second,
            float(result.statistic[i, j]),
            float(low[i, j]),
            float(high[i, j]),
            float(result.pvalue[i, j]),
        )
        for (i, first), (j, second) in itertools.combinations(enumerate(columns), 2)
    )
