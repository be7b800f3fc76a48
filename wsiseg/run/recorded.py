"""What a `run.json` says of its model and machine, and what of that there is here."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from wsiseg.engine import fingerprint, versions
from wsiseg.engine.execute import Pace
from wsiseg.engine.provenance import code_fingerprint, hardware
from wsiseg.errors import ModelError, RunError
from wsiseg.model import load_model
from wsiseg.model.gpus import count_gpus
from wsiseg.options import Backend, Precision, RunOptions

__all__ = ["RecordedRun", "Repeated", "paces_of", "require_same"]

Repeated = tuple[Path, Mapping[str, Pace]]
"""Where the files are, and how each stage was driven."""


class _Driven(Protocol):
    """Of the plan of a stage."""

    @property
    def stage(self) -> str: ...

    @property
    def pace(self) -> Pace: ...


def paces_of(stages: Iterable[_Driven]) -> dict[str, Pace]:
    """Return how each stage was driven, by its name."""
    return {stage.stage: stage.pace for stage in stages}


class RecordedRun:
    """The part of a record that is the same for slides and scans.

    Parameters
    ----------
    said
        The record.
    place
        Where the slide or scan is now, if not where it was.
    model
        Where the model is now, if not where it was.

    Raises
    ------
    KeyError, TypeError, ValueError
        If something is missing, or is not what it should be.
    """

    def __init__(
        self, said: Mapping[str, Any], place: Path | str | None, model: Path | str | None
    ) -> None:
        self.said = said
        self._before: str | None = said["scan" if "scan" in said else "slide"]["path"]
        self.place = place or self._before
        self._model = model
        self.command: str = said["command"]
        stages = said["plan"]["stages"]
        self.paces = {stage["stage"]: Pace(**stage["pace"]) for stage in stages}
        wanted = said["model"]["device"].partition(":")[0]
        self._device = "cuda" if wanted == "cuda" and count_gpus() else "cpu"
        here = RunOptions(**said["options"]["run"])
        self.run = replace(here, threads=None, memory_bytes=None, batch_size=None)

    def load(self) -> None:
        """Load the model, by its backend if that is here, and refuse another model."""
        said = self.said["model"]
        moved = self._device != said["device"].partition(":")[0]
        precision: Precision = "float32" if moved else said["precision"]
        backends: list[Backend] = ["auto"] if moved else [said["backend"], "auto"]
        places = [self._model] if self._model else [said["path"], said["name"]]
        problem: ModelError | None = None
        for place, backend in itertools.product(places, backends):
            try:
                self.model = load_model(
                    place, backend=backend, device=self._device, precision=precision
                )
                break
            except ModelError as error:
                problem = problem or error
        else:
            raise ModelError(f"{said['name']}: {problem}; give --model") from problem
        if self.model.digest != said["digest"]:
            raise ModelError(
                f"{self.model.path}: is not the model of the run: needed digest "
                f"{said['digest'][:16]}, found {self.model.digest[:16]}; give --model"
            )

    def was_driven_so(self, stage: str, pace: Pace) -> bool:
        """Tell whether a stage was driven as it is now, as far as that may change bits."""
        before = self.paces.get(stage)
        return before is not None and replace(before, workers=pace.workers) == pace

    def circumstances(self) -> Iterator[str]:
        """Yield what differs between then and now."""
        said, model = self.said["model"], self.model
        named, name = (Path(path or "").name for path in (self._before, self.place))
        if named != name:
            yield f"name of the slide: {named} then, {name} now"
        now = {"wsiseg's code": code_fingerprint()} | versions()
        then = {"wsiseg's code": self.said["code"]} | self.said["versions"]
        for name in then | now:
            if then.get(name) != now.get(name):
                yield f"{name}: {then.get(name, 'none')} then, {now.get(name, 'none')} now"
        found = {
            "backend": model.backend,
            "device": model.device.partition(":")[0],
            "processor": hardware(model.device),
            "precision": model.precision,
        }
        for name, value in found.items():
            before = said[name].partition(":")[0] if name == "device" else said[name]
            if before != value:
                yield f"{name}: {before} then, {value} now"


def require_same(path: Path | str | None, said: Mapping[str, Any], what: str) -> Path | str:
    """Return where a slide or scan is, if it is the one of the record.

    Raises
    ------
    RunError
        If it is not there, or is another one.
    """
    if path is None:
        raise RunError(f"{said['name']}: the run was not on a file; give --slide")
    found = fingerprint(path)
    if found is None:
        raise RunError(f"{path}: is not there; needed the {what} of the run: give --slide")
    if found != said["sha256_sampled"]:
        raise RunError(
            f"{path}: is not the {what} of the run: needed fingerprint "
            f"{str(said['sha256_sampled'])[:16]}, found {found[:16]}; give --slide"
        )
    return path
