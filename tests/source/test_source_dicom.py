"""DICOM slides: made here with pydicom, read back; real ones against pydicom and OpenSlide."""

import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import pytest
import simplejpeg

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("wsidicom")

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402
from pydicom.uid import (  # noqa: E402
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
    VLWholeSlideMicroscopyImageStorage,
    generate_uid,
)

from wsiseg.errors import DamagedFileError, SourceError, UnsupportedFormatError  # noqa: E402
from wsiseg.geometry import Box  # noqa: E402
from wsiseg.source.dicom import DicomSource  # noqa: E402
from wsiseg.testing.contract import SourceContract  # noqa: E402

PIXELS = np.random.default_rng(2).integers(0, 256, (150, 210, 3), dtype=np.uint8)
LEVELS = (PIXELS, PIXELS[::3, ::3], PIXELS[1::7, 1::7])
TILE = (64, 48)
SERIES = generate_uid(entropy_srcs=["series"])


def tiles_of(pixels, tile=TILE):
    """Return the tiles in row order, padded, and (row, column) of their first pixels."""
    height, width = tile
    rows, columns = -(-pixels.shape[0] // height), -(-pixels.shape[1] // width)
    full = np.full((rows * height, columns * width, *pixels.shape[2:]), 99, np.uint8)
    full[: pixels.shape[0], : pixels.shape[1]] = pixels
    corners = [(r * height, c * width) for r in range(rows) for c in range(columns)]
    return [full[y : y + height, x : x + width] for y, x in corners], corners


def header(pixels, *, flavor, series, spacing_mm, base_shape, sop_class):
    """Return a dataset with what every image of a slide states, some of it personal."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID = sop_class
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = generate_uid()
    data.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
    data.SeriesInstanceUID = series
    data.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame"])
    data.Modality = "SM"
    data.PatientName, data.PatientID = "Doe^Jane", "4711"
    data.PatientBirthDate, data.OperatorsName = "19700101", "Roe^Richard"
    data.Manufacturer, data.ManufacturerModelName = "Maker", "Model 7"
    data.ImageType = ["ORIGINAL", "PRIMARY", flavor, "NONE"]
    data.TotalPixelMatrixRows, data.TotalPixelMatrixColumns = pixels.shape[:2]
    data.SamplesPerPixel = pixels.shape[2] if pixels.ndim == 3 else 1
    data.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    data.ImagedVolumeWidth = data.ImagedVolumeHeight = 1.0
    data.ImageOrientationSlide = [0, 1, 0, 1, 0, 0]
    ratio = base_shape[0] / pixels.shape[0]
    measures = Dataset()
    measures.PixelSpacing = [float(f"{value * ratio:.12g}") for value in spacing_mm]
    measures.SliceThickness = 0.001
    shared = Dataset()
    if spacing_mm[0]:
        shared.PixelMeasuresSequence = Sequence([measures])
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    return data


def write(
    path,
    pixels=PIXELS,
    *,
    flavor="VOLUME",
    series=SERIES,
    spacing_mm=(0.0005, 0.00025),
    base_shape=PIXELS.shape,
    missing=None,
    jpeg=False,
    rle=False,
    tile=TILE,
    origin_mm=(10.0, 20.0),
    paths=("1",),
    sop_class=VLWholeSlideMicroscopyImageStorage,
    **attributes,
):
    """Write one image of a slide; `missing` lists tiles left out (TILED_SPARSE)."""
    data = header(
        pixels,
        flavor=flavor,
        series=series,
        spacing_mm=spacing_mm,
        base_shape=base_shape,
        sop_class=sop_class,
    )
    tiles, corners = tiles_of(pixels, tile)
    kept = [i for i in range(len(tiles)) if i not in (missing or ())]
    data.Rows, data.Columns = tile
    data.NumberOfFrames = len(kept) * len(paths)
    data.DimensionOrganizationType = "TILED_FULL" if missing is None else "TILED_SPARSE"
    origin = Dataset()
    origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = origin_mm
    data.TotalPixelMatrixOriginSequence = Sequence([origin])
    data.OpticalPathSequence = Sequence([_optical_path(name) for name in paths])
    data.NumberOfOpticalPaths = len(paths)
    data.TotalPixelMatrixFocalPlanes = 1
    if missing is not None:
        places = [_place(*corners[i]) for i in kept]
        data.PerFrameFunctionalGroupsSequence = Sequence(places)
    frames = [tiles[i] for i in kept] * len(paths)
    if jpeg:
        data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        data.PhotometricInterpretation = "YBR_FULL_422"
        encoded = [
            simplejpeg.encode_jpeg(np.ascontiguousarray(t), 95, colorsubsampling="422")
            for t in frames
        ]
        data.PixelData = encapsulate(encoded)
        data["PixelData"].is_undefined_length = True
    else:
        data.PixelData = b"".join(t.tobytes() for t in frames)
        data["PixelData"].VR = "OB"
    if rle:
        data.compress(RLELossless, generate_instance_uid=False)
    for keyword, value in attributes.items():
        setattr(data, keyword, value)
    with warnings.catch_warnings():  # values that break the standard, on purpose
        warnings.simplefilter("ignore")
        data.save_as(path, enforce_file_format=True)
    return path


def _optical_path(name):
    path = Dataset()
    path.OpticalPathIdentifier = name
    path.ObjectiveLensPower = 20.0
    return path


def _place(row, column):
    position = Dataset()
    position.RowPositionInTotalImagePixelMatrix = row + 1
    position.ColumnPositionInTotalImagePixelMatrix = column + 1
    position.ZOffsetInSlideCoordinateSystem = 0.0
    position.XOffsetInSlideCoordinateSystem = position.YOffsetInSlideCoordinateSystem = 0.0
    frame = Dataset()
    frame.PlanePositionSlideSequence = Sequence([position])
    return frame


def write_series(folder, **options):
    """Write three levels, not in order, and a label and an overview."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, pixels in zip("bac", LEVELS, strict=True):
        write(folder / f"{name}.dcm", pixels, **options)
    write(folder / "l.dcm", np.full((40, 60, 3), 11, np.uint8), flavor="LABEL", tile=(40, 60))
    write(folder / "o.dcm", np.full((30, 90, 3), 22, np.uint8), flavor="OVERVIEW", tile=(30, 90))
    return folder


def whole(source, level=0):
    return source.read(level, Box.of_shape(source.levels[level].shape))


class _Contract(SourceContract):
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(autouse=True)
    def _write(self, tmp_path):
        self.folder = write_series(tmp_path / "slide", **self.options)

    def make_source(self):
        return DicomSource(self.folder)

    def truth(self):
        return PIXELS


class TestSeries(_Contract):
    pass


class TestSparse(_Contract):
    options: ClassVar = {"missing": [1]}

    def truth(self):
        expected = PIXELS.copy()
        expected[:64, 48:96] = 255
        return expected


class TestGrey(SourceContract):
    @pytest.fixture(autouse=True)
    def _write(self, tmp_path):
        self.path = write(tmp_path / "grey.dcm", PIXELS[..., 0])

    def make_source(self):
        return DicomSource(self.path)

    def truth(self):
        return np.repeat(PIXELS[..., :1], 3, axis=-1)


class TestRle(_Contract):
    options: ClassVar = {"rle": True}


class TestJpeg(SourceContract):
    @pytest.fixture(autouse=True)
    def _write(self, tmp_path):
        self.path = write(tmp_path / "jpeg.dcm", jpeg=True)

    def make_source(self):
        return DicomSource(self.path)

    def truth(self):
        expected = np.zeros((192, 240, 3), np.uint8)
        tiles, corners = tiles_of(PIXELS)
        for tile, (y, x) in zip(tiles, corners, strict=True):
            stream = simplejpeg.encode_jpeg(np.ascontiguousarray(tile), 95, colorsubsampling="422")
            expected[y : y + 64, x : x + 48] = simplejpeg.decode_jpeg(stream)
        return expected[:150, :210]


@pytest.mark.parametrize(
    "file", ["google_ezwsi_multiframe_camelyon.dcm", "google_multiframe_j2k_camelyon.dcm"]
)
def test_real_slides_equal_pydicom(data_dir, file):
    path = data_dir / "slides" / file
    with warnings.catch_warnings():  # an overlong identifier in the file
        warnings.simplefilter("ignore")
        data = pydicom.dcmread(path)
        frames = data.pixel_array
    (height, width), columns = frames.shape[1:3], -(-data.TotalPixelMatrixColumns // 256)
    rows = -(-len(frames) // columns)
    grid = frames.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    image = grid.reshape(rows * height, columns * width, 3)
    expected = image[: data.TotalPixelMatrixRows, : data.TotalPixelMatrixColumns]
    with DicomSourceClosing(path) as source:
        np.testing.assert_array_equal(whole(source), expected)
        assert source.metadata.spacing.um == pytest.approx((28.968, 28.969))


@pytest.mark.parametrize("jpeg", [False, True])
def test_missing_tiles_are_background_in_grey_too(tmp_path, jpeg):
    pixels = PIXELS if jpeg else PIXELS[..., 0]
    source = DicomSource(write(tmp_path / "a.dcm", pixels, missing=[1, 4], jpeg=jpeg))
    assert (source.read(0, Box((0, 48), (64, 96))) == 255).all()
    assert source.read(0, Box((0, 0), (64, 48))).std() > 0


def test_levels_and_spacing_come_from_the_files(tmp_path):
    source = DicomSource(write_series(tmp_path / "slide"))
    assert [level.shape for level in source.levels] == [(150, 210), (50, 70), (22, 30)]
    assert source.levels[2].downsample == (150 / 22, 210 / 30)
    assert source.metadata.spacing.um == pytest.approx((0.5, 0.25))
    assert source.metadata.objective_power == 20.0
    assert source.levels[0].chunk == TILE
    for level, pixels in enumerate(LEVELS):
        np.testing.assert_array_equal(whole(source, level), pixels)


@pytest.mark.parametrize("name", ["a.dcm", "b.dcm", "l.dcm"])
def test_any_file_opens_its_whole_series_and_no_other(tmp_path, name):
    folder = write_series(tmp_path / "slide")
    write(folder / "other.dcm", PIXELS[:80], series=generate_uid())
    (folder / "notes.txt").write_text("not DICOM")
    source = DicomSource(folder / name)
    assert source.metadata.name == name
    assert [level.shape for level in source.levels] == [(150, 210), (50, 70), (22, 30)]


def test_label_and_overview_are_read_only_when_asked_for(tmp_path, monkeypatch):
    from wsidicom.instance import WsiDicomImageData

    source = DicomSource(write_series(tmp_path / "slide"))
    asked = []
    original = WsiDicomImageData.get_encoded_tile

    def spy(self, *arguments):
        asked.append(self.image_size)
        return original(self, *arguments)

    monkeypatch.setattr(WsiDicomImageData, "get_encoded_tile", spy)
    assert source.associated_names == ("label", "macro")
    whole(source)
    assert {size.width for size in asked} == {210}
    assert (source.read_associated("label") == 11).all()
    assert source.read_associated("macro").shape == (30, 90, 3)


def test_nothing_about_the_patient_is_kept(tmp_path):
    source = DicomSource(write_series(tmp_path / "slide"))
    text = repr(source.metadata)
    for personal in ("Doe", "Jane", "4711", "1970", "Roe"):
        assert personal not in text
    assert source.metadata.properties["dicom.ManufacturerModelName"] == "Model 7"


@pytest.mark.parametrize("spacing", [(0.0, 0.0), (100.0, 100.0)])
def test_a_missing_or_absurd_pixel_size_is_none(tmp_path, spacing):
    source = DicomSource(write(tmp_path / "a.dcm", spacing_mm=spacing))
    assert source.metadata.spacing is None
    assert source.levels[0].spacing is None


@pytest.mark.parametrize("coding", ["native", "grey", "jpeg", "rle"])
def test_threads_never_get_each_others_tiles(tmp_path, coding):
    """Threads switch as often as possible; wsidicom's own decoder fails this within seconds."""
    pixels = PIXELS[..., 0] if coding == "grey" else PIXELS
    path = write(tmp_path / "a.dcm", pixels, jpeg=coding == "jpeg", rle=coding == "rle")
    with DicomSourceClosing(path) as source:
        boxes = [Box((y, x), (y + 64, x + 48)) for y in (0, 64) for x in (0, 48, 96, 144)]
        expected = [source.read(0, box) for box in boxes] * 2
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(20):
            with DicomSourceClosing(path) as fresh, ThreadPoolExecutor(8) as pool:
                tiles = pool.map(lambda box, fresh=fresh: fresh.read(0, box), boxes * 2)
                for tile, truth in zip(tiles, expected, strict=True):
                    np.testing.assert_array_equal(tile, truth)
    finally:
        sys.setswitchinterval(interval)


class DicomSourceClosing:
    def __init__(self, path):
        self.source = DicomSource(path)

    def __enter__(self):
        return self.source

    def __exit__(self, *_):
        self.source.close()


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"BitsStored": 12, "BitsAllocated": 16, "HighBit": 11}, "3 x 12 bit RGB"),
        ({"PhotometricInterpretation": "YBR_FULL"}, "3 x 8 bit YBR_FULL"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR"),
    ],
)
def test_other_pixels_are_refused_with_what_was_found(tmp_path, attributes, message):
    write(tmp_path / "a.dcm", **attributes)
    with pytest.raises(UnsupportedFormatError, match=message):
        DicomSource(tmp_path / "a.dcm")


