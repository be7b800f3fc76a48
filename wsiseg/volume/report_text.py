"""The report of a scan as plain text."""

from collections.abc import Mapping

from wsiseg.volume.lesions import Lesion
from wsiseg.volume.statistics import ENLARGED_MM, ClassStatistics, ScanStatistics

__all__ = ["DISCLAIMER", "report_text", "sentences"]

DISCLAIMER = "Made by software from an automatic segmentation; not for diagnosis."

LISTED = 10
"""Lesions of a class in the text; the table has all."""


def report_text(statistics: ScanStatistics, about: Mapping[str, str]) -> str:
    """Return the report: scan, then a paragraph per class that was found, then what is absent."""
    z, y, x = statistics.shape
    mm = " x ".join(f"{value:.4g}" for value in reversed(statistics.spacing_mm))
    lines = ["REPORT OF A SEGMENTED SCAN", ""]
    lines += [f"{name.capitalize()}: {text}" for name, text in about.items()]
    lines += [f"Voxels: {x} x {y} x {z} of {mm} mm, {statistics.orientation}", ""]
    for one in statistics.classes:
        if one.voxels:
            lines += [one.name.upper(), *(f"  {line}" for line in sentences(one)), ""]
    if missing := [one.name for one in statistics.classes if not one.voxels]:
        lines += [f"Not found: {', '.join(missing)}.", ""]
    lines += [
        f"Parts are connected over faces, edges and corners ({statistics.connectivity}-"
        "connectivity). Left and right are the patient's, parted at x = "
        f"{statistics.midline_mm:.1f} mm.",
        DISCLAIMER,
    ]
    return "\n".join(lines) + "\n"


def sentences(one: ClassStatistics) -> list[str]:
    """Return what there is to say of a class that was found."""
    parts = f"{one.component_count} part{'s' * (one.component_count != 1)}"
    lines = [
        f"Volume {one.volume_ml:.3f} ml in {parts}, surface {one.surface_mm2:.0f} mm2; "
        f"{one.left_percent:.0f} % on the left, {100 - one.left_percent:.0f} % on the right."
    ]
    if one.enlarged_count is not None:
        lines.append(
            f"{one.enlarged_count} of {one.component_count} lymph nodes enlarged (short axis at "
            f"least {ENLARGED_MM:g} mm)."
        )
    lines += [_lesion_line(lesion) for lesion in one.lesions[:LISTED]]
    if one.component_count > LISTED:
        lines.append(f"... and {one.component_count - LISTED} smaller ones, see the table.")
    for shell in one.shells:
        known = shell.intensity if shell.voxels else None
        mean = "" if known is None else f", mean {known['mean']:.1f}"
        lines.append(
            f"Shell {shell.inner_mm:g} to {shell.outer_mm:g} mm around the largest part: "
            f"{shell.volume_ml:.2f} ml{mean}."
        )
    return lines


def _lesion_line(lesion: Lesion) -> str:
    x, y, z = lesion.centroid_mm
    line = (
        f"{lesion.number}: {lesion.volume_ml:.3f} ml, long axis {lesion.long_axis_mm:.1f} mm, "
        f"short axis {lesion.short_axis_mm:.1f} mm, Feret {lesion.feret_mm:.1f} mm, at ({x:.0f}, "
        f"{y:.0f}, {z:.0f}) mm"
    )
    if lesion.intensity is not None:
        line += f", intensity {lesion.intensity['mean']:.1f} ± {lesion.intensity['sd']:.1f}"
    if lesion.station is not None:
        line += f", in {lesion.station}"
    return line + ("; ENLARGED" if lesion.enlarged else "")
