"""Slides behind URLs: an HTTP server and an S3 server on this machine."""

import io
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import zarr

import wsiseg.source
from wsiseg.errors import DamagedFileError, SourceError, UnsupportedFormatError
from wsiseg.geometry import Box
from wsiseg.source.omezarr import OmeZarrSource
from wsiseg.source.remote import BLOCK_BYTES, is_url, open_remote, redacted, remote_errors

DATA = np.random.default_rng(3).integers(0, 256, 2 * BLOCK_BYTES + 777, dtype=np.uint8).tobytes()
PIXELS = np.random.default_rng(4).integers(0, 256, (150, 210, 3), dtype=np.uint8)

network = pytest.mark.network


class Handler(BaseHTTPRequestHandler):
    """Serves a folder with byte ranges, and misbehaves on request (`?fail=2`, `?whole`, ...)."""

    protocol_version = "HTTP/1.1"
    folder: Path
    requests: list
    failures: dict

    def do_HEAD(self):
        self._serve(body=False)

    def do_GET(self):
        self._serve(body=True)

    def _serve(self, *, body):
        name, _, query = self.path.partition("?")
        file = self.folder / name.lstrip("/")
        self.requests.append((self.command, self.path, self.headers.get("Range")))
        if query.startswith("status="):
            return self._answer(int(query[7:10]), b"", body)
        if not file.is_file():
            return self._answer(404, b"", body)
        data = file.read_bytes()
        wanted = self.headers.get("Range")
        if query.startswith("fail=") and wanted:
            seen = self.failures[wanted] = self.failures.get(wanted, 0) + 1
            if seen <= int(query[5:]):
                return self._answer(503, b"", body)
        if wanted is None or query == "whole":
            return self._answer(200, data, body)
        first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted).groups()
        part = data[int(first) : int(last or len(data)) + 1]
        if query == "short" and int(first) == BLOCK_BYTES:
            part = part[: len(part) // 2]
        return self._answer(206, part, body)

    def _answer(self, status, data, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, *_):
        pass  # a client that hangs up in the middle of a large answer is part of the tests


@pytest.fixture
def http(tmp_path):
    """A folder, its address, and the requests made."""
    (tmp_path / "www").mkdir()
    handler = type("Own", (Handler,), {"folder": tmp_path / "www", "requests": [], "failures": {}})
    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    (tmp_path / "www/data.bin").write_bytes(DATA)
    yield tmp_path / "www", f"http://127.0.0.1:{server.server_port}", handler.requests
    server.shutdown()
    server.server_close()
    thread.join()


def write_zarr(path, version="0.5", pixels=PIXELS):
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    values = np.moveaxis(pixels, -1, 0)
    group.create_array("0", shape=values.shape, chunks=(3, 64, 64), dtype="uint8")[:] = values
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": a, "type": "space", "unit": "micrometer"} for a in "yx"]
    scale = [{"type": "scale", "scale": [1.0, 0.5, 0.5]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    image = {"version": version, "axes": axes, "datasets": datasets}
    group.attrs.update(
        {"ome": {"version": "0.5", "multiscales": [image]}}
        if version == "0.5"
        else {"multiscales": [image]}
    )


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("https://a.org/x.svs", True),
        ("s3://bucket/x.svs", True),
        ("HTTP://A/x", True),
        ("gs://b/x", True),
        ("C:\\slides\\x.svs", False),
        ("C:/slides/x.svs", False),
        ("/slides/x.svs", False),
        ("x.svs", False),
        ("http:/x", False),
        (Path("http://a/x"), False),
        (5, False),
    ],
)
def test_urls_are_told_from_paths(path, expected):
    assert is_url(path) is expected


def test_secrets_are_taken_out_of_urls():
    text = "GET 'https://me:pw@a.org/x.svs?X-Signature=abc&y=1' and s3://b/x.svs failed"
    assert redacted(text) == "GET 'https://a.org/x.svs' and s3://b/x.svs failed"


@network
def test_a_remote_file_is_a_file(http):
    _, address, _ = http
    with open_remote(f"{address}/data.bin?token=secret") as file:
        assert file.size == len(DATA)
        assert file.name == "data.bin"
        assert file.read() == DATA
        assert file.read() == b""
        assert file.seek(-5, io.SEEK_END) == len(DATA) - 5
        assert file.read(99) == DATA[-5:]
        file.seek(10)
        file.seek(3, io.SEEK_CUR)
        assert (file.read(4), file.tell()) == (DATA[13:17], 17)
        reference = io.BytesIO(DATA)
        buffered = io.BufferedReader(file)
        buffered.seek(BLOCK_BYTES - 3)
        reference.seek(BLOCK_BYTES - 3)
        assert buffered.read(9) == reference.read(9)


@network
def test_pread_is_exact_and_shared_by_threads(http):
    _, address, requests = http
    file = open_remote(f"{address}/data.bin")
    rng = np.random.default_rng(0)
    places = [(int(a), int(n)) for a, n in rng.integers(0, [len(DATA) + 9, 99_999], (200, 2))]
    places += [(0, 0), (len(DATA) - 1, 5), (len(DATA), 5), (BLOCK_BYTES - 1, 2), (-3, 5)]
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda place: file.pread(*place), places))
    for (offset, nbytes), part in zip(places, parts, strict=True):
        assert part == DATA[max(offset, 0) : max(offset + nbytes, 0)]
    blocks = [wanted for verb, _, wanted in requests if verb == "GET" and wanted]
    assert len(blocks) == 3 + 1  # each block once, whoever asks first; and the probe
    file.close()
    with pytest.raises(SourceError, match="closed"):
        file.pread(0, 1)


