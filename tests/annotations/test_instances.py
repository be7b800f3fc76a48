"""Objects of masks: exact along pixel edges, wherever slabs end."""

import logging

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio.features import rasterize

from wsiseg.annotations import instances as instances_module
from wsiseg.annotations.instances import InstanceRule, trace_instances
from wsiseg.errors import AnnotationError

LABELS = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=16),
    elements=st.integers(0, 2),
)
RULES = st.sampled_from(
    [
        InstanceRule(),
        InstanceRule("distance", 0.5),
        InstanceRule("offsets", 0.2),
        InstanceRule("none", cell=1, nucleus=2),
        InstanceRule("distance", 0.5, cell=2, nucleus=1),
    ]
)


def drawn(geometries, shape):
    """Return how many polygons cover each pixel."""
    cover = np.zeros(shape, int)
    for polygon in geometries:
        cover += rasterize([polygon], shape)
    return cover


@given(labels=LABELS, rule=RULES, block=st.integers(1, 17), seed=st.integers(0, 99))
def test_slabs_change_nothing_and_pixels_are_kept(labels, rule, block, seed):
    random = np.random.default_rng(seed)
    codes = random.integers(0, 256, (2, *labels.shape), dtype=np.uint8)
    chances = random.integers(1, 256, labels.shape, dtype=np.uint8)

    class Rows:
        def __getitem__(self, rows):
            return codes[:, rows]

    def run(block):
        return trace_instances(labels, rule, offsets=Rows(), probability=chances, block=block)

    whole, cut = run(10_000), run(block)
    assert shapely.equals(whole.traced.geometries, cut.traced.geometries).all()
    assert np.array_equal(whole.traced.values, cut.traced.values)
    np.testing.assert_array_equal(whole.traced.probability, cut.traced.probability)
    assert shapely.is_valid(whole.traced.geometries).all()
    assert (drawn(whole.traced.geometries, labels.shape) == (labels > 0)).all()
    body = rule.cell
    for label in (1, 2):
        own = whole.traced.geometries[whole.traced.values == label]
        wanted = labels == label
        if body is not None:
            wanted = labels > 0 if label == body else np.zeros(labels.shape, bool)
        assert (drawn(own, labels.shape) == wanted).all()
    if rule.nucleus is None:
        assert whole.nuclei is None
        return
    for cell, nucleus, again in zip(whole.traced.geometries, whole.nuclei, cut.nuclei, strict=True):
        assert (nucleus is None) == (again is None)
        assert nucleus is None or (cell.covers(nucleus) and nucleus.equals(again))
    inside = [nucleus for nucleus in whole.nuclei if nucleus is not None]
    assert (drawn(inside, labels.shape) == (labels == rule.nucleus)).all()


def test_cells_share_their_body_by_their_nuclei():
    labels = np.zeros((20, 40), np.uint8)
    labels[4:16, 4:36] = 1
    labels[8:12, 8:12] = labels[8:12, 28:32] = 2
    labels[2:4, 0:2] = 1  # a body without a nucleus
    found = trace_instances(labels, InstanceRule(cell=1, nucleus=2))
    areas = sorted(shapely.area(found.traced.geometries))
    assert areas == [4, 192, 192]
    assert [nucleus and nucleus.area for nucleus in found.nuclei].count(16) == 2
    assert list(found.traced.values) == [1, 1, 1]


def test_offsets_tell_apart_what_has_no_neck():
    labels = np.ones((12, 40), np.uint8)
    place = np.tile(np.linspace(-1, 1, 20), 2)
    codes = np.full((2, 12, 40), 128, np.uint8)
    codes[1] = np.rint(1 + 254 * (place + 1) / 2)

    class Rows:
        def __getitem__(self, rows):
            return codes[:, rows]

    assert len(trace_instances(labels, InstanceRule("distance", 1.0)).traced) == 1
    found = trace_instances(labels, InstanceRule("offsets", 0.3), offsets=Rows())
    assert [tuple(g.bounds) for g in found.traced.geometries] == [(0, 0, 20, 12), (20, 0, 40, 12)]
    with pytest.raises(AnnotationError, match="needs offsets, found none"):
        trace_instances(labels, InstanceRule("offsets", 0.3))


def test_an_object_larger_than_memory_allows_is_cut_and_that_is_said(monkeypatch, caplog):
    monkeypatch.setattr(instances_module, "MAX_WAITING", 100)
    labels = np.ones((40, 10), np.uint8)
    with caplog.at_level(logging.WARNING):
        found = trace_instances(labels, InstanceRule(), block=8)
    assert "is cut" in caplog.text
    assert (drawn(found.traced.geometries, labels.shape) == 1).all()
