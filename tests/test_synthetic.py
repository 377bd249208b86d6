"""The built-in head, its scenes and the writers of the real layouts."""

from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from prnbench.errors import UsageError
from prnbench.geometry import project, rotation_from_euler, to_image
from prnbench.landmarks import MIRROR_68
from prnbench.morphable.model import MorphableModel
from prnbench.render import rasterise
from prnbench.sample import decode_rgb
from prnbench.synthetic import anatomy, layouts, light
from prnbench.synthetic.head import VERSION, built_in_head, head_parts
from prnbench.synthetic.identity import distances, published_std
from prnbench.synthetic.layouts import generate, mirrored_face
from prnbench.synthetic.mirror import mirror_coefficients
from prnbench.synthetic.person import bodies, camera_points, centred_pose, draw_face, landmarks_of, neutral_face
from prnbench.synthetic.scene import picture
from prnbench.uv import chart_of

SAMPLES = Path(__file__).parents[2] / "shared" / "samples"
INNER_LIPS = (61, 62, 63, 65, 66, 67)  # where the closed lips touch, the published means stand a little apart
# unit -> landmark and its motion in mm at full strength, from the published figures
AMPLITUDES = {
    "jawOpen": {57: (0, -35.1, -21.4), 8: (0, -28.2, -29.1), 66: (0, -35.2, -19.3)},
    "jawLeft": {8: (8.6, 0.1, 0.1), 7: (8.5, 0.1, 0.3)},
    "jawForward": {8: (0, -1.7, 10.9), 57: (0, -1.2, 9.6)},
    "mouthSmile_L": {54: (7.1, 10.5, -9.1), 64: (7.0, 9.8, -8.5)},
    "mouthPucker": {54: (-4.6, 2.2, 9.8), 64: (-5.2, 2.1, 10.9)},
    "mouthFunnel": {66: (0, -8.3, 6.6), 65: (-1.1, -6.6, 9.1)},
    "mouthStretch_L": {54: (6.6, -3.1, -7.0), 64: (7.0, -2.6, -6.7)},
    "noseSneer_L": {53: (0.6, 8.9, 0), 35: (0.4, 6.3, 0.1)},
    "eyeBlink_L": {43: (-2.2, -7.6, -1.0), 44: (-0.2, -7.8, -0.8)},
    "eyeWide": {43: (0.3, 3.0, -0.8), 44: (0.3, 2.9, -0.9)},
    "browInnerUp": {23: (0.6, 5.2, -0.5), 22: (0.4, 4.5, -0.2)},
    "browOuterUp_L": {25: (1.9, 7.5, -3.0), 26: (1.1, 5.8, -2.4)},
    "browDown_L": {24: (-4.6, -3.7, 2.8), 23: (-3.7, -3.4, 2.0)},
}


@pytest.fixture(scope="module")
def head() -> MorphableModel:
    return built_in_head()


def unit(head: MorphableModel, *names: str) -> np.ndarray:
    """Expression coefficients with some units at full strength."""
    b = np.zeros(29)
    b[[head.expression_names.index(name) for name in names]] = 3.0
    return b


# ---------------------------------------------------------------- the head


def test_landmarks_lie_at_their_published_means(head: MorphableModel) -> None:
    error = np.linalg.norm(head.mean[head.landmarks] / 1000 - anatomy.landmark_means(), axis=1)
    assert len(set(head.landmarks.tolist())) == 68
    assert error[INNER_LIPS,].max() < 3.0
    assert np.delete(error, INNER_LIPS).max() < 0.5


def test_jaw_line_lies_on_the_frontal_outline(head: MorphableModel) -> None:
    """The jaw's sides are where the surface turns away from the camera: no vertex of that height lies further out."""
    mm = head.mean / 1000
    skin = (head_parts().part == 0) & (mm[:, 2] > -100)
    for k in (1, 2, 3, 13, 14, 15):
        x, y, _ = mm[head.landmarks[k]]
        level = skin & (np.abs(mm[:, 1] - y) < 2) & (np.sign(mm[:, 0]) == np.sign(x))
        assert np.abs(mm[level, 0]).max() - abs(x) < 3.0


