"""NRRD and MetaImage as volumes. SimpleITK wrote no file here: headers are written by hand, after
the formats' definitions, and real NRRD files are compared with what DICOM and NIfTI say."""

import gzip
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import wsiseg
from wsiseg.errors import (
    DamagedFileError,
    MissingSpacingError,
    SourceError,
    UnsupportedFormatError,
    WsisegError,
)
from wsiseg.geometry import Affine, Box
from wsiseg.source import VolumeSource
from wsiseg.testing.volumes import VolumeSourceContract

RNG = np.random.default_rng(5)
VOXELS = RNG.integers(-1000, 1000, (4, 5, 6)).astype(np.int16)  # z, y, x
COLUMNS = np.array([[0.5, 0.1, 0.0], [-0.1, 0.6, 0.2], [0.0, -0.3, 2.5]])  # way of x, y, z
ORIGIN = np.array([10.0, -20.0, 30.0])
LPS = np.eye(4)
LPS[:3, :3], LPS[:3, 3] = COLUMNS.T, ORIGIN
AFFINE = Affine.from_lps(LPS)


def whole(volume: wsiseg.Volume) -> np.ndarray:
    return volume.read(Box.of_shape(volume.shape))


def vector(values) -> str:
    return "(" + ",".join(f"{value:.12g}" for value in values) + ")"


def nrrd(
    path: Path,
    voxels: np.ndarray = VOXELS,
    *,
    space: str = "left-posterior-superior",
    signs=(1, 1, 1),
    encoding: str = "raw",
    other: str | None = None,
    **changes: str | None,
) -> Path:
    kinds = {"i2": "short", "u1": "unsigned char", "f4": "float", "f8": "double", "i4": "int32"}
    sizes = voxels.shape[::-1] if voxels.ndim == 3 else (*voxels.shape[3:], *voxels.shape[2::-1])
    colour = ["none"] if voxels.ndim == 4 else []
    fields = {
        "type": kinds[voxels.dtype.str[1:]],
        "dimension": str(len(sizes)),
        "space": space,
        "sizes": " ".join(map(str, sizes)),
        "space directions": " ".join([*colour, *(vector(c * signs) for c in COLUMNS)]),
        "endian": "big" if voxels.dtype.byteorder == ">" else "little",
        "encoding": encoding,
        "space origin": vector(ORIGIN * signs),
        "content": "Nobody^Really",
        **{key.replace("_", " "): value for key, value in changes.items()},
    }
    if other:
        fields["data file"] = other
    lines = [f"{key}: {value}" for key, value in fields.items() if value is not None]
    header = "\n".join(["NRRD0005", "# a comment: with a colon", *lines, "patient:=Nobody", "", ""])
    data = voxels.tobytes()
    if encoding == "gzip":
        data = gzip.compress(data)
    if encoding == "text":
        data = " ".join(map(str, voxels.ravel())).encode()
    if other:
        (path.parent / other).write_bytes(data)
        data = b""
    path.write_bytes(header.encode() + data)
    return path


def mha(
    path: Path,
    voxels: np.ndarray = VOXELS,
    *,
    packed: bool = False,
    other: str = "LOCAL",
    data: bytes | None = None,
    **changes: str | None,
) -> Path:
    kinds = {"i2": "MET_SHORT", "u1": "MET_UCHAR", "f4": "MET_FLOAT"}
    spacing = np.linalg.norm(COLUMNS, axis=1)
    data = voxels.tobytes() if data is None else data
    data = zlib.compress(data) if packed else data
    fields = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": str(voxels.dtype.byteorder == ">"),
        "CompressedData": str(packed),
        "CompressedDataSize": str(len(data)) if packed else None,
        "TransformMatrix": " ".join(f"{v:.12g}" for v in (COLUMNS / spacing[:, None]).ravel()),
        "Offset": " ".join(map(str, ORIGIN)),
        "CenterOfRotation": "0 0 0",
        "AnatomicalOrientation": "RAI",
        "ElementSpacing": " ".join(f"{v:.12g}" for v in spacing),
        "DimSize": " ".join(map(str, voxels.shape[2::-1])),
        "ElementNumberOfChannels": str(voxels.shape[3]) if voxels.ndim == 4 else None,
        "ElementType": kinds[voxels.dtype.str[1:]],
        **changes,
        "ElementDataFile": other,
    }
    header = "".join(f"{key} = {value}\n" for key, value in fields.items() if value is not None)
    if other != "LOCAL":
        (path.parent / other).write_bytes(data)
        data = b""
    path.write_bytes(header.encode() + data)
    return path


