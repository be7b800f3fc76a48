"""DoubleU-Net: a second U-Net looks again at what the first one found."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from wsiseg.model.networks.attention import SqueezeExcite
from wsiseg.model.networks.blocks import (
    Norm,
    check_widths,
    conv_block,
    conv_norm,
    upsample,
)

__all__ = ["DoubleUNet"]

RATES = (6, 12, 18)
"""Dilations of the spatial pyramid (Chen et al. 2017, arXiv:1706.05587)."""


class DoubleUNet(nn.Module):
    """Two chained U-Nets with spatial pyramids at the bottom and squeeze and excitation.

    The second network sees the image multiplied by the foreground probability of the first, and
    its decoder the skip connections of both encoders.

    Parameters
    ----------
    channels
        Channels of each input; inputs are concatenated, so all have the same height and width.
    classes
        Channels of the logits.
    widths
        Channels of each level, finest first; each is pooled by 2.
    bottleneck
        Channels of each branch and of the output of the spatial pyramids.
    dropout
        Share of whole channels dropped after each decoder block in training.
    norm
        `"batch"` or `"renorm"`.
    ratio
        Reduction in squeeze and excitation.

    Notes
    -----
    `forward` maps float32 `(n, c, h, w)` per input to logits `(n, classes, h, w)` of the second
    network; in training to a tuple of those and the logits of the first. Class 0 is background.
    h and w must be multiples of `2 ** len(widths)`. Every pixel depends on the whole patch.

    References
    ----------
    Jha et al. 2020, doi:10.1109/CBMS49503.2020.00111; with an encoder of our own in place of
    the pretrained one, as in Pedersen et al. 2022, doi:10.3389/fmed.2022.971873.
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
        ratio: int = 8,
    ) -> None:
        super().__init__()
        check_widths(widths)
        build = partial(
            ChainedUNet,
            sum(channels),
            classes,
            widths=widths,
            bottleneck=bottleneck,
            block=partial(_block, norm=norm, ratio=ratio),
            dropout=dropout,
            norm=norm,
        )
        self.first, self.second = build(skips=1), build(skips=2)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Return the second logits `(n, classes, h, w)`; in training also the first."""
        image = torch.cat(inputs, dim=1)
        first: torch.Tensor
        second: torch.Tensor
        first, skips = self.first(image)
        foreground = 1 - first.softmax(dim=1)[:, :1]
        second, _ = self.second(image * foreground, skips)
        return (second, first) if self.training else second


class ChainedUNet(nn.Module):
    """One of the two; its decoder takes `skips` skip connections per level."""

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        widths: Sequence[int],
        bottleneck: int,
        block: Callable[[int, int], nn.Sequential],
        dropout: float,
        norm: Norm,
        skips: int,
    ) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(
            block(a, b) for a, b in zip([channels, *widths], widths, strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        self.pyramid = SpatialPyramid(widths[-1], bottleneck, norm)
        self.decoder = nn.ModuleList()
        below = bottleneck
        for width in reversed(widths):
            layers = [block(below + skips * width, width), nn.Dropout2d(dropout)]
            self.decoder.append(nn.Sequential(*layers))
            below = width
        self.classify = nn.Conv2d(widths[0], classes, 1)

    def forward(
        self, x: torch.Tensor, others: Sequence[torch.Tensor] = ()
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return logits and the skip connections, finest first; `others` are those before."""
        skips = []
        for block in self.encoder:
            x = block(x)
            skips.append(x)
            x = self.pool(x)
        x = self.pyramid(x)
        levels = list(zip(skips, others, strict=True)) if others else [(skip,) for skip in skips]
        for block, level in zip(self.decoder, reversed(levels), strict=True):
            x = block(torch.cat([upsample(x), *level], dim=1))
        return self.classify(x), skips


class SpatialPyramid(nn.Module):
    """Atrous spatial pyramid pooling: the same pixels at several dilations, and their mean.

    References
    ----------
    Chen et al. 2017, arXiv:1706.05587.
    """

    def __init__(self, channels: int, out: int, norm: Norm) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                conv_norm(channels, out, norm, kernel=1),
                *(conv_norm(channels, out, norm, dilation=rate) for rate in RATES),
            ]
        )
        # One value per image: nothing a batch of one could be normalised by.
        self.mean = nn.Sequential(nn.Conv2d(channels, out, 1), nn.ReLU())
        self.join = conv_norm((len(RATES) + 2) * out, out, norm, kernel=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `(n, out, h, w)`."""
        views = [branch(x) for branch in self.branches]
        mean = self.mean(x.mean(dim=(2, 3), keepdim=True)).expand_as(views[0])
        joined: torch.Tensor = self.join(torch.cat([*views, mean], dim=1))
        return joined


def _block(channels: int, out: int, *, norm: Norm, ratio: int) -> nn.Sequential:
    return nn.Sequential(conv_block(channels, out, norm), SqueezeExcite(out, ratio))
