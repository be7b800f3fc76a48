"""NIfTI as volumes, with nibabel as the truth."""

import gzip
import struct
from contextlib import suppress
from pathlib import Path

import nibabel
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
from wsiseg.source.volumes import _unpacked
from wsiseg.source.volumes.nifti import open_nifti
from wsiseg.testing.volumes import VolumeSourceContract

RNG = np.random.default_rng(3)
SHAPE = (9, 11, 13)  # x, y, z
OBLIQUE = nibabel.affines.from_matvec(
    np.array([[-0.8, 0.1, 0.0], [0.1, 0.9, 0.3], [0.0, -0.1, 2.4]]), (90.0, -20.0, 5.0)
)


def data_of(dtype: str) -> np.ndarray:
    if np.dtype(dtype).kind == "f":
        return RNG.random(SHAPE).astype(dtype)
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max, SHAPE, dtype=dtype, endpoint=True)


def save(path: Path, data: np.ndarray, affine: np.ndarray = OBLIQUE, kind=nibabel.Nifti1Image):
    image = kind(data, affine, dtype=data.dtype)
    image.header.set_slope_inter(1, 0)
    image.to_filename(path)
    return path


def whole(volume: wsiseg.Volume) -> np.ndarray:
    return volume.read(Box.of_shape(volume.shape))


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return save(tmp_path / "scan.nii.gz", data_of("int16"))


class TestPlainNifti(VolumeSourceContract):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path):
        self.path = save(tmp_path / "scan.nii", data_of("float32"))

    def make_source(self) -> VolumeSource:
        return open_nifti(self.path)


class TestPackedNifti(VolumeSourceContract):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path):
        self.path = save(tmp_path / "scan.nii.gz", data_of("int16"))

    def make_source(self) -> VolumeSource:
        return open_nifti(self.path)


class TestArray(VolumeSourceContract):
    def make_source(self) -> VolumeSource:
        array = np.arange(9 * 8 * 7, dtype=np.uint16).reshape(9, 8, 7)
        return wsiseg.open_volume(array, affine=Affine.from_spacing((2, 1, 1))).source


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64"]
)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_types_orders_and_versions(tmp_path: Path, dtype: str, order: str, kind: type):
    data = data_of(dtype)
    image = kind(data, OBLIQUE, header=kind.header_class(endianness=order), dtype=data.dtype)
    image.header.set_data_dtype(dtype)
    image.header.set_slope_inter(1, 0)
    image.to_filename(tmp_path / "a.nii")
    with wsiseg.open_volume(tmp_path / "a.nii") as volume:
        wanted = np.float32 if data.dtype.kind == "f" else data.dtype
        assert volume.dtype == wanted
        assert np.array_equal(whole(volume)[..., 0], data.T.astype(wanted))
        assert np.allclose(volume.affine.to_nifti(), OBLIQUE, atol=1e-6)
        assert volume.metadata.properties["nifti.byte_order"] == {"<": "little", ">": "big"}[order]


@pytest.mark.parametrize(
    ("slope", "intercept", "dtype"),
    [(1, -1024, "int32"), (2, 0, "int32"), (0.5, 3.25, "float32"), (1e-3, 0, "float32")],
)
def test_scaled_values(tmp_path: Path, slope: float, intercept: float, dtype: str):
    stored = data_of("int16")
    image = nibabel.Nifti1Image(stored, OBLIQUE, dtype="int16")
    image.header.set_slope_inter(slope, intercept)
    path = tmp_path / "a.nii"
    with path.open("wb") as file:
        image.header["vox_offset"] = 352
        image.header.write_to(file)
        file.write(b"\0\0\0\0" + stored.tobytes(order="F"))
    with wsiseg.open_volume(path) as volume:
        truth = nibabel.load(path).get_fdata().T
        assert volume.dtype == dtype
        assert np.array_equal(whole(volume)[..., 0], truth.astype(dtype))


def test_small_floats_are_not_destroyed(tmp_path: Path):
    data = data_of("float32")
    assert data.max() < 1
    with wsiseg.open_volume(save(tmp_path / "mr.nii.gz", data)) as volume:
        assert np.array_equal(whole(volume)[..., 0], data.T)


def test_nan_and_infinity_stay(tmp_path: Path):
    data = data_of("float64")
    data[0, 0, :3] = np.nan, np.inf, 1e300
    with wsiseg.open_volume(save(tmp_path / "a.nii", data)) as volume:
        found = whole(volume)[:3, 0, 0, 0]
        assert np.isnan(found[0])
        assert np.isinf(found[1:]).all()


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("named", [".hdr", ".img"])
def test_a_pair_of_files(tmp_path: Path, named: str, end: str):
    data = data_of("int16")
    save(tmp_path / f"a.img{end}", data, kind=nibabel.Nifti1Pair)
    with wsiseg.open_volume(tmp_path / f"a{named}{end}") as volume:
        assert np.array_equal(whole(volume)[..., 0], data.T)
    (tmp_path / f"a.hdr{end}").rename(tmp_path / f"b.hdr{end}")
    with pytest.raises(SourceError, match="needed the pair"):
        wsiseg.open_volume(tmp_path / f"b.hdr{end}")


