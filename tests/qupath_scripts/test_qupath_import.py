"""`import_annotations.groovy`: the right objects on the right image, once, and nothing by half."""

import json
import re
import shutil
import unicodedata
import uuid

import pytest
import shapely
from worlds import annotations, feature, image, result, square

from wsiseg.annotations import write_annotations
from wsiseg.geometry import Box

SHAPES = [square(100, 100), square(400, 400, 50), square(1000, 2000, 200)]
SLIDE = "slide.svs"


def imported(qupath, out, *steps, images=None, open=0, folder=None, args=()):
    """Import once, and again after each of `steps`; return what each import did."""
    run = {"script": "import_annotations", "args": [str(out), *args]}
    world = {"images": images or [image(SLIDE)], "open": open, "folder": folder}
    return qupath.run({**world, "steps": [run, *(step or dict(run) for step in steps)]})


def ids(outcome, number=0):
    return [each["id"] for each in outcome["images"][number]["objects"]]


def lines(outcome, word):
    return [line for line in outcome["lines"] if line.startswith(f"  {word} ")]


def test_a_result_lands_on_its_image(every_qupath, tmp_path):
    folder = result(tmp_path, SLIDE, SHAPES)
    (first,) = imported(every_qupath, tmp_path)
    written = json.loads((folder / "annotations.geojson").read_text())["features"]
    assert first["error"] is None, first
    assert sorted(ids(first)) == sorted(item["id"] for item in written)
    found = first["images"][0]["objects"]
    assert {(each["x"], each["y"]) for each in found} == {(100, 100), (400, 400), (1000, 2000)}
    assert {each["class"] for each in found} == {"Tumor"}
    assert found[0]["measurements"]["wsiseg: Mean probability"] == 0.75
    assert lines(first, "done") == ["  done    slide.svs: annotations: 3 added"]


def test_a_second_import_doubles_nothing(qupath, tmp_path):
    result(tmp_path, SLIDE, SHAPES)
    first, second = imported(qupath, tmp_path, None)
    assert ids(second) == ids(first)
    assert "0 added, 3 were there" in lines(second, "done")[0]


def test_doubles_of_earlier_imports_are_cleared(qupath, tmp_path):
    folder = result(tmp_path, SLIDE, SHAPES)
    drawn = json.loads((folder / "annotations.geojson").read_text())["features"]
    (first,) = imported(qupath, tmp_path, images=[image(SLIDE, objects=[*drawn, *drawn])])
    assert len(ids(first)) == len(set(ids(first))) == 3
    assert "3 doubles removed" in lines(first, "done")[0]


def test_a_new_result_replaces_the_earlier_of_that_model_only(qupath, tmp_path):
    old, new, other = tmp_path / "old", tmp_path / "new", tmp_path / "other"
    result(old, SLIDE, SHAPES)
    result(
        new, SLIDE, [SHAPES[0], square(600, 600)], probability=0.5, model="breast-tumour-demo 1.1"
    )
    result(other, SLIDE, [square(1500, 100)], model="nuclei 1.0")
    drawn = feature("annotation", square(5, 5), "Mine", str(uuid.uuid4()))
    steps = [{"script": "import_annotations", "args": [str(out)]} for out in (other, old, new)]
    *_, last = qupath.run(
        {"images": [image(SLIDE, objects=[drawn])], "open": 0, "folder": None, "steps": steps}
    )
    found = last["images"][0]["objects"]
    assert {(each["x"], each["y"]) for each in found} == {
        (5, 5),
        (1500, 100),
        (100, 100),
        (600, 600),
    }
    (kept,) = [each for each in found if each["x"] == 100]
    assert kept["measurements"]["wsiseg: Mean probability"] == 0.5
    assert "1 added, 1 were there, 2 of an earlier result removed" in lines(last, "done")[0]


@pytest.mark.parametrize(
    "change",
    [{"move": [30, 0]}, {"reclassify": "Stroma"}],
    ids=["moved", "another class"],
)
def test_what_was_edited_stays(qupath, tmp_path, change):
    folder = result(tmp_path, SLIDE, SHAPES)
    id = json.loads((folder / "annotations.geojson").read_text())["features"][0]["id"]
    edit = {"image": 0, "id": id, **change}
    first, second = imported(qupath, tmp_path, edit, None)
    before, after = (
        next(each for each in outcome["images"][0]["objects"] if each["id"] == id)
        for outcome in (first, second)
    )
    assert (after["x"], after["class"]) != (before["x"], before["class"])
    assert "1 kept as you edited or locked" in lines(second, "done")[0]
    *_, third = imported(qupath, tmp_path, edit, None, args=["edited=replace"])
    assert next(each for each in third["images"][0]["objects"] if each["id"] == id) == before


