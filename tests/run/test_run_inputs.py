"""Which slides a command line names."""

import pytest

from wsiseg.errors import UsageError
from wsiseg.run.inputs import list_slides


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