def test_several_optical_paths_are_refused(tmp_path):
    write(tmp_path / "a.dcm", PIXELS[..., 0], paths=("1", "2"))
    with pytest.raises(UnsupportedFormatError, match=r"needed one optical path.*found 2"):
        DicomSource(tmp_path / "a.dcm")


def test_a_volume_is_told_apart(tmp_path):
    write(tmp_path / "ct.dcm", sop_class=CTImageStorage, Modality="CT")
    for path in (tmp_path / "ct.dcm", tmp_path):
        with pytest.raises(UnsupportedFormatError, match="CT Image Storage; this is a volume"):
            DicomSource(path)


def test_other_objects_are_told_what_to_open(tmp_path):
    for uid, found in (("1.2.840.10008.5.1.4.1.1.66.4", "Segmentation Storage"), ("1.2.3.4", None)):
        write(tmp_path / "a.dcm", sop_class=UID(uid), Modality="SEG")
        found = found or "another kind of DICOM object"
        with pytest.raises(UnsupportedFormatError, match=f"found {found}; open the SM instances"):
            DicomSource(tmp_path / "a.dcm")


def test_a_label_alone_is_no_slide(tmp_path):
    write(tmp_path / "l.dcm", flavor="LABEL")
    with pytest.raises(UnsupportedFormatError, match=r"image type VOLUME.*found only LABEL"):
        DicomSource(tmp_path / "l.dcm")


