"""Models of Raidionics: `pre_processing.ini` beside `model.onnx`.

Keys are those of its sections `[Default]`, `[Training]`, `[PreProcessing]`, `[MRI]` and `[CT]`.
With three sizes in `new_axial_size` the whole volume is one patch, without any it is walked in
windows.
Arrays of Raidionics are (x, y, z), oriented RAS, and resampled before they are normalised.
"""

import configparser
from pathlib import Path
from typing import Any

from wsiseg.errors import ModelCardError
from wsiseg.model.importers.imported import Imported
from wsiseg.model.weights import read_file
from wsiseg.model.wsinfer import spread_colors

__all__ = ["import_raidionics", "is_raidionics"]

INI = "pre_processing.ini"
WEIGHTS = "model.onnx"
MM = 1000.0

MINIMUM_SHARE = 0.2
"""Of the range of values: what lies below at the border is cropped by `minimum`."""


def is_raidionics(folder: Path) -> bool:
    """Tell whether a folder is a model of Raidionics."""
    return (folder / INI).is_file()


def import_raidionics(folder: Path, *, name: str) -> Imported:
    """Return card and weights of a model.

    Raises
    ------
    ModelCardError
        If the file is wrong, or says something that a card cannot say; names it.
    WeightsError
        If `model.onnx` cannot be read.
    """
    ini = _Ini(folder / INI)
    _refuse(ini)
    names = [part.strip() for part in ini.get("Training", "classes").split(",") if part.strip()]
    count = int(ini.numbers("Training", "nb_classes", [len(names)])[0])
    if len(names) != count:
        names = ["background", *(f"class {i}" for i in range(1, count))]
    modality = ini.get("Default", "imaging_modality") or "MRI"
    inputs = int(ini.numbers("PreProcessing", "number_inputs", [1])[0])
    scans = [modality] if inputs == 1 else [f"{modality} {i}" for i in range(inputs)]
    content = {
        "schema_version": 1,
        "name": name,
        "version": "1",
        "task": "semantic",
        "axes": "zyx",
        "scan": {
            "orientation": "RAS",
            "transpose": [1, 2, 0]
            if ini.true("PreProcessing", "swap_training_input")
            else [2, 1, 0],
            "crop": _crop(ini),
            "order": "resample_first",
        },
        "classes": spread_colors(names),
        "threshold": _threshold(ini, count),
        "stages": [_stage(ini, scans)],
        "provenance": {
            "license": "not stated in pre_processing.ini",
            "trained_on": "not stated in pre_processing.ini",
            "intended_use": f"segmentation of {', '.join(names[1:])} in {modality}",
            "limits": "values are resampled once where Raidionics resamples, then resizes; "
            "windows in common are averaged where Raidionics takes the largest value",
            "citation": "Bouget et al. 2023, doi:10.1038/s41598-023-42048-7",
        },
    }
    return Imported(content, {WEIGHTS: read_file(folder / WEIGHTS)})


