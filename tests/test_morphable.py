"""Morphable models: the readers on full-size made-up files in the real layouts, and the model itself."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prnbench.benchmarks.fullsize import made_up_model
from prnbench.errors import FaceModelError
from prnbench.facemodel import describe, load_face_model, picture
from prnbench.morphable import MorphableModel, ict, read_face_model
from tests.fake import face_models as fake


@pytest.fixture(scope="module")
def model():
    return made_up_model(5, 3)


@pytest.fixture(scope="module")
def face3d_folder(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("face3d")
    fake.write_face3d(folder, model)
    return folder


def test_face3d_at_full_size(tmp_path):
    full = made_up_model()
    loaded = read_face_model(fake.write_face3d(tmp_path, full))
    assert loaded.mean.shape == (53215, 3)
    assert loaded.identity.shape == (159645, 199)
    assert loaded.expression.shape == (159645, 29)
    np.testing.assert_allclose(loaded.mean, full.mean, atol=0.02)  # micrometres, float32
    np.testing.assert_array_equal(loaded.identity, full.identity)
    np.testing.assert_array_equal(loaded.triangles, full.triangles)
    np.testing.assert_array_equal(loaded.landmarks, full.landmarks)
    np.testing.assert_array_equal(loaded.mouth_triangles, full.mouth_triangles)
    np.testing.assert_allclose(loaded.uv, full.uv, atol=1e-7)
    np.testing.assert_allclose(loaded.albedo, full.albedo, atol=1e-6)
    assert loaded.unit == "um"
    assert "non-commercial" in loaded.licence


def test_vertices_are_the_published_formula(model):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=5) * 1e5, rng.normal(size=3)
    expected = model.mean.ravel().astype(np.float64) + model.identity @ a + model.expression @ b
    np.testing.assert_allclose(model.vertices(a, b).ravel(), expected, atol=0.05)


def test_a_folder_with_bfm_is_found(face3d_folder):
    assert read_face_model(face3d_folder).fingerprint == read_face_model(face3d_folder / "BFM.mat").fingerprint


def test_v73_files_are_read_too(tmp_path, model, face3d_folder):
    path = fake.write_face3d(tmp_path, model, v73=True)
    assert read_face_model(path).fingerprint == read_face_model(face3d_folder).fingerprint


@pytest.mark.parametrize("full", [True, False])
def test_raw_parts_need_no_matlab_step(tmp_path, model, face3d_folder, full):
    ready, raw = read_face_model(face3d_folder), read_face_model(fake.write_raw(tmp_path, model, full=full))
    for name in ("mean", "identity", "identity_std", "expression", "triangles", "landmarks", "uv", "mouth_triangles"):
        np.testing.assert_array_equal(getattr(raw, name), getattr(ready, name), err_msg=name)
    if full:
        assert raw.fingerprint == ready.fingerprint


def test_raw_parts_in_the_folders_of_face3d(tmp_path, model):
    fake.write_raw(tmp_path, model)
    for sub, names in {"raw": ["01_MorphableModel.mat"], "3ddfa": ["model_info.mat", "Model_Expression.mat"]}.items():
        (tmp_path / sub).mkdir()
        for name in names:
            (tmp_path / name).rename(tmp_path / sub / name)
    assert read_face_model(tmp_path).vertex_count == 53215


@pytest.mark.parametrize("name", ["Model_Expression.mat", "model_info.mat"])
def test_a_missing_raw_part_is_named(tmp_path, model, name):
    fake.write_raw(tmp_path, model, drop=[name])
    with pytest.raises(FaceModelError, match=rf"{name} is missing, found .*mat.*Get 01_Morph"):
        read_face_model(tmp_path)


def test_missing_field_is_named(tmp_path, model):
    path = fake.write_face3d(tmp_path, model, drop=["expPC", "kpt_ind"])
    with pytest.raises(FaceModelError, match=r"\['expPC', 'kpt_ind'\] are missing, found .*shapeMU.*Get 01_Morph"):
        read_face_model(path)


def test_wrong_vertex_count_is_named(tmp_path, model):
    path = fake.write_face3d(tmp_path, model, shapeMU=np.zeros((300, 1)), expMU=np.zeros((300, 1)))
    with pytest.raises(FaceModelError, match="100 vertices, expected 53215"):
        read_face_model(path)


def test_wrong_chart_is_named(tmp_path, model):
    path = fake.write_face3d(tmp_path, model)
    import scipy.io

    scipy.io.savemat(tmp_path / "BFM_UV.mat", {"UV": np.full((53215, 2), 3.0)})
    with pytest.raises(FaceModelError, match=r"BFM_UV.mat.*values 3..3.*in 0\.\.1"):
        read_face_model(path)


def test_another_mat_file_is_refused(tmp_path):
    import scipy.io

    scipy.io.savemat(tmp_path / "other.mat", {"pt3d_68": np.zeros((3, 68))})
    with pytest.raises(FaceModelError, match=r"no struct 'model' but \['pt3d_68'\]"):
        read_face_model(tmp_path / "other.mat")


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file".ljust(128) + b"xx", b"\x00" * 1000])
def test_damaged_files_are_refused(tmp_path, content):
    for name in ("BFM.mat", "model.npz"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FaceModelError, match=rf"{name}: .*Copy"):
            read_face_model(tmp_path / name)


def test_nothing_there(tmp_path):
    with pytest.raises(FaceModelError, match="no such file or folder"):
        read_face_model(tmp_path / "absent")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(FaceModelError, match=r"found notes.txt\. Give face3d's BFM.mat"):
        read_face_model(tmp_path)
    with pytest.raises(FaceModelError, match=r"\.txt is not a face model layout"):
        read_face_model(tmp_path / "notes.txt")


def test_pickled_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "bad.npz", mean=np.array([{"a": 1}], dtype=object), header=np.array("{}"))
    with pytest.raises(FaceModelError, match="not a readable array file"):
        read_face_model(tmp_path / "bad.npz")


def test_ict_folder_at_full_size(tmp_path, monkeypatch):
    modes = fake.write_ict(tmp_path / "FaceXModel")
    loaded = read_face_model(tmp_path)
    vertices, uv, polygons, materials = fake.ict_mesh()
    assert loaded.vertex_count == 26719
    np.testing.assert_allclose(loaded.mean, vertices, atol=1e-5)
    np.testing.assert_allclose(loaded.identity.T.reshape(2, -1, 3), modes[:2], atol=1e-5)
    np.testing.assert_allclose(loaded.expression.T.reshape(2, -1, 3), modes[2:], atol=1e-5)
    assert loaded.expression_names == ("jawOpen", "mouthSmile_L")
    assert np.isfinite(loaded.uv[:9409]).all() and np.isnan(loaded.uv[9409:]).all()
    np.testing.assert_allclose(loaded.uv[:9409], uv[:9409], atol=1e-6)
    shown = polygons[materials != "M_EyeLashes"]
    assert len(loaded.triangles) == len(shown) + (shown[:, 3] >= 0).sum()

    monkeypatch.setattr(ict, "_read_objs", lambda *_: pytest.fail("the folder was read again"))
    assert read_face_model(tmp_path / "FaceXModel").fingerprint == loaded.fingerprint


def test_ict_folder_with_a_foreign_mesh(tmp_path):
    fake.write_ict(tmp_path)
    fake.write_obj(tmp_path / "identity001.obj", np.zeros((100, 3)))
    with pytest.raises(FaceModelError, match=r"identity001.obj: 100 vertices, expected 26719"):
        read_face_model(tmp_path)


def test_ict_folder_without_modes(tmp_path):
    fake.write_ict(tmp_path, identities=0, expressions=(), modes=[])
    with pytest.raises(FaceModelError, match="0 identity and 0 expression files, expected 100 and 53"):
        read_face_model(tmp_path)


def test_real_ict_arrays_and_folder_agree(tmp_path):
    path = Path(__file__).parents[2] / "shared" / "ict_facekit" / "ict_facekit_light.npz"
    if not path.is_file():
        pytest.skip("no ICT-FaceKit arrays beside the repository")
    with np.load(path) as stored:
        arrays = dict(stored)
    fake.write_ict_arrays(tmp_path, arrays)
    from_arrays, from_folder = read_face_model(path), read_face_model(tmp_path)
    np.testing.assert_array_equal(from_arrays.landmarks, arrays["landmarks68"])
    np.testing.assert_array_equal(from_arrays.triangles, from_folder.triangles)
    np.testing.assert_allclose(from_arrays.uv, from_folder.uv, atol=1e-6)
    np.testing.assert_allclose(from_arrays.identity[:, :2], from_folder.identity, atol=2e-6)
    eye_corners = from_arrays.mean[from_arrays.landmarks[[36, 45]]] * from_arrays.mm_per_unit
    assert np.linalg.norm(eye_corners[0] - eye_corners[1]) == pytest.approx(89.2, abs=0.1)


def test_array_file_round_trip(tmp_path, model):
    model.save(tmp_path / "model.npz")
    again = read_face_model(tmp_path / "model.npz")
    assert again.fingerprint == model.fingerprint
    assert (again.name, again.licence, again.unit) == (model.name, model.licence, model.unit)
    assert list(tmp_path.iterdir()) == [tmp_path / "model.npz"]


def test_array_file_of_another_version(tmp_path, model, monkeypatch):
    monkeypatch.setattr("prnbench.morphable.model.SCHEMA", 99)
    model.save(tmp_path / "new.npz")
    monkeypatch.undo()
    with pytest.raises(FaceModelError, match="of version 1, found version 99"):
        read_face_model(tmp_path / "new.npz")


def test_fingerprint_is_of_the_arrays_only(model):
    assert replace(model, name="other", licence="other").fingerprint == model.fingerprint
    moved = model.mean.copy()
    moved[7, 1] += 1
    assert replace(model, mean=moved).fingerprint != model.fingerprint
    assert replace(model, uv=None).fingerprint != model.fingerprint


@settings(max_examples=10, deadline=None)
@given(a=st.lists(st.floats(-3, 3), max_size=5), b=st.lists(st.floats(-3, 3), max_size=3), k=st.floats(-2, 2))
def test_vertices_are_linear(model, a, b, k):
    a, b = np.array(a) * 1e5, np.array(b)
    moved = model.vertices(k * a, k * b) - model.mean
    np.testing.assert_allclose(moved, k * (model.vertices(a, b) - model.mean), atol=0.3)


def test_short_vectors_are_padded_and_axes_broadcast(model):
    a = np.random.default_rng(1).normal(size=(4, 1, 2))
    b = np.random.default_rng(2).normal(size=(3, 1))
    batch = model.vertices(a, b)
    assert batch.shape == (4, 3, 53215, 3)
    assert batch.dtype == np.float32
    one = model.vertices(np.pad(a[2, 0], (0, 3)), np.pad(b[1], (0, 2)))
    np.testing.assert_allclose(batch[2, 1], one, atol=0.05)
    np.testing.assert_array_equal(model.vertices(), model.mean)


def test_long_vectors_are_an_error(model):
    with pytest.raises(FaceModelError, match="6 shape coefficients for the 5 shape modes"):
        model.vertices(np.zeros(6))


def test_triangles_are_turned_outside(tmp_path, model, face3d_folder):
    path = fake.write_face3d(tmp_path, model, tri=model.triangles.T[::-1] + 1.0)
    turned = read_face_model(path).triangles
    ready = read_face_model(face3d_folder)
    assert {tuple(sorted(t)) for t in turned[:50].tolist()} == {tuple(sorted(t)) for t in ready.triangles[:50].tolist()}
    corners = ready.mean[turned].astype(np.float64)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    centre = np.array([0, 0, 20e3])
    assert ((normals * (corners.mean(axis=1) - centre)).sum(axis=1) > 0).mean() > 0.95


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("landmarks", np.zeros(5, int), r"landmarks has the shape \(5,\), expected \(68,\)"),
        ("triangles", np.array([[0, 1, 53215]]), r"triangles name the vertices 0\.\.53215, there are 0\.\.53214"),
        ("identity", np.zeros((3, 2)), r"identity has the shape \(3, 2\), expected \(159645, 2\)"),
        ("uv", np.zeros((10, 2)), r"uv has the shape \(10, 2\)"),
        ("unit", "inch", "unit 'inch' is none of"),
        ("expression_names", ("a",), "1 expression_names for 3 modes"),
    ],
)
def test_arrays_that_do_not_fit(model, field, value, message):
    with pytest.raises(FaceModelError, match=message):
        replace(model, **{field: value})


def test_values_that_are_not_finite(model):
    bad = model.mean.copy()
    bad[0, 0] = np.nan
    with pytest.raises(FaceModelError, match="mean holds values that are not finite"):
        replace(model, mean=bad)


def test_load_face_model_takes_a_path_or_the_built_in_head(face3d_folder):
    assert load_face_model(face3d_folder / "BFM.mat").name == "BFM 2009"
    built_in = load_face_model()
    assert isinstance(built_in, MorphableModel)
    assert load_face_model("builtin").fingerprint == built_in.fingerprint


def test_description_and_picture(model):
    rows = describe(model)
    assert rows["vertices"] == 53215
    assert rows["expression modes"] == "3"
    assert "100.0% of the texels" in rows["chart at 256 x 256"]
    image = picture(model, size=120)
    assert image.shape == (120, 360, 3)
    assert image.dtype == np.uint8
    covered = (image.min(axis=2) < 250).reshape(120, 3, 120).mean(axis=(0, 2))
    assert ((covered > 0.15) & (covered < 0.8)).all()  # a face in each of the three views