def test_a_label_that_cannot_be_read_costs_the_label_only(tmp_path):
    write(tmp_path / "a.dcm")
    write(tmp_path / "l.dcm", flavor="LABEL", PhotometricInterpretation="PALETTE COLOR")
    write(tmp_path / "x.dcm", flavor="LOCALIZER")
    source = DicomSource(tmp_path)
    assert source.associated_names == ()
    np.testing.assert_array_equal(whole(source), PIXELS)


def test_a_folder_of_several_slides_names_them(tmp_path):
    write(tmp_path / "a.dcm")
    write(tmp_path / "b.dcm", series=generate_uid())
    with pytest.raises(SourceError, match=r"found 2; open one file.*a\.dcm, b\.dcm"):
        DicomSource(tmp_path)


def test_two_images_of_one_size_need_a_choice(tmp_path):
    write(tmp_path / "a.dcm")
    write(tmp_path / "b.dcm", 255 - PIXELS)
    with pytest.raises(SourceError, match=r"found 2 of one size; open one by its file: a\.dcm"):
        DicomSource(tmp_path)
    np.testing.assert_array_equal(whole(DicomSource(tmp_path / "b.dcm")), 255 - PIXELS)


def test_two_scans_in_one_series_need_a_choice(tmp_path):
    write(tmp_path / "a.dcm")
    write(tmp_path / "b.dcm", PIXELS[:90], origin_mm=(30.0, 20.0))
    with pytest.raises(SourceError, match="needed one scan, found 2"):
        DicomSource(tmp_path)
    np.testing.assert_array_equal(whole(DicomSource(tmp_path / "b.dcm")), PIXELS[:90])


