"""Alignment and surface distances: exact neighbours, closed forms, invariances, a textbook ICP."""

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from prnbench.cards import load_card
from prnbench.geometry import rotation_from_euler
from prnbench.metrics import Context, errors_of_batch
from prnbench.metrics.icp import Alignment, icp
from prnbench.metrics.nearest import nearest, nearest_from, point_grid
from prnbench.metrics.reconstruction import CROP_MM
from prnbench.metrics.surface import (
    cloud_normals,
    distance_to_surface,
    grid_triangles,
    rim_of,
    vertex_normals,
)
from prnbench.sample import Prediction, Sample, Scan
from tests.reference.icp import textbook_icp

FLORENCE = load_card("florence").protocols
AFLW = load_card("aflw2000_3d").protocol("reconstruction_aflw")
REVERSE = load_card("aflw2000_3d").protocol("reconstruction_aflw_reverse")
SIDE = 60


def face(x, y):
    """A face-like relief in mm: an egg with nose, brow and chin."""
    nose = 26 * np.exp(-((x / 11) ** 2 + ((y + 5) / 20) ** 2))
    chin = 8 * np.exp(-((x / 22) ** 2 + ((y + 48) / 10) ** 2))
    brow = 4 * np.exp(-(((np.abs(x) - 25) / 15) ** 2 + ((y - 28) / 8) ** 2))
    return 60 - 0.0055 * x**2 - 0.0042 * y**2 + nose + chin + brow


def prediction_surface(side=SIDE):
    y, x = np.meshgrid(np.linspace(80, -80, side), np.linspace(-72, 72, side), indexing="ij")
    points = np.stack([x, y, face(x, y)], axis=-1).reshape(-1, 3)
    return points, grid_triangles(np.arange(side * side), side)


def scan_points(count=3000, seed=0, noise=0.0):
    rng = np.random.default_rng(seed)
    xy = rng.uniform(-1, 1, (2 * count, 2)) * [62, 70]
    xy = xy[((xy / [62, 70]) ** 2).sum(axis=1) < 1][:count]
    return np.column_stack([xy, face(*xy.T)]) + rng.normal(0, noise, (len(xy), 3))


def landmarks_of_face(seed=0):
    rng = np.random.default_rng(seed)
    xy = rng.uniform(-50, 50, (68, 2))
    xy[30], xy[36], xy[45] = [0, -5], [-45, 25], [45, 25]
    return np.column_stack([xy, face(*xy.T)])


def similarity(degrees=(4.0, -5.0, 3.0), scale=1.0, shift=(3.0, -4.0, 5.0)):
    return Alignment(scale, rotation_from_euler(np.radians(degrees)), np.array(shift))


# nearest points and surfaces

CLOUDS = {
    "cube": lambda r: r.uniform(-1, 1, (300, 3)),
    "surface": lambda r: prediction_surface(20)[0],
    "plane": lambda r: r.uniform(0, 5, (200, 3)) * [1, 1, 0],
    "line": lambda r: r.uniform(0, 5, (50, 3)) * [0, 1, 0],
    "point": lambda r: np.ones((7, 3)),
    "one": lambda r: np.zeros((1, 3)),
    "clusters": lambda r: np.concatenate([r.normal(0, 1e-3, (100, 3)), r.normal(500, 1, (3, 3))]),
    "integers": lambda r: r.integers(0, 4, (200, 3)).astype(float),
}


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("spread", [0.1, 3.0, 1000.0])
def test_nearest_points_are_exact(cloud, spread):
    rng = np.random.default_rng(1)
    points = CLOUDS[cloud](rng)
    queries = np.concatenate([points[:20], points.mean(axis=0) + spread * rng.normal(size=(150, 3))])
    distance, index = nearest(point_grid(points), queries)
    assert distance == pytest.approx(cKDTree(points).query(queries)[0], rel=1e-12, abs=1e-12)
    assert np.linalg.norm(queries - points[index], axis=1) == pytest.approx(distance, rel=1e-12, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.integers(0, 399))
