"""Intensities as a network was trained on them: the card's steps, measured on the scan itself."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import ModelError
from wsiseg.model.card import NormalizeStep, ScaleStep, Step
from wsiseg.model.scan_card import (
    ClipStep,
    N4Step,
    PercentileClipStep,
    PercentileWindowStep,
    Region,
    RescaleStep,
    WindowStep,
    ZscoreStep,
)

__all__ = ["Intensity", "measured_steps"]

Values = NDArray[np.float32]
Slabs = Callable[[], Iterable[Values]]
"""Gives all values of a scan, float32 `(..., channel)`, slab by slab; may be called again."""

SMALLEST_DEVIATION = 1e-8
"""Below it a channel is constant, and only its mean is subtracted (nnU-Net)."""

KEYS = 1 << 16


@dataclass(frozen=True, slots=True)
class Intensity:
    """One step with its numbers known: clip, then `scale * x + offset`, per channel."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    region: Region = "all"

    def __call__(self, values: Values) -> Values:
        """Return values `(..., channel)` after the step."""
        low, high, scale, offset = (
            np.asarray(numbers, np.float32)
            for numbers in (self.low, self.high, self.scale, self.offset)
        )
        found: Values = np.clip(values, low, high)
        found *= scale
        found += offset
        if self.region == "nonzero":
            found[values == 0] = 0
        return found


def measured_steps(steps: Sequence[Step], channels: int, slabs: Slabs) -> tuple[Intensity, ...]:
    """Return the steps with the numbers that they take from the scan.

    Parameters
    ----------
    steps
        Of the card.
    channels
        Each is measured on its own.
    slabs
        The values before the first step. Read once or twice for each step that measures; memory
        does not grow with the scan.

    Raises
    ------
    ModelError
        If a step needs what is not installed.
    """
    known: list[Intensity] = []

    def so_far() -> Iterable[Values]:
        for values in slabs():
            yield _after(known, values)

    for step in steps:
        if isinstance(step, N4Step):
            continue  # done before, on the whole scan
        known.append(_measured(step, channels, so_far))
    return tuple(known)


def _after(steps: Iterable[Intensity], values: Values) -> Values:
    for step in steps:
        values = step(values)
    return values


def _measured(step: Step, channels: int, slabs: Slabs) -> Intensity:
    none, ones = (0.0,) * channels, (1.0,) * channels
    free = (-np.inf,) * channels, (np.inf,) * channels
    if isinstance(step, ScaleStep):
        return Intensity(*free, (1 / step.divide_by,) * channels, none)
    if isinstance(step, NormalizeStep):
        scale = tuple(1 / s for s in step.std)
        offset = tuple(-m / s for m, s in zip(step.mean, step.std, strict=True))
        return Intensity(*free, scale, offset)
    if isinstance(step, ClipStep):
        return Intensity((step.low,) * channels, (step.high,) * channels, ones, none)
    if isinstance(step, WindowStep):
        limits = [(step.low, step.high)] * channels
        return _window(limits, step.to, clip=step.clip)
    if isinstance(step, PercentileClipStep):
        limits = _percentiles(slabs, channels, (step.low, step.high), step.region)
        low, high = zip(*limits, strict=True)
        return Intensity(low, high, ones, none, step.region)
    if isinstance(step, PercentileWindowStep):
        limits = _percentiles(slabs, channels, (step.low, step.high), step.region)
        return _window(limits, step.to, clip=step.clip, region=step.region)
    if isinstance(step, RescaleStep):
        return _window(_extremes(slabs, channels), step.to, clip=False)
    if isinstance(step, ZscoreStep):
        mean, std = _moments(slabs, channels, step.region)
        scale = tuple(1 / max(s, SMALLEST_DEVIATION) if s else 1.0 for s in std)
        offset = tuple(-m * s for m, s in zip(mean, scale, strict=True))
        return Intensity(*free, scale, offset, step.region)
    raise ModelError(f"step {step.name!r} of a scan is unknown to this version; update wsiseg")


def _window(
    limits: Sequence[tuple[float, float]],
    to: tuple[float, float],
    *,
    clip: bool,
    region: Region = "all",
) -> Intensity:
    scale = tuple((to[1] - to[0]) / ((high - low) or 1.0) for low, high in limits)
    offset = tuple(to[0] - low * s for (low, _), s in zip(limits, scale, strict=True))
    low, high = zip(*limits, strict=True)
    if not clip:
        low, high = (-np.inf,) * len(limits), (np.inf,) * len(limits)
    return Intensity(low, high, scale, offset, region)


