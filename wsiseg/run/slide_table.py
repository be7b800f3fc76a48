"""Tables that name slides: CSV with the columns `slide` and `mpp`, or `mpp_x` and `mpp_y`."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from wsiseg.errors import MissingSpacingError, UsageError
from wsiseg.geometry import COARSEST_UM, FINEST_UM, Spacing

__all__ = ["Mpp", "parse_mpp", "read_slide_table"]

Mpp = float | tuple[float, float] | None
"""µm per pixel: one value, (x, y), or not given."""

COLUMNS = frozenset({"mpp", "mpp_x", "mpp_y"})


MOST_ANISOTROPIC = 2
"""No scanner has pixels more than twice as long as wide: `0,25` is a decimal comma."""


def parse_mpp(text: str, what: str = "--mpp") -> float | tuple[float, float]:
    """Return µm per pixel as a number, or (x, y) where two stand with a comma between.

    Parameters
    ----------
    what
        What the text was given as, for the error.

    Raises
    ------
    UsageError
        If it is no possible pixel size.
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 2):
        raise UsageError(
            f"{what} {text!r} is not a number; write µm per pixel, as in 0.25, or x,y as in "
            "0.25,0.26"
        )
    if len(values) == 2 and min(values) * MOST_ANISOTROPIC < max(values):
        raise UsageError(
            f"{what} {text!r} would be x,y with one {MOST_ANISOTROPIC} times the other or more; "
            f"write decimals with a point, as in {text.replace(',', '.')}"
        )
    try:
        Spacing.from_mpp(*values)
    except MissingSpacingError as error:
        raise UsageError(
            f"{what} {text!r} is not a pixel size: needed between {FINEST_UM} and "
            f"{COARSEST_UM:.0f} µm per pixel, as in 0.25"
        ) from error
    return values[0] if len(values) == 1 else (values[0], values[1])


def read_slide_table(path: Path) -> Iterator[tuple[str, Mpp]]:
    """Yield path or URL and pixel size of each row; relative paths count from the table's folder.

    Raises
    ------
    UsageError
        If the table cannot be read, or a row cannot be understood; the message names the line.
    """
    rows, semicolons = _rows(path)
    if not rows:
        raise UsageError(f"{path}: the table names no slide; needed columns slide,mpp and a row")
    unknown = [name for name in rows[0] if name.startswith("mpp") and name not in COLUMNS]
    if unknown:
        raise UsageError(
            f"{path}: unknown column {unknown[0]!r}; needed mpp, or mpp_x and mpp_y (µm per pixel)"
        )
    for number, row in enumerate(rows, start=2):
        scans = row.get("scan", "").split(";")  # files of channels
        slide = row.get("slide", "").strip() or scans[0].strip()
        if not slide:
            raise UsageError(
                f"{path}: line {number}: no slide named; needed columns slide,mpp, found "
                f"{','.join(str(key) for key in row)}"
            )
        parts = [slide, *(part.strip() for part in scans[1:])]
        local = ";".join(p if "://" in p else str(path.parent / p) for p in parts)
        yield local, _mpp(row, f"{path}: line {number}:", semicolons=semicolons)


def _rows(path: Path) -> tuple[list[dict[str, str]], bool]:
    """Return the rows of a table, and whether semicolons separate its columns."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text; save the table as CSV UTF-8") from error
    header = text.partition("\n")[0]
    semicolons = ";" in header and "," not in header
    try:
        lines = list(csv.reader(text.splitlines(), delimiter=";" if semicolons else ","))
    except csv.Error as error:
        raise UsageError(f"{path}: is no table: {error}; save it as CSV") from error
    if not lines:
        return [], semicolons
    names = [name.strip().lower() for name in lines[0]]
    return [dict(zip(names, line, strict=False)) for line in lines[1:] if line], semicolons


def _mpp(row: Mapping[str, str], where: str, *, semicolons: bool) -> Mpp:
    """Return the pixel size of a row.

    Where semicolons separate the columns, a spreadsheet writes 0,25 for 0.25.
    """
    given = {key: row[key].strip() for key in sorted(COLUMNS) if row.get(key, "").strip()}
    if semicolons:
        given = {k: v if "." in v else v.replace(",", ".") for k, v in given.items()}
    if not given:
        return None
    if set(given) == {"mpp"}:
        return parse_mpp(given["mpp"], f"{where} mpp")
    if set(given) == {"mpp_x", "mpp_y"}:
        x, y = (parse_mpp(given[key], f"{where} {key}") for key in ("mpp_x", "mpp_y"))
        if isinstance(x, float) and isinstance(y, float):
            return x, y
    raise UsageError(
        f"{where} found {', '.join(f'{k} {v!r}' for k, v in given.items())}; needed either mpp, or "
        "one number each in mpp_x and mpp_y"
    )