class TestNrrd(VolumeSourceContract):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path):
        self.path = nrrd(tmp_path / "a.nrrd", encoding="gzip")

    def make_source(self) -> VolumeSource:
        return wsiseg.open_volume(self.path).source


class TestMetaImage(VolumeSourceContract):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path):
        self.path = mha(tmp_path / "a.mha", packed=True)

    def make_source(self) -> VolumeSource:
        return wsiseg.open_volume(self.path).source


@pytest.mark.parametrize("encoding", ["raw", "gzip", "text"])
@pytest.mark.parametrize("other", [None, "voxels.bin"])
def test_nrrd_encodings(tmp_path: Path, encoding: str, other: str | None):
    path = nrrd(tmp_path / "a.nhdr", encoding=encoding, other=other)
    assert wsiseg.is_volume(path)
    with wsiseg.open_volume(path) as volume:
        assert np.array_equal(whole(volume)[..., 0], VOXELS)
        assert volume.affine.is_close(AFFINE, 1e-9)
        assert "Nobody" not in repr(volume.metadata)


@pytest.mark.parametrize("dtype", [">i2", "<f4", ">f8", "u1", "<i4"])
def test_nrrd_types(tmp_path: Path, dtype: str):
    voxels = np.abs(VOXELS % 200).astype(dtype)
    with wsiseg.open_volume(nrrd(tmp_path / "a.nrrd", voxels)) as volume:
        assert np.array_equal(whole(volume)[..., 0], voxels)


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("right-anterior-superior", (-1, -1, 1)),
        ("RAS", (-1, -1, 1)),
        ("left-anterior-superior", (1, -1, 1)),
        ("LPS", (1, 1, 1)),
    ],
)
def test_nrrd_spaces_are_one_place(tmp_path: Path, space: str, signs: tuple[int, ...]):
    with wsiseg.open_volume(nrrd(tmp_path / "a.nrrd", space=space, signs=signs)) as volume:
        assert volume.affine.is_close(AFFINE, 1e-9)


@pytest.mark.parametrize("space", [None, "scanner-xyz", "3D-right-handed"])
def test_nrrd_without_a_patient_needs_an_affine(tmp_path: Path, space: str | None):
    path = nrrd(tmp_path / "a.nrrd", space=space)
    with pytest.raises(MissingSpacingError, match="which side is left"):
        wsiseg.open_volume(path)
    with wsiseg.open_volume(path, affine=AFFINE) as volume:
        assert volume.affine == AFFINE


def test_nrrd_colour_and_time(tmp_path: Path):
    colour = RNG.integers(0, 255, (4, 5, 6, 3)).astype(np.uint8)
    with wsiseg.open_volume(nrrd(tmp_path / "a.nrrd", colour)) as volume:
        assert np.array_equal(whole(volume), colour)
    times = RNG.integers(0, 255, (4, 5, 6, 7)).astype(np.uint8)
    with pytest.raises(UnsupportedFormatError, match="time points"):
        wsiseg.open_volume(nrrd(tmp_path / "b.nrrd", times))


def test_nrrd_skips_bytes_before_raw_voxels(tmp_path: Path):
    path = nrrd(tmp_path / "a.nhdr", other="v.raw", byte_skip="-1")
    (tmp_path / "v.raw").write_bytes(b"other header" + VOXELS.tobytes())
    with wsiseg.open_volume(path) as volume:
        assert np.array_equal(whole(volume)[..., 0], VOXELS)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"sizes": "6 5 -4"}, DamagedFileError),
        ({"sizes": "6 5 99999999999999999999"}, DamagedFileError),
        ({"sizes": "6 5 400"}, DamagedFileError),
        ({"sizes": None}, DamagedFileError),
        ({"dimension": "4"}, DamagedFileError),
        ({"type": "block"}, UnsupportedFormatError),
        ({"encoding": "bzip2"}, UnsupportedFormatError),
        ({"endian": "middle"}, DamagedFileError),
        ({"byte_skip": "nan"}, DamagedFileError),
        ({"space_origin": "(1,2)"}, MissingSpacingError),
        ({"space_directions": "(1,0,0) (2,0,0) (0,0,1)"}, MissingSpacingError),
        ({"space_directions": "(1,0,0) (0,nan,0) (0,0,1)"}, MissingSpacingError),
        ({"space_units": '"furlong" "furlong" "furlong"'}, MissingSpacingError),
    ],
)
def test_bad_nrrd_headers(tmp_path: Path, changes: dict, kind: type):
    with pytest.raises(kind):
        wsiseg.open_volume(nrrd(tmp_path / "a.nrrd", **changes))


