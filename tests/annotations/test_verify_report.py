"""What the verifier says of the image, of values and keys, and how its report reads."""

import json
import math

import pytest
from made_features import (
    ID,
    SQUARE,
    collection,
    feature,
    measured,
    moved,
    multipolygon,
    polygon,
    verify,
)


@pytest.mark.parametrize("last", [False, True])
def test_outside_the_image_is_noticed(tmp_path, last):
    inside, outside = feature(), feature(polygon(moved(SQUARE, 95, 0)), name="2" + ID[1:])
    member = {"wsiseg": {"image_width": 100, "image_height": 10}}
    value = collection(inside, outside) | member if last else collection(inside, outside, **member)
    report = verify(tmp_path, value)
    assert report.counts == {"outside": 1}
    assert report.first.index == 1
    assert "95 to 105" in report.first.detail
    assert verify(tmp_path, collection(inside, **member)).verdict == "clean"
    assert verify(tmp_path, collection(inside, outside)).verdict == "clean"
    for odd in (3, None, {"image_width": "wide"}, []):
        assert verify(tmp_path, collection(inside, wsiseg=odd)).verdict == "clean"


def test_nan_and_line_breaks_are_taken_as_qupath_takes_them(tmp_path):
    text = json.dumps(feature() | {"properties": {"name": "two lines"}}).replace("two ", "two\n")
    assert verify(tmp_path, text).verdict == "clean"
    report = verify(tmp_path, json.dumps(measured({"a": -math.inf})))
    assert report.counts == {"measurement-0.4": 1, "measurement-not-finite": 1}


def test_keys_twice(tmp_path):
    report = verify(tmp_path, collection(feature(type="tile")))
    assert report.counts == {"key-duplicate-alias": 1}
    text = json.dumps(feature()).replace('"annotation"', '"tile","objectType":"detection"')
    assert verify(tmp_path, text).loads["0.6"].types == {"detection": 1}  # the last one counts


def test_the_report_reads_well(tmp_path):
    report = verify(tmp_path, collection(feature(), feature(multipolygon([SQUARE]), name=None)))
    lines = str(report).splitlines()
    assert lines[0] == f"{report.path}: error"
    assert "QuPath 0.4, 0.5, 0.6, 0.7, 0.8-dev: nothing, refused" in lines[1]
    assert "error: feature 1: id is not text (None); leave the key out or write a UUID" in lines[2]


def test_the_report_is_fit_for_json(tmp_path):
    report = verify(tmp_path, collection(feature(locked=True, classification="Tumor")))
    again = json.loads(json.dumps(report.to_dict()))
    assert again["verdict"] == "warning"
    assert again["findings"][0]["code"] == "key-ignored"
    assert (again["findings"][0]["index"], again["findings"][0]["id"]) == (0, ID)
    assert again["loads"]["0.5"]["classes"] == {"Tumor": 1}
