"""Who is answered: by the link, on this machine, from the page; and no path reaches a file."""

import shutil

import pytest
from view_made import TOKEN, index_of

HERE = "http://127.0.0.1:8000"


@pytest.mark.parametrize("path", ["", "api/results", "api/0", "api/0/slide/0/0/0"])
def test_the_link_opens_the_page_and_the_rest(client, path):
    assert client.get(path).status_code == 200


@pytest.mark.parametrize("token", ["", "x", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "é", "%00"])
def test_a_wrong_token_is_refused(client, token):
    for path in ("", "/api/results", "/api/0/slide/0/0/0"):
        answer = client.get(f"{HERE}/{token}{path}")
        assert answer.status_code == 403
        assert "big" not in answer.text
        assert "svs" not in answer.text


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "localhost.", "::1"]
)
def test_a_foreign_host_is_refused(client, host):
    assert client.get("api/results", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "localhost:9", "127.0.0.1:1", "[::1]:80"])
def test_names_of_this_machine_are_taken(client, host):
    assert client.get("api/results", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_changes_from_other_pages_are_refused(client, headers, run):
    body = {"action": "accepted", "row": 0}
    assert client.post("api/0/corrections", json=body, headers=headers).status_code == 403
    assert not (run / "a" / "corrections.geojson").exists()


def test_changes_need_json(client):
    answer = client.post("api/0/corrections", content=b"{}", headers={"content-type": "text/plain"})
    assert answer.status_code == 415


def test_a_body_that_is_too_long_is_refused(client):
    answer = client.post(
        "api/0/corrections", content=b" " * 5_000_000, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/passwd",
        "..%2f..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/etc/passwd",
        "/etc/passwd",
        "//etc/passwd",
        "assets/../../serve.py",
        "index.html%00.js",
        "api/..%2f..%2frun.json",
        "api/0/volume/..%2f..%2frun.json",
        "api/0/volume/labels.nii.gz",
        "api/0/objects/..%2ftissue",
        "api/0/corrections/..%2f..%2frun.json",
        "run.json",
    ],
)
def test_no_path_reaches_a_file(client, path):
    answer = client.get(f"{HERE}/{TOKEN}/{path}")
    assert answer.status_code in {403, 404, 405}
    assert "root:" not in answer.text
    assert "made" not in answer.text


@pytest.mark.parametrize("stem", ["corrections", "mine", "%2e%2e", "annotations%00"])
def test_only_the_objects_of_a_result_are_shown(client, run, stem):
    for name in ("corrections", "mine"):
        shutil.copy(run / "a" / "annotations.geojson", run / "a" / f"{name}.geojson")
    for path in (f"api/0/objects/{stem}", f"api/0/outlines/{stem}/0/0/0"):
        assert client.get(f"{HERE}/{TOKEN}/{path}").status_code in {403, 404}, path


def test_nobody_else_on_the_network_reaches_it():
    serve = pytest.importorskip("wsiseg.view.serve")
    with serve._listening(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


NUMBERS = ["-1", "77777", "1.5", "a", "9" * 30, "9" * 6000, "%F0%9F%98%80", "\u0663"]


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_out_of_range_are_refused(client, shown, number):
    index_of(shown[0])
    for path in (
        f"api/{number}",
        f"api/0/slide/{number}/0/0",
        f"api/0/slide/0/{number}/0",
        f"api/0/slide/0/0/{number}",
        f"api/0/layer/{number}/0/0/0",
        f"api/0/layer/0/{number}/0/0",
        f"api/0/layer/0/0/0/{number}",
        f"api/0/layer/0/0/0/0?hide={number}",
        f"api/0/outlines/annotations/{number}/0/0",
        f"api/0/outlines/annotations/0/{number}/0",
        f"api/0/object/{number}",
    ):
        assert client.get(path).status_code == 404, path


@pytest.mark.parametrize("query", ["map=../x", "map=jet", "least=101", "least=-1", "least=1e9"])
def test_settings_of_tiles_are_checked(client, query):
    assert client.get(f"api/0/layer/1/0/0/0?{query}").status_code in {400, 404}


@pytest.mark.parametrize("place", ["x=1", "x=nan&y=1", "x=1&y=inf", "x=1&y=1e30", "x=a&y=b"])
def test_places_are_checked(client, place):
    assert client.get(f"api/0/at?{place}").status_code == 400


def test_answers_say_what_a_page_may_do(client):
    for path in ("", "api/results", "nothing"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers


def test_the_token_is_compared_in_constant_time(client, monkeypatch):
    compared = []

    def watch(a, b):
        compared.append((a, b))
        return a == b

    monkeypatch.setattr("wsiseg.view.security.hmac.compare_digest", watch)
    client.get("api/results")
    assert compared == [(TOKEN.encode(), TOKEN.encode())]
