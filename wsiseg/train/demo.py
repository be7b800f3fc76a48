"""Train the bundled model `breast-tumour-demo`: `python -m wsiseg.train.demo --data DIR --out DIR`.

Two-fold cross-validation between two annotated regions of breast cancer (BCSS, Amgad et al. 2019,
doi:10.1093/bioinformatics/btz083), then a final model of both. Nothing is selected with the help of
a held-out region. The figures go to `DIR/metrics.json`, the model package beside it; networks
trained so far are kept in `DIR/networks`, and a repeated run goes on from there.

Roughly half an hour on two cores. glibc gives large buffers back to the system after every step;
with `MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=8589934592` it keeps them, which
halves the time.
"""

import argparse
import json
import logging
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wsiseg.errors import TrainingError
from wsiseg.geometry import Box
from wsiseg.train.cascade import (
    Recipe,
    RegionViews,
    Trained,
    cell_model,
    out_of_fold,
    refine,
    train_classifier,
    train_refiner,
)
from wsiseg.train.demo_card import TILE, demo_card
from wsiseg.train.fit import FitOptions
from wsiseg.train.infer import resample_cells
from wsiseg.train.sampling import GLASS, Region

__all__ = ["cross_validate", "main", "open_regions", "scores"]

log = logging.getLogger(__name__)

MPP = 0.25
"""µm per pixel of the BCSS regions."""

MODEL_NAME = "breast-tumour-demo"

Scores = dict[str, float]
"""`dice`, `precision` and `recall`."""


def open_regions(folder: Path) -> dict[str, RegionViews]:
    """Return the regions `folder/images/*.jpg` with `folder/masks/*.png` (255 is tumour).

    Raises
    ------
    TrainingError
        If there are fewer than two, or a mask is missing.
    """
    images = sorted((folder / "images").glob("*.jpg"))
    masks = {image.stem: folder / "masks" / f"{image.stem}.png" for image in images}
    missing = [str(mask) for mask in masks.values() if not mask.is_file()]
    if len(images) < 2 or missing:
        raise TrainingError(
            f"{folder}: needed two regions or more in images/*.jpg, each with its mask in "
            f"masks/*.png; found {len(images)}, without mask: {', '.join(missing) or 'none'}; "
            "pass the folder of BCSS regions with --data"
        )
    return {image.stem: _views(image, masks[image.stem]) for image in images}


def _views(image_path: Path, mask_path: Path) -> RegionViews:
    import wsiseg.source

    image, mask = (wsiseg.source.open(path, mpp=MPP) for path in (image_path, mask_path))

    @cache
    def at(spacing_um: float) -> Region:
        view, truth = image.at(spacing_um), mask.at(spacing_um)
        box = Box.of_shape(view.shape)
        labels = (truth.read(box)[..., 0] >= 128).astype(np.uint8)
        return Region(image_path.stem, view.read(box), labels)

    return at


