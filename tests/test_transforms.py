"""Crops and augmentation: position maps move exactly with their images; order, resume and sharing of the loader."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from prnbench import geometry
from prnbench.data import datamodule, transforms
from prnbench.data.datamodule import Draw, EpochOrder, FaceLoader, Faces, RankShare
from prnbench.data.transforms import Augmentation, Jitter
from prnbench.errors import FaceModelError, SampleError, UsageError
from prnbench.landmarks import MIRROR_68
from prnbench.sample import Sample
from tests.rendered_faces import rendered_faces

SIDE = 200


def jitters():
    """Any similarity that the augmentation can draw, mirrored ones included."""
    return st.builds(
        Jitter,
        rotation_rad=st.floats(-0.8, 0.8),
        scale=st.floats(0.85, 1.2),
        shift=st.tuples(st.floats(-0.1, 0.1), st.floats(-0.1, 0.1)),
        flip=st.booleans(),
    )


def coordinate_image():
    """An image whose red is x and green is y: its colours tell where they come from."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    return np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8)


def face(seed=0, name="face"):
    """A made-up face near the middle of the coordinate image: a smooth map with landmarks at 68 of its texels."""
    rng = np.random.default_rng(seed)
    u, v = np.meshgrid(np.linspace(-1, 1, 64), np.linspace(-1, 1, 64))
    x, y = 100 + 30 * u + 4 * v, 95 + 35 * v - 3 * u * v
    z = 20 * np.cos(u) * np.cos(v)
    position_map = (np.stack([x, y, z], axis=-1) + rng.uniform(-5, 5, 3)).astype(np.float32)
    uv = rng.uniform(0.05, 0.95, (68, 2))
    column, row = uv[:, 0] * 63, 63 - uv[:, 1] * 63
    points = [map_coordinates(position_map[..., i], [row, column], order=1) for i in range(3)]
    import cv2

    jpeg = cv2.imencode(".png", coordinate_image()[..., ::-1])[1].tobytes()
    landmarks = np.stack(points, axis=-1).astype(np.float32)
    return Sample(id=name, jpeg=jpeg, landmarks_px=landmarks, position_map_px=position_map), uv


# --- geometry


@given(jitters(), st.integers(0, 5), st.sampled_from([64, 128, 256]))
@settings(max_examples=40, deadline=None)
def test_maps_move_exactly_with_their_images(jitter, seed, resolution):
    """Sampling the augmented image at the augmented map's landmarks gives the colours of the original places.

    The image's colours are its coordinates, so the colours found must be the landmarks themselves.
    """
    sample, uv = face(seed)
    batch = batch_of([sample], jitter, resolution)
    if jitter.flip:
        uv = np.stack([1 - uv[:, 0], uv[:, 1]], axis=-1)
    target = transforms.network_target(batch.position_map_BMM3, batch.crop_B23, resolution)
    moved = transforms.sample_map(target, torch.from_numpy(uv))[0, :, :2].numpy() * 1.1 * 256 / 255 * (resolution - 1)
    inside = ((moved > 1) & (moved < resolution - 2)).all(axis=1)
    assert inside.mean() > 0.8
    image = batch.image_BRR3[0].numpy().astype(float)
    colours = [map_coordinates(image[..., i], moved[inside].T[::-1], order=1) for i in range(2)]
    gap = np.stack(colours, axis=-1) - sample.landmarks_px[inside, :2]
    assert np.abs(gap).max() < 1.3
    assert np.abs(gap.mean(axis=0)).max() < 0.25


def batch_of(samples, jitter, resolution):
    class Fixed(Augmentation):
        def draw(self, rng):
            return jitter

    return Faces(samples, {0: resolution}, Fixed()).__getitems__([Draw(i) for i in range(len(samples))])


@given(jitters(), st.sampled_from([64, 256]))
@settings(max_examples=30, deadline=None)
def test_points_move_by_the_crop_and_back(jitter, resolution):
    sample, _ = face()
    crop = jitter.crop(geometry.prn_crop(sample.box_px, resolution=resolution), resolution)
    expected = geometry.transform_points(sample.landmarks_px, crop)
    points, affine = torch.from_numpy(sample.landmarks_px)[None], torch.from_numpy(crop.astype(np.float32))[None]
    moved = transforms.moved_to_crop(points, affine)
    np.testing.assert_allclose(moved[0], expected, atol=2e-3)
    np.testing.assert_allclose(transforms.moved_to_original(moved, affine)[0], sample.landmarks_px, atol=2e-3)


def test_unchanged_crop_is_the_inference_crop():
    box = (40, 50, 120, 140)
    np.testing.assert_array_equal(Jitter().crop(geometry.prn_crop(box), 256), geometry.prn_crop(box))


