"""What a file is, before its features count: JSON, arrays, encodings, endings, gzip and zip."""

import gzip
import json
import zipfile
from pathlib import Path

import pytest
from made_features import ID, classified, collection, feature, polygon, verify

from wsiseg.annotations import verify_geojson
from wsiseg.annotations._rules import RULES
from wsiseg.errors import AnnotationError


@pytest.mark.parametrize(
    ("text", "code", "verdict"),
    [
        ("", "no-objects", "error"),
        ("  \n", "no-objects", "error"),
        ("{}", "no-objects", "error"),
        ("[]", "no-objects", "error"),
        ("3", "no-objects", "error"),
        ("null", "no-objects", "error"),
        ('{"type":"FeatureCollection"}', "no-objects", "error"),
        ('{"type":"FeatureCollection","features":{}}', "no-objects", "error"),
        ('{"type":"Topology","features":[null]}', "no-objects", "error"),
        ('{"features":[{"type":"Feature"}]}', "no-objects", "error"),
        ('{"type":null,"features":[]}', "top-level-type", "error"),
        ('{"type":"FeatureCollection","features":[', "json", "error"),
        ('{"type":"FeatureCollection","features":[]', "json", "error"),
        ('{"type":"FeatureCollection","features":[]}{}', "json", "error"),
        ('{"type":"FeatureCollection","features":[,]}', "json", "error"),
        ("[" * 100_000, "json", "error"),
        ('{"a":' * 100_000, "json", "error"),
    ],
    ids=range(17),
)
def test_texts_without_objects(tmp_path, text, code, verdict):
    report = verify(tmp_path, text)
    assert code in report.counts, str(report)
    assert report.verdict == verdict
    assert report.loads["0.7"].objects == 0
    assert (report.loads["0.7"].raises is not None) == bool(RULES[code].raises)


def test_a_file_may_say_itself_that_nothing_was_found(tmp_path):
    report = verify(tmp_path, collection(wsiseg={"empty": True}))
    assert report.counts == {"nothing-found": 1}
    assert report.verdict == "clean"
    assert verify(tmp_path, collection(wsiseg={"empty": "yes"})).verdict == "error"
    assert verify(tmp_path, collection(feature(), wsiseg={"empty": True})).verdict == "clean"


def test_the_type_may_come_last(tmp_path):
    text = json.dumps({"features": [feature()], "type": "FeatureCollection"})
    assert verify(tmp_path, text).verdict == "clean"


def test_lines_of_features_are_refused(tmp_path):
    report = verify(tmp_path, "\n".join(json.dumps(feature()) for _ in range(3)))
    assert report.verdict == "error"
    assert report.loads["0.6"].raises == "json"


def test_truncation_is_noticed_anywhere(tmp_path):
    text = json.dumps(collection(feature(), feature(name="2" + ID[1:])))
    for length in range(1, len(text), 7):
        assert verify(tmp_path, text[:length]).verdict == "error", text[:length]


@pytest.mark.parametrize(
    "wrap", [lambda f: [f, f], lambda f: [[f], [[f]]], lambda f: [collection(f, f)]]
)
def test_arrays_are_gone_through(tmp_path, wrap):
    report = verify(tmp_path, wrap(feature()))
    assert report.loads["0.6"].objects == 2
    assert report.counts == {"id-duplicate": 1}


def test_elements_of_other_kinds_are_ignored(tmp_path):
    report = verify(tmp_path, [feature(), {"type": "x"}, {}, 3, None])
    assert report.counts == {"element-ignored": 4}
    assert report.loads["0.5"].objects == 1


def test_a_bare_geometry_is_an_annotation(tmp_path):
    report = verify(tmp_path, polygon() | {"plane": "ignored"})
    assert report.counts == {"bare-geometry": 1}
    assert report.loads["0.6"].types == {"annotation": 1}
    assert report.loads["0.6"].area == 100


def test_latin_1_garbles_names(tmp_path):
    text = json.dumps(collection(classified({"name": "é", "color": [1, 2, 3]})), ensure_ascii=False)
    (tmp_path / "a.geojson").write_bytes(text.encode("latin-1"))
    report = verify_geojson(tmp_path / "a.geojson")
    assert report.counts == {"not-utf8": 1}
    assert report.verdict == "warning"
    (tmp_path / "a.geojson").write_bytes(text.encode("utf-8-sig"))
    assert verify_geojson(tmp_path / "a.geojson").verdict == "clean"
    (tmp_path / "a.geojson").write_bytes(text.encode("utf-16"))
    assert verify_geojson(tmp_path / "a.geojson").verdict == "error"


