"""What is to be done: a slide or a scan, and how it is opened."""

from dataclasses import dataclass
from typing import Literal

from wsiseg.run.slide_table import Mpp

__all__ = ["SeriesChoice", "SlideJob"]


@dataclass(frozen=True, slots=True)
class SeriesChoice:
    """How DICOM series are opened; see `wsiseg.open_volume`."""

    series: str | None = None
    allow_gap: bool = False
    tilt: Literal["shear"] | None = None


@dataclass(frozen=True, slots=True)
class SlideJob:
    """One slide to work on."""

    path: str
    """File, folder or URL."""

    output: str
    """Name of its folder below the output folder; unique within a run."""

    mpp: Mpp = None
    """µm per pixel that overrides the file's: one value, or (x, y)."""

    reader: str | None = None

    choice: SeriesChoice = SeriesChoice()
    """For scans."""

    more: tuple[str, ...] = ()
    """Of scans: files of further channels, in the order of the model's card."""

    priors: tuple[tuple[str, str], ...] = ()
    """Of scans: names and files of channels known from elsewhere."""
