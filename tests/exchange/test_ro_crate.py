"""A crate describes every file, is read back by RO-Crate's own library, and names nobody."""

import hashlib
import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote

import pytest
from made_results import make_result

from wsiseg.errors import RunError
from wsiseg.exchange import ExportRequest, describe_in_place, export_result
from wsiseg.exchange.to_ro_crate import CRATE, PROFILE
from wsiseg.options import RunOptions, SegmentOptions
from wsiseg.run import segment_folder
from wsiseg.testing.models import make_colour_model
from wsiseg.testing.slides import make_svs, tissue_disc

rocrate = pytest.importorskip("rocrate.rocrate")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two slides segmented, the second beside notes of the user's."""
    folder = tmp_path_factory.mktemp("private") / "Jane Doe"
    folder.mkdir()
    slides = [
        make_svs(folder / name, tissue_disc((120, 160))[0], levels=(1,), mpp=0.5)
        for name in ("case é.svs", "b.svs")
    ]
    model = make_colour_model(folder / "m", window=64)
    options = SegmentOptions(run=RunOptions(backend="onnxruntime"))
    report = segment_folder(slides, model, folder / "out", options=options)
    assert not report.failures
    (folder / "out" / "b" / "notes.txt").write_text("mine")
    return folder / "out"


@pytest.fixture(scope="module")
def crate(run):
    describe_in_place(run, license="CC-BY-4.0")
    return rocrate.ROCrate(run)


def described(crate, folder):
    """Return each file that the crate describes, by itself or as part of a store."""
    found = set()
    for entity in crate.data_entities:
        path = folder / unquote(entity.id)
        assert path.exists(), entity.id
        if path.is_file():
            assert entity["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
            assert int(entity["contentSize"]) == path.stat().st_size
            assert entity["encodingFormat"]
            found.add(path)
        elif path.suffix == ".zarr":
            inside = {p for p in path.rglob("*") if p.is_file()}
            assert int(entity["contentSize"]) == sum(p.stat().st_size for p in inside)
            found |= inside
    return found


def test_every_file_is_described(run, crate):
    there = {path for path in run.rglob("*") if path.is_file()} - {run / CRATE}
    assert described(crate, run) == there
    assert len(there) > 30


def test_the_action_says_what_was_made_from_what_by_what(run, crate):
    root = crate.root_dataset
    assert root["conformsTo"].id == PROFILE
    assert root["license"].id == "https://spdx.org/licenses/CC-BY-4.0"
    assert len(root["mentions"]) == 2
    (action,) = (a for a in root["mentions"] if a["name"] == "wsiseg segment of b.svs")
    assert action.type == "CreateAction"
    software, model = action["instrument"]
    assert (software["name"], software.type) == ("wsiseg", "SoftwareApplication")
    record = json.loads((run / "b" / "run.json").read_text())
    assert model["identifier"]["value"] == record["model"]["digest"]
    assert model["license"].id == "https://spdx.org/licenses/Apache-2.0"
    (slide,) = action["object"]
    assert slide["name"] == "b.svs"
    assert slide["identifier"]["value"] == record["slide"]["sha256_sampled"]
    started, ended = (datetime.fromisoformat(action[key]) for key in ("startTime", "endTime"))
    assert 0 <= (ended - started).total_seconds() < 600
    assert ended == datetime.fromisoformat(record["ended"])
    results = {entity.id for entity in action["result"]}
    assert {"b/annotations.geojson", "b/heatmap.zarr/", "b/.wsiseg"} <= results
    assert "b/notes.txt" not in results
    assert "b/notes.txt" in {entity.id for entity in crate.get("b/")["hasPart"]}


def test_all_references_lead_somewhere(run, crate):
    graph = json.loads((run / CRATE).read_text())["@graph"]
    known = [entity["@id"] for entity in graph]
    assert len(known) == len(set(known))
    allowed = {*known, "http://schema.org/CompletedActionStatus", "https://w3id.org/ro/crate/1.1"}

    def references(value):
        if isinstance(value, list):
            for item in value:
                yield from references(item)
        elif isinstance(value, dict):
            yield value["@id"]

    assert {r for e in graph for v in e.values() for r in references(v)} <= allowed


def test_nothing_personal_and_no_paths(run, crate):
    text = (run / CRATE).read_text()
    assert "Jane" not in text
    assert str(run.parent) not in text
    assert "a user" not in text  # what the slide's own header says


def test_a_crate_is_not_replaced_unasked_and_is_no_part_of_itself(run, crate):
    before = (run / CRATE).read_bytes()
    with pytest.raises(RunError, match="is there already"):
        describe_in_place(run)
    describe_in_place(run, license="CC-BY-4.0", overwrite=True)
    assert (run / CRATE).read_bytes() == before


def test_a_copy_is_a_crate_of_its_own(run, crate, tmp_path):
    export_result(run / "b", "ro-crate", tmp_path, request=ExportRequest(license="mine alone!"))
    made = rocrate.ROCrate(tmp_path / "b")
    there = {p for p in (tmp_path / "b").rglob("*") if p.is_file()} - {tmp_path / "b" / CRATE}
    assert described(made, tmp_path / "b") == there
    assert made.root_dataset["license"]["name"] == "mine alone!"


def test_results_that_say_little_are_described_as_far_as_they_go(tmp_path):
    folder = make_result(tmp_path / "case")
    describe_in_place(folder)
    root = rocrate.ROCrate(folder).root_dataset
    assert root["license"]["name"] == "not stated"
    assert root["mentions"][0]["endTime"] == root["datePublished"]
    with pytest.raises(RunError, match=r"no result with a run\.json"):
        describe_in_place(tmp_path / "case" / "mask.zarr")
    (folder / "run.json").write_text("[1]")
    with pytest.raises(RunError, match="is not what wsiseg writes"):
        describe_in_place(folder, overwrite=True)


def test_the_command_line_makes_crates(run, tmp_path):
    def wsiseg(*arguments):
        command = [sys.executable, "-c", "from wsiseg_cli.main import main; main()", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    folder = make_result(tmp_path / "r" / "case")
    done = wsiseg("export", str(folder), "--to", "ro-crate", "--license", "CC0-1.0")
    assert done.stdout.strip() == str(folder / CRATE), done.stderr
    assert wsiseg("export", str(folder), "--to", "ro-crate").returncode == 1
    slide, model, out = str(run.parent / "b.svs"), str(run.parent / "m"), tmp_path / "out"
    options = ("--model", model, "--backend", "onnxruntime", "--quiet", "--ro-crate")
    for _ in range(2):  # its own is replaced
        done = wsiseg("segment", slide, "--out", str(out), *options)
        assert done.returncode == 0, done.stderr
    assert rocrate.ROCrate(out).root_dataset["mentions"]
    (out / CRATE).write_text("{}")
    done = wsiseg("segment", slide, "--out", str(out), *options)
    assert done.returncode == 1
    assert f"{CRATE}: is there already" in done.stderr
    assert Path(out / CRATE).read_text() == "{}"
