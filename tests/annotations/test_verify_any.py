"""Whatever a file holds, the verifier comes to a verdict."""

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from made_features import ID, SQUARE, collection, feature, moved, multipolygon, verify

from wsiseg.annotations import verify_geojson

KEYS = st.sampled_from(
    ["type", "id", "geometry", "coordinates", "properties", "features", "name", "color", "names",
     "classification", "measurements", "metadata", "objectType", "plane", "geometries", "value",
     "childObjects", "wsiseg", "isEllipse", "nucleusGeometry"]
)  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)


@given(value=values)
def test_any_json_gets_a_verdict(tmp_path_factory, value):
    report = verify(tmp_path_factory.mktemp("any"), value)
    assert report.verdict in {"clean", "warning", "error"}
    assert str(report)


@given(value=values, data=st.data())
def test_any_value_in_any_place_gets_a_verdict(tmp_path_factory, value, data):
    whole = collection(
        feature(
            name=ID,
            classification={"name": "A", "color": [1, 2, 3]},
            measurements={"a": 1},
            metadata={"a": "b"},
            childObjects=[feature(name="2" + ID[1:])],
        ),
        feature(multipolygon([SQUARE], [moved(SQUARE, 20, 0)]), name="3" + ID[1:]),
    )
    place: Any = copy.deepcopy(whole)
    whole = place
    while isinstance(place, dict | list) and place:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(list(keys)))
        if not isinstance(place[key], dict | list) or data.draw(st.integers(0, 5)) == 0:
            place[key] = value
            break
        place = place[key]
    report = verify(tmp_path_factory.mktemp("any"), whole)
    assert (report.verdict == "error") == any(f.severity == "error" for f in report.findings)
    for version in ("0.5", "0.6"):
        load = report.loads[version]
        lost = load.raises or load.objects == 0 or load.empty or load.invalid
        assert not lost or report.verdict == "error", str(report)


@given(text=st.text(max_size=30) | st.binary(max_size=30))
def test_any_bytes_get_a_verdict(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("any")
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    for name in ("a.geojson", "a.geojson.gz", "a.zip"):
        (folder / name).write_bytes(raw)
        assert verify_geojson(folder / name).verdict == "error"