def test_any_hint_gives_the_same_neighbour(seed, hint):
    points = prediction_surface(20)[0]
    queries = scan_points(40, seed) + np.array([0, 0, seed % 7])
    grid = point_grid(points)
    hints, squared = np.full(len(queries), hint, np.int32), np.empty(len(queries))
    nearest_from(queries, *grid[:5], hints, squared)
    assert np.sqrt(squared) == pytest.approx(cKDTree(points).query(queries)[0])


@pytest.mark.parametrize("spread", [0.5, 30.0])
@pytest.mark.parametrize("bounded", [False, True])
def test_distance_to_a_surface_is_trimeshs(spread, bounded):
    points, triangles = prediction_surface(12)
    queries = scan_points(60) + np.random.default_rng(2).normal(0, spread, (60, 3))
    bound = cKDTree(points).query(queries)[0] if bounded else None
    naive = trimesh.proximity.closest_point_naive(trimesh.Trimesh(points, triangles, process=False), queries)[1]
    assert distance_to_surface(queries, points, triangles, bound) == pytest.approx(naive, abs=1e-9)


def test_distance_to_one_triangle_in_every_region():
    corners = np.array([[0.0, 0, 0], [4, 0, 0], [0, 4, 0]])
    cases = {
        (1, 1, 3): 3, (1, 1, -2): 2,  # above, below
        (-3, -4, 0): 5, (7, -4, 0): 5, (-3, 8, 0): 5,  # beyond a corner
        (2, -3, 4): 5, (-3, 2, 4): 5, (4, 4, 0): 8**0.5,  # beyond an edge
        (0, 0, 0): 0, (2, 2, 0): 0,
    }  # fmt: skip
    got = distance_to_surface(np.array(list(cases), float), corners, np.array([[0, 1, 2]], np.int32))
    assert got == pytest.approx(list(cases.values()))


def test_degenerate_triangles_are_points_and_segments():
    corners = np.array([[0.0, 0, 0], [2, 0, 0], [1, 0, 0], [5, 5, 5]])
    triangles = np.array([[0, 1, 2], [3, 3, 3]], np.int32)
    got = distance_to_surface(np.array([[1.5, 2, 0], [5, 5, 7], [-1, 0, 0]]), corners, triangles)
    assert got == pytest.approx([2, 2, 1])


def test_points_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite"):
        distance_to_surface(np.array([[np.nan, 0, 0]]), *prediction_surface(5))


def test_triangles_of_a_map_cover_its_squares():
    width, rows = 7, np.array([[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2], [2, 1], [2, 2], [4, 4]])
    triangles = grid_triangles(rows @ [width, 1], width)
    assert len(triangles) == 2 * 3
    corners = np.column_stack([rows[:, 1], -rows[:, 0], 0 * rows[:, 0]]).astype(float)
    normals = np.cross(
        corners[triangles[:, 1]] - corners[triangles[:, 0]], corners[triangles[:, 2]] - corners[triangles[:, 0]]
    )
    assert (normals[:, 2] == 1).all()  # one way round, area 1/2 each
    assert rim_of(triangles, len(rows)).tolist() == [True] * 9
    full = rim_of(grid_triangles(np.arange(25), 5), 25).reshape(5, 5)
    assert not full[1:-1, 1:-1].any() and full.sum() == 16


def test_a_closed_surface_has_no_rim_and_radial_normals():
    sphere = trimesh.creation.icosphere(3)
    triangles = sphere.faces.astype(np.int32)
    assert not rim_of(triangles, len(sphere.vertices)).any()
    normals = vertex_normals(sphere.vertices, triangles)
    assert (normals * sphere.vertices).sum(axis=1) == pytest.approx(1, abs=2e-3)
    cloud = cloud_normals(sphere.vertices)
    assert np.abs((cloud * sphere.vertices).sum(axis=1)) == pytest.approx(1, abs=2e-2)


# ICP


def plane_inputs():
    points, triangles = prediction_surface()
    return points, {"normals": vertex_normals(points, triangles), "rim": rim_of(triangles, len(points))}


