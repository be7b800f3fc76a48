"""Bodies of known size in voxels of any shape, anywhere, at any angle."""

import numpy as np
from scipy.spatial.transform import Rotation

from wsiseg.geometry import Affine

SPACINGS = [(1.0, 1.0, 1.0), (1.0, 0.5, 0.5), (5.0, 0.9, 0.9)]
"""mm, (z, y, x)."""


def tilted(spacing, *, degrees=0.0, shear=0.0, mirrored=False):
    """Return an affine with this spacing, turned about a slanting axis."""
    turn = Rotation.from_rotvec(np.radians(degrees) * np.array([0.48, 0.6, 0.64])).as_matrix()
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ np.diag(spacing[::-1]) @ np.diag([-1 if mirrored else 1, 1, 1])
    matrix[:3, 2] += shear * spacing[0] * turn[:, 1]
    matrix[:3, 3] = 40, -25, 310
    return Affine.from_nifti(matrix)


def ellipsoid(affine, radii, *, shape=None, offset=(0.31, 0.17, 0.23)):
    """Return the mask (z, y, x) of an ellipsoid; `radii` (x, y, z) lie along the world's axes."""
    reach = np.linalg.inv(np.array(affine.columns).T)
    size = [int(2 * np.linalg.norm(row * np.array(radii))) + 7 for row in reach]
    shape = shape or tuple(size)
    middle = affine.world([[(n - 1) / 2 + o for n, o in zip(shape, offset, strict=True)]])
    points = affine.world(np.indices(shape).reshape(3, -1).T) - middle
    return (((points / np.array(radii)) ** 2).sum(axis=1) <= 1).reshape(shape)
