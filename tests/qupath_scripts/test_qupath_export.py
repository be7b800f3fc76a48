"""`export_annotations.groovy`: what was drawn becomes a data set that wsiseg trains on as it is."""

import json
import shutil
import uuid
from pathlib import Path

import numpy as np
import pytest
import shapely
from worlds import feature, image, square

import wsiseg
from wsiseg.train.dataset import read_dataset

BUNDLED = Path(wsiseg.__file__).parent / "bundled" / "slides"


def drawn(x, y, name="Tumor", side=100, kind="annotation", id=None):
    return feature(kind, square(x, y, side), name, id or str(uuid.uuid4()))


@pytest.fixture
def slides(tmp_path):
    """Copies of a real slide under difficult names; what each is."""
    (real,) = BUNDLED.glob("OS-1-detail*")
    folder = tmp_path / "Schnitte [neu] é"
    folder.mkdir()
    with wsiseg.open(real) as slide:
        height, width = slide.shape[:2]
        mpp = list(reversed(slide.spacing.um))
    made = []
    for number, name in enumerate(["a.b.c", "Übersicht", "case (3) [x]"]):
        file = folder / f"{name}{real.suffix}"
        file.write_bytes(real.read_bytes() + bytes([number]))  # another slide by its hash
        told = {"width": width, "height": height, "mpp": mpp}
        made.append(image(file.name, str(folder), **told))
    return made


def export(qupath, out, images, *steps, args=(), open=0):
    run = {"script": "export_annotations", "args": [str(out), *args]}
    world = {"images": images, "open": open, "folder": str(out.parent)}
    return qupath.run({**world, "steps": [run, *(step or run for step in steps)]})


def everywhere(*args):
    return ["images=project", *args]


def test_a_project_becomes_a_data_set(qupath, tmp_path, slides):
    for number, each in enumerate(slides):
        each["objects"] = [drawn(10, 20), drawn(200, 20, "Stroma"), drawn(0, 0, "Ignore*", 30)]
        each["metadata"] = {"Patient ID": f"p{number // 2}", "Grade": 'II "b"'}
    slides[1]["objects"] += [drawn(5, 5, "Region*", 600)]
    slides[0]["objects"] += [
        drawn(0, 0, None),
        drawn(0, 0, "Tumor", kind="detection"),
        feature("annotation", shapely.Point(3, 3), "Tumor", str(uuid.uuid4())),
    ]
    out = tmp_path / "training"
    (outcome,) = export(qupath, out, slides, args=everywhere())
    assert outcome["error"] is None, outcome
    assert "left out: 1 without a class, 1 lines and points" in outcome["lines"][1]
    assert "taken as annotated throughout" in outcome["lines"][1]
    dataset = read_dataset(out / "dataset.toml")
    assert dataset.classes == ("background", "Stroma", "Tumor")
    assert (dataset.rules.ignore, dataset.rules.within) == (("Ignore*",), ("Region*",))
    assert [entry.patient for entry in dataset.slides] == ["p0", "p0", "p1"]
    assert {entry.columns["grade"] for entry in dataset.slides} == {'II "b"'}
    assert [entry.slide.name for entry in dataset.slides] == [each["name"] for each in slides]
    whole, region, _ = dataset.slides
    for entry, inside in ((whole, True), (region, False)):
        with entry.open() as slide:
            labels = dataset.open_labels(entry, slide).at(slide.levels[0])
            values = labels.read(wsiseg.Box((0, 0), slide.shape[:2]))
        assert values[70, 60] == 2
        assert values[70, 250] == 1
        assert values[10, 10] == 255
        assert values[-1, -1] == (0 if inside else 255)
        assert np.count_nonzero(values == 2) == 100 * 100 - 20 * 10  # Ignore* covers a corner


