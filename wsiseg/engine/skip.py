"""From coarse to fine: a stage runs only where an earlier one makes it likely to find something.

What that loses is not assumed but estimated, on each slide: a random sample of the skipped tiles
runs as well, and what it finds stands for what all of them would have given.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.graph import StageSetup
from wsiseg.stitch import ChunkRows, HeatmapStore, decode

__all__ = ["SkipReport", "Skipping", "skip_unlikely"]

SAMPLE_SHARE, SAMPLE_LEAST = 0.05, 16
"""Share of the skipped tiles that run as a sample, and their least number."""

POSITIVE = 0.5
"""Probability from which a pixel counts as found."""


@dataclass(frozen=True, slots=True)
class SkipReport:
    """What skipping left out of a stage."""

    below: float
    """Tiles were skipped where the stage before gave every class less than this."""

    skipped: int
    """Tiles that did not run."""

    sampled: int
    """Tiles that ran although they were to be skipped."""

    hits: int
    """Sampled tiles in which this stage found something."""

    hit_share_at_most: float
    """Upper limit (95 %) of the share of the skipped tiles that hold something (Clopper and Pearson
    1934, doi:10.1093/biomet/26.4.404)."""

    recall: float | None
    """Estimated share of what this stage would find (pixels of any class) that is in its output;
    `None` where it finds nothing at all. Where few tiles hold much, a small sample misses them:
    then the limit above says more."""


@dataclass(frozen=True, slots=True)
class Skipping:
    """Which tiles of a stage run; arrays are bool of `grid.counts`."""

    setup: StageSetup
    background: str
    below: float
    likely: NDArray[np.bool_]
    unlikely: NDArray[np.bool_]
    sample: NDArray[np.bool_]
    """Some of the unlikely ones."""

    @property
    def selected(self) -> NDArray[np.bool_]:
        """Tiles that run."""
        return self.likely | self.sample

    def report(self, output: HeatmapStore) -> SkipReport:
        """Return what was lost, from what the stage gave."""
        found = np.zeros(self.likely.shape)
        bands = _bands(output, self.setup, self.selected, self.background, overlap=False)
        for row, starts, stops, values in bands:
            pixels = values >= POSITIVE
            before = np.concatenate([[0], np.cumsum(pixels.sum(axis=0))])
            found[row] = before[stops] - before[starts]
        sampled = int(self.sample.sum())
        skipped = int(self.unlikely.sum()) - sampled
        hits = int(np.count_nonzero(found[self.sample]))
        kept = float(found.sum())
        lost = float(found[self.sample].mean()) * skipped if sampled else 0.0
        return SkipReport(
            below=self.below,
            skipped=skipped,
            sampled=sampled,
            hits=hits,
            hit_share_at_most=_at_most(hits, sampled) if skipped else 0.0,
            recall=kept / (kept + lost) if kept + lost else None,
        )


def skip_unlikely(
    setup: StageSetup,
    heatmaps: Mapping[str, HeatmapStore],
    selected: NDArray[np.bool_],
    *,
    background: str,
    below: float,
) -> Skipping | None:
    """Return which tiles are worth running; `None` where all are, or no heatmap is read.

    Parameters
    ----------
    setup
        A stage on a grid of two axes.
    heatmaps
        What earlier stages wrote, by output name.
    selected
        Tiles with tissue, bool of `grid.counts`.
    background
        Name of the class that is not looked for.
    below
        0 runs all. A tile runs where some pixel of the heatmap within its write box gives another
        class at least this probability. Of the others a sample runs, the same one every time.
    """
    names = [item.spec.source for item in setup.inputs if item.view is None]
    if below <= 0 or not names or len(setup.grid.shape) != 2:
        return None
    heatmap = heatmaps[names[0]]
    likely = np.zeros(selected.shape, np.bool_)
    for row, starts, stops, values in _bands(heatmap, setup, selected, background, overlap=True):
        best = values.max(axis=0)
        ends = np.stack([starts, stops], axis=1).ravel()
        likely[row] = np.maximum.reduceat(np.append(best, 0), ends)[::2] >= below
    likely &= selected
    unlikely = selected & ~likely
    places = np.flatnonzero(unlikely)
    size = min(len(places), max(SAMPLE_LEAST, round(SAMPLE_SHARE * len(places))))
    sample = np.zeros(selected.shape, np.bool_)
    sample.flat[np.random.default_rng(0).choice(places, size, replace=False)] = True
    return Skipping(setup, background, below, likely, unlikely, sample)


def _at_most(hits: int, sampled: int) -> float:
    from scipy.stats import beta

    return 1.0 if hits >= sampled else float(beta.ppf(0.95, hits + 1, sampled - hits))


def _bands(
    heatmap: HeatmapStore,
    setup: StageSetup,
    wanted: NDArray[np.bool_],
    background: str,
    *,
    overlap: bool,
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
    """Yield each row of tiles that has wanted ones, with the heatmap under it.

    Yields
    ------
    row, starts, stops, values
        Index of the row; first and last + 1 heatmap column of each tile; probability of the
        likeliest class but the background, float32 (y, x).
    """
    (tops, bottoms), (starts, stops) = (
        _edges(heatmap, setup, axis, overlap=overlap) for axis in (0, 1)
    )
    codes = ChunkRows(heatmap.codes)
    classes = [i for i, name in enumerate(heatmap.channels) if name != background]
    for row in np.flatnonzero(wanted.any(axis=1)).tolist():
        band = codes[int(tops[row]) : int(bottoms[row])]
        yield row, starts, stops, decode(band[classes].max(axis=0))


def _edges(
    heatmap: HeatmapStore, setup: StageSetup, axis: int, *, overlap: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first and last + 1 heatmap pixel under each tile along an axis, never none."""
    grid, place = setup.decided, heatmap.placement
    first = np.arange(grid.counts[axis]) * grid.stride[axis]
    last = first + grid.stride[axis] + (grid.overlap[axis] if overlap else 0)
    scale = setup.reference.downsample[axis]
    start, stop = (
        (np.minimum(edge, grid.shape[axis]) * scale - place.origin[axis]) / place.downsample[axis]
        for edge in (first, last)
    )
    low = np.clip(np.floor(start + 1e-6), 0, place.shape[axis] - 1)
    high = np.clip(np.ceil(stop - 1e-6), low + 1, place.shape[axis])
    return low.astype(np.int64), high.astype(np.int64)
