"""Patches read for training: the pixels the engine reads, whatever the number of threads."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from scipy import ndimage
from small_training import REFINE, STAGES, fit_of, two_slides, whole, write_config

from wsiseg.engine.graph import lay_out
from wsiseg.engine.inputs import HeatmapInput, SlideInput, connect
from wsiseg.geometry import Box, Spacing
from wsiseg.stitch import HeatmapStore, Placement
from wsiseg.train.config import read_config
from wsiseg.train.lesson import Resources, open_slides, stage_lesson
from wsiseg.train.places import PlaceSampler
from wsiseg.train.reading import SlidePatches, read_batches

RESOURCES = Resources(torch.device("cpu"), 1)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reading")
    two_slides(folder)
    return read_config(write_config(folder, STAGES, REFINE, fit_of("patches"), fit_of("refine")))


@pytest.fixture(scope="module")
def slides(config):
    return open_slides(config.dataset, config.dataset.of("train", "val"), config.tissue)


def patches_of(config, slide, stage=0, margin=1.0, heatmap=None):
    setup = lay_out(config.card, slide.pyramid)[stage]
    inputs = [SlideInput(setup.reference.view)]
    if heatmap is not None:
        item = setup.inputs[1]
        ratio = [m / t for m, t in zip(item.downsample, heatmap.downsample, strict=True)]
        inputs.append(HeatmapInput(heatmap, [0], ratio))
    return SlidePatches(setup, tuple(inputs), slide.labels.at(setup.reference), margin)


class Ramp:
    """A heatmap of known places: the row and column of each cell's centre in level-0 pixels."""

    def __init__(self, shape, downsample):
        self.shape, self.downsample, self.channels = shape, downsample, ("Tumor",)
        self.placement = Placement(shape, Spacing((16.0, 16.0)), downsample)

    def read(self, box):
        rows = (np.arange(box.start[0], box.stop[0]) + 0.5) * self.downsample[0]
        columns = (np.arange(box.start[1], box.stop[1]) + 0.5) * self.downsample[1]
        return (rows[:, None] + 1000 * columns)[..., None].astype(np.float32)


@pytest.mark.parametrize("centre", [(80.0, 90.0), (83.7, 101.2), (2.0, 3.0), (190.0, 223.0)])
@pytest.mark.parametrize("stage", [0, 1])
def test_patches_and_labels_are_those_of_the_views(config, slides, centre, stage):
    slide = slides[0]
    patches = patches_of(
        config, slide, stage, heatmap=Ramp((12, 14), (16.0, 16.0)) if stage else None
    )
    (image, *_), labels = patches.read(centre)
    view = patches.setup.reference.view
    start = tuple(round(c / d - 16) for c, d in zip(centre, view.downsample, strict=True))
    box = Box(start, (start[0] + 32, start[1] + 32))
    np.testing.assert_array_equal(image, view.read(box))
    np.testing.assert_array_equal(labels, slide.labels.at(view).read(box))
    if centre == (80.0, 90.0):  # well inside: half a pixel of rounding at most
        middle = [(a + 16) * d for a, d in zip(start, view.downsample, strict=True)]
        assert np.abs(np.subtract(middle, centre)).max() <= view.downsample[0] / 2
    if centre == (2.0, 3.0):
        assert (labels[0] == 255).all()
        assert (image[0] == 255).all()


@pytest.mark.parametrize(
    ("patch", "margin", "side"), [(32, 1.0, 32), (32, 1.2, 40), (33, 1.0, 33), (33, 1.2, 41)]
)
def test_a_margin_grows_patches_about_their_centre(config, slides, patch, margin, side):
    plain = patches_of(config, slides[0])
    spec = replace_patch(plain.setup, patch)
    (inner,), _ = replace(plain, setup=spec).read((96.3, 100.9))
    (outer,), labels = replace(plain, setup=spec, margin=margin).read((96.3, 100.9))
    assert outer.shape == (side, side, 3)
    assert labels.shape == (side, side)
    edge = (side - patch) // 2
    np.testing.assert_array_equal(outer[edge : edge + patch, edge : edge + patch], inner)


def replace_patch(setup, patch):
    first = setup.inputs[0]
    spec = first.spec.model_copy(update={"patch": (patch, patch)})
    return replace(setup, inputs=(replace(first, spec=spec),))


def test_heatmap_patches_lie_under_the_slide(config, slides):
    """Linear interpolation keeps a ramp: each pixel must hold its own place on the slide."""
    patches = patches_of(config, slides[0], 1, heatmap=Ramp((12, 14), (16.0, 16.0)))
    (image, heatmap), _ = patches.read((96.0, 112.0))
    view = patches.setup.reference.view
    start = [round(c / d - 16) for c, d in zip((96.0, 112.0), view.downsample, strict=True)]
    rows, columns = (
        (a + np.arange(32) + 0.5) * d for a, d in zip(start, view.downsample, strict=True)
    )
    wanted = (rows[:, None] + 1000 * columns)[..., None]
    inside = (slice(2, -2), slice(2, -2))
    assert image.shape[:2] == heatmap.shape[:2]
    np.testing.assert_allclose(heatmap[inside], wanted[inside], rtol=1e-5)


