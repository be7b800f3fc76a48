"""Dense networks on windows larger than their patch, where that gives the same.

A patch throws its halo away: of 192 px with a halo of 32 it keeps 44 %, of a window of 704 px 83 %.
A network gives the same on both if it looks no farther than its halo, its poolings divide the step,
and nothing in it looks at the whole window. A card may state that (`output.max_patch`); here it is
compared, once per machine, before it is relied on.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import ModelError
from wsiseg.model.activation import IDENTITY, Scaling, activate
from wsiseg.model.cache import cache_key, cached_file, code_fingerprint
from wsiseg.model.card import StageSpec
from wsiseg.model.enlarge import Arrays, enlarged, widened, window_patches
from wsiseg.model.package import Package
from wsiseg.model.predictor import Network, Predictor, StagePredictor
from wsiseg.model.tuning import StageTuning, Tuning, library_versions
from wsiseg.options import Precision

__all__ = ["WINDOW_TOLERANCE", "WindowCheck", "WindowNetworks", "compare_windows"]

WINDOW_TOLERANCE = 1e-4
"""Largest difference in float32: of a probability, which heatmaps store in steps of 0.004, and of a
raw value as a share of the largest one, since where a network is sure, nothing changes its
probabilities."""

LEAST_LIGHT = 0.1
"""Of the noise that windows are compared on, where it is darkest: no two patches look alike to what
sees all of a window, such as a mean."""

Patch = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WindowCheck:
    """What the comparison of a window with patches found."""

    stage: str
    patch: Patch
    """Of the window, pixels per axis."""

    error: float
    """Largest difference that the window keeps; of what, see `WINDOW_TOLERANCE`."""

    allowed: float = WINDOW_TOLERANCE


@dataclass(frozen=True)
class NetworkMaker:
    """How the networks of a model are made."""

    name: str
    device: str
    precision: Precision
    build: Callable[[StageSpec, Precision], Network]
    """From a stage, which may be widened."""

    tune: Callable[[StageSpec], StageTuning | None]
    """What was measured for a widened stage; `None` where nothing is."""

    @property
    def takes_any_patch(self) -> bool:
        """Whether one network serves all patches."""
        return self.name == "torch"


class WindowNetworks:
    """The networks of a model on larger windows, made and compared when first asked for.

    Parameters
    ----------
    package
        The model.
    predictors, tuning
        Those on the patches of the card.
    maker
        What made them.
    """

    def __init__(
        self,
        package: Package,
        predictors: Sequence[StagePredictor],
        tuning: Tuning | None,
        maker: NetworkMaker,
    ) -> None:
        self._package = package
        self._maker = maker
        self._tuning = tuning
        self._stages = package.card.stages
        self._made = {
            (s, stage.inputs[0].patch): predictor
            for s, (stage, predictor) in enumerate(zip(self._stages, predictors, strict=True))
        }

    def patches(self, s: int) -> tuple[Patch, ...]:
        """Return the patches that stage `s` may run on, largest first; see `window_patches`."""
        return window_patches(self._stages[s])

    def predictor(self, s: int, patch: Patch) -> StagePredictor:
        """Return the network of stage `s` for a patch.

        The others of this stage free what only calls need.

        Raises
        ------
        ModelError
            If it does not give what it gives on the patch of the card.
        """
        self.verify(s, patch)
        chosen = self._wide(s, patch)
        for (stage, _), other in tuple(self._made.items()):
            if stage == s and other is not chosen and not self._maker.takes_any_patch:
                other.rest()
        return chosen

    def tuning(self, patches: Sequence[Patch]) -> Tuning | None:
        """Return what was measured, with the stages on these patches."""
        if self._tuning is None:
            return None
        stages = {stage.stage: stage for stage in self._tuning.stages}
        for stage, patch in zip(self._stages, patches, strict=True):
            if patch != stage.inputs[0].patch:
                found = self._maker.tune(widened(stage, patch))
                stages.pop(stage.name, None)
                stages |= {stage.name: found} if found else {}
        return Tuning(self._tuning.backend, tuple(stages.values()), self._tuning.seconds_per_mm2)

    def verify(self, s: int, patch: Patch) -> None:
        """Compare as `check` does, unless that was done on this machine before."""
        if patch == self._stages[s].inputs[0].patch:
            return
        key = cache_key(
            self._package.digest,
            self._package.check_sha256,
            self._stages[s].name,
            patch,
            self._maker.name,
            self._maker.device,
            code_fingerprint(),
            *library_versions(),
        )
        cached_file(
            "windows", key, ".json", lambda: json.dumps(asdict(self.check(s, patch))).encode()
        )

    def check_largest(self) -> tuple[WindowCheck, ...]:
        """Compare the largest window of each stage that may have one."""
        return tuple(
            self.check(s, self.patches(s)[0])
            for s in range(len(self._stages))
            if len(self.patches(s)) > 1
        )

    def verify_largest(self) -> None:
        """Do what `check_largest` does, unless it was done on this machine before."""
        for s in range(len(self._stages)):
            self.verify(s, self.patches(s)[0])

    def check(self, s: int, patch: Patch) -> WindowCheck:
        """Compare a window of stage `s` with the patches in it, in float32 whatever the run has.

        Raises
        ------
        ModelError
            If values differ by more than `WINDOW_TOLERANCE`, or the network cannot run.
        """
        stage, last = self._stages[s], s == len(self._stages) - 1
        scaling = self._package.card.calibration.scaling if last else IDENTITY
        small, wide = self._pair(s, patch)
        inputs = self._package.read_examples()[stage.name].inputs
        what = f"{self._package.card.name}, stage {stage.name!r}: on windows of {_size(patch)}"
        try:
            found = [
                compare_windows(stage, small, wide, scene, scaling)
                for scene in (enlarged(inputs, patch), _noise(inputs, patch))
            ]
        except ModelError as problem:
            raise ModelError(
                f"{what} the network cannot run: {problem}; remove output.max_patch from model.json"
            ) from problem
        error = float(np.max(found))  # NaN, too, unlike `max`
        if not error <= WINDOW_TOLERANCE:  # not `error > ...`: NaN must not pass
            raise ModelError(
                f"{what} its values differ by {error:.3g} from those on patches of "
                f"{_size(stage.inputs[0].patch)}: needed at most {WINDOW_TOLERANCE:g} (of a "
                "probability, and of the largest raw value); it looks "
                f"farther than its halo of {_size(stage.output.halo or ())}, at the window as a "
                f"whole, or pools by what does not divide the step of {_size(stage.step)}: enlarge "
                "the halo, or remove output.max_patch from model.json"
            )
        return WindowCheck(stage.name, patch, error)

    def _pair(self, s: int, patch: Patch) -> tuple[StagePredictor, StagePredictor]:
        """Return the networks on the card's patch and on a larger one, in float32."""
        stage = self._stages[s]
        small = self._made[s, stage.inputs[0].patch]
        if self._maker.precision == "float32":
            return small, self._wide(s, patch)
        network = self._maker.build(stage, "float32")  # of torch, which takes any patch
        small = StagePredictor(stage, small.classes, network)
        return small, small.for_stage(widened(stage, patch))

    def _wide(self, s: int, patch: Patch) -> StagePredictor:
        found = self._made.get((s, patch))
        if found is None:
            stage = widened(self._stages[s], patch)
            small = self._made[s, self._stages[s].inputs[0].patch]
            found = small.for_stage(stage)
            if not self._maker.takes_any_patch:
                network = self._maker.build(stage, self._maker.precision)
                found = StagePredictor(stage, small.classes, network)
            self._made[s, patch] = found
        return found


