"""Batch renormalisation: batch normalisation that trains as it evaluates."""

import torch
from torch import nn
from torch.nn import functional

__all__ = ["BatchRenorm2d"]


class BatchRenorm2d(nn.BatchNorm2d):
    """Batch normalisation corrected towards the running statistics.

    With few images per step the statistics of a batch differ from those used in evaluation.
    Renormalisation multiplies by `r` and adds `d`, which make up for the difference up to a limit
    and through which no gradient flows. In evaluation it *is* batch normalisation: same
    parameters, same affine map, same ONNX operator.

    Parameters
    ----------
    channels
        Channels of the input `(n, channels, h, w)`.
    momentum
        Weight of the newest batch in the running statistics.
    r_max, d_max
        Limits of the correction: `1 / r_max <= r <= r_max`, `|d| <= d_max`.
    warm_up
        Steps of plain batch normalisation; over as many again `r_max` is reached, and over four
        times as many `d_max`, since running statistics mean little before.

    References
    ----------
    Ioffe 2017, arXiv:1702.03275; limits 3 and 5 and momentum 0.01 are the paper's, the warm-up is
    a tenth of its 5000 steps, since segmenters here train for thousands of steps, not 10^5.
    """

    def __init__(
        self,
        channels: int,
        *,
        momentum: float = 0.01,
        r_max: float = 3.0,
        d_max: float = 5.0,
        warm_up: int = 500,
    ) -> None:
        super().__init__(channels, momentum=momentum)
        if r_max < 1 or d_max < 0 or warm_up < 0:
            raise ValueError(
                f"needed r_max >= 1, d_max >= 0 and warm_up >= 0, got {r_max}, {d_max}, {warm_up}"
            )
        self.r_max, self.d_max, self.warm_up = r_max, d_max, warm_up

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalised input, same shape."""
        if not self.training:
            return super().forward(x)
        running_mean, running_var, seen = self._statistics()
        r, d = self._correction(x.detach().float(), running_mean, running_var, seen)
        seen += 1
        # (normalised * r + d) * weight + bias, as one batch normalisation
        return functional.batch_norm(
            x,
            running_mean,
            running_var,
            self.weight * r,
            self.weight * d + self.bias,
            training=True,
            momentum=self.momentum or 0.0,
            eps=self.eps,
        )

    def _statistics(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        mean, var, seen = self.running_mean, self.running_var, self.num_batches_tracked
        if mean is None or var is None or seen is None:
            raise RuntimeError("batch renormalisation needs running statistics")
        return mean, var, seen

    def _correction(
        self,
        x: torch.Tensor,
        running_mean: torch.Tensor,
        running_var: torch.Tensor,
        seen: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        running = (running_var + self.eps).sqrt()
        # As tensors: reading the count back would make a GPU wait in every layer.
        progress = (seen - self.warm_up) / max(1, self.warm_up)
        r_max = 1 + (self.r_max - 1) * progress.clamp(0, 1)
        d_max = self.d_max * (progress / 4).clamp(0, 1)
        r = ((variance + self.eps).sqrt() / running).clamp(1 / r_max, r_max)
        d = ((mean - running_mean) / running).clamp(-d_max, d_max)
        return r, d
