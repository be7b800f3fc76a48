"""Data set files: what is read, what is refused, and what the digest tells apart."""

import os
import shutil

import pytest
from small_training import slide_entry, write_dataset, write_slide

from wsiseg.errors import AnnotationError, TrainingError
from wsiseg.train.dataset import read_dataset

CLASSES = ["background", "Tumor"]


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate("abc"):
        write_slide(tmp_path, name, seed=seed, shape=(40, 50))
    return tmp_path


def read(folder, *entries, head=""):
    return read_dataset(write_dataset(folder, *entries, head=head))


def write_csv(folder, *lines):
    path = folder / "dataset.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_toml_says_everything(folder):
    head = '[labels]\nmapping = {T = "Tumor"}\nignore = ["Art"]\nwithin = ["Region*"]\n'
    dataset = read(
        folder,
        slide_entry("a", "train", patient="p", grade=2),
        slide_entry("b", "val", patient=0, mpp=[0.5, 0.25]),
        head=head,
    )
    first, second = dataset.slides
    assert dataset.classes == ("background", "Tumor")
    assert first.slide == folder / "a.png"
    assert (first.patient, first.split, first.mpp) == ("p", "train", 1.0)
    assert first.columns == {"grade": "2"}
    assert (second.patient, second.mpp) == ("0", (0.5, 0.25))
    assert dataset.rules.mapping == {"T": "Tumor"}
    assert dataset.rules.ignore == ("Art",)
    assert dataset.rules.within == ("Region*",)
    assert dataset.of("val") == (second,)


def test_csv_with_columns_quotes_and_spaces(folder):
    path = write_csv(
        folder,
        "slide, labels, split, patient, mpp, centre",
        'a.png, a.mask.png, train, , 0.25, "one, two"',
        "",
        'b.png, b.mask.png, test, q, "0.25,0.5", three',
    )
    dataset = read_dataset(path, classes=CLASSES, labels={"mapping": {"1": "Tumor"}})
    first, second = dataset.slides
    assert (first.patient, first.mpp, first.columns) == ("a", 0.25, {"centre": "one, two"})
    assert (second.patient, second.mpp, second.split) == ("q", (0.25, 0.5), "test")
    assert dataset.rules.mapping == {"1": "Tumor"}
    assert dataset.classes == ("background", "Tumor")


def test_a_csv_row_of_other_length_is_refused(folder):
    path = write_csv(folder, "slide,labels,split,mpp", "a.png,a.mask.png,train,0.25,0.5")
    with pytest.raises(TrainingError, match="line 2 has 5 cells; needed 4"):
        read_dataset(path, classes=CLASSES)


def test_a_patient_in_two_splits_is_refused(folder):
    with pytest.raises(TrainingError, match=r"patient p is in train \(a.png\) and in val \(b.png"):
        read(folder, slide_entry("a", "train", patient="p"), slide_entry("b", "val", patient="p"))


def test_the_same_pixels_under_another_name_are_refused(folder):
    shutil.copy(folder / "a.png", folder / "b.png")
    with pytest.raises(TrainingError, match=r"a\.png and b\.png, the same pixels, is in train"):
        read(folder, slide_entry("a", "train"), slide_entry("b", "test"))


