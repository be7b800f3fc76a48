"""Dropout that stays on when a network is used, with masks that can be had again."""

from collections.abc import Sequence
from contextvars import ContextVar

import torch
from torch import nn

from wsiseg.errors import ModelError
from wsiseg.model.preprocessed import PreprocessedNetwork

__all__ = ["SeededDropout", "SeededNetwork"]

GENERATORS: ContextVar[Sequence[torch.Generator]] = ContextVar("generators")
"""One per patch of the batch under way in this thread."""

ELEMENTS = (nn.Dropout,)
CHANNELS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
REFUSED = (nn.AlphaDropout, nn.FeatureAlphaDropout)


class SeededDropout(nn.Module):
    """Drops units by the generators of their patches, and scales the others up.

    Parameters
    ----------
    p
        Chance of being dropped.
    whole_channels
        All of a channel is dropped, or nothing.
    """

    def __init__(self, p: float, *, whole_channels: bool) -> None:
        super().__init__()
        self.p = p
        self.whole_channels = whole_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the units that are kept, over their chance; the others are 0."""
        generators = GENERATORS.get()
        parts, rest = divmod(len(x), len(generators))
        if rest:
            raise ModelError(
                f"dropout of {len(x)} rows in a batch of {len(generators)} patches: needed a whole "
                "number of rows per patch; leave 'dropout' out"
            )
        shape = (parts, *x.shape[1:])
        if self.whole_channels:
            shape = (*shape[:2], *(1 for _ in shape[2:]))
        chances = [torch.rand(shape, generator=g, device=x.device) for g in generators]
        kept = torch.cat(chances) >= self.p
        return x * kept / (1 - self.p) if self.p < 1 else torch.zeros_like(x)


class SeededNetwork(nn.Module):
    """A network whose dropout is on, and drops what the last input says.

    Inputs are those of the network, and an int64 `(n,)` with a seed for each patch.

    Parameters
    ----------
    module
        Its `nn.Dropout`, `1d`, `2d` and `3d` are replaced; what networks drop by functions is not.

    Raises
    ------
    ModelError
        If it has alpha dropout.
    """

    def __init__(self, module: PreprocessedNetwork) -> None:
        super().__init__()
        self.dropouts = _replace(module)
        """How many were replaced."""

        self.module = module

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits, classes last."""
        *patches, seeds = inputs
        device = patches[0].device
        generators = [torch.Generator(device).manual_seed(seed) for seed in seeds.tolist()]
        token = GENERATORS.set(generators)
        try:
            logits: torch.Tensor = self.module(*patches)
        finally:
            GENERATORS.reset(token)
        return logits


def _replace(module: nn.Module) -> int:
    """Replace the active dropouts below a module; return how many there were."""
    count = 0
    for name, child in module.named_children():
        if isinstance(child, REFUSED) and child.p > 0:
            raise ModelError(f"{type(child).__name__} cannot be sampled; leave 'dropout' out")
        if isinstance(child, ELEMENTS + CHANNELS) and child.p > 0:
            whole = isinstance(child, CHANNELS)
            setattr(module, name, SeededDropout(child.p, whole_channels=whole))
            count += 1
        else:
            count += _replace(child)
    return count
