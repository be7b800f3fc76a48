"""Several stages' probabilities as one: their mean or their maximum; nothing is learned."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

__all__ = ["Fuse"]


class Fuse(nn.Module):
    """The mean or the maximum over inputs, class by class.

    So models that see a scan in different ways, such as in slabs and as a whole, decide together
    (mediastinal lymph nodes, arXiv:2102.06515; Raidionics calls it `average` and
    `maximum`).

    Parameters
    ----------
    channels
        Of each input: the classes, in the same order in all of them.
    classes
        Their number.
    by
        `mean` keeps probabilities that sum to 1. `maximum` finds more, and its sums exceed 1.

    Raises
    ------
    ValueError
        If inputs have other channels than there are classes.
    """

    def __init__(
        self, channels: Sequence[int], classes: int, *, by: Literal["mean", "maximum"] = "mean"
    ) -> None:
        super().__init__()
        if set(channels) != {classes}:
            raise ValueError(f"needed {classes} channels of every input, found {tuple(channels)}")
        if by not in ("mean", "maximum"):
            raise ValueError(f"by: needed mean or maximum, found {by!r}")
        self.by = by

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return the probabilities, shaped as each of the inputs."""
        every = torch.stack(inputs)
        return every.mean(0) if self.by == "mean" else every.amax(0)
