"""UNet++: U-Nets of every depth in one, joined by nested dense skip connections."""

from collections.abc import Sequence

import torch
from torch import nn

from wsiseg.model.networks.blocks import Norm, check_widths, conv_block, decoder_block, upsample

__all__ = ["UNetPlusPlus"]


class UNetPlusPlus(nn.Module):
    """U-Net whose skip connections are refined by what lies below before they are used.

    Node `(i, j)` at level `i` sees the nodes `(i, 0) ... (i, j - 1)` and `(i + 1, j - 1)`,
    upsampled; `(0, j)` is the output of a U-Net with `j` poolings.

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
    `forward` maps float32 `(n, c, h, w)` per input to logits `(n, classes, h, w)`; in training to
    a tuple of the logits of every depth, deepest first, all at full resolution. h and w must be
    multiples of `2 ** len(widths)`. It sees as far as a `UNet`.

    References
    ----------
    Zhou et al. 2018, doi:10.1007/978-3-030-00889-5_1.
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
        sizes = [*widths, bottleneck]
        self.encoder = nn.ModuleList(
            conv_block(a, b, norm) for a, b in zip([sum(channels), *widths], sizes, strict=True)
        )
        self.nodes = nn.ModuleList(
            nn.ModuleList(
                decoder_block(j * sizes[i] + sizes[i + 1], sizes[i], norm, dropout)
                for j in range(1, len(sizes) - i)
            )
            for i in range(len(widths))
        )
        self.heads = nn.ModuleList(nn.Conv2d(widths[0], classes, 1) for _ in widths)
        self.pool = nn.MaxPool2d(2)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Return logits `(n, classes, h, w)`; in training those of every depth, deepest first."""
        x = torch.cat(inputs, dim=1)
        levels: list[list[torch.Tensor]] = []  # of each level its nodes so far
        for index, block in enumerate(self.encoder):
            x = block(x if index == 0 else self.pool(x))
            levels.append([x])
        for depth in range(1, len(levels)):
            for i in range(len(levels) - depth):
                seen = [*levels[i], upsample(levels[i + 1][depth - 1])]
                node = self.nodes[i][depth - 1]  # type: ignore[index]
                levels[i].append(node(torch.cat(seen, dim=1)))
        outputs = levels[0][1:]
        if not self.training:
            return self._logits(-1, outputs[-1])
        return tuple(self._logits(i, x) for i, x in reversed(list(enumerate(outputs))))

    def _logits(self, depth: int, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.heads[depth](x)
        return logits
