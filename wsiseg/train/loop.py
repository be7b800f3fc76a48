"""The training loop: rounds of steps, each followed by validation and a checkpoint.

Between rounds nothing is under way, so a checkpoint holds everything: a run that is killed and
goes on gives the same weights, to the bit on a CPU, as one that was not. All random numbers come
from the seed and the number of the step, never from what ran before.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import nn

from wsiseg.errors import TrainingError
from wsiseg.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from wsiseg.train.places import PlaceSampler
from wsiseg.train.reading import Batch

__all__ = ["FitOptions", "History", "Lesson", "RoundReport", "fit"]

WARM_UP = 0.1
"""Share of all steps in which the learning rate rises."""

PLATEAU_ROUNDS, PLATEAU_FACTOR = 3, 0.5
"""After so many rounds without a better validation the learning rate falls by the factor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """How long and how fast to train.

    Raises
    ------
    TrainingError
        If a number makes no sense.
    """

    rounds: int = 20
    steps: int = 100
    """Steps of a round."""

    batch: int = 16
    accumulate: int = 1
    """Batches whose gradients make one step."""

    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    """After rising over the first tenth of the steps: along a cosine to zero, halved where the
    validation has not improved for three rounds, or as it is."""

    ema: float = 0.0
    """Decay per step of the running mean of the weights, which is then what is validated and kept;
    0: the weights themselves."""

    patience: int = 0
    """Rounds without a better validation after which to stop; 0: never. The best weights are kept
    wherever there is a validation."""

    amp: bool = False
    """bfloat16 where the device is quick at it."""

    clip: float = 0.0
    """Largest norm of the gradients; 0: as they are."""

    hard: float = 0.0
    """Share of the patches taken from the hardest places seen so far."""

    seed: int = 0

    def __post_init__(self) -> None:
        whole = (self.rounds, self.steps, self.batch, self.accumulate)
        rest = (self.patience, self.clip, self.weight_decay, self.seed)
        if min(whole) < 1 or min(rest) < 0 or not 0 < self.learning_rate < math.inf:
            raise TrainingError(
                "fit: needed rounds, steps, batch and accumulate >= 1, patience, clip, "
                "weight_decay and seed >= 0 and a learning rate > 0, found "
                f"{self}; correct the options"
            )
        if self.schedule not in ("cosine", "plateau", "constant"):
            raise TrainingError(
                f"fit: needed schedule cosine, plateau or constant, found {self.schedule!r}"
            )
        if not (0 <= self.ema < 1 and 0 <= self.hard < 1):
            raise TrainingError(
                f"fit: needed ema and hard from 0 to below 1, found {self.ema} and {self.hard}"
            )