def test_an_export_once_more_keeps_what_was_written_by_hand(qupath, tmp_path, slides):
    out = tmp_path / "training"
    table = out / "dataset.toml"
    slides = slides[:2]
    slides[0]["objects"] = [drawn(10, 10)]
    slides[1]["objects"] = [drawn(10, 10, "Tumour, invasive"), drawn(50, 50, "Fat")]
    export(qupath, out, slides, args=everywhere())
    text = table.read_text(encoding="utf-8")
    text = text.replace('split = "train"', 'split = "val"\n# looked at twice\ncentre = "B"', 1)
    text = text.replace('"Fat", ', "").replace('"Tumour, invasive"', "'Invasive'")
    text = text.replace("[labels]", '[labels]\nmapping = {"Tumour, invasive" = "Tumor"}')
    text = text.replace("ignore = []", 'ignore = ["Fat"]  # nobody needs it')
    table.write_text(text, encoding="utf-8")
    slides[0]["objects"] = [drawn(10, 10), drawn(300, 300, "New")]
    (outcome,) = export(qupath, out, slides, args=everywhere())
    assert outcome["error"] is None, outcome
    dataset = read_dataset(table)
    assert dataset.classes == ("background", "Tumor", "Invasive", "New")
    assert dataset.rules.mapping == {"Tumour, invasive": "Tumor"}
    assert dataset.rules.ignore == ("Fat",)
    assert [entry.split for entry in dataset.slides] == ["val", "train"]
    assert dataset.slides[0].columns == {"centre": "B"}
    assert "# looked at twice" in table.read_text(encoding="utf-8")
    assert "# nobody needs it" in table.read_text(encoding="utf-8")


def test_images_one_by_one_make_the_same_data_set(qupath, tmp_path, slides):
    for each in slides:
        each["objects"] = [drawn(10, 10, id="00000000-0000-4000-8000-000000000001")]
    together, single = tmp_path / "together", tmp_path / "single"
    export(qupath, together, slides, args=everywhere())
    export(qupath, single, slides, {"open": 1}, None, {"open": 2}, None, {"open": 0}, None)
    first, second = ((out / "dataset.toml").read_text() for out in (together, single))
    assert first == second
    names = sorted(path.name for path in (single / "labels").iterdir())
    assert names == sorted(f"{Path(each['name']).stem}.geojson" for each in slides)


def test_patients_are_split_by_chance_that_stays(qupath, tmp_path, slides):
    images = []
    for number in range(30):
        each = image(f"s{number}.svs", str(tmp_path / "s"))
        each["objects"] = [drawn(10, 10)]
        each["metadata"] = {"case": f"patient {number // 2}"}
        images.append(each)
    (tmp_path / "s").mkdir()
    for each in images:
        (tmp_path / "s" / each["name"]).write_text(each["name"])
    out = tmp_path / "training"
    args = everywhere("validation=0.3", "test=0.2")
    export(qupath, out, images, args=args)
    dataset = read_dataset(out / "dataset.toml")
    splits = [entry.split for entry in dataset.slides]
    assert all(splits.count(split) >= 2 for split in ("train", "val", "test"))
    by_patient = {entry.patient: entry.split for entry in dataset.slides}
    assert [by_patient[entry.patient] for entry in dataset.slides] == splits
    shutil.rmtree(out)
    images[0]["metadata"]["Split"] = "Validation"
    images[1]["metadata"]["split"] = "val"
    export(qupath, out, images, args=args)
    again = [entry.split for entry in read_dataset(out / "dataset.toml").slides]
    assert again[2:] == splits[2:]
    assert again[:2] == ["val", "val"]


def test_an_image_without_annotations_goes(qupath, tmp_path, slides):
    out = tmp_path / "training"
    for each in slides:
        each["objects"] = [drawn(10, 10)]
    export(qupath, out, slides, args=everywhere())
    slides[1]["objects"] = [drawn(10, 10, "Ignore*")]
    (outcome,) = export(qupath, out, slides, args=everywhere())
    assert "draw one outline of class background" in str(outcome["lines"])
    assert len(read_dataset(out / "dataset.toml").slides) == 2
    assert len(list((out / "labels").iterdir())) == 2


