"""Rotations, alignment, crops and conventions against SciPy, closed forms and properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from prnbench import geometry

angle = st.floats(-1.5, 1.5)


@given(angle, angle, angle)
def test_rotation_is_3ddfas_product_of_three(pitch, yaw, roll):
    # angle2matrix_3ddfa turns each axis the other way round than SciPy's active rotations do
    expected = np.eye(3)
    for axis, value in zip("xyz", (pitch, yaw, roll), strict=True):
        expected = expected @ Rotation.from_euler(axis, -value).as_matrix()
    np.testing.assert_allclose(geometry.rotation_from_euler([pitch, yaw, roll]), expected, atol=1e-12)


@given(angle, angle, angle)
def test_angles_come_back(pitch, yaw, roll):
    back = geometry.euler_from_rotation(geometry.rotation_from_euler([pitch, yaw, roll]))
    np.testing.assert_allclose(back, [pitch, yaw, roll], atol=1e-6)


@pytest.mark.parametrize("yaw", [np.pi / 2, -np.pi / 2])
def test_gimbal_lock_gives_the_same_rotation(yaw):
    R = geometry.rotation_from_euler([0.3, yaw, 0.2])
    np.testing.assert_allclose(geometry.rotation_from_euler(geometry.euler_from_rotation(R)), R, atol=1e-6)


def test_positive_yaw_turns_the_nose_to_the_right_of_the_picture():
    nose = geometry.project([[0.0, 0.0, 1.0]], [0, np.deg2rad(40), 0, 0, 0, 0, 1])[0]
    assert nose[0] == pytest.approx(-np.sin(np.deg2rad(40)))
    assert nose[2] == pytest.approx(np.cos(np.deg2rad(40)))


def test_pixel_conventions_of_one_vertex():
    vertex = [[10.0, 20.0, 3.0]]
    assert geometry.to_image(vertex, 450).tolist() == [[9, 430, 3]]
    assert geometry.to_image(vertex, 450, "annotation").tolist() == [[10, 431, 3]]
    assert geometry.to_image(vertex, 450, "face3d").tolist() == [[10, 429, 3]]


@given(st.integers(0, 2**31), st.floats(0.1, 10))
def test_similarity_alignment_undoes_a_similarity(seed, scale):
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(12, 3))
    R, t = Rotation.random(random_state=rng).as_matrix(), rng.normal(size=3)
    s, found, shift = geometry.similarity_alignment(source, scale * source @ R.T + t)
    assert s == pytest.approx(scale)
    np.testing.assert_allclose(found, R, atol=1e-9)
    np.testing.assert_allclose(shift, t, atol=1e-8)


def test_a_mirrored_cloud_is_not_aligned_by_reflection():
    source = np.random.default_rng(0).normal(size=(30, 3))
    mirrored = source * [-1, 1, 1]
    s, R, t = geometry.similarity_alignment(source, mirrored)
    assert np.linalg.det(R) == pytest.approx(1)
    assert np.abs(s * source @ R.T + t - mirrored).max() > 0.3


def test_rigid_alignment_agrees_with_scipy():
    rng = np.random.default_rng(1)
    source = rng.normal(size=(20, 3))
    target = source @ Rotation.random(random_state=2).as_matrix().T + 0.05 * rng.normal(size=(20, 3))
    s, R, _ = geometry.similarity_alignment(source, target, scale=False)
    expected, _ = Rotation.align_vectors(target - target.mean(0), source - source.mean(0))
    assert s == 1
    np.testing.assert_allclose(R, expected.as_matrix(), atol=1e-8)


def test_prn_crop_maps_the_box_corners_to_the_crop_corners():
    crop = geometry.prn_crop([100, 120, 300, 320])
    size = int(200 * 1.6)
    corners = [
        [200 - size / 2, 220 - size / 2],
        [200 - size / 2, 220 + size / 2],
        [200 + size / 2, 220 - size / 2],
    ]
    np.testing.assert_allclose(geometry.transform_points(corners, crop), [[0, 0], [0, 255], [255, 0]], atol=1e-9)


@given(st.integers(0, 2**31))
def test_transform_points_inverts_and_scales_depth(seed):
    points = np.random.default_rng(seed).uniform(0, 450, (5, 3))
    crop = geometry.prn_crop([90, 110, 310, 290])
    moved = geometry.transform_points(points, crop)
    np.testing.assert_allclose(moved[:, 2], points[:, 2] * crop[0, 0])
    np.testing.assert_allclose(geometry.transform_points(moved, geometry.invert_affine(crop)), points, atol=1e-9)


@given(
    st.tuples(st.floats(-80, 80), st.floats(-85, 85), st.floats(-80, 80)),
    st.floats(0.1, 10),
    st.tuples(*[st.floats(-200, 200)] * 3),
)
def test_head_pose_is_the_turn_of_the_mean_face(angles_deg, scale, shift):
    mean = np.random.default_rng(0).normal(size=(68, 3)) * [60, 80, 40]
    posed = geometry.project(mean, [*np.deg2rad(angles_deg), *shift, scale])
    found = geometry.head_pose_deg(geometry.to_image(posed, 450), mean)
    np.testing.assert_allclose(found, angles_deg, atol=1e-3)


def test_an_open_mouth_does_not_turn_the_head():
    mean = np.random.default_rng(1).normal(size=(68, 3)) * [60, 80, 40]
    opened = mean.copy()
    opened[48:, 1] -= 30
    pose = [0.2, -0.5, 0.1, 0, 0, 0, 1]
    found = geometry.head_pose_deg(geometry.to_image(geometry.project(opened, pose), 450), mean)
    np.testing.assert_allclose(found, np.rad2deg(pose[:3]), atol=1e-3)