def scores(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Scores:
    """Return Dice, precision and recall of a mask against the truth of the same shape."""
    hit = float(np.count_nonzero(predicted & truth))
    found, wanted = float(np.count_nonzero(predicted)), float(np.count_nonzero(truth))
    return {
        "dice": 2 * hit / max(1.0, found + wanted),
        "precision": hit / max(1.0, found),
        "recall": hit / max(1.0, wanted),
    }


def evaluate(
    region: RegionViews,
    recipe: Recipe,
    *,
    classifier: nn.Module,
    refiner: nn.Module,
    baseline: nn.Module,
) -> dict[str, Scores]:
    """Compare each design with the truth at the first spacing, at a threshold of one half."""
    fine, coarse = region(recipe.patches.spacing_um), region(recipe.refine.spacing_um)
    truth = fine.labels > 0
    cells = cell_model(classifier, recipe)(fine.image)
    heatmap = resample_cells(cells, Box.of_shape(truth.shape), 1 / recipe.patches.stride)
    ratio = recipe.patches.spacing_um / recipe.refine.spacing_um
    enlarged = np.ix_(*((np.arange(n) * ratio).astype(int) for n in truth.shape))
    designs = {
        "everything": np.ones(truth.shape, np.float32),
        "stage 1": heatmap[..., 0],
        "U-Net": refine(baseline, coarse.image, None, recipe)[enlarged],
        "cascade": refine(refiner, coarse.image, cells, recipe)[enlarged],
    }
    return {name: scores(values >= 0.5, truth) for name, values in designs.items()}


def cross_validate(
    folder: Path, recipe: Recipe, trained: Trained, pool: Executor
) -> dict[str, dict[str, Scores]]:
    """Hold out each region once; return design -> scores for each of them, and their `mean`."""
    names = list(open_regions(folder))
    jobs = [pool.submit(_fold, folder, name, recipe, trained) for name in names]
    table = {name: job.result() for name, job in zip(names, jobs, strict=True)}
    table["mean"] = {
        design: {
            score: float(np.mean([table[name][design][score] for name in names])) for score in found
        }
        for design, found in table[names[0]].items()
    }
    return table


def _fold(folder: Path, test: str, recipe: Recipe, trained: Trained) -> dict[str, Scores]:
    regions = open_regions(folder)
    training = [views for name, views in regions.items() if name != test]
    heatmaps = [out_of_fold(views, recipe, trained) for views in training]
    classifier = train_classifier(training, recipe, trained)
    designs = evaluate(
        regions[test],
        recipe,
        classifier=classifier,
        refiner=train_refiner(training, recipe, trained, heatmaps=heatmaps),
        baseline=train_refiner(training, recipe, trained, heatmaps=None),
    )
    log.info("held out %s: %s", test, json.dumps(designs))
    return designs


def train_final(
    folder: Path, recipe: Recipe, trained: Trained, pool: Executor
) -> dict[str, nn.Module]:
    """Train both stages on all regions; return them by stage name.

    The heatmap of each region comes from the classifier of the cross-validation that has not seen
    it.
    """
    jobs = {
        "patches": pool.submit(_final_classifier, folder, recipe, trained),
        "refine": pool.submit(_final_refiner, folder, recipe, trained),
    }
    return {stage: job.result() for stage, job in jobs.items()}


def _final_classifier(folder: Path, recipe: Recipe, trained: Trained) -> nn.Module:
    return train_classifier(list(open_regions(folder).values()), recipe, trained)


def _final_refiner(folder: Path, recipe: Recipe, trained: Trained) -> nn.Module:
    regions = open_regions(folder)
    heatmaps = []
    for name in regions:
        others = [views for other, views in regions.items() if other != name]
        heatmaps.append(cell_model(train_classifier(others, recipe, trained), recipe))
    return train_refiner(list(regions.values()), recipe, trained, heatmaps=heatmaps)


def check_inputs(folder: Path, recipe: Recipe, size: int) -> dict[str, tuple[NDArray[Any], ...]]:
    """Return patches of each stage for the package's self-check: two, and one of `size` pixels."""
    region = next(iter(open_regions(folder).values()))
    fine = region(recipe.patches.spacing_um).image
    coarse = region(recipe.refine.spacing_um).image[:size, :size]
    side = recipe.patches.patch
    patches = np.stack([fine[y : y + side, :side] for y in (0, side)])
    image = np.full((1, size, size, 3), GLASS, np.uint8)
    image[0, : coarse.shape[0], : coarse.shape[1]] = coarse
    heatmap = np.tile(np.linspace(0, 1, size, dtype=np.float32), (size, 1))
    return {"patches": (patches,), "refine": (image, heatmap[None, ..., None])}


def _start_worker(level: int) -> None:
    """One thread per training: two that wait for each other are slower where cores are shared."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    logging.basicConfig(level=level, format="%(asctime)s %(process)d %(message)s")


def main(arguments: Sequence[str] | None = None) -> None:
    """Cross-validate, and unless told otherwise train and write the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with images/ and masks/")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--folds-only", action="store_true", help="no final model")
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time")
    parser.add_argument("--quick", type=float, default=1.0, help="share of the steps")
    options = parser.parse_args(arguments)
    recipe = _shortened(Recipe(), options.quick)
    options.out.mkdir(parents=True, exist_ok=True)
    trained = Trained(options.out / "networks")
    _start_worker(logging.INFO)
    with ProcessPoolExecutor(
        options.workers, get_context("spawn"), _start_worker, (logging.INFO,)
    ) as pool:
        table = cross_validate(options.data, recipe, trained, pool)
        metrics = {"recipe": asdict(recipe), "cross_validation": table}
        (options.out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        log.info("cross-validation: %s", json.dumps(table["mean"], indent=2))
        if not options.folds_only:
            networks = train_final(options.data, recipe, trained, pool)
            write_demo(options.out / MODEL_NAME, options.data, recipe, networks, table)


def write_demo(
    folder: Path,
    data: Path,
    recipe: Recipe,
    networks: dict[str, nn.Module],
    table: dict[str, dict[str, Scores]],
) -> None:
    """Write the model package."""
    from wsiseg.model import write_package

    card = demo_card(MODEL_NAME, recipe, table)
    inputs = check_inputs(data, recipe, TILE)
    write_package(folder, card=card, networks=networks, check_inputs=inputs, overwrite=True)


def _shortened(recipe: Recipe, share: float) -> Recipe:
    def shorter(fit: FitOptions) -> FitOptions:
        return replace(fit, steps=max(1, round(fit.steps * share)))

    return replace(
        recipe,
        patches=replace(recipe.patches, fit=shorter(recipe.patches.fit)),
        refine=replace(recipe.refine, fit=shorter(recipe.refine.fit)),
    )


if __name__ == "__main__":
    main()
