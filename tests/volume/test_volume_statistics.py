"""Figures of classes and lesions in physical units."""

import nibabel
import numpy as np
import pytest
import zarr
from phantoms import SPACINGS, ellipsoid, tilted

from wsiseg.errors import UsageError
from wsiseg.geometry import Affine, Box
from wsiseg.volume import arrays
from wsiseg.volume.shells import distance_mm, peritumoral_shells
from wsiseg.volume.statistics import ScanClass, StatisticsOptions, scan_statistics

TUMOUR = ScanClass(1, "tumour")
NODES = ScanClass(2, "lymph nodes")


def two_balls(affine, radii=(10, 5), shape=(60, 60, 90)):
    """Return labels with two balls of class 1, and an image that is 100 in the larger one."""
    labels = np.zeros(shape, np.uint8)
    image = np.zeros(shape, np.int16)
    for radius, x in zip(radii, (25, 65), strict=True):
        ball = ellipsoid(affine, (radius,) * 3, shape=shape, offset=(0, 0, x - 44.5))
        labels[ball] = 1
        image[ball] = 10 * radius
    return labels, image


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("radius", [8, 15])
def test_volume_is_that_of_the_voxels_and_of_the_body(spacing, radius):
    affine = tilted(spacing)
    mask = ellipsoid(affine, (radius,) * 3).astype(np.uint8)
    (found,) = scan_statistics(mask, affine, [TUMOUR]).classes
    voxels = mask.sum() * np.prod(spacing) / 1000
    assert found.volume_ml == pytest.approx(voxels, rel=1e-9)
    assert found.volume_ml == pytest.approx(4 / 3 * np.pi * radius**3 / 1000, rel=0.03)
    lesion = found.lesions[0]
    assert lesion.equivalent_diameter_mm == pytest.approx(2 * radius, rel=0.01)


def test_lesions_are_told_apart():
    affine = Affine.from_spacing((1, 1, 1), origin=(-44.5, 3, 7))
    labels, image = two_balls(affine)
    options = StatisticsOptions(midline_mm=0.0)
    (found,) = scan_statistics(labels, affine, [TUMOUR], image=image, options=options).classes
    first, second = found.lesions
    assert (found.component_count, first.number, second.number) == (2, 1, 2)
    assert first.voxels + second.voxels == found.voxels == (labels == 1).sum()
    assert (first.left_percent, second.left_percent) == (100, 0)
    assert first.centroid_mm == pytest.approx((-19.5, 32.5, 36.5), abs=0.1)
    assert first.intensity["mean"] == 100
    assert second.intensity["median"] == 50
    share = first.voxels / found.voxels
    assert found.left_percent == pytest.approx(100 * share)


def test_corners_connect():
    """26-connectivity: two voxels that share a corner are one lesion."""
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[1, 1, 1] = labels[2, 2, 2] = 1
    (found,) = scan_statistics(labels, Affine.from_spacing((1, 1, 1)), [TUMOUR]).classes
    assert found.component_count == 1


@pytest.mark.parametrize(("diameter", "enlarged"), [(8, False), (14, True)])
def test_lymph_nodes_are_judged_by_their_short_axis(diameter, enlarged):
    affine = tilted((1.0, 0.7, 0.7))
    labels = 2 * ellipsoid(affine, (15, diameter / 2, 9)).astype(np.uint8)
    found = scan_statistics(labels, affine, [TUMOUR, NODES]).classes
    assert found[0].enlarged_count is None
    assert found[0].volume_ml == 0
    assert found[1].enlarged_count == enlarged
    assert found[1].lesions[0].enlarged is enlarged
    assert found[1].lesions[0].short_axis_mm == pytest.approx(diameter, abs=1)


def test_nodes_lie_in_stations():
    affine = Affine.from_spacing((1, 1, 1))
    labels, _ = two_balls(affine)
    stations = np.ones(labels.shape, np.uint8)
    stations[..., 50:] = 7
    found = scan_statistics(
        labels * 2, affine, [NODES], stations=(stations, {1: "4R", 7: "station seven"})
    ).classes[0]
    assert [lesion.station for lesion in found.lesions] == ["4R", "station seven"]
    assert found.lesions[0].station_percent == 100


def test_small_parts_are_left_out_where_asked():
    affine = Affine.from_spacing((1, 1, 1))
    labels, _ = two_balls(affine)
    labels[0, 0, 0] = 1
    counts = [
        scan_statistics(labels, affine, [TUMOUR], options=options).classes[0].component_count
        for options in (StatisticsOptions(), StatisticsOptions(least_ml=0.1))
    ]
    assert counts == [3, 2]
    few = StatisticsOptions(most_lesions=1)
    found = scan_statistics(labels, affine, [TUMOUR], options=few).classes[0]
    assert (len(found.lesions), found.component_count) == (1, 3)
    assert found.voxels == (labels == 1).sum()


