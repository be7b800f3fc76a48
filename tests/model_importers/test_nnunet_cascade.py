"""Cascades read labels of the earlier configuration; channels of their own; slices."""

import copy
from pathlib import Path
from typing import Any

import nnunet_reference as reference
import numpy as np
import torch
from made_models import ARCHITECTURE, DATASET, PLANS, make_nnunet, network
from test_nnunet_parity import made_scan, runner

from wsiseg.geometry import Affine
from wsiseg.model import Selection, add_model, load_model
from wsiseg.scans import segment_scan
from wsiseg.source import Volume, open_volume

SPACING = (2.5, 0.8, 0.8)


def scan(values: np.ndarray) -> Volume:
    return open_volume(values, affine=Affine.from_spacing(SPACING, (0.0, 0.0, 0.0)))


def compete(made: torch.nn.Module) -> None:
    """Give each class a feature of its own, so that none wins everywhere."""
    head = made.decoder.seg_layers[-1]
    torch.nn.init.zeros_(head.bias)
    torch.nn.init.zeros_(made.decoder.stages[-1].convs[-1].norm.bias)
    torch.nn.init.ones_(made.decoder.stages[-1].convs[-1].norm.weight)
    head.weight.data = torch.eye(3, head.weight.shape[1]).reshape(head.weight.shape)


def test_a_cascade_gives_the_labels_of_the_rules(tmp_path: Path) -> None:
    plans: dict[str, Any] = copy.deepcopy(PLANS)
    low = {"inherits_from": "3d_fullres", "spacing": [4.0, 2.0, 2.0]}
    full = {"inherits_from": "3d_fullres", "previous_stage": "3d_low"}
    plans["configurations"] |= {"3d_low": low, "3d_cascade": full}
    first, second = network(seed=2), network(3, seed=1)
    for made in (first, second):
        compete(made)
    make_nnunet(tmp_path, plans=plans, configuration="3d_low", networks={"0": first}, mirror=())
    make_nnunet(
        tmp_path, plans=plans, configuration="3d_cascade", networks={"0": second}, mirror=()
    )
    add_model(tmp_path, name="made", selection=Selection("3d_cascade"))
    values = made_scan((14, 30, 22))
    labels = np.array(
        segment_scan(scan(values), load_model("made", backend="torch"), work_dir=tmp_path).labels
    )

    low_plans = copy.deepcopy(plans)
    low_plans["configurations"]["3d_fullres"]["spacing"] = low["spacing"]
    coarse = reference.segment(values[None], list(SPACING), low_plans, [runner(first)], ())
    fine = reference.segment(values[None], list(SPACING), plans, [runner(network())], ())
    patch = tuple(PLANS["configurations"]["3d_fullres"]["patch_size"])
    shape = fine["prepared"].shape[1:]
    seen = np.stack([reference.resample(r, shape, [4, 2, 2], [2, 1, 1], 1) for r in coarse["raw"]])

    def rules(prior: np.ndarray) -> np.ndarray:
        channels = [fine["prepared"][0], *(prior == c for c in (1, 2))]
        raw, _ = reference.logits(np.stack(channels).astype(float), patch, [runner(second)], ())
        cropped = values[fine["box"]].shape
        back = np.stack([reference.resample(r, cropped, [2, 1, 1], list(SPACING), 1) for r in raw])
        wanted = np.zeros(values.shape, np.uint8)
        wanted[fine["box"]] = back.argmax(0)
        return wanted

    prior = seen.argmax(0)
    assert len(np.unique(prior)) > 1
    assert (labels != rules(prior)).mean() < 2e-3
    assert (labels != rules(np.zeros_like(prior))).mean() > 0.02  # the earlier stage matters


def test_channels_with_steps_of_their_own_are_read_in_order(tmp_path: Path) -> None:
    plans = copy.deepcopy(PLANS)
    plans["configurations"]["3d_fullres"] |= {
        "normalization_schemes": ["CTNormalization", "NoNormalization"],
        "use_mask_for_norm": [False, False],
    }
    dataset = DATASET | {"channel_names": {"0": "CT", "1": "PET"}}
    made = network(2)
    make = make_nnunet(tmp_path, plans=plans, dataset=dataset, networks={"0": made}, mirror=())
    add_model(make, name="made")
    both = np.stack([made_scan((14, 30, 22)), made_scan((14, 30, 22))[::-1] // 100])
    wanted = reference.segment(both, list(SPACING), plans, [runner(made)], ())["labels"]
    found = segment_scan(
        [scan(both[0]), scan(np.ascontiguousarray(both[1]))],
        load_model("made", backend="torch"),
        work_dir=tmp_path,
    )
    assert (np.array(found.labels) != wanted).mean() < 2e-3


def test_slices_are_predicted_one_by_one(tmp_path: Path) -> None:
    plans = copy.deepcopy(PLANS)
    arguments = {"kernel_sizes": [[3, 3]] * 3, "strides": [[1, 1], [2, 2], [2, 2]]}
    architecture = copy.deepcopy(ARCHITECTURE)
    architecture["arch_kwargs"] |= arguments
    plans["configurations"]["3d_fullres"] |= {
        "patch_size": [16, 16],
        "spacing": [1.0, 1.0],
        "architecture": architecture,
    }
    made = network(**arguments)
    add_model(make_nnunet(tmp_path, plans=plans, networks={"0": made}, mirror=()), name="made")
    values = made_scan((14, 30, 22))
    model = load_model("made", backend="torch")
    labels = np.array(segment_scan(scan(values), model, work_dir=tmp_path).labels)
    turned = copy.deepcopy(plans)
    turned["configurations"]["3d_fullres"] |= {
        "patch_size": [1, 16, 16],
        "spacing": [SPACING[0], 1.0, 1.0],
    }
    wanted = reference.segment(values[None], list(SPACING), turned, [runner(made)], ())["labels"]
    assert (labels != wanted).mean() < 2e-3
