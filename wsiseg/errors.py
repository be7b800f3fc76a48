"""Every error and warning wsiseg raises on purpose.

* WsisegError
  + SourceError                  a slide or volume cannot be opened or read
    - UnsupportedFormatError     no reader knows this file
    - DamagedFileError           (OSError) the file, or a tile of it, cannot be decoded
      . TooDamagedError          too much of the tissue is affected
    - MissingSpacingError        (ValueError) the file does not say how large a pixel is
    - LevelError                 (IndexError) the pyramid has no such level
    - DicomSeriesError           DICOM images make no volume
      . NoImagesError            there are none
      . SeveralSeriesError       they are of several series
      . MixedImagesError         they differ in size, pixel size or kind of pixels
      . MixedOrientationError    they lie in planes that are not parallel
      . NoPlaceError             (MissingSpacingError) they do not say where they are: screenshots
      . LocalizerError           they are localisers
      . NotAVolumeError          they are all at one place, or too few to tell their distance
      . TimePointsError          several at each place: time points, echoes, directions
      . DuplicateSlicesError     several at some places
      . MissingSlicesError       some are missing
      . UnevenSlicesError        the gaps between them differ
      . TiltedSlicesError        the stack leans: gantry tilt
      . VariableTiltError        the stack leans by differing angles
  + GridError                    (ValueError) the tiling asked for cannot exist
  + TissueError                  tissue cannot be looked for
  + ModelError                   a model cannot be used
    - ModelCardError             (ValueError) the card is missing, malformed or of another version
    - WeightsError               weights are missing, changed, or unsafe to load
    - SpacingUnavailableError    the model wants finer pixels than the slide has
    - OutputShapeError           the network returned something the card does not promise
    - DeviceMemoryError          (MemoryError) the device cannot hold even the least it must
  + HeatmapError                 a heatmap cannot be written or read
    - HeatmapExistsError         (FileExistsError) it is there already
    - UnfinishedHeatmapError     it was never finished
  + PlanError                    a run cannot be planned
    - MemoryBudgetError          the plan needs more memory than allowed
  + AnnotationError              (ValueError) annotations cannot be made, written or read
    - LabelError                 a class name or value is unknown
  + TrainingError                a network cannot be trained as asked
  + RunError                     a run over slides cannot go on
    - UsageError                 (ValueError) what was asked for makes no sense
    - LeaseError                 somebody else holds the slide
    - DiskFullError              (OSError) no room left for the output
* WsisegWarning (UserWarning)
  + EmptyTissueWarning           no tissue was found
  + IncompleteSlideWarning       part of the slide could not be used
  + UnstatedGeometryWarning      a file does not say all about where its voxels are
  + SmallerBatchWarning          the device could not hold a batch, and took smaller ones

Messages read *what failed: needed, found; what to do*. Every error takes one positional argument,
so that it survives the way back from a worker process. A message is one printable line, whatever a
file or a library put into it.
"""

import errno
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = [
    "NO_ROOM",
    "AnnotationError",
    "DamagedFileError",
    "DeviceMemoryError",
    "DicomSeriesError",
    "DiskFullError",
    "DuplicateSlicesError",
    "EmptyTissueWarning",
    "GridError",
    "HeatmapError",
    "HeatmapExistsError",
    "IncompleteSlideWarning",
    "LabelError",
    "LeaseError",
    "LevelError",
    "LocalizerError",
    "MemoryBudgetError",
    "MissingSlicesError",
    "MissingSpacingError",
    "MixedImagesError",
    "MixedOrientationError",
    "ModelCardError",
    "ModelError",
    "NoImagesError",
    "NoPlaceError",
    "NotAVolumeError",
    "OutputShapeError",
    "PlanError",
    "RunError",
    "SeveralSeriesError",
    "SmallerBatchWarning",
    "SourceError",
    "SpacingUnavailableError",
    "TiltedSlicesError",
    "TimePointsError",
    "TissueError",
    "TooDamagedError",
    "TrainingError",
    "UnevenSlicesError",
    "UnfinishedHeatmapError",
    "UnstatedGeometryWarning",
    "UnsupportedFormatError",
    "UsageError",
    "VariableTiltError",
    "WeightsError",
    "WsisegError",
    "WsisegWarning",
    "unwritable",
]

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says where there is no room for a file."""


LONGEST_MESSAGE = 1000
"""Characters of a message; what is longer loses its middle."""


class WsisegError(Exception):
    """Root of all wsiseg errors; the command line prints it as one line, without a traceback."""

    def __init__(self, message: object = "") -> None:
        super().__init__(_one_line(str(message)))


def _one_line(text: str) -> str:
    """Return a text without what moves a terminal's cursor, and not too long to be read."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text.strip())
    if len(text) <= LONGEST_MESSAGE:
        return text
    return f"{text[: LONGEST_MESSAGE // 2]} ... {text[-(LONGEST_MESSAGE // 2 - 5) :]}"


class SourceError(WsisegError):
    """A slide or volume cannot be opened or read."""

    def __init__(self, message: str, *, path: Path | str | None = None) -> None:
        super().__init__(message)
        self.path = path


class UnsupportedFormatError(SourceError):
    """No reader knows this file."""