def test_stores_and_slabs_change_nothing(tmp_path, monkeypatch):
    affine = tilted((2.0, 1.0, 1.0), degrees=10)
    labels, image = two_balls(affine)
    asked = {"image": image, "options": StatisticsOptions(shells=True, shape=True)}
    whole = scan_statistics(labels, affine, [TUMOUR, NODES], **asked).to_dict()
    monkeypatch.setattr(arrays, "SLAB_BYTES", 1000)
    store = zarr.create_array(
        tmp_path / "a.zarr", data=labels.astype(np.uint16), chunks=(8, 60, 90)
    )
    np.testing.assert_equal(
        scan_statistics(store, affine, [TUMOUR, NODES], **asked).to_dict(), whole
    )


def test_turning_the_array_changes_nothing():
    affine = tilted((2.0, 1.0, 0.8), degrees=10)
    labels, image = two_balls(affine)
    rows = scan_statistics(labels, affine, [TUMOUR], image=image).rows()
    turn = affine.turn_to("PIR")
    turned = scan_statistics(
        turn.apply(labels), affine.turned(turn, labels.shape), [TUMOUR], image=turn.apply(image)
    ).rows()
    for before, after in zip(rows, turned, strict=True):
        numbers = {name: value for name, value in before.items() if isinstance(value, float)}
        assert {name: after[name] for name in numbers} == pytest.approx(numbers, nan_ok=True)


@pytest.mark.parametrize("shear", [0.0, 0.3])
def test_shells_are_as_thick_as_they_say(shear):
    affine = tilted((2.0, 1.0, 1.0), shear=shear)
    shape = (40, 60, 60)
    mask = ellipsoid(affine, (8, 8, 8), shape=shape)
    image = np.full(shape, 5, np.int16)
    box = Box.of_shape(shape)
    shells = peritumoral_shells(mask, box, affine, shape=shape, image=image)
    assert [shell.outer_mm for shell in shells] == [2, 4, 6, 8, 10, 12]
    volume = mask.sum() * affine.voxel_mm3
    for shell in shells:
        volume += 1000 * shell.volume_ml
        radius = (3 * volume / (4 * np.pi)) ** (1 / 3)
        assert abs(radius - 8 - shell.outer_mm) < 0.5  # half a voxel across
        assert shell.intensity["mean"] == 5
    away = distance_mm(mask, affine)
    assert sum(shell.voxels for shell in shells) == ((away > 0) & (away <= 12)).sum()


def test_shells_end_at_borders_and_organs():
    affine = Affine.from_spacing((1, 1, 1))
    shape = (20, 20, 20)
    mask = np.ones((2, 2, 2), bool)
    within = np.zeros(shape, np.uint8)
    within[:4] = 1
    box = Box((0, 0, 0), (2, 2, 2))
    (all_of,) = peritumoral_shells(mask, box, affine, shape=shape, edges_mm=(0, 2))
    (some,) = peritumoral_shells(mask, box, affine, shape=shape, edges_mm=(1, 2), within=within)
    assert all_of.voxels == (distance_mm(np.pad(mask, ((0, 18),) * 3), affine) <= 2).sum() - 8
    assert 0 < some.voxels < all_of.voxels
    with pytest.raises(UsageError, match="ascending"):
        peritumoral_shells(mask, box, affine, shape=shape, edges_mm=(2, 1))


def test_what_does_not_fit_is_refused():
    affine = Affine.from_spacing((1, 1, 1))
    labels = np.zeros((3, 3, 3), np.uint8)
    with pytest.raises(UsageError, match="integers"):
        scan_statistics(labels.astype(float), affine, [TUMOUR])
    with pytest.raises(UsageError, match="the scan has"):
        scan_statistics(labels, affine, [TUMOUR], image=np.zeros((3, 3, 4)))
    with pytest.raises(UsageError, match="least_ml"):
        StatisticsOptions(least_ml=-1)


def test_organs_of_a_real_scan(data_dir):
    """Volumes equal plain counts of voxels."""
    folder = data_dir / "volumes" / "totalsegmentator"
    labels = nibabel.load(folder / "example_seg.nii.gz")
    scan = nibabel.load(folder / "example_ct_sm.nii.gz")
    values = np.asarray(labels.dataobj).T.astype(np.uint8)
    affine = Affine.from_nifti(labels.affine)
    assert scan.shape == labels.shape
    classes = [ScanClass(int(v), f"organ {v}") for v in np.unique(values) if v]
    found = scan_statistics(values, affine, classes, image=np.asarray(scan.dataobj).T)
    for one in found.classes:
        count = int((values == one.value).sum())
        assert one.volume_ml == pytest.approx(count * abs(np.linalg.det(labels.affine)) / 1000)
        assert one.voxels == count
        assert one.lesions[0].long_axis_mm <= one.lesions[0].feret_mm + 1e-6
        assert one.lesions[0].short_axis_mm <= one.lesions[0].long_axis_mm + 1e-6
