"""Architectures by name: shapes, sizes, ONNX export, refusals."""

import importlib.metadata
import importlib.util
import io

import numpy as np
import pytest
import torch

from wsiseg.errors import ModelCardError
from wsiseg.model.networks import architectures, build
from wsiseg.model.networks.registry import H2G_UNET


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def test_h2g_unet_at_full_width_has_the_published_shape():
    network = build("wsiseg.h2g_unet", channels=(3, 1), classes=2)
    assert parameters(network) == pytest.approx(11.6e6, rel=0.01)
    pools = len(H2G_UNET["widths"])
    assert (pools, 1024 // 2**pools) == (8, 4)


def test_mobilenet_v2_features_have_the_published_size():
    # 3,504,872 parameters with the ImageNet head of 1280 * 1000 + 1000: Sandler et al. give 3.4 M.
    network = build("wsiseg.mobilenet_v2", channels=(3,), classes=2)
    assert parameters(network.features) == 3_504_872 - 1_281_000


def test_mobilenet_v2_is_the_torchvision_layout():
    """Strides and widths layer by layer, from Table 2 of the paper."""
    network = build("wsiseg.mobilenet_v2", channels=(3,), classes=2).eval()
    sizes = []
    x = torch.zeros(1, 3, 224, 224)
    for layer in network.features:
        x = layer(x)
        sizes.append((x.shape[1], x.shape[2]))
    table = [(32, 112), (16, 112), (24, 56), (32, 28), (64, 14), (96, 14), (160, 7), (320, 7)]
    assert sorted(set(sizes)) == sorted({*table, (1280, 7)})
    assert [sizes.count(s) for s in table] == [1, 1, 2, 3, 4, 3, 3, 1]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("wsiseg.mobilenet_v2", {"width": 0.35}),
        ("wsiseg.patch_cnn", {"widths": (8, 16)}),
        ("monai.densenet121", {}),
        ("monai.efficientnet-b0", {}),
        ("monai.resnet18", {}),
    ],
)
def test_classifiers_return_logits_per_patch(name, arguments):
    network = build(name, channels=(3,), classes=3, arguments=arguments).eval()
    with torch.inference_mode():
        assert network(torch.rand(2, 3, 64, 64)).shape == (2, 3)


@pytest.mark.parametrize("name", ["wsiseg.h2g_unet", "wsiseg.unet"])
def test_segmenters_return_logits_per_pixel(name):
    arguments = {"widths": [4, 8], "bottleneck": 8}
    network = build(name, channels=(3, 1), classes=3, arguments=arguments).eval()
    with torch.inference_mode():
        out = network(torch.rand(2, 3, 16, 24), torch.rand(2, 1, 16, 24))
    assert out.shape == (2, 3, 16, 24)


@pytest.mark.parametrize("name", ["wsiseg.mobilenet_v2", "wsiseg.patch_cnn", "monai.resnet18"])
def test_several_inputs_are_concatenated(name):
    network = build(name, channels=(3, 1), classes=2).eval()
    with torch.inference_mode():
        out = network(torch.rand(1, 3, 32, 32), torch.rand(1, 1, 32, 32))
    assert out.shape == (1, 2)


def test_spatial_dropout_is_in_the_decoder_alone():
    network = build("wsiseg.h2g_unet", channels=(3, 1), classes=2, arguments={"widths": [4, 8]})
    drops = {name for name, m in network.named_modules() if isinstance(m, torch.nn.Dropout2d)}
    assert len(drops) == 2
    assert all(name.startswith("decoder.") for name in drops)


def test_the_seed_decides_the_weights():
    def weights():
        torch.manual_seed(3)
        return build("wsiseg.mobilenet_v2", channels=(3,), classes=2, arguments={"width": 0.35})

    pairs = zip(weights().parameters(), weights().parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_unknown_architecture_lists_the_known():
    with pytest.raises(ModelCardError, match=r"'wsiseg.mobilnet' is unknown.*wsiseg.mobilenet_v2"):
        build("wsiseg.mobilnet", channels=(3,), classes=2)


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("wsiseg.mobilenet_v2", {"depth": 3}, "depth"),
        ("wsiseg.mobilenet_v2", {"width": 0}, "width must be positive"),
        ("wsiseg.h2g_unet", {"widths": []}, "at least one level"),
        ("monai.resnet18", {"colour": "red"}, "colour"),
    ],
)
def test_wrong_arguments_are_named(name, arguments, says):
    with pytest.raises(ModelCardError, match=says):
        build(name, channels=(3,), classes=2, arguments=arguments)


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_timm_without_the_extra_says_how_to_get_it():
    with pytest.raises(ModelCardError, match=r"pip install 'wsiseg\[timm\]'"):
        build("timm.resnet18", channels=(3,), classes=2)


def test_installed_packages_add_architectures(monkeypatch):
    class Point:
        name = "lab.tiny"

        @staticmethod
        def load():
            return lambda channels, classes, arguments: torch.nn.Conv2d(
                sum(channels), classes, arguments["kernel"]
            )

    monkeypatch.setattr(
        "wsiseg.model.networks.registry.entry_points",
        lambda group: [Point] if group == "wsiseg.architectures" else [],
    )
    network = build("lab.tiny", channels=(3, 1), classes=2, arguments={"kernel": 1})
    assert network.weight.shape == (2, 4, 1, 1)
    assert "lab.tiny" in architectures()


@pytest.mark.parametrize("batch", [1, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "channels", "arguments", "size"),
    [
        ("wsiseg.mobilenet_v2", (3,), {"width": 0.35}, 32),
        ("wsiseg.h2g_unet", (3, 1), {"widths": [4, 8], "bottleneck": 8}, 16),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_export_to_onnx_with_any_batch_size(name, channels, arguments, size, batch):
    import onnxruntime

    network = build(name, channels=channels, classes=2, arguments=arguments).eval()
    example = tuple(torch.rand(2, c, size, size) for c in channels)
    file = io.BytesIO()
    free = torch.export.Dim("batch", min=1)
    dynamic = ({0: free},) if len(channels) == 1 else (({0: free},) * len(channels),)
    program = torch.onnx.export(
        network, example, dynamo=True, dynamic_shapes=dynamic, verbose=False
    )
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    inputs = [torch.rand(batch, c, size, size) for c in channels]
    names = [i.name for i in session.get_inputs()]
    found = session.run(None, {n: x.numpy() for n, x in zip(names, inputs, strict=True)})[0]
    with torch.inference_mode():
        np.testing.assert_allclose(found, network(*inputs).numpy(), atol=1e-5)
