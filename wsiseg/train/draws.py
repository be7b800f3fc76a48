"""Random numbers of a batch: drawn on the CPU in one order, used on any device."""

import numpy as np
import torch

__all__ = ["Draws"]


class Draws:
    """Random numbers for `count` patches.

    Parameters
    ----------
    generator
        On the CPU; its state decides everything.
    count
        Number of patches.
    device
        Where the numbers are wanted.
    """

    def __init__(self, generator: torch.Generator, count: int, device: torch.device) -> None:
        self.count, self.device = count, device
        self._generator = generator

    def some(self, share: float) -> torch.Tensor:
        """Return the indices, int64, of patches chosen with this chance each."""
        chosen = torch.rand(self.count, generator=self._generator) < share
        return chosen.nonzero()[:, 0].to(self.device)

    def of(self, chosen: torch.Tensor) -> "Draws":
        """Return the draws of as many patches as were chosen."""
        return Draws(self._generator, len(chosen), self.device)

    def uniform(self, low: float, high: float, *shape: int) -> torch.Tensor:
        """Return float32 (count, *shape) between two numbers."""
        drawn = torch.rand((self.count, *shape), generator=self._generator)
        return (low + (high - low) * drawn).to(self.device)

    def around(self, middle: float, amount: float, *shape: int) -> torch.Tensor:
        """Return float32 (count, *shape), `middle` ± `amount`."""
        return self.uniform(middle - amount, middle + amount, *shape)

    def factor(self, amount: float, *shape: int) -> torch.Tensor:
        """Return float32 (count, *shape) between `1 / (1 + amount)` and `1 + amount`."""
        limit = float(np.log1p(amount))
        return self.uniform(-limit, limit, *shape).exp()

    def normal(self, deviation: float, *shape: int) -> torch.Tensor:
        """Return float32 (count, *shape) normal numbers around 0."""
        drawn = torch.randn((self.count, *shape), generator=self._generator)
        return (deviation * drawn).to(self.device)

    def integers(self, stop: int) -> torch.Tensor:
        """Return int64 (count,) on the CPU, from 0 up to before `stop`."""
        return torch.randint(stop, (self.count,), generator=self._generator)

    def generator(self) -> torch.Generator:
        """Return a generator on the device, for as many numbers as there are pixels."""
        seed = int(torch.randint(2**62, (1,), generator=self._generator))
        return torch.Generator(self.device).manual_seed(seed)
