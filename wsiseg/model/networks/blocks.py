"""What the networks are made of, for images (2) and volumes (3 dimensions)."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from wsiseg.model.networks.renorm import BatchRenorm2d

__all__ = [
    "AVERAGE_POOL",
    "CONV",
    "DROPOUT",
    "MAX_POOL",
    "TRANSPOSED",
    "Norm",
    "check_widths",
    "conv_block",
    "conv_norm",
    "decoder_block",
    "normalisation",
    "upsample",
]

CONV: dict[int, Callable[..., nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Callable[..., nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MAX_POOL: dict[int, Callable[..., nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVERAGE_POOL: dict[int, Callable[..., nn.Module]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
DROPOUT: dict[int, Callable[..., nn.Module]] = {2: nn.Dropout2d, 3: nn.Dropout3d}

NORMS: dict[str, dict[int, Callable[..., nn.Module]]] = {
    "batch": {2: nn.BatchNorm2d, 3: nn.BatchNorm3d},
    "renorm": {2: BatchRenorm2d},
    "instance": {
        2: partial(nn.InstanceNorm2d, affine=True),
        3: partial(nn.InstanceNorm3d, affine=True),
    },
}

Norm = str
"""`"batch"`, `"renorm"` (images only) or `"instance"`."""


def normalisation(norm: Norm, channels: int, dims: int = 2) -> nn.Module:
    """Return a layer of a name; raise ValueError where there is none for so many dimensions."""
    known = [name for name, layers in NORMS.items() if dims in layers]
    if norm not in known:
        raise ValueError(f"norm must be one of {', '.join(known)}, got {norm!r}")
    return NORMS[norm][dims](channels)


def conv_block(channels: int, out: int, norm: Norm = "batch", dims: int = 2) -> nn.Sequential:
    """Return twice (convolution of 3 per axis, normalisation, ReLU)."""
    return nn.Sequential(
        *conv_norm(channels, out, norm, dims=dims), *conv_norm(out, out, norm, dims=dims)
    )


def conv_norm(
    channels: int,
    out: int,
    norm: Norm = "batch",
    *,
    kernel: int = 3,
    dilation: int = 1,
    stride: int = 1,
    dims: int = 2,
) -> nn.Sequential:
    """Return a convolution that divides each axis by `stride`, normalisation and ReLU."""
    margin = kernel // 2 * dilation
    return nn.Sequential(
        CONV[dims](channels, out, kernel, stride, margin, dilation, bias=False),
        normalisation(norm, out, dims),
        nn.ReLU(),
    )


def decoder_block(
    channels: int, out: int, norm: Norm, dropout: float, dims: int = 2
) -> nn.Sequential:
    """Return a block followed by the dropout of whole channels."""
    return nn.Sequential(conv_block(channels, out, norm, dims), DROPOUT[dims](dropout))


def upsample(x: torch.Tensor) -> torch.Tensor:
    """Return `x` at twice the size of each axis, each pixel repeated."""
    doubled: torch.Tensor = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
    return doubled


def check_widths(widths: Sequence[int]) -> None:
    """Raise ValueError if there is no level."""
    if not widths:
        raise ValueError("widths must name at least one level")
