"""The patches a model is most wrong about, as annotations: what to look at, or to label, next."""

import csv
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely
import torch

from wsiseg.annotations import AnnotationClass, Annotations, ImageRef, write_geojson
from wsiseg.source.naming import stem_of
from wsiseg.train.lesson import LabelledSlide, StageLesson
from wsiseg.train.places import Place, PlaceSampler
from wsiseg.train.reading import LabelledPatches, read_batches

if TYPE_CHECKING:
    from torch import nn

    from wsiseg.train.stages import Training

__all__ = ["WORST", "write_worst"]

WORST = 20
"""Patches per slide."""

LOOKED_AT, LOOKED_AT_IN_ALL = 200, 1000
"""Patches the worst are chosen from: at most so many per slide, and where there are many slides
about so many of all of them, but no fewer than are written."""

CLASS = AnnotationClass("Look here", (255, 140, 0))


def write_worst(run: "Training", folder: Path) -> list[Path]:
    """Write, for each slide, the patches with the largest losses: `<slide>.geojson` for QuPath.

    Of scans `worst.csv`, with the centre of each patch in mm. Patches of training slides were seen
    in training, so what is wrong there is mostly the label; on validation slides it is mostly the
    network.
    """
    last = run.done[-1]
    lesson = last.lesson
    if run.scans:
        return _worst_of_scans(run, last.network, lesson, folder)
    slides = [
        *zip(run.train, lesson.slides, strict=True),
        *zip(run.tests, lesson.tests, strict=True),
    ]
    stems = [stem_of(slide.entry.name) for slide, _ in slides]
    written = []
    for number, (slide, patches) in enumerate(slides):
        places = _places(lesson, number, len(run.train))
        losses = _losses(lesson, last.network, patches, places)
        found = sorted(losses, key=lambda pair: -pair[1])[:WORST]
        folder.mkdir(parents=True, exist_ok=True)
        stem = stems[number] if stems.count(stems[number]) == 1 else f"{stems[number]}-{number + 1}"
        path = folder / f"{stem}.geojson"
        write_geojson(_annotations(slide, patches, found), path)
        written.append(path)
    return written


def _worst_of_scans(
    run: "Training", network: "nn.Module", lesson: StageLesson, folder: Path
) -> list[Path]:
    """Write one table for all scans: centres of patches in mm of RAS, and their losses."""
    scans = [
        *zip(run.scans, lesson.slides, strict=True),
        *zip(run.test_scans, lesson.tests, strict=True),
    ]
    rows = []
    for number, (one, patches) in enumerate(scans):
        losses = _losses(lesson, network, patches, _places(lesson, number, len(run.scans)))
        reference = patches.setup.reference
        for place, loss in sorted(losses, key=lambda pair: -pair[1])[:WORST]:
            triples = zip(place.centre, reference.downsample, reference.origin, strict=True)
            voxel = [at * step + first - 0.5 for at, step, first in triples]
            x, y, z = one.scan.affine.world(np.array([voxel]))[0]
            rows.append([one.entry.name, f"{x:.1f}", f"{y:.1f}", f"{z:.1f}", f"{loss:.4f}"])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "worst.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["scan", "x_mm", "y_mm", "z_mm", "loss"], *rows])
    return [path]


def _places(lesson: StageLesson, number: int, trained: int) -> list[Place]:
    """Return some places of one slide, other than those the sampler would draw next."""
    if number >= trained:
        return [place for place in lesson.test_places if place.slide == number - trained]
    leaves = [leaf for leaf in lesson.sampler.leaves if leaf.slide == number]
    count = max(WORST, min(LOOKED_AT, LOOKED_AT_IN_ALL // trained))
    return list(islice(PlaceSampler(leaves, seed=number), count)) if leaves else []


@torch.inference_mode()
def _losses(
    lesson: StageLesson, network: "nn.Module", patches: LabelledPatches, places: list[Place]
) -> Iterator[tuple[Place, float]]:
    one = [Place(place.leaf, place.cell, 0, place.centre) for place in places]
    for batch in read_batches([patches.unturned()], one, size=lesson.recipe.fit.batch, workers=1):
        inputs, labels = lesson.prepared(batch)
        losses = lesson.hardness(network(*inputs), labels).tolist()
        yield from zip(batch.places, losses, strict=True)


def _annotations(
    slide: LabelledSlide, patches: LabelledPatches, found: list[tuple[Place, float]]
) -> Annotations:
    height, width = slide.pyramid.shape
    reference = patches.setup.reference
    boxes = []
    for place, _ in found:
        half = [n * d / 2 for n, d in zip(reference.spec.patch, reference.downsample, strict=True)]
        (y, x), (up, left) = place.centre, half
        low, high = (max(0, x - left), max(0, y - up)), (min(width, x + left), min(height, y + up))
        boxes.append(shapely.box(*low, *high))
    return Annotations(
        np.array(boxes, object),
        np.zeros(len(boxes), np.int64),
        (CLASS,),
        ImageRef.of(slide.pyramid),
        {"Loss": np.array([loss for _, loss in found], np.float64)},
    )
