"""Which slides a command line names."""

import os
from dataclasses import replace

import pytest

import wsiseg
from wsiseg.engine import finished_folder
from wsiseg.errors import SourceError, UsageError
from wsiseg.run.inputs import SlideJob, as_jobs, list_slides
from wsiseg.source.naming import stem_of


@pytest.fixture
def folder(tmp_path):
    for name in (
        "b.svs",
        "a.tif",
        "notes.txt",
        ".hidden.svs",
        "sub/c.ndpi",
        "m.mrxs",
        "m/Data.dat",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "z.zarr").mkdir()
    (tmp_path / "z.zarr" / "inner.tif").write_bytes(b"x")
    return tmp_path


def names(jobs):
    return [job.output for job in jobs]


def test_a_folder_gives_its_slides_in_order(folder):
    assert names(list_slides([str(folder)])) == ["a", "b", "m", "z"]


def test_recursive_never_enters_a_slides_own_folder(folder):
    assert names(list_slides([str(folder)], recursive=True)) == ["a", "b", "m", "c", "z"]


def test_globs_files_and_repeats(folder):
    arguments = [str(folder / "*.svs"), str(folder / "b.svs"), str(folder / "a.tif")]
    assert names(list_slides(arguments)) == ["b", "a"]


def test_a_table_gives_paths_and_pixel_sizes(folder):
    table = folder / "cases.csv"
    table.write_text("slide,mpp\nb.svs,0.25\nsub/c.ndpi,\n", encoding="utf-8-sig")
    jobs = list_slides([str(table)], mpp=0.5)
    assert [(job.path, job.mpp) for job in jobs] == [
        (str(folder / "b.svs"), 0.25),
        (str(folder / "sub/c.ndpi"), 0.5),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("slide,mpp\nb.svs,small\n", "line 2: mpp 'small' is not a number"),
        ("file,mpp\nb.svs,1\n", "needed columns slide,mpp"),
        ("", "names no slide"),
        ("slide,mpp\n", "names no slide"),
        ("wsi,mpp\nb.svs,1\n", "needed columns slide,mpp, found wsi,mpp"),
        ("slide,mpp_um\nb.svs,1\n", "unknown column 'mpp_um'"),
        ("slide,mpp\nb.svs,0\n", "line 2: mpp '0' is not a pixel size"),
        ("slide,mpp\nb.svs,nan\n", "line 2: mpp 'nan' is not a pixel size"),
        ("slide,mpp\nb.svs,-1\n", "line 2: mpp '-1' is not a pixel size"),
        (
            'slide,mpp\nb.svs,"0,25"\n',
            "line 2: mpp '0,25' would be x,y.*a point, as in 0.25",
        ),
        ("slide,mpp_x\nb.svs,1\n", "needed either mpp, or one number each in mpp_x and mpp_y"),
        ("slide,mpp,mpp_x,mpp_y\nb.svs,1,1,1\n", "needed either mpp"),
        ("slide,mpp\nb.svs,0.5\n./b.svs,0.25\n", "listed twice, with 0.5 and with 0.25"),
    ],
)
def test_a_wrong_table_says_where(folder, content, message):
    table = folder / "cases.csv"
    table.write_text(content)
    with pytest.raises(UsageError, match=message):
        list_slides([str(table)])


def test_two_slides_of_one_stem_are_refused_or_nested(folder):
    (folder / "sub" / "B.tif").write_bytes(b"x")
    arguments = [str(folder / "b.svs"), str(folder / "sub" / "B.tif")]
    with pytest.raises(UsageError, match=r"two slides would write to .*b.svs.*B.tif.*--nested"):
        list_slides(arguments)
    assert names(list_slides(arguments, nested=True)) == [f"{folder.name}/b", "sub/B"]


def test_nested_takes_as_many_folders_as_it_needs(tmp_path):
    paths = [tmp_path / side / "x" / "s.tif" for side in "ab"]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    jobs = list_slides([str(path) for path in paths], nested=True)
    assert names(jobs) == ["a/x/s", "b/x/s"]
    jobs = list_slides([str(path.parent / ".." / "x" / "s.tif") for path in paths], nested=True)
    assert names(jobs) == ["a/x/s", "b/x/s"]


def test_one_stem_in_one_folder_is_told_apart_by_suffix(folder):
    (folder / "b.tif").write_bytes(b"x")
    jobs = list_slides([str(folder / "b.svs"), str(folder / "b.tif")], nested=True)
    assert names(jobs) == ["b-svs", "b-tif"]


def test_a_name_too_long_is_left_to_the_reader():
    (job,) = list_slides(["x" * 300 + ".svs"])
    assert job.output == "x" * 300


@pytest.mark.parametrize("what", ["*.nothing", "empty"])
def test_nothing_found_is_an_error(folder, what):
    (folder / "empty").mkdir()
    with pytest.raises(UsageError, match=r"matches no file|no slides in"):
        list_slides([str(folder / what)])