def compare_windows(
    stage: StageSpec, small: Predictor, wide: Predictor, window: Arrays, scaling: Scaling = IDENTITY
) -> float:
    """Return how far the values on one window differ from those on the patches in it.

    That is the largest difference of a probability, or of a raw value as a share of the largest.

    Parameters
    ----------
    stage
        With the small patch.
    small, wide
        Its network on the patch, and on the window.
    window
        One array `(1, *window, channel)` per input.
    scaling
        Of raw values; see `Calibration`.
    """
    patch, step = stage.inputs[0].patch, stage.step
    halo = stage.output.halo or (0,) * len(patch)
    kept = tuple(slice(h, h + s) for h, s in zip(halo, step, strict=True))

    def probabilities(raw: NDArray[np.float32]) -> NDArray[np.float32]:
        return activate(scaling(raw), stage.output.activation, offsets=stage.output.offsets)

    whole = wide(*window)
    unit = max(float(np.abs(whole).max()), np.finfo(np.float32).tiny)
    counts = ((n - p) // s + 1 for n, p, s in zip(window[0].shape[1:-1], patch, step, strict=True))
    worst = 0.0
    for place in product(*map(range, counts)):
        start = tuple(i * s for i, s in zip(place, step, strict=True))
        box = (slice(None), *(slice(a, a + p) for a, p in zip(start, patch, strict=True)))
        alone = small(*(np.ascontiguousarray(array[box]) for array in window))[0][kept]
        wanted = whole[box][0][kept]
        raw = np.abs(alone - wanted).max() / unit
        changed = np.abs(probabilities(alone) - probabilities(wanted)).max()
        worst = float(np.max([worst, raw, changed]))  # which keeps NaN
    return worst


def _noise(inputs: Arrays, patch: Patch) -> Arrays:
    """Return a window of noise that grows along all axes, one array per input."""
    random = np.random.default_rng(0)
    ramps = np.meshgrid(*(np.linspace(LEAST_LIGHT, 1, n) for n in patch), indexing="ij")
    light: NDArray[np.float32] = np.stack(ramps, dtype=np.float32).mean(axis=0)[None, ..., None]
    made = (random.random((1, *patch, a.shape[-1]), np.float32) * light for a in inputs)
    return tuple(
        (values * 255).astype(np.uint8) if array.dtype == np.uint8 else values
        for values, array in zip(made, inputs, strict=True)
    )


def _size(pixels: Patch) -> str:
    return " x ".join(map(str, pixels)) + " px"
