"""AGU-Net and DAGU-Net: U-Nets with gated skips, an image at every level, a loss at every level."""

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from wsiseg.model.networks.attention import AttentionGate, ChannelAttention, PositionAttention
from wsiseg.model.networks.blocks import (
    Norm,
    check_widths,
    conv_block,
    conv_norm,
    decoder_block,
    upsample,
)

__all__ = ["AGUNet"]


class AGUNet(nn.Module):
    """U-Net with attention gates, an input pyramid and deep supervision.

    Parameters
    ----------
    channels
        Channels of each input; inputs are concatenated, so all have the same height and width.
    classes
        Channels of the logits.
    widths
        Channels of each level, finest first; every level but the bottleneck is pooled by 2.
    bottleneck
        Channels at the coarsest resolution.
    dropout
        Share of whole channels dropped after each decoder block in training.
    norm
        `"batch"` or `"renorm"`.
    dual_attention
        Position and channel attention at the bottleneck, summed: DAGU-Net. Every pixel then
        depends on the whole patch; without it, the network sees as far as a `UNet`.

    Notes
    -----
    The input pyramid is the image averaged over 2, 4, ... pixels, convolved and concatenated at
    each level. `forward` maps float32 `(n, c, h, w)` per input to logits `(n, classes, h, w)`; in
    training to a tuple of those and the logits of each coarser level, finest first. h and w must
    be multiples of `2 ** len(widths)`.

    References
    ----------
    Bouget et al. 2021, doi:10.3389/fradi.2021.711514; gates: Oktay et al. 2018, arXiv:1804.03999;
    pyramid and supervision: Abraham & Khan 2019, doi:10.1109/ISBI.2019.8759329.
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
        dual_attention: bool = False,
    ) -> None:
        super().__init__()
        check_widths(widths)
        image, sizes = sum(channels), [*widths, bottleneck]
        self.pool, self.shrink = nn.MaxPool2d(2), nn.AvgPool2d(2)
        self.encoder = nn.ModuleList([conv_block(image, widths[0], norm)])
        self.pyramid = nn.ModuleList()
        self.gates, self.decoder, self.heads = (nn.ModuleList() for _ in range(3))
        for above, width in itertools.pairwise(sizes):
            self.pyramid.append(conv_norm(image, width, norm))
            self.encoder.append(conv_block(above + width, width, norm))
        for width, below in reversed(list(itertools.pairwise(sizes))):
            self.gates.append(AttentionGate(width, below))
            self.decoder.append(decoder_block(below + width, width, norm, dropout))
            self.heads.append(nn.Conv2d(width, classes, 1))
        self.attention = (
            nn.ModuleList([PositionAttention(bottleneck), ChannelAttention()])
            if dual_attention
            else None
        )

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Return logits `(n, classes, h, w)`; in training those of every level, finest first."""
        image = torch.cat(inputs, dim=1)
        x = self.encoder[0](image)
        skips = []
        for embed, block in zip(self.pyramid, list(self.encoder)[1:], strict=True):
            skips.append(x)
            image = self.shrink(image)
            x = block(torch.cat([self.pool(x), embed(image)], dim=1))
        if self.attention is not None:
            position, channel = self.attention
            x = position(x) + channel(x)
        decoded = []
        for gate, block, skip in zip(self.gates, self.decoder, reversed(skips), strict=True):
            x = block(torch.cat([upsample(x), gate(skip, x)], dim=1))
            decoded.append(x)
        if not self.training:
            return self._logits(-1, x)
        return tuple(self._logits(i, x) for i, x in reversed(list(enumerate(decoded))))

    def _logits(self, level: int, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.heads[level](x)
        return logits