def test_the_same_pixels_of_two_patients_are_refused(folder):
    """A fold without one of them would still have seen the tissue."""
    shutil.copy(folder / "a.png", folder / "b.png")
    with pytest.raises(TrainingError, match="of patients a and b"):
        read(folder, slide_entry("a", "train"), slide_entry("b", "train"))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("slides = []", "names no slide"),
        ("classes = ", "is no TOML"),
        ('colour = "x"', "unknown colour"),
        ("[labels]\nmaping = {}", r"unknown labels\.maping"),
        ('[labels]\nignore = "Art"', "ignore: needed a list of names, found 'Art'"),
        ('[labels]\nallow_empty = "yes"', "allow_empty: needed true or false, found 'yes'"),
        (
            'classes = ["a", "b"]\n[labels]\nmapping = {T = "c"}\n' + slide_entry("a", "train"),
            r"dataset\.toml: labels: mapping: names become \['c'\], needed classes among",
        ),
        (
            '[labels]\nignore = ["T"]\nwithin = ["T"]\n' + slide_entry("a", "train"),
            r"dataset\.toml: labels: ignore: \['T'\] cannot be ignored and",
        ),
        (
            '[labels]\npriority = ["Tumor"]\n' + slide_entry("a", "train"),
            "priority: needed each class once, lowest first, found",
        ),
        ('[labels]\nmapping = ["a"]', "needed a table with a table mapping"),
        ('classes = "ab"', "classes: needed a list"),
        ('slides = "a.svs"', r"needed a table \[\[slides\]\]"),
        ('[[slides]]\nslide = "a.png"\nsplit = "train"', "slide 1: labels missing"),
        (slide_entry("a", "training"), "split 'training'; needed one of train, val, test"),
        (slide_entry("a", "train", mpp=0), "mpp 0; needed µm per pixel"),
        (slide_entry("a", "train", mpp="nan"), "mpp 'nan'"),
        (slide_entry("a", "train", mpp=[1, 2, 3]), "mpp"),
        (slide_entry("a", "train", mpp="x"), "mpp 'x'"),
        (slide_entry("z", "train"), r"z\.png is not there"),
        (slide_entry("a", "train", labels="z.geojson"), r"z\.geojson is not there"),
        ('classes = ["one"]\n' + slide_entry("a", "train"), "two classes or more"),
        ('classes = ["one", "one"]\n' + slide_entry("a", "train"), "all different"),
    ],
)
def test_what_is_wrong_is_named(folder, text, match):
    path = folder / "dataset.toml"
    path.write_text(text)
    with pytest.raises(TrainingError, match=match):
        read_dataset(path, classes=CLASSES)


def test_label_rules_twice_are_refused(folder):
    path = write_dataset(folder, slide_entry("a", "train"), head="[labels]\n")
    with pytest.raises(TrainingError, match="needed them once"):
        read_dataset(path, labels={})


def test_labels_without_outlines_count_where_that_is_said(folder):
    (folder / "a.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    entry = slide_entry("a", "train", labels="a.geojson")
    plain = read(folder, entry)
    with (
        plain.slides[0].open() as slide,
        pytest.raises(AnnotationError, match=r"a\.geojson.*allow_empty = true in \[labels\]"),
    ):
        plain.open_labels(plain.slides[0], slide)
    allowed = read(folder, entry, head="[labels]\nallow_empty = true\n")
    assert allowed.digest != plain.digest
    with allowed.slides[0].open() as slide:
        areas = allowed.open_labels(allowed.slides[0], slide).areas()
    assert areas == {"background": 40 * 50, "Tumor": 0}


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(TrainingError, match="cannot be read"):
        read_dataset(tmp_path / "none.toml")


def test_the_digest_is_of_content_alone(folder):
    before = read(folder, slide_entry("a", "train", patient="p"), slide_entry("b", "val")).digest
    other = folder / "elsewhere"
    other.mkdir()
    for name, new in (("a", "x"), ("b", "y")):
        for kind in (".png", ".mask.png"):
            shutil.copy(folder / f"{name}{kind}", other / f"{new}{kind}")
            os.utime(other / f"{new}{kind}", (1, 1))
    entries = (slide_entry("y", "val", patient="b"), slide_entry("x", "train", patient="p"))
    assert read(other, *entries).digest == before


def test_the_digest_changes_with_whatever_is_learned_from(folder):
    base = [slide_entry("a", "train"), slide_entry("b", "val")]
    rules = '[labels]\nmapping = {"1" = "Tumor"}\n'
    seen = {
        read(folder, *base).digest,
        read(folder, base[0]).digest,
        read(folder, *base, slide_entry("c", "train")).digest,
        read(folder, base[0], slide_entry("b", "test")).digest,
        read(folder, base[0], slide_entry("b", "val", patient="q")).digest,
        read(folder, base[0], slide_entry("b", "val", mpp=0.5)).digest,
        read(folder, base[0], slide_entry("b", "val", grade=1)).digest,
        read(folder, base[0], slide_entry("b", "val", labels="a.mask.png")).digest,
        read(folder, *base, head=rules).digest,
        read(folder, *base, head='[labels]\nignore = ["2"]\n').digest,
    }
    assert len(seen) == 10


def test_one_byte_within_large_labels_changes_the_digest(folder):
    """Fingerprints sample files: a vertex moved in a large GeoJSON lies between the samples."""
    labels = folder / "large.geojson"
    content = bytearray(b" " * (9 << 20))
    labels.write_bytes(content)
    entry = slide_entry("a", "train", labels=labels.name)
    before = read(folder, entry).digest
    content[100_000] = ord("1")
    labels.write_bytes(content)
    assert read(folder, entry).digest != before
