"""The two U-Nets of nnU-Net, with its names of weights, so that its checkpoints fit.

Of a checkpoint each tensor is stored up to four times (`all_modules`, `decoder.encoder`); here it
has the first of its names. Arguments have the names of `plans.json`.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from wsiseg.model.networks.blocks import AVERAGE_POOL, CONV, TRANSPOSED

__all__ = ["NnUNet"]

NORMS: dict[tuple[str, int], type[nn.Module]] = {
    ("instance", 2): nn.InstanceNorm2d,
    ("instance", 3): nn.InstanceNorm3d,
    ("batch", 2): nn.BatchNorm2d,
    ("batch", 3): nn.BatchNorm3d,
}

Sizes = tuple[int, ...]


class NnUNet(nn.Module):
    """U-Net of strided convolutions, plain (`PlainConvUNet`) or with residual encoder.

    Parameters
    ----------
    channels
        Channels of each input; inputs are concatenated, so all have the same size.
    classes
        Channels of the logits.
    features_per_stage
        Channels of each stage, finest first.
    kernel_sizes, strides
        Of each stage, per axis; two axes make a network for images.
    n_conv_per_stage, n_conv_per_stage_decoder
        Convolutions (residual: blocks) of each stage, and of the decoder's, coarsest first.
    residual
        Encoder of residual blocks behind a stem (`ResidualEncoderUNet`).
    conv_bias
        Whether convolutions have a bias.
    norm, norm_eps
        `"instance"` or `"batch"`, with weight and bias per channel.
    negative_slope
        Of the leaky ReLU; 0 is ReLU.
    stem_channels
        Channels of the stem of a residual encoder; default: those of the first stage.

    Notes
    -----
    `forward` maps float32 `(n, c, *size)` per input to logits `(n, classes, *size)`, in training to
    a tuple of those and the logits of each coarser level. A network for images takes slices
    `(n, c, 1, y, x)`, too. Sizes must be multiples of the product of the strides.

    References
    ----------
    Isensee et al. 2021, doi:10.1038/s41592-020-01008-z; residual encoders: Isensee et al. 2024,
    arXiv:2404.09556. The shortcut of a block is average pooling and a convolution of 1, as He et
    al. 2019, arXiv:1812.01187.
    """

    def __init__(  # noqa: PLR0913 - the names of plans.json
        self,
        channels: Sequence[int],
        classes: int,
        *,
        features_per_stage: Sequence[int],
        kernel_sizes: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        n_conv_per_stage: Sequence[int],
        n_conv_per_stage_decoder: Sequence[int],
        residual: bool = False,
        conv_bias: bool = True,
        norm: str = "instance",
        norm_eps: float = 1e-5,
        negative_slope: float = 0.01,
        stem_channels: int | None = None,
    ) -> None:
        super().__init__()
        stages = len(features_per_stage)
        counts = [len(kernel_sizes), len(strides), len(n_conv_per_stage)]
        if counts != [stages] * 3 or len(n_conv_per_stage_decoder) != stages - 1 or stages < 2:
            raise ValueError(
                f"{stages} stages need as many kernel_sizes, strides and n_conv_per_stage and one "
                f"n_conv_per_stage_decoder less, got {counts}, {len(n_conv_per_stage_decoder)}"
            )
        self.dims = len(kernel_sizes[0])
        if (norm, self.dims) not in NORMS or {len(s) for s in (*kernel_sizes, *strides)} != {
            self.dims
        }:
            raise ValueError(f"no norm {norm!r} for kernels {kernel_sizes} and strides {strides}")
        make = _Maker(self.dims, conv_bias, norm, norm_eps, negative_slope)
        encoder = _ResidualEncoder if residual else _PlainEncoder
        kernels, steps = [tuple(k) for k in kernel_sizes], [tuple(s) for s in strides]
        self.encoder = encoder(
            make, sum(channels), features_per_stage, kernels, steps, n_conv_per_stage, stem_channels
        )
        self.decoder = _Decoder(
            make, classes, features_per_stage, kernels, steps, n_conv_per_stage_decoder
        )

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Return logits; in training of every level, finest first."""
        x = torch.cat(inputs, dim=1)
        slices = self.dims == 2 and x.dim() == 5
        if slices:
            x = x.squeeze(2)
        outputs: list[torch.Tensor] = self.decoder(self.encoder(x))
        if slices:
            outputs = [y.unsqueeze(2) for y in outputs]
        return tuple(reversed(outputs)) if self.training else outputs[-1]


class _Maker:
    """What the parts of one network have in common."""

    def __init__(self, dims: int, bias: bool, norm: str, eps: float, slope: float) -> None:
        self.dims, self.bias, self.slope = dims, bias, slope
        self._norm, self._eps = NORMS[norm, dims], eps

    def conv(
        self, channels: int, out: int, kernel: Sizes, stride: int | Sizes = 1, *, bias: bool
    ) -> nn.Module:
        margin = tuple((k - 1) // 2 for k in kernel)
        return CONV[self.dims](channels, out, kernel, stride, margin, bias=bias)

    def norm(self, channels: int) -> nn.Module:
        return self._norm(channels, eps=self._eps, affine=True)

    def head(self, channels: int, classes: int) -> nn.Module:
        return CONV[self.dims](channels, classes, 1)

    def enlarge(self, channels: int, out: int, stride: Sizes) -> nn.Module:
        return TRANSPOSED[self.dims](channels, out, stride, stride, bias=self.bias)


class _ConvNorm(nn.Module):
    def __init__(
        self,
        make: _Maker,
        channels: int,
        out: int,
        kernel: Sizes,
        stride: int | Sizes = 1,
        *,
        linear: bool = False,
        bias: bool | None = None,
    ) -> None:
        super().__init__()
        bias = make.bias if bias is None else bias
        self.conv = make.conv(channels, out, kernel, stride, bias=bias)
        self.norm = make.norm(out)
        self.slope = None if linear else make.slope

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x))
        return x if self.slope is None else functional.leaky_relu(x, self.slope)


