"""The loop: goes on as if never stopped, keeps the best, and refuses what cannot be right."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from wsiseg.errors import TrainingError
from wsiseg.train.checkpoint import FILE
from wsiseg.train.loop import FitOptions, fit
from wsiseg.train.places import Leaf, PlaceSampler
from wsiseg.train.reading import Batch

CPU = torch.device("cpu")
SIZE = 8


def make_network(width=4):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Dropout2d(0.3),
        nn.Conv2d(width, 2, 1),
    )


class Stopped(Exception):  # noqa: N818
    """Stands for a kill."""


class MadeLesson:
    """Patches made from the numbers of their places; labels tell bright from dark."""

    def __init__(self, options, *, scores=None, stop_at=None, spoil_at=None):
        leaves = [Leaf(0, k, (str(k),), np.arange(500), (10, 50), (1.0, 1.0)) for k in (0, 1)]
        self.sampler = PlaceSampler(leaves, seed=options.seed, hard=options.hard)
        self.options, self.scores = options, scores
        self.stop_at, self.spoil_at, self.asked = stop_at, spoil_at, 0
        self.seen = []

    def batches(self, count):
        for _ in range(count):
            places = tuple(self.sampler.draw() for _ in range(self.options.batch))
            self.seen += places
            noise = [
                np.random.default_rng((p.leaf, p.cell)).normal(p.leaf, 1, (SIZE, SIZE))
                for p in places
            ]
            labels = np.stack([np.full((SIZE, SIZE), p.leaf, np.uint8) for p in places])
            yield Batch((np.stack(noise).astype(np.float32),), labels, places)

    def tensors(self, batch, seed):
        self.asked += 1
        if self.asked == self.stop_at:
            raise Stopped
        inputs, labels = torch.from_numpy(batch.inputs[0])[:, None], torch.from_numpy(batch.labels)
        if self.asked == self.spoil_at:
            inputs = inputs * float("nan")
        noise = torch.rand(inputs.shape, generator=torch.Generator().manual_seed(seed))
        return (inputs + 0.1 * noise,), labels.long()

    def loss(self, outputs, labels, inputs):
        return functional.cross_entropy(outputs, labels)

    def hardness(self, logits, labels):
        return functional.cross_entropy(logits, labels, reduction="none").mean(dim=(1, 2))

    def validate(self, network):
        assert not network.training
        if self.scores is not None:
            return {"loss": self.scores.pop(0)}
        with torch.inference_mode():
            x = torch.linspace(-1, 2, SIZE * SIZE).reshape(1, 1, SIZE, SIZE)
            return {"loss": functional.cross_entropy(network(x), (x[:, 0] > 0.5).long()).item()}


def run(folder, options, *, key="k", network=None, told=lambda _: None, **lesson):
    network = network or make_network()
    made = MadeLesson(options, **lesson)
    history = fit(network, made, options, device=CPU, folder=folder, key=key, told=told)
    return network, history, made


def same(one, other):
    return all(torch.equal(a, other.state_dict()[k]) for k, a in one.state_dict().items())


def rows(history):
    return [(r.round, r.loss, r.learning_rate, r.scores) for r in history.rounds]


RECIPES = {
    "plain": {},
    "mean weights": {"ema": 0.9},
    "plateau": {"schedule": "plateau", "learning_rate": 0.05},
    "hard places": {"hard": 0.6},
    "everything": {
        "ema": 0.8, "schedule": "plateau", "hard": 0.5, "accumulate": 2, "clip": 0.5, "patience": 4,
    },
}  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("stop_at", [4, 10, 17])
def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path, recipe, stop_at):
    options = FitOptions(**{"rounds": 7, "steps": 3, "batch": 4, "seed": 9} | recipe)
    whole, history, lesson = run(tmp_path / "whole", options)
    with pytest.raises(Stopped):
        run(tmp_path / "cut", options, stop_at=stop_at)
    torch.manual_seed(123)  # whatever happened in between
    resumed, again, _ = run(tmp_path / "cut", options)
    assert same(whole, resumed)
    assert rows(again) == rows(history)
    assert again.best == history.best
    if options.hard:
        assert max(Counter(p.cell for p in lesson.seen).values()) > 2


def test_a_rate_that_was_halved_stays_halved(tmp_path):
    options = FitOptions(rounds=9, steps=1, batch=2, schedule="plateau", learning_rate=0.1)
    scores = [1.0, *[2.0] * 8]
    whole, history, _ = run(tmp_path / "whole", options, scores=list(scores))
    with pytest.raises(Stopped):
        run(tmp_path / "cut", options, scores=list(scores), stop_at=7)
    resumed, again, _ = run(tmp_path / "cut", options, scores=scores[6:])
    assert rows(again) == rows(history)
    assert same(whole, resumed)


def test_a_finished_run_is_not_trained_again(tmp_path):
    options = FitOptions(rounds=2, steps=2, batch=2)
    first, _, _ = run(tmp_path, options)
    second, history, lesson = run(tmp_path, options)
    assert same(first, second)
    assert len(history.rounds) == 2
    assert not lesson.seen


def test_the_best_weights_are_kept(tmp_path):
    options = FitOptions(rounds=5, steps=1, batch=2, schedule="constant")
    states = []
    network = make_network()

    def told(_):
        states.append({k: v.clone() for k, v in network.state_dict().items()})

    _, history, _ = run(tmp_path, options, network=network, told=told, scores=[3, 1, 2, 1, 4])
    assert history.best == 1
    assert all(torch.equal(v, states[1][k]) for k, v in network.state_dict().items())
    assert not torch.equal(states[1]["0.weight"], states[4]["0.weight"])


def test_training_stops_early(tmp_path):
    options = FitOptions(rounds=20, steps=1, batch=2, patience=3)
    _, history, _ = run(tmp_path, options, scores=[5, 4, 3, 6, 7, 8, 0, 0])
    assert len(history.rounds) == 6
    assert history.best == 2


def test_a_plateau_halves_the_rate(tmp_path):
    options = FitOptions(rounds=10, steps=1, batch=2, schedule="plateau", learning_rate=0.1)
    _, history, _ = run(tmp_path, options, scores=[1.0, *[2.0] * 9])
    assert [r.learning_rate for r in history.rounds] == pytest.approx(
        [0.1] * 4 + [0.05] * 3 + [0.025] * 3
    )


def test_the_cosine_rises_and_falls(tmp_path):
    options = FitOptions(rounds=20, steps=1, batch=2, learning_rate=1.0)
    _, history, _ = run(tmp_path, options)
    rates = [r.learning_rate for r in history.rounds]
    assert rates[:2] == pytest.approx([0.5, 1.0])
    assert rates[11] == pytest.approx(0.5)
    assert all(a >= b for a, b in itertools.pairwise(rates[1:]))
    assert rates[-1] < 0.01


def test_accumulated_batches_weigh_as_one(tmp_path):
    """Without dropout and batch norm, two batches of 2 change weights as one of 4."""
    ends = []
    for batch, accumulate in ((4, 1), (2, 2)):
        torch.manual_seed(0)
        network = nn.Conv2d(1, 2, 3, padding=1)
        options = FitOptions(rounds=1, steps=3, batch=batch, accumulate=accumulate)
        lesson = MadeLesson(options)
        lesson.tensors = lambda b, _: (
            (torch.from_numpy(b.inputs[0])[:, None],),
            torch.from_numpy(b.labels).long(),
        )
        fit(network, lesson, options, device=CPU, folder=tmp_path / str(batch), key="")
        ends.append(network.weight.detach())
    torch.testing.assert_close(*ends)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_round(tmp_path, ema):
    options = FitOptions(rounds=5, steps=3, batch=2, ema=ema)
    good, _, _ = run(tmp_path / "good", options)
    with pytest.raises(
        TrainingError,
        match="loss became nan at step 8, in round 3; the checkpoint of round 2 stays; lower",
    ):
        run(tmp_path / "bad", options, spoil_at=8)
    resumed, history, _ = run(tmp_path / "bad", options)  # what spoiled it is gone
    assert len(history.rounds) == 5
    assert same(good, resumed)


def test_before_the_first_round_there_is_no_checkpoint(tmp_path):
    with pytest.raises(TrainingError, match="no checkpoint was written"):
        run(tmp_path, FitOptions(rounds=2, steps=2, batch=2), spoil_at=1)
    assert not (tmp_path / FILE).exists()


def test_weights_spoiled_by_the_last_step_are_not_kept(tmp_path, monkeypatch):
    """The loss before the step is fine, and without a validation nobody would notice."""
    monkeypatch.setattr(MadeLesson, "validate", lambda *_: None)
    network, steps = make_network(), []

    def spoil(*_):
        steps.append(0)
        if len(steps) == 4:
            network[0].bias.data.fill_(float("nan"))

    network[0].weight.register_post_accumulate_grad_hook(spoil)
    with pytest.raises(TrainingError, match=r"weights are no numbers any more, in round 2"):
        run(tmp_path, FitOptions(rounds=3, steps=2, batch=2), network=network)
    kept = torch.load(tmp_path / FILE, weights_only=True)
    assert len(kept["rounds"]) == 1
    assert all(v.isfinite().all() for v in kept["network"].values())


def test_a_validation_that_is_no_number_stops(tmp_path):
    with pytest.raises(TrainingError, match="validation gave"):
        run(tmp_path, FitOptions(rounds=3, steps=1, batch=2), scores=[1.0, float("nan"), 1.0])


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    options = FitOptions(rounds=1, steps=1, batch=2)
    run(tmp_path, options)
    with pytest.raises(TrainingError, match="another network, data set or recipe"):
        run(tmp_path, options, key="other")


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    options = FitOptions(rounds=1, steps=1, batch=2)
    run(tmp_path, options)
    with pytest.raises(TrainingError, match="the checkpoint is of another network"):
        run(tmp_path, options, network=make_network(width=6))


DAMAGE = {
    "empty": lambda b: b"",
    "cut": lambda b: b[: len(b) // 2],
    "cut at the end": lambda b: b[:-40],
    "text": lambda b: b"hello",
    "noise": lambda b: np.random.default_rng(0).bytes(4000),
    "other pickle": lambda b: b"\x80\x04K\x01.",
    "a bit in the weights": lambda b: (
        b[: len(b) // 2] + bytes([b[len(b) // 2] ^ 1]) + b[len(b) // 2 + 1 :]
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    options = FitOptions(rounds=1, steps=1, batch=2)
    run(tmp_path, options, network=make_network(width=64))
    path = tmp_path / FILE
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(TrainingError, match="no usable checkpoint"):
        run(tmp_path, options, network=make_network(width=64))


def test_a_checkpoint_that_holds_code_is_refused(tmp_path):
    torch.save({"key": print}, tmp_path / FILE)
    with pytest.raises(TrainingError, match="no usable checkpoint"):
        run(tmp_path, FitOptions(rounds=1, steps=1, batch=2))


def test_the_mean_of_the_weights_is_what_is_kept(tmp_path):
    options = FitOptions(rounds=1, steps=2, batch=2, ema=0.99, schedule="constant")
    network, weights = make_network(), []
    original = MadeLesson.tensors

    class Watching(MadeLesson):
        def tensors(self, batch, seed):
            weights.append(network[0].weight.detach().clone())
            return original(self, batch, seed)

    lesson = Watching(options)
    fit(network, lesson, options, device=CPU, folder=tmp_path, key="k")
    last = torch.load(tmp_path / FILE, weights_only=True)["network"]["0.weight"]
    mean = weights[0]
    for number, new in enumerate((weights[1], last)):
        decay = (1 + number) / (10 + number)
        mean = decay * mean + (1 - decay) * new
    torch.testing.assert_close(network[0].weight.detach(), mean)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rounds": 0}, {"batch": 0}, {"accumulate": 0}, {"learning_rate": 0.0}, {"ema": 1.0},
        {"learning_rate": float("nan")}, {"hard": 1.0}, {"schedule": "step"}, {"seed": -1},
        {"patience": -1}, {"clip": -1.0},
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(TrainingError, match="fit: needed"):
        FitOptions(**wrong)
