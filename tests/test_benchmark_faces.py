"""The reference that `prnbench benchmark faces` measures against, and its table of map errors."""

import numpy as np

from prnbench.benchmarks import faces, peer
from prnbench.benchmarks.fullsize import made_up_model
from prnbench.geometry import project, to_image, transform_points
from prnbench.render import render_colours
from prnbench.uv import chart_of


def test_the_reference_makes_the_published_map():
    model = made_up_model(4, 3)
    chart = chart_of(model)
    raster = chart.raster(64, "face3d")
    shape, expression, pose, crops = faces._faces(model, 2)
    points = np.column_stack([raster.positions, np.zeros(53215)]).astype(np.float32)
    found = peer.position_map(model, shape[1], expression[1], pose[1], 450, crops[1], points, chart.triangles, 64)
    vertices = to_image(project(model.vertices(shape[1], expression[1]), pose[1]), 450)
    expected = raster.position_map(transform_points(vertices, crops[1]))
    inner = (slice(2, -2), slice(2, -2))
    drawn = np.abs(found[inner]).sum(axis=2) > 0
    assert drawn.mean() > 0.99  # single-precision edge tests leave pinholes
    np.testing.assert_allclose(found[inner][drawn], expected[inner][drawn], atol=2e-3)


def test_the_plain_loop_and_the_rasteriser_draw_the_same():
    model = made_up_model(1, 1)
    points = faces._head_in_picture(model, 30.0)
    plain = peer.draw_colours(points, model.triangles, model.colours(), 256)
    ours = render_colours(points, model.triangles, model.colours(), 256, 256)
    assert (np.abs(plain - ours).max(axis=2) > 1e-3).mean() < 0.01
    assert ours.any(axis=2).mean() > 0.3


def test_map_errors_fall_with_resolution_and_step():
    rows = {(r["resolution"], r["storage"]): r for r in faces.map_errors(count=1)}
    exact = [rows[size, "float32"]["median_px"] for size in (128, 256, 512)]
    assert exact[0] > exact[1] > exact[2] > 0
    for name, step in (("uint16 1/128", 1 / 128), ("uint16 1/64", 1 / 64), ("uint16 1/32", 1 / 32)):
        assert 0.4 * step < rows[256, name]["storage_px"] <= step / 2 + 1e-4
    assert rows[256, "float16"]["storage_px"] > 0.05
    assert rows[256, "uint16 1/128"]["median_px"] < 0.1, "half a step of noise hardly adds to it"
    assert rows[256, "float32"]["kib"] == 768