@network
def test_passing_failures_are_tried_again_and_lasting_ones_told(http, monkeypatch):
    waited = []
    monkeypatch.setattr("time.sleep", waited.append)
    with open_remote(f"{http[1]}/data.bin?fail=2") as file:
        assert file.pread(7, 9) == DATA[7:16]
    assert waited == [0.2, 0.8] * 2  # the probe of the last byte, and the first block
    with pytest.raises(SourceError, match=r"data\.bin: cannot be read over the network \(503"):
        open_remote(f"{http[1]}/data.bin?fail=9")


@network
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("{}/missing.svs?token=secret", "not found.*404.*check the address"),
        ("{}/data.bin?status=403&token=secret", "access denied.*403.*storage_options.*download"),
        ("{}/data.bin?whole", "found one that sends it whole only; download"),
        ("http://me:secret@127.0.0.1:9/x.svs", "cannot be read over the network.*Connect"),
        ("gs://bucket/x.svs", "needed a URL of http, https or s3, found gs://"),
    ],
)
def test_what_fails_is_told_with_a_remedy_and_without_secrets(http, url, message):
    with pytest.raises(SourceError, match=message) as caught:
        open_remote(url.format(http[1]))
    assert "secret" not in str(caught.value)


@network
def test_a_refusal_of_s3_names_what_the_command_line_can_give():
    with pytest.raises(SourceError) as caught, remote_errors("s3://slides/a.svs"):
        raise PermissionError("Forbidden")
    for remedy in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "FSSPEC_S3_ANON", "{'anon': True"):
        assert remedy in str(caught.value)


def test_the_variable_named_for_public_buckets_is_one_that_fsspec_takes(monkeypatch):
    config = pytest.importorskip("fsspec.config")
    taken = {}
    config.set_conf_env(taken, {"FSSPEC_S3_ANON": "true"})
    assert taken["s3"]["anon"]


@network
def test_a_short_answer_is_no_data(http):
    file = open_remote(f"{http[1]}/data.bin?short")
    assert file.pread(5, 10) == DATA[5:15]
    with pytest.raises(SourceError, match=r"needed bytes 1048576 to 2097152, received 524288"):
        file.pread(BLOCK_BYTES + 5, 10)


