"""The pages made of finished results: figures right, nothing fetched, nothing believed."""

import csv
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from typer.testing import CliRunner
from wsiseg_cli.main import app

import wsiseg
from wsiseg.draw import save_png
from wsiseg.errors import IncompleteSlideWarning, RunError
from wsiseg.options import DamageOptions, ExportOptions, SegmentOptions, UncertaintyOptions
from wsiseg.testing import hostile
from wsiseg.testing.models import make_colour_model
from wsiseg.testing.slides import make_svs, tissue_disc
from wsiseg.view.report import write_reports
from wsiseg.view.report.finished import FinishedSlide
from wsiseg.view.report.markup import bar, duration, number
from wsiseg.view.report.run import run_page

EVIL = "<script>alert('1')&\"#%"


class Page(HTMLParser):
    """Collects what a browser would fetch, and the rows of tables as text."""

    def __init__(self, text):
        super().__init__()
        self.fetched, self.links, self.rows, self.tags = [], [], [], []
        self._cell = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        if "src" in found:
            self.fetched.append(found["src"])
        if "href" in found:
            self.links.append(found["href"])
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag):
        if tag in {"td", "th"}:
            self._cell = None

    def handle_data(self, data):
        if self._cell:
            self.rows[-1][-1] += data

    def row(self, name):
        return next(row for row in self.rows if row and row[0] == name)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """An output folder with a whole slide, a damaged one, and one that failed."""
    folder = tmp_path_factory.mktemp("reports")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSISEG_HOME", str(folder / "home"))
        model = wsiseg.load_model(make_colour_model(folder / "model"))
        pixels, _ = tissue_disc((700, 900), radius=250.0)
        whole = make_svs(folder / "whole.svs", pixels, levels=(1, 4), mpp=0.5)
        hurt = hostile.damage_tile(
            make_svs(folder / "intact.svs", pixels, levels=(1,), mpp=0.5),
            folder / "hurt.svs",
            tile=5,
        )
        sure = UncertaintyOptions(layers=("entropy",))
        result = wsiseg.segment(whole, model, options=SegmentOptions(uncertainty=sure))
        result.write(folder / "out")
        options = SegmentOptions(
            damage=DamageOptions(max_corrupt=1.0), export=ExportOptions(min_area_um2=7)
        )
        with pytest.warns(IncompleteSlideWarning):
            wsiseg.segment(hurt, model, options=options).write(folder / "out")
    with (folder / "out" / "failures.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "error_class", "message", "remedy"])
        table.writerow([f"/in/{EVIL}.svs", "SourceError", f"{EVIL} broke", "mend it"])
    return folder / "out"


@pytest.fixture(scope="module")
def pages(out):
    return {path.parent.name: path for path in write_reports(out)}


def read(path):
    return Page(path.read_text(encoding="utf-8"))


def test_each_slide_and_the_run_have_a_page(out, pages):
    assert set(pages) == {"whole", "hurt", "out"}
    assert {path.name for path in pages.values()} == {"report.html"}
    assert not list(out.rglob(".report.html*"))


def test_pages_hold_all_they_show(pages):
    for path in pages.values():
        page = read(path)
        assert page.fetched
        assert all(one.startswith("data:image/jpeg;base64,") for one in page.fetched)
        assert "script" not in page.tags
        assert "link" not in page.tags
        assert "url(" not in path.read_text()


def test_areas_and_shares_are_those_of_the_record(out, pages):
    summary = json.loads((out / "whole" / "run.json").read_text())["summary"]
    tissue, name = summary["tissue_mm2"], "Tumor"
    page = read(pages["whole"])
    assert float(page.row("Tissue")[1]) == pytest.approx(tissue, rel=1e-3)
    _, area, share = page.row(name)
    assert float(area) == pytest.approx(summary[f"{name}_mm2"], rel=1e-3)
    wanted = 100 * summary[f"{name}_mm2"] / tissue
    assert float(share.rstrip("%")) == pytest.approx(wanted, abs=0.05)
    total = json.loads((out / "hurt" / "run.json").read_text())["summary"][f"{name}_mm2"]
    total += summary[f"{name}_mm2"]
    found = read(pages["out"]).row(name)
    assert float(found[1]) == pytest.approx(total, rel=1e-3)


def test_uncertainty_damage_and_options_are_told_where_there_are_any(pages):
    whole, hurt = (pages[name].read_text() for name in ("whole", "hurt"))
    assert "Uncertainty" in whole
    assert "Uncertainty" not in hurt
    assert "Damage" in hurt
    assert "cannot be decoded" in hurt
    assert "Damage" not in whole
    assert "min_area_um2 7" in hurt
    assert "min_area_um2" not in whole
    assert "hurt.svs" in pages["out"].read_text()
    assert "Slides with blocks that cannot be decoded" in pages["out"].read_text()


def test_the_runs_page_links_to_those_of_the_slides(out, pages):
    links = read(pages["out"]).links
    assert sorted(links) == ["./hurt/report.html", "./whole/report.html"]
    assert all((out / link).exists() for link in links)


def test_failures_are_told_with_what_to_do_and_stand_for_themselves(pages):
    page = read(pages["out"])
    (row,) = [row for row in page.rows if "mend it" in row]
    assert row[0] == f"{EVIL}.svs"
    assert row[1] == f"{EVIL} broke (SourceError)"
    assert "1 failed" in pages["out"].read_text()


def test_scans_are_on_the_page_of_their_run(tmp_path):
    folder = tmp_path / "out" / "neck"
    folder.mkdir(parents=True)
    summary = {"slide": "neck.nii.gz", "model": "cord 1", "cord_ml": 3.9, "tiles": 27, "seconds": 3,
               "voxels": "60 x 55 x 52"}  # fmt: skip
    record = {"scan": {}, "summary": summary, "stages": [{"stage": "cord", "seconds": 2}]}
    (folder / "run.json").write_text(json.dumps(record))
    save_png(folder / "preview.png", np.zeros((60, 180, 3), np.uint8))
    text = run_page(tmp_path / "out", [summary | {"folder": "neck"}], [])
    assert "1 scan done, 0 failed" in text
    page = Page(text)
    assert page.row("")[1:] == ["Name", "cord, ml", "Tiles", "Time"]
    assert ["", "neck.nii.gz", "3.9", "27", "3.0 s"] in page.rows
    assert page.links == ["./neck/"]
    assert len(page.fetched) == 1
    assert "plan, figures, files 1.0 s" in text
    assert "Areas of all slides" not in text


def test_pictures_of_very_many_slides_are_linked(out, tmp_path):
    row = {
        "slide": "whole.svs",
        "folder": "whole",
        "tissue_mm2": "1.5",
        "Tumor_mm2": "",
        "seconds": "",
    }
    page = Page(run_page(out, [row], [], embed=False))
    assert page.fetched == ["./whole/overview.png"]
    assert ["", "whole.svs", "1.5", "0.0 s"] in page.rows


def test_a_slide_alone(out):
    (page,) = write_reports(out / "whole")
    assert page == out / "whole" / "report.html"


def test_a_model_that_is_gone_is_no_matter(out, tmp_path):
    import shutil

    folder = shutil.copytree(out / "whole", tmp_path / "whole")
    record = json.loads((folder / "run.json").read_text())
    record["model"]["path"] = str(tmp_path / "gone")
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "overview.png").unlink()
    write_reports(folder)
    text = (folder / "report.html").read_text()
    assert "How far to trust it" not in text
    assert "<img" not in text