def test_size_and_layout_of_the_model(head: MorphableModel) -> None:
    assert 20_000 <= head.vertex_count <= 60_000
    assert head.identity.shape[1] == 199
    assert head.expression.shape[1] == len(set(head.expression_names)) == 29
    real = head.identity_std > 0
    assert 40 <= real.sum() <= 199
    np.testing.assert_allclose(np.linalg.norm(head.identity[:, real], axis=0), 1, atol=1e-4)
    assert not head.identity[:, ~real].any()
    assert (np.diff(head.identity_std[real]) <= 0).all()
    gram = head.identity[:, :40].T @ head.identity[:, :40]
    np.testing.assert_allclose(gram, np.eye(40), atol=1e-3)


def test_the_chart_is_a_disk_without_flips(head: MorphableModel) -> None:
    a, b, c = head.uv[head.triangles].astype(float).transpose(1, 0, 2)
    area = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    assert (area > 0).all()
    assert head.uv.min() > 0
    assert head.uv.max() < 1
    edges = np.sort(np.concatenate([head.triangles[:, [0, 1]], head.triangles[:, [1, 2]], head.triangles[:, [2, 0]]]))
    edges = np.sort(edges, axis=1)
    unique, counts = np.unique(edges, axis=0, return_counts=True)
    assert set(counts.tolist()) <= {1, 2}
    # Euler's number of a disk: V - E + F = 1; one closed rim
    assert head.vertex_count - len(unique) + len(head.triangles) == 1
    assert len(np.unique(unique[counts == 1])) == (counts == 1).sum()


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.floats(-90, 90))
def test_the_heads_vertices_survive_a_position_map(seed: int, yaw: float) -> None:
    """At 256 texels under 0.5 px of the crop; beyond lie the hidden folds, and landmarks between two columns."""
    head = built_in_head()
    face = draw_face(head, yaw, np.random.default_rng(seed))
    vertices = camera_points(head.vertices(face.shape, face.expression), face.pose)
    box = vertices[head.landmarks, :2]
    vertices = vertices * np.float32(256 / (1.5 * np.ptp(box, axis=0).mean()))
    raster = chart_of(head).raster(256)
    position_map = raster.position_map(vertices)
    error = np.linalg.norm(raster.vertices(position_map) - vertices, axis=1)
    skin = head_parts().part == 0
    assert np.median(error[skin]) < 0.02
    assert (error[skin] < 0.5).mean() > 0.99
    assert (error < 0.5).mean() > 0.90
    read = position_map[tuple(chart_of(head).landmark_texels(256).T)]
    landmarks = vertices[head.landmarks]
    middle = np.abs(head.uv[head.landmarks, 0] - 0.5) < 1e-6
    np.testing.assert_allclose(read[~middle], landmarks[~middle], atol=0.03)
    between = raster.sample(position_map, head.landmarks)[middle]
    np.testing.assert_allclose(between, landmarks[middle], atol=1.0)


def test_the_face_is_mirror_symmetric(head: MorphableModel) -> None:
    mirror = head_parts().mirror
    np.testing.assert_array_equal(mirror[mirror], np.arange(head.vertex_count))
    np.testing.assert_allclose(head.mean[mirror] * (-1, 1, 1), head.mean, atol=0.1)
    np.testing.assert_array_equal(mirror[head.landmarks], head.landmarks[list(MIRROR_68)])


def test_identities_have_the_published_spread_and_correlations(head: MorphableModel) -> None:
    rows = (3 * head.landmarks[:, None] + np.arange(3)).ravel()
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(4000, 199)) * head.identity_std
    people = (head.mean.reshape(-1)[rows] + weights @ head.identity[rows].T.astype(float)).reshape(-1, 68, 3) / 1000
    measured = np.array([distances(p) for p in people])
    np.testing.assert_allclose(measured.std(axis=0), published_std(), rtol=0.08)
    means = [mean for _, _, mean, _ in anatomy.DISTANCES.values()]
    np.testing.assert_allclose(measured.mean(axis=0), [*means, anatomy.NOSE_TIP_AHEAD[0]], atol=1.3)
    assert np.abs(np.corrcoef(measured[:, :6].T) - anatomy.CORRELATIONS).max() < 0.06


