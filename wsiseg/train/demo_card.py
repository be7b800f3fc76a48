"""What the card of `breast-tumour-demo` says."""

from collections.abc import Mapping
from typing import Any

from wsiseg.train.cascade import Recipe

__all__ = ["TILE", "demo_card"]

TILE = 384
"""Side of a refinement patch at inference, in pixels; with the halo on both sides 256 remain."""

TRAINED_ON = (
    "Two regions (0.9 x 0.6 mm and 1.0 x 0.5 mm) of two H&E slides of invasive breast cancer from "
    "TCGA-BRCA, tumour outlines of the BCSS crowdsourcing study, CC0-1.0. The heatmaps the second "
    "stage learned from were made, for each region, by a classifier trained on the other region."
)

INTENDED_USE = (
    "Demonstration and software testing: shows the two-stage design at work on H&E sections of "
    "breast tumours. Not for diagnosis, research conclusions or any clinical decision."
)

LIMITS = (
    "Two regions of two patients. The released weights have seen both, so no held-out figure "
    "exists for them; the metrics are those of the same recipe in two-fold cross-validation (train "
    "on one region, test on the other; no setting was chosen by them), and with two patients they "
    "say little about a third. 'everything' calls all tissue tumour; 'U-Net' sees the image at 2 "
    "µm alone. Tissue of a kind the training region lacks is often wrong: without lymphocytes in "
    "training, sheets of lymphocytes were called tumour. Other organs, other stains than H&E, "
    "normal glands, carcinoma in situ, lymph nodes and fat were not in the training data. Outlines "
    "are as coarse as 2 µm pixels and as the annotators' own."
)

CITATION = (
    "Amgad et al. 2019, Structured crowdsourcing enables convolutional segmentation of histology "
    "images, Bioinformatics 35(18):3461-3467, doi:10.1093/bioinformatics/btz083; design: Pedersen "
    "et al. 2022, doi:10.3389/fmed.2022.971873"
)


def demo_card(
    name: str, recipe: Recipe, table: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> dict[str, Any]:
    """Return the content of `model.json`, without hashes.

    Parameters
    ----------
    name
        Of the model.
    recipe
        What was trained.
    table
        Cross-validation: held-out region or `mean` -> design -> score -> value.
    """
    return {
        "schema_version": 1,
        "name": name,
        "version": "1.0.0",
        "task": "semantic",
        "axes": "yx",
        "classes": [{"name": "background"}, {"name": "Tumor", "color": [200, 0, 0]}],
        "stages": [_patches(recipe), _refine(recipe)],
        "threshold": 0.5,
        "provenance": {
            "license": "Apache-2.0 (weights); training data CC0-1.0",
            "citation": CITATION,
            "trained_on": TRAINED_ON,
            "intended_use": INTENDED_USE,
            "limits": LIMITS,
            "metrics": _metrics(table),
        },
    }


def _patches(recipe: Recipe) -> dict[str, Any]:
    slide = {
        **_slide(recipe.patches.spacing_um, recipe.patches.patch),
        "stride": [recipe.patches.stride] * 2,
    }
    return {
        "name": "patches",
        "kind": "classifier",
        "inputs": [slide],
        "output": {"name": "heatmap", "activation": "softmax"},
        "weights": {"architecture": "wsiseg.mobilenet_v2", "arguments": recipe.patches.arguments},
    }


def _refine(recipe: Recipe) -> dict[str, Any]:
    slide = _slide(recipe.refine.spacing_um, TILE)
    heatmap = {**slide, "from": "heatmap", "channels": ["Tumor"], "steps": []}
    return {
        "name": "refine",
        "kind": "segmenter",
        "inputs": [slide, heatmap],
        "output": {"name": "mask", "activation": "softmax", "halo": [recipe.refine.halo] * 2},
        "weights": {"architecture": "wsiseg.h2g_unet", "arguments": recipe.refine.arguments},
    }


def _slide(spacing_um: float, patch: int) -> dict[str, Any]:
    return {
        "from": "slide",
        "channels": ["R", "G", "B"],
        "spacing_um": [spacing_um] * 2,
        "spacing_tolerance": 0.1,
        "patch": [patch] * 2,
        "steps": [{"name": "scale", "divide_by": 255}],
    }


def _metrics(table: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    return {
        f"{score}, {design}, {'mean' if fold == 'mean' else 'held out ' + fold}": round(value, 4)
        for fold, designs in table.items()
        for design, values in designs.items()
        for score, value in values.items()
    }
