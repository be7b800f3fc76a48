"""Segmenters beyond the plain U-Net: shapes, auxiliary outputs, what they see, ONNX export."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch

from wsiseg.errors import ModelCardError
from wsiseg.model.card import StageSpec
from wsiseg.model.export import export_onnx
from wsiseg.model.networks import architectures, build, receptive_field_radius
from wsiseg.model.networks.attention import (
    AttentionGate,
    ChannelAttention,
    PositionAttention,
    SqueezeExcite,
)
from wsiseg.model.networks.double_unet import SpatialPyramid
from wsiseg.model.onnx_backend import OnnxNetwork
from wsiseg.model.preprocessed import PreprocessedNetwork

TINY = {"widths": [4, 8, 8], "bottleneck": 8}
STRIDES = {  # of the outputs in training, for three levels
    "wsiseg.agu_net": (1, 2, 4),
    "wsiseg.dagu_net": (1, 2, 4),
    "wsiseg.double_unet": (1, 1),
    "wsiseg.unet_plus_plus": (1, 1, 1),
}


def tiny(name, channels=(3, 1), classes=3, **arguments):
    torch.manual_seed(0)
    return build(name, channels=channels, classes=classes, arguments={**TINY, **arguments})


def inputs(*size, count=2):
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.rand(count, c, *size, generator=generator) for c in (3, 1))


@pytest.mark.parametrize("name", STRIDES)
def test_training_gives_every_output_and_evaluation_the_finest(name):
    network = tiny(name)
    outputs = network.train()(*inputs(16, 24))
    assert [tuple(o.shape) for o in outputs] == [(2, 3, 16 // s, 24 // s) for s in STRIDES[name]]
    with torch.inference_mode():
        assert network.eval()(*inputs(16, 24)).shape == (2, 3, 16, 24)


@pytest.mark.parametrize("name", STRIDES)
def test_every_weight_learns(name):
    network = tiny(name)
    sum(o.square().mean() for o in network(*inputs(16, 16))).backward()
    without = [n for n, p in network.named_parameters() if p.grad is None]
    assert not without


@pytest.mark.parametrize("name", STRIDES)
def test_the_evaluated_output_is_the_first_of_training(name):
    network = tiny(name).eval()
    with torch.inference_mode():
        alone = network(*inputs(16, 16))
        network.training = True  # the network alone: its layers stay in evaluation
        torch.testing.assert_close(network(*inputs(16, 16))[0], alone, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("wsiseg.agu_net", 2.0),
        ("wsiseg.dagu_net", 2.0),
        ("wsiseg.double_unet", 7.8),
        ("wsiseg.unet_plus_plus", 9.04),  # Table 2 of Zhou et al., with other upsampling
    ],
)
def test_sizes_at_default_widths(name, millions):
    network = build(name, channels=(3,), classes=2)
    count = sum(p.numel() for p in network.parameters())
    assert count == pytest.approx(millions * 1e6, rel=0.02)
    assert name in architectures()


def test_dagu_net_starts_as_twice_its_bottleneck_and_adds_attention():
    """With gamma 0 both attentions pass their input on; their sum doubles it."""
    agu, dagu = tiny("wsiseg.agu_net").eval(), tiny("wsiseg.dagu_net").eval()
    dagu.load_state_dict(agu.state_dict(), strict=False)
    extra = set(dagu.state_dict()) - set(agu.state_dict())
    assert all(name.startswith("attention.") for name in extra)
    agu.encoder[-1].register_forward_hook(lambda module, args, out: 2 * out)
    with torch.inference_mode():
        torch.testing.assert_close(dagu(*inputs(16, 16)), agu(*inputs(16, 16)))


def test_position_attention_by_hand():
    torch.manual_seed(0)
    layer = PositionAttention(16)
    torch.nn.init.ones_(layer.gamma)
    x = torch.rand(1, 16, 2, 3)
    with torch.no_grad():
        q, k, v = (f(x)[0].reshape(-1, 6).numpy() for f in (layer.query, layer.key, layer.value))
        found = layer(x)[0].reshape(16, 6).numpy()
    assert q.shape == (2, 6)  # an eighth of the channels
    for i in range(6):
        weights = np.exp([q[:, i] @ k[:, j] for j in range(6)])
        gathered = sum(w * v[:, j] for j, w in enumerate(weights / weights.sum()))
        expected = x[0].reshape(16, 6)[:, i].numpy() + gathered
        np.testing.assert_allclose(found[:, i], expected, atol=1e-5)


def test_channel_attention_by_hand():
    layer = ChannelAttention()
    torch.nn.init.ones_(layer.gamma)
    x = torch.rand(1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    flat = x[0].reshape(4, 4).double().numpy()
    found = layer(x).detach()[0].reshape(4, 4).numpy()
    for a in range(4):
        energy = np.array([flat[a] @ flat[b] for b in range(4)])
        weights = np.exp(energy.max() - energy)
        expected = flat[a] + (weights / weights.sum()) @ flat
        np.testing.assert_allclose(found[a], expected, atol=1e-5)


def test_a_closed_gate_lets_nothing_pass_and_an_open_one_everything():
    gate = AttentionGate(4, 6)
    skip, below = torch.rand(1, 4, 8, 8), torch.rand(1, 6, 4, 4)
    with torch.no_grad():
        gate.weigh.weight.zero_()
        for bias, expected in ((-100.0, torch.zeros_like(skip)), (100.0, skip)):
            gate.weigh.bias.fill_(bias)
            torch.testing.assert_close(gate(skip, below), expected)


def test_squeeze_and_excite_reduces_by_the_ratio_and_never_amplifies():
    layer, x = SqueezeExcite(16, 8), torch.rand(2, 16, 4, 4)
    assert layer.weigh[0].weight.shape[:2] == (2, 16)
    share = (layer(x) / x).detach()
    assert float(share.min()) > 0
    assert float(share.max()) < 1
    assert float(share.std(dim=(2, 3)).max()) < 1e-6  # one number per channel


def test_spatial_pyramid_keeps_the_size_and_trains_on_a_single_image():
    pyramid = SpatialPyramid(8, 4, "batch")
    assert pyramid(torch.rand(1, 8, 6, 5)).shape == (1, 4, 6, 5)


@pytest.mark.parametrize("name", ["wsiseg.agu_net", "wsiseg.unet_plus_plus"])
def test_a_halo_of_the_radius_makes_tiles_equal_the_whole(name):
    network, cell = tiny(name, norm="renorm").eval(), 8
    halo = -(-receptive_field_radius(3) // cell) * cell
    image, heatmap = inputs(2 * halo + 64, 2 * halo + 64, count=1)
    cut = (..., slice(0, 2 * halo + 16), slice(16, 2 * halo + 32))
    with torch.inference_mode():
        whole = network(image, heatmap)[..., halo : halo + 16, halo + 16 : halo + 32]
        tile = network(image[cut], heatmap[cut])[..., halo:-halo, halo:-halo]
    torch.testing.assert_close(tile, whole, atol=1e-6, rtol=0)


def stage_of(name):
    grid = {"spacing_um": [2.0, 2.0], "patch": [16, 24]}
    steps = [{"name": "scale", "divide_by": 255}]
    image = {"from": "slide", "channels": ["R", "G", "B"], "steps": steps, **grid}
    stage = {
        "name": "refine",
        "kind": "segmenter",
        "inputs": [image, {"from": "heatmap", "channels": ["Tumor"], **grid}],
        "output": {"name": "mask", "halo": [0, 0]},
        "weights": {"file": "a.safetensors", "sha256": "0" * 64, "architecture": name},
    }
    return StageSpec.model_validate_json(json.dumps(stage))


@pytest.mark.parametrize("norm", ["batch", "renorm"])
@pytest.mark.parametrize("name", [*STRIDES, "wsiseg.h2g_unet"])
def test_export_equals_torch(name, norm):
    network = tiny(name, norm=norm, dropout=0.1)
    for _ in range(3):  # running statistics that are not the initial ones
        network.train()(*inputs(16, 24))
    for key, parameter in network.named_parameters():
        parameter.data.add_(0.5 if key.endswith("gamma") else 0.0)
    module = PreprocessedNetwork(network.eval(), stage_of(name)).eval()
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
    heatmap = rng.random((2, 16, 24, 1), dtype=np.float32)
    graph = OnnxNetwork(export_onnx(module, (image, heatmap), name=name))
    image, heatmap = image[:1, ::-1].copy(), heatmap[:1, ::-1].copy()
    with torch.inference_mode():
        wanted = module(torch.from_numpy(image), torch.from_numpy(heatmap)).numpy()
    np.testing.assert_allclose(graph(image, heatmap), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", [*STRIDES, "wsiseg.unet"])
def test_weights_survive_safetensors(name):
    network, other = tiny(name), tiny(name)
    content = safetensors.torch.save(network.state_dict())
    other.load_state_dict(safetensors.torch.load(content))
    with torch.inference_mode():
        pair = (n.eval()(*inputs(16, 16)) for n in (network, other))
        torch.testing.assert_close(*pair, rtol=0, atol=0)


@pytest.mark.parametrize("name", STRIDES)
@pytest.mark.parametrize(
    ("arguments", "says"),
    [({"widths": []}, "at least one level"), ({"norm": "group"}, "norm must be one of batch, re")],
)
def test_wrong_arguments_are_named(name, arguments, says):
    with pytest.raises(ModelCardError, match=says):
        tiny(name, **arguments)


def recorded(module):
    """Return the list to which a module's inputs and output are added with every pass."""
    seen = []
    module.register_forward_hook(lambda layer, args, out: seen.append((args, out)))
    return seen


