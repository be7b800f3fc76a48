"""What a network reads of a scan, slab by slab, against the whole array by SciPy and skimage."""

import json

import numpy as np
import pytest
from scipy import ndimage
from skimage.transform import resize

from wsiseg.geometry import Affine, Box, Spacing
from wsiseg.model.scan_card import ResampleSpec, ScanSpec
from wsiseg.source import open_volume
from wsiseg.volume import prepare, scan
from wsiseg.volume.layout import input_grid
from wsiseg.volume.prepare import prepare_scan
from wsiseg.volume.scan import Scan


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch):
    """Make several slabs of a small scan."""
    monkeypatch.setattr(scan, "SLAB_BYTES", 20_000)
    monkeypatch.setattr(prepare, "SLAB_BYTES", 20_000)


def prepared(values, spacing_mm, wanted_mm, folder, **resample):
    volume = open_volume(values, affine=Affine.from_spacing(spacing_mm))
    whole = Scan.of([volume], ScanSpec.model_validate_json(json.dumps({"orientation": "stored"})))
    grid = input_grid(
        values.shape,
        volume.affine.spacing,
        Spacing(tuple(1000 * mm for mm in wanted_mm)),
        ResampleSpec.model_validate_json(json.dumps(resample)),
    )
    made = prepare_scan(whole, grid, (), folder, normalize_first=True)
    found = made.read(Box.of_shape(made.shape))[..., 0]
    made.close()
    return found, grid


def made_values(shape=(14, 22, 31)):
    values = np.random.default_rng(0).normal(size=shape)
    return (ndimage.gaussian_filter(values, 1) * 100).astype(np.float32)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("wanted", [(2.0, 1.3, 0.7), (1.0, 1.0, 2.5), (3.0, 1.0, 1.0)])
def test_as_skimage_and_scipy_on_the_whole(tmp_path, order, wanted):
    values = made_values()
    found, grid = prepared(values, (3.0, 1.0, 1.0), wanted, tmp_path, order=order)
    whole = values.astype(np.float64)
    by_skimage = resize(whole, grid.shape, order=order, mode="edge", anti_aliasing=False)
    np.testing.assert_allclose(found, by_skimage, atol=2e-3 * (1 if order == 1 else 2))
    zoom = [n / m for n, m in zip(grid.shape, values.shape, strict=True)]
    by_scipy = ndimage.zoom(whole, zoom, order=order, mode="nearest", grid_mode=True)
    by_scipy = np.clip(by_scipy, whole.min(), whole.max())
    np.testing.assert_allclose(found, by_scipy, atol=2e-4)


def blob(shape, spacing, centre_mm):
    axes = [np.arange(n) * mm - c for n, mm, c in zip(shape, spacing, centre_mm, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    return np.exp(-(z * z + y * y + x * x) / (2 * 9**2)).astype(np.float32)


@pytest.mark.parametrize("convention", ["extent", "centres"])
@pytest.mark.parametrize(
    ("spacing", "wanted"),
    [
        ((0.8,) * 3, (3.0,) * 3),
        ((0.8,) * 3, (6.0,) * 3),
        ((3.0,) * 3, (0.8,) * 3),
        ((5.0, 0.9, 0.9), (1.5,) * 3),
        ((1.0, 0.5, 2.0), (4.0, 1.5, 1.0)),
    ],
)
def test_blobs_at_both_ends_stay_in_their_place(tmp_path, spacing, wanted, convention):
    """Centroids are within a twentieth of a voxel of the finer grid."""
    shape = tuple(round(100 / mm) for mm in spacing)
    for centre in ((35.3, 34.9, 35.6), (63.1, 62.7, 62.2)):
        values = blob(shape, spacing, centre)
        found, grid = prepared(values, spacing, wanted, tmp_path, order=1, convention=convention)
        for axis in range(3):
            weights = found.sum(axis=tuple(a for a in range(3) if a != axis)).astype(np.float64)
            places = grid.maps[axis].centre(np.arange(grid.shape[axis])) * spacing[axis]
            error = abs((weights * places).sum() / weights.sum() - centre[axis])
            assert error <= 0.05 * min(*spacing, *wanted)
