"""Nothing personal reaches an output, and no name leads out of the output folder."""

import gzip
import shutil
import warnings

import pytest

import wsiseg
from wsiseg.engine.output import check_name, finished_folder
from wsiseg.errors import RunError
from wsiseg.options import DamageOptions, SegmentOptions, TissueOptions
from wsiseg.run import SlideJob, list_slides, segment_folder, tissue_folder
from wsiseg.source.dicom import DicomSource
from wsiseg.source.tiff import TiffSource
from wsiseg.testing import hostile
from wsiseg.testing.fuzz.scans import SCANS
from wsiseg.testing.models import make_colour_model
from wsiseg.testing.scan_models import make_scan_model
from wsiseg.testing.slides import make_svs, tissue_disc

SECRETS = (b"Doe", b"Jane", b"S12-345", b"4711", b"Operator", b"29991231", b"St. Elsewhere")
"""Planted in every personal field."""


@pytest.fixture(scope="module", autouse=True)
def _home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSISEG_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture
def no_associated(monkeypatch):
    """Let reading a label, a macro image or a thumbnail fail."""

    def never(self, name):
        raise AssertionError(f"{name} was read")

    for kind in (TiffSource, DicomSource):
        monkeypatch.setattr(kind, "read_associated", never)


def assert_nothing_personal(folder, *texts):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) >= 9
    for path in files:
        content = path.read_bytes() + str(path.relative_to(folder)).encode()
        if path.suffix == ".gz":
            content += gzip.decompress(path.read_bytes())
        found = [secret for secret in SECRETS if secret in content]
        assert not found, (path, found)
    for text in texts:
        assert not [secret for secret in SECRETS if secret.decode() in text], text


def run(path, model, out, caplog, **options):
    """Segment a slide; return what was said, shown or warned."""
    caplog.set_level("DEBUG")
    caplog.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chosen = SegmentOptions(damage=DamageOptions(max_corrupt=1.0), **options)
        report = segment_folder([str(path)], model, out, options=chosen)
    assert not report.failures, report.failures
    said = [str(w.message) for w in caught]
    return [*said, caplog.text, str([r.to_dict() for r in report.done]), repr(report)]


def test_a_slides_description_stays_in_the_slide(tmp_path, monkeypatch, no_associated, caplog):
    import wsiseg.testing.slides as made

    fields = "|User = Operator|Barcode = S12-345|Patient = Doe^Jane|Filename = 4711|Date = 29991231"
    monkeypatch.setattr(made, "LIBRARY", made.LIBRARY + f"{fields}|")
    pixels, _ = tissue_disc((900, 1000))
    path = make_svs(tmp_path / "a.svs", pixels, levels=(1, 4), mpp=0.5)
    content = path.read_bytes()
    assert all(secret in content for secret in (b"S12-345", b"Doe^Jane", b"4711"))
    hurt = hostile.damage_tile(path, tmp_path / "b.svs", tile=5)
    model = make_colour_model(tmp_path / "model")
    texts = run(hurt, model, tmp_path / "out", caplog)
    assert_nothing_personal(tmp_path / "out", *texts)
    with wsiseg.open(path) as slide:
        assert_nothing_personal(tmp_path / "out", repr(slide), str(slide.metadata))
        assert {"label", "macro", "thumbnail"} == set(slide.associated_names)


def test_dicom_headers_stay_in_the_files(data_dir, tmp_path, no_associated, caplog):
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("wsidicom")
    source = data_dir / "slides/google_ezwsi_multiframe_camelyon.dcm"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pydicom.dcmread(source)
        data.PatientName, data.PatientID, data.OtherPatientIDs = "Doe^Jane", "4711", "4711"
        data.OperatorsName, data.InstitutionName = "Operator", "St. Elsewhere"
        data.AccessionNumber = data.ContainerIdentifier = data.StudyID = "S12-345"
        data.ImageComments = data.StudyDescription = data.SeriesDescription = "Doe^Jane"
        data.DeviceSerialNumber = "4711"
        data.add_new("PatientBirthDate", "DA", "Jane, 29991231")  # pydicom complains, quoting it
        data.save_as(tmp_path / "a.dcm")
    model = make_colour_model(
        tmp_path / "model", spacing_um=30.0, patch=16, stride=8, refine_um=60.0, window=64, halo=8
    )
    texts = run(
        tmp_path / "a.dcm", model, tmp_path / "out", caplog, tissue=TissueOptions(detector="none")
    )
    assert_nothing_personal(tmp_path / "out", *texts)


