"""Fused export: resampling and reducing plane by plane is resampling everything, then reducing."""

import numpy as np
import pytest
import torch

from wsiseg.geometry import Box
from wsiseg.resample import AxisMap
from wsiseg.stitch import ArraySink, Slab
from wsiseg.volume.export import FusedExport
from wsiseg.volume.rules import ArgmaxRule, RegionRule, ThresholdRule


def exported(values, target, rule, *, box=None, whole=None, covered=None, **kwargs):
    source, channels = values.shape[1:], len(values)
    box = box or Box.of_shape(target)
    whole = whole or target
    sink = ArraySink(whole)
    export = FusedExport(
        [AxisMap.extent(n, m) for n, m in zip(source, target, strict=True)],
        kwargs.pop("orders", (1, 1, 1)),
        channels,
        box=box,
        whole=whole,
        rule=rule,
        labels=sink,
        blank=[10.0, *[0.0] * (channels - 1)],
        **kwargs,
    )
    covered = np.ones(source, np.bool_) if covered is None else covered
    for z in range(0, source[0], 3):
        part = Box((z, 0, 0), (min(z + 3, source[0]), *source[1:]))
        slab = np.moveaxis(values[:, z : z + 3].copy(), 0, -1)
        export.push(Slab(part, slab, covered[z : z + 3]))
    export.finish()
    return sink.array


def resampled(values, target):
    tensor = torch.from_numpy(values.astype(np.float64))[None]
    found = torch.nn.functional.interpolate(tensor, target, mode="trilinear", align_corners=False)
    return found[0].numpy()


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((13, 20, 17), (29, 33, 40)),
        ((29, 33, 40), (13, 20, 17)),
        ((7, 20, 17), (7, 31, 17)),
        ((1, 5, 6), (4, 9, 6)),
        ((9, 9, 9), (9, 9, 9)),
        ((40, 8, 8), (1, 16, 16)),
    ],
)
def test_equals_resampling_everything(source, target):
    values = np.random.default_rng(0).normal(size=(6, *source)).astype(np.float32)
    assert np.array_equal(
        exported(values, target, ArgmaxRule()), resampled(values, target).argmax(0)
    )


def test_part_of_a_scan():
    values = np.random.default_rng(1).normal(size=(3, 6, 7, 8)).astype(np.float32)
    box, whole = Box((2, 3, 0), (11, 15, 10)), (14, 20, 13)
    found = exported(values, box.shape, ArgmaxRule(), box=box, whole=whole)
    expected = np.zeros(whole, np.uint8)
    expected[box.slices()] = resampled(values, box.shape).argmax(0)
    assert np.array_equal(found, expected)


def test_rules():
    values = np.random.default_rng(2).normal(size=(2, 6, 7, 8)).astype(np.float32)
    target = (9, 12, 9)
    dense = resampled(values, target)
    found = exported(values, target, ThresholdRule(0.3, difference=True))
    assert np.array_equal(found, dense[1] - dense[0] >= np.float32(0.3))
    found = exported(values, target, RegionRule([2, 1], 0.1))
    expected = np.where(dense[0] > 0.1, 2, 0)
    expected[dense[1] > np.float32(0.1)] = 1
    assert np.array_equal(found, expected)


def test_voxels_that_no_window_saw_are_background():
    values = np.zeros((2, 8, 8, 8), np.float32)
    values[1] = 5
    covered = np.ones((8, 8, 8), np.bool_)
    covered[:, :, 4:] = False
    values[..., 4:] = 0
    found = exported(values, (8, 8, 8), ArgmaxRule(), covered=covered)
    assert (found[..., :4] == 1).all()
    assert not found[..., 4:].any()


def test_only_wanted_planes_are_made():
    values = np.random.default_rng(3).normal(size=(3, 6, 7, 8)).astype(np.float32)
    whole = exported(values, (15, 12, 9), ArgmaxRule())
    wanted = [2, 3, 9, 14]
    found = exported(values, (15, 12, 9), ArgmaxRule(), wanted=lambda z: z in wanted)
    assert np.array_equal(found[wanted], whole[wanted])
    assert not np.delete(found, wanted, axis=0).any()


def test_centroids_stay():
    """A ball keeps its centre within 0.05 voxel of the finer grid, at both ends of a long scan."""
    for mm in ((3.0, 3.0, 3.0), (6.0, 6.0, 6.0), (5.0, 1.6, 1.6)):
        fine = (240, 60, 60)
        coarse = tuple(round(n * 0.8 / s) for n, s in zip(fine, mm, strict=True))
        step = [n / c for n, c in zip(fine, coarse, strict=True)]
        for centre in ((24.3, 30.1, 29.6), (214.7, 30.1, 29.6)):
            places = [
                ((np.arange(c) + 0.5) * s - 0.5 - at) * 0.8
                for c, s, at in zip(coarse, step, centre, strict=True)
            ]
            z, y, x = np.meshgrid(*places, indexing="ij", sparse=True)
            distance = np.sqrt(z * z + y * y + x * x)
            values = np.stack([np.zeros_like(distance), 14 - distance]).astype(np.float32)
            found = exported(values, fine, ArgmaxRule())
            error = np.argwhere(found).mean(axis=0) - centre
            assert np.abs(error).max() <= 0.05 * max(1, max(step) / 4), (mm, centre, error)
