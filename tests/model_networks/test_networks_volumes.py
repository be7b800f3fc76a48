"""Networks for volumes: shapes, published sizes, ONNX export, learning, names of weights."""

import importlib.util
import json
from typing import Any

import numpy as np
import pytest
import torch

from wsiseg.errors import ModelCardError
from wsiseg.model.card import StageSpec
from wsiseg.model.export import export_onnx
from wsiseg.model.networks import architectures, build
from wsiseg.model.onnx_backend import OnnxNetwork
from wsiseg.model.preprocessed import PreprocessedNetwork

WIDTHS = {"widths": [4, 8], "bottleneck": 8}
STAGES: dict[str, Any] = {
    "features_per_stage": [4, 8, 8],
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "n_conv_per_stage": [2, 1, 2],
    "n_conv_per_stage_decoder": [1, 2],
}
SLICES: dict[str, Any] = {
    **STAGES,
    "kernel_sizes": [[3, 3]] * 3,
    "strides": [[1, 1], [2, 2], [2, 2]],
}
OURS: dict[str, dict[str, Any]] = {
    "wsiseg.unet3d": WIDTHS,
    "wsiseg.residual_unet3d": WIDTHS,
    "wsiseg.agu_net3d": WIDTHS,
    "wsiseg.pls_net": {"widths": [4, 8], "blocks": [1, 1], "growth": 2},
    "wsiseg.nnunet": STAGES,
    "wsiseg.nnunet_resenc": STAGES,
}
MONAIS: dict[str, dict[str, Any]] = {
    "monai.attention_unet": {"channels": [4, 8], "strides": [2]},
    "monai.basic_unet": {"features": [4, 4, 8, 8, 8, 4]},
    "monai.basic_unet_plus_plus": {"features": [4, 4, 8, 8, 8, 4]},
    "monai.dynunet": {
        "kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2],
        "filters": [4, 4, 8],
    },
    "monai.mednext": {"init_filters": 4, "kernel_size": 3},
    "monai.segresnet": {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
    "monai.segresnet_ds": {"init_filters": 8, "blocks_down": [1, 1]},
    "monai.swin_unetr": {"feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]},
    "monai.unet": {"channels": [4, 8], "strides": [2], "num_res_units": 1},
    "monai.unetr": {
        "img_size": [32, 32, 64], "hidden_size": 24, "mlp_dim": 24, "num_heads": 2,
        "feature_size": 4,
    },
    "monai.vnet": {},
}  # fmt: skip


def made(name: str, channels: tuple[int, ...] = (2,), classes: int = 3) -> torch.nn.Module:
    torch.manual_seed(0)
    return build(name, channels=channels, classes=classes, arguments=(OURS | MONAIS)[name])


@pytest.mark.parametrize("name", [*OURS, *MONAIS])
def test_volumes_in_logits_per_voxel_out(name):
    size = (32, 32, 64) if name.startswith("monai.") else (8, 12, 16)
    with torch.inference_mode():
        assert made(name).eval()(torch.rand(1, 2, *size)).shape == (1, 3, *size)
    assert name in architectures()


@pytest.mark.parametrize(("name", "outputs"), [("agu_net3d", 2), ("nnunet", 2), ("unet3d", 1)])
def test_training_gives_a_tuple_where_there_are_several_outputs(name, outputs):
    found = made(f"wsiseg.{name}").train()(torch.rand(2, 2, 8, 8, 8))
    found = found if isinstance(found, tuple) else (found,)
    assert len(found) == outputs
    assert found[0].shape == (2, 3, 8, 8, 8)
    sum(y.square().mean() for y in found).backward()


@pytest.mark.parametrize("name", OURS)
def test_several_inputs_are_joined(name):
    inputs = [torch.rand(1, c, 8, 8, 8) for c in (1, 2)]
    with torch.inference_mode():
        assert made(name, (1, 2)).eval()(*inputs).shape == (1, 3, 8, 8, 8)


@pytest.mark.parametrize(
    ("name", "arguments", "channels", "millions"),
    [
        ("wsiseg.pls_net", {}, 1, 0.25),  # Lee et al., Table III
        ("monai.segresnet", {"init_filters": 16}, 4, 4.7),  # MONAI's brats_mri_segmentation
        ("monai.unetr", {"img_size": [96, 96, 96]}, 1, 92.58),  # Hatamizadeh et al., Table 3
        ("monai.swin_unetr", {"feature_size": 48}, 4, 61.98),  # Hatamizadeh et al. 2022
    ],
)
def test_sizes_are_the_published(name, arguments, channels, millions):
    with torch.device("cpu" if "swin" in name else "meta"):
        network = build(name, channels=(channels,), classes=3, arguments=arguments)
    count = sum(p.numel() for p in network.parameters())
    assert count == pytest.approx(millions * 1e6, rel=0.02)


@pytest.mark.parametrize("name", [*OURS, "monai.segresnet"])
def test_a_few_steps_learn_a_ball(name):
    network = made(name, (1,), 2).train()
    grid = torch.stack(torch.meshgrid(*[torch.arange(16.0) - 8] * 3, indexing="ij"))
    target = (grid.square().sum(0) < 25).long()[None]
    x = target[:, None] + 0.3 * torch.randn(1, 1, 16, 16, 16)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.03)
    losses = []
    for _ in range(20):
        out = network(x)
        logits = out[0] if isinstance(out, tuple) else out
        loss = torch.nn.functional.cross_entropy(logits, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def stage(name: str, patch: tuple[int, ...]) -> StageSpec:
    spec = {"spacing_um": [1.0] * 3, "from": "slide", "channels": ["a", "b"], "patch": patch}
    weights = {"file": "w.onnx", "sha256": "0" * 64, "architecture": name}
    return StageSpec.model_validate_json(
        json.dumps(
            {"name": "s", "kind": "segmenter", "inputs": [spec], "output": {"name": "o"},
             "weights": weights}
        )
    )  # fmt: skip


PATCHES = {  # of those that pool four times or more
    "monai.basic_unet": (32, 32, 32),
    "monai.basic_unet_plus_plus": (32, 32, 32),
    "monai.mednext": (32, 32, 32),
    "monai.swin_unetr": (64, 32, 32),
    "monai.unetr": (32, 32, 64),
}
SLOW = {"monai.vnet"}  # has no arguments that make it small


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in (*OURS, *MONAIS)],
)
def test_export_to_onnx_gives_the_values_of_torch(name):
    patch = PATCHES.get(name, (16, 16, 16))
    module = PreprocessedNetwork(made(name).eval(), stage(name, patch)).eval()
    inputs = np.random.default_rng(0).integers(0, 256, (1, *patch, 2), dtype=np.uint8)
    content = export_onnx(module, (inputs,), name=name)  # compares with torch, other batch sizes
    assert OnnxNetwork(content)(inputs).shape == (1, *patch, 3)


