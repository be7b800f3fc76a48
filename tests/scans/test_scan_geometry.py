"""Where coarse networks' labels lie on fine scans: balls keep their centre and their size (G5)."""

import nibabel as nib
import numpy as np
import pytest

from wsiseg.geometry import Affine
from wsiseg.scans import segment_scan
from wsiseg.source import open_volume
from wsiseg.testing.scan_models import LEVELS, make_scan_model

FINE_MM = (0.8, 0.8, 0.8)
SHAPE = (160, 48, 56)
CENTRES = ((14.3, 19.6, 23.1), (113.9, 19.6, 23.1))
"""Of balls at both ends of the scan, mm from the first voxel's centre."""

RADIUS_MM = 9.0
ORIGIN = (4.0, -9.0, 20.0)


def balls(edge_mm):
    """Return values that fall from 1 to 0 across the surface of balls, (z, y, x)."""
    places = [np.arange(n) * mm for n, mm in zip(SHAPE, FINE_MM, strict=True)]
    z, y, x = np.meshgrid(*places, indexing="ij", sparse=True)
    found = np.zeros(SHAPE, np.float32)
    for centre in CENTRES:
        distance = np.sqrt(sum((a - c) ** 2 for a, c in zip((z, y, x), centre, strict=True)))
        # Half of the brightest is class 1's limit of 0.25, so that its edge is the surface.
        value = LEVELS[0] + (RADIUS_MM - distance) / edge_mm
        found = np.maximum(found, np.clip(value, 0, LEVELS[1] - 0.01).astype(np.float32))
    return found


def truth():
    places = [np.arange(n) * mm for n, mm in zip(SHAPE, FINE_MM, strict=True)]
    z, y, x = np.meshgrid(*places, indexing="ij", sparse=True)
    inside = [(z - c[0]) ** 2 + (y - c[1]) ** 2 + (x - c[2]) ** 2 < RADIUS_MM**2 for c in CENTRES]
    return inside[0] | inside[1]


def nearest(labels, shape):
    """Return labels enlarged by the nearest voxel, outer faces kept."""
    index = [
        np.minimum(((np.arange(n) + 0.5) * m / n).astype(int), m - 1)
        for n, m in zip(shape, labels.shape, strict=True)
    ]
    return labels[np.ix_(*index)]


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.mark.parametrize(
    "model_mm", [(0.5, 0.8, 0.8), (3.0, 3.0, 3.0), (6.0, 6.0, 6.0), (5.0, 1.6, 1.6)], ids=str
)
def test_written_labels_keep_their_centres(tmp_path, model_mm):
    """In the file: within 0.05 of a voxel of the scan, at both of its ends."""
    package = make_scan_model(tmp_path / "m", patch=(16, 24, 24), spacing_mm=model_mm)
    affine = Affine.from_spacing(FINE_MM, ORIGIN)
    nib.save(
        nib.Nifti1Image(balls(20.0).transpose(2, 1, 0), affine.to_nifti()), tmp_path / "scan.nii"
    )
    folder = segment_scan(tmp_path / "scan.nii", package).write(tmp_path / "out")
    file = nib.load(folder / "labels.nii.gz")
    found = np.asarray(file.dataobj) > 0
    for half, centre in zip((slice(0, 80), slice(80, 160)), CENTRES, strict=True):
        voxel = np.argwhere(found[..., half]).mean(axis=0) + np.array([0, 0, half.start])
        world = file.affine[:3, :3] @ voxel + file.affine[:3, 3]
        wanted = np.array(centre[::-1]) + np.array(ORIGIN)
        assert np.abs(world - wanted).max() < 0.05 * FINE_MM[0]


def test_enlarged_probabilities_beat_enlarged_labels(tmp_path):
    """Of a network of 3 mm: Dice at least 0.03 above that of its own labels, enlarged."""
    package = make_scan_model(tmp_path / "m", patch=(16, 24, 24), spacing_mm=(3.0, 3.0, 3.0))
    scan = open_volume(balls(20.0), affine=Affine.from_spacing(FINE_MM))
    fine = segment_scan(scan, package).labels > 0
    coarse_shape = tuple(round(n * mm / 3.0) for n, mm in zip(SHAPE, FINE_MM, strict=True))
    step = [n / m for n, m in zip(SHAPE, coarse_shape, strict=True)]
    places = [
        np.minimum(((np.arange(m) + 0.5) * s - 0.5).round().astype(int), n - 1)
        for m, s, n in zip(coarse_shape, step, SHAPE, strict=True)
    ]
    coarse = balls(20.0)[np.ix_(*places)] > LEVELS[0]
    labels = nearest(coarse, SHAPE)
    assert dice(fine, truth()) >= dice(labels, truth()) + 0.03
