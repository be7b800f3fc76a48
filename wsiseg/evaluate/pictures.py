"""The worst slides in pictures: outlines of prediction and reference over the slide."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.annotations.trace import trace_labels
from wsiseg.draw import outline, overlay, scale_bar
from wsiseg.evaluate.case import Case, Masks
from wsiseg.evaluate.sketch import Sketch
from wsiseg.evaluate.slide import SlideScores
from wsiseg.evaluate.values import IGNORE, LabelArray
from wsiseg.geometry import Box

__all__ = ["PREDICTED", "REFERENCE", "WRONG", "Picture", "png", "slide_pictures"]

Pixels = NDArray[np.uint8]

PREDICTED = (213, 94, 0)
REFERENCE = (0, 114, 178)
WRONG = (240, 228, 66)
"""Vermilion, blue and yellow of the palette for any colour vision."""

DETAIL = 640
"""Pixels of the image on a side of the detail."""

PAPER = 235
UNKNOWN = 200
"""Grey where there is no slide to draw on: known, and not scored."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A slide and its worst place, PNG; `None` where nothing is wrong, or there is no mask."""

    name: str
    whole: bytes | None
    detail: bytes | None
    caption: str


def slide_pictures(case: Case, scores: SlideScores, classes: Sequence[str]) -> Picture:
    """Draw one slide.

    Parameters
    ----------
    case
        The slide, still open: its pixels are read.
    scores
        What `evaluate_slide` said of it, with its sketch.
    classes
        Names, for the caption.
    """
    caption = ", ".join(
        f"{one.name}: Dice {one.overlap.dice:.3f}" if one.overlap else one.name
        for one in scores.classes
    )
    if case.masks is None or scores.sketch is None:
        return Picture(case.name, None, None, caption)
    masks, sketch = case.masks, scores.sketch
    whole = _drawn(
        _slide(case, sketch),
        sketch.prediction,
        sketch.reference,
        len(classes),
        um_per_pixel=masks.spacing.um[-1] * sketch.step,
    )
    detail = None
    if sketch.worst is not None and sketch.step > 1:
        detail = png(_detail(masks, sketch, len(classes)))
    return Picture(case.name, png(whole), detail, caption)


def png(pixels: Pixels) -> bytes:
    """Return the pixels as a PNG file."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", compress_level=3)
    return stream.getvalue()


def _slide(case: Case, sketch: Sketch) -> Pixels:
    """Return the slide in the size of the sketch, or grey paper where it cannot be seen."""
    from PIL import Image

    height, width = sketch.reference.shape
    if case.thumbnail is None or sketch.plane:
        return _paper(sketch.reference)
    small = Image.fromarray(case.thumbnail(max(height, width)))
    return np.asarray(small.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))


def _paper(reference: LabelArray) -> Pixels:
    tone = np.where(reference == IGNORE, UNKNOWN, PAPER).astype(np.uint8)
    return np.repeat(tone[..., None], 3, axis=2)


def _detail(masks: Masks, sketch: Sketch, classes: int) -> Pixels:
    """Return the surroundings of the worst place at the full resolution of the masks."""
    worst = sketch.worst or Box((0, 0), (0, 0))
    size = masks.shape[-2:]
    start = [
        min(max(0, (a + b - DETAIL) // 2), max(0, n - DETAIL))
        for a, b, n in zip(worst.start, worst.stop, size, strict=True)
    ]
    box = Box(tuple(start), tuple(a + DETAIL for a in start)).clip(size)
    full = Box((*sketch.plane, *box.start), (*(at + 1 for at in sketch.plane), *box.stop))
    first = (0,) * len(sketch.plane)
    prediction, reference = masks.prediction(full)[first], masks.reference(full)[first]
    pixels = _paper(reference)
    if masks.pixels is not None and not sketch.plane:
        pixels = masks.pixels(box)
    masked = np.where(reference == IGNORE, np.uint8(IGNORE), prediction)
    return _drawn(pixels, masked, reference, classes, um_per_pixel=masks.spacing.um[-1])


def _drawn(
    pixels: Pixels,
    prediction: LabelArray,
    reference: LabelArray,
    classes: int,
    *,
    um_per_pixel: float,
) -> Pixels:
    """Return the picture: wrong pixels tinted, outlines of all classes, and a scale bar."""
    zoom = max(1, round(600 / max(pixels.shape[:2])))
    wrong = (prediction != reference) & (reference != IGNORE)
    tinted = overlay(pixels, wrong, [WRONG], opacity=0.45, outlined=False)
    out = np.ascontiguousarray(tinted.repeat(zoom, axis=0).repeat(zoom, axis=1))
    for labels, color, width in ((reference, REFERENCE, 3), (prediction, PREDICTED, 2)):
        shown = np.where(labels < classes, labels, 0)
        shapes = shapely.transform(trace_labels(shown).geometries, lambda points: points * zoom)
        out = outline(out, shapes, color, width=width)
    return scale_bar(out, um_per_pixel / zoom)