def test_rotation_turns_about_the_centre_and_scale_is_exact():
    box = (40.0, 50.0, 120.0, 140.0)
    jitter = Jitter(rotation_rad=np.pi / 2, scale=1.1)
    centre = np.array([[80.0, 95.0], [90.0, 95.0]])
    plain = geometry.transform_points(centre, Jitter().crop(geometry.prn_crop(box), 256))
    turned = geometry.transform_points(centre, jitter.crop(geometry.prn_crop(box), 256))
    np.testing.assert_allclose(turned[0], plain[0], atol=1e-9)
    length = plain[1, 0] - plain[0, 0]
    np.testing.assert_allclose(turned[1] - turned[0], [0, 1.1 * length], atol=1e-9)


def test_target_is_published_scale_with_depth_from_zero():
    sample, _ = face()
    batch = batch_of([sample], Jitter(), 256)
    target = transforms.network_target(batch.position_map_BMM3, batch.crop_B23, 256) * 281.6
    crop = geometry.prn_crop(sample.box_px)
    moved = geometry.transform_points(sample.position_map_px, crop)
    corner = target[0, :, 0, 0].numpy()
    np.testing.assert_allclose(corner[:2], moved[0, 0, :2], atol=1e-2)
    assert target[0, 2].min() == 0
    np.testing.assert_allclose(corner[2], moved[0, 0, 2] - moved[..., 2].min(), atol=1e-2)


def test_resampled_maps_keep_their_uv_positions():
    """A map linear in u and v stays that linear map at any resolution."""
    v, u = torch.meshgrid(torch.linspace(0, 1, 256), torch.linspace(0, 1, 256), indexing="ij")
    position_map = torch.stack([100 * u, 50 * v, u + v], dim=-1)[None]
    identity = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])
    for side in (64, 128, 512):
        target = transforms.network_target(position_map, identity, side) * transforms.MAP_RANGE * (side - 1)
        expected = torch.linspace(0, 100, side).expand(side, side)
        torch.testing.assert_close(target[0, 0], expected, atol=1e-3, rtol=0)


def test_flipped_faces_mirror_their_landmarks():
    samples = rendered_faces(1)
    plain = batch_of(samples, Jitter(), 128)
    flipped = batch_of(samples, Jitter(flip=True), 128)
    np.testing.assert_array_equal(flipped.landmarks_B683[0], plain.landmarks_B683[0, list(MIRROR_68)])
    left = transforms.moved_to_crop(plain.landmarks_B683, plain.crop_B23)[0, 36, 0]
    right = transforms.moved_to_crop(flipped.landmarks_B683, flipped.crop_B23)[0, 45, 0]
    torch.testing.assert_close(left + right, torch.tensor(127.0), atol=1e-2, rtol=0)
    gap = (flipped.image_BRR3[0].flip(1).int() - plain.image_BRR3[0].int()).abs().float()
    assert gap.mean() < 1


def test_flips_need_a_symmetric_chart():
    from prnbench.facemodel import load_face_model

    model = load_face_model()
    datamodule.require_symmetry(model)
    lopsided = replace(model, uv=model.uv ** np.array([1.6, 1.0], np.float32))
    with pytest.raises(FaceModelError, match="not mirror symmetric"):
        datamodule.require_symmetry(lopsided)


# --- colours


def photometric_of(colour=(1, 1, 1, 1, 0, 0), occluder=None, resolution=32):
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(40, 200, (1, resolution, resolution, 3), dtype=np.uint8))
    zero = torch.zeros(1)
    occluder = torch.zeros(1, 7) if occluder is None else torch.tensor([occluder], dtype=torch.float32)
    texture = torch.from_numpy(rng.uniform(size=(1, 3, transforms.TEXTURE, transforms.TEXTURE)).astype(np.float32))
    colour = torch.tensor([colour], dtype=torch.float32)
    batch = transforms.FaceBatch(image, *[zero] * 7, colour, occluder, texture, *[zero] * 3)
    return image[0].permute(2, 0, 1).float() / 255, transforms.photometric(batch)[0]


def test_no_variation_leaves_the_picture():
    image, out = photometric_of()
    torch.testing.assert_close(out, image, atol=1e-6, rtol=0)


def test_gain_scales_each_channel():
    image, out = photometric_of((0.6, 1.0, 1.2, 1, 0, 0))
    expected = (image * torch.tensor([0.6, 1.0, 1.2])[:, None, None]).clamp(0, 1)
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=0)


def test_grey_and_contrast():
    image, grey = photometric_of((1, 1, 1, 1, 1, 0))
    torch.testing.assert_close(grey, image.mean(dim=0, keepdim=True).expand(3, -1, -1), atol=1e-6, rtol=0)
    image, flat = photometric_of((1, 1, 1, 0.5, 0, 0))
    torch.testing.assert_close(flat, (image + image.mean()) / 2, atol=1e-6, rtol=0)


def test_noise_has_the_asked_strength():
    image, noisy = photometric_of((1, 1, 1, 1, 0, 0.03), resolution=128)
    assert (noisy - image).std().item() == pytest.approx(0.03, rel=0.03)
    torch.testing.assert_close(noisy, photometric_of((1, 1, 1, 1, 0, 0.03), resolution=128)[1])