def test_a_report_goes_with_its_result(out, tmp_path):
    from wsiseg.engine.marker import carry_over

    (tmp_path / "new").mkdir()
    write_reports(out / "whole")
    (out / "whole" / "notes.txt").write_text("mine")
    carry_over(out / "whole", tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_where_there_is_no_result_that_is_said(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"no such folder|no result in it"):
        write_reports(tmp_path / name)


def test_a_broken_record_is_named(tmp_path):
    (tmp_path / "run.json").write_text("[")
    with pytest.raises(RunError, match=r"run.json: cannot be read"):
        write_reports(tmp_path)


def test_the_command(out, tmp_path):
    done = CliRunner().invoke(app, ["report", str(out)])
    assert done.exit_code == 0
    assert done.stdout.split() == [
        str(out / name) for name in ("hurt/report.html", "whole/report.html", "report.html")
    ]
    bad = CliRunner().invoke(app, ["report", str(tmp_path / "gone")])
    assert bad.exit_code == 1


def test_pictures_keep_their_shape_and_are_never_enlarged(tmp_path):
    save_png(tmp_path / "overview.png", np.full((300, 100, 3), (200, 10, 30), np.uint8))
    slide = FinishedSlide(tmp_path)
    assert slide.picture(1000).shape == (300, 100, 3)
    assert slide.picture(150).shape == (150, 50, 3)
    np.testing.assert_array_equal(slide.picture(150)[75, 25], (200, 10, 30))


def test_numbers_as_people_read_them():
    assert [number(value) for value in (0, 12.345678, 1234567, 0.00012345, "a<b")] == [
        "0", "12.35", "1,234,567", "0.0001234", "a&lt;b",
    ]  # fmt: skip
    assert [duration(value) for value in (3.21, 75, 3700)] == ["3.2 s", "1 min 15 s", "1 h 01 min"]


def test_a_bars_parts_make_the_whole():
    widths = [float(w) for w in re.findall(r"width:([\d.]+)%", bar({"a": 1, "b": 2, "c": 5}))]
    assert widths == [12.5, 25.0, 62.5]
    assert bar({"a": 0.0}) == ""
