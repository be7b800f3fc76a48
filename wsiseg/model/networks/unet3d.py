"""U-Nets for volumes: plain, and with residual blocks."""

from collections.abc import Sequence

import torch
from torch import nn

from wsiseg.model.networks.blocks import Norm, check_widths, conv_block, normalisation

__all__ = ["UNet3D"]


class UNet3D(nn.Module):
    """Encoder and decoder of `len(widths)` levels joined by skip connections, in three dimensions.

    Parameters
    ----------
    channels
        Channels of each input; inputs are concatenated, so all have the same size.
    classes
        Channels of the logits.
    widths
        Channels of each level, finest first; every level but the bottleneck is pooled.
    bottleneck
        Channels at the coarsest resolution.
    pools
        Factor by which each level is pooled, per axis (z, y, x); default: 2 everywhere. For thick
        slices `[1, 2, 2]` at first.
    residual
        Blocks add their input, through a convolution of 1 where channels differ.
    dropout
        Share of whole channels dropped after each decoder block in training.
    norm
        `"batch"` or `"instance"`.

    Notes
    -----
    A block is twice (convolution of 3 x 3 x 3, normalisation, ReLU); pooling takes the maximum,
    the decoder enlarges by a transposed convolution. `forward` maps float32 `(n, c, z, y, x)` per
    input to logits `(n, classes, z, y, x)`; sizes must be multiples of the product of the pools.

    References
    ----------
    Çiçek et al. 2016, doi:10.1007/978-3-319-46723-8_49; residual blocks: Lee et al. 2017,
    arXiv:1706.00120.
    """

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        *,
        widths: Sequence[int],
        bottleneck: int,
        pools: Sequence[Sequence[int]] | None = None,
        residual: bool = False,
        dropout: float = 0.0,
        norm: Norm = "instance",
    ) -> None:
        super().__init__()
        check_widths(widths)
        pools = pools or [(2, 2, 2)] * len(widths)
        if len(pools) != len(widths) or any(len(pool) != 3 for pool in pools):
            raise ValueError(f"pools must be (z, y, x) for {len(widths)} levels, got {pools}")
        factors = [(z, y, x) for z, y, x in pools]
        block = _Residual if residual else _plain
        sizes = [sum(channels), *widths]
        self.encoder = nn.ModuleList(block(a, b, norm) for a, b in zip(sizes, widths, strict=False))
        self.pools = nn.ModuleList(nn.MaxPool3d(pool) for pool in factors)
        self.bottleneck = block(widths[-1], bottleneck, norm)
        self.up, self.decoder = nn.ModuleList(), nn.ModuleList()
        below = bottleneck
        for width, pool in zip(reversed(widths), reversed(factors), strict=True):
            self.up.append(nn.ConvTranspose3d(below, width, pool, pool))
            drop = nn.Dropout3d(dropout)
            self.decoder.append(nn.Sequential(block(2 * width, width, norm), drop))
            below = width
        self.classify = nn.Conv3d(widths[0], classes, 1)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return logits `(n, classes, z, y, x)`."""
        x = torch.cat(inputs, dim=1)
        skips = []
        for block, pool in zip(self.encoder, self.pools, strict=True):
            x = block(x)
            skips.append(x)
            x = pool(x)
        x = self.bottleneck(x)
        for up, block, skip in zip(self.up, self.decoder, reversed(skips), strict=True):
            x = block(torch.cat([up(x), skip], dim=1))
        logits: torch.Tensor = self.classify(x)
        return logits


def _plain(channels: int, out: int, norm: Norm) -> nn.Module:
    return conv_block(channels, out, norm, dims=3)


class _Residual(nn.Module):
    def __init__(self, channels: int, out: int, norm: Norm) -> None:
        super().__init__()
        self.body = nn.Sequential(*list(conv_block(channels, out, norm, dims=3))[:-1])
        self.skip: nn.Module = nn.Identity()
        if channels != out:
            self.skip = nn.Sequential(
                nn.Conv3d(channels, out, 1, bias=False), normalisation(norm, out, 3)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.skip(x))
