"""Annotation files drawn on their slide."""

import json

import numpy as np
import pytest
from PIL import Image
from wsiseg_cli.main import main

import wsiseg
from wsiseg.errors import AnnotationError
from wsiseg.exchange.picture import draw_annotations


def test_objects_lie_where_they_are(tmp_path):
    slide = wsiseg.open(np.full((600, 900, 3), 240, np.uint8), mpp=0.5)
    square = [[300, 150], [600, 150], [600, 450], [300, 450], [300, 150]]
    tumor = {"name": "Tumor", "color": [200, 0, 0]}
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [square]},
            "properties": {"classification": tumor},
        },
        {"type": "Feature", "geometry": {"type": "Point", "coordinates": [100, 500]}},
    ]
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    found = draw_annotations(path, slide, size=900)
    assert found.shape[1] == 900
    red = (found[:600, :, 0].astype(int) - found[:600, :, 1]) > 40
    rows, columns = np.nonzero(red)
    assert np.abs([rows.min() - 150, rows.max() - 450]).max() <= 2
    assert np.abs([columns.min() - 300, columns.max() - 600]).max() <= 2
    assert found[500, 100].tolist() != [240, 240, 240]
    far = json.dumps({"type": "Polygon", "coordinates": [[[x + 5e3, y] for x, y in square]]})
    path.write_text(far)
    with pytest.raises(AnnotationError, match="only 0% of its objects lie on"):
        draw_annotations(path, slide)


def code(arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["wsiseg", *map(str, arguments)])
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0


def test_the_command_mends_and_draws(tmp_path, capsys):
    Image.fromarray(np.full((60, 90, 3), 240, np.uint8)).save(tmp_path / "slide.png")
    ring = [[10, 10], [50, 10], [50, 40], [10, 40]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
    path = tmp_path / "bad.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    assert code(["verify-geojson", path]) == 1
    assert "ring" in capsys.readouterr().out
    assert code(["verify-geojson", path, "--fix"]) == 0
    out = capsys.readouterr().out
    assert "fixed: feature 0: an open ring closed" in out
    assert (tmp_path / "bad.fixed.geojson").is_file()
    assert path.read_text().count("[10, 10]") == 1, "the file itself stays"
    drawn = ["--overlay", tmp_path / "o.png", "--slide", tmp_path / "slide.png", "--mpp", "0.5"]
    assert code(["verify-geojson", tmp_path / "bad.fixed.geojson", *drawn]) == 0
    with Image.open(tmp_path / "o.png") as picture:
        assert picture.width >= 320
    assert code(["verify-geojson", path, "--overlay", tmp_path / "p.png"]) == 2
    assert code(["verify-geojson", path, "--fix", "--json"]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert row["verdict"] == "error"
    assert row["fixed"]["verdict"] == "clean"
    assert row["fixed"]["changes"][0]["index"] == 0