def test_a_stage_that_sees_the_whole_slide_has_one_patch(slides, tmp_path):
    two_slides(tmp_path)
    config = read_config(write_config(tmp_path, whole(STAGES)))
    lesson = stage_lesson(
        config.card, config.card.stages[0], config.recipes["patches"], slides[:1], slides[1:],
        lambda _, setup: connect(setup, {}), resources=RESOURCES,
    )  # fmt: skip
    here, there = (lesson.slides[0].read(centre) for centre in ((0.0, 0.0), (90.0, 50.0)))
    np.testing.assert_array_equal(here[0][0], there[0][0])
    assert here[0][0].shape == (32, 32, 3)
    assert len(lesson.test_places) == 1
    labels = here[1]
    known = labels != 255
    assert 0.2 < (labels[known] == 1).mean() < 0.5  # a third of the slide
    assert known.mean() == pytest.approx(192 / 224, abs=0.05)  # the aspect is kept


def places_of(lesson, count=24):
    return list(islice(PlaceSampler(lesson.sampler.leaves, seed=2), count))


def lesson_of(config, slides):
    return stage_lesson(
        config.card, config.card.stages[0], config.recipes["patches"], slides, (),
        lambda _, setup: connect(setup, {}), resources=RESOURCES,
    )  # fmt: skip


def test_workers_change_nothing(config, slides):
    lesson = lesson_of(config, slides)
    found = []
    for workers in (1, 2, 4):
        batches = list(read_batches(lesson.slides, places_of(lesson), size=8, workers=workers))
        assert [len(batch.places) for batch in batches] == [8, 8, 8]
        found.append(batches)
    for one, other in zip(found[0] * 2, found[1] + found[2], strict=True):
        assert one.places == other.places
        np.testing.assert_array_equal(one.inputs[0], other.inputs[0])
        np.testing.assert_array_equal(one.labels, other.labels)


def test_the_centre_of_a_patch_has_the_class_of_its_leaf(config, slides):
    """Of cells that are of one class throughout."""
    lesson = lesson_of(config, slides)
    leaves = lesson.sampler.leaves
    assert {(leaf.slide, leaf.label) for leaf in leaves} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    for place in places_of(lesson, 60):
        leaf = leaves[place.leaf]
        row, column = divmod(place.cell, leaf.shape[1])
        cell = Box((row * 16, column * 16), (row * 16 + 16, column * 16 + 16))
        values = lesson.slides[place.slide].labels.read(cell)
        counts = np.bincount(values[values != 255], minlength=2)
        assert counts[leaf.label] == counts.max()


def test_nothing_is_written_while_reading(config, slides, tmp_path, monkeypatch):
    import builtins
    import os
    from pathlib import Path

    written = []

    def watching(real, mode_at=1):
        def opener(*arguments, **named):
            mode = named.get("mode", arguments[mode_at] if len(arguments) > mode_at else "r")
            if isinstance(mode, str) and set(mode) & set("wax+"):
                written.append(arguments[0])
            return real(*arguments, **named)

        return opener

    lesson = lesson_of(config, slides)
    folder = config.path.parent
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(builtins, "open", watching(builtins.open))
    monkeypatch.setattr(Path, "open", watching(Path.open))
    real = os.open

    def low(path, flags, *rest, **named):
        if flags & (os.O_WRONLY | os.O_RDWR):
            written.append(path)
        return real(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", low)
    assert len(list(lesson.batches(5))) == 5
    assert written == []
    assert list(tmp_path.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_heatmap_on_disk_is_interpolated_where_it_lies(config, slides, tmp_path):
    slide = slides[0]
    first, second = lay_out(config.card, slide.pyramid)
    shape = first.placement.shape
    codes = np.random.default_rng(0).integers(1, 256, (*shape, 1), np.uint8)
    with HeatmapStore.create(tmp_path / "h.zarr", first.placement, channels=["Tumor"]) as sink:
        sink.write(Box.of_shape(shape), codes)
        sink.finish()
    store = HeatmapStore.open(tmp_path / "h.zarr")
    inputs = connect(second, {"heatmap": store})
    patches = SlidePatches(second, inputs, slide.labels.at(second.reference))
    (_, heatmap), _ = patches.read((88.0, 104.0))
    rows, columns = (((a + np.arange(32) + 0.5) * 2 / 16 - 0.5) for a in (28, 36))
    at = np.meshgrid(rows, columns, indexing="ij")
    wanted = ndimage.map_coordinates((codes[..., 0] - 1.0) / 254, at, order=1)
    np.testing.assert_allclose(heatmap[..., 0], wanted, atol=1e-5)