def _chosen(values: Values, channel: int, region: Region) -> Values:
    """Return the values of a channel that count, one-dimensional."""
    found = values[..., channel].reshape(-1)
    if region == "all":
        return found
    # outside of a mask are no numbers
    counts: NDArray[np.bool_] = ~np.isnan(found) if region == "mask" else found != 0
    return found[counts]


def _extremes(slabs: Slabs, channels: int) -> list[tuple[float, float]]:
    low, high = np.full(channels, np.inf), np.full(channels, -np.inf)
    for values in slabs():
        axes = tuple(range(values.ndim - 1))
        low = np.minimum(low, values.min(axis=axes))
        high = np.maximum(high, values.max(axis=axes))
    return list(zip(low.tolist(), high.tolist(), strict=True))


def _moments(slabs: Slabs, channels: int, region: Region) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel, in float64."""
    count, total, squares = (np.zeros(channels) for _ in range(3))
    for values in slabs():
        for c in range(channels):
            mine = _chosen(values, c, region)
            count[c] += mine.size
            total[c] += mine.sum(dtype=np.float64)
    mean = total / np.maximum(count, 1)
    for values in slabs():
        for c in range(channels):
            distance = _chosen(values, c, region).astype(np.float64) - mean[c]
            squares[c] += float(distance @ distance)
    return mean.tolist(), np.sqrt(squares / np.maximum(count, 1)).tolist()


def _percentiles(
    slabs: Slabs, channels: int, percents: Sequence[float], region: Region
) -> list[tuple[float, float]]:
    """Return two percentiles per channel, interpolated as NumPy does; exact, in two passes.

    The bits of a float32, read as an unsigned integer, are in the order of its value once those of
    negative numbers are turned over. Counting the upper halves tells in which of 65536 bins a rank
    lies, counting the lower halves of that bin tells its value.
    """
    upper = np.zeros((channels, KEYS), np.int64)
    for values in slabs():
        for c in range(channels):
            keys = _keys(_chosen(values, c, region)) >> 16
            upper[c] += np.bincount(keys, minlength=KEYS)
    ranks = [_ranks(int(counts.sum()), percents) for counts in upper]
    bins = [_bins(counts, wanted) for counts, wanted in zip(upper, ranks, strict=True)]
    lower = [{b: np.zeros(KEYS, np.int64) for b in set(mine)} for mine in bins]
    for values in slabs():
        for c in range(channels):
            keys = _keys(_chosen(values, c, region))
            for b in lower[c]:
                mine = keys[keys >> 16 == b] & (KEYS - 1)
                lower[c][b] += np.bincount(mine, minlength=KEYS)
    found = []
    for c in range(channels):
        before = np.concatenate([[0], np.cumsum(upper[c])])
        ends = [
            _value(b, lower[c][b], rank - int(before[b]))
            for b, rank in zip(bins[c], (r for low, high, _ in ranks[c] for r in (low, high)),
                               strict=True)
        ]  # fmt: skip
        low, high = (
            ends[2 * i] + (ends[2 * i + 1] - ends[2 * i]) * share
            for i, (_, _, share) in enumerate(ranks[c])
        )
        found.append((low, high))
    return found


def _ranks(count: int, percents: Sequence[float]) -> list[tuple[int, int, float]]:
    """Return the ranks between which each percentile lies, and the share of the second."""
    places = [p / 100 * max(0, count - 1) for p in percents]
    return [(int(p), min(int(p) + 1, max(0, count - 1)), p - int(p)) for p in places]


def _bins(counts: NDArray[np.int64], ranks: Sequence[tuple[int, int, float]]) -> list[int]:
    ends = np.cumsum(counts)
    wanted = [rank for low, high, _ in ranks for rank in (low, high)]
    return [min(int(np.searchsorted(ends, rank, side="right")), KEYS - 1) for rank in wanted]


def _keys(values: Values) -> NDArray[np.int64]:
    bits = np.ascontiguousarray(values + np.float32(0)).view(np.uint32)  # + 0: no negative zero
    turned = np.where(bits >> 31 == 1, ~bits, bits | np.uint32(1 << 31))
    return turned.astype(np.int64)


def _value(upper: int, counts: NDArray[np.int64], rank: int) -> float:
    """Return the value whose key lies in bin `upper`, the one of this rank there."""
    key = (upper << 16) | min(int(np.searchsorted(np.cumsum(counts), rank, side="right")), KEYS - 1)
    bits = key & 0x7FFFFFFF if key >> 31 else ~key & 0xFFFFFFFF
    return float(np.uint32(bits).view(np.float32))
