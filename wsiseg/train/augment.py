"""Augmentation of batches: geometry acts on everything, colour on the image alone.

Colour is what differs most between laboratories and scanners, so it is varied far beyond what two
regions show (Tellez et al. 2019, doi:10.1016/j.media.2019.101544). All functions are pure: the same
batch and generator state give the same result.
"""

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from wsiseg.train.sampling import Batch

__all__ = ["AugmentOptions", "augment", "defocus", "jitter_colour", "orient", "spill_glass"]

STAINS = np.array(
    [[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]], dtype=np.float32
)
"""Optical density of haematoxylin, eosin and DAB in RGB (Ruifrok & Johnston 2001, PMID 11531144);
DAB stands for whatever the first two do not explain."""

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Brightness of RGB (ITU-R BT.601)."""

Images = NDArray[np.uint8]
Scalar = TypeVar("Scalar", np.uint8, np.float32)


@dataclass(frozen=True, slots=True)
class AugmentOptions:
    """How far to go; shares are chances per patch, ranges are uniform."""

    stain: float = 0.35
    """Concentration of each stain is multiplied by 1 ± this."""

    stain_shift: float = 0.05
    """Optical density added per stain, ± this."""

    stain_direction: float = 0.06
    """Standard deviation added to each component of the stain vectors."""

    hue_degrees: float = 20.0
    saturation: float = 0.4
    brightness: float = 0.2
    contrast: float = 0.2
    """± these, around 1."""

    defocus: float = 0.5
    """Chance of blurring or sharpening."""

    noise: float = 4.0
    """Largest standard deviation of pixel noise, in grey values."""

    glass: float = 0.15
    """Chance that glass replaces part of the tissue."""


def augment(batch: Batch, rng: np.random.Generator, options: AugmentOptions) -> Batch:
    """Return the batch turned, partly covered by glass, recoloured and defocused."""
    batch = orient(batch, rng)
    batch = spill_glass(batch, rng, chance=options.glass)
    image = jitter_colour(batch.image, rng, options)
    return replace(batch, image=defocus(image, rng, options))


def orient(batch: Batch, rng: np.random.Generator) -> Batch:
    """Return each patch in one of its eight orientations: quarter turns and mirror images."""
    turns = rng.integers(4, size=len(batch.image))
    mirrored = rng.integers(2, size=len(batch.image))

    def turn(arrays: NDArray[Scalar]) -> NDArray[Scalar]:
        out = np.empty_like(arrays)
        for index, (k, flip) in enumerate(zip(turns, mirrored, strict=True)):
            turned = np.rot90(arrays[index], k)
            out[index] = turned[:, ::-1] if flip else turned
        return out

    heatmap = None if batch.heatmap is None else turn(batch.heatmap)
    return Batch(image=turn(batch.image), labels=turn(batch.labels), heatmap=heatmap)


def jitter_colour(images: Images, rng: np.random.Generator, options: AugmentOptions) -> Images:
    """Return images of other stains and scanners.

    Stain variation is affine in optical density (unmix, scale and shift each stain, mix again with
    slightly other stain vectors); hue, saturation, contrast and brightness are affine in RGB. So
    each image costs two 3x3 matrices.

    Parameters
    ----------
    images
        uint8 (n, y, x, 3).
    """
    count, shape = len(images), images.shape
    pixels = np.maximum(images.reshape(count, -1, 3), 1).astype(np.float32) / 255
    density = -np.log(pixels)
    mix, shift = _stain_maps(count, rng, options)
    pixels = np.exp(-(density @ mix + shift))
    pixels = pixels @ _colour_maps(count, rng, options)
    contrast = _around_one(rng, (count, 1, 1), options.contrast)
    middle = pixels.mean(axis=(1, 2), keepdims=True)
    pixels = (pixels - middle) * contrast + middle
    sigma = rng.uniform(0, options.noise, size=(count, 1, 1)).astype(np.float32)
    pixels = pixels * 255 + sigma * rng.standard_normal(pixels.shape, dtype=np.float32)
    return np.asarray(pixels.clip(0, 255).round().reshape(shape), dtype=np.uint8)


def _stain_maps(
    count: int, rng: np.random.Generator, options: AugmentOptions
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    unmix = np.linalg.inv(STAINS)
    tilt = rng.normal(0, options.stain_direction, size=(count, 3, 3)).astype(np.float32)
    target = STAINS + tilt
    scale = _around_one(rng, (count, 1, 3), options.stain)
    shift = rng.uniform(-1, 1, size=(count, 1, 3)).astype(np.float32) * options.stain_shift
    return (unmix * scale) @ target, shift @ target


def _colour_maps(
    count: int, rng: np.random.Generator, options: AugmentOptions
) -> NDArray[np.float32]:
    """Return (n, 3, 3) maps of RGB rows: turn the hue about grey, scale saturation and light."""
    angle = np.radians(rng.uniform(-1, 1, size=(count, 1, 1)) * options.hue_degrees)
    grey = np.full((3, 3), 1 / 3)
    cross = np.array([[0, 1, -1], [-1, 0, 1], [1, -1, 0]]) / np.sqrt(3)
    hue = grey + np.cos(angle) * (np.eye(3) - grey) + np.sin(angle) * cross
    luma = np.repeat(LUMA[:, None], 3, axis=1)
    saturation = _around_one(rng, (count, 1, 1), options.saturation)
    light = _around_one(rng, (count, 1, 1), options.brightness)
    maps = hue @ (luma + saturation * (np.eye(3) - luma)) * light
    return np.asarray(maps, dtype=np.float32)


def _around_one(
    rng: np.random.Generator, shape: tuple[int, ...], amount: float
) -> NDArray[np.float32]:
    return rng.uniform(1 - amount, 1 + amount, size=shape).astype(np.float32)


def defocus(images: Images, rng: np.random.Generator, options: AugmentOptions) -> Images:
    """Return some of the images blurred, others sharpened, as scanners differ in optics."""
    import cv2

    out = images.copy()
    for index in np.flatnonzero(rng.random(len(images)) < options.defocus):
        sigma, gain = float(rng.uniform(0.4, 1.2)), float(rng.uniform(-1.0, 0.7))
        smooth = cv2.GaussianBlur(images[index], (0, 0), sigma)
        out[index] = cv2.addWeighted(images[index], 1 + gain, smooth, -gain, 0)
    return out


def spill_glass(batch: Batch, rng: np.random.Generator, *, chance: float) -> Batch:
    """Return the batch with glass in place of part of the tissue, in smooth random shapes.

    Annotated regions lie inside tissue; slides have edges, tears and fat, where the label is
    background.
    """
    import cv2

    image, labels = batch.image.copy(), batch.labels.copy()
    heatmap = None if batch.heatmap is None else batch.heatmap.copy()
    height, width = labels.shape[1:]
    for index in np.flatnonzero(rng.random(len(image)) < chance):
        field = rng.standard_normal((5, 5), dtype=np.float32)
        relief = cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC)
        glass = relief > rng.uniform(-1.0, 1.5)
        image[index][glass] = rng.integers(225, 256) - rng.integers(0, 6, size=3)
        labels[index][glass] = 0
        if heatmap is not None:
            heatmap[index][glass] = 0
    return replace(batch, image=image, labels=labels, heatmap=heatmap)