@pytest.mark.parametrize("objective", ["plane", "point"])
@pytest.mark.parametrize("scale", [False, True])
def test_a_known_motion_is_found_exactly(objective, scale):
    points, surface = plane_inputs()
    # point to point gets stuck where points fit their neighbours' places, so its start is nearer than their spacing
    far = objective == "plane"
    true = similarity(
        (2.0, -2, 1) if far else (0.3, -0.2, 0.1), (1.03 if far else 1.004) if scale else 1.0, (0.4, -0.3, 0.7)
    )
    inner = points[(np.abs(points[:, 0]) < 60) & (np.abs(points[:, 1]) < 68)]
    found = icp(points, true.apply(inner), scale=scale, tolerance=1e-9, **(surface if objective == "plane" else {}))
    assert found.converged and found.rms == pytest.approx(0, abs=1e-6)
    assert found.apply(points) == pytest.approx(true.apply(points), abs=1e-5)


@pytest.mark.parametrize("scale", [False, True])
def test_point_to_point_is_the_textbooks_fixed_point(scale):
    points, _ = prediction_surface(30)
    truth = similarity((2.0, 1, -1), 1.02 if scale else 1.0, (1.0, 1, 1)).apply(scan_points(800, noise=0.4))
    expected, _ = textbook_icp(points, truth, scale=scale, tolerance=1e-7)
    found = icp(points, truth, scale=scale, tolerance=1e-7, coarse=1)
    assert found.converged
    assert found.apply(points) == pytest.approx(expected, abs=1e-3)
    rms = np.sqrt((cKDTree(expected).query(truth)[0] ** 2).mean())
    assert found.rms == pytest.approx(rms, rel=1e-6)


@pytest.mark.parametrize("scale", [False, True])
def test_no_small_motion_betters_the_plane_objective(scale):
    points, surface = plane_inputs()
    truth = similarity().apply(scan_points(noise=0.3))
    found = icp(points, truth, scale=scale, tolerance=1e-8, **surface)
    assert found.converged

    index = nearest(point_grid(points), found.undo(truth))[1]
    normals, rim = surface["normals"][index], surface["rim"][index]

    def objective(alignment):
        gap = truth - alignment.apply(points[index])
        to_plane = (gap @ alignment.rotation * normals).sum(axis=1)
        return np.where(rim, np.linalg.norm(gap, axis=1), to_plane) @ np.where(
            rim, np.linalg.norm(gap, axis=1), to_plane
        )

    at_rest = objective(found)
    for axis in range(7 if scale else 6):
        for sign in (-1, 1):
            step = np.zeros(7)
            step[axis] = sign * (1e-4 if axis < 3 or axis == 6 else 1e-2)
            turn = rotation_from_euler(step[:3])
            centre = truth.mean(axis=0)
            moved = Alignment(
                found.scale * (1 + step[6]),
                turn @ found.rotation,
                turn @ (found.translation - centre) * (1 + step[6]) + centre + step[3:6],
            )
            assert objective(moved) >= at_rest * (1 - 1e-9)


def test_plane_icp_ends_where_patient_point_icp_ends():
    points, surface = plane_inputs()
    truth = similarity().apply(scan_points(noise=0.3))
    fast = icp(points, truth, tolerance=1e-6, **surface)
    slow, _ = textbook_icp(points, truth, tolerance=1e-4)
    residual = cKDTree(slow).query(truth)[0].mean()
    assert cKDTree(fast.apply(points)).query(truth)[0].mean() <= 1.01 * residual
    assert fast.iterations < 20


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("depth", [0.7, 1.3, 1.8])
def test_very_different_shapes_converge_too(scale, depth):
    points, surface = plane_inputs()
    truth = similarity().apply(scan_points(noise=1.0) * [1, 1, depth])
    found = icp(points, truth, scale=scale, tolerance=9e-3, coarse=1, **surface)
    assert found.converged and found.rms > 2
    again = icp(points, truth, scale=scale, start=found, tolerance=9e-3, coarse=1, **surface)
    assert again.rms == pytest.approx(found.rms, rel=1e-3)


