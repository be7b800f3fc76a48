"""Result folders of nnU-Net v2 as packages: what a card says of them, and what is refused."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_models import ARCHITECTURE, DATASET, FULLRES, STAGES, make_nnunet, network, plans

from wsiseg.errors import ModelCardError, ModelError, WeightsError
from wsiseg.model import ModelCard, Selection, add_model, check_model, load_model
from wsiseg.model.importers.nnunet_plans import Configuration, Plans


def add(folder: Path, **options: Any) -> ModelCard:
    return ModelCard.read(add_model(folder, name="made", **options) / "model.json")


def test_a_result_folder_becomes_a_package(tmp_path: Path) -> None:
    card = add(make_nnunet(tmp_path))
    (stage,) = card.stages
    (spec,) = stage.inputs
    assert [c.name for c in card.classes] == ["background", "liver", "tumour"]
    assert card.scan is not None
    assert (card.scan.orientation, card.scan.order) == ("stored", "normalize_first")
    assert card.scan.crop is not None
    assert card.scan.crop.to == "nonzero"
    assert (spec.patch, spec.spacing_um) == ((8, 16, 16), (2000.0, 1000.0, 1000.0))
    assert spec.resample is not None
    assert spec.resample.model_dump() == {
        "order": 3, "convention": "extent", "separate_z_over": 3.0, "order_z": 0, "keep": (),
    }  # fmt: skip
    assert [step.model_dump() for step in spec.steps] == [
        {"name": "clip", "low": -120.0, "high": 240.0},
        {"name": "normalize", "mean": (40.0,), "std": (60.0,)},
    ]
    assert stage.windows is not None
    assert (stage.windows.plan, stage.windows.overlap) == ("nnunet", 0.5)
    assert (stage.mirror_axes, stage.output.blend) == ((0, 1, 2), "gaussian-nnunet")
    assert (stage.output.stitched, stage.output.activation) == ("raw", "softmax")
    assert "Dataset123_Made" in card.provenance.trained_on


def test_the_package_gives_what_the_network_gives(tmp_path: Path) -> None:
    made = network()
    add(make_nnunet(tmp_path, networks={"0": made}))
    x = np.random.default_rng(0).standard_normal((2, 8, 16, 16, 1)).astype(np.float32)
    for backend in ("torch", "onnxruntime"):
        found = load_model("made", backend=backend).predictors[0](x)
        with torch.inference_mode():
            wanted = made(torch.from_numpy(x).permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_checks_of_many_values_are_kept_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsiseg.model.importers.assemble.MOST_VALUES", 800)
    folder = add_model(make_nnunet(tmp_path), name="made")
    with np.load(folder / "check.npz") as arrays:
        assert arrays["3d_fullres.output"].shape == (1, 4, 8, 8, 3)
        assert arrays["3d_fullres.every"] == 2
        changed = dict(arrays)
    check_model("made", backend="torch")
    changed["3d_fullres.output"] += 1
    np.savez(folder / "check.npz", **changed)
    with pytest.raises(ModelError, match="differs from the recorded one"):
        check_model("made", backend="torch")


def test_folds_are_averaged(tmp_path: Path) -> None:
    networks = {str(i): network(seed=i) for i in range(3)}
    card = add(make_nnunet(tmp_path, networks=networks))
    assert len(card.stages[0].every_weights) == 3
    x = np.random.default_rng(0).standard_normal((1, 8, 16, 16, 1)).astype(np.float32)
    with torch.inference_mode():
        each = [n(torch.from_numpy(x).permute(0, 4, 1, 2, 3)) for n in networks.values()]
    wanted = torch.stack(each).mean(0).permute(0, 2, 3, 4, 1)
    np.testing.assert_allclose(
        load_model("made", backend="torch").predictors[0](x), wanted, atol=1e-4
    )


def test_folds_and_checkpoints_are_chosen(tmp_path: Path) -> None:
    result = make_nnunet(tmp_path, networks={"0": network(), "all": network(seed=1)})
    assert [w.file for w in add(result).stages[0].every_weights] == [
        "3d_fullres-fold-0.safetensors"
    ]
    chosen = add(result, selection=Selection(folds=("all",)), overwrite=True)
    assert chosen.stages[0].weights.file == "3d_fullres-fold-all.safetensors"
    with pytest.raises(WeightsError, match=r"fold 4 with checkpoint_final.pth: found folds \['0'"):
        add(result, selection=Selection(folds=("0", "4")), overwrite=True)
    with pytest.raises(WeightsError, match="no fold with checkpoint_best"):
        add(result, selection=Selection(checkpoint="best"), overwrite=True)


def test_the_folder_of_a_data_set_needs_a_choice(tmp_path: Path) -> None:
    make_nnunet(tmp_path)
    make_nnunet(tmp_path, configuration="3d_small")
    with pytest.raises(ModelCardError, match=r"\['3d_fullres', '3d_small'\]; give --configuration"):
        add(tmp_path)
    card = add(tmp_path, selection=Selection("3d_small"))
    assert card.stages[0].inputs[0].patch == (8, 8, 8)  # its own
    assert card.stages[0].inputs[0].spacing_um == (2000.0, 1000.0, 1000.0)  # inherited


def test_old_plans_say_the_same(tmp_path: Path) -> None:
    old = {k: v for k, v in FULLRES.items() if k != "architecture"} | {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 8,
        "n_conv_per_stage_encoder": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
        "num_pool_per_axis": [1, 2, 2],
        "pool_op_kernel_sizes": STAGES["strides"],
        "conv_kernel_sizes": STAGES["kernel_sizes"],
    }
    new = Configuration("3d_fullres", FULLRES, "new").network()
    assert Configuration("3d_fullres", old, "old").network() == new
    assert new == (
        "wsiseg.nnunet",
        {**STAGES, "conv_bias": True, "norm": "instance", "norm_eps": 1e-5, "negative_slope": 0.01},
    )


def test_residual_encoders(tmp_path: Path) -> None:
    arguments = copy.deepcopy(ARCHITECTURE["arch_kwargs"])
    arguments["n_blocks_per_stage"] = arguments.pop("n_conv_per_stage")
    name = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    changed = plans(architecture={"network_class_name": name, "arch_kwargs": arguments})
    card = add(make_nnunet(tmp_path, plans=changed, networks={"0": network(residual=True)}))
    assert card.stages[0].weights.architecture == "wsiseg.nnunet_resenc"


def test_regions_keep_their_order(tmp_path: Path) -> None:
    labels = {
        "background": 0,
        "whole": [1, 2, 3],
        "core": [2, 3],
        "enhancing": 3,
        "ignore": 4,
    }
    dataset = DATASET | {"labels": labels, "regions_class_order": [1, 2, 3]}
    card = add(make_nnunet(tmp_path, dataset=dataset))
    assert [c.name for c in card.classes] == ["background", "label 1", "label 2", "enhancing"]
    assert [(r.name, r.label) for r in card.regions] == [
        ("whole", "label 1"),
        ("core", "label 2"),
        ("enhancing", "enhancing"),
    ]
    assert card.stages[0].output.activation == "sigmoid"


def test_a_configuration_of_slices(tmp_path: Path) -> None:
    flat = {
        "patch_size": [16, 16],
        "spacing": [1.0, 1.0],
        "architecture": copy.deepcopy(ARCHITECTURE),
    }
    flat["architecture"]["arch_kwargs"] |= {
        "kernel_sizes": [[3, 3]] * 3,
        "strides": [[1, 1], [2, 2], [2, 2]],
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
    }
    sizes = {k: flat["architecture"]["arch_kwargs"][k] for k in ("kernel_sizes", "strides")}
    result = make_nnunet(
        tmp_path, plans=plans(**flat), networks={"0": network(**sizes)}, mirror=(0, 1)
    )
    stage = add(result).stages[0]
    assert (stage.inputs[0].patch, stage.inputs[0].spacing_um) == (
        (1, 16, 16),
        (2000.0, 1000.0, 1000.0),
    )
    assert stage.inputs[0].resample is not None
    assert stage.inputs[0].resample.keep == (0,)
    assert stage.mirror_axes == (1, 2)
    assert stage.windows is not None
    assert stage.windows.overlap == (0.0, 0.5, 0.5)


def test_a_cascade_has_two_stages(tmp_path: Path) -> None:
    made = plans()
    made["configurations"]["3d_lowres"] = {
        "inherits_from": "3d_fullres",
        "spacing": [4.0, 2.0, 2.0],
        "next_stage": "3d_cascade_fullres",
    }
    made["configurations"]["3d_cascade_fullres"] = {
        "inherits_from": "3d_fullres",
        "previous_stage": "3d_lowres",
    }
    make_nnunet(tmp_path, plans=made, configuration="3d_lowres")
    with pytest.raises(ModelCardError, match="reads what 3d_lowres gives"):
        add(make_nnunet(tmp_path / "alone", plans=made, configuration="3d_cascade_fullres"))
    result = make_nnunet(
        tmp_path, plans=made, configuration="3d_cascade_fullres", networks={"0": network(3)}
    )
    first, second = add(result).stages
    assert (first.name, second.name) == ("3d_lowres", "3d_cascade_fullres")
    assert second.inputs[1].source == first.output.name
    assert second.inputs[1].channels == ("liver", "tumour")
    assert second.inputs[1].encoding == "labels"
    assert second.inputs[1].spacing_um == second.inputs[0].spacing_um


def test_channels_with_steps_of_their_own(tmp_path: Path) -> None:
    changed = plans(
        normalization_schemes=["CTNormalization", "ZScoreNormalization"],
        use_mask_for_norm=[False, True],
    )
    dataset = DATASET | {"channel_names": {"0": "CT", "1": "PET"}}
    result = make_nnunet(tmp_path, plans=changed, dataset=dataset, networks={"0": network(2)})
    first, second = add(result).stages[0].inputs
    assert (first.channels, second.channels) == (("CT",), ("PET",))
    assert [step.model_dump() for step in second.steps] == [{"name": "zscore", "region": "mask"}]


@pytest.mark.parametrize(
    ("scheme", "masked", "steps"),
    [
        ("ZScoreNormalization", False, [{"name": "zscore", "region": "all"}]),
        ("ZScoreNormalization", True, [{"name": "zscore", "region": "mask"}]),
        ("NoNormalization", False, []),
        ("RescaleTo01Normalization", False, [{"name": "rescale", "to": (0.0, 1.0)}]),
        ("RGBTo01Normalization", False, [{"name": "scale", "divide_by": 255.0}]),
    ],
)
def test_normalisation_schemes(tmp_path: Path, scheme: str, masked: bool, steps: Any) -> None:
    changed = plans(normalization_schemes=[scheme], use_mask_for_norm=[masked])
    card = add(make_nnunet(tmp_path, plans=changed))
    assert [step.model_dump() for step in card.stages[0].inputs[0].steps] == steps


def test_axes_are_transposed_and_slices_kept_apart_as_planned(tmp_path: Path) -> None:
    changed = plans() | {"transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0]}
    card = add(make_nnunet(tmp_path, plans=changed))
    assert card.scan is not None
    assert card.scan.transpose == (2, 0, 1)
    never = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": False}
    changed = plans(
        resampling_fn_data_kwargs=never, resampling_fn_probabilities_kwargs=never | {"order": 1}
    )
    spec = add(make_nnunet(tmp_path / "b", plans=changed), overwrite=True).stages[0].inputs[0]
    assert spec.resample is not None
    assert spec.resample.separate_z_over is None


def with_arch(**changes: Any) -> dict[str, Any]:
    made = copy.deepcopy(ARCHITECTURE)
    made["arch_kwargs"] |= changes
    return plans(architecture=made)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (plans(normalization_schemes=["MyNormalization"]), "'MyNormalization' is not known"),
        (plans(normalization_schemes=[]), "1 channels, 0 normalization_schemes"),
        (plans(resampling_fn_data="resample_torch_fornnunet"), "resample_torch_fornnunet"),
        (
            plans(resampling_fn_probabilities_kwargs={"order": 3}),
            "resampling_fn_probabilities_kwargs",
        ),
        (
            plans(resampling_fn_data_kwargs={"force_separate_z": True, "order": 3}),
            "force_separate_z",
        ),
        (plans(architecture={"network_class_name": "a.Primus"}), "network Primus: needed one of"),
        (with_arch(block="BottleneckD"), "the network has block"),
        (with_arch(nonlin="torch.nn.Mish"), "nonlin 'torch.nn.Mish'"),
        (with_arch(norm_op="torch.nn.LayerNorm"), "norm_op 'torch.nn.LayerNorm'"),
        (plans() | {"image_reader_writer": "NaturalImage2DIO"}, "read by NaturalImage2DIO"),
        (plans() | {"transpose_forward": [0, 1, 1]}, "no permutation"),
        (plans() | {"configurations": {}}, "'3d_fullres' is not there"),
        (plans(inherits_from="3d_small"), "inherits from itself"),
        (plans() | {"foreground_intensity_properties_per_channel": {}}, "no foreground intens"),
    ],
)
def test_plans_that_no_card_can_say_are_refused_by_name(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelCardError, match=message):
        add(make_nnunet(tmp_path, plans=changed))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"background": 0, "a": 2}}, "needed 0 for background, 1, 2"),
        ({"labels": [0, 1]}, "labels are"),
        ({"labels": {"background": 0, "a": [1, 2], "b": 2}}, "regions_class_order None"),
        ({"channel_names": {"1": "CT"}}, "needed a name for each"),
    ],
)
def test_data_sets_that_no_card_can_say(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelCardError, match=message):
        add(make_nnunet(tmp_path, dataset=DATASET | changes))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"do not fit wsiseg\.nnunet with 3 classes"):
        add(make_nnunet(tmp_path, networks={"0": network(outputs=4)}))
    result = make_nnunet(tmp_path / "b")
    torch.save({"weights": {}}, result / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(WeightsError, match="it has no network_weights"):
        add(result)


def test_reader_that_turns_scans(tmp_path: Path) -> None:
    result = make_nnunet(tmp_path, plans=plans() | {"image_reader_writer": "NibabelIOWithReorient"})
    assert Plans.read(result).orientation == "RAS"


def test_old_names_of_the_files(tmp_path: Path) -> None:
    made = plans()
    known = made.pop("foreground_intensity_properties_per_channel")
    made["foreground_intensity_properties_by_modality"] = known
    dataset = {k: v for k, v in DATASET.items() if k != "channel_names"} | {"modality": {"0": "CT"}}
    result = make_nnunet(tmp_path, plans=made, dataset=dataset)
    assert Plans.read(result).intensities(0)["mean"] == 40.0
    assert Plans.read(result).channels == ("CT",)
    (result / "plans.json").write_text("[]")
    with pytest.raises(ModelCardError, match="JSON object is needed"):
        add(result)
    (result / "plans.json").write_text(json.dumps(made))
