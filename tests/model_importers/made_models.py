"""Small folders as nnU-Net v2, MONAI and Raidionics write them, with real networks."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from wsiseg.model.networks import build

STAGES: dict[str, Any] = {
    "features_per_stage": [4, 8, 8],
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "n_conv_per_stage": [2, 2, 2],
    "n_conv_per_stage_decoder": [2, 2],
}

ARCHITECTURE: dict[str, Any] = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 3,
        **STAGES,
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}

FULLRES: dict[str, Any] = {
    "data_identifier": "nnUNetPlans_3d_fullres",
    "preprocessor_name": "DefaultPreprocessor",
    "batch_size": 2,
    "patch_size": [8, 16, 16],
    "median_image_size_in_voxels": [12.0, 24.0, 20.0],
    "spacing": [2.0, 1.0, 1.0],
    "normalization_schemes": ["CTNormalization"],
    "use_mask_for_norm": [False],
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_seg": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": {
        "is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None,
    },
    "resampling_fn_seg_kwargs": {
        "is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None,
    },
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities_kwargs": {
        "is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None,
    },
    "architecture": ARCHITECTURE,
    "batch_dice": True,
}  # fmt: skip

PLANS: dict[str, Any] = {
    "dataset_name": "Dataset123_Made",
    "plans_name": "nnUNetPlans",
    "original_median_spacing_after_transp": [2.0, 1.0, 1.0],
    "original_median_shape_after_transp": [12, 24, 20],
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "label_manager": "LabelManager",
    "foreground_intensity_properties_per_channel": {
        "0": {
            "max": 300.0, "mean": 40.0, "median": 45.0, "min": -150.0,
            "percentile_00_5": -120.0, "percentile_99_5": 240.0, "std": 60.0,
        },
    },
    "configurations": {
        "3d_fullres": FULLRES,
        "3d_small": {"inherits_from": "3d_fullres", "patch_size": [8, 8, 8]},
    },
}  # fmt: skip

DATASET: dict[str, Any] = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "liver": 1, "tumour": 2},
    "numTraining": 4,
    "file_ending": ".nii.gz",
}


def plans(**changes: Any) -> dict[str, Any]:
    """Return plans whose configuration `3d_fullres` is changed."""
    made = copy.deepcopy(PLANS)
    made["configurations"]["3d_fullres"].update(changes)
    return made


def network(channels: int = 1, outputs: int = 3, *, residual: bool = False, seed: int = 0, **to):
    """Return a network like those of nnU-Net, its values far from 0."""
    torch.manual_seed(seed)
    name = "wsiseg.nnunet_resenc" if residual else "wsiseg.nnunet"
    made = build(name, channels=(channels,), classes=outputs, arguments={**STAGES, **to}).eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


def as_nnunet(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights with the second names that nnU-Net's networks store them under, too."""
    made = dict(state)
    for key, value in state.items():
        for part, place in ((".conv.", 0), (".norm.", 1)):
            if part in key:
                made[key.replace(part, f".all_modules.{place}.")] = value
    return made | {f"decoder.{k}": v for k, v in made.items() if k.startswith("encoder.")}


def make_nnunet(
    folder: Path,
    *,
    networks: dict[str, nn.Module] | None = None,
    plans: dict[str, Any] = PLANS,
    dataset: dict[str, Any] = DATASET,
    configuration: str = "3d_fullres",
    checkpoint: str = "final",
    mirror: tuple[int, ...] | None = (0, 1, 2),
    **extra: Any,
) -> Path:
    """Write a result folder with a checkpoint per fold, as nnU-Net's trainer stores it."""
    result = folder / f"nnUNetTrainer__nnUNetPlans__{configuration}"
    for fold, made in (networks or {"0": network()}).items():
        (result / f"fold_{fold}").mkdir(parents=True)
        content = {
            "network_weights": as_nnunet(made.state_dict()),
            "optimizer_state": {"param_groups": [{"lr": 0.01}]},
            "grad_scaler_state": None,
            "logging": {"mean_fg_dice": [np.float64(0.8)], "ema": np.zeros(2)},
            "_best_ema": np.float32(0.8),
            "current_epoch": 1000,
            "init_args": {"configuration": configuration, "fold": fold, "plans": plans},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": mirror,
            **extra,
        }
        torch.save(content, result / f"fold_{fold}" / f"checkpoint_{checkpoint}.pth")
    (result / "plans.json").write_text(json.dumps(plans))
    (result / "dataset.json").write_text(json.dumps(dataset))
    return result