def test_an_unfinished_alignment_says_so(monkeypatch):
    points, surface = plane_inputs()
    truth = similarity().apply(scan_points())
    monkeypatch.setattr("prnbench.metrics.icp._MOST_PASSES", {"plane": 2, "point": 2})
    for objective in (surface, {}):
        found = icp(points, truth, tolerance=1e-9, coarse=1, **objective)
        assert not found.converged and found.iterations == 2
        assert found.distances == pytest.approx(cKDTree(found.apply(points)).query(truth)[0])


def test_a_mirrored_face_is_not_a_perfect_face():
    points, surface = plane_inputs()
    lopsided = scan_points()
    lopsided[:, 2] += 6 * np.exp(-(((lopsided[:, 0] - 30) / 12) ** 2 + (lopsided[:, 1] / 15) ** 2))
    mirrored = lopsided * [-1, 1, 1]
    both = [icp(lopsided, truth, tolerance=1e-6, scale=True) for truth in (lopsided, mirrored)]
    assert all(np.linalg.det(found.rotation) == pytest.approx(1) for found in both)
    assert both[0].rms < 1e-6 and both[1].rms > 0.5
    assert surface["normals"].shape == points.shape


def test_a_wrong_size_is_corrected_and_never_collapses():
    points, surface = plane_inputs()
    truth = scan_points()
    for size in (0.7, 1.3):
        start = Alignment(size, np.eye(3), np.zeros(3))
        assert icp(points, truth, scale=True, start=start, tolerance=1e-6, **surface).scale == pytest.approx(
            1, abs=0.02
        )
        assert icp(points, truth, start=start, tolerance=1e-6, **surface).scale == size


@settings(max_examples=10, deadline=None)
@given(st.tuples(*[st.floats(-180, 180)] * 3), st.floats(0.1, 10), st.tuples(*[st.floats(-500, 500)] * 3))
def test_moving_both_sides_moves_the_result(degrees, scale, shift):
    points, surface = plane_inputs()
    truth = similarity().apply(scan_points(500, noise=0.2))
    common = similarity(degrees, scale, shift)
    before = icp(points, truth, tolerance=1e-6, **surface)
    turned = {"normals": surface["normals"] @ common.rotation.T, "rim": surface["rim"]}
    after = icp(common.apply(points), common.apply(truth), tolerance=1e-6 * scale, **turned)
    assert after.rms == pytest.approx(scale * before.rms, rel=1e-3)


# errors of faces

CAMERA = np.array([[2.0, 0, 0, 225], [0, -2, 0, 230], [0, 0, 2, 0]], np.float32)  # mm to pixels, y down


def florence_face(points=None, landmarks=None):
    points = scan_points() if points is None else points
    landmarks = landmarks_of_face() if landmarks is None else landmarks
    interocular = float(np.linalg.norm(landmarks[36] - landmarks[45]))
    scan = Scan(points.astype(np.float32), CAMERA, landmarks.astype(np.float32), interocular)
    return Sample(id="view", scan=scan, pose_deg=np.zeros(3, np.float32))


def seen(points):
    return (points @ CAMERA[:, :3].T + CAMERA[:, 3]).astype(np.float32)


def florence_context(side=SIDE):
    return Context(triangles=prediction_surface(side)[1], vertex_count=side * side)


def florence_errors(prediction, sample=None, context=None):
    found = errors_of_batch(FLORENCE, [sample or florence_face()], [prediction], context or florence_context())
    return {protocol.id: found[protocol.key][0] for protocol in FLORENCE}


def predicted(points=None, landmarks=None):
    points = prediction_surface()[0] if points is None else points
    landmarks = landmarks_of_face() if landmarks is None else landmarks
    return Prediction(vertices_px=seen(points), landmarks_px=seen(landmarks))