@pytest.mark.parametrize(
    "how", [{"lock": True}, {"move": [9, 9]}, {}], ids=["locked", "moved", "as it was"]
)
def test_what_the_model_no_longer_finds_goes_unless_it_was_touched(qupath, tmp_path, how):
    old, new = tmp_path / "old", tmp_path / "new"
    folder = result(old, SLIDE, SHAPES)
    result(new, SLIDE, SHAPES[1:])
    id = json.loads((folder / "annotations.geojson").read_text())["features"][0]["id"]
    _, second = imported(
        qupath,
        old,
        {"image": 0, "id": id, **how},
        {"script": "import_annotations", "args": [str(new)]},
    )
    assert (id in ids(second)) == bool(how)


def test_objects_locked_by_the_import_are_no_edits(qupath, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    result(old, SLIDE, SHAPES)
    result(new, SLIDE, SHAPES[1:])
    first, second = imported(
        qupath,
        old,
        {"script": "import_annotations", "args": [str(new), "lock=yes"]},
        args=["lock=yes"],
    )
    assert all(each["locked"] for each in first["images"][0]["objects"])
    assert len(ids(second)) == 2


def test_no_result_is_told_with_what_to_do(qupath, tmp_path):
    result(tmp_path, "another.svs", SHAPES)
    result(tmp_path, "third.svs", SHAPES)
    (first,) = imported(qupath, tmp_path)
    assert first["error"] is None
    assert ids(first) == []
    (line,) = lines(first, "NONE")
    assert f'wsiseg segment "/slides/slide.svs" --out "{tmp_path}"' in line


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (
            {"width": 2000},
            r"is of slide\.svs, 2220 x 2967 .* this image has 2000 x 2967: .* another",
        ),
        (
            {"path": "qupath.lib.images.servers.RotatedImageServer: x (ROTATE_180)"},
            "rotated, flipped or cropped .*once more without",
        ),
        ({"type": "OpenSlide (Flip HORIZONTAL)"}, "rotated, flipped or cropped"),
    ],
    ids=["size", "rotated", "flipped"],
)
def test_another_image_is_refused(qupath, tmp_path, told, message):
    result(tmp_path, SLIDE, SHAPES)
    (first,) = imported(qupath, tmp_path, images=[image(SLIDE, **told)])
    assert ids(first) == []
    assert re.search(message, first["error"]), first["error"]


def test_a_slide_called_rotated_is_not_taken_for_a_rotated_one(qupath, tmp_path):
    name = "rotated crop FlippedSlide.svs"
    result(tmp_path, name, SHAPES)
    (first,) = imported(qupath, tmp_path, images=[image(name)])
    assert len(ids(first)) == 3, first


BOUNDS = Box((300, 200), (2300, 2200))
"""Corner (200, 300), 2000 x 2000 pixels of a slide of 4000 x 3000."""


@pytest.mark.parametrize("vendor", ["mirax", "generic-tiff"])
@pytest.mark.parametrize("frame", ["qupath", "level0"])
@pytest.mark.parametrize("shown", ["bounds", "whole"])
def test_frames_fit_whatever_qupath_shows(qupath, tmp_path, vendor, frame, shown):
    result(
        tmp_path, "case.mrxs", [square(1000, 1000)], size=(4000, 3000), vendor=vendor,
        bounds=BOUNDS, frame=frame,
    )  # fmt: skip
    size = (2000, 2000) if shown == "bounds" else (4000, 3000)
    told = {"width": size[0], "height": size[1]}
    if shown == "bounds":
        told["path"] = "OpenslideImageServer: file:/c.mrxs[x=200,y=300,w=2000,h=2000]"
    (first,) = imported(qupath, tmp_path, images=[image("case.mrxs", **told)])
    (found,) = first["images"][0]["objects"]
    assert (found["x"], found["y"]) == ((800, 700) if shown == "bounds" else (1000, 1000))


