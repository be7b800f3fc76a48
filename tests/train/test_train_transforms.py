"""Augmentation on tensors: one geometry for all, colour for the image alone, the seed decides."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from wsiseg.errors import TrainingError
from wsiseg.train.transforms import AugmentOptions, Patches, augment_patches

OFF = AugmentOptions.off()
ALL = AugmentOptions(pen=0.5, dust=0.5, bubble=0.5, fold=0.5, affine=0.5, jpeg=0.5)
STILL = {"rotation_degrees": 0.0, "scale": 0.0, "shear_degrees": 0.0, "shift_um": 0.0}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(count=4, size=(8, 8), *, layout="NHWC", kind=torch.uint8, heatmap=True):
    """Labels and heatmap repeat what the image's channels say, pixel by pixel."""
    image = torch.randint(0, 255, (count, 3, *size), generator=seeded(1), dtype=torch.uint8)
    labels, heat = image[:, 0].clone(), image[:, 1:2].float() / 255
    image = image if kind == torch.uint8 else image.to(kind) / 255
    if layout == "NHWC":
        image, heat = image.permute(0, 2, 3, 1).contiguous(), heat.permute(0, 2, 3, 1).contiguous()
    return Patches(image, labels, heat if heatmap else None)


def ramps(count=64, size=(48, 48)):
    """Red says in which column a pixel was, green in which row; so do labels and heatmap."""
    rows, columns = (torch.arange(n).float() for n in size)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    image = torch.stack([x, y, torch.zeros_like(x)]) / 64
    stack = image.expand(count, -1, -1, -1).contiguous()
    return Patches(stack, x.to(torch.uint8).repeat(count, 1, 1), stack[:, :2].clone())


def augmented(patches, options=OFF, *, seed=0, spacing_um=1.0, size=None, **changes):
    options = replace(options, **changes)
    return augment_patches(
        patches, options, spacing_um=spacing_um, generator=seeded(seed), size=size
    )


def equal(a, b):
    pairs = ((a.image, b.image), (a.labels, b.labels), (a.heatmap, b.heatmap))
    return all(x is y or torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("heatmap", [True, False])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.float16])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_off_changes_nothing(layout, kind, heatmap):
    patches = noise(layout=layout, kind=kind, heatmap=heatmap)
    assert equal(augmented(patches), patches)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_layouts_and_types_give_the_same(layout, kind):
    found = augmented(noise(layout=layout, kind=kind), ALL)
    other = augmented(noise(layout="NCHW", kind=torch.float32), ALL)
    assert found.image.dtype == kind
    image = found.image if layout == "NCHW" else found.image.permute(0, 3, 1, 2)
    image = image / 255 if kind == torch.uint8 else image
    torch.testing.assert_close(image, other.image, atol=0.51 / 255, rtol=0)
    assert torch.equal(found.labels, other.labels)
    heatmap = found.heatmap if layout == "NCHW" else found.heatmap.permute(0, 3, 1, 2)
    assert torch.equal(heatmap, other.heatmap)


def test_the_seed_decides_and_nothing_else():
    patches = noise(16, (24, 24))
    torch.manual_seed(1)
    first = augmented(patches, ALL, seed=7)
    torch.manual_seed(2)
    np.random.seed(3)
    assert equal(augmented(patches, ALL, seed=7), first)
    assert not torch.equal(augmented(patches, ALL, seed=8).image, first.image)


def test_the_patches_given_stay_as_they_are():
    for layout in ("NHWC", "NCHW"):
        for kind in (torch.uint8, torch.float32):
            patches, untouched = (noise(16, layout=layout, kind=kind) for _ in range(2))
            augmented(patches, ALL)
            assert equal(patches, untouched)


@given(seed=st.integers(0, 999), height=st.integers(1, 9), width=st.integers(1, 9))
def test_orientation_moves_image_labels_and_heatmap_alike(seed, height, width):
    assume((height, width) != (3, 3))  # which axis is colour cannot be told
    turned = augmented(noise(size=(height, width)), seed=seed, orient=1.0)
    assert torch.equal(turned.labels, turned.image[..., 0])
    assert torch.equal(turned.heatmap[..., 0], turned.image[..., 1].float() / 255)


