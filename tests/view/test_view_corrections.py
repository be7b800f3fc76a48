"""Corrections: what a person says becomes GeoJSON that QuPath opens and training takes."""

import json

import numpy as np
import pytest
import shapely
from typer.testing import CliRunner
from view_made import MPP, SIZE, index_of, make_result
from wsiseg_cli.main import app

from wsiseg.annotations import IGNORE, ImageRef, open_labels, read_objects, verify_geojson
from wsiseg.geometry import Box, Spacing
from wsiseg.model import load_model
from wsiseg.source import open as open_slide
from wsiseg.train.dataset import read_dataset
from wsiseg.view.corrections import REGION, Correction, Corrections
from wsiseg.view.results import find_shown

NAMES = ("background", "Tumor", "Immune: CD3")
COLORS = {"background": (0, 0, 0), "Tumor": (200, 0, 0), "Immune: CD3": (160, 90, 160)}
RING = [[300, 300], [420, 310], [430, 400], [310, 420]]


@pytest.fixture
def rows(shown):
    """Return rows of three large objects that lie apart."""
    index = index_of(shown[0])
    return index.ordered(None, descending=True, limit=3, class_name="Tumor").tolist()


def say(client, **what):
    answer = client.post("api/0/corrections", json=what)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_what_is_said_is_in_the_file_and_training_learns_it(client, shown, rows, run, made_run):
    index = index_of(shown[0])
    say(client, action="accepted", row=rows[0])
    say(client, action="rejected", row=rows[1])
    say(client, action="reclassified", row=rows[2], **{"class": "Immune: CD3"})
    path = run / "a" / "corrections.geojson"
    assert verify_geojson(path).verdict == "clean"
    with open_slide(made_run / "slides" / "a.svs") as slide:
        labels = open_labels(path, slide, NAMES, within=[REGION])
        values = labels.at(slide.at(MPP)).read(Box.of_shape(SIZE))
    known = np.zeros(SIZE, bool)
    for row, value in zip(rows, (1, 0, 2), strict=True):
        point = shapely.point_on_surface(index.polygon(row))
        assert values[int(point.y), int(point.x)] == value
        x0, y0, x1, y1 = (int(v) for v in index.bounds[row])
        known[y0 : y1 + 1, x0 : x1 + 1] = True
    assert (values[~known] == IGNORE).all()
    area = sum(index.polygon(row).area for row in rows)
    assert np.count_nonzero(values != IGNORE) == pytest.approx(area, rel=0.01)


def test_a_data_set_takes_the_file(client, rows, run, made_run):
    say(client, action="accepted", row=rows[0])
    dataset = run / "dataset.toml"
    dataset.write_text(
        f"""
classes = {json.dumps(NAMES)}
[labels]
within = ["{REGION}"]
[[slides]]
slide = "{made_run / "slides" / "a.svs"}"
labels = "{run / "a" / "corrections.geojson"}"
patient = "p"
split = "train"
"""
    )
    read = read_dataset(dataset)
    (entry,) = read.slides
    with entry.open() as slide:
        labels = read.open_labels(entry, slide)
        assert labels.areas()["Tumor"] > 0


TRAINING = """
dataset = "dataset.toml"
[tissue]
detector = "none"
[card]
name = "corrected"
version = "1"
classes = [{name="background"}, {name="Tumor"}, {name="Immune: CD3"}]
[card.provenance]
license = "x"
intended_use = "y"
limits = "z"
[[card.stages]]
name = "patches"
kind = "classifier"
inputs = [{from="slide", channels=["R","G","B"], spacing_um=[1,1], patch=[32,32], stride=[16,16]}]
output = {name="heatmap"}
weights = {architecture="wsiseg.patch_cnn", arguments={widths=[4, 8]}}
[stages.patches.fit]
rounds = 1
steps = 2
batch = 6
[stages.patches.sampling]
levels = ["slide", "class"]
"""


def test_the_command_trains_with_what_was_said(client, rows, run, made_run, tmp_path):
    say(client, action="accepted", row=rows[0])
    say(client, action="rejected", row=rows[1])
    say(client, action="reclassified", row=rows[2], **{"class": "Immune: CD3"})
    dataset = f"""
classes = {json.dumps(NAMES)}
[labels]
within = ["{REGION}"]
[[slides]]
slide = "{made_run / "slides" / "a.svs"}"
labels = "{run / "a" / "corrections.geojson"}"
patient = "p"
split = "train"
"""
    (tmp_path / "dataset.toml").write_text(dataset)
    (tmp_path / "config.toml").write_text(TRAINING)
    arguments = ["train", str(tmp_path / "config.toml"), "--out", str(tmp_path / "trained")]
    done = CliRunner().invoke(app, [*arguments, "--threads", "1", "--quiet"])
    assert done.exit_code == 0, done.output
    (card,) = (tmp_path / "trained").rglob("model.json")
    model = load_model(card.parent)
    assert [known.name for known in model.card.classes] == list(NAMES)