class _Convs(nn.Module):
    """Convolutions one after the other; the first one strides."""

    def __init__(
        self,
        make: _Maker,
        channels: int,
        out: int,
        kernel: Sizes,
        stride: int | Sizes = 1,
        *,
        count: int = 1,
    ) -> None:
        super().__init__()
        first = _ConvNorm(make, channels, out, kernel, stride)
        rest = (_ConvNorm(make, out, out, kernel) for _ in range(count - 1))
        self.convs = nn.Sequential(first, *rest)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.convs(x)
        return y


class _Block(nn.Module):
    """Two convolutions added to a shortcut that pools, then changes the channels."""

    def __init__(self, make: _Maker, channels: int, out: int, kernel: Sizes, stride: Sizes) -> None:
        super().__init__()
        self.conv1 = _ConvNorm(make, channels, out, kernel, stride)
        self.conv2 = _ConvNorm(make, out, out, kernel, linear=True)
        shortcut: list[nn.Module] = []
        if any(s != 1 for s in stride):
            shortcut.append(AVERAGE_POOL[make.dims](stride, stride))
        if channels != out:
            one = (1,) * make.dims
            shortcut.append(_ConvNorm(make, channels, out, one, linear=True, bias=False))
        self.skip = nn.Sequential(*shortcut)
        self.slope = make.slope

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.leaky_relu(self.conv2(self.conv1(x)) + self.skip(x), self.slope)


class _Blocks(nn.Module):
    def __init__(
        self, make: _Maker, channels: int, out: int, kernel: Sizes, stride: Sizes, *, count: int
    ) -> None:
        super().__init__()
        one = (1,) * make.dims
        first = _Block(make, channels, out, kernel, stride)
        self.blocks = nn.Sequential(
            first, *(_Block(make, out, out, kernel, one) for _ in range(count - 1))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.blocks(x)
        return y


class _PlainEncoder(nn.Module):
    def __init__(
        self,
        make: _Maker,
        channels: int,
        features: Sequence[int],
        kernels: Sequence[Sizes],
        strides: Sequence[Sizes],
        counts: Sequence[int],
        stem: int | None,
    ) -> None:
        super().__init__()
        if stem is not None:
            raise ValueError("stem_channels are for a residual encoder; remove them")
        self.stages = nn.Sequential()
        for out, kernel, stride, count in zip(features, kernels, strides, counts, strict=True):
            convs = _Convs(make, channels, out, kernel, stride, count=count)
            self.stages.append(nn.Sequential(convs))
            channels = out

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        seen = []
        for stage in self.stages:
            x = stage(x)
            seen.append(x)
        return seen


class _ResidualEncoder(nn.Module):
    def __init__(
        self,
        make: _Maker,
        channels: int,
        features: Sequence[int],
        kernels: Sequence[Sizes],
        strides: Sequence[Sizes],
        counts: Sequence[int],
        stem: int | None,
    ) -> None:
        super().__init__()
        stem = features[0] if stem is None else stem
        self.stem = _Convs(make, channels, stem, kernels[0])
        self.stages = nn.Sequential()
        for out, kernel, stride, count in zip(features, kernels, strides, counts, strict=True):
            self.stages.append(_Blocks(make, stem, out, kernel, stride, count=count))
            stem = out

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.stem(x)
        seen = []
        for stage in self.stages:
            x = stage(x)
            seen.append(x)
        return seen


class _Decoder(nn.Module):
    def __init__(
        self,
        make: _Maker,
        classes: int,
        features: Sequence[int],
        kernels: Sequence[Sizes],
        strides: Sequence[Sizes],
        counts: Sequence[int],
    ) -> None:
        super().__init__()
        self.stages, self.transpconvs, self.seg_layers = (nn.ModuleList() for _ in range(3))
        for i, count in enumerate(counts):
            below, width, kernel = features[-1 - i], features[-2 - i], kernels[-2 - i]
            self.transpconvs.append(make.enlarge(below, width, strides[-1 - i]))
            self.stages.append(_Convs(make, 2 * width, width, kernel, count=count))
            self.seg_layers.append(make.head(width, classes))

    def forward(self, skips: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return the logits of every level in training, else of the finest, coarsest first."""
        x, outputs = skips[-1], []
        last = len(self.stages) - 1
        levels = zip(
            self.transpconvs, self.stages, self.seg_layers, reversed(skips[:-1]), strict=True
        )
        for i, (up, stage, head, skip) in enumerate(levels):
            x = stage(torch.cat([up(x), skip], dim=1))
            if self.training or i == last:
                outputs.append(head(x))
        return outputs
