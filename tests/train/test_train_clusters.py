"""Clusters and the loss over them, against plain loops and eigenvectors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.errors import TrainingError
from wsiseg.train.clusters import cluster_loss, fit_clusters


def blobs(count=5, each=40, length=12, seed=0):
    """Well separated groups, and which group each row is of; one feature never changes."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 10, (count, length))
    group = np.repeat(np.arange(count), each)
    points = centres[group] + rng.normal(0, 0.3, (count * each, length))
    points[:, 3] = 7.0
    order = rng.permutation(len(points))
    return points[order], group[order]


def test_separated_groups_are_found():
    points, group = blobs()
    found = fit_clusters(points, count=5)(torch.from_numpy(points)).numpy()
    pairs = set(zip(group.tolist(), found.tolist(), strict=True))
    assert len(pairs) == 5  # a bijection: each group one cluster


def test_axes_are_the_eigenvectors_that_keep_the_variance():
    points, _ = blobs(each=30)
    clusters = fit_clusters(points, count=3, variance=0.8)
    spread = points.std(axis=0)
    standard = (points - points.mean(axis=0)) / np.where(spread > 0, spread, 1)
    values, vectors = np.linalg.eigh(standard.T @ standard / len(points))
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = clusters.axes.shape[1]
    assert values[:kept].sum() >= 0.8 * values.sum() > values[: kept - 1].sum()
    overlap = np.abs(clusters.axes.numpy().T @ vectors[:, :kept])
    np.testing.assert_allclose(overlap, np.eye(kept), atol=1e-4)
    projected = clusters.project(torch.from_numpy(points)).numpy()
    np.testing.assert_allclose(projected.var(axis=0), values[:kept], rtol=1e-4)


def test_k_means_stands_still():
    """Each centroid is the mean of the points nearest to it."""
    points = np.random.default_rng(0).normal(size=(300, 4))
    clusters = fit_clusters(points, count=6, variance=1.0)
    nearest = clusters(torch.from_numpy(points)).numpy()
    projected = clusters.project(torch.from_numpy(points)).numpy()
    distances = np.linalg.norm(projected[:, None] - clusters.centroids.numpy(), axis=2)
    np.testing.assert_array_equal(nearest, distances.argmin(axis=1))
    means = [projected[nearest == k].mean(axis=0) for k in range(6)]
    np.testing.assert_allclose(clusters.centroids.numpy(), means, atol=1e-4)


def test_the_seed_decides():
    points = np.random.default_rng(0).normal(size=(200, 5))
    first, again = (fit_clusters(points, count=7, seed=3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.buffers(), again.buffers(), strict=True))


def test_state_travels():
    points, _ = blobs()
    clusters, other = fit_clusters(points, count=5), fit_clusters(points + 1, count=5, seed=1)
    other.load_state_dict(clusters.state_dict())
    x = torch.from_numpy(points)
    assert torch.equal(clusters(x), other(x))


def test_as_many_clusters_as_points():
    points = np.random.default_rng(0).normal(size=(6, 3))
    found = fit_clusters(points, count=6)(torch.from_numpy(points))
    assert sorted(found.tolist()) == list(range(6))


@pytest.mark.parametrize(
    ("points", "options", "says"),
    [
        (np.ones((20, 3)), {"count": 2}, "at least 2 different patches, found 1 among 20"),
        (np.full((20, 3), np.nan), {"count": 2}, "60 values that are no numbers"),
        (np.ones(20), {"count": 2}, r"found shape \(20,\)"),
        (np.ones((20, 3)), {"count": 0}, "count of 1 or more"),
        (np.ones((20, 3)), {"variance": 1.1}, "share of variance"),
    ],
)
def test_what_cannot_be_clustered_is_refused(points, options, says):
    with pytest.raises(TrainingError, match=says):
        fit_clusters(points, **options)


def loop(logits, labels, clusters):
    """The definition, one mean after the other."""
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    per_class = []
    for c in range(logits.shape[1]):
        per_cluster = [
            np.mean([-math.log(p[i, c]) for i in np.flatnonzero((labels == c) & (clusters == k))])
            for k in range(10)
            if ((labels == c) & (clusters == k)).any()
        ]
        if per_cluster:
            per_class.append(np.mean(per_cluster))
    return np.mean(per_class) if per_class else 0.0


@given(seed=st.integers(0, 10**6), count=st.integers(1, 12), ignored=st.booleans())
def test_cluster_loss_is_its_definition(seed, count, ignored):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, 3))
    labels = rng.choice([0, 2, 255] if ignored else [0, 1, 2], count)
    clusters = rng.integers(0, 4, count)
    found = cluster_loss(
        torch.from_numpy(logits), torch.from_numpy(labels), torch.from_numpy(clusters)
    )
    assert found.item() == pytest.approx(loop(logits, labels, clusters), abs=1e-5)


def test_rare_clusters_count_like_common_ones():
    """Nine patches of one kind, one of another: their means weigh alike."""
    logits = torch.tensor([[4.0, 0.0]] * 9 + [[0.0, 4.0]])
    labels, clusters = torch.zeros(10, dtype=torch.long), torch.tensor([0] * 9 + [1])
    right, wrong = math.log1p(math.exp(-4)), math.log1p(math.exp(4))
    assert cluster_loss(logits, labels, clusters).item() == pytest.approx((right + wrong) / 2)


def test_gradients_are_finite_when_a_class_is_missing_or_all_is_ignored():
    for labels in (torch.zeros(4, dtype=torch.long), torch.full((4,), 255)):
        logits = torch.randn(4, 3, requires_grad=True)
        cluster_loss(logits, labels, torch.tensor([0, 0, 1, 2])).backward()
        assert torch.isfinite(logits.grad).all()
