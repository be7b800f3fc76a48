"""Bundles of MONAI as packages: what is taken over, what is refused, and that nothing is run."""

import copy
import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_models import BUNDLE, bundle_network, make_bundle
from scipy import ndimage

from wsiseg.engine.execute import run_stage
from wsiseg.engine.inputs import connect
from wsiseg.engine.scan_graph import lay_out_scan
from wsiseg.engine.scan_plan import plan_scan
from wsiseg.errors import ModelCardError, WeightsError, WsisegWarning
from wsiseg.geometry import Box
from wsiseg.model import ModelCard, add_model, load_model
from wsiseg.model.activation import activate
from wsiseg.model.importers.monai_config import BundleConfig
from wsiseg.model.importers.monai_transforms import read_postprocessing, read_preprocessing
from wsiseg.options import RunOptions
from wsiseg.source import open_volume
from wsiseg.volume.prepare import prepare_scan
from wsiseg.volume.scan import Scan


def add(folder: Path, **options: Any) -> ModelCard:
    return ModelCard.read(add_model(folder, name="made", **options) / "model.json")


def config(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(BUNDLE) | changes


def test_a_bundle_becomes_a_package(tmp_path: Path) -> None:
    card = add(make_bundle(tmp_path / "spleen"))
    assert [c.name for c in card.classes] == ["background", "spleen"]
    assert card.version == "0.2.0"
    assert card.scan is not None
    assert (card.scan.orientation, card.scan.transpose) == ("RAS", (2, 1, 0))
    assert card.scan.order == "resample_first"
    (stage,) = card.stages
    (spec,) = stage.inputs
    assert (spec.patch, spec.spacing_um) == ((16, 16, 8), (1500.0, 1500.0, 2000.0))
    assert spec.resample is not None
    assert (spec.resample.order, spec.resample.convention) == (1, "centres")
    assert [step.model_dump() for step in spec.steps] == [
        {"name": "window", "low": -57.0, "high": 164.0, "to": (0.0, 1.0), "clip": True}
    ]
    assert stage.windows is not None
    assert (stage.windows.plan, stage.windows.overlap) == ("monai", 0.5)
    assert (stage.output.blend, stage.output.activation) == ("gaussian-monai", "softmax")
    assert stage.weights.architecture == "monai.segresnet"
    assert card.provenance.metrics == {"mean_dice": 0.96}
    assert (add_model(tmp_path / "spleen", name="other") / "LICENSE").is_file()


def test_the_package_gives_what_the_network_gives(tmp_path: Path) -> None:
    add(make_bundle(tmp_path / "b", suffix="yaml"))
    x = np.random.default_rng(0).standard_normal((1, 16, 16, 8, 1)).astype(np.float32)
    with torch.inference_mode():
        wanted = bundle_network()(torch.from_numpy(x).permute(0, 4, 1, 2, 3))
    found = load_model("made", backend="onnxruntime").predictors[0](x)
    np.testing.assert_allclose(found, wanted.permute(0, 2, 3, 4, 1), atol=1e-4)


def test_the_lower_resolution_is_chosen_by_a_literal_condition(tmp_path: Path) -> None:
    card = add(make_bundle(tmp_path / "b", config=config(highres=False)))
    assert card.stages[0].inputs[0].spacing_um == (3000.0, 3000.0, 3000.0)


def test_channels_that_overlap_become_regions(tmp_path: Path) -> None:
    post = [
        {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
        {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
    ]
    formats = {"outputs": {"pred": {"channel_def": {"0": "whole", "1": "core"}}}}
    made = make_bundle(
        tmp_path / "b",
        config=config(postprocessing={"transforms": post}),
        network_data_format=formats,
    )
    card = add(made)
    assert [c.name for c in card.classes] == ["background", "whole", "core"]
    assert [r.label for r in card.regions] == ["whole", "core"]
    assert card.stages[0].output.activation == "sigmoid"
    assert card.stages[0].inputs[0].channels == ("image",)


NORMALIZE = {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True}
SPACING = {"_target_": "Spacingd", "keys": "image", "pixdim": [1.0, 1.0, 2.0], "mode": ["nearest"]}


def test_where_intensities_change_decides_the_order() -> None:
    first = read_preprocessing([NORMALIZE, SPACING], channels=1, where="x")
    assert (first.normalized_first, first.order) == (True, 0)
    assert first.spacing_um == [1000.0, 1000.0, 2000.0]
    assert not read_preprocessing([SPACING, NORMALIZE], channels=1, where="x").normalized_first
    with pytest.raises(ModelCardError, match="before and after Spacing"):
        read_preprocessing([NORMALIZE, SPACING, NORMALIZE], channels=1, where="x")


@pytest.mark.parametrize(
    ("transform", "step"),
    [
        ({"_target_": "NormalizeIntensityd"}, {"name": "zscore", "region": "all"}),
        ({"_target_": "NormalizeIntensity", "nonzero": True, "channel_wise": True},
         {"name": "zscore", "region": "nonzero"}),
        ({"_target_": "NormalizeIntensityd", "subtrahend": 3.0, "divisor": 2.0},
         {"name": "normalize", "mean": [3.0], "std": [2.0]}),
        ({"_target_": "monai.transforms.ScaleIntensityd", "minv": -1.0, "maxv": 1.0},
         {"name": "rescale", "to": [-1.0, 1.0]}),
        ({"_target_": "ScaleIntensityRanged", "a_min": -100, "a_max": 300},
         {"name": "window", "low": -100, "high": 300, "to": [0.0, 1.0], "clip": False}),
        ({"_target_": "ScaleIntensityRangePercentilesd", "lower": 1, "upper": 99, "b_min": 0,
          "b_max": 1, "clip": True},
         {"name": "percentile_window", "low": 1, "high": 99, "to": [0, 1], "clip": True,
          "region": "all"}),
        ({"_target_": "ClipIntensityPercentilesd", "lower": 1, "upper": 99},
         {"name": "percentile_clip", "low": 1, "high": 99, "region": "all"}),
    ],
)  # fmt: skip
def test_intensities(transform: dict[str, Any], step: dict[str, Any]) -> None:
    assert read_preprocessing([transform], channels=1, where="x").steps == [step]


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ({"_target_": "Rotate90d"}, "Rotate90d: is not known here"),
        ({"_target_": "my.package.Magic"}, "Magic: is not known here"),
        ({"_target_": "NormalizeIntensityd"}, "measures all channels at once"),
        ({"_target_": "ScaleIntensityd", "factor": 0.1, "channel_wise": True}, "factor 0.1"),
        ({"_target_": "Spacingd", "pixdim": [1, 1, 1], "padding_mode": "zeros"}, "padding_mode"),
        ({"_target_": "Spacingd", "pixdim": [1, 1]}, "needed three sizes"),
        ({"_target_": "Spacingd", "pixdim": [1, 1, 1], "mode": "area"}, "mode 'area'"),
        ({"_target_": "CropForegroundd", "source_key": "image", "margin": 5}, "without margin"),
        ({"_target_": "ScaleIntensityRangePercentilesd", "lower": 1, "upper": 99, "b_min": 0,
          "b_max": 1, "relative": True, "channel_wise": True}, "relative True"),
        ("LoadImaged", "no transform"),
    ],
)  # fmt: skip
def test_transforms_that_no_card_can_say_are_refused_by_name(transform: Any, message: str) -> None:
    with pytest.raises(ModelCardError, match=message):
        read_preprocessing([transform], channels=2, where="x")


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ({"_target_": "KeepLargestConnectedComponentd"}, "KeepLargestConnectedComponentd: is done"),
        ({"_target_": "AsDiscreted", "threshold": 0.3}, "threshold 0.3: needed 0.5"),
        ({"_target_": "Activationsd", "other": "tanh"}, "other 'tanh'"),
    ],
)
def test_results_are_changed_by_nothing_unknown(transform: Any, message: str) -> None:
    with pytest.raises(ModelCardError, match=message):
        read_postprocessing([transform], where="x")