@pytest.mark.parametrize(("ellipse", "area"), [(0, 4 * 0.2 * 0.1), (1, np.pi * 0.2 * 0.1)])
def test_occluder_covers_its_own_area_only(ellipse, area):
    image, out = photometric_of(occluder=(0.5, 0.4, 0.2, 0.1, 0.5, ellipse, 1), resolution=256)
    hidden = ((out - image).abs() > 1e-5).any(dim=0)
    assert hidden.float().mean().item() == pytest.approx(area, rel=0.05)
    rows, columns = torch.nonzero(hidden).double().mean(dim=0) / 255
    assert rows.item() == pytest.approx(0.4, abs=0.01) and columns.item() == pytest.approx(0.5, abs=0.01)


def test_draws_stay_in_their_ranges():
    augmentation = Augmentation(flip=0.5, grey=0.2, blur=0.3, noise=0.05, contrast=(0.7, 1.3))
    drawn = [augmentation.draw(np.random.default_rng(i)) for i in range(400)]
    assert max(abs(j.rotation_rad) for j in drawn) <= np.pi / 4
    assert all(0.9 <= j.scale <= 1.2 and abs(j.shift[0]) <= 0.1 and abs(j.shift[1]) <= 0.1 for j in drawn)
    gains = np.stack([j.gain for j in drawn])
    assert gains.min() >= 0.6 and gains.max() <= 1.4 and np.ptp(gains) > 0.75
    assert 0.4 < np.mean([j.flip for j in drawn]) < 0.6
    assert 0.4 < np.mean([j.occluder[6] for j in drawn]) < 0.6
    assert 0.22 < np.mean([j.reduction > 1 for j in drawn]) < 0.38


# --- order, resume, sharing


@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 4), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_ranks_share_the_global_batches_of_one_process(faces, batch, world, epoch):
    one = EpochOrder(faces, batch * world, seed=7, epoch=epoch)
    shares = [list(EpochOrder(faces, batch, seed=7, rank=rank, world=world, epoch=epoch)) for rank in range(world)]
    assert {len(share) for share in shares} == {len(one)}
    for number, whole in enumerate(one):
        assert [draw for share in shares for draw in share[number]] == whole
    if faces >= batch * world:
        seen = [draw.face for whole in one for draw in whole]
        assert len(seen) == len(set(seen))


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 6))
def test_validation_counts_every_face_once(faces, batch, world):
    shares = [list(RankShare(faces, batch, rank, world)) for rank in range(world)]
    assert len({tuple(map(len, share)) for share in shares}) == 1
    counted = [draw.face for share in shares for part in share for draw in part if draw.counts]
    assert sorted(counted) == list(range(faces))


def test_epochs_differ_and_views_repeat():
    first, second = (next(iter(EpochOrder(50, 10, seed=1, epoch=epoch))) for epoch in (0, 1))
    assert [d.face for d in first] != [d.face for d in second]
    pairs = next(iter(EpochOrder(50, 4, seed=1, views=2)))
    assert [d.face for d in pairs[::2]] == [d.face for d in pairs[1::2]] and [d.view for d in pairs[:2]] == [0, 1]


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_resumes_at_the_batch(workers):
    """Workers prefetch beyond the place of the checkpoint; the resumed loader must not."""
    samples = [face(i, f"face{i}")[0] for i in range(12)]
    faces = Faces(samples, {0: 32, 1: 64}, Augmentation(), seed=3)

    def loader(epoch=0):
        return FaceLoader(faces, EpochOrder(len(faces), 3, seed=3, epoch=epoch), workers)

    whole = list(loader(epoch=1))
    interrupted = loader(epoch=1)
    batches = iter(interrupted)
    next(batches), next(batches)
    state = interrupted.state_dict()
    assert state == {"epoch": 1, "batches": 2}
    resumed = loader()
    resumed.load_state_dict(state)
    rest = list(resumed)
    assert len(rest) == len(whole) - 2
    for ours, theirs in zip(rest, whole[2:], strict=True):
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    assert rest[0].image_BRR3.shape == (3, 64, 64, 3)
    resumed.order.set_epoch(2)
    assert len(list(resumed)) == len(whole)


def test_curriculum_names_every_epoch():
    assert [datamodule.resolution_at({0: 128, 3: 256}, epoch) for epoch in (0, 2, 3, 9)] == [128, 128, 256, 256]
    for wrong in ({1: 128}, 100, {0: 128, 5: 250}):
        with pytest.raises(UsageError, match="resolution"):
            datamodule.FaceData("nowhere", resolution=wrong)


def test_broken_face_is_one_clear_error():
    broken = replace(face()[0], jpeg=b"\xff\xd8 not a picture")
    loader = FaceLoader(Faces([broken], {0: 32}, Augmentation()), EpochOrder(1, 1, 0), workers=1)
    with pytest.raises(SampleError, match="face: the JPEG is truncated"):
        next(iter(loader))
    without = replace(face()[0], landmarks_px=None)
    assert isinstance(Faces([without], {0: 32}).__getitems__([Draw(0)]), SampleError)
