"""Patch classifiers without their heads: what a patch looks like to them, as a vector."""

import copy

import torch
from torch import nn

from wsiseg.errors import TrainingError
from wsiseg.model.networks.mobilenet import MobileNetV2

__all__ = ["features"]


def features(network: nn.Module) -> nn.Module:
    """Return a frozen copy of a patch classifier that stops before its last linear layer.

    Parameters
    ----------
    network
        A patch classifier from `build`: its last linear layer gives the logits. For MobileNetV2
        the whole head goes, so that the features are those of the backbone.

    Returns
    -------
    torch.nn.Module
        In evaluation mode, without gradients; maps the network's inputs to float32
        `(n, feature)`.

    Raises
    ------
    TrainingError
        If the network has no linear layer.
    """
    frozen = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
    for module in frozen.modules():
        if isinstance(module, MobileNetV2):
            module.head = nn.Identity()
            return Features(frozen)
    names = [name for name, module in frozen.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        raise TrainingError(
            f"{type(network).__name__} has no linear layer whose input could be its features; use "
            "a patch classifier"
        )
    frozen.set_submodule(names[-1], nn.Identity())
    return Features(frozen)


class Features(nn.Module):
    """A network that is never trained and never leaves evaluation mode."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def train(self, mode: bool = True) -> "Features":
        """Stay in evaluation mode, also inside a module that is trained."""
        return super().train(mode=False)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return the features `(n, feature)`."""
        with torch.no_grad():
            vectors: torch.Tensor = self.network(*inputs).flatten(1).float()
        return vectors
