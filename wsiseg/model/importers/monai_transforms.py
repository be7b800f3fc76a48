"""Transforms of MONAI as what a card says of scans; one that has no words there is refused.

Defaults are those of MONAI 1.4 to 1.6. A bundle's arrays are (channel, x, y, z).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wsiseg.errors import ModelCardError

__all__ = ["Postprocessing", "Preprocessing", "read_postprocessing", "read_preprocessing"]

MM = 1000.0

HARMLESS = {
    "AddChannel", "CastToType", "ConvertToMultiChannel", "CopyItems", "DeleteItems",
    "EnsureChannelFirst", "EnsureType", "Identity", "LoadImage", "SaveImage", "SelectItems",
    "ToDevice", "ToTensor",
}  # fmt: skip
"""Change neither geometry nor values."""

INTERPOLATION = {"bilinear": 1, "nearest": 0, "1": 1, "0": 0, "3": 3}

ANYTHING = {"keys", "allow_missing_keys", "dtype", "lazy", "meta_keys", "meta_key_postfix"}
"""Arguments that do not matter here."""


@dataclass
class Preprocessing:
    """What happens to a scan before the network."""

    orientation: str = "stored"
    spacing_um: list[float] | None = None
    """Of axes x, y, z; `None`: as stored."""

    order: int = 1
    crop: dict[str, Any] | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    normalized_first: bool = False
    """Whether intensities are changed before the scan is resampled."""


@dataclass
class Postprocessing:
    """What happens to the output of the network."""

    activation: str | None = None
    threshold: float | None = None


class _Call:
    """One transform: its name without the `d` of dictionaries, and its arguments, each once."""

    def __init__(self, content: object, where: str) -> None:
        if not isinstance(content, Mapping) or not isinstance(content.get("_target_"), str):
            raise ModelCardError(f"{where}: {content!r} is no transform")
        full = content["_target_"].rpartition(".")[2]
        self.name = full.removesuffix("Dict").removesuffix("d") if full != "Lambdad" else full
        self.where = f"{where}: {full}"
        self._left = {k: v for k, v in content.items() if k not in ANYTHING and k != "_target_"}
        self.disabled = self._left.pop("_disabled_", False) is True

    def take(self, key: str, default: object = None) -> Any:  # noqa: ANN401
        """Return an argument."""
        value = self._left.pop(key, default)
        return value[0] if isinstance(value, list) and len(value) == 1 else value

    def finish(self, **expected: object) -> None:
        """Refuse arguments that were not taken, unless they are what is expected."""
        for key, value in self._left.items():
            if key not in expected or value not in (expected[key], None):
                raise ModelCardError(
                    f"{self.where}: {key} {value!r} is nothing a card can say; write the card by "
                    "hand"
                )


def read_preprocessing(transforms: Sequence[object], *, channels: int, where: str) -> Preprocessing:
    """Return what a list of transforms does to a scan.

    Parameters
    ----------
    transforms
        Resolved configurations, in order.
    channels
        Of the scan; statistics over all channels at once are for one channel only.
    where
        What messages call the list.

    Raises
    ------
    ModelCardError
        If a transform, or an argument of one, has no words on a card; names it.
    """
    found = Preprocessing()
    resampled = False
    for call in (_Call(content, where) for content in transforms):
        if call.disabled or call.name in HARMLESS:
            continue
        if call.name == "Orientation":
            _orientation(call, found)
        elif call.name == "Spacing":
            _spacing(call, found)
            resampled = True
            found.normalized_first = bool(found.steps)
        elif call.name == "CropForeground":
            _crop(call, found, first=not found.steps and not resampled)
        elif call.name in INTENSITIES:
            if found.steps and found.normalized_first and resampled:
                raise ModelCardError(
                    f"{call.where}: intensities change before and after Spacing; a card has no "
                    "words for it"
                )
            found.steps += INTENSITIES[call.name](call, channels)
        else:
            raise ModelCardError(
                f"{call.where}: is not known here: needed Orientation, Spacing, CropForeground or "
                f"one of {', '.join(sorted(INTENSITIES))}; write the card by hand"
            )
    return found


def read_postprocessing(transforms: Sequence[object], *, where: str) -> Postprocessing:
    """Return what a list of transforms does to the network's output.

    Raises
    ------
    ModelCardError
        If a transform, or an argument of one, has no words on a card; names it.
    """
    found = Postprocessing()
    for call in (_Call(content, where) for content in transforms):
        if call.disabled or call.name in HARMLESS or call.name == "Invert":
            continue
        if call.name == "Activations":
            kinds = [kind for kind in ("softmax", "sigmoid") if call.take(kind, False)]
            call.finish(other=None)
            found.activation = kinds[0] if len(kinds) == 1 else None
        elif call.name == "AsDiscrete":
            call.take("argmax", False)
            call.take("to_onehot")
            found.threshold = call.take("threshold")
            call.finish(rounding=None)
            if found.threshold not in (None, 0.5):
                raise ModelCardError(f"{call.where}: threshold {found.threshold}: needed 0.5")
        else:
            raise ModelCardError(
                f"{call.where}: is done to the result, and a card has no words for it; take it out "
                "of the configuration to add the model without it"
            )
    return found


def _orientation(call: _Call, found: Preprocessing) -> None:
    codes = call.take("axcodes")
    closest = call.take("as_closest_canonical", False)
    call.take("labels")
    call.finish()
    found.orientation = "RAS" if closest else str(codes)


def _spacing(call: _Call, found: Preprocessing) -> None:
    pixdim = call.take("pixdim")
    sizes = pixdim if isinstance(pixdim, list) else [pixdim] * 3
    mode = str(call.take("mode", "bilinear"))
    call.take("recompute_affine")
    call.finish(padding_mode="border", align_corners=False, diagonal=False, scale_extent=False)
    if len(sizes) != 3 or not all(isinstance(mm, int | float) and mm > 0 for mm in sizes):
        raise ModelCardError(f"{call.where}: pixdim {pixdim!r}: needed three sizes in mm")
    if mode not in INTERPOLATION:
        raise ModelCardError(f"{call.where}: mode {mode!r}: needed {', '.join(INTERPOLATION)}")
    found.spacing_um = [float(mm) * MM for mm in sizes]
    found.order = INTERPOLATION[mode]


def _crop(call: _Call, found: Preprocessing, *, first: bool) -> None:
    call.take("source_key")
    margin = call.take("margin", 0)
    call.take("start_coord_key"), call.take("end_coord_key")
    call.finish(k_divisible=1, mode="constant", allow_smaller=True, return_coords=False)
    if margin != 0 or not first or found.crop:
        raise ModelCardError(
            f"{call.where}: needed once, before Spacing and all that changes intensities, and "
            "without margin: a card crops scans as they are stored"
        )
    found.crop = {"to": "above", "threshold": 0.0}


def _range(call: _Call, channels: int) -> list[dict[str, Any]]:
    low, high = call.take("a_min"), call.take("a_max")
    to = [call.take("b_min"), call.take("b_max")]
    clip = bool(call.take("clip", False))
    call.finish()
    if None in to:
        to = [0.0, 1.0]
    return [{"name": "window", "low": low, "high": high, "to": to, "clip": clip}]


def _normalize(call: _Call, channels: int) -> list[dict[str, Any]]:
    mean, std = call.take("subtrahend"), call.take("divisor")
    nonzero = bool(call.take("nonzero", False))
    together = not call.take("channel_wise", False) and channels > 1
    call.finish()
    if (mean is None) != (std is None) or (mean is not None and nonzero):
        raise ModelCardError(
            f"{call.where}: subtrahend {mean!r} and divisor {std!r} with nonzero {nonzero}: needed "
            "both, or neither"
        )
    if mean is not None:
        many = [value if isinstance(value, list) else [value] * channels for value in (mean, std)]
        return [{"name": "normalize", "mean": many[0], "std": many[1]}]
    _each(call, together)
    return [{"name": "zscore", "region": "nonzero" if nonzero else "all"}]


def _rescale(call: _Call, channels: int) -> list[dict[str, Any]]:
    to = [call.take("minv", 0.0), call.take("maxv", 1.0)]
    together = not call.take("channel_wise", False) and channels > 1
    call.finish(factor=None)
    if None in to:
        raise ModelCardError(f"{call.where}: needed minv and maxv")
    _each(call, together)
    return [{"name": "rescale", "to": to}]


def _percentiles(call: _Call, channels: int) -> list[dict[str, Any]]:
    low, high = call.take("lower"), call.take("upper")
    to = [call.take("b_min"), call.take("b_max")]
    clip = bool(call.take("clip", False))
    together = not call.take("channel_wise", False) and channels > 1
    call.finish(relative=False)
    if None in to:
        raise ModelCardError(f"{call.where}: needed b_min and b_max")
    _each(call, together)
    return [
        {"name": "percentile_window", "low": low, "high": high, "to": to, "clip": clip,
         "region": "all"}
    ]  # fmt: skip


def _clip_percentiles(call: _Call, channels: int) -> list[dict[str, Any]]:
    low, high = call.take("lower"), call.take("upper")
    together = not call.take("channel_wise", False) and channels > 1
    call.finish(sharpness_factor=None, return_clipping_values=False)
    _each(call, together)
    return [{"name": "percentile_clip", "low": low, "high": high, "region": "all"}]


def _each(call: _Call, together: bool) -> None:
    if together:
        raise ModelCardError(
            f"{call.where}: measures all channels at once; needed channel_wise true"
        )


INTENSITIES = {
    "ClipIntensityPercentiles": _clip_percentiles,
    "NormalizeIntensity": _normalize,
    "ScaleIntensity": _rescale,
    "ScaleIntensityRange": _range,
    "ScaleIntensityRangePercentiles": _percentiles,
}
