"""What `plans.json` and `dataset.json` of nnU-Net v2 say, with nothing left to be looked up.

Format: nnunetv2 1.x and 2.x (https://github.com/MIC-DKFZ/nnUNet), where plans name networks either
by an `architecture` block or, in older ones, by `UNet_class_name` and its fields.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsiseg.errors import ModelCardError

__all__ = ["Configuration", "Labels", "Plans", "read_json"]

READERS = {"SimpleITKIO": "stored", "NibabelIO": "stored", "NibabelIOWithReorient": "RAS"}
"""Readers of volumes, and how the arrays lie that they give; all are (z, y, x)."""

NETWORKS = {"PlainConvUNet": "wsiseg.nnunet", "ResidualEncoderUNet": "wsiseg.nnunet_resenc"}

IGNORED_ARGUMENTS = {"n_stages", "conv_op", "dropout_op", "dropout_op_kwargs", "deep_supervision"}
"""Follow from other arguments, or do nothing when a network only predicts."""

SHARED_ARGUMENTS = {
    "features_per_stage",
    "kernel_sizes",
    "strides",
    "n_conv_per_stage_decoder",
    "conv_bias",
    "stem_channels",
}
"""Called the same by our networks."""


@dataclass(frozen=True)
class Labels:
    """Classes of a data set, the background first, and the regions networks were trained on."""

    names: tuple[str, ...]
    regions: tuple[tuple[str, str], ...] = ()
    """Name of each region, and of the class written where it is; later ones over earlier."""

    @property
    def channels(self) -> tuple[str, ...]:
        """What the network gives."""
        return tuple(name for name, _ in self.regions) or self.names


@dataclass(frozen=True)
class Configuration:
    """One configuration with what it inherits."""

    name: str
    values: Mapping[str, Any]
    where: str

    def need(self, key: str, kind: type | tuple[type, ...] = list) -> Any:  # noqa: ANN401
        """Return a value; raise `ModelCardError` where it is missing or of another kind."""
        value = self.values.get(key)
        if not isinstance(value, kind):
            raise ModelCardError(
                f"{self.where}: {key} is {value!r}; needed in a configuration of nnU-Net v2"
            )
        return value

    @property
    def previous_stage(self) -> str | None:
        """The configuration whose result this one reads: a cascade."""
        previous = self.values.get("previous_stage")
        return previous if isinstance(previous, str) and previous else None

    def network(self) -> tuple[str, dict[str, Any]]:
        """Return architecture and arguments of the network, as cards have them.

        Raises
        ------
        ModelCardError
            If it is another network, or one with parts that are not known here.
        """
        block = self.values.get("architecture") or self._old_architecture()
        known = str(block.get("network_class_name", "")).rpartition(".")[2]
        if known not in NETWORKS:
            raise ModelCardError(
                f"{self.where}: network {known or 'of no name'}: needed one of "
                f"{', '.join(NETWORKS)}; export it to ONNX and add that with a card"
            )
        return NETWORKS[known], self._arguments(block.get("arch_kwargs") or {})

    def _old_architecture(self) -> dict[str, Any]:
        convs = self.need("n_conv_per_stage_encoder")
        name = self.need("UNet_class_name", str)
        base = self.need("UNet_base_num_features", int)
        most = self.need("unet_max_num_features", int)
        encoder = "n_blocks_per_stage" if name == "ResidualEncoderUNet" else "n_conv_per_stage"
        return {
            "network_class_name": name,
            "arch_kwargs": {
                "features_per_stage": [min(base * 2**i, most) for i in range(len(convs))],
                "kernel_sizes": self.need("conv_kernel_sizes"),
                "strides": self.need("pool_op_kernel_sizes"),
                encoder: convs,
                "n_conv_per_stage_decoder": self.need("n_conv_per_stage_decoder"),
                "conv_bias": True,
            },
        }

    def _arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        given = dict(given)
        arguments = {k: given.pop(k) for k in SHARED_ARGUMENTS & given.keys()}
        for ignored in IGNORED_ARGUMENTS & given.keys():
            del given[ignored]
        convs = given.pop("n_conv_per_stage", given.pop("n_blocks_per_stage", None))
        arguments["n_conv_per_stage"] = convs
        arguments |= self._normalisation(given.pop("norm_op", None), given.pop("norm_op_kwargs", 0))
        arguments |= self._nonlinearity(given.pop("nonlin", None), given.pop("nonlin_kwargs", 0))
        if arguments.get("stem_channels", 0) is None:
            del arguments["stem_channels"]
        arguments.setdefault("conv_bias", False)
        if unknown := sorted(key for key, value in given.items() if value is not None and value):
            raise ModelCardError(
                f"{self.where}: the network has {', '.join(unknown)}, which are not known here; "
                "export it to ONNX and add that with a card"
            )
        return self._spread(arguments)

    def _spread(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Turn numbers that stand for all stages, or all axes, into lists."""
        features = arguments.get("features_per_stage")
        if not isinstance(features, list):
            raise ModelCardError(f"{self.where}: features_per_stage is {features!r}, no list")
        stages, dims = len(features), len(self.need("patch_size"))
        for key in ("kernel_sizes", "strides"):
            value = arguments.get(key)
            each = value if isinstance(value, list) else [value] * stages
            arguments[key] = [v if isinstance(v, list) else [v] * dims for v in each]
        for key, count in (("n_conv_per_stage", stages), ("n_conv_per_stage_decoder", stages - 1)):
            value = arguments.get(key)
            arguments[key] = value if isinstance(value, list) else [value] * count
        return arguments

    def _normalisation(self, layer: object, options: object) -> dict[str, Any]:
        name = str(layer or "InstanceNorm").rpartition(".")[2]
        kinds = {"InstanceNorm": "instance", "BatchNorm": "batch"}
        kind = kinds.get(name.rstrip("123d"))
        given = dict(options) if isinstance(options, dict) else {}
        eps, affine = given.pop("eps", 1e-5), given.pop("affine", kind == "batch" or layer is None)
        if kind is None or not affine or given:
            raise ModelCardError(
                f"{self.where}: norm_op {layer!r} with {options!r}: needed InstanceNorm or "
                "BatchNorm, affine, and eps alone"
            )
        return {"norm": kind, "norm_eps": eps}

    def _nonlinearity(self, layer: object, options: object) -> dict[str, Any]:
        name = str(layer or "LeakyReLU").rpartition(".")[2]
        given = dict(options) if isinstance(options, dict) else {}
        given.pop("inplace", None)
        slope = {"LeakyReLU": given.pop("negative_slope", 0.01), "ReLU": 0.0}.get(name)
        if slope is None or given:
            raise ModelCardError(
                f"{self.where}: nonlin {layer!r} with {options!r}: needed LeakyReLU or ReLU"
            )
        return {"negative_slope": slope}


