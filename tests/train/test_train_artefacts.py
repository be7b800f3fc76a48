"""Ink, dust, bubbles, folds and glass: where they lie, what is known there, how they look."""

from dataclasses import replace

import pytest
import torch

from wsiseg.train.artefacts import paste_artefacts_, spill_glass_
from wsiseg.train.augment_options import AugmentOptions
from wsiseg.train.draws import Draws
from wsiseg.train.patches import Patches

OFF = AugmentOptions.off()
KINDS = ["pen", "dust", "bubble", "fold"]


def tissue(count=30, size=64):
    image = 0.5 + 0.2 * torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(1, 3, (count, size, size), generator=torch.Generator().manual_seed(1))
    return Patches(image, labels.to(torch.uint8), torch.full((count, 1, size, size), 0.8))


def pasted(seed=0, spacing_um=1.0, count=30, **changes):
    work, draws = (
        tissue(count),
        Draws(torch.Generator().manual_seed(seed), count, torch.device("cpu")),
    )
    options = replace(OFF, **changes)
    paste_artefacts_(work, draws, options, spacing_um=spacing_um)
    return spill_glass_(work, draws, options)


@pytest.mark.parametrize("spacing", [0.25, 1.0, 8.0])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_covered_is_not_known(kind, spacing):
    before, after = tissue(), pasted(spacing_um=spacing, **{kind: 1.0})
    covered = after.labels == 255
    assert 0 < covered.float().mean() < 0.98
    assert torch.equal(after.labels[~covered], before.labels[~covered])
    assert torch.equal(after.heatmap, before.heatmap)
    changed = (after.image - before.image).abs().amax(dim=1)
    assert changed[covered].mean() > 0.05
    assert changed[covered].mean() > 3 * changed[~covered].mean()
    assert 0 <= after.image.min() <= after.image.max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_covered_may_count_as_background(kind):
    before, after = tissue(), pasted(**{kind: 1.0}, artefact_label="background")
    covered = after.labels == 0
    assert torch.equal(covered, pasted(**{kind: 1.0}).labels == 255)
    assert (after.heatmap[:, 0][covered] == 0).all()
    assert (after.heatmap[:, 0][~covered] == before.heatmap[:, 0][~covered]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_labels_may_be_kept(kind):
    before, after = tissue(), pasted(**{kind: 1.0}, artefact_label="keep")
    assert torch.equal(after.labels, before.labels)
    assert not torch.equal(after.image, before.image)


@pytest.mark.parametrize("kind", ["pen", "dust", "fold"])
def test_what_absorbs_only_darkens(kind):
    assert (pasted(**{kind: 1.0}).image <= tissue().image + 1e-6).all()


def test_inks_are_of_several_colours():
    after = pasted(pen=1.0, count=60)
    covered = (after.labels == 255).float()[:, None]
    mean = (after.image * covered).sum(dim=(2, 3)) / covered.sum(dim=(2, 3)).clamp(min=1)
    strongest = mean[covered.sum(dim=(1, 2, 3)) > 500].argmax(dim=1)
    assert set(strongest.tolist()) == {0, 1, 2}


def test_dust_has_its_size_in_um():
    for spacing in (0.5, 2.0):
        after = pasted(dust=1.0, dust_radius_um=(10.0, 10.0), spacing_um=spacing, count=60)
        area_um2 = (after.labels == 255).sum(dim=(1, 2)) * spacing**2
        whole = area_um2.float().amax().item()  # others hang over the edge
        assert 0.7 * 314 < whole < 2.5 * 314


def test_folds_add_densities():
    """In the middle of the band light has passed two layers of tissue."""
    work = tissue(20)
    work.image[:] = 0.5
    options = replace(OFF, fold=1.0, fold_width_um=(60.0, 60.0))
    draws = Draws(torch.Generator().manual_seed(0), 20, torch.device("cpu"))
    paste_artefacts_(work, draws, options, spacing_um=1.0)
    darkest = work.image.amin(dim=(1, 2, 3))
    assert (darkest > 0.5 * 0.5**1.25).all()
    assert (darkest < 0.5 * 0.5**0.6).all()


def test_glass_is_bright_background_in_smooth_shapes():
    before, after = tissue(), pasted(glass=1.0)
    glass = after.labels == 0
    assert 0.1 < glass.float().mean() < 0.9
    assert torch.equal(
        after.image.permute(0, 2, 3, 1)[~glass], before.image.permute(0, 2, 3, 1)[~glass]
    )
    assert after.image.permute(0, 2, 3, 1)[glass].min() >= 219 / 255
    assert (after.heatmap[:, 0][glass] == 0).all()
    assert (after.heatmap[:, 0][~glass] == 0.8).all()
    borders = (glass[:, 1:] != glass[:, :-1]).float().mean()
    assert borders < 0.05
