"""NIfTI on the grid of the scan: nibabel reads back what was written, where it was."""

import gzip
import itertools

import nibabel
import numpy as np
import pytest
import zarr
from scipy.spatial.transform import Rotation

from wsiseg.errors import UsageError
from wsiseg.geometry import Affine
from wsiseg.volume import arrays
from wsiseg.volume.nifti import write_nifti


def oblique(shear=0.0):
    matrix = np.eye(4)
    turn = Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix()
    matrix[:3, :3] = turn @ np.diag([0.7, 0.9, 5.0])
    matrix[:3, 2] += shear * matrix[:3, 1]
    matrix[:3, 3] = -30, 12, 400
    return matrix


def some_labels(shape=(5, 7, 9), *, largest=3, dtype=np.int64):
    return np.random.default_rng(0).integers(0, largest + 1, shape).astype(dtype)


@pytest.mark.parametrize("shear", [0.0, 0.4])
def test_reads_back_at_the_same_place(tmp_path, shear):
    labels = some_labels()
    affine = Affine.from_nifti(oblique(shear))
    back = nibabel.load(write_nifti(tmp_path / "a.nii.gz", labels, affine))
    np.testing.assert_array_equal(np.asarray(back.dataobj).T, labels)
    np.testing.assert_allclose(back.affine, oblique(shear), atol=1e-5)
    assert (int(back.header["qform_code"]) == 0) == bool(shear)
    if not shear:
        np.testing.assert_allclose(back.header.get_qform(), oblique(), atol=1e-4)


@pytest.mark.parametrize(
    ("largest", "dtype"), [(255, "u1"), (256, "i2"), (40000, "u2"), (70000, "i4"), (3 << 30, "u4")]
)
def test_smallest_type_that_holds_all(tmp_path, largest, dtype):
    labels = some_labels(largest=1)
    labels[2, 3, 4] = largest
    back = nibabel.load(write_nifti(tmp_path / "a.nii", labels, Affine.from_nifti(np.eye(4))))
    assert back.get_data_dtype() == np.dtype(dtype)
    assert int(np.asarray(back.dataobj).max()) == largest


def test_slabs_and_stores_change_no_byte(tmp_path, monkeypatch):
    labels = some_labels((20, 8, 8), dtype=np.uint16)
    affine = Affine.from_nifti(oblique())
    whole = write_nifti(tmp_path / "a.nii.gz", labels, affine).read_bytes()
    monkeypatch.setattr(arrays, "SLAB_BYTES", 300)
    store = zarr.create_array(tmp_path / "a.zarr", data=labels, chunks=(3, 8, 8))
    assert write_nifti(tmp_path / "other.nii.gz", store, affine).read_bytes() == whole
    assert whole[3:8] == bytes(5)  # no name, no time
    assert len(gzip.decompress(whole)) == 352 + labels.size


def test_probabilities_have_a_volume_per_channel(tmp_path):
    values = np.random.default_rng(0).random((4, 5, 6, 3)).astype(np.float16)
    affine = Affine.from_nifti(oblique())
    back = nibabel.load(write_nifti(tmp_path / "p.nii.gz", values, affine))
    assert back.shape == (6, 5, 4, 3)
    np.testing.assert_array_equal(back.get_fdata().transpose(2, 1, 0, 3), values)


@pytest.mark.parametrize("letters", ["".join(o) for o in itertools.product("RL", "AP", "SI")][::3])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_turned_arrays_are_turned_back(tmp_path, letters, order):
    code = "".join(letters[i] for i in order)
    scan = some_labels(dtype=np.uint8)
    stored = Affine.from_nifti(oblique())
    turn = stored.turn_to(code)
    turned, affine = turn.apply(scan), stored.turned(turn, scan.shape)
    back = nibabel.load(write_nifti(tmp_path / "a.nii.gz", turned, affine, stored=stored))
    np.testing.assert_array_equal(np.asarray(back.dataobj).T, scan)
    np.testing.assert_allclose(back.affine, oblique(), atol=1e-5)


def test_what_is_no_turn_is_refused(tmp_path):
    affine = Affine.from_nifti(oblique())
    with pytest.raises(UsageError, match="another order"):
        write_nifti(tmp_path / "a.nii", some_labels(), affine, stored=affine.resampled((1, 1, 2)))
    with pytest.raises(UsageError, match="NIfTI takes"):
        write_nifti(tmp_path / "a.nii", np.zeros((3, 3), np.uint8), affine)
    with pytest.raises(UsageError, match="32767"):
        write_nifti(tmp_path / "a.nii", np.zeros((40000, 1, 1), np.uint8), affine)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("endian", "<>")
def test_header_of_the_scan_is_kept(tmp_path, kind, endian):
    labels = some_labels(dtype=np.uint8)
    header = kind.header_class(endianness=endian)
    scan = kind(labels.T.astype(np.int16), oblique(0.1), header)
    scan.set_qform(oblique(), 1)
    scan.set_sform(oblique(0.1), 4)
    scan.header.set_intent("estimate", name="thickness")
    scan.header.set_xyzt_units("mm", "sec")
    nibabel.save(scan, tmp_path / "scan.nii.gz")
    made = write_nifti(
        tmp_path / "a.nii.gz", labels, Affine.from_nifti(scan.affine), like=tmp_path / "scan.nii.gz"
    )
    back = nibabel.load(made).header
    for name in ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "xyzt_units"):
        assert back[name] == pytest.approx(float(scan.header[name])), name
    for name in ("srow_x", "srow_y", "srow_z", "pixdim"):
        np.testing.assert_allclose(back[name], scan.header[name].astype(np.float32))
    assert back.get_intent() == ("estimate", (), "thickness")


def test_real_scans_keep_their_frame(data_dir, tmp_path):
    """One with sform and qform, one big-endian, one with odd axes."""
    volumes = data_dir / "volumes"
    for name in (
        "totalsegmentator/example_ct_sm.nii.gz",
        "monai/anatomical.nii",
        "sct_testing_data/t2/t2.nii.gz",
    ):
        scan = nibabel.load(volumes / name)
        labels = (np.asarray(scan.dataobj) > 100).T.astype(np.uint8)
        affine = Affine.from_nifti(scan.affine)
        path = write_nifti(tmp_path / "a.nii.gz", labels, affine, like=volumes / name)
        back = nibabel.load(path)
        np.testing.assert_array_equal(back.affine, scan.affine)
        assert (back.get_qform(coded=True)[1], back.get_sform(coded=True)[1]) == (
            scan.get_qform(coded=True)[1],
            scan.get_sform(coded=True)[1],
        )
        np.testing.assert_array_equal(np.asarray(back.dataobj).T, labels)