@pytest.mark.parametrize("name", AMPLITUDES)
def test_expressions_move_the_landmarks_as_published(head: MorphableModel, name: str) -> None:
    moved = landmarks_of(head, np.zeros(199), unit(head, name)) - landmarks_of(head, np.zeros(199), np.zeros(29))
    for landmark, wanted in AMPLITUDES[name].items():
        got, want = moved[landmark] / 1000, np.array(wanted)
        assert 0.5 < np.linalg.norm(got) / np.linalg.norm(want) < 1.6, (landmark, got)
        assert got @ want / np.linalg.norm(got) / np.linalg.norm(want) > 0.85, (landmark, got)


def seen_share(head: MorphableModel, expression: np.ndarray, wanted: np.ndarray) -> int:
    """Pixels of the frontal face that show triangles of the wanted vertices."""
    mm = head.vertices(None, expression) / 1000
    points = np.stack([mm[:, 0] * 2 + 225, 200 - mm[:, 1] * 2, mm[:, 2] * 2], axis=1)
    ids = rasterise(points, head.triangles, 450, 450).triangle
    return int(wanted[head.triangles].all(axis=1)[ids[ids >= 0]].sum())


def test_blinking_closes_the_lids_over_the_balls(head: MorphableModel) -> None:
    parts = head_parts()
    ball = (parts.part == 1) & (parts.local[:, 0] < 1.9)
    open_eyes = seen_share(head, np.zeros(29), ball)
    assert open_eyes > 1000
    assert seen_share(head, unit(head, "eyeBlink_L", "eyeBlink_R"), ball) < 0.08 * open_eyes
    assert 0.35 * open_eyes < seen_share(head, unit(head, "eyeBlink_L"), ball) < 0.65 * open_eyes
    assert seen_share(head, unit(head, "eyeWide"), ball) > 1.1 * open_eyes


def test_the_jaw_opens_the_lips_onto_the_cavity(head: MorphableModel) -> None:
    cavity = head_parts().part == 2
    assert seen_share(head, np.zeros(29), cavity) < 40
    assert seen_share(head, unit(head, "jawOpen"), cavity) > 3000


def test_the_cached_head_is_the_built_one(head: MorphableModel) -> None:
    built_in_head.cache_clear()
    assert built_in_head().fingerprint == head.fingerprint


# ---------------------------------------------------------------- light


def test_another_head_has_another_version(head: MorphableModel) -> None:
    """Shards and weights belong to one version: whoever changes shape, modes or chart raises ``head.VERSION``."""
    turn = np.sin(np.arange(len(head.identity)))
    figures = {
        "mean": np.abs(head.mean.astype(float)).mean(),
        "chart": (head.uv.astype(float) ** 2).mean(),
        "identity": turn @ head.identity.astype(float) @ head.identity_std,
        "expression": np.abs(turn @ head.expression.astype(float)).sum(),
        "triangles": (head.triangles.astype(np.int64) @ (1, 2, 3) @ np.arange(len(head.triangles))) % 10**9,
        "landmarks": head.landmarks.sum(),
    }
    version_2 = {
        "mean": 40918.061156,
        "chart": 0.2845099699,
        "identity": 6515.754603,
        "expression": 112852.784354,
        "triangles": 921762585,
        "landmarks": 484209,
    }
    assert VERSION == "2"
    assert figures == pytest.approx(version_2, rel=1e-6)


def test_light_in_a_white_furnace_is_one() -> None:
    normals = light.fibonacci_sphere(50)
    everywhere = np.outer(light.ambient(), np.ones(3))
    np.testing.assert_allclose(light.irradiance(light.sh_basis(normals), everywhere), 1, atol=1e-5)


def test_transfer_of_a_convex_body_is_the_cosine_lobe() -> None:
    """A sphere hides nothing from itself, so its transfer is the closed form A_l Y_lm(n)."""
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=3, radius=100)
    transfer = light.transfer_vectors(ball.vertices, ball.faces)
    closed_form = light.sh_basis(ball.vertex_normals) * light.COSINE_LOBE
    assert np.abs(transfer - closed_form).max() < 0.06


