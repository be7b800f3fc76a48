"""Random masks and label images that look like segmentations: blobs, and their distorted copies."""

import numpy as np
from scipy import ndimage


def blobs(rng, shape, *, share=0.4, sigma=3.0):
    """Return a random bool mask of smooth blobs."""
    noise = ndimage.gaussian_filter(rng.normal(size=shape), sigma, mode="wrap")
    return noise > np.quantile(noise, 1 - share)


def mask_pair(seed, *, axes=2):
    """Return (prediction, reference, spacing): masks of one random shape, both not empty."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(12, 40 if axes == 2 else 20, axes))
    spacing = tuple(float(s) for s in rng.uniform(0.3, 3.0, axes))
    reference = blobs(rng, shape, share=rng.uniform(0.1, 0.6))
    moved = np.roll(reference, rng.integers(-3, 4, axes), axis=tuple(range(axes)))
    prediction = moved ^ (rng.random(shape) < 0.03)
    return prediction, reference, spacing


def label_pair(seed, *, classes=4, shape=(40, 50), ignored=0.0):
    """Return (prediction, reference), uint8 label images with some of the reference ignored."""
    rng = np.random.default_rng(seed)

    def labels():
        fields = [ndimage.gaussian_filter(rng.normal(size=shape), 4) for _ in range(classes)]
        return np.argmax(fields, axis=0).astype(np.uint8)

    reference = labels()
    prediction = np.where(blobs(rng, shape, share=0.4), labels(), reference)
    if ignored:
        reference[blobs(rng, shape, share=ignored)] = 255
    return prediction, reference


def objects(rng, shape=(60, 70), count=14):
    """Return an int label image of discs, later ones over earlier ones."""
    labels = np.zeros(shape, np.int64)
    yy, xx = np.indices(shape)
    for number in range(1, count + 1):
        y, x, r = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(2, 8)
        labels[(yy - y) ** 2 + (xx - x) ** 2 < r * r] = number
    return labels


def object_pair(seed):
    """Return (prediction, reference): objects, and the same moved, lost, split and invented."""
    rng = np.random.default_rng(seed)
    reference = objects(rng)
    prediction = np.roll(reference, rng.integers(-2, 3, 2), axis=(0, 1))
    for number in np.unique(reference)[1:]:
        fate = rng.random()
        if fate < 0.15:
            prediction[prediction == number] = 0
        elif fate < 0.3:
            half = (prediction == number) & (np.indices(prediction.shape)[0] % 12 < 6)
            prediction[half] = number + 100
    extra = objects(rng, count=4)
    return np.where((prediction == 0) & (extra > 0), extra + 200, prediction), reference
