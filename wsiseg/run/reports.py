"""What became of a slide, and of a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsiseg.errors import WsisegError
from wsiseg.run.limits import reason_of

__all__ = ["FolderReport", "SlideReport", "failure_text"]


@dataclass(frozen=True, slots=True)
class SlideReport:
    """What became of one slide."""

    path: str
    folder: str
    """Where its files are, or would have been."""

    summary: dict[str, Any]
    warnings: tuple[str, ...] = ()
    error: str | None = None
    error_class: str | None = None
    refused: bool = False
    """Not begun: its folder holds the result of a command that this one must not replace."""

    reused: bool = False
    """Its finished result was there already, by an earlier run or another process."""

    held_by: str | None = None
    """Not begun, or given up: this other process works on it."""

    @property
    def state(self) -> str:
        """`done`, `there` (finished before), `failed` or `held`."""
        if self.held_by is not None:
            return "held"
        if self.error is not None:
            return "failed"
        return "there" if self.reused else "done"

    @property
    def remedy(self) -> str:
        """What to do about the error: what its text says last."""
        return (self.error or "").rpartition("; ")[2] if "; " in (self.error or "") else ""

    @property
    def message(self) -> str:
        """The error without its remedy."""
        return (self.error or "").removesuffix(f"; {self.remedy}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON lines."""
        told: dict[str, Any] = {"state": self.state}
        if self.error:
            told |= {"error": self.error, "error_class": self.error_class, "remedy": self.remedy}
        if self.held_by:
            told["held_by"] = self.held_by
        return {
            "path": self.path,
            "folder": self.folder,
            **self.summary,
            "warnings": list(self.warnings),
            **told,
        }


@dataclass(frozen=True, slots=True)
class FolderReport:
    """What became of a run."""

    done: tuple[SlideReport, ...]
    """Slides whose results are there, also those that were there before (`reused`)."""

    failures: tuple[SlideReport, ...]
    summary: Path
    """`summary.csv`; `failures.csv` stands beside it where there are failures."""

    held: tuple[SlideReport, ...] = ()
    """Slides left to other processes; only where these are not waited for."""

    problem: str | None = None
    """Why the tables could not be written; the next run into the folder completes them."""

    @property
    def reused(self) -> tuple[SlideReport, ...]:
        """Slides whose results were there before, or were made by another process."""
        return tuple(report for report in self.done if report.reused)


def failure_text(error: BaseException, path: str) -> str:
    """Return in one line what went wrong with the slide at `path`, which it names."""
    limit = reason_of(error)
    if limit is not None:
        return f"{path}: {limit}"
    text = " ".join(str(error).split())
    if isinstance(error, WsisegError):
        return text if Path(path).name in text else f"{path}: {text}"
    return f"{path}: {type(error).__name__}: {text}; run `wsiseg --debug ...` and report it"
