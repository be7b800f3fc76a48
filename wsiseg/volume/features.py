"""First-order and shape features of a region, by the Image Biomarker Standardisation Initiative.

A. Zwanenburg et al., Radiology 295:328, 2020, doi:10.1148/radiol.2020191145; definitions in
arXiv:1612.07003. Values are taken as they are: nothing is resampled, clipped or binned before.
"""

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.geometry import Affine
from wsiseg.volume.diameters import feret_mm, hull_of
from wsiseg.volume.mesh import surface_of

__all__ = ["first_order", "shape_features"]


def first_order(values: NDArray[np.generic]) -> dict[str, float]:
    """Return statistics of the intensities of a region; all NaN where there are none.

    Parameters
    ----------
    values
        Numbers (n,); those that are not finite are left out.

    Returns
    -------
    dict
        `mean`, `sd` (both of the region itself: divided by n), `variance`, `skewness`, `kurtosis`
        (excess), `minimum`, `p05`, `p10`, `p25`, `median`, `p75`, `p90`, `p95`, `maximum`,
        `interquartile_range`, `range`, `mean_absolute_deviation`,
        `robust_mean_absolute_deviation` (within p10 to p90), `median_absolute_deviation` (from the
        median), `coefficient_of_variation`, `quartile_coefficient_of_dispersion`, `energy`,
        `root_mean_square`.
    """
    x = np.asarray(values, np.float64)
    x = x[np.isfinite(x)]
    if not len(x):
        return dict.fromkeys(_FIRST_ORDER, float("nan"))
    mean, variance = float(x.mean()), float(x.var())
    away = x - mean
    sd = float(np.sqrt(variance))
    p05, p10, p25, median, p75, p90, p95 = np.percentile(x, [5, 10, 25, 50, 75, 90, 95]).tolist()
    within = x[(x >= p10) & (x <= p90)]
    low, high, energy = float(x.min()), float(x.max()), float((x * x).sum())
    found = (
        *(mean, sd, variance),
        *(_moment(away, sd, 3), _moment(away, sd, 4) - 3 if sd else 0.0),
        *(low, p05, p10, p25, median, p75, p90, p95, high),
        *(p75 - p25, high - low),
        *(float(np.abs(away).mean()), _mean_deviation(within)),
        float(np.abs(x - median).mean()),
        *(_ratio(sd, mean), _ratio(p75 - p25, p75 + p25)),
        *(energy, float(np.sqrt(energy / len(x)))),
    )
    return dict(zip(_FIRST_ORDER, found, strict=True))


_FIRST_ORDER = (
    *("mean", "sd", "variance", "skewness", "kurtosis"),
    *("minimum", "p05", "p10", "p25", "median", "p75", "p90", "p95", "maximum"),
    *("interquartile_range", "range", "mean_absolute_deviation"),
    *("robust_mean_absolute_deviation", "median_absolute_deviation"),
    *("coefficient_of_variation", "quartile_coefficient_of_dispersion"),
    *("energy", "root_mean_square"),
)


def _mean_deviation(x: NDArray[np.float64]) -> float:
    return float(np.abs(x - x.mean()).mean()) if len(x) else float("nan")  # of two values, say


def _moment(away: NDArray[np.float64], sd: float, order: int) -> float:
    """Return a standardised moment; 0 where all values are the same, as the definition says."""
    return float((away**order).mean() / sd**order) if sd else 0.0


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def shape_features(
    mask: NDArray[np.bool_], affine: Affine, *, values: NDArray[np.generic] | None = None
) -> dict[str, float]:
    """Return features of the shape of a region.

    Parameters
    ----------
    mask
        bool (z, y, x), not empty.
    affine
        Of the mask.
    values
        Intensities (z, y, x) of the same voxels, for `centre_of_mass_shift_mm`.

    Returns
    -------
    dict
        `volume_mm3` (of the mesh), `voxel_volume_mm3`, `surface_mm2`, `surface_to_volume_per_mm`,
        `compactness_1`, `compactness_2`, `spherical_disproportion`, `sphericity`, `asphericity`,
        `centre_of_mass_shift_mm` (where there are values), `maximum_3d_diameter_mm`,
        `major_axis_mm`, `minor_axis_mm`, `least_axis_mm`, `elongation`, `flatness`, `solidity`
        (volume of the mesh over that of its convex hull).

    Raises
    ------
    UsageError
        If the mask is empty.
    """
    if not mask.any():
        raise UsageError("an empty mask has no shape; look for components first")
    surface = surface_of(mask, affine)
    area, volume = surface.area_mm2, surface.volume_mm3
    places = affine.world(np.argwhere(mask))
    major, minor, least = _principal_axes(places)
    sphere = (36 * np.pi * volume * volume) ** (1 / 3)
    features = {
        "volume_mm3": volume,
        "voxel_volume_mm3": len(places) * affine.voxel_mm3,
        "surface_mm2": area,
        "surface_to_volume_per_mm": area / volume,
        "compactness_1": volume / (np.sqrt(np.pi) * area**1.5),
        "compactness_2": (sphere / area) ** 3,
        "spherical_disproportion": area / sphere,
        "sphericity": sphere / area,
        "asphericity": area / sphere - 1,
        "maximum_3d_diameter_mm": feret_mm(mask, affine),
        "major_axis_mm": major,
        "minor_axis_mm": minor,
        "least_axis_mm": least,
        "elongation": _ratio(minor, major),
        "flatness": _ratio(least, major),
        "solidity": volume / float(hull_of(mask, affine).volume),
    }
    if values is not None:
        features["centre_of_mass_shift_mm"] = _shift(places, np.asarray(values)[mask])
    return {name: float(value) for name, value in features.items()}


def _principal_axes(places: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return four times the standard deviation along the principal axes, the longest first."""
    spread = np.cov(places.T) if len(places) > 1 else np.zeros((3, 3))
    least, minor, major = 4 * np.sqrt(np.maximum(np.linalg.eigvalsh(spread), 0))
    return float(major), float(minor), float(least)


def _shift(places: NDArray[np.float64], values: NDArray[np.generic]) -> float:
    weights = values.astype(np.float64)
    total = weights.sum()
    if not total:
        return float("nan")
    return float(np.linalg.norm(weights @ places / total - places.mean(axis=0)))
