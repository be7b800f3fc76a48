"""MobileNetV2, the patch classifier of H2G-Net, in one page."""

import torch
from torch import nn

__all__ = ["MobileNetV2"]

STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks, first stride: Table 2 of Sandler et al. 2018."""

STEM, FEATURES = 32, 1280


class MobileNetV2(nn.Module):
    """MobileNetV2 with the head of H2G-Net: pool, dense and ReLU, dropout, classes.

    Parameters
    ----------
    channels
        Input channels.
    classes
        Length of the logits.
    width
        Multiplier of every channel count but the last 1280, which only grows.
    hidden
        Units of the dense layer.
    dropout
        Share of hidden units dropped in training.

    Notes
    -----
    `forward` maps float32 `(n, channels, h, w)` to logits `(n, classes)`; h and w are free, 32 px
    at least. Weights start from He initialisation.

    References
    ----------
    Sandler et al. 2018, doi:10.1109/CVPR.2018.00474; head: Pedersen et al. 2022,
    doi:10.3389/fmed.2022.971873.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        width: float = 1.0,
        hidden: int = 100,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if width <= 0:
            raise ValueError(f"width must be positive, got {width}")
        size = _scaled(STEM, width)
        layers: list[nn.Module] = [_conv(channels, size, kernel=3, stride=2)]
        for expansion, base, blocks, first_stride in STAGES:
            for index in range(blocks):
                stride = first_stride if index == 0 else 1
                layers.append(InvertedResidual(size, _scaled(base, width), expansion, stride))
                size = _scaled(base, width)
        features = max(FEATURES, _scaled(FEATURES, width))
        layers.append(_conv(size, features, kernel=1))
        self.features = nn.Sequential(*layers)
        self.head: nn.Module = nn.Sequential(
            nn.Linear(features, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, classes),
        )
        self.apply(_initialise)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits `(n, classes)`."""
        pooled = self.features(image).mean(dim=(2, 3))
        logits: torch.Tensor = self.head(pooled)
        return logits


class InvertedResidual(nn.Module):
    """Expand, filter per channel, project; add the input where the shape allows it."""

    def __init__(self, channels: int, out: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = channels * expansion
        expand = [_conv(channels, inner, kernel=1)] if expansion > 1 else []
        self.block = nn.Sequential(
            *expand,
            _conv(inner, inner, kernel=3, stride=stride, groups=inner),
            nn.Conv2d(inner, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.residual = stride == 1 and channels == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `(n, out, h / stride, w / stride)`."""
        y: torch.Tensor = self.block(x)
        return x + y if self.residual else y


def _conv(
    channels: int, out: int, *, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU6(),
    )


def _scaled(channels: int, width: float) -> int:
    """Round to a multiple of 8, never losing more than a tenth (as the authors' code does)."""
    rounded = max(8, int(channels * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels * width else rounded


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)
