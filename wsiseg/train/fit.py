"""The training loop."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from wsiseg.errors import TrainingError
from wsiseg.train.augment import AugmentOptions, augment
from wsiseg.train.sampling import Batch, PatchSampler

__all__ = ["FitOptions", "batches", "fit", "to_tensors"]

log = logging.getLogger(__name__)

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From logits and int64 labels (n, y, x) to a scalar."""

REPORT_EVERY = 100
WARM_UP = 0.1
"""Share of the steps in which the learning rate rises."""


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How long and how fast to train."""

    steps: int
    batch: int
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    accumulate: int = 1
    """Batches whose gradients are summed into one step."""

    seed: int = 0
    augment: AugmentOptions = field(default_factory=AugmentOptions)

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.accumulate) < 1 or self.learning_rate <= 0:
            raise TrainingError(
                "needed steps, batch and accumulate >= 1 and a positive learning rate, found "
                f"{self}; correct the options"
            )


def batches(sampler: PatchSampler, options: FitOptions) -> Iterator[Batch]:
    """Yield augmented batches without end; the seed decides all of them."""
    rng = np.random.default_rng(options.seed)
    while True:
        yield augment(sampler.draw(options.batch, rng), rng, options.augment)


def to_tensors(batch: Batch) -> tuple[torch.Tensor, ...]:
    """Return the network's inputs: RGB divided by 255 and, where there is one, the heatmap.

    Float32 NCHW; the same steps stand in the model card.
    """
    image = torch.from_numpy(batch.image).permute(0, 3, 1, 2).float() / 255
    inputs = [image.contiguous(memory_format=torch.channels_last)]
    if batch.heatmap is not None:
        inputs.append(torch.from_numpy(batch.heatmap).permute(0, 3, 1, 2))
    return tuple(inputs)


def fit(
    network: nn.Module,
    sampler: PatchSampler,
    loss: Loss,
    options: FitOptions,
    *,
    device: str = "cpu",
) -> list[float]:
    """Train a network in place and leave it in evaluation mode.

    AdamW; the learning rate rises over the first tenth of the steps, then falls to zero along a
    cosine. There is no validation set and no early stopping, so nothing is selected.

    Parameters
    ----------
    network
        Takes `to_tensors(batch)`, returns logits.
    sampler
        Where the patches come from.
    loss
        From logits and labels to a scalar.
    options
        Steps, batch, learning rate, seed.

    Returns
    -------
    list of float
        The loss of each step.

    Raises
    ------
    TrainingError
        If the loss stops being a number.
    """
    torch.manual_seed(options.seed)  # dropout
    network.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, options.steps))
    stream = batches(sampler, options)
    history: list[float] = []
    for step in range(options.steps):
        total = 0.0
        for _ in range(options.accumulate):
            batch = next(stream)
            logits = network(*(tensor.to(device) for tensor in to_tensors(batch)))
            labels = torch.from_numpy(batch.labels).long().to(device)
            value = loss(logits, labels) / options.accumulate
            torch.autograd.backward(value)
            total += value.item()
        if not np.isfinite(total):
            raise TrainingError(
                f"the loss became {total} at step {step}: lower learning_rate "
                f"(now {options.learning_rate})"
            )
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        history.append(total)
        if (step + 1) % REPORT_EVERY == 0:
            recent = float(np.mean(history[-REPORT_EVERY:]))
            log.info("step %d of %d: loss %.4f", step + 1, options.steps, recent)
    network.eval()
    return history


def _rate(step: int, steps: int) -> float:
    warm = max(1, round(steps * WARM_UP))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(1, steps - warm))))
