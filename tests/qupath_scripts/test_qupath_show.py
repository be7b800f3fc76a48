"""`show_heatmap.groovy` and `export_regions.groovy`: tiles in, tiles out."""

import csv
import json
import uuid

import pytest
import shapely
from worlds import feature, image, result, square

SLIDE = "slide.svs"
TILES = [shapely.box(x, y, x + 64, y + 64) for x in range(0, 640, 64) for y in (0, 64)]


@pytest.fixture
def heatmaps(tmp_path, monkeypatch):
    """Tiles as `wsiseg export --to qupath --as tiles` writes them: `<slide>.geojson`."""
    import worlds

    def measured(*args, **options):
        made = annotations(*args, **options)
        values = made.measurements.pop("wsiseg: Mean probability")
        made.measurements.update({"prob_background": 1 - values, "prob_Tumor": values})
        return made

    annotations = worlds.annotations
    monkeypatch.setattr(worlds, "annotations", measured)
    result(tmp_path, SLIDE, TILES, folder="heatmaps", stem="slide", kind="tile")
    monkeypatch.setattr(worlds, "annotations", annotations)
    result(tmp_path, SLIDE, [square(100, 100)])
    return tmp_path


def shown(qupath, place, *steps, window=True, images=None):
    steps = [{"script": "show_heatmap", "args": [str(place), *args]} for args in steps or [[]]]
    world = {"images": images or [image(SLIDE)], "open": 0, "folder": None, "window": window}
    return qupath.run({**world, "steps": steps})


def test_tiles_are_imported_and_coloured(qupath, heatmaps):
    first, second, third = shown(
        qupath, heatmaps, [], ["colors=viridis", "maximum=0.5"], ["clear=yes"]
    )
    assert first["error"] is None, first
    assert first["view"] == {
        "name": "prob_Tumor", "colors": "inferno", "count": 20, "low": 0, "high": 1, "filled": True
    }  # fmt: skip
    assert {each["kind"] for each in first["images"][0]["objects"]} == {"tile"}
    assert len(second["images"][0]["objects"]) == 20
    assert (second["view"]["colors"], second["view"]["high"]) == ("viridis", 0.5)
    assert (third["view"], third["images"][0]["objects"]) == (None, [])


def test_the_import_of_annotations_leaves_tiles_alone(qupath, heatmaps):
    steps = [
        {"script": "show_heatmap", "args": [str(heatmaps)]},
        {"script": "import_annotations", "args": [str(heatmaps)]},
    ]
    first, last = qupath.run({"images": [image(SLIDE)], "open": 0, "folder": None, "steps": steps})
    assert last["error"] is None, last
    kinds = [each["kind"] for each in last["images"][0]["objects"]]
    assert (kinds.count("tile"), kinds.count("annotation")) == (20, 1)
    assert "not nested, as there are many objects or tiles" in str(last["lines"])
    assert not any(each["parent"] for each in last["images"][0]["objects"])
    assert first["view"] == last["view"]


def test_tiles_in_pieces_of_tissue_are_a_heatmap_too(qupath, heatmaps):
    """As `--as tiles --tissue-parents` writes them; what else the model found stays."""
    path = heatmaps / "heatmaps" / "slide.geojson"
    written = json.loads(path.read_text())
    tissue = feature("annotation", square(0, 0, 700), "Tissue", str(uuid.uuid4()))
    tissue["properties"]["childObjects"] = written["features"]
    path.write_text(json.dumps(written | {"features": [tissue]}, separators=(",", ":")))
    steps = [
        {"script": "import_annotations", "args": [str(heatmaps / "slide")]},
        {"script": "show_heatmap", "args": [str(path)]},
    ]
    world = {"images": [image(SLIDE)], "open": 0, "folder": None, "window": True, "steps": steps}
    _, last = qupath.run(world)
    assert last["error"] is None, last
    kinds = [each["kind"] for each in last["images"][0]["objects"]]
    assert (kinds.count("tile"), kinds.count("annotation")) == (20, 2)
    assert last["view"]["count"] == 20


def test_without_a_window_tiles_are_imported(qupath, heatmaps):
    (first,) = shown(qupath, heatmaps / "heatmaps" / "slide.geojson", window=False)
    assert (first["error"], first["view"]) == (None, None)
    assert len(first["images"][0]["objects"]) == 20


