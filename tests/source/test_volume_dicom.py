"""DICOM series as volumes: made ones with each defect, and real ones against their NIfTI truth."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import nibabel
import numpy as np
import pytest

import wsiseg
from wsiseg import errors
from wsiseg.geometry import Affine, Box
from wsiseg.source import VolumeSource
from wsiseg.testing.scans import SERIES, write_multiframe, write_series
from wsiseg.testing.volumes import VolumeSourceContract

pytest.importorskip("pydicom")

RNG = np.random.default_rng(11)
COUNT = 8
VOXELS = RNG.integers(-1024, 3000, (COUNT, 12, 10)).astype(np.int16)
AXIAL = Affine.from_lps([[0.7, 0, 0, -50], [0, 0.8, 0, -60], [0, 0, 2.0, -300], [0, 0, 0, 1]])
OBLIQUE = Affine.from_lps(
    np.array(nibabel.affines.from_matvec(
        nibabel.eulerangles.euler2mat(0.2, -0.3, 0.1) @ np.diag([0.7, 0.8, 2.0]), (-50, -60, -300)
    ))
)  # fmt: skip


def tilted(millimetres: float) -> Affine:
    """Return the axial stack whose slices move to posterior by so much each."""
    matrix = AXIAL.to_lps()
    matrix[1, 2] = millimetres
    return Affine.from_lps(matrix)


def whole(volume: wsiseg.Volume) -> np.ndarray:
    return volume.read(Box.of_shape(volume.shape))


class TestSeries(VolumeSourceContract):
    @pytest.fixture(autouse=True)
    def _files(self, tmp_path: Path):
        self.folder = tmp_path / "ct"
        write_series(self.folder, VOXELS, OBLIQUE, slope=1, intercept=-24)

    def make_source(self) -> VolumeSource:
        return wsiseg.open_volume(self.folder).source


class TestMultiframe(VolumeSourceContract):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path):
        slopes = np.linspace(0.5, 2, COUNT).tolist()
        self.path = write_multiframe(tmp_path / "mr.dcm", VOXELS, OBLIQUE, slopes=slopes)

    def make_source(self) -> VolumeSource:
        return wsiseg.open_volume(self.path).source


@pytest.mark.parametrize("affine", [AXIAL, OBLIQUE], ids=["axial", "oblique"])
def test_values_and_places(tmp_path: Path, affine: Affine):
    write_series(tmp_path / "ct", VOXELS, affine)
    with wsiseg.open_volume(tmp_path / "ct") as volume:
        assert np.array_equal(whole(volume)[..., 0], VOXELS)
        assert volume.affine.is_close(affine, 1e-5)
        assert volume.metadata.modality == "CT"
        assert volume.dtype == np.int16


@pytest.mark.parametrize("rows", [1, -1])
@pytest.mark.parametrize("columns", [1, -1])
def test_the_four_sign_cases_of_axial_images(tmp_path: Path, rows: int, columns: int):
    matrix = AXIAL.to_lps() @ np.diag([rows, columns, 1.0, 1.0])
    affine = Affine.from_lps(matrix)
    write_series(tmp_path / "ct", VOXELS, affine)
    with wsiseg.open_volume(tmp_path / "ct") as volume:
        # slices come along the normal of the images, so the stack may be read from its other end
        turn = affine.turn_to(volume.affine.orientation)
        assert np.array_equal(whole(volume)[..., 0], turn.apply(VOXELS))
        assert volume.affine.is_close(affine.turned(turn, VOXELS.shape), 1e-5)


def test_names_of_files_and_their_order_do_not_matter(tmp_path: Path):
    paths = write_series(tmp_path / "ct", VOXELS, OBLIQUE)
    for path, number in zip(paths, RNG.permutation(COUNT), strict=True):
        path.rename(path.with_name(f"shuffled-{number}"))
    with wsiseg.open_volume(tmp_path / "ct") as volume:
        assert np.array_equal(whole(volume)[..., 0], VOXELS)
        assert volume.affine.is_close(OBLIQUE, 1e-5)


def leave_out(*indices: int) -> Callable[[object, int], bool]:
    return lambda header, index: index not in indices


def move(index: int, z: float) -> Callable[[object, int], None]:
    def edit(header, at):
        if at == index:
            header.ImagePositionPatient[2] += z

    return edit


def set_on(index: int, **values) -> Callable[[object, int], None]:
    def edit(header, at):
        if at == index:
            for key, value in values.items():
                setattr(header, key, value)

    return edit


def wider_after(index: int) -> Callable[[object, int], None]:
    """Twice the gap from a slice on, though none is missing."""

    def edit(header, at):
        header.ImagePositionPatient[2] += 2.0 * max(0, at - index)

    return edit


def variable_tilt(header, index):
    header.ImagePositionPatient[1] += 0.3 * index * (index % 3)


def turned_rows(header, index):
    if index >= 4:
        header.ImageOrientationPatient = [1, 0, 0, 0, 0.99, np.sqrt(1 - 0.99**2)]


def sagittal(header, index):
    if index % 2:
        header.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]


def at_one_place(header, index):
    header.ImagePositionPatient = [-50, -60, -300]


def two_times(header, index):
    header.ImagePositionPatient[2] = -300 + 2 * (index // 2)
    header.TemporalPositionIdentifier = 1 + index % 2


def no_place(header, index):
    del header.ImagePositionPatient
    header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"  # secondary capture


def localizer(header, index):
    header.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


DEFECTS = {
    "one slice removed": (leave_out(3), errors.MissingSlicesError, "1 missing"),
    "every second of the first half removed": (leave_out(1, 3), errors.MissingSlicesError, "2 mi"),
    "uneven gap": (wider_after(4), errors.UnevenSlicesError, "gaps of 2 to 4 mm"),
    "a slice moved": (move(3, 0.7), errors.UnevenSlicesError, "even distances"),
    "duplicate position": (move(3, 2.0), errors.DuplicateSlicesError, "1 of 7 places"),
    "all at one position": (at_one_place, errors.NotAVolumeError, "8 images at one"),
    "mixed orientation": (sagittal, errors.MixedOrientationError, "90"),
    "variable tilt of images": (turned_rows, errors.VariableTiltError, "turned"),
    "variable tilt of the stack": (variable_tilt, errors.VariableTiltError, "angles"),
    "mixed sizes": (
        set_on(2, Rows=6, PixelData=VOXELS[0, :6].tobytes()),
        errors.MixedImagesError, "10 x 12 and 10 x 6",
    ),
    "mixed pixel spacing": (set_on(2, PixelSpacing=[1, 1]), errors.MixedImagesError, "spacing"),
    "mixed frames of reference": (
        set_on(1, FrameOfReferenceUID="1.2.3"), errors.MixedImagesError, "frame of reference",
    ),
    "localisers": (localizer, errors.LocalizerError, "8 of 8"),
    "a localiser among slices": (
        set_on(0, ImageType=["DERIVED", "PRIMARY", "LOCALIZER"]), errors.LocalizerError, "1 of 8",
    ),
    "screenshots": (no_place, errors.NoPlaceError, "where they are"),
    "time points": (two_times, errors.TimePointsError, "TemporalPositionIdentifier"),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFECTS)
def test_each_defect_is_an_error_of_its_own(tmp_path: Path, name: str):
    edit, kind, words = DEFECTS[name]
    write_series(tmp_path / "ct", VOXELS, AXIAL, edit=edit)
    with pytest.raises(errors.DicomSeriesError, match=words) as caught:
        wsiseg.open_volume(tmp_path / "ct")
    assert type(caught.value) is kind
    assert caught.value.slices
    assert "; " in str(caught.value)  # a remedy
    assert "\n" not in str(caught.value)
    assert "Nobody" not in str(caught.value)


def test_a_tilted_gantry(tmp_path: Path):
    write_series(tmp_path / "ct", VOXELS, tilted(0.6))
    with pytest.raises(errors.TiltedSlicesError, match=r"16\.7 degrees.*tilt=") as caught:
        wsiseg.open_volume(tmp_path / "ct")
    assert len(caught.value.slices) == 2
    with wsiseg.open_volume(tmp_path / "ct", tilt="shear") as volume:
        assert volume.affine.is_close(tilted(0.6), 1e-5)
        assert np.array_equal(whole(volume)[..., 0], VOXELS)
        assert "sheared" in volume.metadata.properties["dicom.tilt"]


def test_two_series_in_one_folder(tmp_path: Path):
    other = f"{SERIES}9"
    write_series(tmp_path / "both", VOXELS, AXIAL)
    for path in write_series(tmp_path / "other", VOXELS + 1, AXIAL, series=other):
        shutil.move(path, tmp_path / "both" / f"other-{path.name}")
    with pytest.raises(errors.SeveralSeriesError, match="series=") as caught:
        wsiseg.open_volume(tmp_path / "both")
    assert set(caught.value.slices) == {SERIES, other}
    for uid, added in ((SERIES, 0), (other, 1)):
        with wsiseg.open_volume(tmp_path / "both", series=uid) as volume:
            assert np.array_equal(whole(volume)[..., 0], VOXELS + added)
    with wsiseg.open_volume(tmp_path / "both" / "other-0003.dcm") as volume:
        assert np.array_equal(whole(volume)[..., 0], VOXELS + 1)
    with pytest.raises(errors.NoImagesError, match=r"series 9\.9"):
        wsiseg.open_volume(tmp_path / "both", series="9.9")


def test_a_scout_beside_a_scan_needs_no_choice(tmp_path: Path):
    write_series(tmp_path / "ct", VOXELS, AXIAL)
    for path in write_series(
        tmp_path / "scout", VOXELS[:1], OBLIQUE, series="1.2.9", edit=localizer
    ):
        shutil.move(path, tmp_path / "ct" / "scout.dcm")
    with wsiseg.open_volume(tmp_path / "ct") as volume:
        assert np.array_equal(whole(volume)[..., 0], VOXELS)


def test_gaps_are_filled_on_request_where_slices_truly_are(tmp_path: Path):
    ramp = np.repeat(np.arange(COUNT, dtype=np.int16) * 100, 120).reshape(VOXELS.shape)
    write_series(tmp_path / "ct", ramp, AXIAL, edit=leave_out(2, 3, 5))
    with wsiseg.open_volume(tmp_path / "ct", allow_gap=True) as volume:
        assert volume.shape == VOXELS.shape
        assert volume.dtype == np.float32
        assert volume.affine.is_close(AXIAL, 1e-5)
        assert np.allclose(whole(volume)[..., 0], ramp)
        assert "from 5 to 8" in volume.metadata.properties["dicom.gaps"]


def test_uneven_stacks_are_read_at_even_places(tmp_path: Path):
    ramp = np.repeat(np.arange(COUNT, dtype=np.int16) * 100, 120).reshape(VOXELS.shape)
    write_series(tmp_path / "ct", ramp, AXIAL, edit=wider_after(4))
    with wsiseg.open_volume(tmp_path / "ct", allow_gap=True) as volume:
        z = volume.affine.world([[i, 0, 0] for i in range(volume.shape[0])])[:, 2]
        true = -300 + np.array([0, 2, 4, 6, 8, 12, 16, 20])
        wanted = np.interp(z, true, np.arange(COUNT) * 100)
        assert np.allclose(whole(volume)[:, 0, 0, 0], wanted, atol=1e-3)
        assert np.allclose([z[0], z[-1]], [-300, -280])


def test_gaps_alone_do_not_accept_a_tilt(tmp_path: Path):
    write_series(tmp_path / "ct", VOXELS, tilted(0.6), edit=leave_out(3))
    for options in ({}, {"allow_gap": True}, {"tilt": "shear"}):
        with pytest.raises(errors.DicomSeriesError):
            wsiseg.open_volume(tmp_path / "ct", **options)
    with wsiseg.open_volume(tmp_path / "ct", allow_gap=True, tilt="shear") as volume:
        assert volume.affine.is_close(tilted(0.6), 1e-5)


def test_positions_rounded_to_tenths_are_even(tmp_path: Path):
    affine = Affine.from_lps(np.diag([1, 1, 0.625, 1]))

    def rounded(header, index):
        header.ImagePositionPatient[2] = round(0.625 * index, 1)

    write_series(tmp_path / "ct", VOXELS, affine, edit=rounded)
    with wsiseg.open_volume(tmp_path / "ct") as volume:
        assert volume.affine.spacing_mm[0] == pytest.approx(4.4 / 7)


def test_two_slices_need_their_distance_stated(tmp_path: Path):
    write_series(tmp_path / "ct", VOXELS[:2], AXIAL)
    with pytest.raises(errors.NotAVolumeError, match="allow_gap"):
        wsiseg.open_volume(tmp_path / "ct")
    assert wsiseg.open_volume(tmp_path / "ct", allow_gap=True).shape[0] == 2
    write_series(
        tmp_path / "said", VOXELS[:2], AXIAL, edit=lambda h, i: setattr(h, "SliceThickness", 2)
    )
    assert wsiseg.open_volume(tmp_path / "said").affine.is_close(AXIAL, 1e-5)


def test_one_slice_has_the_thickness_it_states(tmp_path: Path):
    write_series(tmp_path / "bare", VOXELS[:1], AXIAL)
    with pytest.warns(errors.UnstatedGeometryWarning, match="1 mm"):
        wsiseg.open_volume(tmp_path / "bare")
    write_series(
        tmp_path / "said", VOXELS[:1], AXIAL, edit=lambda h, i: setattr(h, "SliceThickness", 2)
    )
    assert wsiseg.open_volume(tmp_path / "said").affine.is_close(AXIAL, 1e-5)


def test_rescaling_differs_from_slice_to_slice(tmp_path: Path):
    slopes = np.linspace(0.5, 2, COUNT)

    def edit(header, index):
        header.RescaleSlope, header.RescaleIntercept = float(slopes[index]), -10.0

    write_series(tmp_path / "mr", VOXELS, AXIAL, modality="MR", edit=edit)
    with wsiseg.open_volume(tmp_path / "mr") as volume:
        wanted = VOXELS * slopes[:, None, None] - 10
        assert volume.dtype == np.float32
        assert np.allclose(whole(volume)[..., 0], wanted, rtol=1e-6)


@pytest.mark.parametrize(("bits", "dtype"), [(12, "int16"), (16, "int32")])
def test_hounsfield_units_stay_integers(tmp_path: Path, bits: int, dtype: str):
    stored = RNG.integers(0, 1 << bits, VOXELS.shape).astype(np.uint16)

    def edit(header, index):
        header.BitsStored, header.HighBit = bits, bits - 1

    write_series(tmp_path / "ct", stored, AXIAL, intercept=-1024, edit=edit)
    with wsiseg.open_volume(tmp_path / "ct") as volume:
        assert volume.dtype == dtype
        assert np.array_equal(whole(volume)[..., 0], stored.astype(np.int32) - 1024)


def test_signed_numbers_of_twelve_bits_with_an_overlay_above(tmp_path: Path):
    values = RNG.integers(-2048, 2048, VOXELS.shape).astype(np.int16)
    with_overlay = (values & 0x0FFF) | np.int16(0x4000)

    def edit(header, index):
        header.BitsStored, header.HighBit = 12, 11

    write_series(tmp_path / "mr", with_overlay, AXIAL, modality="MR", edit=edit)
    with wsiseg.open_volume(tmp_path / "mr") as volume:
        assert np.array_equal(whole(volume)[..., 0], values)


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_monochrome1_is_turned_unless_its_values_mean_something(tmp_path: Path, modality: str):
    stored = RNG.integers(0, 1 << 12, VOXELS.shape).astype(np.uint16)

    def edit(header, index):
        header.PhotometricInterpretation = "MONOCHROME1"
        header.BitsStored, header.HighBit = 12, 11

    write_series(tmp_path / "a", stored, AXIAL, modality=modality, edit=edit)
    with wsiseg.open_volume(tmp_path / "a") as volume:
        wanted = stored if modality == "CT" else 4095 - stored
        assert np.array_equal(whole(volume)[..., 0], wanted)


def test_frames_of_one_file_have_their_own_places_and_scales(tmp_path: Path):
    slopes = np.linspace(0.5, 2, COUNT)
    path = write_multiframe(tmp_path / "a.dcm", VOXELS, OBLIQUE, slopes=slopes.tolist())
    with wsiseg.open_volume(path) as volume:
        assert volume.affine.is_close(OBLIQUE, 1e-5)
        assert np.allclose(whole(volume)[..., 0], VOXELS * slopes[:, None, None], rtol=1e-6)
        assert volume.metadata.modality == "MR"


def test_frames_of_several_times_are_refused(tmp_path: Path):
    def edit(header):
        groups = header.PerFrameFunctionalGroupsSequence
        places = [group.PlanePositionSequence for group in groups]
        for index, group in enumerate(groups):
            group.PlanePositionSequence = places[index // 2]

    write_multiframe(tmp_path / "a.dcm", VOXELS, OBLIQUE, edit=edit)
    with pytest.raises(errors.TimePointsError, match="4-D"):
        wsiseg.open_volume(tmp_path / "a.dcm")


def test_frames_without_places_are_refused(tmp_path: Path):
    def edit(header):
        del header.PerFrameFunctionalGroupsSequence

    write_multiframe(tmp_path / "a.dcm", VOXELS, OBLIQUE, edit=edit)
    with pytest.raises(errors.NoPlaceError):
        wsiseg.open_volume(tmp_path / "a.dcm")


def test_float_pixels_keep_what_is_not_a_number(tmp_path: Path):
    values = RNG.random(VOXELS.shape).astype(np.float32)
    values[0, 0, 0] = np.nan

    def edit(header, index):
        header.FloatPixelData = header.PixelData
        for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
            delattr(header, keyword)

    write_series(tmp_path / "a", values.view(np.int32), AXIAL, modality="MR", edit=edit)
    with wsiseg.open_volume(tmp_path / "a") as volume:
        assert volume.dtype == np.float32
        assert np.array_equal(whole(volume)[..., 0], values, equal_nan=True)


def test_colour_has_channels(tmp_path: Path):
    colour = RNG.integers(0, 255, (4, 6, 5, 3)).astype(np.uint8)
    write_series(tmp_path / "a", colour, AXIAL)
    with wsiseg.open_volume(tmp_path / "a") as volume:
        assert volume.channels == 3
        assert np.array_equal(whole(volume), colour)


def test_nothing_personal_is_passed_on(tmp_path: Path):
    write_series(tmp_path / "ct", VOXELS, AXIAL)
    with wsiseg.open_volume(tmp_path / "ct") as volume:
        told = repr(volume.metadata) + repr(volume)
        for secret in ("Nobody", "secret-id", "Hospital", "Operator", "typed", SERIES):
            assert secret not in told


def test_cut_and_damaged_files_are_named(tmp_path: Path):
    paths = write_series(tmp_path / "ct", VOXELS, AXIAL)
    content = paths[3].read_bytes()
    paths[3].write_bytes(content[:-100])
    with pytest.raises(errors.DamagedFileError, match=r"0004\.dcm"):
        whole(wsiseg.open_volume(tmp_path / "ct"))
    paths[3].write_bytes(content[:300])
    with pytest.raises(errors.WsisegError):
        whole(wsiseg.open_volume(tmp_path / "ct"))
    paths[3].write_bytes(b"no DICOM at all")
    with pytest.raises(errors.DamagedFileError, match=r"0004\.dcm"):
        wsiseg.open_volume(tmp_path / "ct")


def test_a_length_beyond_memory_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def read(*_: object, **__: object) -> None:
        raise MemoryError

    write_series(tmp_path / "ct", VOXELS, AXIAL)
    monkeypatch.setattr("wsiseg.source.volumes._dicom_headers.dcmread", read)
    with pytest.raises(errors.DamagedFileError, match="MemoryError"):
        wsiseg.open_volume(tmp_path / "ct")


def test_a_table_of_values_is_refused(tmp_path: Path):
    from pydicom.dataset import Dataset

    write_series(
        tmp_path / "a",
        VOXELS,
        AXIAL,
        edit=lambda h, i: setattr(h, "ModalityLUTSequence", [Dataset()]),
    )
    with pytest.raises(errors.UnsupportedFormatError, match="table"):
        wsiseg.open_volume(tmp_path / "a")


def test_slides_and_scans_do_not_mix(tmp_path: Path, data_dir: Path):
    slide = data_dir / "slides" / "google_ezwsi_test_wsi.dcm"
    if not slide.exists():
        pytest.skip("no DICOM slide")
    assert not wsiseg.is_volume(slide)
    with pytest.raises(errors.WsisegError, match=r"wsiseg\.open"):
        wsiseg.open_volume(slide)
    paths = write_series(tmp_path / "ct", VOXELS, AXIAL)
    assert wsiseg.is_volume(paths[0])
    assert wsiseg.is_volume(tmp_path / "ct")
    for path in (paths[0], tmp_path / "ct"):
        with pytest.raises(errors.UnsupportedFormatError, match="open_volume"):
            wsiseg.open(path)


GOOD = {
    "anatomical/001": "anatomical/001",
    "ge/anatomical/001": "ge/anatomical/001",
    "generic/anatomical/001": "generic/anatomical/001",
    "generic/anatomical/002_non_isotropic": "generic/anatomical/002_non_isotropic",
    "generic/compressed/001": "generic/compressed/001",
    "generic/compressed_j2k/001": "generic/compressed_j2k/001",
    "generic/compressed_jpeg/001": "generic/compressed_jpeg/001",
    "generic/compressed_jpegls/001": "generic/compressed_jpegls/001",
    "generic/compressed_rle/001": "generic/compressed_rle/001",
    "generic/rgb/001": "generic/rgb/001",
    "hyperfine/anatomical/001": "hyperfine/anatomical/001",
    "philips/anatomical/001": "philips/anatomical/001",
    "philips_enhanced/anatomical/001": "philips_enhanced/anatomical/001",
    "siemens/anatomical/001": "siemens/anatomical/001",
}


def compare_with_truth(volume: wsiseg.Volume, truth: Path) -> None:
    """Assert that both have the same values at the same world points."""
    with wsiseg.open_volume(truth) as wanted:
        ours, theirs = volume.oriented("RAS"), wanted.oriented("RAS")
        assert ours.shape == theirs.shape
        corners = [[0, 0, 0], [n - 1 for n in ours.shape], [0, ours.shape[1] - 1, 0]]
        assert np.abs(ours.affine.world(corners) - theirs.affine.world(corners)).max() < 1e-3
        found, true = whole(ours), whole(theirs)[..., : ours.channels]
        assert np.allclose(found, true, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", GOOD)
def test_good_series_are_their_truth(data_dir: Path, name: str):
    folder = data_dir / "volumes" / "dicom2nifti"
    with wsiseg.open_volume(folder / name) as volume:
        compare_with_truth(volume, folder / f"{name}_ground_truth.nii.gz")


def test_a_single_real_slice_is_its_truth(data_dir: Path):
    folder = data_dir / "volumes" / "dicom2nifti" / "ge" / "anatomical"
    with pytest.warns(errors.UnstatedGeometryWarning):
        volume = wsiseg.open_volume(folder / "001_single_slice")
    compare_with_truth(volume, folder / "001_single_slice_ground_truth.nii.gz")


def test_two_real_slices_are_their_truth_when_accepted(data_dir: Path):
    folder = data_dir / "volumes" / "dicom2nifti" / "failing" / "slicecount"
    with wsiseg.open_volume(folder / "001", allow_gap=True) as volume:
        compare_with_truth(volume, folder / "001_ground_truth.nii.gz")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("dicom2nifti/failing/gantrytilting/001", errors.TiltedSlicesError),
        ("dicom2nifti/failing/notavolume/001", errors.NotAVolumeError),
        ("dicom2nifti/failing/slicecount/001", errors.NotAVolumeError),
        ("dicom2nifti/failing/sliceincrement/001", errors.UnevenSlicesError),
        ("dicom2nifti/failing/sliceincrement/002", errors.MissingSlicesError),
        ("dicom2nifti/failing/sliceorientation/001", errors.MixedOrientationError),
        ("dcm_qa_ct/GE", errors.UnevenSlicesError),
    ],
)
def test_real_defects_are_refused(data_dir: Path, name: str, kind: type):
    with pytest.raises(errors.DicomSeriesError) as caught:
        wsiseg.open_volume(data_dir / "volumes" / name)
    assert type(caught.value) is kind
    assert caught.value.slices


def test_the_real_tilted_head_opens_on_request(data_dir: Path):
    folder = data_dir / "volumes" / "dcm_qa_ct" / "GE"
    with wsiseg.open_volume(folder, allow_gap=True, tilt="shear") as volume:
        z = volume.affine.world([[0, 0, 0], [volume.shape[0] - 1, 0, 0]])[:, 2]
        assert np.allclose(z, [5.8360586, 157.7760586], atol=1e-4)
        first = nibabel.affines.voxel_sizes(volume.affine.to_nifti())
        assert first[:2] == pytest.approx(0.4882812)


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of what it makes of them
def test_changed_files_end_in_one_line(tmp_path: Path):
    paths = write_series(tmp_path / "ct", VOXELS[:3], AXIAL)
    multi = write_multiframe(tmp_path / "mr" / "a.dcm", VOXELS[:3], AXIAL)
    for path in (paths[1], multi):
        content = path.read_bytes()
        for trial in range(60):
            changed = bytearray(content)
            if trial % 4 == 0:
                del changed[int(RNG.integers(4, len(content))) :]
            for at in RNG.integers(0, len(changed), 4):
                changed[at] = RNG.integers(0, 256)
            path.write_bytes(changed)
            with suppress(errors.WsisegError), wsiseg.open_volume(path.parent) as volume:
                whole(volume)


@pytest.mark.parametrize("series", ["", SERIES])
def test_reports_list_each_series_with_its_defects(tmp_path: Path, series: str):
    from wsiseg.run import describe_scan

    write_series(tmp_path / "a", VOXELS, AXIAL)
    for path in write_series(tmp_path / "b", VOXELS, AXIAL, series="1.2.5", edit=leave_out(3)):
        shutil.move(path, tmp_path / "a" / f"b-{path.name}")
    records = describe_scan(str(tmp_path / "a"), series=series or None)
    assert [bool(one["problems"]) for one in records] == ([False] if series else [False, True])
    assert records[0]["shape"] == [10, 12, 8]
    assert records[0]["spacing_mm"] == pytest.approx([0.7, 0.8, 2.0])
    if not series:
        assert records[1]["problems"][0]["error"] == "MissingSlicesError"
