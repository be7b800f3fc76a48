"""Tables, summary and page of many slides."""

import csv
import json
import math
import re

import numpy as np
import pytest
from PIL import Image
from random_masks import label_pair

from wsiseg.errors import RunError, UsageError
from wsiseg.evaluate import (
    Case,
    EvaluationOptions,
    Masks,
    PointSet,
    bootstrap,
    evaluate,
)
from wsiseg.evaluate.case import Pair
from wsiseg.evaluate.evaluation import ALL_CLASSES, Evaluator
from wsiseg.geometry import Spacing

CLASSES = ("background", "Tumor", "Fat & <stroma>")
OPTIONS = EvaluationOptions(tolerance_um=2, resamples=100, pictures=2)


def case(name, seed, *, better=0.0, probabilities=False, slide=False, **columns):
    prediction, reference = label_pair(seed, classes=3, shape=(90, 120))
    prediction = np.where(np.arange(120) < better * 120, reference, prediction)
    chances = np.eye(3, dtype=np.float32)[prediction] * 0.7 + 0.1
    masks = Masks(
        shape=reference.shape,
        spacing=Spacing((1.0, 1.0)),
        prediction=lambda box: prediction[box.slices()],
        reference=lambda box: reference[box.slices()],
        probabilities=(lambda box: chances[box.slices()]) if probabilities else None,
    )
    thumbnail = (lambda size: np.full((9, 12, 3), 200, np.uint8)) if slide else None
    return Case(name=name, masks=masks, columns=columns, thumbnail=thumbnail)


@pytest.fixture(scope="module")
def evaluation():
    options = EvaluationOptions(
        tolerance_um=2, resamples=100, pictures=2, strata=("grade",), group_by="patient"
    )
    cases = (
        case(
            f"slide {i}",
            i,
            better=0.2 * i,
            probabilities=True,
            slide=True,
            patient=f"p{i // 2}",
            grade=str(1 + i % 2),
        )
        for i in range(4)
    )
    return evaluate(cases, CLASSES, options=options)


def test_the_summary_is_the_mean_over_slides_with_its_interval(evaluation):
    rows = {(r.stratum, r.class_name, r.figure): r for r in evaluation.summary}
    values = [slide.classes[0].overlap.dice for slide in evaluation.slides]
    row = rows["", "Tumor", "dice"]
    expected = bootstrap(values, groups=["p0", "p0", "p1", "p1"], resamples=100)
    assert row.interval == expected
    assert (row.interval.count, row.interval.groups) == (4, 2)
    total = sum(slide.confusion.counts for slide in evaluation.slides)
    hit = total[1, 1]
    assert row.pooled == pytest.approx(2 * hit / (total[1].sum() + total[:, 1].sum()))
    assert rows["2", "Tumor", "dice"].interval.value == pytest.approx((values[1] + values[3]) / 2)
    assert ("", ALL_CLASSES, "reference_um2") not in rows  # a mean of areas of classes says nothing
    both = [slide.mean()["iou"] for slide in evaluation.slides]
    assert rows["", ALL_CLASSES, "iou"].interval.value == pytest.approx(np.mean(both))


def test_empty_classes_are_counted_and_not_averaged():
    none = np.zeros((20, 20), np.uint8)
    some = none.copy()
    some[5:9, 5:9] = 1

    def made(name, prediction, reference):
        masks = Masks(
            shape=(20, 20),
            spacing=Spacing((1, 1)),
            prediction=lambda box: prediction[box.slices()],
            reference=lambda box: reference[box.slices()],
        )
        return Case(name=name, masks=masks)

    cases = [made("right", some, some), made("nothing", none, none), made("missed", none, some)]
    result = evaluate(cases, CLASSES[:2], options=OPTIONS)
    rows = {row.figure: row for row in result.summary}
    assert rows["dice"].interval.value == 0.5
    assert (rows["dice"].undefined, rows["dice"].infinite) == (1, 0)
    assert (rows["hd95_um"].undefined, rows["hd95_um"].infinite) == (1, 1)
    assert rows["hd95_um"].interval.value == 0
    assert rows["hd95_um"].median == math.inf
    assert [slide.name for slide in result.worst()] == ["missed", "right", "nothing"]
    assert [picture.name for picture in result.pictures] == ["missed", "right"]


