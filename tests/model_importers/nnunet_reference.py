"""What nnU-Net v2 does from scan to labels, written from its published rules with NumPy and SciPy.

Nothing of wsiseg is used. Arrays are (z, y, x), spacing is mm. Sums are float64, where nnU-Net adds
in half precision: the rules are compared, not the rounding.
"""

import itertools
from typing import Any

import numpy as np
from scipy import ndimage


def crop_to_nonzero(channels: np.ndarray) -> tuple[slice, ...]:
    """Return the box of the non-zero mask: union over channels, holes filled."""
    return ndimage.find_objects(nonzero_mask(channels).astype(int))[0]


def nonzero_mask(channels: np.ndarray) -> np.ndarray:
    return ndimage.binary_fill_holes((channels != 0).any(axis=0))


def normalise(
    values: np.ndarray, mask: np.ndarray, scheme: str, use_mask: bool, known: dict[str, float]
) -> np.ndarray:
    values = values.astype(np.float64)
    if scheme == "CTNormalization":
        clipped = np.clip(values, known["percentile_00_5"], known["percentile_99_5"])
        return (clipped - known["mean"]) / max(known["std"], 1e-8)
    if scheme == "ZScoreNormalization":
        where = mask if use_mask else np.ones_like(mask)
        inside = values[where]
        found = values.copy()
        found[where] = (inside - inside.mean()) / max(inside.std(), 1e-8)
        return found
    assert scheme == "NoNormalization"
    return values


def separate_axis(current: list[float], new: list[float]) -> int | None:
    for spacing in (current, new):
        if max(spacing) / min(spacing) > 3:
            lowest = [i for i, s in enumerate(spacing) if s == max(spacing)]
            return lowest[0] if len(lowest) == 1 else None
    return None


def resize(values: np.ndarray, shape: tuple[int, ...], order: int) -> np.ndarray:
    """Return what skimage's `resize(mode="edge", anti_aliasing=False)` gives, clipped as there."""
    if values.shape == tuple(shape):
        return values
    factors = [n / m for n, m in zip(shape, values.shape, strict=True)]
    found = ndimage.zoom(values, factors, order=order, mode="nearest", grid_mode=True)
    return np.clip(found, values.min(), values.max())


def resample(
    values: np.ndarray,
    shape: tuple[int, ...],
    current: list[float],
    new: list[float],
    order: int,
    order_z: int = 0,
) -> np.ndarray:
    axis = separate_axis(current, new)
    if axis is None or values.shape == tuple(shape):
        return resize(values, shape, order)
    plane = tuple(n for i, n in enumerate(shape) if i != axis)
    planes = np.stack([resize(p, plane, order) for p in np.moveaxis(values, axis, 0)], axis)
    n, m = shape[axis], values.shape[axis]
    if n == m:
        return planes
    places = np.clip((np.arange(n) + 0.5) * m / n - 0.5, 0, m - 1)
    if order_z:
        return ndimage.map_coordinates(
            planes, np.meshgrid(places, *map(np.arange, plane), indexing="ij"), order=order_z
        )
    # What nearest of `map_coordinates` takes: floor(x + 0.5).
    return np.take(planes, np.floor(places + 0.5).astype(int), axis)


def window_starts(size: int, patch: int, step: float = 0.5) -> list[int]:
    if size <= patch:
        return [0]
    count = int(np.ceil((size - patch) / (patch * step))) + 1
    gap = (size - patch) / (count - 1) if count > 1 else 99999999
    return [int(np.round(gap * i)) for i in range(count)]


def gaussian(patch: tuple[int, ...]) -> np.ndarray:
    delta = np.zeros(patch)
    delta[tuple(n // 2 for n in patch)] = 1
    weights = ndimage.gaussian_filter(delta, [n / 8 for n in patch], 0, mode="constant", cval=0)
    weights *= 10 / weights.max()
    weights[weights == 0] = weights[weights != 0].min()
    return weights


def logits(
    prepared: np.ndarray, patch: tuple[int, ...], networks: list[Any], mirror: tuple[int, ...]
) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    """Return mean raw values `(class, z, y, x)` and the windows, in order."""
    sizes = prepared.shape[1:]
    before = [max(0, p - n) // 2 for p, n in zip(patch, sizes, strict=True)]
    after = [max(0, p - n) - b for p, n, b in zip(patch, sizes, before, strict=True)]
    padded = np.pad(prepared, [(0, 0), *zip(before, after, strict=True)])
    starts = [window_starts(n, p) for n, p in zip(padded.shape[1:], patch, strict=True)]
    weights = gaussian(patch)
    total, count = None, np.zeros(padded.shape[1:])
    windows = list(itertools.product(*starts))
    views = [v for n in range(len(mirror) + 1) for v in itertools.combinations(mirror, n)]
    for start in windows:
        box = tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True))
        window = padded[(slice(None), *box)]
        found = 0.0
        for network, view in itertools.product(networks, views):
            axes = tuple(a + 1 for a in view)
            found = found + np.flip(network(np.flip(window, axes)), axes)
        found = found / (len(networks) * len(views))
        total = np.zeros((len(found), *padded.shape[1:])) if total is None else total
        total[(slice(None), *box)] += found * weights
        count[box] += weights
    inner = tuple(slice(b, b + n) for b, n in zip(before, sizes, strict=True))
    return (total / count)[(slice(None), *inner)], windows


def segment(
    scan: np.ndarray,
    spacing: list[float],
    plans: dict[str, Any],
    networks: list[Any],
    mirror: tuple[int, ...],
) -> dict[str, Any]:
    """Return prepared values, raw values, windows and labels of a scan `(channel, z, y, x)`."""
    settings = plans["configurations"]["3d_fullres"]
    forward = plans["transpose_forward"]
    turned = scan.transpose([0, *(i + 1 for i in forward)])
    current = [spacing[i] for i in forward]
    box = crop_to_nonzero(turned)
    mask = nonzero_mask(turned)[box]
    cropped = turned[(slice(None), *box)]
    wanted = settings["spacing"]
    shape = tuple(
        round(a / b * n) for a, b, n in zip(current, wanted, cropped.shape[1:], strict=True)
    )
    known = plans["foreground_intensity_properties_per_channel"]
    prepared = np.stack(
        [
            resample(
                normalise(
                    values,
                    mask,
                    settings["normalization_schemes"][c],
                    settings["use_mask_for_norm"][c],
                    known.get(str(c), {}),
                ),
                shape,
                current,
                wanted,
                settings["resampling_fn_data_kwargs"]["order"],
            )
            for c, values in enumerate(cropped)
        ]
    )
    patch = tuple(settings["patch_size"])
    raw, windows = logits(prepared, patch, networks, mirror)
    back = np.stack([resample(r, cropped.shape[1:], wanted, current, 1) for r in raw])
    labels = np.zeros(turned.shape[1:], np.uint8)
    labels[box] = back.argmax(0)
    return {
        "prepared": prepared,
        "raw": raw,
        "windows": windows,
        "resampled": back,
        "box": box,
        "labels": labels.transpose(np.argsort(forward)),
    }