def test_a_network_for_images_takes_slices():
    network = build("wsiseg.nnunet", channels=(1,), classes=2, arguments=SLICES).eval()
    x = torch.rand(3, 1, 8, 12)
    with torch.inference_mode():
        torch.testing.assert_close(network(x[:, :, None])[:, :, 0], network(x), rtol=0, atol=0)


# What dynamic-network-architectures 0.4.4 calls its weights, duplicates left out.
PLAIN_KEYS = {
    "encoder.stages.0.0.convs.1.conv.bias": (4,),
    "encoder.stages.0.0.convs.0.conv.weight": (4, 2, 1, 3, 3),
    "encoder.stages.1.0.convs.0.norm.weight": (8,),
    "encoder.stages.2.0.convs.1.conv.weight": (8, 8, 3, 3, 3),
    "decoder.transpconvs.0.weight": (8, 8, 2, 2, 2),
    "decoder.transpconvs.1.weight": (8, 4, 1, 2, 2),
    "decoder.stages.1.convs.1.norm.bias": (4,),
    "decoder.stages.1.convs.0.conv.weight": (4, 8, 1, 3, 3),
    "decoder.seg_layers.0.weight": (3, 8, 1, 1, 1),
    "decoder.seg_layers.1.bias": (3,),
}
RESIDUAL_KEYS = {
    "encoder.stem.convs.0.conv.weight": (4, 2, 1, 3, 3),
    "encoder.stages.0.blocks.1.conv1.conv.weight": (4, 4, 1, 3, 3),
    "encoder.stages.1.blocks.0.skip.1.conv.weight": (8, 4, 1, 1, 1),
    "encoder.stages.1.blocks.0.skip.1.norm.bias": (8,),
    "encoder.stages.2.blocks.1.conv2.norm.weight": (8,),
    "decoder.stages.1.convs.1.conv.weight": (4, 4, 1, 3, 3),
}


