"""OME-Zarr images with a z axis as volumes."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import zarr

import wsiseg
from wsiseg.errors import (
    DamagedFileError,
    MissingSpacingError,
    UnstatedGeometryWarning,
    UnsupportedFormatError,
    WsisegError,
)
from wsiseg.geometry import Affine, Box
from wsiseg.source import VolumeSource
from wsiseg.testing.volumes import VolumeSourceContract

RNG = np.random.default_rng(9)
VOXELS = RNG.integers(-1000, 1000, (9, 10, 11)).astype(np.int16)
RAS = {"x": "left-to-right", "y": "posterior-to-anterior", "z": "inferior-to-superior"}


def write(
    path: Path,
    voxels: np.ndarray = VOXELS,
    axes: str = "zyx",
    *,
    growth: dict | None = RAS,
    unit: str | None = "millimeter",
    transformations: list | None = None,
    more: list | None = None,
    version: int = 3,
) -> Path:
    group = zarr.open_group(path, mode="w", zarr_format=version)
    for level, array in enumerate((voxels, voxels[(slice(None, None, 2),) * voxels.ndim])):
        group.create_array(str(level), data=array, chunks=tuple(min(4, n) for n in array.shape))
    described = []
    for axis in axes:
        one = {"name": axis, "type": "space" if axis in "zyx" else "channel"}
        if axis in "zyx" and unit:
            one["unit"] = unit
        if growth and axis in growth:
            one["orientation"] = {"type": "anatomical", "value": growth[axis]}
        described.append(one)
    sizes = {"z": 2.5, "y": 0.6, "x": 0.5}
    if transformations is None:
        transformations = [
            {"type": "scale", "scale": [sizes.get(axis, 1.0) for axis in axes]},
            {
                "type": "translation",
                "translation": [{"z": 30, "y": -20, "x": 10}.get(a, 0) for a in axes],
            },
        ]
    multiscale = {
        "axes": described,
        "datasets": [
            {"path": "0", "coordinateTransformations": transformations},
            {"path": "1", "coordinateTransformations": transformations},
        ],
        "coordinateTransformations": more or [],
    }
    if version == 3:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
    else:
        group.attrs["multiscales"] = [{**multiscale, "version": "0.4"}]
    return path


def whole(volume: wsiseg.Volume) -> np.ndarray:
    return volume.read(Box.of_shape(volume.shape))


class TestOmeZarr(VolumeSourceContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path):
        self.path = write(tmp_path / "a.zarr")

    def make_source(self) -> VolumeSource:
        return wsiseg.open_volume(self.path).source


@pytest.mark.parametrize("version", [2, 3])
def test_the_finest_resolution_in_its_place(tmp_path: Path, version: int):
    path = write(tmp_path / "a.zarr", version=version)
    assert wsiseg.is_volume(path)
    with wsiseg.open_volume(path) as volume:
        assert np.array_equal(whole(volume)[..., 0], VOXELS)
        wanted = Affine.from_spacing((2.5, 0.6, 0.5), origin=(10, -20, 30))
        assert volume.affine.is_close(wanted, 1e-9)
        assert volume.chunk == (4, 4, 4)
        assert volume.metadata.properties["ome-zarr.orientation"] == "stated"


@pytest.mark.parametrize("axes", ["xyz", "yzx", "cxzy", "zyxc", "tczyx"])
def test_axes_are_taken_by_name(tmp_path: Path, axes: str):
    sizes = {"z": 0, "y": 1, "x": 2}
    voxels = VOXELS.transpose([sizes[a] for a in axes if a in sizes])
    for at, axis in enumerate(axes):
        if axis not in sizes:
            voxels = np.expand_dims(voxels, at)
    with wsiseg.open_volume(write(tmp_path / "a.zarr", voxels, axes)) as volume:
        assert np.array_equal(whole(volume)[..., 0], VOXELS)


def test_directions_that_are_not_stated_are_taken_as_itk_has_them(tmp_path: Path):
    path = write(tmp_path / "a.zarr", growth=None)
    with pytest.warns(UnstatedGeometryWarning, match="x to the left"):
        volume = wsiseg.open_volume(path)
    assert volume.affine.orientation == "LPS"
    affine = Affine.from_spacing((1, 1, 1))
    assert wsiseg.open_volume(path, affine=affine).affine == affine  # and no warning


def test_units_and_transformations_of_the_whole(tmp_path: Path):
    more = [
        {"type": "scale", "scale": [2, 2, 2]},
        {"type": "translation", "translation": [0, 0, 5]},
    ]
    path = write(tmp_path / "a.zarr", unit="micrometer", more=more, transformations=[
        {"type": "scale", "scale": [2500, 600, 500]},
        {"type": "translation", "translation": [0, 0, 1000]},
    ])  # fmt: skip
    with wsiseg.open_volume(path) as volume:
        wanted = Affine.from_spacing((5.0, 1.2, 1.0), origin=(2.005, 0, 0))
        assert volume.affine.is_close(wanted, 1e-9)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"unit": None}, MissingSpacingError),
        ({"transformations": []}, MissingSpacingError),
        ({"transformations": [{"type": "scale", "scale": [1, 0, 1]}]}, MissingSpacingError),
        ({"growth": {**RAS, "y": "left-to-right"}}, MissingSpacingError),
        ({"axes": "tyx"}, UnsupportedFormatError),
        ({"voxels": np.ones((9, 10, 11), np.complex64)}, UnsupportedFormatError),
    ],
)
def test_what_makes_no_volume(tmp_path: Path, options: dict, kind: type):
    with pytest.raises(kind):
        wsiseg.open_volume(write(tmp_path / "a.zarr", **options), reader="omezarr")


def test_time_points_are_refused(tmp_path: Path):
    path = write(tmp_path / "a.zarr", np.stack([VOXELS, VOXELS]), "tzyx")
    with pytest.raises(UnsupportedFormatError, match="t = 2"):
        wsiseg.open_volume(path, reader="omezarr")


def test_a_volume_is_no_slide(tmp_path: Path):
    with pytest.raises(UnsupportedFormatError, match="open_volume"):
        wsiseg.open(write(tmp_path / "a.zarr"))


def test_damaged_chunks_are_named(tmp_path: Path):
    path = write(tmp_path / "a.zarr")
    for chunk in (path / "0" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(chunk.read_bytes()[:10])
    with wsiseg.open_volume(path) as volume, pytest.raises(DamagedFileError, match="slices 0 to 8"):
        whole(volume)


def test_changed_metadata_ends_in_one_line(tmp_path: Path):
    path = write(tmp_path / "a.zarr")
    content = (path / "0" / "zarr.json").read_bytes()
    for _ in range(60):
        changed = bytearray(content)
        for at in RNG.integers(0, len(content), 2):
            changed[at] = RNG.integers(32, 127)
        (path / "0" / "zarr.json").write_bytes(changed)
        with suppress(WsisegError), wsiseg.open_volume(path, reader="omezarr") as volume:
            whole(volume)
