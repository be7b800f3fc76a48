"""Attention: gates on skip connections, over positions, over channels, squeeze and excitation."""

import torch
from torch import nn

from wsiseg.model.networks.blocks import upsample

__all__ = ["AttentionGate", "ChannelAttention", "PositionAttention", "SqueezeExcite"]


class AttentionGate(nn.Module):
    """Additive gate: the coarser level decides which places of a skip connection pass.

    Parameters
    ----------
    channels
        Channels of the skip connection.
    below
        Channels of the gating signal, at half the height and width.

    References
    ----------
    Oktay et al. 2018, arXiv:1804.03999.
    """

    def __init__(self, channels: int, below: int) -> None:
        super().__init__()
        self.skip = nn.Conv2d(channels, channels, 2, stride=2, bias=False)
        self.gate = nn.Conv2d(below, channels, 1)
        self.weigh = nn.Conv2d(channels, 1, 1)

    def forward(self, skip: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
        """Return the skip connection, each place multiplied by a number in 0..1."""
        joint = torch.relu(self.skip(skip) + self.gate(below))
        return skip * upsample(torch.sigmoid(self.weigh(joint)))


class PositionAttention(nn.Module):
    """Adds to each position what similar positions hold, however far away.

    Memory grows with the square of the number of positions: for the coarsest level only. Keys and
    queries have `channels // 8` channels; the sum starts at nothing (gamma is 0).

    References
    ----------
    Fu et al. 2019, doi:10.1109/CVPR.2019.00326.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 8)
        self.query = nn.Conv2d(channels, inner, 1)
        self.key = nn.Conv2d(channels, inner, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `(n, channels, h, w)`."""
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        weights = (query.transpose(1, 2) @ key).softmax(dim=-1)  # (n, position, position)
        gathered = (value @ weights.transpose(1, 2)).reshape(x.shape)
        attended: torch.Tensor = x + self.gamma * gathered
        return attended


class ChannelAttention(nn.Module):
    """Adds to each channel what channels unlike it hold; the sum starts at nothing.

    References
    ----------
    Fu et al. 2019, doi:10.1109/CVPR.2019.00326.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `(n, channels, h, w)`."""
        flat = x.flatten(2)
        energy = flat @ flat.transpose(1, 2)
        weights = (energy.amax(dim=-1, keepdim=True) - energy).softmax(dim=-1)
        return x + self.gamma * (weights @ flat).reshape(x.shape)


class SqueezeExcite(nn.Module):
    """Multiplies each channel by a number in 0..1 that the means of all channels decide.

    References
    ----------
    Hu et al. 2018, doi:10.1109/CVPR.2018.00745.
    """

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        inner = max(1, channels // ratio)
        self.weigh = nn.Sequential(
            nn.Conv2d(channels, inner, 1), nn.ReLU(), nn.Conv2d(inner, channels, 1), nn.Sigmoid()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `(n, channels, h, w)`."""
        weighted: torch.Tensor = x * self.weigh(x.mean(dim=(2, 3), keepdim=True))
        return weighted
