"""H2G-Net's pair of networks and text pipelines of FAST, with networks of their signatures."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from wsiseg_cli.main import main

import wsiseg
from wsiseg.errors import ModelCardError, ModelError, OutputShapeError
from wsiseg.model import add_model, load_model
from wsiseg.model import registry as registry_module
from wsiseg.model.fpl import read_pipeline
from wsiseg.options import SegmentOptions, TissueOptions

PINK = 12.0
"""Logit per unit by which red exceeds green."""

CLASSIFIER = "pw_tumour_mobilenetv2_model.onnx"
REFINEMENT = "unet_tumour_refinement_model_fix-opset9.onnx"
H2G = """PipelineName "Breast Tumour Segmentation"
PipelineDescription "of an example"
PipelineInputData WSI "Whole-slide image"
PipelineOutputData segmentation refinement 0
Attribute classes "Background;Tumour"

### Processing chain
ProcessObject tissueSeg TissueSegmentation
Input 0 WSI

ProcessObject patch PatchGenerator
Attribute patch-size 256 256
Attribute patch-magnification @@magnification=10@@
Input 0 WSI
Input 1 tissueSeg 0

ProcessObject network NeuralNetwork
Attribute model "$CURRENT_PATH$/pw_tumour_mobilenetv2_model.onnx"
Attribute scale-factor 0.003921568627451
Input 0 patch 0

ProcessObject stitcher PatchStitcher
Input 0 network 0

ProcessObject finish RunUntilFinished
Input 0 stitcher 0

ProcessObject tensorToImage TensorToImage
Attribute channels 1
Input 0 finish 0

ProcessObject lowRes ImagePyramidLevelExtractor
Attribute level -1
Input 0 WSI

ProcessObject scale IntensityNormalization
Input 0 lowRes 0

ProcessObject refinement SegmentationNetwork
Attribute inference-engine OpenVINO
Attribute model "$CURRENT_PATH$/unet_tumour_refinement_model_fix-opset9.onnx"
Input 0 scale 0
Input 1 tensorToImage 0

Renderer imgRenderer ImagePyramidRenderer
Input 0 WSI
"""
PATCHES = """PipelineName "Nuclei segmentation"
Attribute classes "Background;Cell nuclei"

ProcessObject patch PatchGenerator
Attribute patch-size 64 64
Attribute patch-magnification 20
Attribute patch-overlap 0.125 # per side
Input 0 WSI

ProcessObject network SegmentationNetwork
Attribute scale-factor 0.00392156862
Attribute model "$CURRENT_PATH$/nuclei.onnx"
Input 0 patch 0