def test_a_redrawn_object_keeps_its_id_and_a_new_region_gets_one(client, shown, rows, run):
    made = say(client, action="redrawn", row=rows[0], ring=RING)
    added = say(client, action="added", ring=RING, **{"class": "Tumor"})
    assert made["id"] == index_of(shown[0]).ids[rows[0]].decode()
    assert added["id"] != made["id"]
    (group,) = read_objects(run / "a" / "corrections.geojson").groups
    names = {name for name in group.names if name}
    assert names == {"redrawn: was Tumor", "added"}
    assert {i.decode() for i in group.ids} >= {made["id"], added["id"]}
    assert shapely.area(group.geometries) == pytest.approx(shapely.Polygon(RING).area)


def test_the_last_word_counts_and_can_be_taken_back(client, rows, run):
    say(client, action="accepted", row=rows[0])
    last = say(client, action="rejected", row=rows[0])
    (listed,) = client.get("api/0/corrections").json()
    assert listed["action"] == "rejected"
    assert listed["was"] == "Tumor"
    assert listed["class"] == "background"
    assert client.delete(f"api/0/corrections/{last['id']}").status_code == 200
    assert client.delete(f"api/0/corrections/{last['id']}").status_code == 404
    assert not (run / "a" / "corrections.geojson").exists()


def test_what_others_saved_meanwhile_is_kept(client, rows, run):
    say(client, action="accepted", row=rows[0])
    path = run / "a" / "corrections.geojson"
    document = json.loads(path.read_bytes())
    drawn = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [[*RING, RING[0]]]},
        "properties": {"objectType": "annotation", "classification": {"name": "Tumor"}},
    }
    document["features"].append(drawn)
    path.write_text(json.dumps(document))
    say(client, action="rejected", row=rows[1])
    actions = sorted(one["action"] for one in client.get("api/0/corrections").json())
    assert actions == ["accepted", "added", "rejected"]


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"action": "deleted", "row": 0},
        {"action": "accepted"},
        {"action": "accepted", "row": 10**6},
        {"action": "accepted", "row": "0"},
        {"action": "reclassified", "row": 0, "class": "Nothing such"},
        {"action": "redrawn", "row": 0},
        {"action": "added", "ring": RING},
        {"action": "added", "class": "Tumor", "ring": [[0, 0], [1, 1]]},
        {"action": "added", "class": "Tumor", "ring": [[0, 0], [1, 1], [2, "x"]]},
        {"action": "added", "class": "Tumor", "ring": [[0, 0], [5, 5], [9, 9]]},
        {"action": "added", "class": "Tumor", "ring": [[-9, -9], [-5, -9], [-5, -5]]},
    ],
)
def test_what_makes_no_sense_is_refused(client, shown, asked, run):
    index_of(shown[0])
    answer = client.post("api/0/corrections", json=asked)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert not (run / "a" / "corrections.geojson").exists()


def test_no_json_is_refused(client):
    headers = {"content-type": "application/json"}
    for body in (b"", b"[1]", b"{", b"[" * 3000):
        assert client.post("api/0/corrections", content=body, headers=headers).status_code == 400


def test_a_line_that_crosses_itself_becomes_its_largest_part(client):
    ring = [[100, 100], [500, 500], [500, 100], [100, 300]]
    made = say(client, action="added", ring=ring, **{"class": "Tumor"})
    polygon = shapely.geometry.shape(made["geometry"])
    assert polygon.is_valid
    assert polygon.area > 10_000


def test_outlines_end_with_the_slide(client):
    ring = [[-100, -100], [200, -100], [200, 200], [-100, 200]]
    made = say(client, action="added", ring=ring, **{"class": "Tumor"})
    assert shapely.geometry.shape(made["geometry"]).bounds == (0, 0, 200, 200)


def test_corrections_of_cropped_slides_come_back_where_they_were(tmp_path):
    image = ImageRef("a.mrxs", SIZE, Spacing((0.5, 0.5)), "mirax", Box((100, 200), (1300, 2200)))
    kept = Corrections(tmp_path / "deep" / "c.geojson", image, COLORS)
    polygon = shapely.box(500, 300, 640, 420)
    kept.put(Correction("6c1b1d5e-8f3e-4b53-9a55-0c6d1f2a7b84", "added", "Tumor", None, polygon))
    (read,) = kept.listed()
    assert read.polygon.equals(polygon)
    raw = json.loads((tmp_path / "deep" / "c.geojson").read_bytes())
    assert [300, 200] in raw["features"][0]["geometry"]["coordinates"][0]


def test_corrections_go_where_they_are_told(run, tmp_path, rows, shown):
    testclient = pytest.importorskip("starlette.testclient")
    from wsiseg.view.server import Viewer, make_app

    app = make_app(Viewer(shown, {}, tmp_path / "said"), "t")
    client = testclient.TestClient(app, base_url="http://localhost/t/")
    say(client, action="accepted", row=rows[0])
    assert (tmp_path / "said" / "a.geojson").is_file()
    assert not (run / "a" / "corrections.geojson").exists()


def test_a_result_without_mask_takes_classes_from_its_objects(tmp_path, made_run):
    folder = make_result(tmp_path / "out" / "a", made_run / "slides" / "a.svs")
    (folder / "mask.zarr").rename(tmp_path / "gone")
    (one,) = find_shown([folder], workspace=tmp_path)
    index_of(one)
    assert next(iter(one.colors)) == "background"
    assert set(one.colors) == {"background", "Tumor", "Immune: CD3"}