def test_a_lamp_lights_the_side_it_stands_on() -> None:
    lamp = np.outer(light.directional(np.array([1.0, 0, 0])), np.ones(3))
    lit = light.irradiance(light.sh_basis(np.array([[1.0, 0, 0], [0, 1.0, 0], [-1.0, 0, 0]])), lamp)[:, 0]
    np.testing.assert_allclose(lit[0], 1.0, atol=0.1)  # n . l = 1
    assert abs(lit[1]) < 0.35
    assert abs(lit[2]) < 0.2


# ---------------------------------------------------------------- faces and pictures


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(-90, 90))
def test_a_mirrored_face_mirrors_the_landmarks(seed: int, yaw: float) -> None:
    model = built_in_head()
    face = draw_face(model, yaw, np.random.default_rng(seed))
    there = layouts.annotated(model, face)
    back = layouts.annotated(model, mirrored_face(model, face))[list(MIRROR_68)]
    np.testing.assert_allclose(451 - back[:, 0], there[:, 0], atol=0.05)
    np.testing.assert_allclose(back[:, 1:], there[:, 1:], atol=0.05)


def test_mirroring_twice_is_nothing() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=199), rng.normal(size=29)
    twice = mirror_coefficients(*mirror_coefficients(a, b))
    np.testing.assert_array_equal(twice[0], a)
    np.testing.assert_array_equal(twice[1], b)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(-90, 90))
def test_faces_are_posed_as_asked(seed: int, yaw: float) -> None:
    model = built_in_head()
    face = draw_face(model, yaw, np.random.default_rng(seed))
    assert np.rad2deg(face.pose[1]) == pytest.approx(yaw, abs=1e-9)
    points = layouts.annotated(model, face)
    assert points[:, :2].min() > 0
    assert points[:, :2].max() < 451
    assert 0.9e-3 < face.pose[6] < 1.7e-3


def test_bodies_and_camera_points_equal_the_model_and_the_geometry(head: MorphableModel) -> None:
    faces = [draw_face(head, yaw, np.random.default_rng(k)) for k, yaw in enumerate((-70.0, 12.0))]
    for face, body in zip(faces, bodies(head, faces), strict=True):
        np.testing.assert_allclose(body.vertices, head.vertices(face.shape, face.expression), atol=0.5)  # um
        np.testing.assert_allclose(body.colours, head.colours(face.texture), atol=1e-5)
        exact = to_image(project(body.vertices, face.pose), 450)
        np.testing.assert_allclose(camera_points(body.vertices, face.pose), exact, atol=2e-3)


def test_the_picture_shows_the_face_where_the_truth_says(head: MorphableModel) -> None:
    """Mirrored truth, same room: the eyes' dark pupils lie within the lids' landmarks."""
    still = np.zeros(29)
    pose = centred_pose(head, np.zeros(199), still, np.zeros(3), 1.4e-3, np.zeros(2))
    face = neutral_face(np.zeros(199), still, np.zeros(199), pose)
    image = picture(head, face, np.random.default_rng(3), plain=True).astype(float).mean(axis=2)
    points = layouts.annotated(head, face)[:, :2] - 1
    for eye in (range(36, 42), range(42, 48)):
        (left, top), (right, bottom) = points[eye].min(axis=0), points[eye].max(axis=0)
        window = image[int(top) : int(bottom) + 1, int(left) : int(right) + 1]
        column = np.argmin(window.mean(axis=0)) / window.shape[1]
        assert 0.25 < column < 0.75
    cheek = image[int(points[29, 1]), int(points[41, 0])]
    assert cheek > 1.3 * window.min()