def test_the_right_face_in_the_picture_is_right_in_millimetres():
    got = florence_errors(predicted())
    spacing = 100 * (144 / SIDE) / 90  # one grid step in per cent of the eye distance
    assert got["florence_p2s_rigid"] < 0.05
    assert got["florence_p2s_rigid"] < got["florence_p2p_rigid"] < spacing
    assert got["florence_p2p_rigid_reverse"] < 3 * spacing  # the prediction is larger than the scan


def test_place_pose_and_size_of_a_prediction_do_not_count():
    moved = similarity((10.0, 20, -5), 1.7, (30.0, 10, 5))
    surface, landmarks = prediction_surface()[0], landmarks_of_face()
    before = florence_errors(predicted(surface + [0, 0, 1] * np.sin(surface[:, :1] / 20)))
    shifted = surface + [0, 0, 1] * np.sin(surface[:, :1] / 20)
    after = florence_errors(predicted(moved.apply(shifted), moved.apply(landmarks)))
    for key, value in before.items():
        assert after[key] == pytest.approx(value, rel=0.02, abs=0.005), key


def test_concentric_spheres_differ_by_their_radii():
    sphere = trimesh.creation.icosphere(5)  # 10,242 vertices, radius 1
    context = Context(triangles=sphere.faces.astype(np.int32), vertex_count=len(sphere.vertices))
    inside = 40.0 * trimesh.creation.icosphere(4).vertices
    landmarks = 30.0 * np.random.default_rng(3).normal(size=(68, 3))
    landmarks[30], landmarks[36], landmarks[45] = [0, 0, 40], [-50, 0, 0], [50, 0, 0]
    sample = florence_face(inside, landmarks)
    got = florence_errors(predicted(42.0 * sphere.vertices, landmarks), sample, context)
    assert got["florence_p2s_rigid"] == pytest.approx(2.0, abs=0.01)  # 2 mm of 100 mm
    assert got["florence_p2p_rigid"] == pytest.approx(2.1, abs=0.15)
    assert got["florence_p2p_rigid_reverse"] == pytest.approx(2.3, abs=0.35)
    assert got["florence_p2s_similarity"] == pytest.approx(0.0, abs=0.01)


def test_a_mirrored_prediction_is_not_right():
    lopsided = prediction_surface()[0]
    lopsided[:, 2] += 8 * np.exp(-(((lopsided[:, 0] - 30) / 12) ** 2 + (lopsided[:, 1] / 15) ** 2))
    truth = scan_points()
    truth[:, 2] += 8 * np.exp(-(((truth[:, 0] - 30) / 12) ** 2 + (truth[:, 1] / 15) ** 2))
    sample = florence_face(truth)
    right = florence_errors(predicted(lopsided), sample)
    wrong = florence_errors(predicted(lopsided * [-1, 1, 1]), sample)
    assert right["florence_p2s_similarity"] < 0.1 < 0.5 < wrong["florence_p2s_similarity"]


def test_the_reverse_direction_sees_invented_surface_within_the_crop_only():
    surface, landmarks = prediction_surface()[0], landmarks_of_face()
    beside = (surface[:, 0] < -66) & (np.abs(surface[:, 1]) < 25)  # within the crop, beyond the scan
    near = surface + np.outer(beside, [0, 0, 15])
    far = surface - np.outer(beside, [0, 0, 2 * CROP_MM])
    base, bent, gone = (florence_errors(predicted(points, landmarks)) for points in (surface, near, far))
    assert bent["florence_p2p_rigid_reverse"] > base["florence_p2p_rigid_reverse"] + 0.02
    assert gone["florence_p2p_rigid_reverse"] < base["florence_p2p_rigid_reverse"] - 0.02
    for key in ("florence_p2s_rigid", "florence_p2p_rigid"):
        assert bent[key] == pytest.approx(base[key], abs=0.02)


def test_vertices_of_an_unknown_topology_have_no_surface():
    got = florence_errors(predicted(), context=Context())
    assert np.isnan(got["florence_p2s_rigid"]) and np.isnan(got["florence_p2s_similarity"])
    known = florence_errors(predicted())
    for key in ("florence_p2p_rigid", "florence_p2p_similarity"):
        assert got[key] == pytest.approx(known[key], rel=0.05)