@pytest.mark.parametrize(("shape", "kinds"), [((2, 2), 8), ((2, 3), 4)])
def test_all_orientations_occur_and_nothing_else(shape, kinds):
    pixels = np.arange(shape[0] * shape[1], dtype=np.uint8).reshape(shape)
    labels = torch.from_numpy(pixels).repeat(400, 1, 1)
    patches = Patches(labels[..., None].repeat(1, 1, 1, 3), labels)
    found = {tuple(x.ravel().tolist()) for x in augmented(patches, orient=1.0).labels}
    turns = [np.rot90(pixels, k) for k in range(4) if kinds == 8 or k % 2 == 0]
    assert found == {tuple(x.ravel().tolist()) for t in turns for x in (t, t[:, ::-1])}
    assert len(found) == kinds


def sources(patches):
    """Return (n, 2, y, x): from which column and row each pixel came, and where that is known."""
    return patches.image[:, :2] * 64, patches.labels != 255


def inner(tensor, margin=16):
    return tensor[..., margin:-margin, margin:-margin]


def test_labels_and_heatmap_follow_the_image_through_the_affine_map():
    found = augmented(ramps(), affine=1.0, shift_um=5.0)
    place, known = sources(found)
    # The last half pixel at the border is blended with the white beyond.
    unknown = torch.nn.functional.pad((~known).float(), (1, 1, 1, 1), value=1.0)
    sure = torch.nn.functional.max_pool2d(unknown, 3, 1) == 0
    sure &= (place.amin(dim=1) > 1) & (place.amax(dim=1) < 46)
    assert sure.float().mean() > 0.6
    assert (found.labels.float() - place[:, 0])[sure].abs().max() < 0.51
    torch.testing.assert_close(inner(found.heatmap), inner(found.image[:, :2]), atol=1e-5, rtol=0)


def test_beyond_the_patch_is_white_of_unknown_class_without_probability():
    found = augmented(ramps(), affine=1.0, shift_um=30.0)
    beyond = found.labels == 255
    assert 0.05 < beyond.float().mean() < 0.8
    away = torch.nn.functional.avg_pool2d(beyond[:, None].float(), 3, 1, 1)[:, 0] == 1
    assert (found.image.permute(0, 2, 3, 1)[away] == 1).all()
    assert (found.heatmap.permute(0, 2, 3, 1)[away] == 0).all()


def jacobians(patches):
    """Return (n, 2, 2): how the source place changes along x and y, at the centre."""
    place, _ = sources(patches)
    here = place[:, :, 24, 24]
    return torch.stack([place[:, :, 24, 25] - here, place[:, :, 25, 24] - here], dim=2)


@pytest.mark.parametrize(
    ("change", "measure", "limit"),
    [
        ({"rotation_degrees": 20.0}, lambda j: torch.atan2(j[:, 1, 0], j[:, 0, 0]).rad2deg(), 20),
        ({"scale": 0.25}, lambda j: -j.det().log() / 2, np.log(1.25)),
        ({"shear_degrees": 8.0}, lambda j: (j[:, 0, 1] / j[:, 0, 0]).atan().rad2deg(), 8),
    ],
)
def test_each_part_of_the_affine_map_stays_in_its_range(change, measure, limit):
    options = replace(OFF, affine=1.0, **{**STILL, **change})
    found = measure(jacobians(augmented(ramps(), options)))
    assert 0.8 * limit < found.max() < 1.001 * limit + 1e-4
    assert -1.001 * limit - 1e-4 < found.min() < -0.8 * limit
    other = set(STILL) - set(change)
    assert other  # all of them off: the map is nothing else
    if "scale" in other:
        torch.testing.assert_close(
            jacobians(augmented(ramps(), options)).det(), torch.ones(64), atol=1e-3, rtol=0
        )


def test_shifts_are_in_um():
    for spacing in (0.5, 2.0):
        still = {**STILL, "shift_um": 4.0}
        found = augmented(ramps(), affine=1.0, spacing_um=spacing, **still)
        moved = (sources(found)[0][:, :, 24, 24] - 24) * spacing
        assert 3.2 < moved.abs().amax() <= 4.001


def test_affine_maps_turn_about_the_centre():
    """Rotation and scale leave the middle of the patch where it is, also of an oblong one."""
    for size in ((48, 48), (40, 46)):
        place, _ = sources(augmented(ramps(size=size), affine=1.0, scale=0.2))
        y, x = size[0] // 2, size[1] // 2
        middle = place[:, :, y - 1 : y + 1, x - 1 : x + 1].mean(dim=(2, 3))
        expected = torch.tensor([x - 0.5, y - 0.5]).expand(64, 2)
        torch.testing.assert_close(middle, expected, atol=0.02, rtol=0)


