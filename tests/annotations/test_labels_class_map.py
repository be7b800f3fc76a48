"""Class maps: what lies where on a slide, and places drawn from it."""

import numpy as np
import pytest
from labelled_slides import box_feature, slide, write
from scipy.stats import chisquare

from wsiseg.annotations import labels as labels_module
from wsiseg.annotations.labels import IGNORE, open_labels
from wsiseg.errors import LabelError

CLASSES = ("background", "stroma", "tumour")


@pytest.fixture
def labels(tmp_path):
    path = write(
        tmp_path / "a.geojson",
        box_feature(10, 20, 40, 61),
        box_feature(60, 20, 119, 33, "stroma"),
        box_feature(0, 0, 120, 80, "Region*"),
    )
    return open_labels(path, slide(), CLASSES, within=["Region*"])


@pytest.mark.parametrize("strip", [1 << 22, 50])
def test_a_map_holds_the_class_at_pixel_centres(labels, strip, monkeypatch):
    monkeypatch.setattr(labels_module, "STRIP_PIXELS", strip)
    found = labels.class_map(1.5)
    assert found.downsample == (3.0, 3.0)
    y, x = (np.arange(34) + 0.5) * 3, (np.arange(40) + 0.5) * 3
    y[-1] = (99 + 100) / 2
    expected = np.zeros((34, 40), np.uint8)
    expected[np.ix_((y >= 20) & (y < 33), (x >= 60) & (x < 119))] = 1
    expected[np.ix_((y >= 20) & (y < 61), (x >= 10) & (x < 40))] = 2
    expected[y >= 80] = IGNORE
    np.testing.assert_array_equal(found.values, expected)
    assert found.count(2) == (expected == 2).sum()
    assert found.area_um2(2) == (expected == 2).sum() * 1.5 * 1.5


def test_places_are_uniform_over_a_class_and_repeatable(labels):
    found = labels.class_map(0.5)
    places = found.draw(2, 20_000, np.random.default_rng(3))
    y, x = places.T
    assert (y >= 20).all()
    assert (y < 61).all()
    assert (x >= 10).all()
    assert (x < 40).all()
    counts, *_ = np.histogram2d(y, x, bins=[np.linspace(20, 61, 9), np.linspace(10, 40, 7)])
    assert chisquare(counts.ravel()).pvalue > 1e-3
    np.testing.assert_array_equal(places, found.draw(2, 20_000, np.random.default_rng(3)))
    assert len(np.unique(places, axis=0)) == 20_000


def test_places_lie_on_the_slide_even_in_the_last_pixel(tmp_path):
    path = write(tmp_path / "a.geojson", box_feature(0, 0, 120, 100))
    found = open_labels(path, slide(), CLASSES).class_map(3.5)
    assert found.values.shape == (15, 18)
    assert (found.draw(2, 5_000, np.random.default_rng(0)) < (100, 120)).all()


def test_a_class_that_is_not_there_has_no_place(labels, tmp_path):
    path = write(tmp_path / "b.geojson", box_feature(10, 20, 40, 60))
    with pytest.raises(LabelError, match="no place of class value 1"):
        open_labels(path, slide(), CLASSES).class_map(1).draw(1, 1, np.random.default_rng(0))
    with pytest.raises(LabelError, match=r"none finer than 0\.5 µm"):
        labels.class_map(0.25)
    assert "1.5 µm" in repr(labels.class_map(1.5))