def test_a_disabled_transform_does_nothing() -> None:
    off = {"_target_": "Rotate90d", "_disabled_": True}
    assert read_preprocessing([off], channels=1, where="x").steps == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network_def": {"_target_": "MyNet"}}, "network MyNet: needed one of AttentionUnet"),
        ({"network_def": BUNDLE["network_def"] | {"spatial_dims": 2}}, "of 2 dimensions"),
        ({"network_def": "$torch.hub.load('x')"}, r"\$torch\.hub\.load.* is code and is not run"),
        ({"inferer": {"_target_": "SimpleInferer"}}, "inferer SimpleInferer"),
        ({"inferer": BUNDLE["inferer"] | {"padding_mode": "reflect"}}, "padding_mode 'reflect'"),
        ({"inferer": BUNDLE["inferer"] | {"roi_size": [96, 96, -1]}}, "needed three sizes"),
        ({"inferer": BUNDLE["inferer"] | {"overlap": "$1 / 2"}}, "is code"),
        ({"preprocessing": {"transforms": [{"_target_": "CropForegroundd", "select_fn":
          "$lambda x: x > 0"}]}}, r"CropForegroundd: .*lambda.*is code"),
        ({"postprocessing": {"transforms": [{"_target_": "Lambdad", "func": "$lambda x: x"}]}},
         "Lambdad: .* is code"),
        ({"pixdim": "@missing"}, "@missing leads nowhere"),
        ({"pixdim": "@pixdim"}, "in a circle"),
        ({"pixdim": "%other.json::x"}, "macro"),
    ],
)  # fmt: skip
def test_configurations_that_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelCardError, match=message):
        add(make_bundle(tmp_path / "b", config=config(**changes)))


def test_weights_stay_inside_the_bundle(tmp_path: Path) -> None:
    loader = BUNDLE["checkpointloader"] | {"load_path": "/etc/passwd"}
    with pytest.raises(WeightsError, match="outside of the bundle"):
        add(make_bundle(tmp_path / "b", config=config(checkpointloader=loader)))
    bundle = make_bundle(tmp_path / "c")
    (bundle / "models" / "model.pt").unlink()
    with pytest.raises(WeightsError, match="is missing"):
        add(bundle)


