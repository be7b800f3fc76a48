"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from wsiseg.options import Detector, TissueOptions

__all__ = [
    "DEFAULT_TISSUE",
    "AsJson",
    "MinTissue",
    "Mpp",
    "Nested",
    "Out",
    "Quiet",
    "Reader",
    "Recursive",
    "Slides",
    "Tissue",
    "parse_mpp",
]

DEFAULT_TISSUE = TissueOptions()

Slides = Annotated[
    list[str],
    typer.Argument(
        help="Slide files, folders, globs, URLs, or a CSV with the columns slide,mpp.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")]
Mpp = Annotated[
    str | None,
    typer.Option(
        "--mpp",
        help="µm per pixel at level 0, 0.25 or x,y: 0.25,0.26; replaces what a file says.",
    ),
]
Reader = Annotated[
    str | None,
    typer.Option("--reader", help="Force tiff, openslide, omezarr, dicom or image."),
]
Recursive = Annotated[bool, typer.Option("--recursive", help="Look into subfolders.")]
Nested = Annotated[
    bool, typer.Option("--nested", help="Tell slides of one name apart by their folder.")
]
Tissue = Annotated[Detector, typer.Option("--tissue", help="Tissue detector.")]
AsJson = Annotated[bool, typer.Option("--json", help="Results as JSON lines.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
MinTissue = Annotated[
    float,
    typer.Option(
        "--min-tissue", min=0.0, max=1.0, help="Least share of tissue for a patch to be used."
    ),
]


def parse_mpp(text: str | None) -> float | tuple[float, float] | None:
    """Return `--mpp` as a number, or (x, y).

    Raises
    ------
    UsageError
        If it is no possible pixel size.
    """
    from wsiseg.run import parse_mpp as parse

    return None if text is None else parse(text)
