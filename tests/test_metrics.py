"""Landmark, dense, normal and pose errors: closed forms, invariances, conventions."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prnbench.cards import load_card
from prnbench.geometry import rotation_from_euler
from prnbench.metrics import Context, errors_of, errors_of_batch, missing_ground_truth
from prnbench.metrics.dense import dense_distances, inner_texels, normal_error, resized_map
from prnbench.metrics.nme import align_z, box_size, nme
from prnbench.metrics.pose import pose_mae
from prnbench.metrics.stats import yaw_bins
from prnbench.sample import Prediction, Sample

CARD = load_card("aflw2000_3d")
SIZE = 24
FACE = np.flatnonzero((np.add.outer((np.arange(SIZE) - 12) ** 2, (np.arange(SIZE) - 12) ** 2) < 100).ravel())
RNG = np.random.default_rng(0)


def landmarks(seed=0):
    return np.random.default_rng(seed).uniform(100, 300, (68, 3)).astype(np.float32)


def relief(seed=0):
    """A smooth random position map (SIZE, SIZE, 3)."""
    rng = np.random.default_rng(seed)
    v, u = np.meshgrid(np.linspace(-1, 1, SIZE), np.linspace(-1, 1, SIZE), indexing="ij")
    a, b, c = rng.uniform(20, 40, 3)
    z = 60 - a * u**2 - b * v**2 + 10 * u * v
    return np.stack([200 + (80 + c) * u + 5 * v, 220 + 100 * v - 7 * u**2, z], axis=-1).astype(np.float32)


def sample(seed=0, **fields):
    given = {
        "landmarks_px": landmarks(seed),
        "pose_deg": np.array([1.0, 2.0, 3.0], np.float32),
        "position_map_px": relief(seed),
        "reannotated_px": landmarks(seed)[:, :2] + np.float32(1.5),
        "yaw_aflw_deg": 2.0,
    }
    return Sample(id=f"face{seed}", **(given | fields))


def context():
    return Context(face_texels=FACE, map_size=SIZE)


def error(protocol, prediction, truth=None):
    return errors_of(CARD.protocol(protocol), [truth or sample()], [prediction], context())[0]


# closed forms


def test_a_shift_of_one_face_size_is_100_percent():
    truth = landmarks()
    size = box_size(truth)
    assert nme(truth[:, :2] + [0.6 * size, 0.8 * size], truth[:, :2], size) == pytest.approx(100.0)


def test_the_box_is_neither_rounded_nor_enlarged():
    assert box_size([[0.25, 0.5, 9], [4.25, 9.5, -9], [1, 1, 0]]) == pytest.approx(6.0)
    assert np.isnan(box_size([[1.0, 2.0], [1.0, 5.0]]))


def test_nme_is_the_formula_face_by_face():
    p, g = RNG.normal(200, 40, (7, 68, 3)), RNG.normal(200, 40, (7, 68, 3))
    for i, got in enumerate(nme(p, g, box_size(g))):
        total = 0.0
        for a, b in zip(p[i], g[i], strict=True):
            total += sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5
        w, h = (max(c) - min(c) for c in (g[i, :, 0], g[i, :, 1]))
        assert got == pytest.approx(100 * total / 68 / (w * h) ** 0.5, rel=1e-12)


def test_depth_alignment_by_hand():
    points = np.array([[0.0, 0, 2], [0, 0, 4], [0, 0, 9]])
    assert align_z(points, "none")[:, 2].tolist() == [2, 4, 9]
    assert align_z(points, "min")[:, 2].tolist() == [0, 2, 7]
    assert align_z(points, "mean")[:, 2].tolist() == [-3, -1, 4]
    with pytest.raises(ValueError, match="median"):
        align_z(points, "median")


@given(st.floats(-500, 500))
def test_a_depth_offset_counts_only_where_the_protocol_says_so(offset):
    truth = sample()
    moved = Prediction(landmarks_px=(truth.landmarks_px + np.array([0, 0, offset])).astype(np.float64))
    size = box_size(truth.landmarks_px)
    assert error("nme_3d_68_znone", moved, truth) == pytest.approx(100 * abs(offset) / size, abs=1e-9)
    assert error("nme_3d_68_zmin", moved, truth) == pytest.approx(0, abs=1e-9)
    assert error("nme_3d_68_zmean", moved, truth) == pytest.approx(0, abs=1e-9)
    assert error("nme_2d_68", moved, truth) == 0


@settings(max_examples=30)
@given(st.floats(0.2, 5), st.floats(-3.1, 3.1), st.floats(-1e3, 1e3))
def test_nme_ignores_scale_and_shift_of_the_picture(scale, angle, shift):
    truth, predicted = landmarks(1)[:, :2].astype(float), landmarks(2)[:, :2].astype(float)
    before = nme(predicted, truth, box_size(truth))
    move = lambda p: p * scale + shift  # noqa: E731
    assert nme(move(predicted), move(truth), box_size(move(truth))) == pytest.approx(before, rel=1e-9)


def test_regions_weighted_by_their_counts_are_the_whole():
    prediction = Prediction(landmarks_px=landmarks(3))
    counts = {"jaw": 17, "brows": 10, "nose": 9, "eyes": 12, "mouth": 20}
    parts = sum(n * error(f"nme_2d_{region}", prediction) for region, n in counts.items()) / 68
    assert parts == pytest.approx(error("nme_2d_68", prediction), rel=1e-12)


def test_a_region_sees_its_own_points_only():
    moved = landmarks()
    moved[48:, 0] += 10
    size = box_size(landmarks())
    assert error("nme_2d_mouth", Prediction(landmarks_px=moved)) == pytest.approx(1000 / size, rel=1e-5)
    assert all(error(f"nme_2d_{r}", Prediction(landmarks_px=moved)) == 0 for r in ("jaw", "brows", "nose", "eyes"))


def test_a_mirrored_face_is_not_a_perfect_face():
    truth = landmarks()
    mirrored = truth * [-1, 1, 1] + [2 * truth[:, 0].mean(), 0, 0]
    assert error("nme_2d_68", Prediction(landmarks_px=mirrored)) > 10


# pixel conventions


@pytest.mark.parametrize(("convention", "dx", "dy"), [("exact", 0, 0), ("face3d", 1, -1), ("annotation", 1, 1)])
def test_a_known_convention_is_moved_into_the_annotations(convention, dx, dy):
    truth = sample()
    own = truth.landmarks_px + np.array([dx, dy, 0], np.float32)
    assert error("nme_2d_68", Prediction(landmarks_px=own, pixel_convention=convention), truth) == pytest.approx(
        0, abs=1e-5
    )


def test_position_maps_are_compared_in_exact_pixels():
    truth = sample()
    above = truth.position_map_px + np.array([1, -1, 0], np.float32)
    assert error("nme_2d_dense", Prediction(position_map_px=above, pixel_convention="face3d"), truth) == pytest.approx(
        0, abs=1e-5
    )
    own_numbers = Prediction(position_map_px=truth.position_map_px, pixel_convention="annotation")
    assert error("nme_3d_dense_znone", own_numbers, truth) == 0


def test_reannotated_points_are_another_truth_with_its_own_box():
    truth = sample()
    prediction = Prediction(landmarks_px=truth.landmarks_px)
    expected = 100 * np.hypot(1.5, 1.5) / box_size(truth.reannotated_px)
    assert error("nme_2d_68_reannotated", prediction, truth) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("depth", ["znone", "zmin", "zmean"])
def test_the_other_yaw_moves_faces_between_bins_and_changes_no_error(depth):
    face, said = sample(1), Prediction(landmarks_px=landmarks(2))
    assert error(f"nme_3d_68_{depth}_aflwyaw", said, face) == error(f"nme_3d_68_{depth}", said, face)
    assert error("nme_2d_68_reannotated_aflwyaw", said, face) == error("nme_2d_68_reannotated", said, face)
    rows = pd.DataFrame({"yaw_fitted_deg": [10.0, 20.0], "yaw_aflw_deg": [40.0, 20.0]})
    ids = f"nme_3d_68_{depth}", f"nme_3d_68_{depth}_aflwyaw"
    bins = [yaw_bins(rows, CARD.protocol(name))["yaw_0_30"].tolist() for name in ids]
    assert bins == [[True, True], [False, True]]


# dense


def dense_by_hand(predicted, truth):
    p, g = (m.reshape(-1, 3)[FACE].astype(np.float64) for m in (predicted, truth))
    size = box_size(landmarks())
    own = np.sqrt(np.prod(g[:, :2].max(axis=0) - g[:, :2].min(axis=0)))
    plane = np.linalg.norm((p - g)[:, :2], axis=1).mean()
    depth = {
        mode: np.linalg.norm(align_z(p, mode) - align_z(g, mode), axis=1).mean() for mode in ("none", "min", "mean")
    }
    found = {f"nme_3d_dense_z{mode}": 100 * value / size for mode, value in depth.items()}
    return found | {"nme_2d_dense": 100 * plane / size, "nme_2d_dense_ownbox": 100 * plane / own}


def test_fused_dense_errors_equal_plain_numpy():
    predicted = relief(5) + RNG.normal(0, 3, (SIZE, SIZE, 3)).astype(np.float32)
    for protocol, expected in dense_by_hand(predicted, relief()).items():
        assert error(protocol, Prediction(position_map_px=predicted)) == pytest.approx(expected, rel=1e-6), protocol


def test_dense_sees_the_face_area_only():
    predicted = relief()
    outside = np.setdiff1d(np.arange(SIZE * SIZE), FACE)
    predicted.reshape(-1, 3)[outside] = np.nan
    assert error("nme_3d_dense_znone", Prediction(position_map_px=predicted)) == 0


def test_one_bad_texel_is_a_failed_face():
    predicted = relief()
    predicted.reshape(-1, 3)[FACE[40], 2] = np.nan
    distances = dense_distances([predicted], [relief()], FACE)
    assert np.isnan([distances.xyz_none[0], distances.xyz_min[0], distances.xyz_mean[0]]).all()
    assert error("nme_3d_dense_zmin", Prediction(position_map_px=predicted)) == np.inf


def test_a_finer_map_of_the_same_surface_is_the_same_surface():
    grid = np.linspace(-1, 1, 47)
    v, u = np.meshgrid(grid, grid, indexing="ij")
    fine = np.stack([100 * u + 200, 90 * v + 200, 30 * u - 20 * v], axis=-1).astype(np.float32)
    coarse = resized_map(fine, SIZE)
    np.testing.assert_allclose(coarse, fine[::2, ::2], atol=1e-3)
    assert error(
        "nme_3d_dense_znone", Prediction(position_map_px=fine), sample(position_map_px=coarse)
    ) == pytest.approx(0, abs=1e-4)


def test_dense_falls_back_on_model_vertices():
    vertices = RNG.normal(size=(SIZE * SIZE, 3)).astype(np.float32)
    ctx = Context(
        face_texels=FACE, map_size=SIZE, vertex_count=len(vertices), landmark_vertices=np.arange(68, dtype=np.int32),
        position_map_of=lambda v: v.reshape(SIZE, SIZE, 3),
    )  # fmt: skip
    truth = sample(position_map_px=vertices.reshape(SIZE, SIZE, 3), landmarks_px=vertices[:68])
    keys = [CARD.protocol(name) for name in ("nme_3d_dense_znone", "nme_3d_68_znone")]
    own, foreign = Prediction(vertices_px=vertices), Prediction(vertices_px=vertices[:-1])
    found = errors_of_batch(keys, [truth, truth], [own, foreign], ctx)
    for key in keys:
        assert found[key.key][0] == pytest.approx(0, abs=1e-4)
        assert np.isnan(found[key.key][1])


# normals


def rotated(surface, angles):
    return (surface @ rotation_from_euler(angles).T).astype(np.float32)


def test_normals_of_a_turned_plane_differ_by_the_turn():
    v, u = np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij")
    plane = np.stack([u, v, 0 * u], axis=-1).astype(np.float32)
    inner = inner_texels(FACE, SIZE)
    for degrees in (0.0, 0.01, 30.0, 90.0, 150.0):
        turned = rotated(plane, [np.radians(degrees), 0, 0])
        assert normal_error(turned, plane, inner) == pytest.approx(degrees, abs=2e-4)


@settings(max_examples=20)
@given(st.floats(0.1, 10), st.tuples(*[st.floats(-3, 3)] * 3), st.floats(-1e3, 1e3))
def test_normals_ignore_a_common_similarity_and_any_shift(scale, angles, shift):
    inner = inner_texels(FACE, SIZE)
    before = normal_error(relief(1), relief(2), inner)
    after = normal_error(
        rotated(relief(1), angles) * np.float32(scale), rotated(relief(2), angles) + np.float32(shift), inner
    )
    assert after == pytest.approx(before, abs=0.05)


def test_a_collapsed_surface_counts_90_degrees_and_bad_truth_is_left_out():
    flat = np.zeros((SIZE, SIZE, 3), np.float32)
    inner = inner_texels(FACE, SIZE)
    assert normal_error(flat, relief(), inner) == pytest.approx(90)
    assert np.isnan(normal_error(relief(), flat, inner))


def test_inner_texels_have_their_four_neighbours():
    inside = set(FACE.tolist())
    expected = [t for t in FACE if {t - 1, t + 1, t - SIZE, t + SIZE} <= inside]
    assert inner_texels(FACE, SIZE).tolist() == expected
    assert 0 < len(expected) < len(FACE)


# pose


def test_pose_error_by_hand_and_the_99_degree_rule():
    truth = np.array([[0.0, 98, 0], [0, -99.5, 0], [0, 99, 0], [np.nan, 5, 0]])
    got = pose_mae(truth + np.array([3.0, -6.0, 0.0]), truth)
    np.testing.assert_allclose(got, [3.0, np.nan, 3.0, np.nan])


def test_pose_of_a_face_without_full_truth_is_not_measured():
    yaw_only = sample(pose_deg=np.array([np.nan, 20, np.nan], np.float32))
    assert np.isnan(error("pose_mae", Prediction(pose_deg=np.zeros(3, np.float32)), yaw_only))
    assert np.isnan(error("pose_mae", Prediction(failed="x"), yaw_only))


# failed, not offered, no truth


ALL = [p for p in CARD.protocols if p.metric != "reconstruction"]


@pytest.mark.parametrize("protocol", ALL, ids=lambda p: p.id)
def test_failed_is_inf_absent_is_nan_and_no_truth_is_nan(protocol):
    faces = [sample(), sample(), Sample(id="bare"), Sample(id="bare")]
    said = [
        Prediction(failed="no face"),
        Prediction(),
        Prediction(failed="no face"),
        Prediction(landmarks_px=landmarks()),
    ]
    got = errors_of(protocol, faces, said, context())
    assert got[0] == np.inf
    assert np.isnan(got[1:]).all()


def test_two_dimensional_landmarks_offer_two_dimensional_numbers():
    flat = Prediction(landmarks_px=landmarks()[:, :2])
    assert error("nme_2d_68", flat) == 0
    assert np.isnan(error("nme_3d_68_zmin", flat))


@pytest.mark.parametrize("protocol", ALL, ids=lambda p: p.id)
def test_non_finite_predictions_are_failures(protocol):
    bad = Prediction(
        landmarks_px=np.full((68, 3), np.nan, np.float32),
        position_map_px=np.full((SIZE, SIZE, 3), np.inf, np.float32),
        pose_deg=np.array([0, np.nan, 0], np.float32),
    )
    assert error(protocol.id, bad) == np.inf


def test_what_is_missing_is_said_with_the_remedy():
    bare = Sample(id="x", landmarks_px=landmarks())
    said = {p.id: missing_ground_truth(p, bare) for p in CARD.protocols}
    assert said["nme_2d_68"] is None and said["nme_3d_68_zmin"] is None
    assert "--face-model" in said["nme_2d_dense"]
    assert "Reannotated" in said["nme_2d_68_reannotated"] and "new.pose" in said["nme_2d_68_aflwyaw"]
    assert ".mat" in said["pose_mae"]
    assert all(missing_ground_truth(p, sample()) is None for p in CARD.protocols)


def test_errors_do_not_depend_on_the_batch():
    faces = [sample(i) for i in range(5)]
    said = [
        Prediction(landmarks_px=landmarks(i + 9), position_map_px=relief(i + 9), pose_deg=np.full(3, i, np.float32))
        for i in range(5)
    ]
    together = errors_of_batch(ALL, faces, said, context())
    for i in range(5):
        alone = errors_of_batch(ALL, faces[i : i + 1], said[i : i + 1], context())
        assert all(alone[key][0] == together[key][i] for key in together)
