"""One anatomy stored in each of the 48 ways reads the same, and comes back, through real files."""

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest

import wsiseg
from wsiseg.geometry import Affine, Box, Reorientation

RNG = np.random.default_rng(48)
VOXELS = RNG.integers(-1000, 3000, (5, 6, 7)).astype(np.int16)
ROTATION = nibabel.eulerangles.euler2mat(0.25, -0.2, 0.3)
KINDS = {
    "oblique": ROTATION @ np.diag([0.8, 0.9, 2.5]),
    "sheared": ROTATION @ np.diag([0.8, 0.9, 2.5]) @ [[1, 0, 0], [0, 1, 0.35], [0, 0, 1]],
}
TURNS = [
    Reorientation(order, flips)
    for order in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]


@pytest.mark.parametrize("kind", KINDS)
def test_all_48_encodings_are_one_reading_and_come_back(tmp_path: Path, kind: str):
    affine = Affine.from_nifti(nibabel.affines.from_matvec(KINDS[kind], (10, -20, 30)))
    readings, fingerprints = set(), set()
    for number, turn in enumerate(TURNS):
        stored, at = turn.apply(VOXELS), affine.turned(turn, VOXELS.shape)
        path = tmp_path / f"{number}.nii"
        nibabel.Nifti1Image(stored.T, at.to_nifti()).to_filename(path)
        fingerprints.add(path.read_bytes())
        with wsiseg.open_volume(path) as scan:
            ras = scan.oriented("RAS")
            voxels = ras.read(Box.of_shape(ras.shape))[..., 0]
            readings.add((voxels.tobytes(), voxels.shape))
            assert ras.affine.orientation == "RAS"
            if number == 0:
                first = ras.affine
            assert np.allclose(ras.affine.matrix, first.matrix, atol=1e-4)  # float32 in the file
            part = Box((1, 2, 3), (3, 5, 6))
            assert np.array_equal(ras.read(part)[..., 0], voxels[part.slices()])
            back = ras.turn.inverse()
            assert np.array_equal(back.apply(voxels), stored)
            returned = ras.affine.turned(back, ras.shape)
            assert np.allclose(returned.matrix, scan.affine.matrix, atol=1e-6)
    assert len(fingerprints) == 48
    assert len(readings) == 1
