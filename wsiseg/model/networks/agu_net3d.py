"""AGU-Net for volumes: gated skips, the image at every level, a loss at every level."""

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from wsiseg.model.networks.blocks import Norm, check_widths, conv_block, conv_norm, normalisation

__all__ = ["AGUNet3D"]


class AGUNet3D(nn.Module):
    """U-Net with attention gates, an input pyramid and deep supervision, in three dimensions.

    Parameters
    ----------
    channels
        Channels of each input; inputs are concatenated, so all have the same size.
    classes
        Channels of the logits.
    widths
        Channels of each level, finest first; every level but the bottleneck is pooled by 2.
    bottleneck
        Channels at the coarsest resolution.
    dropout
        Share of whole channels dropped after each decoder block in training.
    norm
        `"batch"` or `"instance"`.

    Notes
    -----
    The input pyramid is the image averaged over 2, 4, ... voxels, convolved and concatenated at
    each level. A gate joins skip and gating signal, each through a convolution of 1 to half the
    width, by concatenation. `forward` maps float32 `(n, c, z, y, x)` per input to logits
    `(n, classes, z, y, x)`; in training to a tuple of those and the logits of each coarser level,
    finest first. Sizes must be multiples of `2 ** len(widths)`.

    References
    ----------
    Bouget et al. 2021, doi:10.3389/fradi.2021.711514.
    """

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        *,
        widths: Sequence[int],
        bottleneck: int,
        dropout: float = 0.0,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        check_widths(widths)
        image, sizes = sum(channels), [*widths, bottleneck]
        self.pool, self.shrink = nn.MaxPool3d(2), nn.AvgPool3d(2)
        self.encoder = nn.ModuleList([conv_block(image, widths[0], norm, 3)])
        self.pyramid, self.up, self.gates = (nn.ModuleList() for _ in range(3))
        self.decoder, self.heads = nn.ModuleList(), nn.ModuleList()
        for above, width in itertools.pairwise(sizes):
            self.pyramid.append(conv_norm(image, width, norm, dims=3))
            self.encoder.append(conv_block(above + width, width, norm, 3))
        for width, below in reversed(list(itertools.pairwise(sizes))):
            self.up.append(_Enlarge(below, width, norm))
            self.gates.append(_Gate(width))
            drop = nn.Dropout3d(dropout)
            self.decoder.append(nn.Sequential(conv_block(2 * width, width, norm, 3), drop))
            self.heads.append(nn.Conv3d(width, classes, 1))

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Return logits `(n, classes, z, y, x)`; in training of every level, finest first."""
        image = torch.cat(inputs, dim=1)
        x = self.encoder[0](image)
        skips = []
        for embed, block in zip(self.pyramid, list(self.encoder)[1:], strict=True):
            skips.append(x)
            image = self.shrink(image)
            x = block(torch.cat([self.pool(x), embed(image)], dim=1))
        decoded = []
        levels = zip(self.up, self.gates, self.decoder, reversed(skips), strict=True)
        for up, gate, block, skip in levels:
            signal = up(x)
            x = block(torch.cat([signal, gate(skip, signal)], dim=1))
            decoded.append(x)
        if not self.training:
            return self._logits(-1, x)
        return tuple(self._logits(i, x) for i, x in reversed(list(enumerate(decoded))))

    def _logits(self, level: int, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.heads[level](x)
        return logits


class _Enlarge(nn.Sequential):
    """A transposed convolution by 2, normalisation and ReLU."""

    def __init__(self, channels: int, out: int, norm: Norm) -> None:
        up = nn.ConvTranspose3d(channels, out, 2, 2, bias=False)
        super().__init__(up, normalisation(norm, out, 3), nn.ReLU())


class _Gate(nn.Module):
    """Multiplies each place of a skip connection by a number in 0..1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 2)
        self.skip = nn.Conv3d(channels, inner, 1)
        self.signal = nn.Conv3d(channels, inner, 1)
        self.weigh = nn.Conv3d(2 * inner, 1, 1)

    def forward(self, skip: torch.Tensor, signal: torch.Tensor) -> torch.Tensor:
        joint = torch.relu(torch.cat([self.skip(skip), self.signal(signal)], dim=1))
        return skip * torch.sigmoid(self.weigh(joint))
