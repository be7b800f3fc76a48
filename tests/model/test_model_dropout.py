"""Dropout left on: masks that can be had again, and means that are right; views on any backend."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_model import PATCH, check_inputs, content, networks, noise, require_openvino
from torch import nn

from wsiseg.engine.sampling import SampledPredictor, sampled_model, turn, turn_back, views_of
from wsiseg.engine.uncertainty import StageLayers
from wsiseg.errors import ModelError, UsageError
from wsiseg.model import load_model
from wsiseg.model import networks as networks_module
from wsiseg.model.activation import IDENTITY, activate
from wsiseg.model.dropout import dropout_predictors, require_dropout
from wsiseg.model.predictor import FunctionPredictor
from wsiseg.model.torch_dropout import SeededDropout, SeededNetwork
from wsiseg.options import UncertaintyOptions

BACKENDS = ["torch", "onnxruntime", "openvino"]
P = 0.25


class Dropping(nn.Module):
    """A linear network with dropout in it, so that means are known."""

    def __init__(self, dropout: nn.Module | None = None) -> None:
        super().__init__()
        self.wide = nn.Conv2d(4, 6, 3, padding=1)
        self.dropout = dropout or nn.Dropout2d(P)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(self.wide(torch.cat(inputs, 1))))


def dropping(dropout: nn.Module | None = None) -> dict[str, nn.Module]:
    torch.manual_seed(1)
    return {"patches": networks()["patches"], "refine": Dropping(dropout)}


@pytest.fixture
def with_dropout(write, monkeypatch):
    """Write the package of a model whose last network has the dropout given."""
    build = networks_module.build

    def make(dropout: nn.Module | None = None) -> Path:
        def built(architecture, **options):
            if architecture == "wsiseg.tiny_dropping":
                return Dropping(dropout)
            return build(architecture, **options)

        monkeypatch.setattr(networks_module, "build", built)
        card = content()
        card["stages"][1]["weights"]["architecture"] = "wsiseg.tiny_dropping"
        return write(card, networks=dropping(dropout), overwrite=True)

    return make


def sample(package, number=0, seed=0, count=1, inputs=None):
    model = load_model(package, backend="onnxruntime", device="cpu")
    predictors = dropout_predictors(model, max(count, number + 1), seed)
    return predictors[number](*(inputs or check_inputs()["refine"]))


def test_a_sample_is_told_by_its_seed_its_number_and_the_patch(with_dropout):
    package = with_dropout()
    first = sample(package, seed=3)
    np.testing.assert_array_equal(sample(package, seed=3), first)
    for other in (sample(package, seed=4), sample(package, seed=3, number=1)):
        assert np.abs(other - first).max() > 1e-3
    pixels, heat = check_inputs()["refine"]
    backwards = sample(package, seed=3, inputs=(pixels[::-1].copy(), heat[::-1].copy()))
    np.testing.assert_allclose(backwards[::-1], first, atol=1e-6)
    another = sample(package, seed=3, inputs=(pixels, heat[::-1].copy()))
    assert np.abs(another - first).max() > 1e-3


def test_threads_and_batches_do_not_change_a_sample(with_dropout):
    model = load_model(with_dropout(), backend="onnxruntime", device="cpu")
    (predictor,) = dropout_predictors(model, 1, 0)
    pixels, heat = noise(6, *PATCH, 3), np.random.default_rng(0).random((6, *PATCH, 1), np.float32)
    whole = predictor(pixels, heat)
    with ThreadPoolExecutor(3) as pool:
        parts = list(pool.map(lambda i: predictor(pixels[i : i + 2], heat[i : i + 2]), (0, 2, 4)))
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)
    as_told = predictor.for_workers(2, 1)(pixels, heat)
    np.testing.assert_allclose(as_told, whole, atol=1e-6)  # rounded as threads share it


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout2d])
def test_the_mean_of_samples_approaches_that_without_dropout(with_dropout, kind):
    """The network is linear, so that is what it must approach; and the variance is known."""
    package = with_dropout(kind(P))
    model = load_model(package, backend="onnxruntime", device="cpu")
    inputs = check_inputs()["refine"]
    count = 300
    found = np.array([one(*inputs) for one in dropout_predictors(model, count, 0)], np.float64)
    expected = model.predictors[1](*inputs)
    network = dropping()["refine"]
    image = torch.from_numpy(
        np.concatenate([inputs[0] / np.float32(255), inputs[1]], -1).transpose(0, 3, 1, 2)
    )
    with torch.no_grad():
        units = network.wide(image)  # each is dropped alone
        weight = network.head.weight[:, :, 0, 0]
        spread = torch.einsum("kc,ncyx->nyxk", weight**2, units**2) * P / (1 - P)
    variance = spread.numpy()
    error = (found.mean(axis=0) - expected) / np.sqrt(variance / count)
    assert np.abs(error).max() < 5
    np.testing.assert_allclose(found.var(axis=0) / variance, 1, atol=0.6)
    assert (found.var(axis=0) / variance).mean() == pytest.approx(1, abs=0.1)


def test_whole_channels_are_dropped_or_kept():
    dropout = SeededNetwork(nn.Sequential(nn.Dropout2d(0.5)))
    assert dropout.dropouts == 1
    x = torch.ones(3, 8, 4, 5)
    found = dropout(x, torch.tensor([1, 2, 1]))
    assert set(found.unique().tolist()) == {0.0, 2.0}
    assert (found == found[:, :, :1, :1]).all()
    assert (found[0] == found[2]).all()
    assert (found[0] != found[1]).any()
    single = SeededNetwork(nn.Sequential(nn.Dropout(0.5)))(x, torch.tensor([1, 2, 1]))
    assert (single != single[:, :, :1, :1]).any()


def test_windows_of_a_patch_are_the_patchs_own():
    """Networks of windows put several rows per patch into a batch."""
    network = SeededNetwork(nn.Sequential(nn.Flatten(0, 1), nn.Dropout(0.5)))
    x = torch.ones(2, 4, 6)
    both = network(x, torch.tensor([5, 6]))
    alone = network(x[:1], torch.tensor([5]))
    assert (both[:4] == alone).all()
    with pytest.raises(ModelError, match="of 3 rows in a batch of 2 patches"):
        SeededNetwork(nn.Sequential(Odd(), nn.Dropout(0.5)))(x, torch.tensor([5, 6]))


class Odd(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ones(3, 1)


def test_everything_may_be_dropped():
    network = SeededNetwork(nn.Sequential(nn.Dropout(1.0)))
    assert network(torch.ones(2, 3), torch.tensor([1, 2])).tolist() == [[0.0] * 3] * 2


def test_a_network_without_active_dropout_is_refused(package, with_dropout):
    none = r"tiny: layer 'dropout' needs a network with dropout.*none in stage 'refine'"
    for folder in (package, with_dropout(nn.Dropout(0.0))):
        with pytest.raises(ModelError, match=none):
            require_dropout(folder)
        with pytest.raises(ModelError, match=none):
            dropout_predictors(load_model(folder, backend="onnxruntime"), 2, 0)
    require_dropout(with_dropout())
    with pytest.raises(ModelError, match="AlphaDropout cannot be sampled"):
        require_dropout(with_dropout(nn.AlphaDropout(0.5)))


def test_onnx_graphs_have_lost_their_dropout(tmp_path):
    from wsiseg.testing.models import make_colour_model

    with pytest.raises(ModelError, match="'refine': is an ONNX graph, which has lost its dropout"):
        require_dropout(make_colour_model(tmp_path / "colour"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("stage", [0, 1])
def test_views_are_averaged_on_any_backend(with_dropout, backend, stage):
    if backend == "openvino":
        require_openvino()
    model = load_model(with_dropout(), backend=backend, device="cpu", threads=1)
    options = UncertaintyOptions(layers=("tta",), tta_views=4)
    layers = sampled_model(model, options).predictors[1]._layers
    last, spec = model.predictors[stage], model.card.stages[stage]
    if stage == 0:  # as if it were the last
        layers = replace(layers, dense=False)
    inputs = check_inputs()[spec.name]
    predictor = SampledPredictor(last, layers, scaling=IDENTITY, activation="softmax")
    turns = [lambda a: a, lambda a: a[:, ::-1], lambda a: a[:, ::-1, ::-1], lambda a: a[:, :, ::-1]]
    each = []
    for there in turns:  # each of these is its own way back
        answer = activate(last(*(np.ascontiguousarray(there(a)) for a in inputs)), "softmax")
        each.append(there(answer) if stage else answer)
    for found in (
        predictor(*inputs),
        predictor.for_workers(1, 1)(*inputs),
        *predictor.stream([inputs]),
    ):
        assert found.shape == (*each[0].shape[:-1], 3)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found[..., :2], np.mean(each, axis=0), atol=1e-5)
        np.testing.assert_allclose(found[..., 2], np.var(each, axis=0)[..., 1], atol=1e-5)
    if stage:
        assert found[..., 2].max() > 1e-4


def test_dropout_leaves_the_probabilities_as_they_are(with_dropout):
    model = load_model(with_dropout(), backend="onnxruntime", device="cpu")
    inputs = check_inputs()["refine"]
    plain = activate(model.predictors[1](*inputs), "softmax")
    options = UncertaintyOptions(layers=("dropout",), dropout_samples=5, seed=2)
    (_, predictor) = sampled_model(model, options).predictors
    found = predictor(*inputs)
    np.testing.assert_array_equal(found[..., :2], plain)
    each = [activate(one(*inputs), "softmax") for one in dropout_predictors(model, 5, 2)]
    np.testing.assert_allclose(found[..., 2], np.var(each, axis=0)[..., 1], atol=1e-6)
    both = UncertaintyOptions(layers=("dropout", "tta"), tta_views=4, dropout_samples=5, seed=2)
    views = sampled_model(model, both).predictors[1](*inputs)
    np.testing.assert_array_equal(views[..., 3], found[..., 2])
    predictor.rest()


def test_a_network_that_does_not_care_has_a_variance_of_0():
    pixels = noise(2, 8, 8, 3)
    layers = StageLayers(names=("tta",), shares=(0.5, 0.5), views=8)

    def per_pixel(patches):
        return patches[..., :2].astype(np.float32) / 64

    predictor = FunctionPredictor(per_pixel)
    found = SampledPredictor(predictor, layers, scaling=IDENTITY, activation="softmax")(pixels)
    np.testing.assert_array_equal(found[..., :2], activate(per_pixel(pixels), "softmax"))
    assert set(found[..., 2].ravel()) == {0}


def test_quarter_turns_need_squares(package):
    model = load_model(package, backend="onnxruntime", device="cpu")
    with pytest.raises(UsageError, match=r"8 views need square.*patch \(6, 4\).*--tta-views 4"):
        sampled_model(model, UncertaintyOptions(layers=("tta",)))


def test_the_views_are_the_symmetries_of_the_square():
    patch = np.arange(2 * 5 * 5).reshape(2, 5, 5, 1)
    views = views_of(8)
    seen = {turn(patch, view).tobytes() for view in views}
    assert len(seen) == 8
    assert np.array_equal(turn(patch, views[0]), patch)
    for view in views:
        assert np.array_equal(turn_back(turn(patch, view), view), patch)
        assert turn(patch, view).flags.c_contiguous
    wide = np.zeros((1, 3, 7, 1))
    assert {turn(wide, view).shape for view in views_of(4)} == {wide.shape}


def test_seeded_dropout_needs_its_network():
    with pytest.raises(LookupError):
        SeededDropout(0.5, whole_channels=False)(torch.ones(1, 1))