@pytest.mark.parametrize(
    ("where", "args", "told", "message"),
    [
        ("slide", [], {}, "no tiles in it; write them with: wsiseg export"),
        ("slide/annotations.geojson", [], {}, "no tiles in it; write them with"),
        ("heatmaps", [], {"width": 9}, "another slide"),
        ("heatmaps", ["measurement=prob_X"], {}, "there are prob_background, prob_Tumor"),
        ("heatmaps", ["colors=Rainbow"], {}, "there are Viridis, Inferno"),
    ],
)
def test_what_cannot_be_shown_is_told(qupath, heatmaps, where, args, told, message):
    (first,) = shown(qupath, heatmaps / where, args, images=[image(SLIDE, **told)])
    assert message in first["error"]


DRAWN = [
    feature("annotation", square(0, 0, 900), "Tumor", str(uuid.uuid4())),
    feature("annotation", square(500, 0, 900), "Stroma, loose", str(uuid.uuid4())),
    feature("annotation", square(50, 50), "Ignore*", str(uuid.uuid4())),
    feature("annotation", square(0, 0, 1000), "Region*", str(uuid.uuid4())),
    feature("annotation", square(0, 0), None, str(uuid.uuid4())),
]


def regions(qupath, out, *args, failing=False, again=False, **told):
    run = {"script": "export_regions", "args": [str(out), *args]}
    images = [image("a [1] ü.svs", **{"objects": DRAWN, **told})]
    world = {"images": images, "open": 0, "folder": None, "failing": failing}
    return qupath.run({**world, "steps": [run, run] if again else [run]})


def test_tiles_and_masks_at_a_pixel_size(qupath, tmp_path):
    (outcome,) = regions(qupath, tmp_path, "pixelSize=1", "tile=256")
    assert outcome["error"] is None, outcome
    folder = tmp_path / "a [1] ü"
    with (folder / "classes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert [row[:2] for row in rows[1:]] == [
        ["0", ""], ["1", "Stroma, loose"], ["2", "Tumor"], ["255", "Ignore*"]
    ]  # fmt: skip
    assert rows[2][2] == "#010203"
    with (folder / "tiles.csv").open(encoding="utf-8", newline="") as file:
        tiles = list(csv.DictReader(file))
    assert len(tiles) == (2220 // 512) * (2967 // 512)
    assert [tiles[1][key] for key in ("x", "y", "width", "height")] == ["512", "0", "512", "512"]
    assert all((folder / tile[key]).stat().st_size for tile in tiles for key in ("image", "mask"))


def test_regions_are_written_whole(qupath, tmp_path):
    (outcome,) = regions(qupath, tmp_path, "what=regions", "downsample=4", mpp=None)
    assert outcome["error"] is None, outcome
    with (tmp_path / "a [1] ü" / "tiles.csv").open(encoding="utf-8", newline="") as file:
        (tile,) = csv.DictReader(file)
    assert [tile[key] for key in ("x", "y", "width", "height")] == ["0", "0", "1000", "1000"]


def test_tiles_that_qupath_lost_are_counted(qupath, tmp_path):
    (outcome,) = regions(qupath, tmp_path, "downsample=2", failing=True)
    assert outcome["error"] == "a [1] ü.svs: 1 of 4 tiles could not be written; the log says why"


@pytest.mark.parametrize(
    ("args", "told", "message"),
    [
        (["pixelSize=0.1"], {}, "finer than the image, which has 0.5 µm"),
        ([], {"mpp": None}, "set downsample instead"),
        (["classes=Nerve"], {}, "no annotation of class Nerve; there are Ignore\\*, Region"),
        (["tile=5000"], {}, "take a smaller tile"),
        (["what=regions", "regions=Box*"], {}, "no region of class Box"),
    ],
)
def test_what_cannot_be_written_is_told(qupath, tmp_path, args, told, message):
    (outcome,) = regions(qupath, tmp_path, *args, **told)
    assert message.replace("\\", "") in outcome["error"]


def test_nothing_is_overwritten(qupath, tmp_path):
    first, second = regions(qupath, tmp_path, "downsample=2", again=True)
    assert first["error"] is None
    assert "is there already" in second["error"]
