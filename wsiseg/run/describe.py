"""What a slide file says, as plain values."""

from typing import Any

from wsiseg.source import Pyramid

__all__ = ["describe_slide"]


def describe_slide(slide: Pyramid) -> dict[str, Any]:
    """Return name, reader, pixel size and levels; sizes are (x, y), as viewers show them.

    Reads no pixels; associated images are named only.
    """
    metadata = slide.metadata
    bounds = metadata.bounds
    return {
        "name": slide.name,
        "reader": metadata.reader,
        "vendor": metadata.vendor,
        "mpp": list(slide.spacing.um[::-1]) if slide.has_spacing else None,
        "objective_power": metadata.objective_power,
        "bounds": list(bounds.start[::-1] + bounds.shape[::-1]) if bounds else None,
        "associated_images": list(slide.associated_names),
        "levels": [
            {
                "level": level.index,
                "size": list(level.shape[::-1]),
                "downsample": list(level.downsample[::-1]),
                "mpp": list(level.spacing.um[::-1]) if slide.has_spacing else None,
                "block": list(level.chunk[::-1]),
            }
            for level in slide.levels
        ],
    }
