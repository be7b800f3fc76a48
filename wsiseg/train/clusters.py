"""Cluster-guided loss: kinds of tissue count alike, however many patches show them.

Features of a frozen network are standardised, projected on their principal axes and grouped by
k-means, once before training. In training each patch belongs to the nearest group, and the
cross-entropy is averaged per group, then per class.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from wsiseg.errors import TrainingError
from wsiseg.train.losses import IGNORE

__all__ = ["Clusters", "cluster_loss", "fit_clusters"]

RESTARTS, ITERATIONS = 4, 100
"""Of k-means; it stops earlier when no point changes its group."""

Points = NDArray[np.float64]


class Clusters(nn.Module):
    """From features to the index of their cluster, without gradients.

    Parameters
    ----------
    mean, scale
        (f,), subtracted and divided by.
    axes
        (f, k) principal axes, the one of the largest variance first.
    centroids
        (cluster, k).

    Notes
    -----
    All four are buffers: `state_dict` holds them, `to` moves them.
    """

    mean: torch.Tensor
    scale: torch.Tensor
    axes: torch.Tensor
    centroids: torch.Tensor

    def __init__(self, mean: Points, scale: Points, axes: Points, centroids: Points) -> None:
        super().__init__()
        arrays = {"mean": mean, "scale": scale, "axes": axes, "centroids": centroids}
        for name, array in arrays.items():
            self.register_buffer(name, torch.tensor(array, dtype=torch.float32))

    @torch.no_grad()
    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Return features (n, f) as float32 (n, k) along the principal axes."""
        projected: torch.Tensor = (features.float() - self.mean) / self.scale @ self.axes
        return projected

    @torch.no_grad()
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the cluster of each of the features (n, f), int64 (n,)."""
        return torch.cdist(self.project(features), self.centroids).argmin(dim=1)


def fit_clusters(
    features: NDArray[np.floating] | torch.Tensor,
    *,
    count: int = 10,
    variance: float = 0.95,
    seed: int = 0,
) -> Clusters:
    """Fit standardisation, principal axes and k-means.

    Parameters
    ----------
    features
        (n, f), one row per patch of the training set.
    count
        Number of clusters; H2G-Net has 10.
    variance
        Share of the variance that the principal axes keep, above 0 and up to 1.
    seed
        Decides the first centroids; the same seed and features give the same clusters.

    Raises
    ------
    TrainingError
        If there are fewer different patches than clusters, or features are not numbers.

    References
    ----------
    Pedersen et al. 2022, doi:10.3389/fmed.2022.971873 (design V); first centroids: Arthur &
    Vassilvitskii 2007, k-means++ (SODA '07, 1027-1035).
    """
    points = np.asarray(features, dtype=np.float64)
    if points.ndim != 2 or not np.isfinite(points).all():
        raise TrainingError(
            f"clusters: needed finite features (patch, feature), found shape {points.shape} with "
            f"{int((~np.isfinite(points)).sum())} values that are no numbers; check the network"
        )
    if count < 1 or not 0 < variance <= 1:
        raise TrainingError(
            f"clusters: needed a count of 1 or more and a share of variance in (0, 1], found "
            f"{count} and {variance}; correct the options"
        )
    mean, spread = points.mean(axis=0), points.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)  # a feature that never changes says nothing
    points = (points - mean) / scale
    axes = _principal_axes(points, variance)
    points = points @ axes
    different = len(np.unique(points.round(9), axis=0))
    if different < count:
        raise TrainingError(
            f"clusters: needed at least {count} different patches, found {different} among "
            f"{len(points)}; draw more patches or take fewer clusters"
        )
    return Clusters(mean, scale, axes, _k_means(points, count, seed))


def cluster_loss(
    logits: torch.Tensor, labels: torch.Tensor, clusters: torch.Tensor, ignore_index: int = IGNORE
) -> torch.Tensor:
    """Return the cross-entropy averaged per cluster, over clusters, then over classes.

    Parameters
    ----------
    logits
        float32 (n, class) of patches.
    labels
        int64 (n,) class indices.
    clusters
        int64 (n,), from `Clusters`.
    ignore_index
        Label of patches that are left out.

    Notes
    -----
    Clusters without a patch of a class, and classes without a patch, are left out of the means.

    References
    ----------
    Pedersen et al. 2022, doi:10.3389/fmed.2022.971873.
    """
    entropy = functional.cross_entropy(
        logits.float(), labels, ignore_index=ignore_index, reduction="none"
    )
    classes, count = logits.shape[1], int(clusters.max()) + 1 if len(clusters) else 1
    known = labels != ignore_index
    cell = torch.where(known, labels, 0) * count + clusters
    members = functional.one_hot(cell, classes * count) * known[:, None]  # (n, class * cluster)
    sizes = members.sum(dim=0)
    means = (entropy @ members.to(entropy.dtype) / sizes.clamp(min=1)).reshape(classes, count)
    filled = (sizes > 0).reshape(classes, count).sum(dim=1)
    per_class = means.sum(dim=1) / filled.clamp(min=1)
    return per_class.sum() / (filled > 0).sum().clamp(min=1)


def _principal_axes(points: Points, variance: float) -> Points:
    """Return (f, k) orthonormal axes that keep a share of the variance of centred points."""
    _, singular, rows = np.linalg.svd(points, full_matrices=False)
    power = np.cumsum(singular**2)
    needed = int(np.searchsorted(power, variance * power[-1] * (1 - 1e-12))) + 1
    axes = rows[: min(needed, len(rows))]
    # An axis may point either way; the larger component is made positive for the seed's sake.
    largest = axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)]
    return np.asarray((axes * np.sign(largest)[:, None]).T)


def _k_means(points: Points, count: int, seed: int) -> Points:
    """Return the best centroids (count, k) of several starts (Lloyd's algorithm)."""
    rng = np.random.default_rng(seed)
    starts = [_lloyd(points, _spread_out(points, count, rng)) for _ in range(RESTARTS)]
    return min(starts, key=lambda centroids: _squares(points, centroids).min(axis=1).sum())


def _spread_out(points: Points, count: int, rng: np.random.Generator) -> Points:
    """Return points far from each other: each next with a chance by its squared distance."""
    chosen = [points[rng.integers(len(points))]]
    while len(chosen) < count:
        distance = _squares(points, np.stack(chosen)).min(axis=1)
        distance[distance < 1e-12 * distance.max()] = 0  # rounding is no distance
        chosen.append(points[rng.choice(len(points), p=distance / distance.sum())])
    return np.stack(chosen)


def _lloyd(points: Points, centroids: Points) -> Points:
    nearest = np.full(len(points), -1)
    for _ in range(ITERATIONS):
        squares = _squares(points, centroids)
        before, nearest = nearest, squares.argmin(axis=1)
        if np.array_equal(before, nearest):
            break
        centroids = centroids.copy()
        for index in range(len(centroids)):
            own = points[nearest == index]
            # One that lost all its points moves to where the fit is worst.
            centroids[index] = (
                own.mean(axis=0) if len(own) else points[squares.min(axis=1).argmax()]
            )
    return centroids


def _squares(points: Points, centroids: Points) -> Points:
    """Return squared distances (n, centroid)."""
    cross = points @ centroids.T
    lengths = (points**2).sum(axis=1)[:, None] + (centroids**2).sum(axis=1)
    return np.asarray(np.maximum(lengths - 2 * cross, 0))
