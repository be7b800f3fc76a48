"""Layers of uncertainty from slide to file, against all that a slide's tiles say, put together."""

import itertools
import os
from dataclasses import replace

import numpy as np
import orjson
import pytest
import scipy.ndimage
import scipy.stats

import wsiseg
from wsiseg.engine import connect, ignore, run_cascade, sampled_model
from wsiseg.errors import EmptyTissueWarning, UsageError
from wsiseg.geometry import Box
from wsiseg.model.activation import activate
from wsiseg.model.predictor import FunctionPredictor
from wsiseg.options import RunOptions, SegmentOptions, UncertaintyOptions
from wsiseg.stitch import decode, window_weights
from wsiseg.testing.models import CARD, GAIN, make_colour_model, pinkness
from wsiseg.testing.slides import make_svs, tissue_disc

HALF_STEP = 0.5001 / 254
ALL = ("entropy", "overlap", "tta")


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSISEG_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory):
    pixels, _ = tissue_disc((500, 760), center=(230, 400), radius=170)
    blots = np.random.default_rng(0).normal(0, 45, (25, 38, 3)).repeat(20, 0).repeat(20, 1)
    tissue = pixels.min(axis=2, keepdims=True) < 225
    pixels = np.clip(pixels + blots * tissue, 0, 235).astype(np.uint8) | ~tissue * pixels
    return make_svs(tmp_path_factory.mktemp("slides") / "disc.svs", pixels, levels=(1,), mpp=0.5)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A cascade whose last stage sees left from right and top from bottom."""
    folder = make_colour_model(
        tmp_path_factory.mktemp("models") / "colour", window=64, halo=8, blend="gaussian"
    )
    loaded = wsiseg.load_model(folder, backend="onnxruntime", device="cpu")
    return replace(loaded, predictors=(loaded.predictors[0], FunctionPredictor(lopsided)))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """The first stage alone, and as lopsided."""
    folder = make_colour_model(tmp_path_factory.mktemp("models") / "colour", patch=40, stride=16)
    loaded = wsiseg.load_model(folder, backend="onnxruntime", device="cpu")
    card = loaded.card.model_copy(update={"stages": loaded.card.stages[:1]})
    predictors = (FunctionPredictor(lopsided_patches),)
    return replace(loaded, card=card, predictors=predictors, channels=(2,))


def lopsided(pixels, heat):
    *_, height, width, _ = pixels.shape
    x, y = np.linspace(-1, 1, width), np.linspace(-1, 1, height)[:, None]
    ramp = 0.7 * x + 0.4 * y + 5 * (x**2 + y**2) - 2  # the last is the same in all views
    logit = GAIN / 3 * pinkness(pixels) + 1.5 * (heat[..., 0] - 0.5) + ramp
    return np.stack([np.zeros_like(logit), logit], axis=-1).astype(np.float32)


def lopsided_patches(pixels):
    upper = pinkness(pixels[:, : pixels.shape[1] // 2]).mean(axis=(1, 2))
    left = pinkness(pixels[:, :, : pixels.shape[2] // 3]).mean(axis=(1, 2))
    logit = GAIN / 2 * (upper + left)
    return np.stack([np.zeros_like(logit), logit], axis=-1).astype(np.float32)


def options(*layers, run=None, **given):
    return SegmentOptions(
        run=run or RunOptions(), uncertainty=UncertaintyOptions(layers=layers, **given)
    )


@pytest.fixture(scope="module")
def result(slide_path, model):
    return wsiseg.segment(slide_path, model, options=options(*ALL))


def codes_of(store):
    return np.asarray(store.codes[0])


def turned(array, view):
    """Turn an array (y, x, ...) by one of the 8: (transposed, up side down, mirrored)."""
    transposed, upside_down, mirrored = view
    array = array.swapaxes(0, 1) if transposed else array
    array = array[::-1] if upside_down else array
    return array[:, ::-1] if mirrored else array


def turned_back(array, view):
    transposed, upside_down, mirrored = view
    array = array[:, ::-1] if mirrored else array
    array = array[::-1] if upside_down else array
    return array.swapaxes(0, 1) if transposed else array


def answers(setup, inputs, tile, function, *, dense):
    """Return the probabilities of a tile in each of the 8 views, (view, ..., class)."""
    patches = []
    for item, one in zip(setup.inputs, inputs, strict=True):
        box = item.box_of(tile.read, setup.reference)
        span = one.span(box)
        patches.append(one.patch(one.source.read(span), span, box))
    found = []
    for view in itertools.product((False, True), repeat=3):
        raw = function(*(np.ascontiguousarray(turned(p, view))[None] for p in patches))[0]
        chances = activate(raw, "softmax")
        found.append(turned_back(chances, view) if dense else chances)
    return np.array(found, np.float64)


def test_every_layer_is_what_the_tiles_say(result):
    setup = result.plan.setups[-1]
    inputs = connect(setup, result.heatmaps)
    grid, shape = setup.grid, setup.grid.shape
    window = tuple(s + o for s, o in zip(grid.stride, grid.overlap, strict=True))
    total, count = np.zeros(shape), np.zeros(shape, int)
    means, squares, within = np.zeros((*shape, 2)), np.zeros((*shape, 2)), np.zeros(shape)
    for tile in grid:
        if not result.plan.selected[-1][tile.index]:
            continue
        views = answers(setup, inputs, tile, lopsided, dense=True)
        inner = tile.write.relative_to(tile.read).slices()
        mean, variance = views.mean(axis=0)[inner], views.var(axis=0)[inner][..., 1]
        weight = window_weights(window, "gaussian")[tuple(slice(n) for n in tile.write.shape)]
        place = tile.write.slices()
        total[place] += weight
        count[place] += 1
        means[place] += weight[..., None] * mean
        squares[place] += weight[..., None] * mean**2
        within[place] += weight * variance
    covered = count > 0
    assert 0.2 < covered.mean() < 1
    assert (count > 1).mean() > 0.2
    total[~covered] = 1
    mean = means / total[..., None]
    between = np.maximum(squares / total[..., None] - mean**2, 0)[..., 1]
    expected = {
        "entropy": scipy.stats.entropy(mean, axis=-1, base=2),
        "overlap": np.sqrt(between),
        "tta": np.sqrt(within / total),
    }
    stored = codes_of(result.heatmap)
    np.testing.assert_allclose(decode(stored)[covered], mean[covered][:, 1], atol=HALF_STEP + 1e-5)
    assert list(result.uncertainty) == list(ALL)
    for name, values in expected.items():
        codes = codes_of(result.uncertainty[name])
        known = count > 1 if name == "overlap" else covered
        np.testing.assert_array_equal(codes != 0, known)
        np.testing.assert_allclose(decode(codes)[known], values[known], atol=HALF_STEP + 1e-5)
        assert decode(codes).max() > 0.04
        assert result.summary()[f"mean_{name}"] == pytest.approx(values[known].mean(), abs=2e-3)
    both = np.sqrt(expected["overlap"] ** 2 + expected["tta"] ** 2)[count > 1]
    assert both.max() <= 0.5  # parts of the variance of a probability


def test_a_classifier_has_its_layers_per_patch(slide_path, classifier):
    result = wsiseg.segment(slide_path, classifier, options=options(*ALL))
    (setup,) = result.plan.setups
    inputs = connect(setup, {})
    codes = {name: codes_of(store) for name, store in result.uncertainty.items()}
    heat = codes_of(result.heatmap)
    for index in np.argwhere(result.plan.selected[0])[::5]:
        tile = setup.grid.tile(tuple(index.tolist()))
        views = answers(setup, inputs, tile, lopsided_patches, dense=False)
        place = tuple(index)
        assert decode(heat[place]) == pytest.approx(views.mean(axis=0)[1], abs=HALF_STEP + 1e-6)
        spread = views.std(axis=0)[1]
        assert decode(codes["tta"][place]) == pytest.approx(spread, abs=HALF_STEP + 1e-6)
        bits = scipy.stats.entropy(views.mean(axis=0), base=2)
        assert decode(codes["entropy"][place]) == pytest.approx(bits, abs=HALF_STEP + 1e-6)
    assert decode(codes["tta"]).max() > 0.05
    # Patches of 40 px, 16 apart, cover the cells beside their own to 12 / 16.
    votes = np.array([0.75, 1, 0.75])
    weights = np.multiply.outer(votes, votes)
    values, known = np.pad(decode(heat), 1), np.pad(heat > 0, 1)
    seen = 0
    for y, x in np.argwhere(heat)[::7]:
        near = np.s_[y : y + 3, x : x + 3]
        mask = known[near]
        mean = np.average(values[near][mask], weights=weights[mask])
        variance = np.average((values[near][mask] - mean) ** 2, weights=weights[mask])
        if mask.sum() > 1:
            found = decode(codes["overlap"][y, x])
            assert found == pytest.approx(np.sqrt(variance), abs=HALF_STEP + 1e-6)
            seen += found > 0.02
    assert seen > 3


def test_objects_have_the_mean_over_their_pixels(result):
    labels = np.asarray(result.labels.labels[:])
    objects, count = scipy.ndimage.label(labels)  # in the order of their first pixels, as traced
    assert count == len(result.annotations) > 3
    columns = result.annotations.measurements
    titles = {"entropy": "entropy", "overlap": "overlap std", "tta": "TTA std"}
    for name, title in titles.items():
        codes = codes_of(result.uncertainty[name])
        values = np.where(codes, (codes.astype(float) - 1) / 254, np.nan)
        expected = [
            np.nanmean(own) if np.isfinite(own := values[objects == i]).any() else np.nan
            for i in range(1, count + 1)
        ]
        np.testing.assert_allclose(columns[f"wsiseg: Mean {title}"], expected, atol=1e-12)
        assert np.nanmax(expected) > 0.01


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("run.json", ".wsiseg")
    }


def test_layers_change_nothing_of_what_was_there(slide_path, model, tmp_path):
    plain = wsiseg.segment(slide_path, model)
    assert not plain.uncertainty
    assert "uncertainty" in plain.provenance()["options"]
    assert not [name for name in plain.summary() if name.startswith("mean_")]
    before = files_of(plain.write(tmp_path / "plain"))
    assert not [name for name in before if "uncertainty" in name]
    marked = wsiseg.segment(slide_path, model, options=options("entropy", "overlap"))
    after = files_of(marked.write(tmp_path / "marked"))
    new = after.keys() - before.keys()
    assert {name.split("/")[0] for name in new} == {
        "uncertainty-entropy.zarr",
        "uncertainty-overlap.zarr",
    }
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"annotations.geojson"}  # by the measurements
    features = [orjson.loads(files["annotations.geojson"])["features"] for files in (before, after)]
    for old, found in zip(*features, strict=True):
        assert old["geometry"] == found["geometry"]
        names = {"wsiseg: Mean entropy", "wsiseg: Mean overlap std"}
        here = found["properties"]["measurements"]
        assert here.keys() - old["properties"]["measurements"].keys() <= names
        assert "wsiseg: Mean entropy" in here


def test_what_is_written_says_what_it_is(result, tmp_path):
    folder = result.write(tmp_path)
    assert wsiseg.verify_geojson(folder / "annotations.geojson").verdict == "clean"
    for name in ALL:
        store = wsiseg.HeatmapStore.open(folder / f"uncertainty-{name}.zarr")
        assert store.channels == (name,)
        assert store.placement == result.heatmap.placement
        assert store.attributes["layer"] == name
        np.testing.assert_array_equal(store.codes[:], result.uncertainty[name].codes[:])
    assert store.attributes["views"] == 8
    assert "turned and mirrored" in store.attributes["meaning"]
    record = orjson.loads((folder / "run.json").read_bytes())
    assert record["options"]["uncertainty"]["layers"] == list(ALL)
    assert record["plan"]["stages"][-1]["passes"] == 8
    assert record["plan"]["stages"][0]["passes"] == 1
    means = record["stages"][-1]["uncertainty"]
    assert {f"mean_{name}": round(mean, 6) for name, mean in means.items()} == {
        f"mean_{name}": record["summary"][f"mean_{name}"] for name in ALL
    }


@pytest.mark.parametrize(("column", "turned"), [(80, False), (50, True)])
@pytest.mark.parametrize("which", ["model", "classifier"])
def test_columns_threads_and_batches_change_no_bit(
    slide_path, tmp_path, request, monkeypatch, which, column, turned
):
    monkeypatch.setattr("wsiseg.engine.uncertainty.SPREAD_CELLS", 50)
    loaded, chosen = request.getfixturevalue(which), options(*ALL)
    plan = wsiseg.plan(slide_path, loaded, options=chosen)
    stage = plan.stages[-1]
    paces = [
        replace(stage.pace, column=10_000, turned=False, workers=3, batch_size=7),
        replace(stage.pace, column=column, turned=turned, workers=1, batch_size=3),
    ]
    found = []
    for k, pace in enumerate(paces):
        paced = replace(plan, stages=(*plan.stages[:-1], replace(stage, pace=pace)))
        folder = tmp_path / str(k)
        folder.mkdir()
        running = sampled_model(loaded, chosen.uncertainty)
        found.append(run_cascade(running, paced, folder, listen=ignore))
    assert found[1].reports[-1].columns > 1
    for name in ALL:
        whole, parts = (codes_of(one.uncertainty[name]).astype(int) for one in found)
        assert whole.max() > 5
        # A turned walk adds the tiles that overlap in another order.
        assert np.abs(whole - parts).max() <= (1 if turned and which == "model" else 0)


@pytest.fixture(scope="module")
def dropping(tmp_path_factory):
    """The package of a small network with dropout."""
    import torch

    from wsiseg.model import networks, write_package

    torch.manual_seed(0)
    arguments = {"widths": [4, 8], "dropout": 0.4}
    network = networks.build("wsiseg.patch_cnn", channels=(3,), classes=2, arguments=arguments)
    network.head[1].weight.data *= 20
    rgb = {"from": "slide", "channels": ["R", "G", "B"], "patch": [32, 32], "stride": [16, 16]}
    rgb |= {"spacing_um": [1.0, 1.0], "steps": [{"name": "scale", "divide_by": 255}]}
    stage = {"name": "patches", "kind": "classifier", "inputs": [rgb], "output": {"name": "heat"}}
    stage |= {"weights": {"architecture": "wsiseg.patch_cnn", "arguments": arguments}}
    folder = tmp_path_factory.mktemp("models") / "dropping"
    patches = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    write_package(
        folder,
        card=CARD | {"stages": [stage]},
        networks={"patches": network},
        check_inputs={"patches": (patches,)},
    )
    return folder


def test_dropout_comes_again_by_its_seed_and_changes_no_probability(slide_path, dropping):
    loaded = wsiseg.load_model(dropping, backend="onnxruntime", device="cpu")
    plain = wsiseg.segment(slide_path, loaded)
    layer = {}
    for name, seed, threads in (("first", 1, 2), ("again", 1, 1), ("other", 2, 2)):
        run = RunOptions(threads=threads)
        told = options("dropout", dropout_samples=4, seed=seed, run=run)
        result = wsiseg.segment(slide_path, loaded, options=told)
        np.testing.assert_array_equal(codes_of(result.heatmap), codes_of(plain.heatmap))
        layer[name] = codes_of(result.uncertainty["dropout"])
        assert result.uncertainty["dropout"].attributes["samples"] == 4
        assert result.uncertainty["dropout"].attributes["seed"] == seed
        assert result.plan.stages[-1].passes == 5
        assert len(result.annotations.measurements["wsiseg: Mean dropout std"])
    np.testing.assert_array_equal(layer["first"], layer["again"])
    assert (layer["first"] != layer["other"]).mean() > 0.05
    assert layer["first"].max() > 5


def test_glass_has_no_uncertainty(model, tmp_path):
    glass = np.full((300, 350, 3), 243, np.uint8)
    with pytest.warns(EmptyTissueWarning), wsiseg.open(glass, mpp=0.5) as slide:
        result = wsiseg.segment(slide, model, options=options(*ALL))
        result.write(tmp_path)
    assert [result.summary()[f"mean_{name}"] for name in ALL] == [None] * 3
    assert not codes_of(result.uncertainty["tta"]).any()


def test_layers_are_in_the_plan(slide_path, model):
    plain, more = (wsiseg.plan(slide_path, model, options=options(*layers)) for layers in ((), ALL))
    assert [stage.passes for stage in more.stages] == [1, 8]
    assert more.stages[-1].front_bytes > plain.stages[-1].front_bytes
    assert more.stages[-1].buffer_bytes > plain.stages[-1].buffer_bytes


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("overlap", r"'overlap' needs patches that overlap, found none in stage 'refine'.*64x64"),
        ("dropout", r"'dropout' needs a network with dropout.*ONNX graph"),
    ],
)
def test_what_a_model_cannot_give_is_refused_before_anything_is_read(
    slide_path, tmp_path, layer, message
):
    package = make_colour_model(tmp_path / "crop")
    loaded = wsiseg.load_model(package, backend="onnxruntime", device="cpu")
    for given in (package, loaded):
        with pytest.raises(wsiseg.WsisegError, match=message):
            wsiseg.segment_folder(slide_path, given, tmp_path / "out", options=options(layer))
    assert not (tmp_path / "out").exists()
    for function in (wsiseg.segment, wsiseg.plan):
        with pytest.raises(wsiseg.WsisegError, match=message):
            function(slide_path, loaded, options=options(layer))


def test_a_view_of_the_whole_has_no_overlap(slide_path, tmp_path):
    package = make_colour_model(tmp_path / "whole", extent="whole", window=256, halo=0)
    with pytest.raises(UsageError, match="leave 'overlap' out"):
        wsiseg.segment(slide_path, package, options=options("overlap"))


def test_layers_are_read_like_heatmaps(result):
    store = result.uncertainty["entropy"]
    y, x = np.argwhere(codes_of(store))[len(np.argwhere(codes_of(store))) // 2]
    found = store.read(Box((int(y), int(x)), (int(y) + 1, int(x) + 1)))
    assert found.shape == (1, 1, 1)
    assert found[0, 0, 0] == decode(codes_of(store)[y, x])
    assert os.fspath(store.path).endswith("uncertainty-entropy.zarr")