@pytest.mark.parametrize(("shape", "size"), [((48, 48), 32), ((45, 45), 32), ((40, 47), 33)])
def test_the_centre_alone_is_the_centre_of_the_whole(shape, size):
    patches = ramps(16, shape)
    whole = augmented(patches, affine=0.5, orient=1.0)
    centre = augmented(patches, affine=0.5, orient=1.0, size=size)
    top, left = ((n - size) // 2 for n in shape)
    cut = (..., slice(top, top + size), slice(left, left + size))
    torch.testing.assert_close(centre.image, whole.image[cut], atol=1e-4, rtol=0)
    torch.testing.assert_close(centre.heatmap, whole.heatmap[cut], atol=1e-4, rtol=0)
    assert (centre.labels != whole.labels[cut]).float().mean() < 0.01  # a tie between two pixels


def test_labels_of_any_integer_type_keep_it():
    for kind in (torch.int64, torch.int16, torch.uint8):
        patches = ramps(4)
        found = augmented(replace_labels(patches, kind), ALL)
        assert found.labels.dtype == kind
        assert torch.equal(found.labels.long(), augmented(patches, ALL).labels.long())


def replace_labels(patches, kind):
    return Patches(patches.image, patches.labels.to(kind), patches.heatmap)


@pytest.mark.parametrize("change", ["recolour", "defocus", "noise", "jpeg"])
def test_colour_and_optics_touch_the_image_alone(change):
    patches = noise(8, (16, 16))
    found = augmented(patches, **{change: 3.0 if change == "noise" else 1.0})
    assert not torch.equal(found.image, patches.image)
    assert torch.equal(found.labels, patches.labels)
    assert torch.equal(found.heatmap, patches.heatmap)


@pytest.mark.parametrize("name", ["pen", "dust", "bubble", "fold", "glass", "recolour", "jpeg"])
def test_chances_are_per_patch(name):
    image = torch.full((400, 3, 16, 16), 0.6)
    image[..., ::2] = 0.4
    patches = Patches(image, torch.ones(400, 16, 16, dtype=torch.uint8))
    found = augmented(patches, **{name: 0.3}).image
    changed = (found - image).abs().amax(dim=(1, 2, 3)) > 1e-4
    assert 0.2 < changed.float().mean() < 0.4


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pen": 1.5}, "pen: needed a chance in 0..1, found 1.5"),
        ({"hue_degrees": -1.0}, "hue_degrees: needed 0 or more"),
        ({"blur_um": (2.0, 1.0)}, "blur_um: needed 0 < low <= high"),
        ({"artefact_label": "forget"}, "needed ignore, background or keep, found 'forget'"),
    ],
)
def test_wrong_options_are_named(changes, says):
    with pytest.raises(TrainingError, match=says):
        AugmentOptions(**changes)


@pytest.mark.parametrize(
    ("image", "labels", "heatmap"),
    [
        (torch.zeros(2, 4, 8, 8), torch.zeros(2, 8, 8).long(), None),
        (torch.zeros(2, 3, 8, 8).long(), torch.zeros(2, 8, 8).long(), None),
        (torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 9).long(), None),
        (torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8), None),
        (torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8).long(), torch.zeros(2, 8, 8, 1)),
        (torch.zeros(2, 8, 8, 3), torch.zeros(2, 8, 8).long(), torch.zeros(2, 1, 8, 8)),
    ],
)
def test_patches_that_do_not_fit_are_refused(image, labels, heatmap):
    with pytest.raises(TrainingError, match="needed RGB uint8 or float"):
        Patches(image, labels, heatmap)


@pytest.mark.parametrize(
    "changes", [{"spacing_um": 0.0}, {"spacing_um": -1.0}, {"size": 9}, {"size": 0}]
)
def test_spacing_and_size_are_checked(changes):
    with pytest.raises(TrainingError, match="needed a positive spacing and a size of 1 to 8 px"):
        augmented(noise(), **changes)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_but_for_noise():
    options, patches = replace(ALL, noise=0.0), noise(16, (64, 64))
    there = Patches(patches.image.cuda(), patches.labels.cuda(), patches.heatmap.cuda())
    found, expected = augmented(there, options), augmented(patches, options)
    difference = (found.image.cpu().int() - expected.image.int()).abs()
    assert difference.float().mean() < 0.1  # of 255: rounding, and what JPEG makes of it
    assert (found.labels.cpu() != expected.labels).float().mean() < 0.001
    torch.testing.assert_close(found.heatmap.cpu(), expected.heatmap, atol=1e-3, rtol=0)
