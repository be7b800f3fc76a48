"""U-Nets: the refinement network of H2G-Net and a plain single-stage segmenter."""

from collections.abc import Sequence

import torch
from torch import nn

from wsiseg.model.networks.blocks import Norm, check_widths, conv_block, decoder_block

__all__ = ["UNet", "receptive_field_radius"]


class UNet(nn.Module):
    """Encoder and decoder of `len(widths)` levels joined by skip connections.

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

    Notes
    -----
    A block is twice (3x3 convolution, batch normalisation, ReLU); pooling takes the maximum,
    upsampling repeats pixels. `forward` maps float32 `(n, c, h, w)` per input to logits
    `(n, classes, h, w)`; h and w must be multiples of `2 ** len(widths)`.

    References
    ----------
    Ronneberger et al. 2015, doi:10.1007/978-3-319-24574-4_28; refinement: Pedersen et al. 2022,
    doi:10.3389/fmed.2022.971873.
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
        sizes = [sum(channels), *widths]
        self.encoder = nn.ModuleList(
            conv_block(a, b, norm) for a, b in zip(sizes, widths, strict=False)
        )
        self.bottleneck = conv_block(widths[-1], bottleneck, norm)
        self.decoder = nn.ModuleList()
        below = bottleneck
        for width in reversed(widths):
            self.decoder.append(decoder_block(below + width, width, norm, dropout))
            below = width
        self.pool = nn.MaxPool2d(2)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.classify = nn.Conv2d(widths[0], classes, 1)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return logits `(n, classes, h, w)`."""
        x = torch.cat(inputs, dim=1)
        skips = []
        for block in self.encoder:
            x = block(x)
            skips.append(x)
            x = self.pool(x)
        x = self.bottleneck(x)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            x = block(torch.cat([self.up(x), skip], dim=1))
        logits: torch.Tensor = self.classify(x)
        return logits


def receptive_field_radius(levels: int) -> int:
    """Return how many pixels away an input can change an output of a `UNet`.

    The same holds for a `UNetPlusPlus`, and for an `AGUNet` without dual attention.

    With a halo of at least this many pixels, and tiles that start at multiples of `2 ** levels`,
    tiles give exactly what one pass over the whole image gives.

    Parameters
    ----------
    levels
        Number of poolings, `len(widths)`.
    """
    radius = 0
    for pixel in range(2**levels):
        low = high = pixel
        for _ in range(levels):  # down the decoder: two 3x3 convolutions, then the parent pixel
            low, high = (low - 2) // 2, (high + 2) // 2
        low, high = low - 2, high + 2
        for _ in range(levels):  # up the encoder: the two pooled pixels, then two convolutions
            low, high = 2 * low - 2, 2 * high + 3
        radius = max(radius, pixel - low, high - pixel)
    return radius
