"""Networks of MONAI by the names that cards and bundles use."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import nn

__all__ = ["MONAI_SEGMENTERS", "MonaiNet", "monai_segmenter"]


@dataclass(frozen=True)
class MonaiNet:
    """Where a network is, and what it calls the number of its dimensions."""

    module: str
    name: str
    dims: str = "spatial_dims"


MONAI_SEGMENTERS = {
    "monai.attention_unet": MonaiNet("attentionunet", "AttentionUnet"),
    "monai.basic_unet": MonaiNet("basic_unet", "BasicUNet"),
    "monai.basic_unet_plus_plus": MonaiNet("basic_unetplusplus", "BasicUNetPlusPlus"),
    "monai.dynunet": MonaiNet("dynunet", "DynUNet"),
    "monai.mednext": MonaiNet("mednext", "MedNeXt"),
    "monai.segresnet": MonaiNet("segresnet", "SegResNet"),
    "monai.segresnet_ds": MonaiNet("segresnet_ds", "SegResNetDS"),
    "monai.swin_unetr": MonaiNet("swin_unetr", "SwinUNETR"),
    "monai.unet": MonaiNet("unet", "UNet"),
    "monai.unetr": MonaiNet("unetr", "UNETR"),
    "monai.vnet": MonaiNet("vnet", "VNet"),
}
"""Segmenters whose output has the size of the input; volumes unless `spatial_dims` says 2."""


def monai_segmenter(
    spec: MonaiNet,
) -> Callable[[Sequence[int], int, Mapping[str, Any]], nn.Module]:
    """Return the factory of a network; raise ValueError where this MONAI does not have it."""

    def factory(channels: Sequence[int], classes: int, arguments: Mapping[str, Any]) -> nn.Module:
        module = import_module(f"monai.networks.nets.{spec.module}")
        given = {spec.dims: 3, **arguments}
        network: nn.Module = getattr(module, spec.name)(
            in_channels=sum(channels), out_channels=classes, **given
        )
        network.register_forward_hook(_finest)
        return network

    return factory


def _finest(network: nn.Module, inputs: Any, output: Any) -> torch.Tensor | tuple[Any, ...]:  # noqa: ANN401
    """Make lists and stacks of deeply supervised outputs what `build` promises."""
    if isinstance(output, torch.Tensor):
        # DynUNet stacks its levels, all of the finest size, along a new axis.
        stacked = output.dim() == inputs[0].dim() + 1
        return output if not stacked else tuple(output.unbind(dim=1))
    return tuple(output) if network.training else output[0]
