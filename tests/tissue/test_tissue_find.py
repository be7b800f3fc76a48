"""From a slide to a mask: the spacing looked at, plug-ins, and what is said when it fails."""

import types
from importlib.metadata import EntryPoint, EntryPoints

import numpy as np
import pytest

from wsiseg.errors import EmptyTissueWarning, TissueError, UsageError
from wsiseg.geometry import Box, Spacing
from wsiseg.options import DETECTORS, TissueOptions
from wsiseg.tissue import find as find_module
from wsiseg.tissue import find_tissue
from wsiseg.tissue.find import detector_named

NONE = TissueOptions(detector="none")


class ArrayView:
    """A view on an array, which counts what is read of it."""

    def __init__(self, pixels, spacing, downsample):
        self.pixels, self.spacing, self.downsample = pixels, spacing, downsample
        self.shape = pixels.shape[:2]
        self.tallest = 0

    def read(self, box: Box):
        self.tallest = max(self.tallest, box.shape[0])
        return self.pixels[box.slices()]

    def damaged(self, *_states):
        return np.zeros((0, 4))


class ArrayPyramid:
    """The least of a pyramid that tissue needs: one array, seen at any coarser spacing."""

    name = "made.svs"

    def __init__(self, pixels, um=(0.5, 0.5)):
        self.pixels, self.spacing = pixels, Spacing(um)
        self.shape = pixels.shape[:2]
        self.asked: list[Spacing] = []

    def at(self, spacing):
        self.asked.append(spacing)
        steps = [max(1, round(r)) for r in spacing.ratio_to(self.spacing)]
        seen = np.ascontiguousarray(self.pixels[:: steps[0], :: steps[1]])
        self.view = ArrayView(seen, self.spacing.times(steps), tuple(float(s) for s in steps))
        self.view.level = types.SimpleNamespace(spacing=self.spacing)
        return self.view


def glass(height, width):
    return np.full((height, width, 3), (241, 239, 242), np.uint8)


def test_mask_lies_on_the_slide():
    pyramid = ArrayPyramid(glass(1000, 810))
    tissue = find_tissue(pyramid, NONE)
    assert pyramid.asked == [Spacing((8.0, 8.0))]
    assert tissue.mask.shape == (63, 51)
    assert tissue.downsample == (16.0, 16.0)
    assert tissue.level0_shape == (1000, 810)
    assert tissue.share == 1
    assert tissue.area_mm2 == pytest.approx(1000 * 810 * 0.25e-6)


def test_view_is_read_in_strips():
    pyramid = ArrayPyramid(glass(3000, 20), um=(8.0, 8.0))
    find_tissue(pyramid, NONE)
    assert pyramid.view.tallest <= find_module.STRIP_ROWS


def test_slide_coarser_than_asked_is_seen_at_its_own_spacing():
    pyramid = ArrayPyramid(glass(50, 40), um=(29.0, 5.0))
    find_tissue(pyramid, NONE)
    assert pyramid.asked == [Spacing((29.0, 8.0))]


def test_huge_slide_is_seen_coarser(monkeypatch):
    monkeypatch.setattr(find_module, "MAX_PIXELS", 1000)
    pyramid = ArrayPyramid(glass(1600, 1600))
    tissue = find_tissue(pyramid, NONE)
    assert 800 <= tissue.mask.size <= 1100
    assert tissue.share == 1
    for wanted, own in zip(pyramid.asked[-1].um, pyramid.spacing.um, strict=True):
        assert (wanted / own).is_integer()


def test_empty_slide_warns():
    with pytest.warns(EmptyTissueWarning, match=r"made.svs: no tissue found by detector 'auto'"):
        assert find_tissue(ArrayPyramid(glass(500, 500))).share == 0


def test_the_warning_names_the_line_that_called_wsiseg():
    module = types.ModuleType("wsiseg.made")  # as the pipeline would, from within the package
    exec("def run(find, slide):\n    return find(slide)", vars(module))
    with pytest.warns(EmptyTissueWarning) as caught:
        module.run(find_tissue, ArrayPyramid(glass(500, 500)))
    assert caught[0].filename == __file__


def test_speck_on_an_empty_slide_is_found():
    pixels = glass(3200, 3200)
    rng = np.random.default_rng(0)
    pixels[800:1200, 1600:2000] = rng.normal((205, 130, 175), 9, (400, 400, 3)).astype(np.uint8)
    tissue = find_tissue(ArrayPyramid(pixels))
    assert tissue.area_mm2 == pytest.approx(0.04, rel=0.1)
    assert tissue.fraction([(800, 1600, 1200, 2000)])[0] > 0.95


def plugged(monkeypatch, target):
    entry = EntryPoint("mine", f"{__name__}:{target}", DETECTORS)
    found = {DETECTORS: EntryPoints((entry,))}
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: found[group])


class LeftHalf:
    def __call__(self, pixels, spacing):
        mask = np.zeros(pixels.shape[:2], bool)
        mask[:, : pixels.shape[1] // 2] = True
        return mask


class Careless:
    def __call__(self, pixels, spacing):
        return np.zeros(pixels.shape, np.uint8)


def test_detector_of_an_entry_point(monkeypatch):
    plugged(monkeypatch, "LeftHalf")
    tissue = find_tissue(ArrayPyramid(glass(1600, 1600)), TissueOptions(detector="mine"))
    assert tissue.share == pytest.approx(0.5)


def test_detector_that_breaks_its_promise(monkeypatch):
    plugged(monkeypatch, "Careless")
    with pytest.raises(TissueError, match="'mine' must return bool"):
        find_tissue(ArrayPyramid(glass(160, 160)), TissueOptions(detector="mine"))


def test_unknown_detector():
    with pytest.raises(TissueError, match="no tissue detector 'magic': known are auto, color"):
        detector_named("magic")
    needed = "needed one of auto, saturation, color, none, found 'magic'"
    with pytest.raises(UsageError, match=f"TissueOptions.detector: {needed}"):
        TissueOptions(detector="magic")