class DamagedFileError(SourceError, OSError):
    """The file, or a tile of it, cannot be decoded."""


class TooDamagedError(DamagedFileError):
    """So many blocks of a slide cannot be decoded that its result would mislead."""

    def __init__(
        self,
        message: str,
        *,
        path: Path | str | None = None,
        found: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(message, path=path)
        self.found = dict(found or {})
        """What was found, for tables: blocks, share, areas."""


class MissingSpacingError(SourceError, ValueError):
    """The file does not say how large a pixel is, or says something absurd."""


class LevelError(SourceError, IndexError):
    """The pyramid has no such level."""


class DicomSeriesError(SourceError):
    """DICOM images make no volume. What they are good for would have to be guessed."""

    def __init__(
        self,
        message: str,
        *,
        path: Path | str | None = None,
        slices: Sequence[str] = (),
        defects: Sequence[str] = (),
    ) -> None:
        super().__init__(message, path=path)
        self.slices = tuple(slices)
        """The slices concerned, each by its number, place and file."""

        self.defects = tuple(defects)
        """Everything found wrong with the series, this and more; one text each."""


class NoImagesError(DicomSeriesError):
    """There is no DICOM image, or none of the series asked for."""


class SeveralSeriesError(DicomSeriesError):
    """A folder holds several series."""


class MixedImagesError(DicomSeriesError):
    """The images of a series differ in size, pixel size, kind of pixels or frame of reference."""


class MixedOrientationError(DicomSeriesError):
    """The images of a series lie in planes that are not parallel."""


class NoPlaceError(DicomSeriesError, MissingSpacingError):
    """Images do not say where they are: screenshots, secondary captures."""


class LocalizerError(DicomSeriesError):
    """Images are localisers."""


class NotAVolumeError(DicomSeriesError):
    """All images are at one place, or they are too few to tell how far they are apart."""


class TimePointsError(DicomSeriesError):
    """There are several images at each place: time points, echoes, diffusion directions."""


class DuplicateSlicesError(DicomSeriesError):
    """There are several images at some places."""


class MissingSlicesError(DicomSeriesError):
    """Slices are missing."""


class UnevenSlicesError(DicomSeriesError):
    """The gaps between the slices differ."""


class TiltedSlicesError(DicomSeriesError):
    """The stack leans against its slices: gantry tilt."""


class VariableTiltError(DicomSeriesError):
    """The stack leans by angles that differ from slice to slice."""


class GridError(WsisegError, ValueError):
    """The tiling asked for cannot exist."""


class TissueError(WsisegError):
    """Tissue cannot be looked for."""


class ModelError(WsisegError):
    """A model cannot be used."""


class ModelCardError(ModelError, ValueError):
    """A model card is missing, malformed or of an unknown version."""


class WeightsError(ModelError):
    """Weights are missing, differ from their hash, or are unsafe to load."""


class SpacingUnavailableError(ModelError):
    """The model wants finer pixels than the slide has."""


class OutputShapeError(ModelError):
    """The network returned something its card does not promise."""


class DeviceMemoryError(ModelError, MemoryError):
    """The device has too little memory even for a single patch."""


class HeatmapError(WsisegError):
    """A heatmap cannot be written or read."""


class HeatmapExistsError(HeatmapError, FileExistsError):
    """A heatmap is there already."""


class UnfinishedHeatmapError(HeatmapError):
    """A heatmap was never finished."""


class PlanError(WsisegError):
    """A run cannot be planned."""


class MemoryBudgetError(PlanError):
    """The plan needs more memory than allowed."""


class AnnotationError(WsisegError, ValueError):
    """Annotations cannot be made, written or read."""


class LabelError(AnnotationError):
    """A class name or label value is unknown."""


class TrainingError(WsisegError):
    """A network cannot be trained as asked."""


class RunError(WsisegError):
    """A run over slides cannot go on."""


class UsageError(RunError, ValueError):
    """What was asked for makes no sense; the command line exits with 2."""


class LeaseError(RunError):
    """Somebody else holds the slide."""


class DiskFullError(RunError, OSError):
    """No room left for the output."""


def unwritable(error: OSError, path: Path | str, kind: type[WsisegError] = RunError) -> WsisegError:
    """Return the error to raise where the system refuses to write.

    Parameters
    ----------
    error
        What the system says.
    path
        The name under which the file was to appear, not that of a temporary one.
    kind
        What it is where room is not what is missing; then it is a `DiskFullError`.
    """
    reason = error.strerror or str(error)
    if error.errno in NO_ROOM:
        return DiskFullError(
            f"{path}: no room left on the disk ({reason}); free some, or write elsewhere"
        )
    return kind(
        f"{path}: cannot be written: {reason}; check that its folder is there and may be "
        "written to, or write elsewhere"
    )


class WsisegWarning(UserWarning):
    """Root of all wsiseg warnings."""


class EmptyTissueWarning(WsisegWarning):
    """No tissue was found."""


class IncompleteSlideWarning(WsisegWarning):
    """Part of the slide could not be used."""


class UnstatedGeometryWarning(WsisegWarning):
    """A file does not say all about where its voxels are; the message says what was taken."""


class SmallerBatchWarning(WsisegWarning):
    """The device could not hold a batch of the size asked for; smaller ones were taken."""