class Lesson(Protocol):
    """What there is to learn: batches, and how good an answer is."""

    @property
    def sampler(self) -> PlaceSampler:
        """What chooses the patches, and learns which are hard."""
        ...

    def batches(self, count: int) -> Iterator[Batch]:
        """Yield the next batches."""
        ...

    def tensors(self, batch: Batch, seed: int) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """Return the network's inputs, augmented, and int64 labels, on the device."""
        ...

    def loss(
        self,
        outputs: torch.Tensor | Sequence[torch.Tensor],
        labels: torch.Tensor,
        inputs: tuple[torch.Tensor, ...],
    ) -> torch.Tensor:
        """Return a scalar, from what the network made of its inputs."""
        ...

    def hardness(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return how wrong the answer for each patch is, (n,)."""
        ...

    def validate(self, network: nn.Module) -> dict[str, float] | None:
        """Return `loss` (less is better) and other scores; `None`: there is nothing to test on."""
        ...


@dataclass(frozen=True, slots=True)
class RoundReport:
    """One round."""

    round: int
    loss: float
    """Mean over its steps."""

    learning_rate: float
    seconds: float
    scores: dict[str, float] = field(default_factory=dict)
    """Of the validation."""


@dataclass(slots=True)
class History:
    """All rounds so far, and which one was the best."""

    rounds: list[RoundReport] = field(default_factory=list)
    best: int = -1
    """Index of the round whose weights are kept; -1: the last one."""

    def add(self, report: RoundReport) -> bool:
        """Add a round; tell whether its weights are to be kept."""
        self.rounds.append(report)
        if not report.scores:
            return True
        better = self.best < 0 or report.scores["loss"] < self.rounds[self.best].scores["loss"]
        if better:
            self.best = len(self.rounds) - 1
        return better

    @property
    def since_best(self) -> int:
        """Rounds since the best one."""
        return len(self.rounds) - 1 - self.best if self.best >= 0 else 0


def fit(
    network: nn.Module,
    lesson: Lesson,
    options: FitOptions,
    *,
    device: torch.device,
    folder: Path,
    key: str,
    told: Callable[[RoundReport], None] = lambda _: None,
) -> History:
    """Train a network, or go on with it; it is left with its best weights, in evaluation mode.

    Parameters
    ----------
    network
        Fresh; it gets the weights of the checkpoint, if there is one.
    lesson
        What to learn.
    options
        How long and how fast.
    folder
        Where the checkpoint lies or will lie.
    key
        Says what is trained: a checkpoint of another key is refused.
    told
        Called after each round.

    Raises
    ------
    TrainingError
        If loss, weights or validation stop being numbers: the checkpoint of the last good round
        stays. If the checkpoint is damaged or another network's.
    """
    network.to(device)
    if all(value.dim() < 5 for value in network.parameters()):  # of volumes it is for five axes
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = _State(network, options)
    history = History()
    if (kept := load_checkpoint(folder, key, device)) is not None:
        history = History([RoundReport(**row) for row in kept.rounds], kept.best_round)
        state.restore(kept, folder)
        lesson.sampler.restore(kept.sampler)
    while len(history.rounds) < options.rounds and not _stuck(history, options):
        report = _round(state, lesson, options, len(history.rounds))
        if history.add(report):
            state.keep()
        if options.schedule == "plateau" and report.scores and _stalled(history):
            state.slow_down()
        save_checkpoint(folder, state.checkpoint(key, history, lesson.sampler))
        told(report)
    network.load_state_dict(state.kept)
    network.eval()
    return history


def _stuck(history: History, options: FitOptions) -> bool:
    return bool(options.patience) and history.since_best >= options.patience


def _stalled(history: History) -> bool:
    return history.since_best > 0 and history.since_best % PLATEAU_ROUNDS == 0


class _State:
    """The network with everything that changes while it learns."""

    def __init__(self, network: nn.Module, options: FitOptions) -> None:
        self.network, self.options = network, options
        self.optimiser = torch.optim.AdamW(
            network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        self.mean = copy.deepcopy(network) if options.ema else network
        self.slowed = 1.0
        self.kept = _clone(network.state_dict())

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        options = self.options
        total = options.rounds * options.steps
        warm = max(1, round(total * WARM_UP))
        rise = min(1.0, (step + 1) / warm)
        fall = 1.0
        if options.schedule == "cosine" and step >= warm:
            fall = 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
        return options.learning_rate * rise * fall * self.slowed

    def step(self, number: int) -> None:
        """Change the weights by the gradients."""
        if self.options.clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.options.clip)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(number)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.options.ema:
            self._average(number)

    @torch.no_grad()
    def _average(self, number: int) -> None:
        # At first the mean of all so far, so that the fresh weights are soon forgotten.
        decay = min(self.options.ema, (1 + number) / (10 + number))
        pairs = zip(
            self.mean.state_dict().values(), self.network.state_dict().values(), strict=True
        )
        for mean, value in pairs:
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)

    def keep(self) -> None:
        """Keep the weights there are now."""
        self.kept = _clone(self.mean.state_dict())

    def slow_down(self) -> None:
        """Lower the learning rate from here on."""
        self.slowed *= PLATEAU_FACTOR

    def checkpoint(self, key: str, history: "History", sampler: PlaceSampler) -> Checkpoint:
        """Return what going on from here needs."""
        return Checkpoint(
            key=key,
            rounds=[asdict(row) for row in history.rounds],
            best_round=history.best,
            sampler=sampler.state(),
            network=self.network.state_dict(),
            mean=self.mean.state_dict() if self.options.ema else {},
            best=self.kept,
            optimiser=self.optimiser.state_dict(),
            slowed=self.slowed,
        )

    def restore(self, kept: Checkpoint, folder: Path) -> None:
        """Go on from the checkpoint of a folder."""
        try:
            self.network.load_state_dict(kept.network)
            if self.options.ema:
                self.mean.load_state_dict(kept.mean)
            self.optimiser.load_state_dict(kept.optimiser)
        except (RuntimeError, ValueError, LookupError) as error:
            raise TrainingError(
                f"{folder}: the checkpoint is of another network: {str(error).splitlines()[0]}; "
                "train into another folder, or delete it to begin anew"
            ) from error
        self.kept = kept.best
        self.slowed = kept.slowed


def _round(state: _State, lesson: Lesson, options: FitOptions, number: int) -> RoundReport:
    started = time.perf_counter()
    network = state.network.train()
    device = next(network.parameters()).device
    batches = lesson.batches(options.steps * options.accumulate)
    total, hard = 0.0, []
    for step in range(number * options.steps, (number + 1) * options.steps):
        torch.manual_seed(_mixed(options.seed, step))  # dropout
        for part in range(options.accumulate):
            batch = next(batches)
            inputs, labels = lesson.tensors(batch, _mixed(options.seed, step, part))
            with torch.autocast(device.type, torch.bfloat16, enabled=options.amp):
                outputs = network(*inputs)
            value = lesson.loss(outputs, labels, inputs) / options.accumulate
            if not math.isfinite(amount := value.item()):
                raise _diverged(f"the loss became {amount} at step {step + 1}", number, options)
            torch.autograd.backward(value)
            total += amount
            if options.hard:
                logits = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
                hard.append((batch.places, lesson.hardness(logits.detach(), labels).tolist()))
        state.step(step)
    for places, losses in hard:
        lesson.sampler.report(places, losses)
    if not _all_finite(network) or not _all_finite(state.mean):
        raise _diverged("the weights are no numbers any more", number, options)
    scores = lesson.validate(state.mean.eval()) or {}
    if not all(map(math.isfinite, scores.values())):
        raise _diverged(f"the validation gave {scores}", number, options)
    return RoundReport(
        number,
        total / options.steps,
        state.rate((number + 1) * options.steps - 1),
        round(time.perf_counter() - started, 2),
        scores,
    )


def _all_finite(network: nn.Module) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values())


def _diverged(what: str, finished: int, options: FitOptions) -> TrainingError:
    stays = f"the checkpoint of round {finished} stays" if finished else "no checkpoint was written"
    return TrainingError(
        f"{what}, in round {finished + 1}; {stays}; lower learning_rate (now "
        f"{options.learning_rate:g}) or set clip, and train into another folder"
    )


def _mixed(*numbers: int) -> int:
    """Return one seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _clone(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in weights.items()}