def test_another_part_of_the_slide_is_refused(qupath, tmp_path):
    result(
        tmp_path, "case.mrxs", [square(1000, 1000)], size=(4000, 3000), vendor="mirax",
        bounds=BOUNDS,
    )  # fmt: skip
    path = "OpenslideImageServer: file:/c.mrxs[x=0,y=0,w=2000,h=2000]"
    images = [image("case.mrxs", width=2000, height=2000, path=path)]
    (first,) = imported(qupath, tmp_path, images=images)
    assert "another part" in first["error"]
    assert ids(first) == []


def test_gzip_and_parts(qupath, tmp_path):
    result(tmp_path / "gz", SLIDE, SHAPES, compress=True)
    (packed,) = imported(qupath, tmp_path / "gz")
    folder = result(tmp_path / "parts", SLIDE, SHAPES, limits=(2, 10**9))
    assert (folder / "annotations-0002.geojson").exists()
    (whole,) = imported(qupath, tmp_path / "parts")
    assert sorted(ids(whole)) == sorted(ids(packed))
    assert len(ids(whole)) == 3


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_part_that_is_missing_or_cut_changes_nothing(qupath, tmp_path, damage):
    folder = result(tmp_path, SLIDE, SHAPES, limits=(1, 10**9))
    part = folder / "annotations-0002.geojson"
    if damage == "missing":
        part.unlink()
    else:
        part.write_bytes(part.read_bytes()[:-20])
    (first,) = imported(qupath, tmp_path)
    assert ids(first) == []
    assert "copy the folder" in first["error"]


def test_one_bad_object_changes_nothing_and_is_named(qupath, tmp_path):
    folder = result(tmp_path, SLIDE, SHAPES)
    file = folder / "annotations.geojson"
    file.write_text(file.read_text().replace('"Polygon"', '"GeometryCollection"', 1))
    (first,) = imported(qupath, tmp_path)
    assert ids(first) == []
    assert "wsiseg verify-geojson" in first["error"]


def test_nothing_found_is_a_result(qupath, tmp_path):
    result(tmp_path / "full", SLIDE, SHAPES)
    result(tmp_path / "empty", SLIDE, [])
    again = {"script": "import_annotations", "args": [str(tmp_path / "empty")]}
    first, second = imported(qupath, tmp_path / "full", again)
    assert (len(ids(first)), len(ids(second))) == (3, 0)
    assert second["error"] is None
    file = tmp_path / "foreign.geojson"
    file.write_text('{"type":"FeatureCollection","features":[]}')
    (third,) = imported(qupath, file)
    assert "no objects in it" in third["error"]


def test_a_foreign_file_is_checked_by_its_extent(qupath, tmp_path):
    good, bad = tmp_path / "good.geojson", tmp_path / "bad.geojson"
    for file, x in ((good, 10), (bad, 5000)):
        drawn = feature("annotation", square(x, 10), "Tumor", str(uuid.uuid4()))
        file.write_text(json.dumps({"features": [drawn], "type": "FeatureCollection"}))
    (first,) = imported(qupath, good)
    (second,) = imported(qupath, bad)
    assert (len(ids(first)), len(ids(second))) == (1, 0)
    assert "outside the image" in second["error"]


def test_objects_are_nested_where_it_is_quick(qupath, tmp_path):
    result(tmp_path, SLIDE, SHAPES)
    result(tmp_path, SLIDE, [square(50, 50, 1000)], stem="tissue", classes=[1])
    (first,) = imported(qupath, tmp_path, args=["kinds=annotations,tissue"])
    found = first["images"][0]["objects"]
    (tissue,) = [each["id"] for each in found if each["class"] == "Stroma"]
    assert {each["x"]: each["parent"] for each in found if each["class"] == "Tumor"} == {
        100: tissue, 400: tissue, 1000: None
    }  # fmt: skip
    many = [square(10 * i, 10, 5) for i in range(120)]
    result(tmp_path / "many", SLIDE, many)
    (flat,) = imported(qupath, tmp_path / "many")
    assert "Resolve hierarchy does it" in lines(flat, "done")[0]


@pytest.mark.parametrize(
    "name",
    [
        "a.b.c.svs",
        "Präparat Übersicht.svs",
        "case [1] (x=2).svs",
        "two  spaces & 'quotes'.ome.tif",
        "日本.svs",
    ],
)
def test_names_of_all_sorts(qupath, tmp_path, name):
    result(tmp_path, name, SHAPES)
    result(tmp_path, "a.b.svs", [square(0, 0)])
    decomposed = unicodedata.normalize("NFD", name)
    (first,) = imported(qupath, tmp_path, images=[image(decomposed, "/data/a b [c]")])
    assert len(ids(first)) == 3, first
    (renamed,) = imported(qupath, tmp_path, images=[image("shown as this", file=decomposed)])
    assert len(ids(renamed)) == 3, renamed