@dataclass(frozen=True)
class Plans:
    """`plans.json` and `dataset.json` of one folder."""

    folder: Path
    plans: Mapping[str, Any]
    dataset: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Plans":
        """Read both; raise `ModelCardError` where one is missing or no JSON object."""
        return cls(folder, read_json(folder / "plans.json"), read_json(folder / "dataset.json"))

    @property
    def name(self) -> str:
        """Of the data set, as it was named for nnU-Net."""
        return str(self.plans.get("dataset_name") or self.dataset.get("name") or self.folder.name)

    @property
    def orientation(self) -> str:
        """How arrays lay for training: `stored` is as files have them.

        Raises
        ------
        ModelCardError
            If images were read by something that does not read volumes.
        """
        reader = self.plans.get("image_reader_writer", "SimpleITKIO")
        if reader not in READERS:
            raise ModelCardError(
                f"{self.folder / 'plans.json'}: images were read by {reader}: needed one of "
                f"{', '.join(READERS)}"
            )
        return READERS[reader]

    @property
    def transpose(self) -> list[int]:
        """Which stored axis each axis of the network is."""
        found = self.plans.get("transpose_forward", [0, 1, 2])
        back = self.plans.get("transpose_backward")
        axes = [0, 1, 2]
        if sorted(found) != axes or (back is not None and [found[i] for i in back] != axes):
            raise ModelCardError(
                f"{self.folder / 'plans.json'}: transpose_forward {found} and transpose_backward "
                f"{back} are no permutation and its inverse"
            )
        return list(found)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the input channels, in order.

        Raises
        ------
        ModelCardError
            If there are none.
        """
        given = self.dataset.get("channel_names") or self.dataset.get("modality")
        if not isinstance(given, dict) or sorted(given, key=int) != list(
            map(str, range(len(given)))
        ):
            raise ModelCardError(
                f"{self.folder / 'dataset.json'}: channel_names are {given!r}: needed a name for "
                'each of "0", "1", ...'
            )
        names = [str(given[str(i)]) for i in range(len(given))]
        return tuple(n if names.count(n) == 1 else f"{n} {i}" for i, n in enumerate(names))

    def intensities(self, channel: int) -> Mapping[str, float]:
        """Return mean, deviation and percentiles of the foreground of a channel."""
        for key in ("per_channel", "by_modality"):
            of = self.plans.get(f"foreground_intensity_properties_{key}")
            if isinstance(of, dict) and isinstance(of.get(str(channel)), dict):
                found: Mapping[str, float] = of[str(channel)]
                return found
        raise ModelCardError(
            f"{self.folder / 'plans.json'}: no foreground intensities of channel {channel}, which "
            "CTNormalization needs"
        )

    def configuration(self, name: str) -> Configuration:
        """Return a configuration with what it inherits.

        Raises
        ------
        ModelCardError
            If it, or one it inherits from, is not there, or they go round in a circle.
        """
        known = self.plans.get("configurations")
        where = f"{self.folder / 'plans.json'}: configuration {name!r}"
        values: dict[str, Any] = {}
        seen: list[str] = []
        wanted: str | None = name
        while wanted is not None:
            if wanted in seen:
                raise ModelCardError(f"{where} inherits from itself: {' -> '.join(seen)}")
            if not isinstance(known, dict) or not isinstance(known.get(wanted), dict):
                raise ModelCardError(
                    f"{where}: {wanted!r} is not there; found {sorted(known or ())}"
                )
            seen.append(wanted)
            values = {**known[wanted], **values}
            wanted = known[wanted].get("inherits_from")
        return Configuration(name, values, where)

    def labels(self) -> Labels:
        """Return the classes and regions.

        Raises
        ------
        ModelCardError
            If labels are not 0, 1, ..., or regions do not fit `regions_class_order`.
        """
        where = self.folder / "dataset.json"
        given = self.dataset.get("labels")
        if not isinstance(given, dict):
            raise ModelCardError(f"{where}: labels are {given!r}: needed names with numbers")
        given = {str(k): v for k, v in given.items() if k != "ignore"}
        if any(isinstance(value, list) and len(value) > 1 for value in given.values()):
            return _regions(given, self.dataset.get("regions_class_order"), where)
        single = {k: v[0] if isinstance(v, list) and v else v for k, v in given.items()}
        ordered = sorted(single, key=lambda k: single[k])
        if [single[k] for k in ordered] != list(range(len(ordered))) or len(ordered) < 2:
            raise ModelCardError(f"{where}: labels {single}: needed 0 for background, 1, 2, ...")
        return Labels(tuple(ordered))


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object; raise `ModelCardError` where there is none."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelCardError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelCardError(f"{path}: no JSON: {error}; fetch it again") from error
    if not isinstance(content, dict):
        raise ModelCardError(f"{path}: a JSON object is needed, found {type(content).__name__}")
    return content


def _regions(given: Mapping[str, Any], order: object, where: Path) -> Labels:
    """Return regions in the order of the network's channels, and the classes they write."""
    regions = {k: v if isinstance(v, list) else [v] for k, v in given.items()}
    regions = {k: v for k, v in regions.items() if set(v) != {0}}
    if not isinstance(order, Sequence) or len(order) != len(regions):
        raise ModelCardError(
            f"{where}: regions_class_order {order!r}: needed a label for each of {list(regions)}"
        )
    if any(not isinstance(v, int) or v < 1 for v in order) or len(set(order)) != len(order):
        raise ModelCardError(f"{where}: regions_class_order {order!r}: needed different labels")
    names = ["background", *(f"label {i}" for i in range(1, max(order) + 1))]
    for name, values in regions.items():
        if len(values) == 1 and 0 < values[0] < len(names):
            names[values[0]] = name
    written = tuple((name, names[value]) for name, value in zip(regions, order, strict=True))
    return Labels(tuple(names), written)