BUNDLE: dict[str, Any] = {
    "imports": ["$import glob"],
    "bundle_root": ".",
    "image_key": "image",
    "highres": True,
    "output_dir": "$@bundle_root + '/eval'",
    "datalist": "$list(sorted(glob.glob(@dataset_dir + '/*.nii.gz')))",
    "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "pixdim": "$[1.5, 1.5, 2.0] if @highres else [3.0, 3.0, 3.0]",
    "network_def": {
        "_target_": "SegResNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 2,
        "init_filters": 8,
        "blocks_down": [1, 1],
        "blocks_up": [1],
        "dropout_prob": 0.2,
    },
    "network": "$@network_def.to(@device)",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "@image_key", "reader": "$monai.data.ITKReader"},
            {"_target_": "EnsureChannelFirstd", "keys": "@image_key"},
            {"_target_": "Orientationd", "keys": "@image_key", "axcodes": "RAS"},
            {"_target_": "Spacingd", "keys": "@image_key", "pixdim": "@pixdim", "mode": "bilinear"},
            {
                "_target_": "ScaleIntensityRanged", "keys": "@image_key", "a_min": -57,
                "a_max": 164, "b_min": 0, "b_max": 1, "clip": True,
            },
            {"_target_": "EnsureTyped", "keys": "@image_key"},
        ],
    },
    "inferer": {
        "_target_": "SlidingWindowInferer",
        "roi_size": [16, 16, 8],
        "sw_batch_size": 4,
        "overlap": 0.5,
        "mode": "gaussian",
    },
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "Activationsd", "keys": "pred", "softmax": True},
            {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing"},
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir"},
        ],
    },
    "checkpointloader": {
        "_target_": "CheckpointLoader",
        "load_path": "$@bundle_root + '/models/model.pt'",
        "load_dict": {"model": "@network"},
    },
}  # fmt: skip

METADATA: dict[str, Any] = {
    "version": "0.2.0",
    "task": "Spleen segmentation",
    "data_source": "made up",
    "copyright": "Copyright (c) nobody",
    "intended_use": "a test",
    "eval_metrics": {"mean_dice": 0.96},
    "references": ["Somebody et al. 2020"],
    "network_data_format": {
        "inputs": {"image": {"modality": "CT", "channel_def": {"0": "image"}}},
        "outputs": {"pred": {"channel_def": {"0": "background", "1": "spleen"}}},
    },
}


def make_bundle(
    folder: Path, *, config: dict[str, Any] = BUNDLE, suffix: str = "json", **metadata: Any
) -> Path:
    """Write a bundle whose network has random weights."""
    import yaml

    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    text = json.dumps(config) if suffix == "json" else yaml.safe_dump(config)
    (folder / "configs" / f"inference.{suffix}").write_text(text)
    (folder / "configs" / "metadata.json").write_text(json.dumps(METADATA | metadata))
    (folder / "LICENSE").write_text("Apache-2.0")
    torch.save(bundle_network().state_dict(), folder / "models" / "model.pt")
    return folder


def bundle_network() -> nn.Module:
    """Return the network of `BUNDLE`."""
    torch.manual_seed(0)
    arguments = {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}
    return build("monai.segresnet", channels=(1,), classes=2, arguments=arguments).eval()


class Voxelwise(nn.Module):
    """A network of channels last, as those of Keras are: (n, x, y, z, channel)."""

    def __init__(self, channels: int = 1, classes: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, classes, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return probabilities, classes last."""
        return self.conv(x.permute(0, 4, 1, 2, 3)).softmax(1).permute(0, 2, 3, 4, 1)


INI = """
[Default]
imaging_modality=MRI # or CT
training_backend=TF
task=Segmentation

[Training]
nb_classes=2
classes=Background,Tumor
patch_size=
optimal_thresholds=0.5,0.35
deep_supervision=False

[PreProcessing]
output_spacing=
intensity_clipping_values=
intensity_clipping_range=0,99.5
background_cropping=
new_axial_size=16,16,8
swap_training_input=True
normalization_method=default
number_inputs=1
channels_order=channels_last

[MRI]
perform_bias_correction=False
"""


def make_raidionics(folder: Path, ini: str = INI) -> Path:
    """Write `pre_processing.ini` and `model.onnx`."""
    folder.mkdir(parents=True)
    (folder / "pre_processing.ini").write_text(ini)
    export(Voxelwise().eval(), torch.zeros(1, 16, 16, 8, 1), folder / "model.onnx")
    return folder


def export(module: nn.Module, example: torch.Tensor, path: Path) -> None:
    """Write a network as ONNX, any batch size."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs nothing else is deprecated
        torch.onnx.export(
            module, (example,), str(path), dynamo=False, opset_version=17,
            input_names=["input"], output_names=["output"],
            dynamic_axes={"input": {0: "n"}, "output": {0: "n"}},
        )  # fmt: skip
