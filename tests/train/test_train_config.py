"""Training configurations: what they say, and what is refused before anything is trained."""

import pytest
import torch
from small_training import (
    CARD,
    REFINE,
    SEGMENTER,
    STAGES,
    fit_of,
    slide_entry,
    two_slides,
    write_config,
    write_dataset,
)

from wsiseg.errors import ModelCardError, TrainingError
from wsiseg.train.config import read_config
from wsiseg.train.lesson import Resources
from wsiseg.train.stages import Training


@pytest.fixture
def folder(tmp_path):
    two_slides(tmp_path)
    return tmp_path


def test_options_reach_their_stage(folder):
    text = (
        '[stages.patches.augment]\njpeg = 0\n[stages.refine.loss]\ntversky = 1\n'
        '[stages.refine.sampling]\nlevels = ["patient", "class"]\nmargin = 1.5\n'
        "[stages.refine.fit]\nseed = 11\nrounds = 4\n"
    )  # fmt: skip
    config = read_config(write_config(folder, STAGES, REFINE, fit_of("patches", ema=0.5), text))
    patches, refine = config.recipes["patches"], config.recipes["refine"]
    assert (patches.fit.rounds, patches.fit.ema, patches.fit.seed) == (2, 0.5, 3)
    assert patches.augment.jpeg == 0
    assert (refine.fit.rounds, refine.fit.seed, refine.loss.tversky) == (4, 11, 1)
    assert refine.sampling.levels == ("patient", "class")
    assert (config.folds, config.seed, config.tissue.detector) == (2, 3, "none")
    assert config.card.provenance.trained_on == "1 slides of dataset.toml"


def test_windows_reach_the_card_and_leave_what_was_trained(folder):
    def key(text):
        config = read_config(write_config(folder, text, fit_of("mask")))
        resources = Resources(torch.device("cpu"), 1)
        run = Training(config, folder, resources, told=lambda *_: None)
        (stage,) = run.card.stages
        return stage.output.max_patch, run.key(stage, "mask", ())

    none, plain = key(SEGMENTER)
    largest, windowed = key(SEGMENTER.replace("halo=[4,4]", "halo=[4,4], max_patch=[80,56]"))
    assert (none, largest) == (None, (80, 56))
    assert windowed == plain != key(SEGMENTER.replace("halo=[4,4]", "halo=[6,6]"))[1]


def test_one_patient_means_blocks(folder):
    assert read_config(write_config(folder, STAGES)).folds_by_block
    write_dataset(folder, slide_entry("a", "train"), slide_entry("b", "train"))
    assert not read_config(write_config(folder, STAGES)).folds_by_block


def test_a_csv_takes_classes_and_label_rules_from_the_configuration(folder):
    (folder / "d.csv").write_text("slide,labels,split,mpp\na.png,a.mask.png,train,1\n")
    path = write_config(folder, STAGES, '[labels]\nmapping = {"1" = "Tumor"}\n')
    path.write_text(path.read_text().replace("dataset.toml", "d.csv"))
    config = read_config(path)
    assert config.dataset.classes == ("background", "Tumor")
    assert config.dataset.rules.mapping == {"1": "Tumor"}


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        (("[extra]\n",), "unknown extra"),
        (("[stages.other]\n",), "no stage 'other' in the card"),
        (("[stages.patches.fits]\n",), r"unknown stages\.patches\.fits"),
        (("[stages.patches.fit]\nepochs = 3\n",), r"stages\.patches\.fit: unknown epochs"),
        (("[stages.patches.fit]\nrounds = 2.5\n",), r"fit\.rounds: needed int, found 2.5"),
        (('[stages.patches.fit]\nsteps = "x"\n',), r"fit\.steps: needed int, found 'x'"),
        (("[stages.patches.fit]\namp = 1\n",), r"fit\.amp: needed bool"),
        (('[stages.patches.sampling]\nlevels = "slide"\n',), r"levels: needed tuple"),
        (("[stages.patches.sampling]\nmargin = 0.5\n",), "margin >= 1"),
        (("[stages.patches]\nfit = 3\n",), "fit: needed a table, found 3"),
        (("[stages.patches.loss]\ndice = -1\n",), "loss: needed weights"),
        (("[stages.patches.augment]\npen = 2\n",), "pen: needed a chance"),
    ],
)
def test_what_is_wrong_is_named(folder, parts, match):
    with pytest.raises(TrainingError, match=match):
        read_config(write_config(folder, STAGES, *parts))


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("folds = 2", "folds = 1", "folds 1; needed a whole number, 2 or more"),
        ("folds = 2", 'folds = "x"', "folds 'x'"),
        ("seed = 3", "seed = -1", "seed -1; needed"),
        ("seed = 3", 'seed = 3\nfolds_by = "slide"', "folds_by 'slide'"),
        ("seed = 3", 'seed = 3\nfolds_by = "patient"', "with 1 training patients; needed block"),
        ("seed = 3", 'seed = 3\ncalibration = "matrix"', "calibration 'matrix'; needed"),
        ('dataset = "dataset.toml"', "", "dataset is missing"),
        ('dataset = "dataset.toml"', 'dataset = "x.toml"', "x.toml: cannot be read"),
        ('{name="background"}, ', "", "needed the same ones"),
        ("seed = 3", "seed =", "is no TOML"),
        ('detector = "none"', 'detector = "nose"', "tissue: .*nose"),
        ('detector = "none"', "colour = 1", "tissue: unknown colour"),
    ],
)
def test_what_is_wrong_at_the_top_is_named(folder, old, new, match):
    assert old in CARD
    path = write_config(folder, STAGES)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(TrainingError, match=match):
        read_config(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [('license = "x"', ""), ('kind = "segmenter"', 'kind = "painter"'), ("halo=[4,4]", "halo=[4]")],
)
def test_a_wrong_card_is_named(folder, old, new):
    path = write_config(folder, SEGMENTER)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ModelCardError, match=r"config\.toml: card: "):
        read_config(path)
