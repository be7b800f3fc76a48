"""Annotation files of other programs: what is drawn in them, and what is refused."""

import gzip
import json
import zipfile

import numpy as np
import pytest
import shapely
from labelled_slides import SQUARE, cropped_slide, feature, slide, write

import wsiseg
from wsiseg.annotations.read_drawing import read_areas, read_points
from wsiseg.errors import AnnotationError

ASAP = """<?xml version="1.0"?>
<ASAP_Annotations><Annotations>
<Annotation Name="a" Type="Spline" PartOfGroup="metastasis" Color="#F4FA58"><Coordinates>
  <Coordinate Order="1" X="40" Y="10"/><Coordinate Order="0" X="10" Y="10"/>
  <Coordinate Order="3" X="10" Y="30.5"/><Coordinate Order="2" X="40" Y="30.5"/>
</Coordinates></Annotation>
<Annotation Name="b" Type="Rectangle" PartOfGroup="None"><Coordinates>
  <Coordinate Order="0" X="50" Y="10"/><Coordinate Order="1" X="60" Y="10"/>
  <Coordinate Order="2" X="60" Y="20"/><Coordinate Order="3" X="50" Y="20"/>
</Coordinates></Annotation>
<Annotation Name="c" Type="Dot" PartOfGroup="cell"><Coordinates>
  <Coordinate Order="0" X="5.5" Y="7"/></Coordinates></Annotation>
<Annotation Name="d" Type="Measurement" PartOfGroup="None"><Coordinates>
  <Coordinate Order="0" X="5" Y="7"/><Coordinate Order="1" X="9" Y="7"/></Coordinates></Annotation>
<Annotation Name="e" Type="Polygon" PartOfGroup="None"><Coordinates>
  <Coordinate Order="0" X="5" Y="7"/><Coordinate Order="1" X="9" Y="7"/></Coordinates></Annotation>
</Annotations><AnnotationGroups><Group Name="metastasis" PartOfGroup="None"/></AnnotationGroups>
</ASAP_Annotations>"""


def region(number, kind, vertices, negative=0):
    rows = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in vertices)
    return (
        f'<Region Id="{number}" Type="{kind}" NegativeROA="{negative}">'
        f"<Attributes/><Vertices>{rows}</Vertices></Region>"
    )


def layer(number, name, attribute, *regions):
    return (
        f'<Annotation Id="{number}" Name="{name}"><Attributes>{attribute}</Attributes><Regions>'
        f"<RegionAttributeHeaders/>{''.join(regions)}</Regions></Annotation>"
    )


def imagescope(*layers, mpp="0.5"):
    return f'<Annotations MicronsPerPixel="{mpp}">{"".join(layers)}</Annotations>'


BIG = [(10, 10), (90, 10), (90, 60), (10, 60)]
SMALL = [(20, 20), (40, 20), (40, 40), (20, 40)]
IMAGESCOPE = imagescope(
    layer(1, "Tumour", "", region(1, 0, BIG), region(2, 0, SMALL, negative=1)),
    layer(2, "", '<Attribute Name="CaP" Id="0" Value=""/>', region(1, 1, [(1, 2), (5, 8)])),
    layer(3, "", '<Attribute Name="Description" Value=""/>', region(1, 2, [(10, 20), (50, 60)])),
    layer(4, "x", "", region(1, 3, [(1, 2), (5, 8)]), region(2, 5, [(3, 4)]), region(3, 0, [])),
)


