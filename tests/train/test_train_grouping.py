"""Patches grouped by what another model sees in them."""

import pytest
import torch
from small_training import STAGES, fit_of, two_slides, write_config

from wsiseg.errors import TrainingError
from wsiseg.train import stages
from wsiseg.train.clusters import cluster_loss
from wsiseg.train.config import read_config
from wsiseg.train.lesson import Resources
from wsiseg.train.losses import central_share
from wsiseg.train.train import train

GROUPS = """
[stages.patches.groups]
package = "out/small"
count = 3
patches = 16
"""


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    """Return the lesson of a classifier whose patches are grouped by an earlier one."""
    folder = tmp_path_factory.mktemp("groups")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSISEG_HOME", str(folder / "home"))
        two_slides(folder)
        quick = fit_of("patches", rounds=1, steps=1)
        train(write_config(folder, STAGES, quick), folder / "out", device="cpu", threads=1)
        config = read_config(write_config(folder, STAGES, quick, GROUPS))
        resources = Resources(torch.device("cpu"), 1)
        run = stages.train_stages(
            config, folder / "again", resources=resources, told=lambda *_: None
        )
    return run.done[0].lesson, run.done[0].network


def test_the_loss_is_averaged_over_the_groups(grouped):
    lesson, network = grouped
    batch = next(lesson.batches(1))
    inputs, labels = lesson.prepared(batch)
    logits = network(*inputs)
    cells = central_share(labels, 2, lesson.cell).argmax(dim=1)
    groups = lesson.groups.clusters(lesson.groups.frozen(*inputs))
    wanted = cluster_loss(logits, cells, groups)
    assert lesson.loss(logits, labels, inputs).item() == pytest.approx(wanted.item())


def test_groups_come_from_the_frozen_network_and_stay(grouped):
    lesson, _ = grouped
    inputs, _ = lesson.prepared(next(lesson.batches(1)))
    before = lesson.groups(*inputs)
    lesson.groups.train()
    assert torch.equal(lesson.groups(*inputs), before)
    assert 0 <= int(before.min()) <= int(before.max()) < 3
    assert not any(p.requires_grad for p in lesson.groups.parameters())


def test_grouping_needs_a_package_and_enough_patches(tmp_path):
    two_slides(tmp_path)
    with pytest.raises(TrainingError, match="groups"):
        read_config(write_config(tmp_path, STAGES, "[stages.patches.groups]\ncount = 1\n"))