def test_slides_of_one_name_are_told_apart(qupath, tmp_path):
    for site in ("a", "b"):
        folder = result(
            tmp_path, SLIDE, [square(100 * ord(site) - 9000, 0)], folder=f"{site}/slide"
        )
        (folder / "run.json").write_text(json.dumps({"slide": {"path": f"/{site}/{SLIDE}"}}))
    for site in ("a", "b"):
        (first,) = imported(qupath, tmp_path, images=[image(SLIDE, f"/{site}")])
        (found,) = first["images"][0]["objects"]
        assert found["x"] == 100 * ord(site) - 9000
    (lost,) = imported(qupath, tmp_path, images=[image(SLIDE, "/c")])
    assert "2 results fit" in lost["error"]


def test_a_renamed_slide_needs_a_word(qupath, tmp_path):
    folder = result(tmp_path, SLIDE, SHAPES)
    images = [image("copy of it.svs")]
    (first,) = imported(qupath, folder, images=images)
    assert "set renamed = 'yes'" in first["error"]
    (second,) = imported(qupath, folder, images=images, args=["renamed=yes"])
    assert len(ids(second)) == 3
    assert "note that it is the result of slide.svs" in lines(second, "done")[0]


def test_a_project_of_three_images(qupath, tmp_path):
    for name in ("a.svs", "b.svs", "gone.svs"):
        result(tmp_path / "wsiseg", name, SHAPES)
    images = [
        image("a.svs"),
        image("b.svs", width=10),
        image("c.svs"),
        image("gone.svs", gone=True),
    ]
    run = {"script": "import_annotations", "args": ["images=project"]}
    (outcome,) = qupath.run({"images": images, "open": 0, "folder": str(tmp_path), "steps": [run]})
    assert [len(ids(outcome, number)) for number in range(4)] == [3, 0, 0, 0]
    assert [each["saves"] for each in outcome["images"]] == [0, 0, 0, 0]
    assert [each["closed"] for each in outcome["images"]] == [0, 1, 0, 0]
    assert lines(outcome, "done") == [
        "  done    a.svs: annotations: 3 added; it is open: save it with Ctrl+S"
    ]
    assert len(lines(outcome, "NONE")) == 1
    failed = lines(outcome, "FAILED")
    assert ["b.svs" in failed[0], "gone.svs" in failed[1], len(failed)] == [True, True, 2]
    assert outcome["error"].startswith("2 failed: b.svs")
    (closed,) = qupath.run(
        {"images": images[:1], "open": None, "folder": str(tmp_path), "steps": [run]}
    )
    assert [closed["images"][0][key] for key in ("saves", "closed")] == [1, 1]


def test_heatmaps_are_not_searched(qupath, tmp_path):
    folder = result(tmp_path, SLIDE, SHAPES)
    inside = folder / "heatmap.zarr" / "0"
    inside.mkdir(parents=True)
    shutil.copy(folder / "annotations.geojson", inside)
    (first,) = imported(qupath, tmp_path)
    assert len(ids(first)) == 3


@pytest.mark.parametrize(
    ("world", "args", "message"),
    [
        ({"open": None}, ["/nowhere"], "no such file or folder"),
        ({}, ["images=project"], "results = '/folder"),
        ({}, ["colour=red"], "unknown setting 'colour'"),
    ],
)
def test_wrong_use_is_told(qupath, tmp_path, world, args, message):
    run = {"script": "import_annotations", "args": args}
    (outcome,) = qupath.run(
        {"images": [image(SLIDE)], "open": 0, "folder": None, **world, "steps": [run]}
    )
    assert message in outcome["error"]


def test_shapes_with_holes_keep_their_area(qupath, tmp_path):
    ring = square(100, 100, 400).difference(square(200, 200))
    result(tmp_path, SLIDE, [ring, shapely.box(0, 0, 10, 10)])
    (first,) = imported(qupath, tmp_path)
    assert sorted(each["area"] for each in first["images"][0]["objects"]) == [100, ring.area]