def test_sform_before_qform_and_said(tmp_path: Path):
    image = nibabel.Nifti1Image(data_of("uint8"), None)
    other = np.diag([2.0, 2.0, 2.0, 1.0])
    image.header.set_qform(other, code=1)
    image.header.set_sform(OBLIQUE, code=2)
    image.to_filename(tmp_path / "both.nii")
    with wsiseg.open_volume(tmp_path / "both.nii") as volume:
        assert np.allclose(volume.affine.to_nifti(), OBLIQUE, atol=1e-5)
        assert volume.metadata.properties["nifti.affine"] == "sform"
        assert "disagree" in volume.metadata.properties["nifti.forms"]
    image.header.set_sform(OBLIQUE, code=0)
    image.to_filename(tmp_path / "q.nii")
    with wsiseg.open_volume(tmp_path / "q.nii") as volume:
        assert np.allclose(volume.affine.to_nifti(), other, atol=1e-5)
        assert volume.metadata.properties["nifti.affine"] == "qform"


def test_a_file_that_does_not_say_where_it_is_needs_an_affine(tmp_path: Path):
    image = nibabel.Nifti1Image(data_of("uint8"), None)
    image.header.set_sform(None, code=0)
    image.header.set_qform(None, code=0)
    image.to_filename(tmp_path / "a.nii")
    with pytest.raises(MissingSpacingError, match="which side is left"):
        wsiseg.open_volume(tmp_path / "a.nii")
    affine = Affine.from_spacing((1, 2, 3))
    with wsiseg.open_volume(tmp_path / "a.nii", affine=affine) as volume:
        assert volume.affine == affine


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000.0), ("micron", 0.001)])
def test_units_become_millimetres(tmp_path: Path, unit: str, factor: float):
    image = nibabel.Nifti1Image(data_of("uint8"), OBLIQUE)
    image.header.set_xyzt_units(unit)
    image.to_filename(tmp_path / "a.nii")
    if factor > 1:
        with pytest.raises(MissingSpacingError, match="voxel size"):
            wsiseg.open_volume(tmp_path / "a.nii")
        return
    with wsiseg.open_volume(tmp_path / "a.nii") as volume:
        assert np.allclose(
            volume.affine.matrix[:3],
            np.array(Affine.from_nifti(OBLIQUE).matrix[:3]) * factor,
            atol=1e-6,
        )


def test_four_dimensions_are_refused_and_one_of_them_taken(tmp_path: Path):
    data = RNG.integers(0, 9, (4, 5, 6, 3)).astype(np.int16)
    save(tmp_path / "four.nii", data)
    with pytest.raises(UnsupportedFormatError, match=r"4-D.*extract one volume"):
        wsiseg.open_volume(tmp_path / "four.nii")
    save(tmp_path / "one.nii", data[..., :1])
    with wsiseg.open_volume(tmp_path / "one.nii") as volume:
        assert np.array_equal(whole(volume)[..., 0], data[..., 0].T)


def test_colour_has_channels(tmp_path: Path):
    colour = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    data = RNG.integers(0, 255, (*SHAPE, 3)).astype(np.uint8)
    nibabel.Nifti1Image(data.view(colour)[..., 0], OBLIQUE).to_filename(tmp_path / "a.nii")
    with wsiseg.open_volume(tmp_path / "a.nii") as volume:
        assert volume.channels == 3
        assert np.array_equal(whole(volume), data.transpose(2, 1, 0, 3))
        assert volume.to_dask().shape == (*volume.shape, 3)


def test_complex_voxels_are_refused(tmp_path: Path):
    save(tmp_path / "a.nii", np.ones(SHAPE, np.complex64))
    with pytest.raises(UnsupportedFormatError, match="datatype 32"):
        wsiseg.open_volume(tmp_path / "a.nii")


