"""PLS-Net: a light network for whole volumes."""

from collections.abc import Sequence

import torch
from torch import nn

from wsiseg.model.networks.blocks import check_widths

__all__ = ["PLSNet"]

DILATIONS = (1, 2, 3, 4)
"""Of the four convolutions of a block."""


class PLSNet(nn.Module):
    """Depthwise separable convolutions, dilated dense blocks, and the image at every level.

    Parameters
    ----------
    channels
        Channels of each input; inputs are concatenated, so all have the same size.
    classes
        Channels of the logits.
    widths
        Channels of each level, finest first; the first is at half the size of the input already.
    blocks
        Dilated residual dense blocks at each level.
    growth
        Channels that each convolution of a block adds.

    Notes
    -----
    Enlarging is trilinear, and the decoder has two channels per class: nearly all weights are in
    the encoder. `forward` maps float32 `(n, c, z, y, x)` per input to logits
    `(n, classes, z, y, x)`; sizes must be multiples of `2 ** len(widths)`.

    References
    ----------
    Lee et al. 2019, arXiv:1909.07474; for meningioma: Bouget et al. 2021,
    doi:10.1117/1.JMI.8.2.024002. Widths 16, 64 and 128, blocks 1, 2 and 4, growth 12.
    """

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        *,
        widths: Sequence[int] = (16, 64, 128),
        blocks: Sequence[int] = (1, 2, 4),
        growth: int = 12,
    ) -> None:
        super().__init__()
        check_widths(widths)
        if len(blocks) != len(widths):
            raise ValueError(f"blocks must name {len(widths)} levels, got {len(blocks)}")
        image, narrow = sum(channels), 2 * classes
        self.shrink, self.levels = nn.ModuleList(), nn.ModuleList()
        above = image
        for width, count in zip(widths, blocks, strict=True):
            self.shrink.append(_separable(above, width, stride=2))
            above = width + image
            self.levels.append(nn.Sequential(*(_DilatedDense(above, growth) for _ in range(count))))
        self.bridges, self.decoder = nn.ModuleList(), nn.ModuleList([_separable(above, narrow)])
        for width in reversed(widths[:-1]):
            self.bridges.append(_separable(width + image, narrow))
            self.decoder.append(_separable(2 * narrow, narrow))
        self.classify = nn.Conv3d(narrow, classes, 1)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return logits `(n, classes, z, y, x)`."""
        image = torch.cat(inputs, dim=1)
        x, seen = image, []
        for shrink, level in zip(self.shrink, self.levels, strict=True):
            image = _resize(image, 0.5)
            x = level(torch.cat([shrink(x), image], dim=1))
            seen.append(x)
        x = _resize(self.decoder[0](seen.pop()), 2.0)
        for bridge, block in zip(self.bridges, list(self.decoder)[1:], strict=True):
            x = _resize(block(torch.cat([x, bridge(seen.pop())], dim=1)), 2.0)
        logits: torch.Tensor = self.classify(x)
        return logits


class _DilatedDense(nn.Module):
    """Each convolution sees the input and all before it; their sum is added to the input."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            _separable(channels + i * growth, growth, dilation=rate)
            for i, rate in enumerate(DILATIONS)
        )
        self.join = nn.Conv3d(channels + len(DILATIONS) * growth, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = x
        for conv in self.convs:
            seen = torch.cat([seen, conv(seen)], dim=1)
        joined: torch.Tensor = x + self.join(seen)
        return joined


def _separable(channels: int, out: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Return a convolution per channel, one across channels, batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv3d(channels, channels, 3, stride, dilation, dilation, groups=channels, bias=False),
        nn.Conv3d(channels, out, 1, bias=False),
        nn.BatchNorm3d(out),
        nn.ReLU(),
    )


def _resize(x: torch.Tensor, factor: float) -> torch.Tensor:
    """Return `x` enlarged or shrunk on each axis, linearly between voxel centres."""
    resized: torch.Tensor = nn.functional.interpolate(
        x, scale_factor=factor, mode="trilinear", align_corners=False
    )
    return resized