def test_urls_stay_as_they_are():
    (job,) = list_slides(["https://example.org/data/case%201.ome.tif?x=1"])
    assert job.path.startswith("https://")
    assert job.output == "case%201"


def test_a_missing_file_is_left_to_the_reader(folder):
    (job,) = list_slides([str(folder / "gone.svs")])
    assert job.output == "gone"


def test_odd_names(tmp_path):
    path = tmp_path / "[odd] 😐.svs"
    path.write_bytes(b"x")
    assert names(list_slides([str(path)])) == ["[odd] 😐"]
    assert names(list_slides([str(tmp_path)])) == ["[odd] 😐"]


def test_a_table_as_spreadsheets_write_it(folder):
    table = folder / "cases.csv"
    table.write_text("Slide;MPP\nb.svs;0,25\n", encoding="utf-8-sig")
    (job,) = list_slides([str(table)])
    assert (job.path, job.mpp) == (str(folder / "b.svs"), 0.25)


@pytest.mark.parametrize(
    "content",
    [
        "slide,mpp_x,mpp_y\nb.svs,0.5,0.6\n",
        'slide,mpp\nb.svs,"0.5,0.6"\n',
        "slide;mpp_x;mpp_y\nb.svs;0,5;0,6\n",
        "slide;mpp\nb.svs;0.5,0.6\n",
    ],
)
def test_a_table_gives_pixels_that_are_not_square(folder, content):
    table = folder / "cases.csv"
    table.write_text(content)
    (job,) = list_slides([str(table)])
    assert job.mpp == (0.5, 0.6)


def test_the_pixel_size_of_a_table_counts_wherever_the_table_stands(folder):
    table = folder / "cases.csv"
    table.write_text("slide,mpp\nb.svs,0.5\nb.svs,0.5\n")
    for arguments in ([str(folder / "b.svs"), str(table)], [str(table), str(folder / "b.svs")]):
        (job,) = list_slides(arguments, mpp=1.0)
        assert job.mpp == 0.5


def test_wsisegs_own_results_are_no_slides(folder):
    with finished_folder(folder / "out", "case", slide="abc") as result:
        (result / "heatmap.zarr").mkdir()
        (result / "overview.png").write_bytes(b"x")
    assert names(list_slides([str(folder)], recursive=True)) == ["a", "b", "m", "c", "z"]
    for argument in (folder / "out" / "case", folder / "out" / "*"):
        with pytest.raises(UsageError, match="no slides"):
            list_slides([str(argument)])


def test_jobs_are_taken_as_they_are_and_paths_looked_up(folder):
    job = SlideJob(str(folder / "b.svs"), "own/name", mpp=0.5)
    assert as_jobs([job, replace(job, output="other")])[0] is job
    assert names(as_jobs([folder / "a.tif", job, str(folder / "sub")])) == ["own/name", "a", "c"]
    assert names(as_jobs(str(folder))) == ["a", "b", "m", "z"]
    assert as_jobs([]) == ()
    with pytest.raises(UsageError, match="two slides would write to"):
        as_jobs([job, job])


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        ("x/a.ome.tif", "a"),
        ("x/A.OME.TIF", "A"),
        ("a.ome.zarr/", "a"),
        ("a.b.svs", "a.b"),
        ("https://example.org/d/case%201.ome.tif?x=1.y", "case%201"),
        ("what?.svs", "what?"),
        ("", "slide"),
    ],
)
def test_stems(path, stem):
    assert stem_of(path) == stem


def test_a_slide_and_its_job_have_one_stem(tmp_path):
    from wsiseg.testing.slides import make_svs, tissue_disc

    path = make_svs(tmp_path / "A.OME.svs", tissue_disc((99, 99))[0], levels=(1,), mpp=0.5)
    (job,) = list_slides([str(path)])
    with wsiseg.open(path) as slide:
        assert slide.stem == job.output == "A"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("ending", [".svs", ".dcm", ".nii"])
def test_links_in_a_circle_pipes_and_devices_fail_alone(tmp_path, ending):
    """None of them ends the run, or lets it wait for ever."""
    (tmp_path / f"circle{ending}").symlink_to(f"circle{ending}")
    os.mkfifo(tmp_path / f"pipe{ending}")
    (tmp_path / f"zero{ending}").symlink_to("/dev/zero")
    jobs = list_slides([str(tmp_path)], volumes=ending == ".nii")
    assert names(jobs) == ["circle", "pipe", "zero"]
    for name in ("circle", "pipe", "zero"):
        for opened in (wsiseg.open, wsiseg.open_volume):
            with pytest.raises(SourceError, match=f"{name}.*(symbolic|pipe or a device)"):
                opened(tmp_path / f"{name}{ending}")