def test_a_drawn_background_is_no_second_class(qupath, tmp_path, slides):
    slides[0]["objects"] = [drawn(10, 10, "background")]
    slides[1]["objects"] = [drawn(10, 10, "Tumor: invasive")]
    out = tmp_path / "training"
    export(qupath, out, slides[:2], args=everywhere())
    dataset = read_dataset(out / "dataset.toml")
    assert dataset.classes == ("background", "Tumor: invasive")
    with dataset.slides[1].open() as slide:
        labels = dataset.open_labels(dataset.slides[1], slide)
        assert labels.areas()["Tumor: invasive"] > 0


def test_labels_of_another_image_of_the_file_are_refused_in_training(qupath, tmp_path, slides):
    slides[0] |= {"objects": [drawn(10, 10)], "width": 77}
    slides[1]["objects"] = [drawn(10, 10)]
    out = tmp_path / "training"
    export(qupath, out, slides[:2], args=everywhere())
    dataset = read_dataset(out / "dataset.toml")
    with dataset.slides[0].open() as slide, pytest.raises(wsiseg.WsisegError, match="77 x"):
        dataset.open_labels(dataset.slides[0], slide)


def test_a_part_of_a_slide_is_written_in_pixels_of_the_whole(qupath, tmp_path, slides):
    path = "OpenslideImageServer: file:/x.mrxs[x=200,y=300,w=2000,h=2000]"
    slides[0] |= {"objects": [drawn(10, 20)], "path": path}
    out = tmp_path / "training"
    export(qupath, out, slides[:1])
    (file,) = (out / "labels").iterdir()
    written = json.loads(file.read_text(encoding="utf-8"))
    assert written["wsiseg"]["frame"] == "level0"
    assert written["features"][0]["geometry"]["coordinates"][0][0] == [310, 320]


@pytest.mark.parametrize(
    ("told", "args", "message"),
    [
        ({"uri": "https://server/slide/1"}, [], "is no file of this machine"),
        ({"type": "OpenSlide (Flip BOTH)"}, [], "rotated, flipped or cropped"),
        ({"metadata": {"split": "later"}}, [], "needed train, val or test"),
        ({}, ["validation=0.7", "test=0.3"], "leave something to train on"),
    ],
)
def test_what_cannot_be_learned_from_is_told(qupath, tmp_path, slides, told, args, message):
    slides[0] |= {"objects": [drawn(10, 10)], **told}
    (outcome,) = export(qupath, tmp_path / "training", slides[:1], args=args)
    assert message in outcome["error"]
    assert not (tmp_path / "training" / "dataset.toml").exists()


def test_two_images_of_a_file_or_a_name_are_told_apart(qupath, tmp_path, slides):
    twice = [
        slides[0] | {"objects": [drawn(10, 10)]},
        slides[0] | {"objects": [drawn(10, 10)], "name": "series 2"},
        slides[1] | {"objects": [drawn(10, 10)], "name": slides[0]["name"]},
    ]
    (outcome,) = export(qupath, tmp_path / "training", twice, args=everywhere())
    assert "a file is one slide in training" in str(outcome["lines"])
    assert "rename one of the images" in str(outcome["lines"])
    assert len(read_dataset(tmp_path / "training" / "dataset.toml").slides) == 1


ENTRY = 'slide = "a.svs"\nlabels = "a.geojson"\nsplit = "train"\n'
INLINE = "slides = [{" + ENTRY.strip().replace("\n", ", ") + "}]\n"


@pytest.mark.parametrize(
    "text",
    ['classes = ["a", "b"]\n' + INLINE, "[[slides]]\n" + ENTRY + "mpp = [\n  0.5,\n  0.5,\n]\n"],
    ids=["inline", "several lines"],
)
def test_a_table_it_cannot_continue_stays(qupath, tmp_path, slides, text):
    out = tmp_path / "training"
    out.mkdir()
    (out / "dataset.toml").write_text(text)
    slides[0]["objects"] = [drawn(10, 10)]
    (outcome,) = export(qupath, out, slides[:1])
    assert "cannot continue" in outcome["error"]
    assert (out / "dataset.toml").read_text() == text