@network
def test_a_missing_package_names_the_extra():
    code = (
        "import sys; sys.modules['aiohttp'] = None\n"
        "from wsiseg.errors import SourceError\n"
        "from wsiseg.source.remote import open_remote\n"
        "try: open_remote('http://127.0.0.1:9/x.svs')\n"
        "except SourceError as error: sys.stdout.write(str(error))"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "pip install 'wsiseg[remote]'" in result.stdout


@network
def test_a_tiff_behind_a_url_equals_the_file(http, data_dir):
    folder, address, requests = http
    path = data_dir / "slides/cmu-1-small-region.svs"
    shutil.copyfile(path, folder / path.name)
    with (
        wsiseg.source.open(path) as local,
        wsiseg.source.open(f"{address}/{path.name}?token=secret") as remote,
    ):
        assert remote.name == local.name
        assert remote.spacing == local.spacing
        box = Box((1000, 1000), (1500, 1600))
        np.testing.assert_array_equal(remote.levels[0].read(box), local.levels[0].read(box))
    assert all(wanted for verb, _, wanted in requests if verb == "GET")


@network
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_over_http(http, version):
    folder, address, requests = http
    write_zarr(folder / "slide.zarr", version)
    with wsiseg.source.open(f"{address}/slide.zarr") as slide:
        assert slide.name == "slide.zarr"
        assert slide.spacing.um == (0.5, 0.5)
        before = len(requests)
        box = Box((-5, 60), (100, 220))
        expected = np.pad(PIXELS, ((5, 0), (0, 10), (0, 0)), constant_values=255)[:105, 60:220]
        np.testing.assert_array_equal(slide.levels[0].read(box), expected)
        assert len(requests) - before == 8
        with ThreadPoolExecutor(8) as pool:
            for pixels in pool.map(lambda _: slide.levels[0].read(box), range(16)):
                np.testing.assert_array_equal(pixels, expected)
        assert len(requests) - before == 8
    with pytest.raises(SourceError, match="closed"):
        slide.levels[0].read(box)


@network
def test_ome_zarr_over_http_tells_damage_from_absence_and_trouble(http):
    folder, address, _ = http
    write_zarr(folder / "slide.zarr")
    (folder / "slide.zarr/0/c/0/0/0").unlink()
    (folder / "slide.zarr/0/c/0/1/1").write_bytes(b"junk")
    source = OmeZarrSource(f"{address}/slide.zarr")
    assert (source.read(0, Box((0, 0), (64, 64))) == 0).all()
    with pytest.raises(DamagedFileError, match="chunk in row 1, column 1"):
        source.read(0, Box((0, 0), (150, 210)))
    with pytest.raises(UnsupportedFormatError, match=r"nothing\.zarr: needed an OME-Zarr image"):
        OmeZarrSource(f"{address}/nothing.zarr")
    with pytest.raises(SourceError, match="cannot be read over the network"):
        OmeZarrSource("http://127.0.0.1:9/slide.zarr")


@pytest.fixture(scope="module")
def s3():
    """Storage options and a bucket of moto's server."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"key": "k", "secret": "s", "endpoint_url": f"http://{host}:{port}"}
    import s3fs

    s3fs.S3FileSystem(**options).mkdir("slides")
    yield options
    server.stop()


@network
def test_a_file_and_an_ome_zarr_on_s3(s3, tmp_path):
    import s3fs

    filesystem = s3fs.S3FileSystem(**s3)
    filesystem.pipe("slides/data.bin", DATA)
    file = open_remote("s3://slides/data.bin", s3)
    assert file.size == len(DATA)
    assert file.pread(BLOCK_BYTES - 10, 30) == DATA[BLOCK_BYTES - 10 : BLOCK_BYTES + 20]
    write_zarr(tmp_path / "slide.zarr")
    filesystem.put(str(tmp_path / "slide.zarr"), "slides/slide.zarr", recursive=True)
    source = OmeZarrSource("s3://slides/slide.zarr", storage_options=s3)
    np.testing.assert_array_equal(source.read(0, Box((0, 0), (150, 210))), PIXELS)
    with pytest.raises(SourceError, match=r"s3://slides/missing.svs: not found"):
        open_remote("s3://slides/missing.svs", s3)
    with pytest.raises(SourceError, match=r"s3://elsewhere/x.svs: not found"):
        open_remote("s3://elsewhere/x.svs", s3)
