"""The rasteriser against closed forms and a plain reference: G-buffer, colour, texture, normals, visibility."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prnbench.render import (
    interpolate,
    rasterise,
    render_colours,
    render_normals,
    render_texture,
    sample_texture,
    vertex_normals,
    visible_vertices,
)


def reference(vertices, triangles, height, width):
    """Nearest triangle, weights and depth of each pixel by solving for barycentric weights, triangle by triangle."""
    rows, columns = np.mgrid[:height, :width].astype(float)
    ids, depth = np.full((height, width), -1), np.full((height, width), -np.inf)
    weights = np.zeros((height, width, 3))
    for t, (i, j, k) in enumerate(triangles):
        corners = np.array([vertices[i, :2], vertices[j, :2], vertices[k, :2]], float)
        system = np.vstack([corners.T, np.ones(3)])
        if abs(np.linalg.det(system)) < 1e-12:
            continue
        found = np.einsum("ij,jhw->hwi", np.linalg.inv(system), np.stack([columns, rows, np.ones_like(rows)]))
        z = found @ vertices[[i, j, k], 2].astype(float)
        nearer = (found >= -1e-12).all(axis=-1) & (z > depth + 1e-6)
        ids[nearer], depth[nearer], weights[nearer] = t, z[nearer], found[nearer]
    return ids, weights, depth


def grid(size, spacing=1.0):
    """A flat square of triangles: points (n, 2) and triangles turned to face the camera in image coordinates."""
    corner = np.arange(size * size).reshape(size, size)
    a, b, c, d = corner[:-1, :-1], corner[:-1, 1:], corner[1:, :-1], corner[1:, 1:]
    triangles = np.concatenate([np.stack(t, -1).reshape(-1, 3) for t in ((a, c, b), (b, c, d))])
    rows, columns = np.mgrid[:size, :size]
    return np.stack([columns, rows], -1).reshape(-1, 2) * spacing, triangles


def sphere(rings=60, radius=50.0, centre=(64.0, 64.0, 0.0)):
    """A closed ball as image points, turned outside (clockwise on the image for the front)."""
    theta, phi = np.meshgrid(np.linspace(0, np.pi, rings), np.linspace(0, 2 * np.pi, 2 * rings), indexing="ij")
    unit = np.stack([np.sin(theta) * np.cos(phi), np.cos(theta), np.sin(theta) * np.sin(phi)], -1).reshape(-1, 3)
    corner = np.arange(rings * 2 * rings).reshape(rings, 2 * rings)
    a, b, c, d = corner[:-1, :-1], corner[:-1, 1:], corner[1:, :-1], corner[1:, 1:]
    triangles = np.concatenate([np.stack(t, -1).reshape(-1, 3) for t in ((a, b, c), (b, d, c))])
    upright = unit * radius
    return upright, upright * (1, -1, 1) + np.array(centre), triangles


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 12))
def test_like_the_reference_on_random_triangles(seed, count):
    rng = np.random.default_rng(seed)
    vertices = rng.uniform(-4, 28, size=(3 * count, 3)).astype(np.float32)
    triangles = np.arange(3 * count).reshape(-1, 3)
    buffer = rasterise(vertices, triangles, 20, 24)
    ids, weights, depth = reference(vertices, triangles, 20, 24)
    np.testing.assert_array_equal(buffer.triangle, ids)
    np.testing.assert_allclose(buffer.weights[ids >= 0], weights[ids >= 0], atol=1e-5)
    np.testing.assert_allclose(buffer.depth[ids >= 0], depth[ids >= 0], atol=1e-4)
    assert np.isneginf(buffer.depth[ids < 0]).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), turn=st.floats(0, 6.28))
def test_shared_edges_leave_no_gap(seed, turn):
    points, triangles = grid(12, 4.3)
    points = points - points.mean(axis=0) + np.random.default_rng(seed).uniform(-1, 1, points.shape)
    points = points @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) + 40
    vertices = np.concatenate([points, np.zeros((len(points), 1))], axis=1)
    covered = rasterise(vertices, triangles, 80, 80).covered
    from scipy.ndimage import binary_fill_holes

    assert covered.sum() > 1500
    np.testing.assert_array_equal(covered, binary_fill_holes(covered))


@pytest.mark.parametrize(("height", "width"), [(3, 20000), (400, 300), (1, 1)])
def test_large_triangles_fill_pictures_of_any_size(height, width):
    corners = np.array([[-9, -9, 1], [-9, 2e4, 1], [5e4, -9, 1], [5e4, 2e4, 1]], float)
    buffer = rasterise(corners, [[0, 1, 2], [2, 1, 3]], height, width)
    assert buffer.covered.all()
    np.testing.assert_allclose(buffer.weights.sum(axis=2), 1, atol=1e-5)


def test_pixel_centres_are_at_integers():
    corners = np.array([[2, 3, 0], [2, 9, 0], [7, 3, 0], [7, 9, 0]], float)
    covered = rasterise(corners, [[0, 1, 2], [2, 1, 3]], 12, 12).covered
    rows, columns = np.nonzero(covered)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (2, 7, 3, 9)
    assert covered.sum() == 6 * 7


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), dx=st.integers(-4, 5), dy=st.integers(-4, 5))
def test_moves_with_the_mesh(seed, dx, dy):
    vertices = np.random.default_rng(seed).integers(4 * 16, 20 * 16, size=(9, 3)) / 16
    triangles = np.arange(9).reshape(-1, 3)
    still = rasterise(vertices, triangles, 32, 32)
    moved = rasterise(vertices + np.array([dx, dy, 0]), triangles, 32, 32)
    np.testing.assert_array_equal(np.roll(still.triangle, (dy, dx), axis=(0, 1)), moved.triangle)


def test_larger_z_is_nearer():
    square = np.array([[0, 0], [0, 9], [9, 0], [9, 9]], float)
    near, far = (np.column_stack([square, np.full(4, z)]) for z in (5.0, -5.0))
    triangles = [[0, 1, 2], [2, 1, 3], [4, 5, 6], [6, 5, 7]]
    for vertices, first in (([*far, *near], 2), ([*near, *far], 0)):
        buffer = rasterise(np.array(vertices), triangles, 10, 10)
        assert set(np.unique(buffer.triangle)) == {first, first + 1}
        assert (buffer.depth == 5).all()


def test_culling_leaves_the_front_of_a_ball():
    _, points, triangles = sphere()
    whole, culled = (rasterise(points, triangles, 128, 128, cull=cull) for cull in (False, True))
    np.testing.assert_array_equal(whole.covered, culled.covered)
    np.testing.assert_allclose(whole.depth[whole.covered], culled.depth[whole.covered], atol=1e-4)
    assert not rasterise(points, triangles[:, ::-1], 128, 128, cull=True).depth.max() > 0


def test_degenerate_and_broken_triangles_draw_nothing():
    vertices = np.array([[1, 1, 0], [5, 5, 0], [9, 9, 0], [np.nan, 2, 0], [2, 9, 0], [9, 2, 0]])
    assert not rasterise(vertices, [[0, 1, 2], [3, 4, 5], [4, 4, 5]], 12, 12).covered.any()


def test_depth_and_colour_are_linear_over_a_plane():
    points, triangles = grid(10, 7.0)
    z = 3 + 0.2 * points[:, 0] - 0.1 * points[:, 1]
    colours = np.stack([points[:, 0], points[:, 1], 1 + z], axis=1)
    image = render_colours(np.column_stack([points, z]), triangles, colours, 64, 64)
    rows, columns = np.mgrid[:64, :64]
    np.testing.assert_allclose(image[..., 0], columns, atol=1e-4)
    np.testing.assert_allclose(image[..., 1], rows, atol=1e-4)
    np.testing.assert_allclose(image[..., 2], 4 + 0.2 * columns - 0.1 * rows, atol=1e-4)


@pytest.mark.parametrize("background", [0.25, (0.1, 0.2, 0.3), "picture"])
def test_background(background):
    if background == "picture":
        background = np.random.default_rng(0).uniform(size=(16, 16, 3)).astype(np.float32)
    image = render_colours(np.array([[4, 4, 0], [4, 8, 0], [8, 4, 0.0]]), [[0, 1, 2]], np.ones((3, 3)), 16, 16,
                           background=background)  # fmt: skip
    expected = np.broadcast_to(np.asarray(background, np.float32), (16, 16, 3)).copy()
    expected[4:9, 4:9][np.add.outer(np.arange(5), np.arange(5)) <= 4] = 1
    np.testing.assert_allclose(image, expected, atol=1e-6)


@pytest.mark.parametrize("edge", [3.0, 3.25, 3.4, 3.5])
def test_anti_aliased_edge_has_the_covered_share(edge):
    corners = np.array([[-5, -5, 0], [-5, 20, 0], [edge, -5, 0], [edge, 20, 0]], float)
    image = render_colours(corners, [[0, 1, 2], [2, 1, 3]], np.ones((4, 1)), 12, 12, samples=8)
    share = np.clip(edge - (np.arange(12) - 0.5), 0, 1)  # pixel x reaches from x - 1/2 to x + 1/2
    np.testing.assert_allclose(image[6, :, 0], share, atol=1 / 8)
    jagged = render_colours(corners, [[0, 1, 2], [2, 1, 3]], np.ones((4, 1)), 12, 12, samples=1)
    np.testing.assert_allclose(jagged[6, :, 0], np.arange(12) <= edge, atol=1e-6)


def test_texture_of_a_linear_picture_is_linear():
    points, triangles = grid(5, 10.0)
    rows, columns = np.mgrid[:33, :33]
    texture = np.stack([columns, rows, columns + rows], -1).astype(np.float32)
    uv = np.stack([points[:, 0] / 40, 1 - points[:, 1] / 40], axis=1)  # v up
    flat = np.column_stack([points, np.zeros(len(points))])
    image = render_texture(flat, triangles, texture, uv, 41, 41)
    rows, columns = np.mgrid[:41, :41] * 32 / 40
    np.testing.assert_allclose(image, np.stack([columns, rows, columns + rows], -1), atol=1e-4)


def test_texture_lookup_is_bilinear_and_clamped():
    texture = np.array([[0.0, 1.0], [2.0, 3.0]])[..., None]
    points = np.array([[0, 0], [1, 1], [0.25, 0.5], [-3, 0.5], [9, 9]])
    np.testing.assert_allclose(sample_texture(texture, points)[:, 0], [0, 3, 1.25, 1, 3])


def test_normals_of_a_ball_are_its_radii():
    upright, points, triangles = sphere()
    normals = vertex_normals(upright, triangles)
    inner = np.abs(upright[:, 1]) < 45  # the poles' fans have corners without area
    np.testing.assert_allclose(normals[inner], upright[inner] / 50, atol=0.06)
    image = render_normals(points, triangles, 128, 128)
    rows, columns = np.mgrid[:128, :128] - 64.0
    inside = np.hypot(rows, columns) < 42
    depth = np.sqrt(np.maximum(50**2 - rows**2 - columns**2, 0))
    expected = np.stack([columns, rows, depth], axis=-1) / 50
    np.testing.assert_allclose(image[inside], expected[inside], atol=0.05)
    assert (image[0, 0] == 0).all()


def test_half_of_a_ball_is_visible():
    _, points, triangles = sphere()
    seen = visible_vertices(points, triangles, rasterise(points, triangles, 128, 128))
    z = points[:, 2]
    assert seen[z > 3].all()
    assert not seen[z < -3].any()


def test_what_stands_before_hides():
    points, triangles = grid(20, 3.0)
    back = np.column_stack([points + 2, np.zeros(len(points))])
    front = np.array([[10, 10, 30], [10, 40, 30], [40, 10, 30], [40, 40, 30]], float)
    vertices = np.concatenate([back, front])
    tri = np.concatenate([triangles, np.array([[0, 1, 2], [2, 1, 3]]) + len(back)])
    seen = visible_vertices(vertices, tri, rasterise(vertices, tri, 70, 50))
    x, y = vertices.T[:2]
    hidden = (x > 11) & (x < 39) & (y > 11) & (y < 39) & (vertices[:, 2] == 0)
    outside = x > 49.5
    beside = ~outside & ((x < 9) | (x > 41) | (y < 9) | (y > 41))
    assert not seen[hidden].any()
    assert seen[beside].all()
    assert not seen[outside].any()
    assert seen[-4:].all()


def test_interpolates_any_number_of_channels():
    points, triangles = grid(4, 5.0)
    buffer = rasterise(np.column_stack([points, np.zeros(16)]), triangles, 20, 20)
    values = np.random.default_rng(0).normal(size=(16, 7))
    out = interpolate(buffer, triangles, values, background=-1.0)
    y, x = 6, 11
    expected = buffer.weights[y, x].astype(float) @ values[triangles[buffer.triangle[y, x]]]
    np.testing.assert_allclose(out[y, x], expected, atol=1e-5)
    assert (out[17, 17] == -1).all()