def rows_of(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_the_files_say_the_same(evaluation, tmp_path):
    folder = evaluation.write(tmp_path / "new" / "folder")
    names = {"evaluation.csv", "summary.csv", "evaluation.json", "evaluation.html"}
    assert {path.name for path in folder.iterdir()} == names
    table = rows_of(folder / "evaluation.csv")
    assert len(table) == 8
    assert (table[0]["slide"], table[0]["patient"], table[0]["class"]) == ("slide 0", "p0", "Tumor")
    first = evaluation.slides[0].classes[0].figures()
    assert float(table[0]["hd95_um"]) == pytest.approx(first["hd95_um"], rel=1e-5)
    assert len(rows_of(folder / "summary.csv")) == len(evaluation.summary)
    told = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert told["slides"][0]["classes"]["Tumor"]["dice"] == pytest.approx(first["dice"])
    assert told["slides"][0]["confusion"] == evaluation.slides[0].confusion.counts.tolist()
    assert told["calibration"]["ece"] == pytest.approx(evaluation.calibration().ece)
    assert len(told["calibration"]["bins"]) == 50


def test_the_page_holds_everything_and_asks_for_nothing(evaluation, tmp_path):
    whole = (evaluation.write(tmp_path) / "evaluation.html").read_text(encoding="utf-8")
    page, images = re.subn(r"data:image/png;base64,[A-Za-z0-9+/=]+", "PICTURE", whole)
    assert images == 2 + 2  # dots, reliability, and two slides without a detail
    assert "Fat &amp; &lt;stroma&gt;" in page
    assert "<stroma>" not in page
    assert set(re.findall(r'(?:src|href)="([^"]*)', page)) == {"PICTURE"}
    assert "http" not in page
    assert not re.search(r"\b(nan|inf|None)\b", page)
    for text in ("By grade", "Calibration", "The worst slides", "slide 0", "confidence interval"):
        assert text in page


def test_the_worst_slides_are_drawn(evaluation, tmp_path):
    assert [picture.name for picture in evaluation.pictures] == [
        slide.name for slide in evaluation.worst()[:2]
    ]
    path = tmp_path / "a.png"
    path.write_bytes(evaluation.pictures[0].whole)
    pixels = np.asarray(Image.open(path))
    colors = {tuple(color) for color in pixels.reshape(-1, 3)}
    assert {(213, 94, 0), (0, 114, 178)} <= colors
    assert all(slide.sketch is None for slide in evaluation.slides)


def test_a_large_slide_has_its_worst_place_pictured():
    reference = np.zeros((1300, 1700), np.uint8)
    reference[300:500, 300:500] = 1
    prediction = reference.copy()
    prediction[1024:1200, 1280:1400] = 1
    masks = Masks(
        shape=reference.shape,
        spacing=Spacing((1.0, 1.0)),
        prediction=lambda box: prediction[box.slices()],
        reference=lambda box: reference[box.slices()],
        pixels=lambda box: np.full((*box.shape, 3), 90, np.uint8),
    )
    result = evaluate([Case(name="a", masks=masks)], CLASSES[:2], options=OPTIONS)
    assert result.pictures[0].detail is not None
    row = {row.figure: row for row in result.summary}["dice"]
    assert math.isnan(row.interval.low)  # one slide says nothing about others


def test_points_are_pooled():
    def made(name, count):
        places = np.arange(count)[:, None] * [100.0, 0.0]
        points = PointSet(places, np.ones(count, int))
        return Case(name=name, points=Pair(points, PointSet(places[:4], np.ones(4, int))))

    result = evaluate([made("a", 4), made("b", 8)], CLASSES[:2], options=OPTIONS)
    scores = result.points()["patherea"]["Tumor"]
    assert scores.f1 == pytest.approx(16 / 20)
    row = {row.figure: row for row in result.summary}["points_patherea_f1"]
    assert row.pooled == pytest.approx(16 / 20)
    assert row.interval.value == pytest.approx((1 + 8 / 12) / 2)


def test_columns_that_are_called_like_figures_are_kept_apart():
    result = evaluate([case("a", 0, slide_name="x", dice="six")], CLASSES, options=OPTIONS)
    row = result.table()[0]
    assert (row["slide_name"], row["dice (given)"]) == ("x", "six")
    assert 0 < row["dice"] < 1


def test_names_are_never_formulas(tmp_path):
    result = evaluate([case("=1+1", 0)], CLASSES, options=OPTIONS)
    text = (result.write(tmp_path) / "evaluation.csv").read_text(encoding="utf-8")
    assert "\n'=1+1," in text


def test_one_that_fails_does_not_stop_the_others(tmp_path):
    options = EvaluationOptions(strata=("grade",), resamples=10, pictures=0)
    evaluator = Evaluator(CLASSES, options=options)
    with pytest.raises(UsageError, match="a: no column 'grade'"):
        evaluator.add(case("a", 0))
    evaluator.add(case("b", 0, grade="1"))
    with pytest.raises(UsageError, match="b: evaluated already"):
        evaluator.add(case("b", 1, grade="1"))
    result = evaluator.finish()
    assert [slide.name for slide in result.slides] == ["b"]
    assert result.pictures == ()
    with pytest.raises(UsageError, match="no slide was evaluated"):
        evaluate([], CLASSES)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="cannot be written"):
        result.write(tmp_path / "file")
