"""No objects: an error, unless the file itself says that nothing was found."""

import json

import pytest

from wsiseg.annotations import verify_geojson


@pytest.mark.parametrize(
    ("member", "verdict"),
    [(None, "error"), ({}, "error"), ({"empty": False}, "error"), ({"empty": True}, "clean")],
)
def test_an_empty_collection(tmp_path, member, verdict):
    collection = {"type": "FeatureCollection", "features": []}
    if member is not None:
        collection["wsiseg"] = member
    path = tmp_path / "empty.geojson"
    path.write_text(json.dumps(collection))
    assert verify_geojson(path).verdict == verdict


def test_saying_so_does_not_excuse_a_bad_feature(tmp_path):
    path = tmp_path / "bad.geojson"
    path.write_text(
        json.dumps({"type": "FeatureCollection", "features": [None], "wsiseg": {"empty": True}})
    )
    assert verify_geojson(path).verdict == "error"