def written(tmp_path, text, name="a.xml"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_asap(tmp_path):
    path = written(tmp_path, ASAP)
    areas = read_areas(path, slide())
    assert areas.names == ("metastasis", "Unclassified")
    assert areas.geometries[0].equals(shapely.box(10, 10, 40, 30.5))
    assert areas.geometries[1].equals(shapely.box(50, 10, 60, 20))
    assert areas.left_out == {
        "points": 1, "annotations of type Measurement": 1, "outlines without area": 1,
    }  # fmt: skip
    points = read_points(path, slide())
    assert points.names == ("cell",)
    np.testing.assert_array_equal(points.yx, [[7, 5.5]])


def test_asap_counts_from_the_corner_of_the_whole_slide(tmp_path):
    areas = read_areas(written(tmp_path, ASAP), cropped_slide())
    assert areas.geometries[0].bounds == (10, 10, 40, 30.5)


@pytest.mark.parametrize(
    ("members", "corner"),
    [
        ({}, (200, 100)),
        ({"image_width": 300, "image_height": 200}, (200, 100)),
        ({"image_width": 600, "image_height": 400}, (0, 0)),
        ({"image_width": 300, "image_height": 200, "frame": "level0"}, (0, 0)),
    ],
    ids=["not said", "bounds", "whole", "level0"],
)
def test_the_size_of_the_image_drawn_on_tells_where_its_corner_is(tmp_path, members, corner):
    about = {"frame": "qupath"} | members
    path = write(tmp_path / "a.geojson", feature(), wsiseg=about)
    areas = read_areas(path, cropped_slide())
    assert areas.geometries[0].bounds[:2] == (10 + corner[0], 10 + corner[1])


def test_another_image_of_the_file_is_refused(tmp_path):
    about = {"frame": "qupath", "image_width": 60, "image_height": 50}
    path = write(tmp_path / "a.geojson", feature(), wsiseg=about)
    with pytest.raises(AnnotationError, match="image of 60 x 50 pixels, array has 600 x 400"):
        read_areas(path, cropped_slide())


def test_imagescope(tmp_path):
    path = written(tmp_path, IMAGESCOPE)
    areas = read_areas(path, slide())
    assert areas.names == ("Tumour", "CaP", "Layer 3")
    tumour, rectangle, ellipse = areas.geometries
    assert tumour.equals(shapely.box(10, 10, 90, 60) - shapely.box(20, 20, 40, 40))
    assert rectangle.equals(shapely.box(1, 2, 5, 8))
    assert ellipse.area == pytest.approx(np.pi * 400)
    assert ellipse.centroid.equals_exact(shapely.Point(30, 40), 1e-9)
    assert areas.left_out == {"points": 1, "arrows": 1, "outlines without area": 1}
    points = read_points(path, slide())
    assert (points.names, points.yx.tolist()) == (("x",), [[4, 3]])


def test_imagescope_of_another_slide(tmp_path):
    path = written(tmp_path, IMAGESCOPE.replace('"0.5"', '"0.25"'))
    read_areas(path, slide())  # the file says nothing of its pixel size; the caller does
    on = slide()
    on.source._metadata = on.metadata
    with pytest.raises(AnnotationError, match=r"drawn on pixels of 0\.25 µm, array has 0\.5"):
        read_areas(path, on)


LAUGHS = (
    '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>'
    "<ASAP_Annotations>&b;</ASAP_Annotations>"
)
OUTSIDE = '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]><Annotations>&a;</Annotations>'
DTD = '<!DOCTYPE a SYSTEM "file:///etc/passwd"><Annotations>&a;</Annotations>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "declares entities"),
        (OUTSIDE, "declares entities"),
        (DTD, "entities|entity"),
        ("<ASAP_Annotations>" + "<a>" * 100, "nested more than 64 deep"),
        ("<ASAP_Annotations><Annotation>", "not XML"),
        ("<gpx/>", r"needed XML of ASAP .* found <gpx>"),
        ('<Annotations MicronsPerPixel="x"/>', "MicronsPerPixel: needed a number, found 'x'"),
        (ASAP.replace('"30.5"', '"30,5"'), "annotation 1 .'a'.: needed a number, found '30,5'"),
        (ASAP.replace('"30.5"', '"nan"'), "annotation 1 .'a'.: a coordinate is not finite"),
        ("<Annotations/>", "no area in it"),
        ("", "the file is empty"),
    ],
)
def test_bad_xml_is_refused(tmp_path, text, message):
    with pytest.raises(AnnotationError, match=message):
        read_areas(written(tmp_path, text), slide())


SQUARE_SHAPE = shapely.Polygon(SQUARE)
WRAPPED = {
    "collection": {"type": "FeatureCollection", "features": [feature()]},
    "array": [feature()],
    "feature": feature(),
    "nested": [{"type": "FeatureCollection", "features": [feature()]}],
    "crs": {"crs": {}, "features": [feature()], "type": "FeatureCollection", "bbox": [1, 2]},
}


