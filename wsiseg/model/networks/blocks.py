"""What the networks are made of."""

from collections.abc import Sequence

import torch
from torch import nn

from wsiseg.model.networks.renorm import BatchRenorm2d

__all__ = ["Norm", "check_widths", "conv_block", "conv_norm", "decoder_block", "upsample"]

NORMS: dict[str, type[nn.BatchNorm2d]] = {"batch": nn.BatchNorm2d, "renorm": BatchRenorm2d}

Norm = str
"""`"batch"` or `"renorm"`."""


def conv_block(channels: int, out: int, norm: Norm = "batch") -> nn.Sequential:
    """Return twice (3x3 convolution, normalisation, ReLU)."""
    return nn.Sequential(*conv_norm(channels, out, norm), *conv_norm(out, out, norm))


def conv_norm(
    channels: int,
    out: int,
    norm: Norm = "batch",
    *,
    kernel: int = 3,
    dilation: int = 1,
    stride: int = 1,
) -> nn.Sequential:
    """Return a convolution that divides height and width by `stride`, normalisation and ReLU."""
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
    margin = kernel // 2 * dilation
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel, stride, margin, dilation, bias=False),
        NORMS[norm](out),
        nn.ReLU(),
    )


def decoder_block(channels: int, out: int, norm: Norm, dropout: float) -> nn.Sequential:
    """Return a block followed by the dropout of whole channels."""
    return nn.Sequential(conv_block(channels, out, norm), nn.Dropout2d(dropout))


def upsample(x: torch.Tensor) -> torch.Tensor:
    """Return `x` at twice the height and width, each pixel repeated."""
    doubled: torch.Tensor = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
    return doubled


def check_widths(widths: Sequence[int]) -> None:
    """Raise ValueError if there is no level."""
    if not widths:
        raise ValueError("widths must name at least one level")
