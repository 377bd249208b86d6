"""Error maps: the mean of a map is the protocol's number, and the pictures show each error at its place."""

from dataclasses import replace

import cv2
import matplotlib
import numpy as np
import pytest

from prnbench.cards import load_card
from prnbench.error_maps import MOST_FACES, ErrorMap, measure, read_error_maps, write_error_maps
from prnbench.errors import InputError
from prnbench.evaluate import Dataset
from prnbench.evaluation import face_context
from prnbench.facemodel import load_face_model
from prnbench.metrics import errors_of
from prnbench.report import write_report
from prnbench.report.heat import SIDE_PX, pictures, scale_end
from prnbench.sample import Prediction, Sample
from prnbench.uv import chart_of
from tests.golden.runs import made_table

SIDE = 64


@pytest.fixture(scope="module")
def dataset():
    """Three faces: the built-in mean face at three sizes, in pixels."""
    model = load_face_model()
    context = face_context(model, SIDE)
    upright = model.mean * np.float32([1, -1, 1]) / np.ptp(model.mean[:, 0])
    faces = []
    for i, width in enumerate((80, 120, 150)):
        vertices = (upright * width + 200).astype(np.float32)
        points, position_map = vertices[model.landmarks], context.position_map_of(vertices)
        faces.append(Sample(f"face{i}", landmarks_px=points, position_map_px=position_map))
    protocol = load_card("synthetic_faces").protocol("nme_2d_dense-v1")
    return Dataset("synthetic_faces", faces, (protocol,), "", context, chart=chart_of(model))


def moved(samples, shift_px=(3.0, 4.0), **fields):
    """The truth with the left half of the map moved by 5 pixels."""
    found = []
    for sample in samples:
        position_map = sample.position_map_px.copy()
        position_map[:, : SIDE // 2, :2] += shift_px
        found.append(Prediction(position_map_px=position_map, **fields))
    return found


def test_the_mean_of_a_map_is_the_dense_error(dataset):
    found = measure(moved, "m", dataset)
    expected = errors_of(dataset.protocols[0], dataset.samples, moved(dataset.samples), dataset.context)
    assert np.nanmean(found.error_percent) == pytest.approx(expected.mean(), rel=1e-4)
    assert np.isfinite(found.error_percent).sum() == len(dataset.context.face_texels)
    assert np.nanmax(found.error_percent[:, SIDE // 2 :]) == pytest.approx(0.0, abs=1e-5)
    sizes = [np.sqrt(np.prod(np.ptp(s.landmarks_px[:, :2], axis=0))) for s in dataset.samples]
    left = found.error_percent[:, : SIDE // 2]
    assert left[np.isfinite(left)] == pytest.approx(np.mean([500 / size for size in sizes]), rel=1e-4)


def test_pixel_conventions_are_told_apart(dataset):
    other = measure(lambda faces: moved(faces, (0.0, 0.0), pixel_convention="face3d"), "m", dataset)
    own = measure(lambda faces: moved(faces, (0.0, 0.0)), "m", dataset)
    assert np.nanmax(own.error_percent) == 0 and np.nanmin(other.error_percent) > 0.5


def test_failed_faces_are_left_out_and_many_are_thinned(dataset):
    failing = measure(lambda faces: [*moved(faces[:-1]), Prediction(failed="no")], "m", dataset)
    assert failing.faces == 2
    many = replace(dataset, samples=dataset.samples * 50)
    assert measure(moved, "m", many).faces == MOST_FACES
    assert measure(lambda faces: [Prediction(landmarks_px=f.landmarks_px) for f in faces], "m", dataset) is None
    assert measure(moved, "m", replace(dataset, chart=None)) is None


def test_maps_are_kept_beside_the_table(tmp_path, dataset):
    first = measure(moved, "<b>m", dataset)
    write_error_maps(tmp_path, [first])
    [read] = read_error_maps(tmp_path)
    assert (read.model, read.dataset, read.faces) == ("<b>m", "synthetic_faces", 3)
    np.testing.assert_array_equal(read.error_percent, first.error_percent)
    np.testing.assert_array_equal(read.mean_face, first.mean_face)
    write_error_maps(tmp_path, [])
    assert read_error_maps(tmp_path) == [] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no archive"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "error_maps.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"error_maps\.npz"):
        read_error_maps(tmp_path)


def test_arrays_of_other_shapes_are_refused(tmp_path):
    bad = ErrorMap("m", "d", 1, np.zeros((4, 4), np.float32), np.zeros((5, 4, 3), np.float32))
    write_error_maps(tmp_path, [bad])
    with pytest.raises(InputError, match="shapes"):
        read_error_maps(tmp_path)


def hue(rgba):
    """A colour without its brightness, which the shading changes."""
    return rgba[..., :3] / rgba[..., :3].sum(axis=-1, keepdims=True)


def test_each_view_shows_the_side_it_is_named_after(dataset):
    """The chart's left half is the face's right: it is what is bright in the view from the right, and on the left."""
    entry = measure(moved, "m", dataset)
    top = scale_end([entry])
    shown = {title: image.astype(float) for title, image in pictures(entry, top)}
    dark, bright = (
        hue(255 * np.array(matplotlib.colormaps["viridis"](x))) for x in (0.0, np.nanmax(entry.error_percent) / top)
    )
    middle = SIDE_PX // 2
    front = shown["front"]
    assert np.allclose(hue(front[middle, middle - 45]), bright, atol=0.05)
    assert np.allclose(hue(front[middle, middle + 45]), dark, atol=0.05)
    assert np.allclose(hue(shown["from its right"][middle, middle]), bright, atol=0.05)
    assert np.allclose(hue(shown["from its left"][middle, middle]), dark, atol=0.05)
    assert (front[0, 0, 3], front[middle, middle, 3]) == (0, 255)


def test_the_report_shows_the_map_even_in_private(tmp_path, dataset):
    made_table(levels={"prn": 3.0}).write(tmp_path)
    write_error_maps(tmp_path, [measure(moved, "prn", dataset)])
    page = write_report(tmp_path, private=True).read_text()
    assert page.count("data:image/png") == 4 and "Where on the face" in page and "over 3 faces" in page
    drawn = cv2.imread(str(tmp_path / "figures" / "error_map-synthetic_faces-prn.png"))
    assert drawn.shape[0] > 300 and drawn.std() > 10
    write_error_maps(tmp_path, [])
    assert "Where on the face" not in write_report(tmp_path).read_text()
    assert not list((tmp_path / "figures").glob("error_map*"))


def test_hostile_names_of_maps_neither_run_nor_leave_the_folder(tmp_path, dataset):
    name = "</script><script>alert(1)</script>/../../x"
    made_table(levels={name: 3.0}).write(tmp_path)
    write_error_maps(tmp_path, [measure(moved, name, dataset)])
    assert "<script>alert" not in write_report(tmp_path).read_text()
    assert [path.parent.name for path in tmp_path.rglob("error_map-*.png")] == ["figures"]
