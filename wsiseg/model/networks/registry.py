"""From an architecture's name in a model card to a network."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import torch
from torch import nn

from wsiseg.errors import ModelCardError
from wsiseg.model.networks.agu_net import AGUNet
from wsiseg.model.networks.agu_net3d import AGUNet3D
from wsiseg.model.networks.double_unet import DoubleUNet
from wsiseg.model.networks.fuse import Fuse
from wsiseg.model.networks.mobilenet import MobileNetV2
from wsiseg.model.networks.monai_nets import MONAI_SEGMENTERS, monai_segmenter
from wsiseg.model.networks.nnunet import NnUNet
from wsiseg.model.networks.patch_cnn import PatchCNN
from wsiseg.model.networks.pls_net import PLSNet
from wsiseg.model.networks.unet import UNet
from wsiseg.model.networks.unet3d import UNet3D
from wsiseg.model.networks.unet_plus_plus import UNetPlusPlus

__all__ = ["architectures", "build"]

Arguments = Mapping[str, Any]

Factory = Callable[[Sequence[int], int, Arguments], nn.Module]
"""From the channels of each input, the number of classes and the card's arguments to a network."""

ENTRY_POINTS = "wsiseg.architectures"
"""Installed packages add architectures by an entry point in this group: a `Factory`, whose name is
what cards call it."""

H2G_UNET: Arguments = {
    "widths": (8, 16, 32, 64, 128, 128, 256, 256),
    "bottleneck": 512,
    "dropout": 0.1,
}
"""Refinement network of H2G-Net: eight poolings, 1024 px to 4 px (doi:10.3389/fmed.2022.971873)."""

UNET: Arguments = {"widths": (32, 64, 128, 256), "bottleneck": 512}
"""Also the widths of the UNet++ paper (doi:10.1007/978-3-030-00889-5_1)."""

AGU_NET: Arguments = {"widths": (16, 32, 32, 64, 64, 128), "bottleneck": 128, "dropout": 0.1}
"""Six poolings and six outputs, 1024 px to 16 px, as for breast epithelium
(doi:10.1371/journal.pone.0328033)."""

DOUBLE_UNET: Arguments = {
    "widths": (8, 16, 32, 64, 128, 256),
    "bottleneck": 32,
    "dropout": 0.1,
}
"""Widths 8 to 256 and spatial pyramids of 32 channels, as in H2G-Net; their number is ours."""

UNET_3D: Arguments = {"widths": (32, 64, 128, 256), "bottleneck": 320}
"""Widths of nnU-Net, at most 320 channels (doi:10.1038/s41592-020-01008-z); five levels."""

AGU_NET_3D: Arguments = {"widths": (16, 32, 128, 256), "bottleneck": 256}
"""Whole volumes of up to 256 x 256 x 192 voxels (doi:10.3389/fradi.2021.711514)."""


class Concatenated(nn.Module):
    """A network of one input, fed with several inputs concatenated along the channels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return the network's logits."""
        logits: torch.Tensor = self.network(torch.cat(inputs, dim=1))
        return logits


def architectures() -> tuple[str, ...]:
    """Return the names `build` knows; `timm.<name>` stands for every timm backbone."""
    plugins = (point.name for point in entry_points(group=ENTRY_POINTS))
    return (*sorted({*_FACTORIES, *plugins}), "timm.<name>")


def build(
    architecture: str,
    *,
    channels: Sequence[int],
    classes: int,
    arguments: Arguments | None = None,
) -> nn.Module:
    """Build a network with fresh random weights.

    Parameters
    ----------
    architecture
        One of `architectures()`, or the name of an installed entry point.
    channels
        Channels of each input, in the order of the stage's inputs.
    classes
        Number of logits; 0: the features that would enter the head, where the architecture has
        such (`timm.<name>`).
    arguments
        Keyword arguments of the architecture, from the card.

    Returns
    -------
    torch.nn.Module
        Takes one float32 tensor `(n, channel, h, w)` or `(n, channel, z, y, x)` per input, returns
        logits `(n, class)` or `(n, class, *size)`. A deeply supervised network in training returns
        a tuple instead: these logits, then those of its auxiliary outputs, at `size / s`.

    Raises
    ------
    ModelCardError
        If the architecture is unknown, needs an extra that is not installed, or refuses the
        arguments.
    """
    factory = _find(architecture)
    if classes < 1 and architecture in _FACTORIES:
        raise ModelCardError(
            f"{architecture}: cannot be built without classes: needed timm.<name> or an ONNX graph "
            "for an embedder; correct `weights.architecture`"
        )
    try:
        return factory(tuple(channels), classes, arguments or {})
    except (TypeError, ValueError) as error:
        raise ModelCardError(
            f"{architecture}: cannot be built with channels {tuple(channels)}, {classes} classes "
            f"and arguments {dict(arguments or {})}: {error}; correct `weights.arguments`"
        ) from error