ProcessObject stitcher PatchStitcher
Input 0 network 0
"""


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSISEG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(registry_module, "BUNDLED", tmp_path / "bundled")


def save(path: Path, nodes: list, constants: dict, inputs: dict, output: list) -> None:
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [info("out", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 9)]
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def classifier(path: Path, patch: int = 256) -> None:
    """(n, 256, 256, 3) -> (n, 2): how much redder than green the patch is, channels last."""
    weight = np.array([[0, PINK], [0, -PINK], [0, 0]], np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["input_1"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["linear"]),
        helper.make_node("Add", ["linear", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["out"], axis=1),
    ]
    constants = {"weight": weight, "bias": np.array([0, -PINK * 0.15], np.float32)}
    save(path, nodes, constants, {"input_1": ["n", patch, patch, 3]}, ["n", 2])


def dense(path: Path, *, side: int, heat: bool, first: str = "image") -> None:
    """(n, side, side, 3)[, (n, side, side, 1)] -> (n, side, side, 2), channels last."""
    inputs = {"image": ["n", side, side, 3]}
    if heat:
        inputs |= {"heat": ["n", side, side, 1]}
    weight = np.zeros((3 + heat, 2), np.float32)
    weight[:2, 1] = PINK, -PINK
    if heat:
        weight[3, 1] = PINK
    joined = ["image", "heat"] if heat else ["image"]
    nodes = [
        helper.make_node("Concat", joined, ["all"], axis=3),
        helper.make_node("MatMul", ["all", "weight"], ["linear"]),
        helper.make_node("Add", ["linear", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["out"], axis=3),
    ]
    bias = np.array([0, -PINK * (0.15 + 0.5 * heat)], np.float32)
    ordered = dict(sorted(inputs.items(), key=lambda item: item[0] != first))
    save(path, nodes, {"weight": weight, "bias": bias}, ordered, ["n", side, side, 2])


def pair(folder: Path, first: str = "image", side: int = 128) -> Path:
    classifier(folder / CLASSIFIER)
    dense(folder / REFINEMENT, side=side, heat=True, first=first)
    return folder


def slide() -> tuple[np.ndarray, np.ndarray]:
    """Return pixels of 1 µm, wider than high, and where they are pink."""
    y, x = np.mgrid[:2100, :3000]
    inside = (y - 1000) ** 2 + (x - 1300) ** 2 < 620**2
    pixels = np.full((2100, 3000, 3), 240, np.uint8)
    pixels[inside] = 200, 100, 160
    return pixels, inside


@pytest.mark.parametrize(
    ("first", "side"),
    [("image", 256), ("heat", 256), pytest.param("image", 1024, marks=pytest.mark.slow)],
)
def test_h2g_net_becomes_a_package_by_one_command(tmp_path, capsys, first, side):
    folder = pair(tmp_path / "h2g", first, side)
    assert main_code(["models", "add", str(folder)]) == 0
    added = Path(capsys.readouterr().out.strip())
    card = load_model("h2g-net").card
    assert added.name == "h2g-net"
    patches, refine = card.stages
    assert (patches.kind, patches.inputs[0].patch) == ("classifier", (256, 256))
    assert patches.inputs[0].spacing_um == (1.0, 1.0)
    assert (refine.extent, refine.fit, refine.inputs[1].channels) == (
        "whole",
        "stretch",
        ("Tumor",),
    )
    assert (card.provenance.license, card.threshold) == ("MIT", 0.5)
    assert card.classes[1].color == (200, 0, 0)  # as QuPath shows it
    pixels, inside = slide()
    options = SegmentOptions(tissue=TissueOptions(detector="none"))
    result = wsiseg.segment(wsiseg.open(pixels, mpp=1.0), "h2g-net", options=options)
    assert result.labels.shape == (side, side)
    found = np.asarray(result.labels.labels).astype(bool)
    rows = (np.arange(side) + 0.5) * 2100 / side
    columns = (np.arange(side) + 0.5) * 3000 / side
    wanted = inside[rows.astype(int)][:, columns.astype(int)]
    both, either = (found & wanted).sum(), (found | wanted).sum()
    assert both / either > 0.97
    (x0, y0, x1, y1) = result.annotations.geometries[0].bounds
    assert np.abs(np.array([x0, y0, x1, y1]) - [680, 380, 1920, 1620]).max() < 60


def main_code(arguments: list[str]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["wsiseg", *arguments])
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0


def test_values_are_spread_as_the_published_pipeline_does(tmp_path):
    add_model(pair(tmp_path / "h2g"))
    refine = load_model("h2g-net").predictors[1]
    image = np.random.default_rng(0).integers(60, 200, (2, 128, 128, 3), dtype=np.uint8)
    heat = np.random.default_rng(1).random((2, 128, 128, 1), dtype=np.float32)
    found = refine(image, heat)[..., 1]
    for i in range(2):
        low, high = image[i].min(), image[i].max()
        spread = (image[i] - low) / (float(high) - low)
        logit = PINK * (spread[..., 0] - spread[..., 1] - 0.65 + heat[i, ..., 0])
        np.testing.assert_allclose(found[i], 1 / (1 + np.exp(-logit)), atol=1e-4)


def test_a_text_pipeline_of_that_shape(tmp_path):
    folder = pair(tmp_path / "fast")
    (folder / "tumour.fpl").write_text(H2G)
    added = add_model(folder / "tumour.fpl")
    card = load_model(added).card
    assert card.name == "breast-tumour-segmentation"
    assert [c.name for c in card.classes] == ["Background", "Tumour"]
    assert card.stages[0].inputs[0].spacing_um == (1.0, 1.0)
    assert [s.name for s in card.stages[1].inputs[0].steps] == ["rescale"]
    assert add_model(folder, name="again").name == "again"  # the folder's only pipeline
    other = load_model(add_model(folder, name="coarse", spacing_um=2.0)).card
    assert other.stages[0].inputs[0].spacing_um == (2.0, 2.0)


@pytest.mark.parametrize("folder", [".", "some # folder"])
@pytest.mark.parametrize("named", ["$CURRENT_PATH$/nuclei.onnx", "nuclei.onnx"])
def test_a_pipeline_of_patches(tmp_path, monkeypatch, folder, named):
    dense(tmp_path / folder / "nuclei.onnx", side=64, heat=False)
    text = PATCHES.replace("$CURRENT_PATH$/nuclei.onnx", named)
    (tmp_path / folder / "nuclei.fpl").write_text(text)
    monkeypatch.chdir(tmp_path)  # paths as they are typed
    (stage,) = load_model(add_model(Path(folder) / "nuclei.fpl")).card.stages
    assert (stage.kind, stage.output.halo, stage.inputs[0].spacing_um) == (
        "segmenter",
        (8, 8),
        (0.5, 0.5),
    )
    assert stage.inputs[0].steps[0].divide_by == 255


def test_a_classifier_pipeline_with_overlap_has_a_stride(tmp_path):
    classifier(tmp_path / "nuclei.onnx", patch=64)
    (tmp_path / "c.fpl").write_text(PATCHES.replace("SegmentationNetwork", "NeuralNetwork"))
    (stage,) = load_model(add_model(tmp_path / "c.fpl")).card.stages
    assert (stage.kind, stage.inputs[0].stride) == ("classifier", (48, 48))


REFUSED = {
    "variable": (H2G.replace("=10@@", "@@"), "variable 'magnification' has no default"),
    "level": (
        PATCHES.replace("patch-magnification 20", "patch-level 0"),
        "its pixel size is not known; pass --spacing",
    ),
    "volume": (PATCHES.replace("64 64", "64 64 64"), "needed width and height"),
    "number": (PATCHES.replace("64 64", "64 x"), "needed numbers"),
    "two": (H2G.replace("Input 1 tensorToImage 0\n", ""), "needed the whole slide and what"),
    "none": ("PipelineName x\n", "0 networks on patches"),
    "line": ("What is this\n", "line 1: 'What is this' is not understood"),
    "quote": ('PipelineName "x\n', "line 1: No closing quotation"),
    "signed": (
        PATCHES.replace("scale-factor 0.00392156862", "signed-input-normalization true"),
        "signed-input-normalization cannot be taken over",
    ),
    "classes": (PATCHES.replace("Background;", "A;B;"), "needed a name for each class"),
    "missing": (PATCHES.replace("nuclei.onnx", "gone.onnx"), "gone.onnx"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_taken_over_is_said(tmp_path, case):
    text, message = REFUSED[case]
    dense(tmp_path / "nuclei.onnx", side=64, heat=False)
    pair(tmp_path)
    (tmp_path / "x.fpl").write_text(text)
    with pytest.raises((ModelCardError, ModelError, wsiseg.errors.WeightsError), match=message):
        add_model(tmp_path / "x.fpl")


def test_values_that_are_no_probabilities_are_refused(tmp_path):
    dense(tmp_path / "nuclei.onnx", side=64, heat=False)
    model = onnx.load(tmp_path / "nuclei.onnx")
    model.graph.node[-1].op_type = "Identity"
    model.graph.node[-1].ClearField("attribute")
    onnx.save(model, tmp_path / "nuclei.onnx")
    (tmp_path / "x.fpl").write_text(PATCHES)
    with pytest.raises(OutputShapeError, match="needed probabilities"):
        add_model(tmp_path / "x.fpl")


def test_other_folders_of_networks_are_no_pair(tmp_path):
    classifier(tmp_path / "a.onnx")
    classifier(tmp_path / "b.onnx")
    with pytest.raises(ModelError, match="no model: needed a folder with"):
        add_model(tmp_path)


def test_comments_and_quotes(tmp_path):
    (tmp_path / "x.fpl").write_text(PATCHES.replace("64 64", '"64" "64" # px'))
    found = read_pipeline(tmp_path / "x.fpl")
    assert found.patches.patch == (64, 64)
    assert found.patches.model == tmp_path / "nuclei.onnx"
    assert json.loads(json.dumps(found.classes)) == ["Background", "Cell nuclei"]
