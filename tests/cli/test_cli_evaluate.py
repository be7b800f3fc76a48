"""`wsiseg evaluate` on squares whose scores can be counted."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner
from wsiseg_cli.main import app

SIDE = 200
DATASET = """
classes = ["background", "Tumor"]
[labels]
mapping = {{"Tumour" = "Tumor", "Stroma" = "background"}}
[[slides]]
slide = "a.png"
labels = "a.geojson"
patient = "p"
split = "test"
mpp = 1.0
{extra}
"""


def feature(geometry: dict, name: str = "Tumour") -> dict:
    properties = {"objectType": "annotation", "classification": {"name": name}}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def square(x: int, y: int, side: int, name: str = "Tumour") -> dict:
    ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
    return feature({"type": "Polygon", "coordinates": [ring]}, name)


def point(x: float, y: float, name: str = "Tumour") -> dict:
    return feature({"type": "Point", "coordinates": [x, y]}, name)


def write(path: Path, *features: dict) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((SIDE, SIDE, 3), 200, np.uint8))
    (tmp_path / "dataset.toml").write_text(DATASET.format(extra=""))
    return tmp_path


def run(folder: Path, *options: str) -> dict:
    done = CliRunner().invoke(
        app,
        ["evaluate", str(folder / "dataset.toml"), str(folder / "predicted"), "--json", *options,
         "--out", str(folder / "report")],
        catch_exceptions=False,
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    return {row["figure"]: row["mean"] for row in json.loads(done.stdout)["summary"]}


def test_pixels(folder: Path):
    write(folder / "a.geojson", square(0, 0, 100), square(150, 150, 20, "Stroma"))
    write(folder / "predicted/a.geojson", square(0, 50, 100))
    found = run(folder)
    assert found["dice"] == pytest.approx(0.5)
    assert found["precision"] == pytest.approx(0.5)
    assert (folder / "report" / "evaluation.html").is_file()


def test_objects_are_matched_one_by_one(folder: Path):
    truth = [square(x, 10, 10) for x in (10, 40, 70, 100)]
    write(folder / "a.geojson", *truth)
    write(folder / "predicted/a.geojson", *truth[:3], square(150, 150, 10))
    found = run(folder, "--compare", "objects")
    assert found["dq"] == pytest.approx(3 / 4)
    assert found["sq"] == pytest.approx(1)
    assert found["aji"] == pytest.approx(3 / 5)
    assert "dice" not in found


def test_points_and_the_middle_of_areas(folder: Path):
    write(folder / "a.geojson", point(20, 20), point(60, 60), point(100, 100, "Stroma"))
    write(folder / "predicted/a.geojson", square(16, 16, 10), square(150, 150, 10))
    found = run(folder, "--compare", "points")
    for protocol in ("patherea", "hungarian"):
        assert found[f"points_{protocol}_recall"] == pytest.approx(1 / 2)
        assert found[f"points_{protocol}_precision"] == pytest.approx(1 / 2)


def test_points_match_up_to_the_tolerance_that_is_given(folder: Path):
    write(folder / "a.geojson", point(20, 20))
    write(folder / "predicted/a.geojson", point(20, 30))
    for tolerance, expected in (("9", 0), ("11", 1)):
        found = run(folder, "--compare", "points", "--point-tolerance", tolerance)
        assert found["points_patherea_recall"] == expected


@pytest.mark.parametrize("compared", ["objects", "points"])
def test_what_lies_where_nothing_is_known_counts_for_nothing(folder: Path, compared: str):
    """Predictions outside the region and on what is ignored are neither right nor wrong."""
    rules = '[labels]\nwithin = ["Region*"]\nignore = ["Artefact"]'
    text = (folder / "dataset.toml").read_text()
    (folder / "dataset.toml").write_text(text.replace("[labels]", rules))
    truth = [square(x, 10, 10) for x in (10, 40, 70)]
    areas = square(0, 0, 100, "Region*"), square(60, 60, 30, "Artefact")
    write(folder / "a.geojson", *areas, *truth)
    write(folder / "predicted/a.geojson", *truth[:2], square(70, 70, 10), square(150, 150, 10))
    found = run(folder, "--compare", compared)
    name = {"objects": "object", "points": "points_patherea"}[compared]
    assert found[f"{name}_recall"] == pytest.approx(2 / 3)
    assert found[f"{name}_precision"] == pytest.approx(1)


def test_points_need_the_region_that_is_asked_for(folder: Path):
    text = (folder / "dataset.toml").read_text()
    (folder / "dataset.toml").write_text(text.replace("[labels]", '[labels]\nwithin = ["Region*"]'))
    write(folder / "a.geojson", point(20, 20))
    write(folder / "predicted/a.geojson", point(20, 20))
    arguments = ["evaluate", str(folder / "dataset.toml"), str(folder / "predicted")]
    done = CliRunner().invoke(app, [*arguments, "--compare", "points"])
    assert "needed a region Region*" in str(done.exception)


def test_priority_decides_where_areas_overlap(folder: Path):
    write(folder / "a.geojson", square(0, 0, 100), square(50, 0, 100, "Stroma"))
    write(folder / "predicted/a.geojson", square(0, 0, 50), square(0, 50, 50))
    assert run(folder)["recall"] == pytest.approx(1 / 2)
    rules = '[labels]\npriority = ["Tumor", "background"]'
    text = (folder / "dataset.toml").read_text()
    (folder / "dataset.toml").write_text(text.replace("[labels]", rules))
    assert run(folder)["recall"] == pytest.approx(1)


EMPTY_BY_FIGURE = {
    "masks": {"dice": 0, "recall": 0},
    "objects": {"dq": 0, "aji": 0, "object_recall": 0},
    "points": {"points_patherea_recall": 0, "points_hungarian_f1": 0},
}


@pytest.mark.parametrize("compared", EMPTY_BY_FIGURE)
def test_a_prediction_of_nothing_counts_as_that(folder: Path, compared: str):
    write(folder / "a.geojson", square(20, 20, 30), square(90, 90, 30))
    write(folder / "predicted/a.geojson")
    found = run(folder, "--compare", compared)
    expected = EMPTY_BY_FIGURE[compared]
    assert {name: found[name] for name in expected} == expected


def test_nothing_found_where_nothing_is(folder: Path):
    write(folder / "a.geojson")
    write(folder / "predicted/a.geojson")
    arguments = ["evaluate", str(folder / "dataset.toml"), str(folder / "predicted")]
    done = CliRunner().invoke(app, arguments)
    assert "allow_empty = true in [labels]" in str(done.exception)
    text = (folder / "dataset.toml").read_text()
    (folder / "dataset.toml").write_text(text.replace("[labels]", "[labels]\nallow_empty = true"))
    found = run(folder, "--compare", "masks", "--compare", "objects", "--compare", "points")
    assert found["predicted_um2"] == found["reference_um2"] == found["points_count_error"] == 0
    assert np.isnan(found["dice"])  # 0 of 0, as of empty masks


def test_several_people(folder: Path):
    """Two people agree with the reference on half of their squares each."""
    (folder / "dataset.toml").write_text(
        DATASET.format(extra='rater_b = "b.geojson"\nrater_c = "c.geojson"')
    )
    write(folder / "a.geojson", square(0, 0, 100))
    write(folder / "b.geojson", square(0, 0, 100))
    write(folder / "c.geojson", square(0, 50, 100))
    write(folder / "predicted/a.geojson", square(0, 0, 100))
    found = run(folder)
    assert found["dice"] == pytest.approx(1)
    assert found["consensus_dice"] == pytest.approx(1)


def test_a_slide_without_annotations_is_named(folder: Path):
    write(folder / "a.geojson", square(0, 0, 100))
    (folder / "predicted").mkdir()
    cv2.imwrite(str(folder / "predicted" / "a.png"), np.zeros((SIDE, SIDE), np.uint8))
    arguments = ["evaluate", str(folder / "dataset.toml"), str(folder / "predicted")]
    done = CliRunner().invoke(app, [*arguments, "--compare", "objects"])
    assert done.exit_code != 0
    assert "no prediction of a" in str(done.exception)


def test_what_cannot_be_compared_is_named(folder: Path):
    write(folder / "a.geojson", square(0, 0, 100))
    write(folder / "predicted/a.geojson", square(0, 0, 100))
    arguments = ["evaluate", str(folder / "dataset.toml"), str(folder / "predicted")]
    done = CliRunner().invoke(app, [*arguments, "--compare", "cells"])
    assert done.exit_code != 0
    assert "cannot compare 'cells'; needed some of masks, objects, points" in str(done.exception)


@pytest.mark.parametrize(
    ("data", "options", "match"),
    [
        ("dataset.toml", ["--spacing", "0.5"], "its pixels have 1 µm; give that or more as"),
        ("cases.csv", [], "cannot say which classes there are"),
        ("dataset.toml", ["--stratify", "grade"], "no column 'grade'"),
    ],
)
def test_the_remedy_is_an_option_of_the_command(folder: Path, data, options, match):
    write(folder / "a.geojson", square(0, 0, 100))
    write(folder / "predicted/a.geojson", square(0, 0, 100))
    (folder / "cases.csv").write_text("slide,labels,split,mpp\na.png,a.geojson,test,1.0\n")
    arguments = ["evaluate", str(folder / data), str(folder / "predicted"), *options]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code != 0
    assert match in str(done.exception)


def test_a_table_takes_its_rules_from_the_configuration(folder: Path):
    (folder / "cases.csv").write_text(
        "slide,labels,patient,split,mpp\na.png,a.png.png,p,test,1.0\n"
    )
    truth = np.zeros((SIDE, SIDE), np.uint8)
    truth[:100, :100] = 255
    cv2.imwrite(str(folder / "a.png.png"), truth)
    write(folder / "predicted/a.geojson", square(0, 0, 100, "Tumor"))
    (folder / "dataset.toml").write_text(
        """
dataset = "cases.csv"
[labels]
mapping = {"0" = "background", "255" = "Tumor"}
[card]
name = "a"
version = "1"
classes = [{name = "background"}, {name = "Tumor"}]
[[card.stages]]
name = "mask"
kind = "segmenter"
output = {name = "mask"}
weights = {architecture = "wsiseg.unet"}
inputs = [{from = "slide", channels = ["R", "G", "B"], spacing_um = [1, 1], patch = [64, 64]}]
[card.provenance]
license = "x"
intended_use = "y"
limits = "z"
"""
    )
    assert run(folder)["dice"] == pytest.approx(1)