def test_pictures_depend_on_their_random_stream_only(head: MorphableModel) -> None:
    face = draw_face(head, 20.0, np.random.default_rng(5))
    first, again, other = (picture(head, face, np.random.default_rng(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 2
    assert first.shape == (450, 450, 3)
    assert first.dtype == np.uint8


# ---------------------------------------------------------------- layouts


@pytest.fixture(scope="module")
def aflw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate("aflw2000_3d", 10, 3, tmp_path_factory.mktemp("aflw"), workers=1)


def test_aflw_fields_reproduce_the_landmarks(aflw: Path, head: MorphableModel) -> None:
    """pt3d_68 follows from Shape_Para, Exp_Para and Pose_Para by the published formula."""
    for path in sorted(aflw.glob("*.mat")):
        m = scipy.io.loadmat(path)
        vertices = head.vertices(m["Shape_Para"][:, 0], m["Exp_Para"][:, 0])[head.landmarks]
        pitch, yaw, roll, tx, ty, tz, scale = m["Pose_Para"][0]
        posed = scale * vertices @ rotation_from_euler([pitch, yaw, roll]).T + (tx, ty, tz)
        expected = np.stack([posed[:, 0], 450 + 1 - posed[:, 1], posed[:, 2]])
        np.testing.assert_allclose(m["pt3d_68"], expected, atol=0.01)
        seen = m["pt2d"][0] > 0
        np.testing.assert_array_equal(m["pt2d"][:, ~seen], np.tile([[-1.0], [452.0]], (~seen).sum()))
        assert seen.sum() >= 6
        assert decode_rgb(path.with_suffix(".jpg").read_bytes()).shape == (450, 450, 3)


def test_profile_faces_hide_half_of_their_points(head: MorphableModel) -> None:
    face = draw_face(head, 85.0, np.random.default_rng(2))
    body = bodies(head, [face])[0]
    points = layouts.annotated(head, face)
    buffer = rasterise(camera_points(body.vertices, face.pose), head.triangles, 450, 450)
    seen = layouts.points_21(head, face, points, body.vertices, buffer)[0] > 0
    assert not seen[:3].any()  # positive yaw turns the person's right side away
    assert seen[14]
    assert seen[16]


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="needs the real samples beside the repository")
@pytest.mark.parametrize(
    "layout, sample", [("aflw2000_3d", "AFLW2000-3D/image00050"), ("w300lp", "300W_LP/IBUG/IBUG_image_008_1_0")]
)
def test_fields_are_those_of_the_real_files(layout: str, sample: str, tmp_path: Path) -> None:
    real = scipy.io.loadmat(SAMPLES / f"{sample}.mat")
    generate(layout, 1, 0, tmp_path, workers=1)
    made = scipy.io.loadmat(next(p for p in sorted(tmp_path.rglob("*.mat")) if "_pts" not in p.name))
    for name, value in real.items():
        if not name.startswith("__"):
            assert (made[name].shape, made[name].dtype) == (value.shape, value.dtype), name


def test_bytes_do_not_depend_on_workers_count_or_interruption(aflw: Path, tmp_path: Path) -> None:
    again = generate("aflw2000_3d", 12, 3, tmp_path / "again", workers=2)
    files = sorted(p.name for p in aflw.glob("image*"))
    assert len(files) == 20
    for name in files:
        assert (aflw / name).read_bytes() == (again / name).read_bytes(), name
    (again / files[5]).unlink()
    (again / files[5]).with_suffix(".mat").unlink(missing_ok=True)
    generate("aflw2000_3d", 12, 3, again, workers=1)
    assert (again / files[5]).read_bytes() == (aflw / files[5]).read_bytes()
    assert not list(again.glob(".*tmp"))


def test_yaw_shares_are_those_of_the_real_sets() -> None:
    test = np.abs([layouts.test_yaw(11, k) for k in range(2000)])
    counts = np.histogram(test, [0, 30, 60, 90.01])[0]
    assert np.abs(counts - (1306, 462, 232)).max() <= 3
    train = np.array([layouts.training_yaw(11, p, v) for p in range(250) for v in range(layouts.VARIANTS)])
    assert np.histogram(train, 6, (-90, 90))[0] == pytest.approx(2000 / 6, rel=0.05)


def test_w300lp_layout_with_flips(tmp_path: Path) -> None:
    out = generate("w300lp", 11, 5, tmp_path, workers=1, flips=True)
    plain = sorted(p for p in out.glob("*/*.mat") if not p.parent.name.endswith("_Flip"))
    assert len(plain) == 11
    assert {p.parent.name for p in plain} <= {"AFW", "HELEN", "IBUG", "LFPW"}
    photos = {p.stem.rsplit("_", 1)[0] for p in plain}
    assert len(photos) == 2
    for path in plain[:3]:
        marks = scipy.io.loadmat(out / "landmarks" / path.parent.name / f"{path.stem}_pts.mat")
        points = scipy.io.loadmat(path)["pt2d"].T
        np.testing.assert_array_equal(marks["pts_3d"], points)
        flipped = scipy.io.loadmat(out / f"{path.parent.name}_Flip" / path.name)["pt2d"].T
        np.testing.assert_allclose(451 - flipped[list(MIRROR_68), 0], points[:, 0], atol=0.05)
        image = decode_rgb(path.with_suffix(".jpg").read_bytes()).astype(float)
        mirrored = decode_rgb((out / f"{path.parent.name}_Flip" / f"{path.stem}.jpg").read_bytes())
        assert np.abs(image[:, ::-1] - mirrored).mean() < 4


def test_florence_scans_are_textured_and_off_the_topology(tmp_path: Path, head: MorphableModel) -> None:
    import trimesh

    out = generate("florence", 2, 5, tmp_path, workers=1)
    scans = sorted(out.glob("subject_*/Model/frontal*/obj/*.obj"))
    assert [p.parts[-5] + p.parts[-3] for p in scans] == [
        "subject_01frontal1",
        "subject_01frontal2",
        "subject_02frontal1",
    ]
    mesh = trimesh.load(scans[0], process=False)
    assert len(mesh.vertices) >= 20_000
    assert 150 < np.ptp(mesh.vertices, axis=0).max() < 320  # mm
    assert mesh.visual.material.image.size == (1024, 1024)
    assert len(mesh.vertices) != head.vertex_count
    tip = mesh.vertices[mesh.vertices[:, 2].argmax()]
    assert (np.linalg.norm(mesh.vertices - tip, axis=1) < 95).sum() >= 19_000


def test_another_face_model_is_drawn_too(tmp_path: Path) -> None:
    """An egg with landmarks on its front: no albedo, no chart, centimetres."""
    import trimesh

    egg = trimesh.creation.icosphere(subdivisions=4, radius=1.0)
    mean = (egg.vertices * (8.0, 11.0, 9.0)).astype(np.float32)
    targets = anatomy.landmark_means() / 10 + (0, 0, 2)
    ids = [int(np.linalg.norm(mean[:, :2] - t[:2] + 100 * (mean[:, 2:] < 0), axis=1).argmin()) for t in targets]
    rng = np.random.default_rng(0)
    modes = np.linalg.qr(rng.normal(size=(mean.size, 6)))[0].astype(np.float32)
    model = MorphableModel(
        "egg", "test", "none", "cm", mean, modes, np.full(6, 3.0), modes[:, :2], np.ones(2), egg.faces, np.array(ids)
    )
    model.save(tmp_path / "egg.npz")
    out = generate("aflw2000_3d", 2, 0, tmp_path / "out", face_model=tmp_path / "egg.npz", workers=1)
    m = scipy.io.loadmat(out / "image00001.mat")
    assert m["Shape_Para"].shape == (6, 1)
    points = m["pt3d_68"][:2]
    assert points.min() > 0
    assert points.max() < 450


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"(?i)did you mean 'w300lp'"):
        generate("w300l", 1, 0, tmp_path)
    with pytest.raises(UsageError, match="cannot make 0 faces"):
        generate("w300lp", 0, 0, tmp_path)
    generate("aflw2000_3d", 1, 0, tmp_path / "a", workers=1)
    with pytest.raises(UsageError, match="another recipe"):
        generate("aflw2000_3d", 1, 1, tmp_path / "a", workers=1)


def test_a_model_with_sided_expression_names_is_drawn(tmp_path):
    """Blend shapes named as ICT-FaceKit's, each side for itself, in place of the built-in head's."""
    from dataclasses import replace

    model = built_in_head()
    names = tuple(f"{name}_L" if name == "mouthUpperUp" else name for name in model.expression_names)
    replace(model, name="sided", expression_names=names).save(tmp_path / "sided.npz")
    generate("aflw2000_3d", 12, 0, tmp_path / "out", face_model=tmp_path / "sided.npz", workers=1)
    assert len(list((tmp_path / "out").glob("*.jpg"))) == 12