def test_torchscript_weights_need_trust(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    (bundle / "models" / "model.pt").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(bundle_network(), torch.zeros(1, 1, 16, 16, 8))
        torch.jit.save(traced, bundle / "models" / "model.ts")
    with pytest.raises(WeightsError, match="is TorchScript, which is code"):
        add(bundle)
    with pytest.warns(WsisegWarning, match="unpickled once"):
        assert add(bundle, trust=True).stages[0].weights.architecture == "monai.segresnet"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$'a' + @b", "a1"),
        ("$[1, -2] + [@c]", [1, -2, 3]),
        ("$@d#0 if @yes else 5", 7),
        ("@d::1", 8),
        ("no reference @b", "no reference @b"),
        ("$None", None),
    ],
)
def test_the_expressions_that_are_read(tmp_path: Path, text: str, value: object) -> None:
    content = {"b": "1", "c": 3, "d": [7, 8], "yes": True, "it": text}
    assert BundleConfig(tmp_path, content).get("it") == value


@pytest.mark.parametrize(
    "text",
    [
        "$__import__('os').system('true')",
        "$[x for x in (1,)]",
        "$@c.real",
        "$@c * 10 ** 9",
        "$(",
        "$",
    ],
)
def test_any_other_expression_is_code(tmp_path: Path, text: str) -> None:
    with pytest.raises(ModelCardError, match="is code and is not run"):
        BundleConfig(tmp_path, {"c": 3, "it": text}).get("it")


@pytest.mark.parametrize("each", ["@next", "$@next + @next", "$[@next, @next]"])
@pytest.mark.parametrize("last", [["x"] * 10, "x" * 60_000])
def test_a_few_lines_that_stand_for_very_much_are_refused(tmp_path, each, last):
    names = [f"a{i}" for i in range(12)]
    content = {
        name: [each.replace("next", after)] * 10 for name, after in itertools.pairwise(names)
    }
    content[names[-1]] = last
    with pytest.raises(ModelCardError, match="more than 100000 values"):
        BundleConfig(tmp_path, content).get("a0")


class Collected:
    """Keeps what is stitched, raw."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.raw = np.zeros((*shape, 2), np.float32)

    def push(self, slab: Any) -> None:
        self.raw[slab.box.slices()] = slab.values

    def finish(self) -> None:
        """Nothing is left to do."""


def test_probabilities_are_those_of_monai(tmp_path: Path) -> None:
    """MONAI's own transforms and inferer beside the imported package."""
    import monai.transforms as mt
    import nibabel as nib
    from monai.data import MetaTensor
    from monai.inferers import SlidingWindowInferer

    random = np.random.default_rng(0)
    values = ndimage.gaussian_filter(random.normal(size=(26, 30, 14)), 1.5) * 600 + 40
    affine = np.diag([-1.2, -0.9, 2.5, 1.0])  # LPS: turned to RAS by both
    affine[:3, 3] = 20.0, 30.0, -10.0
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(values.astype(np.float32), affine), path)
    spacing, limits = (1.5, 1.5, 2.0), (-57, 164, 0, 1)
    steps = [
        mt.Orientationd("image", axcodes="RAS", labels=None),
        mt.Spacingd("image", pixdim=spacing, mode="bilinear"),
        mt.ScaleIntensityRanged("image", *limits, clip=True),
        mt.EnsureTyped("image"),
    ]
    # As `LoadImaged` gives it, which warns of what is not installed.
    image = MetaTensor(torch.from_numpy(values.astype(np.float32))[None], torch.from_numpy(affine))
    given = mt.Compose(steps)({"image": image})["image"]
    inferer = SlidingWindowInferer((16, 16, 8), sw_batch_size=4, overlap=0.5, mode="gaussian")
    with torch.inference_mode():
        wanted = inferer(given[None].as_tensor(), bundle_network())[0].softmax(0).numpy()

    add(make_bundle(tmp_path / "b"))
    model = load_model("made", backend="torch")
    assert model.card.scan is not None
    scan = Scan.of([open_volume(path)], model.card.scan)
    setups = lay_out_scan(model.card, scan)
    (item,) = setups[0].inputs
    assert item.layout is not None
    prepared = prepare_scan(scan, item.layout, item.spec.steps, tmp_path, normalize_first=False)
    mine = np.moveaxis(prepared.read(Box.of_shape(prepared.shape)), -1, 0)
    np.testing.assert_allclose(mine, given.numpy(), atol=1e-5)
    selected = [np.ones(setups[0].grid.counts, np.bool_)]
    plan = plan_scan(model, scan, setups, selected, RunOptions(threads=1))
    collected = Collected(prepared.shape)
    run_stage(
        setups[0],
        connect(setups[0], {}, scans={0: prepared}),
        selected[0],
        model.predictors[0],
        collected,
        pace=plan.stages[0].pace,
    )
    found = np.moveaxis(activate(collected.raw, "softmax"), -1, 0)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-5
    assert np.ptp(wanted) > 0.01