class _Ini:
    """Values of the file; what follows a `#` is a comment."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parser = configparser.ConfigParser(interpolation=None)
        try:
            self._parser.read_string(path.read_bytes().decode(), source=str(path))
        except OSError as error:
            raise ModelCardError(f"{path}: cannot be read: {error.strerror}") from error
        except (configparser.Error, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise ModelCardError(f"{path}: no configuration: {reason}; correct it") from error

    def get(self, section: str, key: str) -> str:
        """Return a value, empty where there is none."""
        return self._parser.get(section, key, fallback="").split("#")[0].strip()

    def true(self, section: str, key: str) -> bool:
        """Return whether a value is true."""
        return self.get(section, key).lower() == "true"

    def numbers(self, section: str, key: str, default: list[float]) -> list[float]:
        """Return numbers with commas between them."""
        text = self.get(section, key).strip("[]()")
        if not text or text.lower() == "none":
            return default
        try:
            return [float(part) for part in text.split(",")]
        except ValueError as error:
            raise ModelCardError(f"{self.path}: {key} = {text!r}: needed numbers") from error

    def refuse(self, key: str, why: str) -> ModelCardError:
        """Return the error for a key that a card cannot say."""
        return ModelCardError(f"{self.path}: {key}: {why}; write a card by hand")


def _refuse(ini: _Ini) -> None:
    """Refuse what has no words on a card."""
    task = ini.get("Default", "task").lower()
    if task and "segmentation" not in task:
        raise ini.refuse(f"task {task!r}", "needed segmentation")
    if ini.true("CT", "fix_orientation"):
        raise ini.refuse("fix_orientation", "turns windows while they are predicted")
    if ini.get("PreProcessing", "diffloader_pairs"):
        raise ini.refuse("diffloader_pairs", "subtracts inputs")
    plane = ini.get("PreProcessing", "slicing_plane").lower()
    if plane not in ("", "axial"):
        raise ini.refuse(f"slicing_plane {plane!r}", "needed axial")
    if len(ini.numbers("PreProcessing", "new_axial_size", [])) == 2:
        raise ini.refuse(
            "new_axial_size of two values",
            "slabs, whose thickness in mm depends on the width of the scan: needed three values "
            "or patch_size",
        )
    swapped = ini.true("PreProcessing", "swap_training_input")
    if swapped and ini.numbers("Training", "patch_size", []) and not _whole(ini):
        raise ini.refuse("swap_training_input", "turns windows while they are predicted")


def _whole(ini: _Ini) -> bool:
    return len(ini.numbers("PreProcessing", "new_axial_size", [])) == 3


def _stage(ini: _Ini, scans: list[str]) -> dict[str, Any]:
    patch = [int(n) for n in ini.numbers("PreProcessing", "new_axial_size", [])] or [
        int(n) for n in ini.numbers("Training", "patch_size", [])
    ]
    if len(patch) != 3:
        raise ini.refuse("new_axial_size and patch_size", "needed three sizes in one of them")
    if ini.true("PreProcessing", "swap_training_input"):
        patch = [patch[1], patch[0], patch[2]]
    first = ini.get("PreProcessing", "channels_order").lower() == "channels_first"
    return {
        "name": "network",
        "kind": "segmenter",
        **({"extent": "whole"} if _whole(ini) else {"windows": _windows(ini, patch)}),
        "inputs": [
            {
                "from": "scan",
                "channels": scans,
                "spacing_um": None if _whole(ini) else _spacing(ini),
                "patch": patch,
                "resample": {"order": 1, "convention": "extent" if _whole(ini) else "centres"},
                "steps": _steps(ini),
            }
        ],
        "output": {
            "name": "labels",
            "activation": _activation(ini),
            "blend": "crop" if _whole(ini) else "constant",
        },
        "weights": {
            "file": WEIGHTS,
            "architecture": "onnx",
            "layout": "channels_first" if first else "channels_last",
        },
    }


def _spacing(ini: _Ini) -> list[float]:
    spacing = ini.numbers("PreProcessing", "output_spacing", [])
    if len(spacing) != 3:
        raise ini.refuse("output_spacing", "needed three sizes in mm")
    return [mm * MM for mm in spacing]


def _windows(ini: _Ini, patch: list[int]) -> dict[str, Any]:
    offsets = ini.numbers("Training", "patch_offset", [0.0] * 3)
    overlap = [offset / size for offset, size in zip(offsets, patch, strict=True)]
    return {"plan": "monai", "overlap": overlap}


def _activation(ini: _Ini) -> str:
    if ini.get("Training", "activation_layer_included").lower() != "false":
        return "none"
    return ini.get("Training", "activation_layer_type").lower() or "softmax"


def _threshold(ini: _Ini, classes: int) -> float | None:
    """Return the threshold of the second class, where there are two."""
    values = ini.numbers("Training", "optimal_thresholds", [])
    return values[-1] if values and classes == 2 else None


def _crop(ini: _Ini) -> dict[str, Any] | None:
    mode = ini.get("PreProcessing", "background_cropping").lower()
    if mode in ("", "none", "false"):
        return None
    if mode == "minimum":
        return {"to": "above", "threshold_share": MINIMUM_SHARE}
    raise ini.refuse(
        f"background_cropping {mode!r}", "needs what another model finds: needed none or minimum"
    )


def _steps(ini: _Ini) -> list[dict[str, Any]]:
    """Return clipping and normalisation, in Raidionics' order."""
    steps: list[dict[str, Any]] = []
    if ini.true("MRI", "perform_bias_correction"):
        steps.append({"name": "n4"})
    low, high = ini.numbers("PreProcessing", "intensity_clipping_range", [0.0, 100.0])
    values = ini.numbers("PreProcessing", "intensity_clipping_values", [])
    if high - low != 100:
        steps.append({"name": "percentile_clip", "low": low, "high": high, "region": "all"})
    elif len(values) == 2 and values[1] > values[0]:
        steps.append({"name": "clip", "low": values[0], "high": values[1]})
    method = ini.get("PreProcessing", "normalization_method").lower()
    to = ini.numbers("PreProcessing", "intensity_final_range", [0.0, 1.0])
    known: dict[str, dict[str, Any]] = {
        "default": {"name": "rescale", "to": to},
        "zeromean": {"name": "zscore", "region": "all"},
        "zeromean_nonzero": {"name": "zscore", "region": "nonzero"},
    }
    if method in known:
        steps.append(known[method])
    elif method not in ("", "none"):
        raise ini.refuse(f"normalization_method {method!r}", f"needed one of {', '.join(known)}")
    return steps