@pytest.mark.parametrize("write", [nrrd, mha])
@pytest.mark.parametrize("other", ["/etc/hostname", "../elsewhere.raw"])
def test_headers_reach_no_files_elsewhere(tmp_path: Path, write, other: str):
    (tmp_path / "in").mkdir()
    (tmp_path / "elsewhere.raw").write_bytes(VOXELS.tobytes())
    path = write(tmp_path / "in" / "a.nhdr", other="v.raw")
    path.write_text(path.read_text().replace("v.raw", other))
    with pytest.raises(UnsupportedFormatError, match="beside the header"):
        wsiseg.open_volume(path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("other", ["LOCAL", "a.raw"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_metaimages(tmp_path: Path, packed: bool, other: str, order: str):
    path = mha(tmp_path / "a.mhd", VOXELS.astype(f"{order}i2"), packed=packed, other=other)
    assert wsiseg.is_volume(path)
    with wsiseg.open_volume(path) as volume:
        assert np.array_equal(whole(volume)[..., 0], VOXELS)
        assert volume.affine.is_close(AFFINE, 1e-9)
        assert volume.dtype == np.int16


def test_metaimage_without_directions_lies_along_lps(tmp_path: Path):
    with wsiseg.open_volume(mha(tmp_path / "a.mha", TransformMatrix=None)) as volume:
        assert volume.affine.orientation == "LPS"
        assert "not stated" in volume.metadata.properties["metaimage.directions"]


def test_metaimage_colour(tmp_path: Path):
    colour = RNG.integers(0, 255, (4, 5, 6, 3)).astype(np.uint8)
    with wsiseg.open_volume(mha(tmp_path / "a.mha", colour)) as volume:
        assert np.array_equal(whole(volume), colour)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"NDims": "4", "DimSize": "6 5 4 2"}, UnsupportedFormatError),
        ({"DimSize": "6 5"}, UnsupportedFormatError),
        ({"DimSize": "6 5 4000"}, DamagedFileError),
        ({"DimSize": "6 5 x"}, DamagedFileError),
        ({"ElementSpacing": None}, MissingSpacingError),
        ({"ElementSpacing": "1 1 0"}, MissingSpacingError),
        ({"ElementSpacing": "1 1"}, DamagedFileError),
        ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, MissingSpacingError),
        ({"ElementType": "MET_OTHER"}, UnsupportedFormatError),
        ({"BinaryData": "False"}, UnsupportedFormatError),
        ({"HeaderSize": "1e9"}, DamagedFileError),
    ],
)
def test_bad_metaimage_headers(tmp_path: Path, changes: dict, kind: type):
    with pytest.raises(kind):
        wsiseg.open_volume(mha(tmp_path / "a.mha", **changes))


def test_promises_that_packed_voxels_cannot_hold(tmp_path: Path):
    for path in (
        mha(tmp_path / "a.mha", packed=True, DimSize="60000 60000 60000"),
        nrrd(tmp_path / "a.nrrd", encoding="gzip", sizes="60000 60000 60000"),
    ):
        with pytest.raises(DamagedFileError, match="more than"):
            wsiseg.open_volume(path)


def test_a_missing_file_of_voxels_is_named(tmp_path: Path):
    path = mha(tmp_path / "a.mhd", other="a.raw")
    (tmp_path / "a.raw").unlink()
    with pytest.raises(SourceError, match=r"a\.raw"):
        wsiseg.open_volume(path)


@pytest.mark.parametrize("write", [nrrd, mha])
def test_cut_and_changed_files_end_in_one_line(tmp_path: Path, write):
    content = write(tmp_path / "a.bin").read_bytes()
    path = tmp_path / "b.bin"
    for trial in range(150):
        changed = bytearray(content)
        if trial % 3 == 0:
            del changed[int(RNG.integers(8, len(content))) :]
        for at in RNG.integers(0, min(len(changed), 500), 3):
            changed[at] = RNG.integers(0, 256)
        path.write_bytes(changed)
        with suppress(WsisegError), wsiseg.open_volume(path) as volume:
            whole(volume)


def test_real_nrrd_lies_where_its_dicom_series_lies(data_dir: Path):
    folder = data_dir / "volumes" / "dcmqi"
    pytest.importorskip("pydicom")
    with (
        wsiseg.open_volume(folder / "liver_seg.nrrd") as labels,
        wsiseg.open_volume(folder / "ct-3slice") as scan,
    ):
        ours, theirs = labels.oriented("RAS").affine, scan.oriented("RAS").affine
        assert ours.is_close(theirs, 1e-2)
        assert labels.shape == scan.shape