def _find(architecture: str) -> Factory:
    if architecture in _FACTORIES:
        return _FACTORIES[architecture]
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == architecture:
            plugin: Factory = point.load()
            return plugin
    if architecture.startswith("timm."):
        return _timm(architecture.removeprefix("timm."))
    raise ModelCardError(
        f"architecture {architecture!r} is unknown: needed one of {', '.join(architectures())}; "
        "correct `weights.architecture` or install the package that provides it"
    )


def _mobilenet_v2(channels: Sequence[int], classes: int, arguments: Arguments) -> nn.Module:
    return _joined(MobileNetV2(sum(channels), classes, **arguments), channels)


def _patch_cnn(channels: Sequence[int], classes: int, arguments: Arguments) -> nn.Module:
    return _joined(PatchCNN(sum(channels), classes, **arguments), channels)


def _segmenter(network: Callable[..., nn.Module], defaults: Arguments) -> Factory:
    def factory(channels: Sequence[int], classes: int, arguments: Arguments) -> nn.Module:
        return network(channels, classes, **{**defaults, **arguments})

    return factory


def _densenet121(channels: Sequence[int], classes: int, arguments: Arguments) -> nn.Module:
    from monai.networks.nets.densenet import DenseNet121

    network = DenseNet121(
        spatial_dims=2, in_channels=sum(channels), out_channels=classes, **arguments
    )
    return _joined(network, channels)


def _efficientnet(name: str) -> Factory:
    def factory(channels: Sequence[int], classes: int, arguments: Arguments) -> nn.Module:
        from monai.networks.nets.efficientnet import EfficientNetBN

        network = EfficientNetBN(
            name,
            pretrained=False,
            spatial_dims=2,
            in_channels=sum(channels),
            num_classes=classes,
            **arguments,
        )
        return _joined(network, channels)

    return factory


def _resnet(name: str) -> Factory:
    def factory(channels: Sequence[int], classes: int, arguments: Arguments) -> nn.Module:
        from monai.networks.nets import resnet

        network = getattr(resnet, name)(
            spatial_dims=2, n_input_channels=sum(channels), num_classes=classes, **arguments
        )
        return _joined(network, channels)

    return factory


def _timm(name: str) -> Factory:
    try:
        timm = import_module("timm")
    except (ImportError, RuntimeError) as error:  # torchvision without its operators: RuntimeError
        raise ModelCardError(
            f"timm.{name}: needs timm and a torchvision that fits the installed torch: {error}; "
            "pip install 'wsiseg[timm]'"
        ) from error
    if not timm.is_model(name):
        raise ModelCardError(
            f"timm.{name}: timm {timm.__version__} has no such model; see timm.list_models()"
        )

    def factory(channels: Sequence[int], classes: int, arguments: Arguments) -> nn.Module:
        network: nn.Module = timm.create_model(
            name, pretrained=False, in_chans=sum(channels), num_classes=classes, **arguments
        )
        return _joined(network, channels)

    return factory


def _joining(factory: Factory) -> Factory:
    """Return a factory of networks that take any number of inputs."""

    def joined(channels: Sequence[int], classes: int, arguments: Arguments) -> nn.Module:
        return _joined(factory(channels, classes, arguments), channels)

    return joined


def _joined(network: nn.Module, channels: Sequence[int]) -> nn.Module:
    return network if len(channels) == 1 else Concatenated(network)


_FACTORIES: dict[str, Factory] = {
    "wsiseg.mobilenet_v2": _mobilenet_v2,
    "wsiseg.patch_cnn": _patch_cnn,
    "wsiseg.h2g_unet": _segmenter(UNet, H2G_UNET),
    "wsiseg.unet": _segmenter(UNet, UNET),
    "wsiseg.unet_plus_plus": _segmenter(UNetPlusPlus, UNET),
    "wsiseg.agu_net": _segmenter(AGUNet, AGU_NET),
    "wsiseg.dagu_net": _segmenter(AGUNet, {**AGU_NET, "dual_attention": True}),
    "wsiseg.double_unet": _segmenter(DoubleUNet, DOUBLE_UNET),
    "wsiseg.fuse": _segmenter(Fuse, {}),
    "wsiseg.unet3d": _segmenter(UNet3D, UNET_3D),
    "wsiseg.residual_unet3d": _segmenter(UNet3D, {**UNET_3D, "residual": True}),
    "wsiseg.agu_net3d": _segmenter(AGUNet3D, AGU_NET_3D),
    "wsiseg.pls_net": _segmenter(PLSNet, {}),
    "wsiseg.nnunet": _segmenter(NnUNet, {}),
    "wsiseg.nnunet_resenc": _segmenter(NnUNet, {"residual": True}),
    **{name: _joining(monai_segmenter(net)) for name, net in MONAI_SEGMENTERS.items()},
    "monai.densenet121": _densenet121,
    **{f"monai.efficientnet-b{i}": _efficientnet(f"efficientnet-b{i}") for i in range(8)},
    **{f"monai.resnet{n}": _resnet(f"resnet{n}") for n in (10, 18, 34, 50, 101, 152)},
}