def test_copies_of_one_image_need_a_choice(tmp_path):
    shutil.copyfile(write(tmp_path / "a.dcm"), tmp_path / "b.dcm")
    with pytest.raises(SourceError, match=r"a\.dcm and b\.dcm claim to be the same"):
        DicomSource(tmp_path)
    assert len(DicomSource(tmp_path / "b.dcm").levels) == 1


@pytest.mark.parametrize("jpeg", [True, False])
def test_a_cut_file_names_the_tile_and_gives_the_others(tmp_path, jpeg):
    path = write(tmp_path / "a.dcm", jpeg=jpeg)
    expected = whole(DicomSource(path))
    path.write_bytes(path.read_bytes()[:-3000])
    source = DicomSource(path)
    with pytest.raises(DamagedFileError, match=r"level 0, tile in row 2, column 4.*; copy the"):
        source.read(0, Box((140, 200), (150, 210)))
    if not jpeg:
        np.testing.assert_array_equal(source.read(0, Box((0, 0), (64, 48))), expected[:64, :48])


def test_a_jpeg_stream_without_its_end_is_damage_not_grey(tmp_path):
    path = write(tmp_path / "a.dcm", jpeg=True)
    data = path.read_bytes()
    end = data.index(b"\xff\xd9")
    path.write_bytes(data[: end - 400] + b"\0" * 402 + data[end + 2 :])
    source = DicomSource(path)
    with pytest.raises(DamagedFileError, match=r"row 0, column 0.*ends early"):
        source.read(0, Box((0, 0), (5, 5)))
    assert source.read(0, Box((0, 48), (64, 96))).std() > 0