def aflw_face(side=SIDE):
    points = seen(prediction_surface(side)[0]).reshape(side, side, 3)
    rows, columns = np.divmod(np.arange(side * side), side)
    inside = np.flatnonzero(((rows - side / 2) ** 2 + (columns - side / 2) ** 2) < (0.45 * side) ** 2)
    return Sample(id="f", landmarks_px=seen(landmarks_of_face()), position_map_px=points), Context(inside, side)


def aflw_error(prediction):
    sample, context = aflw_face()
    return errors_of_batch([AFLW], [sample], [prediction], context)[AFLW.key][0]


def test_aflw_reconstruction_ignores_place_and_size_but_not_shape():
    sample, _ = aflw_face()
    same = Prediction(position_map_px=sample.position_map_px, landmarks_px=sample.landmarks_px)
    assert aflw_error(same) == pytest.approx(0, abs=1e-6)
    move = similarity((5.0, 3, 2), 1.4, (20.0, 5, -9))
    moved = Prediction(
        position_map_px=move.apply(sample.position_map_px).astype(np.float32),
        landmarks_px=move.apply(sample.landmarks_px).astype(np.float32),
    )
    assert aflw_error(moved) == pytest.approx(0, abs=1e-3)
    flat = Prediction(
        position_map_px=sample.position_map_px * np.float32([1, 1, 0.5]), landmarks_px=sample.landmarks_px
    )
    assert aflw_error(flat) > 1


def test_aflw_reverse_sees_what_sticks_out_and_the_main_direction_does_not():
    """A thin spike out of the face: every true point still has a near one, the spike's points have none."""
    sample, context = aflw_face()
    both = [AFLW, REVERSE]

    def errors(position_map):
        said = Prediction(position_map_px=position_map.astype(np.float32), landmarks_px=sample.landmarks_px)
        found = errors_of_batch(both, [sample], [said], context)
        return found[AFLW.key][0], found[REVERSE.key][0]

    assert errors(sample.position_map_px) == pytest.approx((0, 0), abs=1e-6)
    spiked = sample.position_map_px.copy()
    spiked[SIDE // 2 : SIDE // 2 + 2, SIDE // 2 : SIDE // 2 + 2, 2] += 400
    forward, reverse = errors(spiked)
    assert reverse > 3 * forward > 0


@pytest.mark.parametrize("protocol", [*FLORENCE, AFLW, REVERSE], ids=lambda protocol: protocol.id)
def test_failed_absent_and_bad_predictions(protocol):
    sample, context = aflw_face() if protocol in (AFLW, REVERSE) else (florence_face(), florence_context())
    landmarks = seen(landmarks_of_face())
    nan = np.full((SIDE * SIDE, 3), np.nan, np.float32)
    bad = {"position_map_px": nan.reshape(SIDE, SIDE, 3)} if protocol in (AFLW, REVERSE) else {"vertices_px": nan}
    collapsed = {name: np.zeros_like(value) for name, value in bad.items()}
    cases = [
        (Prediction(failed="no face"), np.inf),
        (Prediction(landmarks_px=landmarks, **bad), np.inf),
        (Prediction(landmarks_px=landmarks, **collapsed), np.inf),
        (Prediction(landmarks_px=np.zeros((68, 3), np.float32), **collapsed), np.inf),
        (Prediction(landmarks_px=landmarks), np.nan),
        (Prediction(landmarks_px=landmarks[:, :2], **collapsed), np.nan),
    ]
    got = errors_of_batch([protocol], [sample] * len(cases), [prediction for prediction, _ in cases], context)
    np.testing.assert_array_equal(got[protocol.key], [expected for _, expected in cases])
    without = errors_of_batch([protocol], [Sample(id="x")], [Prediction(failed="no face")], context)
    assert np.isnan(without[protocol.key][0])
