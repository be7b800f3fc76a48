"""What the page is told and given."""

import shutil
import threading

import numpy as np
import orjson
import pytest
from PIL import Image
from view_made import TOKEN, index_of, make_result

from wsiseg.errors import RunError
from wsiseg.geometry import Box
from wsiseg.source import open_volume
from wsiseg.view.results import find_shown


def test_the_list_has_a_line_per_result_and_its_columns(client):
    told = client.get("api/results").json()
    assert [one["name"] for one in told["results"]] == ["a", "b"]
    assert told["columns"] == ["slide", "objects", "Tumor_mm2"]
    assert told["results"][1]["summary"]["Tumor_mm2"] == 1.1


def test_a_description_says_where_all_layers_lie(client):
    about = client.get("api/0").json()
    assert about["size"] == [2300, 1500]
    assert about["mpp"] == [0.5, 0.5]
    assert [layer["kind"] for layer in about["layers"]] == [
        "mask", "heatmap", "heatmap", "heatmap", "uncertainty",
    ]  # fmt: skip
    assert about["layers"][0]["place"] == [0, 0, 2300, 1500]
    assert about["objects"]
    assert about["tissue"]
    assert about["classes"][1] == {"name": "Tumor", "color": [200, 0, 0]}
    assert about["slide"]["levels"][-1] == [2300, 1500, 1.0]


def test_a_click_tells_object_values_and_tissue(client, shown):
    index = index_of(shown[0])
    index_of(shown[0], "tissue")
    row = int(index.ordered(None, descending=True, limit=1, class_name=None)[0])
    point = index.polygon(row).representative_point()
    told = client.get(f"api/0/at?x={point.x}&y={point.y}").json()
    assert told["object"]["id"] == index.ids[row].decode()
    assert told["object"]["measurements"]["wsiseg: Area mm^2"] > 0
    assert told["tissue"] is True
    assert told["values"][0]["text"] == told["object"]["class"]
    assert 0 <= told["values"][1]["value"] <= 1
    told = client.get("api/0/at?x=1&y=1").json()
    assert told["object"] is None
    assert told["values"][1]["value"] is None
    assert client.get("api/0/at?x=-50&y=99999").json()["tissue"] is False


def test_objects_are_said_to_be_ready_and_listed(client, shown):
    first = client.get("api/0/objects/annotations").json()
    assert set(first) >= {"ready"}
    index = index_of(shown[0])
    query = "order=descending&by=wsiseg:+Area+mm^2&class=Tumor"
    told = client.get(f"api/0/objects/annotations?{query}").json()
    assert told["count"] == len(index)
    areas = [one["measurements"]["wsiseg: Area mm^2"] for one in told["listed"]]
    assert areas == sorted(areas, reverse=True)
    for wrong in ("by=nothing", "class=nothing"):
        answer = client.get(f"api/0/objects/annotations?order=descending&{wrong}")
        assert answer.status_code == 400


def test_broken_objects_are_told_and_the_rest_is_shown(client, run):
    (run / "a" / "annotations.geojson").write_text("{")
    told = ""
    while not told:  # read in the background
        answer = client.get("api/0/objects/annotations")
        told = answer.json().get("error", "")
    assert "annotations.geojson" in told
    assert client.get("api/0/slide/0/0/0").status_code == 200
    assert client.get("api/0/layer/0/0/0/0").status_code == 200


def test_a_slide_that_is_gone_leaves_its_result(tmp_path, made_run, monkeypatch):
    testclient = pytest.importorskip("starlette.testclient")
    from wsiseg.view.server import Viewer, make_app

    moved = tmp_path / "elsewhere"
    moved.mkdir()
    make_result(tmp_path / "out" / "a", tmp_path / "gone.svs")
    shown = find_shown([tmp_path / "out"], workspace=tmp_path)
    client = testclient.TestClient(make_app(Viewer(shown, {}), "t"), base_url="http://localhost/t/")
    about = client.get("api/0").json()
    assert about["slide"]["levels"] == []
    assert "wsiseg view OUT SLIDES" in about["slide"]["missing"]
    assert client.get("api/0/layer/0/0/0/0").status_code == 200
    assert client.get("api/0/slide/0/0/0").status_code == 500
    assert client.get("api/0/thumbnail").status_code == 404
    shutil.copy(made_run / "slides" / "a.svs", moved / "gone.svs")
    (again,) = find_shown([tmp_path / "out"], [moved], workspace=tmp_path)
    assert again.tiles.levels


def test_many_requests_at_once_are_all_answered(client):
    about = client.get("api/0").json()
    last = len(about["slide"]["levels"]) - 1
    answers = []

    def ask(column):
        answers.append(client.get(f"api/{column % 2}/slide/{last}/{column % 3}/{column % 5}"))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 60