@pytest.mark.parametrize("how", [{}, {"move": [30, 0]}], ids=["as it was", "moved"])
def test_objects_exported_as_something_else_become_that(qupath, tmp_path, how):
    result(tmp_path / "annotations", SLIDE, SHAPES)
    folder = result(tmp_path / "cells", SLIDE, SHAPES, kind="cell")
    written = json.loads((folder / "annotations.geojson").read_text())["features"]
    edit = {"image": 0, "id": written[0]["id"], **how}
    again = {"script": "import_annotations", "args": [str(tmp_path / "cells")]}
    _, second = imported(qupath, tmp_path / "annotations", edit, again)
    kinds = {each["id"]: each["kind"] for each in second["images"][0]["objects"]}
    assert kinds.pop(written[0]["id"]) == ("annotation" if how else "cell")
    assert list(kinds.values()) == ["cell", "cell"]


def nested(out, shapes, *, tissue, **options):
    """Write a result whose objects are children of pieces of tissue, as an export can do."""
    told = {key: options.pop(key) for key in ("frame", "limits") if key in options}
    pieces = annotations(SLIDE, tissue, classes=[1] * len(tissue), **options)
    found = annotations(SLIDE, shapes, **options)
    extra = {"model": "breast-tumour-demo 1.0.0"}
    write_annotations(out / "slide", found, parents=pieces, extra=extra, **told)
    return out


def families(outcome):
    """Return the parent's x of each object (None: no parent) by its own x."""
    found = {each["id"]: each for each in outcome["images"][0]["objects"]}
    return {each["x"]: each["parent"] and found[each["parent"]]["x"] for each in found.values()}


TISSUE = [square(50, 50, 800), square(950, 1950, 260)]


def test_nested_objects_come_with_their_parents_and_once(every_qupath, tmp_path):
    nested(tmp_path, SHAPES, tissue=TISSUE)
    first, second = imported(every_qupath, tmp_path, None, args=["hierarchy=no"])
    assert families(first) == {50: None, 950: None, 100: 50, 400: 50, 1000: 950}
    assert families(second) == families(first)
    assert "0 added, 5 were there" in lines(second, "done")[0]


def test_what_changed_among_nested_objects_is_seen(qupath, tmp_path):
    nested(tmp_path / "old", SHAPES, tissue=TISSUE)
    nested(tmp_path / "new", [SHAPES[0], square(600, 600)], tissue=TISSUE, probability=0.5)
    new = {"script": "import_annotations", "args": [str(tmp_path / "new"), "hierarchy=no"]}
    _, second = imported(qupath, tmp_path / "old", new, args=["hierarchy=no"])
    assert families(second) == {50: None, 950: None, 100: 50, 600: 50}
    (kept,) = [each for each in second["images"][0]["objects"] if each["x"] == 100]
    assert kept["measurements"]["wsiseg: Mean probability"] == 0.5
    assert "1 added, 3 were there, 2 of an earlier result removed" in lines(second, "done")[0]


def test_objects_come_though_their_tissue_is_there(qupath, tmp_path):
    nested(tmp_path / "objects", SHAPES, tissue=TISSUE)
    drawn = json.loads((tmp_path / "objects" / "slide" / "annotations.geojson").read_text())
    pieces = [f | {"properties": {"objectType": "annotation"}} for f in drawn["features"]]
    images = [image(SLIDE, objects=pieces)]
    (first,) = imported(qupath, tmp_path / "objects", images=images, args=["hierarchy=no"])
    assert {each["x"] for each in first["images"][0]["objects"]} == {50, 950, 100, 400, 1000}


@pytest.mark.parametrize("frame", ["qupath", "level0"])
def test_nested_objects_move_with_the_frame(qupath, tmp_path, frame):
    nested(
        tmp_path, [square(1000, 1000)], tissue=[square(900, 900, 400)], size=(4000, 3000),
        vendor="mirax", bounds=BOUNDS, frame=frame,
    )  # fmt: skip
    path = "OpenslideImageServer: file:/c.mrxs[x=200,y=300,w=2000,h=2000]"
    for told, corner in (
        ({"width": 2000, "height": 2000, "path": path}, 200),
        ({"width": 4000, "height": 3000}, 0),
    ):
        images = [image(SLIDE, **told)]
        (first,) = imported(qupath, tmp_path, images=images, args=["hierarchy=no"])
        assert families(first) == {900 - corner: None, 1000 - corner: 900 - corner}


def test_nested_objects_count_in_parts(qupath, tmp_path):
    nested(tmp_path, SHAPES, tissue=TISSUE, limits=(3, 10**9))
    assert (tmp_path / "slide" / "annotations.index.json").exists()
    (first,) = imported(qupath, tmp_path)
    assert len(ids(first)) == 5, first