def test_cut_files_are_damaged(scan: Path, tmp_path: Path):
    packed = scan.read_bytes()
    for size in (len(packed) // 2, len(packed) - 4):
        cut = tmp_path / "cut.nii.gz"
        cut.write_bytes(packed[:size])
        volume = wsiseg.open_volume(cut)
        with pytest.raises(DamagedFileError, match="copy the file anew"):
            whole(volume)
    plain = tmp_path / "cut.nii"
    plain.write_bytes(gzip.decompress(packed)[:-1])
    with pytest.raises(DamagedFileError, match="ends early"):
        wsiseg.open_volume(plain)


def test_a_changed_byte_is_found(scan: Path, tmp_path: Path):
    packed = bytearray(scan.read_bytes())
    packed[len(packed) // 2] ^= 255
    changed = tmp_path / "changed.nii.gz"
    changed.write_bytes(packed)
    with pytest.raises(DamagedFileError, match="copy the file anew"):
        whole(wsiseg.open_volume(changed))


def test_a_header_that_promises_too_much_is_refused(scan: Path, tmp_path: Path):
    content = bytearray(gzip.decompress(scan.read_bytes()))
    struct.pack_into("<3h", content, 42, 32767, 32767, 32767)
    bomb = tmp_path / "bomb.nii.gz"
    bomb.write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(DamagedFileError, match="more than"):
        wsiseg.open_volume(bomb)
    bomb.with_suffix("").write_bytes(content)
    with pytest.raises(DamagedFileError, match="ends early"):
        wsiseg.open_volume(bomb.with_suffix(""))


def test_large_volumes_are_unpacked_into_a_file(scan: Path, monkeypatch: pytest.MonkeyPatch):
    with wsiseg.open_volume(scan) as volume:
        wanted = whole(volume)
    monkeypatch.setattr(_unpacked, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(_unpacked, "PIECE_BYTES", 100)
    with wsiseg.open_volume(scan) as volume:
        assert np.array_equal(whole(volume), wanted)
    with pytest.raises(SourceError, match="closed"):
        whole(volume)


def test_analyze_is_refused(tmp_path: Path):
    nibabel.AnalyzeImage(data_of("int16"), OBLIQUE).to_filename(tmp_path / "a.img")
    with pytest.raises(UnsupportedFormatError, match="ANALYZE"):
        wsiseg.open_volume(tmp_path / "a.img")


def test_a_slide_is_no_volume_and_a_volume_no_slide(scan: Path, tmp_path: Path):
    assert wsiseg.is_volume(scan)
    with pytest.raises(UnsupportedFormatError, match="open_volume"):
        wsiseg.open(scan)
    other = tmp_path / "a.txt"
    other.write_text("nothing" * 200)
    assert not wsiseg.is_volume(other)
    assert not wsiseg.is_volume(tmp_path / "absent")
    with pytest.raises(UnsupportedFormatError, match="no reader of volumes"):
        wsiseg.open_volume(other)


def test_a_volume_shows_itself(scan: Path):
    with wsiseg.open_volume(scan) as volume:
        text = repr(volume)
        assert "9 x 11 x 13 voxels" in text
        assert volume.affine.orientation in text
        assert volume.stem == "scan"
        assert np.array_equal(
            volume.to_dask()[2:5, ::1, 1:].compute(), whole(volume)[2:5, :, 1:, 0]
        )
        with pytest.raises(SourceError, match="inside"):
            volume.read(Box((-1, 0, 0), (1, 1, 1)))


def test_a_fingerprint_tells_content_and_place(scan: Path, tmp_path: Path):
    data = np.asarray(nibabel.load(scan).dataobj)
    with wsiseg.open_volume(scan) as volume:
        known = volume.fingerprint()
        assert volume.oriented("LPI").as_stored().fingerprint() == known
    with wsiseg.open_volume(save(tmp_path / "same.nii", data)) as volume:
        assert volume.fingerprint() == known
    moved = OBLIQUE.copy()
    moved[0, 3] += 1
    with wsiseg.open_volume(save(tmp_path / "moved.nii", data, moved)) as volume:
        assert volume.fingerprint() != known


def test_real_files_are_what_nibabel_reads(data_dir: Path):
    folder = data_dir / "volumes"
    files = [
        folder / "monai/anatomical.nii",  # big-endian
        folder / "monai/anatomical_label.nii.gz",  # qform only
        folder / "sct_testing_data/t2/t2.nii.gz",
        folder / "totalsegmentator/example_ct_sm.nii.gz",
        folder / "torchio-data/fernando/t2.nii.gz",
    ]
    for path in files:
        image = nibabel.load(path)
        with wsiseg.open_volume(path) as volume:
            assert np.array_equal(whole(volume)[..., 0], np.asanyarray(image.dataobj).T)
            assert np.allclose(volume.affine.to_nifti(), image.affine, atol=1e-6)
            canonical = nibabel.as_closest_canonical(image)
            ras = volume.oriented("RAS")
            assert np.array_equal(whole(ras)[..., 0], np.asanyarray(canonical.dataobj).T)
            assert np.allclose(ras.affine.to_nifti(), canonical.affine, atol=1e-4)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_changed_headers_end_in_one_line(tmp_path: Path, name: str):
    content = save(tmp_path / "a.nii", data_of("int16")).read_bytes()
    for trial in range(200):
        changed = bytearray(content)
        if trial % 4 == 0:
            del changed[int(RNG.integers(4, len(content))) :]
        for at in RNG.integers(4, min(len(changed), 352), 3):
            changed[at] = RNG.integers(0, 256)
        path = tmp_path / name
        path.write_bytes(gzip.compress(bytes(changed), 1) if name.endswith("gz") else changed)
        with suppress(WsisegError), wsiseg.open_volume(path) as volume:
            whole(volume)