@pytest.mark.parametrize("keep", [140, 200, 400, 700, 900, 1000])
def test_a_file_cut_in_its_header_is_no_traceback(tmp_path, keep):
    path = write(tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SourceError, match=r"a\.dcm"):
        DicomSource(path)


def test_damaged_bytes_anywhere_are_no_traceback(tmp_path, caplog):
    data = bytearray(write(tmp_path / "good.dcm", missing=[2], jpeg=True).read_bytes())
    rng = np.random.default_rng(0)
    folder = tmp_path / "bad"
    folder.mkdir()
    outcomes = set()
    for _ in range(120):
        damaged = bytearray(data)
        for place in rng.integers(132, 4000, 3):
            damaged[place] = rng.integers(256)
        (folder / "a.dcm").write_bytes(damaged)
        try:
            source = DicomSource(folder / "a.dcm")
        except SourceError:
            outcomes.add("refused")
            continue
        try:
            source.read(0, Box((0, 0), (100, 100)))
            outcomes.add("read")
        except SourceError:
            outcomes.add("damaged")
        source.close()
    assert "read" in outcomes
    assert "refused" in outcomes
    assert not [record for record in caplog.records if record.exc_info]


def test_files_that_are_not_dicom(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"x" * 500)
    with pytest.raises(UnsupportedFormatError, match=r"needed a DICOM file.*open the SM"):
        DicomSource(tmp_path / "a.dcm")
    with pytest.raises(UnsupportedFormatError, match="needed DICOM files, found none; open the SM"):
        DicomSource(tmp_path)
    with pytest.raises(SourceError, match="cannot be opened"):
        DicomSource(tmp_path / "missing.dcm")


def test_a_missing_package_names_the_extra(tmp_path):
    write(tmp_path / "a.dcm")
    code = (
        "import sys; sys.modules['wsidicom'] = None\n"
        "from wsiseg.errors import SourceError\n"
        "from wsiseg.source.dicom import DicomSource\n"
        "try: DicomSource(sys.argv[1])\n"
        "except SourceError as error: sys.stdout.write(str(error))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.dcm")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "pip install 'wsiseg[dicom]'" in result.stdout


@pytest.mark.parametrize(
    ("file", "error", "message"),
    [
        ("google_ezwsi_test_wsi.dcm", UnsupportedFormatError, "found only LABEL"),
        ("libvips_dicom_test_image.dcm", UnsupportedFormatError, "Nuclear Medicine"),
        ("highdicom/seg_image_sm_dots.dcm", UnsupportedFormatError, "Segmentation Storage"),
        ("highdicom/sm_image_grayscale.dcm", UnsupportedFormatError, "1 x 16 bit MONOCHROME2"),
        ("highdicom", SourceError, "needed a folder of one DICOM series"),
    ],
)
def test_real_files_that_are_no_slides(data_dir, file, error, message):
    with pytest.raises(error, match=message):
        DicomSource(data_dir / "slides" / file)


@pytest.mark.parametrize(
    "file", ["sm_image", "sm_image_control", "sm_image_jpegls", "sm_image_jpegls_nobot"]
)
def test_highdicom_images_equal_pydicom(data_dir, file):
    path = data_dir / "slides/highdicom" / f"{file}.dcm"
    frames = pydicom.dcmread(path).pixel_array
    expected = frames.reshape(5, 5, 10, 10, 3).swapaxes(1, 2).reshape(50, 50, 3)
    np.testing.assert_array_equal(whole(DicomSource(path)), expected)


def test_a_thumbnail_instance_belongs_to_its_slide_and_pixels_equal_openslide(data_dir):
    openslide = pytest.importorskip("openslide")
    folder = data_dir / "slides/openslide-python"
    source = DicomSource(folder / "boxes_1.dcm")
    assert [level.shape for level in source.levels] == [(16, 16)]
    assert source.associated_names == ("thumbnail",)
    with openslide.OpenSlide(folder / "boxes_0.dcm") as slide:
        expected = np.asarray(slide.read_region((0, 0), 0, (16, 16)))[..., :3]
    np.testing.assert_array_equal(whole(source), expected)
