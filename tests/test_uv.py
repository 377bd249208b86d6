"""Charts, position maps, UV basis, masks and mesh export, each against something independent."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.tri import LinearTriInterpolator, Triangulation
from scipy.spatial import Delaunay

from prnbench import geometry
from prnbench.benchmarks.fullsize import COLUMNS, made_up_model
from prnbench.errors import FaceModelError, InputError, UsageError
from prnbench.landmarks import MIRROR_68, REGIONS
from prnbench.morphable import read_face_model
from prnbench.uv import (
    UvBasis,
    chart_of,
    face_area,
    image_affine,
    read_prnet_files,
    signed_areas,
    texel_positions,
    tutte_chart,
    tutte_embedding,
    unwrap_texture,
    weight_mask,
    write_mesh,
)
from tests.fake import face_models as fake


@cache
def made_up():
    return made_up_model(6, 4)


@cache
def basis(resolution=64):
    return UvBasis(made_up(), chart_of(made_up()).raster(resolution))


angles = st.tuples(st.floats(-0.6, 0.6), st.floats(-1.5, 1.5), st.floats(-0.6, 0.6))
seeds = st.integers(0, 2**32 - 1)


def faces(seed, count, angles_rad=None):
    """Coefficients and poses of faces about 150 px high in a 450 px image."""
    model, rng = made_up(), np.random.default_rng(seed)
    shape = rng.normal(size=(count, 6)) * model.identity_std[:6]
    expression = rng.normal(size=(count, 4)) * model.expression_std[:4]
    turn = rng.uniform(-1, 1, (count, 3)) if angles_rad is None else np.tile(angles_rad, (count, 1))
    place = np.tile([225.0, 230.0, 0.0, 1e-3], (count, 1)) + rng.uniform(-5, 5, (count, 4)) * (1, 1, 1, 1e-5)
    return shape, expression, np.concatenate([turn, place], axis=1)


def image_vertices(shape, expression, pose, height=450):
    posed = geometry.project(made_up().vertices(shape, expression), pose)
    return geometry.to_image(posed, height)


def crop_vertices(vertices):
    """Vertices in the 256-pixel crop frame of the face, as the network sees it."""
    crop = geometry.prn_crop(geometry.box_of(vertices[made_up().landmarks]), factor=1.5)
    return geometry.transform_points(vertices, crop)


def disk(seed, count=80):
    """A random planar triangulation of the unit square, boundary points evenly spaced."""
    rng = np.random.default_rng(seed)
    side = np.linspace(0, 1, 9)[:-1]
    edge = np.concatenate([np.stack(p, 1) for p in ((side, 0 * side), (1 + 0 * side, side), (1 - side, 1 + 0 * side),
                                                    (0 * side, 1 - side))])  # fmt: skip
    points = np.concatenate([edge, rng.uniform(0.04, 0.96, (count, 2))])
    triangles = Delaunay(points).simplices.astype(np.int32)
    areas = signed_areas(points, triangles)
    triangles[areas < 0] = triangles[areas < 0][:, ::-1]
    return points, triangles[np.abs(areas) > 1e-12]


# --- Tutte embedding


@settings(max_examples=25, deadline=None)
@given(seed=seeds, weights=st.sampled_from(["uniform", "mean_value"]), boundary=st.sampled_from(["square", "circle"]))
def test_tutte_has_no_flipped_triangle(seed, weights, boundary):
    points, triangles = disk(seed)
    relief = np.column_stack([points, 0.3 * np.sin(7 * points[:, 0]) * np.cos(5 * points[:, 1])])
    uv = tutte_embedding(relief, triangles, weights=weights, boundary=boundary)
    rim = np.isin(triangles, np.arange(32)).all(axis=1)
    assert (signed_areas(uv, triangles)[~rim] > 0).all()
    assert uv.min() >= -1e-12 and uv.max() <= 1 + 1e-12
    if boundary == "circle":
        np.testing.assert_allclose(np.linalg.norm(uv[:32] - 0.5, axis=1), 0.5, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_uniform_weights_put_each_vertex_in_the_middle_of_its_neighbours(seed):
    points, triangles = disk(seed)
    uv = tutte_embedding(np.column_stack([points, 0 * points[:, :1]]), triangles)
    edges = {tuple(sorted(e)) for t in triangles.tolist() for e in zip(t, t[1:] + t[:1], strict=True)}
    for vertex in range(32, len(points)):
        around = [b if a == vertex else a for a, b in edges if vertex in (a, b)]
        np.testing.assert_allclose(uv[vertex], uv[around].mean(axis=0), atol=1e-10)


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_mean_value_weights_leave_a_flat_square_as_it_is(seed):
    points, triangles = disk(seed)
    uv = tutte_embedding(np.column_stack([points, 0 * points[:, :1]]), triangles, weights="mean_value")
    np.testing.assert_allclose(uv, points, atol=1e-6)


def test_holes_stay_open_or_are_filled():
    points, triangles = disk(3, 300)
    middle = points[triangles].mean(axis=1)
    open_mesh = triangles[np.hypot(*(middle - [0.3, 0.6]).T) > 0.15]
    model = _model_of(points, open_mesh)
    kept, filled = tutte_chart(model, holes="kept"), tutte_chart(model, holes="filled")
    assert kept.folded == filled.folded == 0
    assert len(kept.triangles) == kept.surface_count == filled.surface_count == len(open_mesh)
    assert 0.9 < kept.raster(128).covered.mean() < 0.99
    assert filled.raster(128).covered.all()
    areas = signed_areas(filled.uv, filled.triangles[filled.surface_count :])
    assert (areas > -1e-12).all() and areas.sum() > 0.01


@pytest.mark.parametrize(
    ("triangles", "message"),
    [
        ([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]], "the mesh is closed"),
        ([[0, 1, 2], [0, 1, 3], [1, 0, 2]], "not a surface"),
        ([[0, 1, 2], [3, 4, 5]], "not a disk: Euler characteristic 2 with 2 boundary loops, expected 0"),
    ],
)
def test_meshes_without_a_chart(triangles, message):
    with pytest.raises(FaceModelError, match=message):
        tutte_embedding(np.random.default_rng(0).normal(size=(6, 3)), np.array(triangles, np.int32))


def test_holes_that_touch_in_a_vertex():
    points, triangles = disk(5, 300)
    around = [np.flatnonzero((triangles == v).any(axis=1)) for v in range(len(points))]
    inner = next(v for v in range(60, 200) if len(around[v]) >= 6 and triangles[around[v]].min() > 40)
    ring = around[inner]
    opposite = next(t for t in ring[1:] if len(set(triangles[t]) & set(triangles[ring[0]])) == 1)
    mesh = np.delete(triangles, [ring[0], opposite], axis=0)
    uv = tutte_embedding(np.column_stack([points, 0 * points[:, :1]]), mesh)
    rim = np.isin(mesh, np.arange(32)).all(axis=1)
    assert (signed_areas(uv, mesh)[~rim] > 0).all()


def test_full_size_tutte_chart_replaces_bfm_uv():
    chart = tutte_chart(replace(made_up(), uv=None))
    assert chart.folded == 0
    assert chart.source == "tutte"
    assert chart_of(replace(made_up(), uv=None)).source == "tutte"
    jaw, nose, brows = (chart.landmark_uv[i] for i in (8, 30, 19))
    assert jaw[1] < nose[1] < brows[1], "upright"
    assert chart.landmark_uv[0, 0] < nose[0] < chart.landmark_uv[16, 0], "not mirrored"
    vertices = crop_vertices(image_vertices(*(p[0] for p in faces(0, 1))))
    raster = chart.raster(256)
    error = np.linalg.norm(raster.vertices(raster.position_map(vertices)) - vertices, axis=1)
    assert np.percentile(error, 99) < 0.5


def test_broken_vertices_of_the_published_chart_are_repaired():
    model = made_up()
    broken = np.array([20000, 20003, 31111])
    uv = model.uv.copy()
    uv[broken] = [[0.9, 0.1], [0.02, 0.98], [0.5, 0.05]]
    chart = chart_of(replace(model, uv=uv))
    np.testing.assert_array_equal(chart.repaired, broken)
    assert chart.folded == 0
    np.testing.assert_allclose(chart.uv[broken], model.uv[broken], atol=0.01)
    assert len(chart_of(model).repaired) == 0


def test_chart_is_made_once_per_model():
    assert chart_of(made_up()) is chart_of(made_up())
    assert chart_of(made_up()).raster(64) is chart_of(made_up()).raster(64)


# --- vertices and position maps


def test_texels_follow_the_published_convention():
    np.testing.assert_allclose(texel_positions(np.array([[0, 1], [1, 0], [0.5, 0.25]]), 256),
                               [[0, 0], [255, 255], [127.5, 191.25]])  # fmt: skip


@cache
def planar_mesh():
    chart = chart_of(made_up())
    return Triangulation(*texel_positions(chart.uv, 64).T, chart.triangles)


@settings(max_examples=3, deadline=None)
@given(seed=seeds, turn=angles)
def test_maps_agree_with_another_interpolation_of_the_triangles(seed, turn):
    vertices = image_vertices(*(p[0] for p in faces(seed, 1, turn)))
    raster = chart_of(made_up()).raster(64)
    rows, columns = np.mgrid[1:63, 1:63]
    channels = [LinearTriInterpolator(planar_mesh(), channel)(columns, rows) for channel in vertices.T]
    expected = np.stack(channels, axis=-1)
    np.testing.assert_allclose(raster.position_map(vertices)[1:63, 1:63], expected, atol=1e-3)


def test_matrix_is_the_same_map():
    raster = chart_of(made_up()).raster(128)
    vertices = made_up().mean[None] * np.array([1.0, 2.0], np.float32)[:, None, None]
    maps = raster.position_map(vertices)
    assert maps.shape == (2, 128, 128, 3) and maps.dtype == np.float32
    assert raster.matrix.shape == (128 * 128, 53215)
    np.testing.assert_allclose(raster.matrix @ vertices[1], maps[1].reshape(-1, 3), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(raster.matrix.sum(axis=1)), 1, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(turn=angles, scale=st.floats(0.3, 3), shift=st.tuples(*[st.floats(-200, 200)] * 3))
def test_maps_move_with_the_face(turn, scale, shift):
    vertices = made_up().mean * 1e-3
    R = geometry.rotation_from_euler(turn)
    raster = chart_of(made_up()).raster(64)
    moved = raster.position_map(scale * vertices @ R.T + np.array(shift))
    np.testing.assert_allclose(moved, scale * raster.position_map(vertices) @ R.T + np.array(shift), atol=1e-3)


@settings(max_examples=8, deadline=None)
@given(seed=seeds, turn=angles)
def test_vertices_survive_the_round_trip(seed, turn):
    vertices = crop_vertices(image_vertices(*(p[0] for p in faces(seed, 1, turn))))
    raster = chart_of(made_up()).raster(256)
    position_map = raster.position_map(vertices)
    back = raster.vertices(position_map)
    assert np.linalg.norm(back - vertices, axis=1).max() < 0.5
    landmarks = made_up().landmarks
    read = raster.sample(position_map, chart_of(made_up()).landmark_uv)
    np.testing.assert_allclose(read, vertices[landmarks], atol=0.4)
    np.testing.assert_array_equal(read, raster.sample(position_map, landmarks))


@settings(max_examples=8, deadline=None)
@given(seed=seeds, turn=angles, resolution=st.sampled_from([64, 128, 256]))
def test_landmarks_are_exact_to_the_texel(seed, turn, resolution):
    """The landmark's texel is the one nearest to it on the chart, and shows the face half a texel off at most."""
    chart, landmarks = chart_of(made_up()), made_up().landmarks
    texels = chart.landmark_texels(resolution)
    exact = texel_positions(chart.landmark_uv, resolution)[:, ::-1]
    assert np.abs(texels - exact).max() <= 0.5
    vertices = crop_vertices(image_vertices(*(p[0] for p in faces(seed, 1, turn))))
    position_map = chart.raster(resolution).position_map(vertices)
    there = position_map[texels[:, 0], texels[:, 1]]
    padded = np.pad(position_map, ((1, 1), (1, 1), (0, 0)), mode="edge")
    around = [padded[texels[:, 0] + 1 + dy, texels[:, 1] + 1 + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    texel_size = np.max([np.linalg.norm(a - there, axis=1) for a in around], axis=0)
    assert (np.linalg.norm(there - vertices[landmarks], axis=1) <= texel_size).all()


def test_mirrored_faces_mirror_the_landmark_order():
    model, chart = made_up(), chart_of(made_up())
    rows = np.arange(model.vertex_count).reshape(-1, COLUMNS)
    opposite = rows[:, ::-1].ravel()  # the made-up mask is symmetric: its vertices in mirrored columns
    np.testing.assert_array_equal(opposite[model.landmarks], model.landmarks[list(MIRROR_68)])

    vertices = image_vertices(*(p[0] for p in faces(5, 1)))
    raster = chart.raster(128)
    position_map = raster.position_map(vertices)
    mirrored_map = position_map[:, ::-1] * [-1, 1, 1] + [449, 0, 0]
    read = raster.sample(mirrored_map, model.landmarks)
    expected = vertices[model.landmarks] * [-1, 1, 1] + [449, 0, 0]
    np.testing.assert_allclose(read, expected[list(MIRROR_68)], atol=0.6)
    assert np.abs(read - expected).max() > 20, "a mirrored face is not the face in its old order"


def face3d_rule(positions, triangles, values, resolution):
    """face3d's renderer in plain Python: the first triangle that holds a texel, or any near the border."""
    out, taken = np.zeros((resolution, resolution, 3)), np.zeros((resolution, resolution), bool)
    for triangle in triangles:
        corners = positions[triangle]
        low, high = (
            np.maximum(np.ceil(corners.min(axis=0)), 0),
            np.minimum(np.floor(corners.max(axis=0)), resolution - 1),
        )
        for y in range(int(low[1]), int(high[1]) + 1):
            for x in range(int(low[0]), int(high[0]) + 1):
                weights = np.linalg.solve(np.vstack([corners.T, np.ones(3)]), [x, y, 1])
                border = min(x, y) < 2 or max(x, y) > resolution - 3
                if not taken[y, x] and (border or (weights > -1e-9).all()):
                    taken[y, x] = True
                    out[y, x] = weights @ values[triangle]
    return out, taken


def test_face3d_border_extrapolates_as_face3d_does():
    points, triangles = disk(11, 150)
    uv = 0.5 + 0.985 * (points - 0.5)
    model = replace(_model_of(points, triangles), uv=uv)
    chart = chart_of(model)
    exact, face3d = chart.raster(24), chart.raster(24, "face3d")
    values = np.column_stack([40 * points, 9 * np.sin(9 * points[:, 0])])
    positions = texel_positions(model.uv, 24)
    expected, taken = face3d_rule(positions, chart.triangles, values, 24)
    np.testing.assert_array_equal(face3d.covered, taken)
    np.testing.assert_allclose(face3d.position_map(values), expected, atol=1e-3)
    difference = np.abs(face3d.position_map(values) - exact.position_map(values)).max(axis=-1)
    assert difference[2:-2, 2:-2].max() < 1e-5
    assert difference[exact.covered].max() > 0.05


def test_texels_beside_the_chart_continue_it():
    points, triangles = disk(2, 60)
    round_chart = tutte_chart(_model_of(points, triangles), boundary="circle")
    raster = round_chart.raster(64)
    assert 0.7 < raster.covered.mean() < 0.8  # a disk in its square
    values = np.column_stack([round_chart.uv * 63, np.zeros(len(points))])
    maps = raster.position_map(values)
    assert np.isfinite(maps).all()
    read = raster.sample(maps, np.arange(len(points)))
    assert np.abs(read - values).max() < 1e-3  # even on the rim


def test_vertices_off_the_chart_are_nan(tmp_path):
    fake.write_ict(tmp_path, identities=1, expressions=("jawOpen",))
    model = read_face_model(tmp_path)
    chart = chart_of(model)
    assert chart.on_chart.sum() == 9409
    raster = chart.raster(64)
    back = raster.vertices(raster.position_map(model.mean))
    np.testing.assert_array_equal(np.isfinite(back).all(axis=1), chart.on_chart)


def test_a_model_whose_chart_misses_the_face():
    model = made_up()
    uv = model.uv.copy()
    uv[model.landmarks[:3]] = np.nan
    with pytest.raises(FaceModelError, match="65 of 68 landmarks"):
        chart_of(replace(model, uv=uv))


# --- the basis in UV space


@pytest.mark.parametrize("count", [1, 2, 5, 8, 20])
def test_basis_gives_the_maps_of_the_vertices(count):
    parameters = faces(count, count)
    expected = chart_of(made_up()).raster(64).position_map(image_vertices(*parameters))
    maps = basis().position_maps(*parameters, 450)
    assert maps.shape == (count, 64, 64, 3) and maps.dtype == np.float32
    np.testing.assert_allclose(maps, expected, atol=1e-3)


@settings(max_examples=8, deadline=None)
@given(seed=seeds, convention=st.sampled_from(geometry.PIXEL_CONVENTIONS), size=st.floats(60, 400))
def test_pose_convention_and_crop_are_one_affine(seed, convention, size):
    shape, expression, pose = faces(seed, 3)
    crops = np.stack([geometry.square_crop((200 + n, 230), size, 64) for n in range(3)])
    heights = np.array([450, 300, 513])
    posed = geometry.project(made_up().vertices(shape, expression), pose)
    expected = [
        geometry.transform_points(geometry.to_image(p, h, convention), c)
        for p, h, c in zip(posed, heights, crops, strict=True)
    ]
    raster = chart_of(made_up()).raster(64)
    maps = basis().position_maps(shape, expression, pose, heights, crop=crops, convention=convention)
    np.testing.assert_allclose(maps, raster.position_map(np.stack(expected)), atol=1e-3)
    linear, shift = image_affine(pose[0], heights[0], crop=crops[0], convention=convention)
    vertices = made_up().vertices(shape[0], expression[0])
    np.testing.assert_allclose(vertices @ linear[0].T + shift[0], expected[0], atol=1e-3)


@pytest.mark.parametrize("resolution", [50, 128])
def test_any_resolution(resolution):
    parameters = faces(1, 2)
    expected = chart_of(made_up()).raster(resolution).position_map(image_vertices(*parameters))
    np.testing.assert_allclose(basis(resolution).position_maps(*parameters, 450), expected, atol=1e-3)


def test_torch_basis_is_the_same():
    parameters = faces(2, 5)
    crop = geometry.square_crop((220, 220), 200, 64)
    maps = basis().to_torch("cpu").position_maps(*parameters, 450, crop=crop)
    assert maps.permute(0, 3, 1, 2).is_contiguous()
    np.testing.assert_allclose(maps.numpy(), basis().position_maps(*parameters, 450, crop=crop), atol=1e-3)


def test_basis_pads_short_and_refuses_long_coefficients():
    shape, expression, pose = faces(3, 2)
    short = basis().position_maps(shape[:, :2], expression[:, :1], pose, 450)
    zeros = basis().position_maps(shape * [1, 1, 0, 0, 0, 0], expression * [1, 0, 0, 0], pose, 450)
    np.testing.assert_allclose(short, zeros, atol=1e-4)
    with pytest.raises(FaceModelError, match="9 shape coefficients for the 6 shape modes"):
        basis().position_maps(np.zeros((2, 9)), expression, pose, 450)


# --- masks


def test_weight_mask_is_16_4_3_0():
    model, chart = made_up(), chart_of(made_up())
    mask = weight_mask(model, chart, 256)
    assert mask.shape == (256, 256) and mask.dtype == np.float32
    assert set(np.unique(mask)) == {0, 3, 4, 16}
    texels = chart.landmark_texels(256)
    assert (mask[texels[:, 0], texels[:, 1]] == 16).all()
    assert (mask == 16).sum() == len({tuple(t) for t in texels.tolist()})
    chin_row = texels[8, 0]
    assert not mask[chin_row + 6 :].any(), "the neck weighs nothing"
    for region in ("eyes", "nose", "mouth"):
        row, column = np.rint(texels[list(REGIONS[region])].mean(axis=0)).astype(int)
        assert (mask[row - 1 : row + 2, column - 1 : column + 2] >= (3 if region == "eyes" else 4)).all()
    cheek = (texels[30] + texels[2]) // 2
    assert mask[cheek[0], cheek[1]] == 3
    area = face_area(model, chart, 256)
    assert (np.diff(area) > 0).all()
    assert set(np.flatnonzero(mask)) - set(area) <= set((texels @ [256, 1]).tolist())


@pytest.mark.parametrize("resolution", [128, 512])
def test_face_area_is_the_same_at_any_resolution(resolution):
    share = [len(face_area(made_up(), chart_of(made_up()), r)) / r**2 for r in (256, resolution)]
    assert share[0] == pytest.approx(share[1], rel=0.02)


def test_prnet_files(tmp_path):
    weights, face, points = fake.write_prnet_files(tmp_path)
    files = read_prnet_files(tmp_path)
    for stored, weight in ((255, 16), (128, 8), (64, 4), (48, 3)):
        assert (files.weight_mask[(weights == stored) & face] == weight).all()
    assert not files.weight_mask[~face].any()
    np.testing.assert_array_equal(files.face_area, np.flatnonzero(face))
    np.testing.assert_array_equal(files.landmark_texels, points[::-1].T)


def test_prnet_files_that_do_not_fit(tmp_path):
    fake.write_prnet_files(tmp_path)
    np.savetxt(tmp_path / "face_ind.txt", np.arange(100))
    with pytest.raises(InputError, match=r"face_ind\.txt lists 100 texels"):
        read_prnet_files(tmp_path)
    fake.write_prnet_files(tmp_path)
    np.savetxt(tmp_path / "uv_kpt_ind.txt", np.zeros((68, 2)))
    with pytest.raises(InputError, match=r"shape \(68, 2\), expected \(2, 68\)"):
        read_prnet_files(tmp_path)
    (tmp_path / "uv_face_mask.png").unlink()
    with pytest.raises(InputError, match=r"uv_face_mask\.png: missing or not a picture"):
        read_prnet_files(tmp_path)


# --- meshes


def smooth_image():
    rows, columns = np.mgrid[:450, :450]
    return np.stack([columns / 2, rows / 2, 127 + 100 * np.sin(rows / 60)], -1).astype(np.uint8)


def test_texture_is_what_the_image_shows_there():
    vertices = image_vertices(*(p[0] for p in faces(4, 1)))
    position_map = chart_of(made_up()).raster(64).position_map(vertices)
    texture = unwrap_texture(smooth_image(), position_map)
    x, y = position_map[..., 0], position_map[..., 1]
    np.testing.assert_allclose(texture[..., 0], x / 2, atol=1.5)
    np.testing.assert_allclose(texture[..., 1], y / 2, atol=1.5)


@pytest.mark.parametrize("suffix", [".obj", ".ply"])
def test_mesh_files_open_upright_and_coloured(tmp_path, suffix):
    import trimesh

    vertices = image_vertices(*(p[0] for p in faces(6, 1, (0, 0.3, 0))))
    chart = chart_of(made_up())
    position_map = chart.raster(256).position_map(vertices)
    path = write_mesh(tmp_path / "out" / f"face{suffix}", position_map, chart, smooth_image())
    mesh = trimesh.load(path, process=False)
    assert mesh.vertices.shape == (53215, 3)
    assert len(mesh.faces) == chart.surface_count
    distance = np.linalg.norm(mesh.vertices * [1, -1, 1] - vertices, axis=1)
    assert np.percentile(distance, 99) < 0.5
    assert (mesh.face_normals[:, 2] > 0).mean() > 0.5, "the outside faces the viewer"
    colours = mesh.visual.to_color().vertex_colors if suffix == ".obj" else mesh.visual.vertex_colors
    inside = slice(5 * COLUMNS, -5 * COLUMNS)
    error = np.abs(np.asarray(colours)[inside, 0].astype(float) - vertices[inside, 0] / 2)
    assert np.percentile(error, 99) < 3


def test_mesh_of_another_suffix(tmp_path):
    chart = chart_of(made_up())
    with pytest.raises(UsageError, match=r"cannot write '\.stl' meshes\. Use \.obj or \.ply"):
        write_mesh(tmp_path / "face.stl", np.zeros((64, 64, 3)), chart)


def _model_of(points, triangles):
    """A face model of a flat mesh, seen from the front, without a chart."""
    model = made_up()
    mean = np.column_stack([points, 0.2 * np.sin(4 * points[:, :1])]) * 1e5
    V = len(mean)
    return replace(
        model,
        mean=mean,
        identity=np.zeros((3 * V, 1)),
        identity_std=np.ones(1),
        expression=np.zeros((3 * V, 1)),
        expression_std=np.ones(1),
        triangles=triangles,
        landmarks=np.arange(68),
        uv=None,
        mouth_triangles=None,
        albedo=None,
    )