def test_unet_plus_plus_joins_every_node_before_it_and_the_one_below():
    network = tiny("wsiseg.unet_plus_plus").eval()
    first = recorded(network.encoder[0])
    row = [recorded(node) for node in network.nodes[0]]
    below = [recorded(network.encoder[1]), *(recorded(node) for node in network.nodes[1])]
    with torch.inference_mode():
        network(*inputs(16, 16))
    outputs = [first[0][1], *(node[0][1] for node in row)]
    for j, node in enumerate(row):
        lower = below[j][0][1].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        expected = torch.cat([*outputs[: j + 1], lower], dim=1)
        torch.testing.assert_close(node[0][0][0], expected, rtol=0, atol=0)


def test_the_second_u_net_sees_the_foreground_of_the_first_and_its_skips():
    network = tiny("wsiseg.double_unet").eval()
    first, second = recorded(network.first), recorded(network.second)
    last = recorded(network.second.decoder[-1])
    with torch.inference_mode():
        network(*inputs(16, 16))
    logits, skips = first[0][1]
    image = torch.cat(inputs(16, 16), dim=1)
    expected = image * logits.softmax(dim=1)[:, 1:].sum(dim=1, keepdim=True)
    torch.testing.assert_close(second[0][0][0], expected)
    own = second[0][1][1]
    joined = last[0][0][0]
    torch.testing.assert_close(joined[:, -8:], torch.cat([own[0], skips[0]], dim=1))