@pytest.mark.parametrize("text", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("name", ["a.geojson", "a.JSON", "a.geojson.gz", "a.zip"])
def test_geojson_in_any_wrapping(tmp_path, text, name):
    path, data = tmp_path / name, json.dumps(text).encode()
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("inner.geojson", data)
            archive.writestr("readme.txt", "not read")
    else:
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    areas = read_areas(path, slide())
    assert areas.names == ("tumour",)
    assert areas.geometries[0].equals(SQUARE_SHAPE)


@pytest.mark.parametrize(
    ("classification", "name"),
    [
        ({"name": "A", "color": [1, 2, 3]}, "A"),
        ({"name": "A"}, "A"),
        ({"name": " A:B ", "colorRGB": -3}, "A: B"),
        ({"names": ["A", "B"], "color": None}, "A: B"),
        ("A", "A"),
        ("A: B", "A: B"),
        (["A", "B"], "A: B"),
        ({}, "Unclassified"),
        (None, "Unclassified"),
        ({"name": ""}, "Unclassified"),
    ],
)
def test_class_names(tmp_path, classification, name):
    one = feature()
    one["properties"]["classification"] = classification
    assert read_areas(write(tmp_path / "a.json", one), slide()).names == (name,)


def test_geometries_of_all_kinds(tmp_path):
    hole = [[20, 15], [30, 15], [30, 25], [20, 25], [20, 15]]
    far = [[x + 50, y] for x, y in SQUARE]
    child = feature([far], "child")
    parent = feature([SQUARE, hole])
    parent["properties"]["childObjects"] = [child]
    collection = feature()
    members = [
        {"type": "Polygon", "coordinates": [SQUARE]},
        {"type": "Point", "coordinates": [1, 2]},
    ]
    collection["geometry"] = {"type": "GeometryCollection", "geometries": members}
    core = feature()
    core["properties"]["objectType"] = "tmaCore"
    path = write(
        tmp_path / "a.geojson",
        parent,
        feature([[SQUARE, hole], [far]], kind="MultiPolygon"),
        collection,
        feature(isEllipse=True),
        feature([[[*xy, 0] for xy in SQUARE]]),
        core,
    )
    areas = read_areas(path, slide())
    whole = shapely.box(10, 10, 40, 30)
    assert [round(g.area, 6) for g in areas.geometries] == [
        500, 600, 1100, 600, round(np.pi * 150, 6), 600,
    ]  # fmt: skip
    assert areas.names == ("tumour", "child", *["tumour"] * 4)
    assert areas.geometries[0].equals(whole - shapely.box(20, 15, 30, 25))
    assert areas.left_out == {"TMA cores": 1}


def test_overlapping_parts_are_united(tmp_path):
    over = [[x + 10, y] for x, y in SQUARE]
    path = write(tmp_path / "a.json", feature([[SQUARE], [over]], kind="MultiPolygon"))
    assert read_areas(path, slide()).geometries[0].area == 800


def test_points_of_geojson_in_the_slides_pixels(tmp_path):
    path = write(
        tmp_path / "a.geojson",
        feature([1.5, 2.25], "cell", "Point"),
        feature([[3, 4], [5, 6]], None, "MultiPoint"),
        feature(),
    )
    points = read_points(path, cropped_slide())
    assert points.names == ("cell", "Unclassified", "Unclassified")
    np.testing.assert_array_equal(points.yx, [[102.25, 201.5], [104, 203], [106, 205]])
    with pytest.raises(AnnotationError, match="no point in it"):
        read_points(write(path, feature()), slide())
    with pytest.raises(AnnotationError, match="only 0% of its points lies"):
        read_points(write(path, feature([900, 2], "cell", "Point")), slide())


# What QuPath itself makes of these files was measured. It refuses more than is needed to know what
# is drawn (a colour, a measurement, an id), loads other planes, and skips broken entries of a ZIP.
READ_ONLY_HERE = {
    "25_geometrycollection",
    "36b_id_null",
    "40_properties_null",
    "47_class_name_color_int",
    "49_class_name_color_hex",
    "55_class_name_empty",
    "60_class_list",
    "61_class_newline",
    "75_meas_string_nonnum",
    "81_name_null",
    "83_color_hex",
    "9E_cell_nucleus_null",
}
REFUSED_ONLY_HERE = {"29_plane", "c8"}
OTHER_AREA = {"37_objectType_variants", "84_children"}  # TMA cores; children


@pytest.mark.realdata
def test_areas_are_those_qupath_reads(data_dir):
    cases = data_dir / "annotations" / "qupath_cases"
    expected = json.loads((cases / "expected.json").read_text(encoding="utf-8"))
    on = slide(3000, 3000)
    read, refused, other = set(), set(), set()
    for name, by_version in expected.items():
        case, area = name.split(".")[0], by_version["0.6"].get("area")
        try:
            found = shapely.area(read_areas(cases / name, on).geometries).sum()
        except AnnotationError:
            refused |= {case} if area else set()
            continue
        if area is None:
            read.add(case)
        elif found != pytest.approx(area, rel=1e-3, abs=1e-3):
            other.add(case)
    assert (read, refused, other) == (READ_ONLY_HERE, REFUSED_ONLY_HERE, OTHER_AREA)
    assert len(expected) > 60


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "counts", "names"),
    [
        ("camelyon16/tumor_009.xml", 6, {"metastasis"}),
        ("camelyon16/tumor_036.xml", 105, {"metastasis", "negative"}),
        ("camelyon16/tumor_076.xml", 39, {"metastasis"}),
        ("histoqc_TCGA-EJ-5518-01Z-00-DX1.xml", 4, {"CaP", "Layer 3", "Layer 4"}),
        ("histoqc_holed.geojson", 1, {"Unclassified"}),
        ("large_image_sample.geojson", 10, {"Unclassified"}),
        ("dlup_qupath05.geojson", 3, {"Unclassified"}),
    ],
)
def test_real_files(data_dir, name, counts, names):
    import dask.array

    lazy = dask.array.zeros((200_000, 100_000, 3), dtype=np.uint8, chunks=(4096, 4096, 3))
    areas = read_areas(data_dir / "annotations" / name, wsiseg.open(lazy, mpp=0.25))
    assert len(areas) == counts
    assert set(areas.names) == names
    assert shapely.is_valid(areas.geometries).all()