def name_nifti(path):
    """Fill the free texts but for the name of the intent, which is kept: what voxels mean."""
    content = bytearray(path.read_bytes())
    for offset, text in ((14, b"4711"), (148, b"Doe^Jane"), (228, b"S12-345")):
        content[offset : offset + len(text)] = text
    path.write_bytes(content)


def name_text(*lines):
    """Return what puts lines behind the first one of a header."""

    def change(path):
        first, rest = path.read_bytes().split(b"\n", 1)
        path.write_bytes(b"\n".join([first, *lines, rest]))

    return change


def name_series(folder):
    pydicom = pytest.importorskip("pydicom")
    for path in folder.glob("*"):
        data = pydicom.dcmread(path)
        data.PatientName, data.PatientID, data.OperatorsName = "Doe^Jane", "4711", "Operator"
        data.InstitutionName, data.SeriesDescription = "St. Elsewhere", "S12-345"
        data.save_as(path)


NAMED = {
    "nifti": name_nifti,
    "nrrd-raw": name_text(b"# Doe^Jane", b"patient:=Doe^Jane 4711"),
    "mha": name_text(b"PatientName = Doe^Jane", b"Comment = 4711"),
    "series": name_series,
}
"""What writes names into the header of a scan."""


@pytest.mark.parametrize("kind", NAMED)
def test_headers_of_scans_stay_in_the_files(tmp_path, caplog, kind):
    (tmp_path / "in").mkdir()
    path = SCANS[kind](tmp_path / "in")
    NAMED[kind](path)
    model = make_scan_model(tmp_path / "model", patch=(4, 8, 8), spacing_mm=None, full=576.0)
    texts = run(path, model, tmp_path / "out", caplog)
    assert_nothing_personal(tmp_path / "out", *texts)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a\0b", "control characters"),
        ("a\nb", "control characters"),
        ("\x7f", "control characters"),
        ("x" * 241, "longer than 240 bytes"),
        ("ü" * 121, "longer than 240 bytes"),
        ("summary.csv", "is reserved"),
        ("sub/Failures.CSV", "is reserved"),
        (".wsiseg-77@host-abc", "is reserved"),
        (".wsiseg", "is reserved"),
        ("CON", "is reserved"),
        ("aux.old", "is reserved"),
        ("../up", "outside the output folder"),
        ("a/../../up", "outside the output folder"),
        ("/abs", "outside the output folder"),
        ("", "outside the output folder"),
    ],
)
def test_names_that_no_result_may_have(tmp_path, name, message):
    with pytest.raises(RunError, match=message), finished_folder(tmp_path / "out", name):
        pass
    assert not (tmp_path / "up").exists()
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    "name", ["κατά 切片 🔬", "-rf", "~root", "a'b\"c", "%s", "con1sole", "..a"]
)
def test_odd_names_are_names(tmp_path, name):
    check_name(name)
    with finished_folder(tmp_path, name) as folder:
        (folder / "x").write_text("x")
    assert (tmp_path / name / "x").exists()


def test_a_link_does_not_lead_out(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "case").symlink_to(tmp_path / "elsewhere")
    with (
        pytest.raises(RunError, match="outside the output folder"),
        finished_folder(tmp_path / "out", "case/a"),
    ):
        pass
    assert not list((tmp_path / "elsewhere").iterdir())


def test_one_badly_named_slide_fails_alone(tmp_path):
    pixels, _ = tissue_disc((500, 500))
    good = make_svs(tmp_path / "good.svs", pixels, levels=(1,), mpp=4.0)
    bad = tmp_path / "summary.csv.svs"
    shutil.copyfile(good, bad)
    jobs = [*list_slides([str(good), str(bad)]), SlideJob(str(good), "a\0b")]
    report = tissue_folder(jobs, tmp_path / "out")
    assert [row.path for row in report.done] == [str(good)]
    assert [row.error_class for row in report.failures] == ["RunError", "RunError"]
    assert (tmp_path / "out" / "summary.csv").is_file()
