"""An imported folder does what nnU-Net's published rules say: values, windows, logits, labels.

The other side is `nnunet_reference.py`, written from those rules without wsiseg.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nnunet_reference as reference
import numpy as np
import pytest
import torch
from made_models import PLANS, make_nnunet, network
from scipy import ndimage

from wsiseg.engine.execute import run_stage
from wsiseg.engine.inputs import connect
from wsiseg.engine.scan_graph import lay_out_scan
from wsiseg.engine.scan_plan import mirrored, plan_scan
from wsiseg.engine.scan_run import windows_with_body
from wsiseg.geometry import Affine, Box
from wsiseg.model import Model, add_model, load_model
from wsiseg.options import RunOptions
from wsiseg.scans import segment_scan
from wsiseg.source import Volume, open_volume
from wsiseg.volume.body import find_body
from wsiseg.volume.prepare import prepare_scan
from wsiseg.volume.scan import Scan

MIRROR = (0, 2)


def made_scan(shape: tuple[int, ...]) -> np.ndarray:
    """Return smooth structures with values like HU inside a border of zeros, `(z, y, x)`."""
    random = np.random.default_rng(0)
    values = ndimage.gaussian_filter(random.standard_normal(shape), 1.5) * 900 + 40
    values = np.round(values).astype(np.int16)
    values[:2], values[:, :3], values[:, :, -1:] = 0, 0, 0
    values[4, 6, 6] = 0  # a hole
    return values


def changed(**changes: Any) -> dict[str, Any]:
    plans = copy.deepcopy(PLANS)
    for key, value in changes.items():
        where = plans if key in plans else plans["configurations"]["3d_fullres"]
        where[key] = value
    return plans


MASKED = {"normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [True]}

CASES = {
    "as planned": ((14, 30, 22), (2.5, 0.8, 0.8), changed()),
    "thick slices": ((9, 36, 30), (7.0, 0.7, 0.7), changed()),
    "smaller than the patch": ((7, 12, 30), (2.0, 1.0, 1.0), changed()),
    "transposed": (
        (20, 14, 30),
        (1.0, 2.5, 0.9),
        changed(transpose_forward=[1, 0, 2], transpose_backward=[1, 0, 2]),
    ),
    "z-score in the mask": ((14, 30, 22), (2.5, 0.8, 0.8), changed(**MASKED)),
    "coarse network": ((12, 30, 24), (2.0, 1.0, 1.0), changed(spacing=[5.0, 1.5, 1.5])),
}


@dataclass
class Case:
    volume: Volume
    model: Model
    folder: Path
    wanted: Any
    """From the scan to what the reference makes of it; called again where a rule was changed."""


@pytest.fixture
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    shape, spacing, plans = CASES[request.param]
    networks = {str(i): network(seed=i) for i in range(2)}
    add_model(make_nnunet(tmp_path, plans=plans, networks=networks, mirror=MIRROR), name="made")
    values = made_scan(shape)

    def wanted() -> dict[str, Any]:
        runners = [runner(n) for n in networks.values()]
        return reference.segment(values[None], list(spacing), plans, runners, MIRROR)

    scan = open_volume(values, affine=Affine.from_spacing(spacing, (0.0, 0.0, 0.0)))
    return Case(scan, load_model("made", backend="torch"), tmp_path, wanted)


def runner(made: torch.nn.Module) -> Any:
    def run(window: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(window, dtype=np.float32))
            return made(x[None])[0].double().numpy()

    return run


def found(case: Case) -> dict[str, Any]:
    """Return prepared values, raw values and windows as a run makes them."""
    card = case.model.card
    whole = Scan.of([case.volume], card.scan)
    body = find_body(whole, card.scan.crop)
    placed = whole.within(body.box)
    setups = lay_out_scan(card, placed)
    (item,) = setups[0].inputs
    values = prepare_scan(placed, item.layout, item.spec.steps, case.folder, normalize_first=True)
    collected = Collected(values.shape)
    selected = windows_with_body(body, setups)
    run_stage(
        setups[0],
        connect(setups[0], {}, scans={0: values}),
        selected[0],
        mirrored(case.model.predictors[0], setups[0]),
        collected,
        pace=plan_scan(case.model, placed, setups, selected, RunOptions()).stages[0].pace,
        slide="scan",
        listen=lambda event: None,
    )
    prepared = values.read(Box.of_shape(values.shape))
    values.close()
    return {
        "box": placed.box.slices(),
        "prepared": np.moveaxis(prepared, -1, 0),
        "raw": np.moveaxis(collected.raw, -1, 0),
        "windows": [tile.read.start for tile in setups[0].grid],
    }


class Collected:
    """Keeps what is stitched, raw."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.raw = np.zeros((*shape, 3), np.float32)

    def push(self, slab: Any) -> None:
        self.raw[slab.box.slices()] = slab.values

    def finish(self) -> None:
        """Nothing is left to do."""


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest difference, as a share of the range of values."""
    return float(np.abs(a - b).max() / np.ptp(b))


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_values_windows_and_raw_values_are_those_of_the_rules(case: Case) -> None:
    ours, wanted = found(case), case.wanted()
    assert ours["box"] == wanted["box"]
    assert distance(ours["prepared"], wanted["prepared"]) < 1e-5
    pads = [min(0, n) for n in ours["windows"][0]]  # the reference pads before it counts
    starts = [tuple(n - p for n, p in zip(w, pads, strict=True)) for w in ours["windows"]]
    assert starts == wanted["windows"]
    assert distance(ours["raw"], wanted["raw"]) < 1e-5


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_labels_are_those_of_the_rules(case: Case) -> None:
    wanted = case.wanted()
    labels = np.array(segment_scan(case.volume, case.model, work_dir=case.folder).labels)
    ordered = np.sort(wanted["resampled"], axis=0)
    sure = np.ones(labels.shape, bool)
    turned = sure.transpose(case.model.card.scan.transpose)
    turned[wanted["box"]] = ordered[-1] - ordered[-2] > 1e-4 * np.ptp(ordered)
    assert sure.mean() > 0.99
    assert not ((labels != wanted["labels"]) & sure).any()
    assert len(np.unique(labels)) > 1


def corners(values: np.ndarray, shape: tuple[int, ...], order: int) -> np.ndarray:
    """Resize corner to corner, without the half voxel."""
    factors = [n / m for n, m in zip(shape, values.shape, strict=True)]
    return ndimage.zoom(values, factors, order=order, mode="nearest", grid_mode=False)


def centred(patch: tuple[int, ...]) -> np.ndarray:
    """Return the Gaussian about the middle of the patch, as MONAI has it."""
    axes = [np.exp(-((np.arange(n) - (n - 1) / 2) ** 2) / (2 * (n / 8) ** 2)) for n in patch]
    return np.maximum(np.einsum("i,j,k", *axes), 1e-3)


@pytest.mark.parametrize("case", ["as planned"], indirect=True)
@pytest.mark.parametrize(
    ("rule", "wrong", "shows"),
    [("resize", corners, "prepared"), ("gaussian", centred, "raw")],
)
def test_a_rule_changed_shows(
    case: Case, rule: str, wrong: Any, shows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = found(case)
    monkeypatch.setattr(reference, rule, wrong)
    assert distance(ours[shows], case.wanted()[shows]) > 1e-3