def test_results_of_scans_are_shown_by_their_files(tmp_path):
    testclient = pytest.importorskip("starlette.testclient")
    from wsiseg.view.server import Viewer, make_app

    folder = tmp_path / "out" / "case"
    folder.mkdir(parents=True)
    (folder / "labels.nii.gz").write_bytes(b"labels")
    (tmp_path / "scan.nii").write_bytes(b"scan")
    record = {
        "scan": {"path": str(tmp_path / "scan.nii"), "modality": "CT"},
        "classes": [
            {"value": 0, "name": "background"},
            {"value": 2, "name": "Liver", "color": [9, 8, 7]},
        ],
    }
    (folder / "run.json").write_bytes(orjson.dumps(record))
    shown = find_shown([tmp_path / "out"], workspace=tmp_path)
    client = testclient.TestClient(make_app(Viewer(shown, {}), "t"), base_url="http://localhost/t/")
    told = client.get("api/0").json()
    assert told["kind"] == "volume"
    assert told["volume"]["files"] == {"labels": "labels.nii.gz", "scan": "scan.nii"}
    assert told["volume"]["classes"][1] == {"value": 2, "name": "Liver", "color": [9, 8, 7]}
    assert client.get("api/0/volume/labels.nii.gz").content == b"labels"
    assert client.get("api/0/volume/scan.nii").content == b"scan"
    assert client.get("api/0/volume/run.json").status_code == 404
    (tmp_path / "scan.nii").unlink()
    assert "not shown" in client.get("api/0").json()["volume"]["missing"]


def test_results_in_folders_of_folders_are_found(run, tmp_path):
    (tmp_path / "deep").mkdir()
    (run / "a").rename(tmp_path / "deep" / "a")
    (run / "b").rename(tmp_path / "deep" / "b")
    found = find_shown([tmp_path], workspace=tmp_path)
    assert [one.name for one in found] == ["a", "b"]
    assert find_shown([tmp_path / "deep" / "a"], workspace=tmp_path)[0].name == "a"


def test_results_of_one_name_are_told_apart(run, tmp_path, made_run):
    testclient = pytest.importorskip("starlette.testclient", reason="needs the extra `view`")
    from wsiseg.view.server import Viewer, make_app

    other = shutil.copytree(run, tmp_path / "second" / "out")
    shutil.copytree(run / "b", run / "deep" / "a")
    for folder, size in ((run / "a", (40, 90)), (run / "deep" / "a", (90, 40))):
        record = orjson.loads((folder / "run.json").read_bytes())
        record["slide"]["path"] = "gone.svs"  # so that the picture is of the result
        (folder / "run.json").write_bytes(orjson.dumps(record))
        Image.new("RGB", size).save(folder / "overview.png")
    shown = find_shown([run, other], workspace=tmp_path)
    names = [f"{one.group}/{one.name}" for one in shown]
    here = tmp_path.name
    own = [f"{here}/out/a", f"{here}/out/b", f"{here}/out/deep/a"]
    assert names == [*own, "second/out/a", "second/out/b"]
    viewer = Viewer(shown, {}, tmp_path / "mine")
    assert len({viewer._corrections_path(one) for one in shown}) == len(shown)
    app = make_app(viewer, TOKEN)
    with testclient.TestClient(app, base_url=f"http://127.0.0.1/{TOKEN}/") as opened:
        small = [opened.get(f"api/{number}/thumbnail").content for number in (0, 2)]
    assert small[0] != small[1]


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_folders_without_results_are_named(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="no result in it"):
        find_shown([tmp_path / name], workspace=tmp_path)
    with pytest.raises(RunError, match="no such file"):
        make_result(tmp_path / "a", tmp_path / "a.svs")
        find_shown([tmp_path / "a"], [tmp_path / "missing"], workspace=tmp_path)


def test_the_token_is_in_no_answer(client):
    for path in ("", "api/results", "api/0"):
        assert TOKEN not in client.get(path).text


def test_scans_of_other_formats_are_handed_out_as_nifti(tmp_path, data_dir):
    testclient = pytest.importorskip("starlette.testclient")
    from wsiseg.view.server import Viewer, make_app

    folder = tmp_path / "out" / "case"
    folder.mkdir(parents=True)
    (folder / "labels.nii.gz").write_bytes(b"labels")
    scan = data_dir / "volumes" / "pyradiomics" / "brain1_image.nrrd"
    (folder / "run.json").write_bytes(orjson.dumps({"scan": {"path": str(scan)}}))
    shown = find_shown([tmp_path / "out"], workspace=tmp_path)
    client = testclient.TestClient(make_app(Viewer(shown, {}), "t"), base_url="http://localhost/t/")
    assert client.get("api/0").json()["volume"]["files"]["scan"] == "scan.nii"
    (tmp_path / "got.nii").write_bytes(client.get("api/0/volume/scan.nii").content)
    with open_volume(scan) as given, open_volume(tmp_path / "got.nii") as got:
        one, other = given.oriented("RAS"), got.oriented("RAS")
        whole = Box.of_shape(one.shape)
        assert np.array_equal(one.read(whole), other.read(whole))
        assert np.allclose(one.affine.matrix, other.affine.matrix, atol=1e-4)