@pytest.mark.parametrize(
    ("name", "keys", "count"),
    [("wsiseg.nnunet", PLAIN_KEYS, 40), ("wsiseg.nnunet_resenc", RESIDUAL_KEYS, 67)],
)
def test_weights_have_the_names_of_nnunet(name, keys, count):
    state = {key: tuple(value.shape) for key, value in made(name).state_dict().items()}
    assert {key: state.get(key) for key in keys} == keys
    assert len(state) == count


@pytest.mark.skipif(
    importlib.util.find_spec("dynamic_network_architectures") is None,
    reason="dynamic-network-architectures is not installed",
)
@pytest.mark.parametrize("arguments", [STAGES, SLICES])
@pytest.mark.parametrize("residual", [False, True])
def test_values_are_those_of_the_original(arguments, residual):
    from dynamic_network_architectures.architectures import unet

    dims = len(arguments["kernel_sizes"][0])
    given = dict(arguments)
    if residual:
        given["n_blocks_per_stage"] = given.pop("n_conv_per_stage")
    torch.manual_seed(0)
    kind = unet.ResidualEncoderUNet if residual else unet.PlainConvUNet
    original = kind(
        2, 3, given.pop("features_per_stage"),
        conv_op=getattr(torch.nn, f"Conv{dims}d"), num_classes=3, conv_bias=True,
        norm_op=getattr(torch.nn, f"InstanceNorm{dims}d"),
        norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=torch.nn.LeakyReLU, **given,
    ).eval()  # fmt: skip
    name = "wsiseg.nnunet_resenc" if residual else "wsiseg.nnunet"
    network = build(name, channels=(2,), classes=3, arguments=arguments).eval()
    once = {
        key: value
        for key, value in original.state_dict().items()
        if ".all_modules." not in key and not key.startswith("decoder.encoder.")
    }
    network.load_state_dict(once)
    x = torch.rand(2, 2, *[16] * dims)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), original(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("wsiseg.unet3d", {**WIDTHS, "pools": [[2, 2]]}, "pools"),
        ("wsiseg.unet3d", {**WIDTHS, "norm": "renorm"}, "norm must be one of batch, instance"),
        ("wsiseg.pls_net", {"widths": [4], "blocks": [1, 1]}, "blocks"),
        ("wsiseg.nnunet", {**STAGES, "strides": [[1, 1, 1]]}, "as many kernel_sizes"),
        ("wsiseg.nnunet", {**STAGES, "norm": "layer"}, "no norm 'layer'"),
        ("wsiseg.nnunet", {**STAGES, "stem_channels": 4}, "residual encoder"),
        ("monai.segresnet", {"colour": 1}, "colour"),
    ],
)
def test_wrong_arguments_are_named(name, arguments, says):
    with pytest.raises(ModelCardError, match=says):
        build(name, channels=(1,), classes=2, arguments=arguments)
