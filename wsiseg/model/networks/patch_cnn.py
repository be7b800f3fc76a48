"""A small residual network for patches that answer for a cell in their middle."""

from collections.abc import Sequence

import torch
from torch import nn

from wsiseg.model.networks.blocks import conv_norm

__all__ = ["PatchCNN"]


class PatchCNN(nn.Module):
    """Convolutions at a half, a quarter and an eighth of the resolution, then two averages.

    One average is over the centre of the patch, which the answer is about, the other over all of
    it, its surroundings. Without either, a network has to learn from examples where to look.

    Parameters
    ----------
    channels
        Input channels.
    classes
        Length of the logits.
    widths
        Channels after each halving.
    centre
        Side of the central part, as a share of the patch's.
    dropout
        Share of the averages dropped in training.

    Notes
    -----
    `forward` maps float32 `(n, channels, h, w)` to logits `(n, classes)`; h and w are free, 32 px
    at least. It learns from scratch within a few hundred steps, where MobileNetV2 needs thousands;
    residual blocks: He et al. 2016, doi:10.1109/CVPR.2016.90.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        widths: Sequence[int] = (32, 64, 128),
        centre: float = 0.25,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if not widths or min(widths) < 1 or not 0 < centre <= 1:
            raise ValueError(
                f"needed widths of 1 or more and 0 < centre <= 1, got {list(widths)} and {centre}"
            )
        self.centre = centre
        sizes = [channels, *widths]
        self.features = nn.Sequential(
            *(
                nn.Sequential(conv_norm(a, b, stride=2), _Residual(b))
                for a, b in zip(sizes, widths, strict=False)
            )
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * widths[-1], classes))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits `(n, classes)`."""
        found = self.features(image)
        edges = [int(n * (1 - self.centre) / 2) for n in found.shape[2:]]
        rows, columns = (slice(e, n - e) for e, n in zip(edges, found.shape[2:], strict=True))
        centre = found[:, :, rows, columns].mean(dim=(2, 3))
        logits: torch.Tensor = self.head(torch.cat([centre, found.mean(dim=(2, 3))], dim=1))
        return logits


class _Residual(nn.Module):
    """Two convolutions, and what they add to."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv_norm(channels, channels)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the shape of `x`."""
        y: torch.Tensor = self.second(self.first(x))
        return torch.relu(x + y)
