"""Frozen features of patch classifiers."""

import pytest
import torch

from wsiseg.errors import TrainingError
from wsiseg.model.networks import build, features


@pytest.mark.parametrize("channels", [(3,), (3, 1)])
@pytest.mark.parametrize(
    ("name", "length"),
    [("wsiseg.mobilenet_v2", 1280), ("monai.resnet18", 512), ("monai.efficientnet-b0", 1280),
     ("monai.densenet121", 1024)],
)  # fmt: skip
def test_features_enter_the_last_layer(name, length, channels):
    network = build(name, channels=channels, classes=3).eval()
    seen = []
    layers = [m for m in network.modules() if isinstance(m, torch.nn.Linear)]
    layer = layers[0] if name == "wsiseg.mobilenet_v2" else layers[-1]
    layer.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    inputs = [torch.rand(2, c, 64, 64) for c in channels]
    with torch.no_grad():
        network(*inputs)
    found = features(network)(*inputs)
    assert found.shape == (2, length)
    torch.testing.assert_close(found, seen[0])


def test_features_stay_frozen_while_the_network_learns():
    network = build("wsiseg.mobilenet_v2", channels=(3,), classes=2, arguments={"width": 0.35})
    frozen, x = features(network), torch.rand(2, 3, 32, 32)
    before = frozen(x)
    for parameter in network.parameters():
        parameter.data.zero_()
    frozen.train()  # as inside a module that is trained
    torch.testing.assert_close(frozen(x), before, rtol=0, atol=0)
    assert not any(p.requires_grad for p in frozen.parameters())


def test_a_segmenter_has_no_features():
    with pytest.raises(TrainingError, match="no linear layer"):
        features(build("wsiseg.unet", channels=(3,), classes=2, arguments={"widths": [4]}))