@pytest.mark.parametrize(
    ("name", "reads"),
    [
        ("a.geojson", True), ("a.json", True), ("A.GEOJSON", True), ("a.b.Json", True),
        ("a.txt", False), ("geojson", False), ("a.geojson.bak", False), ("a.qpdata", False),
    ],
)  # fmt: skip
def test_the_ending_decides(tmp_path, name, reads):
    report = verify(tmp_path, collection(feature()), name)
    assert report.counts == ({} if reads else {"extension": 1})
    assert report.loads["0.6"].objects == int(reads)


@pytest.mark.parametrize(
    ("name", "reads"),
    [("a.geojson.gz", True), ("a.JSON.GZ", True), ("a.gz", False), ("a.geojson.gzip", False)],
)
def test_gzip_is_unpacked_by_name(tmp_path, name, reads):
    packed = gzip.compress(json.dumps(collection(feature())).encode())
    (tmp_path / name).write_bytes(packed)
    assert (verify_geojson(tmp_path / name).verdict == "clean") == reads
    for broken in (b"", packed[:-3], packed[:20], b"{}", packed[:-8] + b"\0" * 8):
        (tmp_path / name).write_bytes(broken)
        assert verify_geojson(tmp_path / name).verdict == "error"


def zipped(path: Path, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), content)
    return path


def test_zip_entries_are_read_one_by_one(tmp_path):
    good = json.dumps(collection(feature())).encode()
    other = json.dumps(collection(feature(name="2" + ID[1:]))).encode()
    path = zipped(tmp_path / "a.zip", a_geojson=good, sub__b_geojson_gz=gzip.compress(other))
    report = verify_geojson(path)
    assert report.verdict == "clean"
    assert report.loads["0.5"].objects == 2
    assert verify_geojson(zipped(path, a_geojson=good, b_geojson=good)).counts == {
        "id-duplicate": 1
    }
    report = verify_geojson(zipped(path, a_geojson=good, b_geojson=b"{", c_txt=b"hello"))
    assert report.counts == {"entry-lost": 1, "entry-ignored": 1}
    assert report.verdict == "warning"
    assert report.first.entry == "b.geojson"
    assert report.loads["0.6"].objects == 1
    assert verify_geojson(zipped(path, a_txt=good)).counts == {"entry-ignored": 1, "no-objects": 1}
    assert verify_geojson(zipped(path)).counts == {"no-objects": 1}
    assert verify_geojson(zipped(path, a_json=b"{")).verdict == "error"


def test_an_entry_may_be_lost_in_one_version_only(tmp_path):
    bowtie = feature(polygon([[0, 0], [9, 9], [9, 0], [0, 9], [0, 0]]), name="2" + ID[1:])
    path = zipped(
        tmp_path / "a.zip",
        a_json=json.dumps(collection(feature())).encode(),
        b_json=json.dumps(collection(bowtie)).encode(),
    )
    report = verify_geojson(path)
    assert report.verdict == "warning"
    assert (report.loads["0.5"].objects, report.loads["0.6"].objects) == (2, 1)


def test_a_broken_zip_is_an_error(tmp_path):
    path = zipped(tmp_path / "a.zip", a_geojson=json.dumps(collection(feature())).encode())
    raw = path.read_bytes()
    path.write_bytes(raw[:-30])
    assert verify_geojson(path).counts == {"packing": 1}
    path.write_bytes(raw[:50] + bytes(10) + raw[60:])  # damaged inside the entry
    report = verify_geojson(path)
    assert report.verdict == "error"
    assert "entry-lost" in report.counts


def test_bombs_are_not_unpacked(tmp_path):
    packed = gzip.compress(bytes(50_000_000))
    (tmp_path / "a.geojson.gz").write_bytes(packed)
    report = verify_geojson(tmp_path / "a.geojson.gz", max_bytes=1_000_000)
    assert report.counts == {"too-large": 1}
    assert report.verdict == "error"
    zeros = bytes(700_000)
    path = zipped(tmp_path / "a.zip", a_json=zeros, b_json=zeros)
    assert "too-large" in verify_geojson(path, max_bytes=1_000_000).counts


def test_a_missing_file_is_an_error_of_its_own(tmp_path):
    with pytest.raises(AnnotationError, match="no such file"):
        verify_geojson(tmp_path / "a.geojson")
    (tmp_path / "b.geojson").mkdir()
    with pytest.raises(AnnotationError, match="cannot be read"):
        verify_geojson(tmp_path / "b.geojson")
