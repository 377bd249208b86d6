"""Florence: views, camera, ground truth and bad scans, on fake scans in its layout."""

import json
import shutil

import numpy as np
import pytest
from scipy.spatial import cKDTree

import prnbench
from prnbench.convert import Options, florence, load_converter
from prnbench.convert.pipeline import convert
from prnbench.errors import InputError, SampleError
from prnbench.scan import nose_tip, read_landmarks, read_scan
from tests.fake import florence as fake

TWO_VIEWS = Options(pitch_deg=(0.0,), yaw_deg=(0.0, 40.0))


def test_twenty_views_of_every_frontal_scan(tmp_path):
    scans = fake.write(tmp_path / "raw", 2)
    found = load_converter("florence").find(tmp_path / "raw")
    assert len(found.keys) == scans
    assert found.skipped == []
    samples = florence.read(tmp_path / "raw", found.keys[0], Options())
    assert len(samples) == 20
    assert {(int(s.pose_deg[0]), int(s.pose_deg[1])) for s in samples} == {
        (pitch, yaw) for pitch in (-15, 0, 15, 30) for yaw in (-80, -40, 0, 40, 80)
    }
    assert len({s.id for s in samples}) == 20
    assert {s.group for s in samples} == {"subject_01"}


def test_the_camera_leads_from_scan_to_picture_and_back(tmp_path):
    fake.write(tmp_path / "raw", 1)
    convert("florence", tmp_path / "raw", tmp_path / "out", options=TWO_VIEWS)
    front, turned = prnbench.open_shards(tmp_path / "out")
    for sample in (front, turned):
        camera = sample.scan.camera_px_per_mm
        there = sample.scan.landmarks_mm @ camera[:, :3].T + camera[:, 3]
        np.testing.assert_allclose(there, sample.landmarks_px, atol=1e-3)
        back = (sample.landmarks_px - camera[:, 3]) @ np.linalg.inv(camera[:, :3]).T
        np.testing.assert_allclose(back, sample.scan.landmarks_mm, atol=1e-3)
    # the frontal view is two pixels a millimetre, y down; the other is turned by 40 degrees about y
    np.testing.assert_allclose(
        np.diff(front.landmarks_px[[36, 45], :2], axis=0),
        2 * np.diff(front.scan.landmarks_mm[[36, 45], :2], axis=0) * [1, -1],
        atol=1e-3,
    )
    c, s = np.cos(np.deg2rad(40)), np.sin(np.deg2rad(40))
    x, _, z = np.diff(front.scan.landmarks_mm[[36, 45]], axis=0)[0]
    assert np.diff(turned.landmarks_px[[36, 45], 0])[0] == pytest.approx(2 * (c * x - s * z), abs=1e-3)


def test_pictures_show_the_texture_where_the_camera_says(tmp_path):
    folder = tmp_path / "subject_01/Model/frontal1/obj"
    fake.write_scan(folder, "1", np.random.default_rng(0))
    scan = read_scan(folder / "1.obj", tmp_path)
    [sample] = florence.read(tmp_path, "subject_01/Model/frontal1/obj/1.obj", Options(pitch_deg=(0,), yaw_deg=(0,)))
    image = sample.image_rgb()
    inner = np.abs(scan.vertices_mm[:, :2]).max(axis=1) < 50
    points = florence.seen_by(sample.scan.camera_px_per_mm.astype(np.float64), scan.vertices_mm[inner])
    column_row = np.round(points[:, :2]).astype(int)
    texel = np.round(scan.uv[inner] * 255).astype(int)
    expected = scan.texture[255 - texel[:, 1], texel[:, 0]].astype(int)
    seen = image[column_row[:, 1], column_row[:, 0]].astype(int)
    assert np.median(np.abs(seen - expected)) <= 3


def test_ground_truth_is_19000_points_within_95_mm_of_the_nose_tip(tmp_path):
    fake.write(tmp_path / "raw", 1)
    key = load_converter("florence").find(tmp_path / "raw").keys[0]
    [sample] = florence.read(tmp_path / "raw", key, Options(pitch_deg=(0,), yaw_deg=(0,)))
    scan = read_scan(tmp_path / "raw" / key, tmp_path / "raw")
    tip = sample.scan.landmarks_mm[30]
    within = np.linalg.norm(scan.vertices_mm - tip, axis=1) <= 95
    assert within.sum() > 19_000
    assert len(np.unique(sample.scan.points_mm, axis=0)) == 19_000
    assert np.linalg.norm(sample.scan.points_mm - tip, axis=1).max() <= 95
    assert cKDTree(scan.vertices_mm[within]).query(sample.scan.points_mm)[0].max() == 0
    eyes = sample.scan.landmarks_mm[[36, 45]]
    assert sample.scan.interocular_mm == pytest.approx(np.linalg.norm(eyes[0] - eyes[1]))


def test_the_same_seed_draws_the_same_points(tmp_path):
    fake.write(tmp_path / "raw", 1)
    key = load_converter("florence").find(tmp_path / "raw").keys[0]
    one = Options(pitch_deg=(0,), yaw_deg=(0,))
    draws = [florence.read(tmp_path / "raw", key, o)[0].scan.points_mm for o in (one, one)]
    np.testing.assert_array_equal(*draws)


def test_metres_are_told_and_rescaled(tmp_path):
    fake.write_scan(tmp_path, "1", np.random.default_rng(0), unit=1e-3)
    scan = read_scan(tmp_path / "1.obj", tmp_path)
    assert scan.unit == "m"
    assert 150 < np.ptp(scan.vertices_mm[:, 1]) < 250
    fake.write_scan(tmp_path, "2", np.random.default_rng(0), unit=77.0)
    with pytest.raises(SampleError, match="no head in mm"):
        read_scan(tmp_path / "2.obj", tmp_path)


def test_nan_vertices_are_left_out(tmp_path):
    points = fake.write_scan(tmp_path, "1", np.random.default_rng(0), nan_share=0.05)
    scan = read_scan(tmp_path / "1.obj", tmp_path)
    assert np.isfinite(scan.vertices_mm).all()
    assert 0.9 * len(points) < len(scan.vertices_mm) < len(points)
    assert scan.triangles.max() < len(scan.vertices_mm) == len(scan.uv)


def test_bad_scans_are_listed_and_skipped(tmp_path):
    fake.write(tmp_path / "raw", 2)
    folder = tmp_path / "raw/subject_01/Model"
    fake.write_scan(folder / "frontal1/obj", "2", np.random.default_rng(1), texture=False)
    (folder / "frontal2/obj/3.obj").write_text("")
    manifest = convert("florence", tmp_path / "raw", tmp_path / "out", options=TWO_VIEWS)
    reasons = {entry["file"].split("/")[-1]: entry["reason"] for entry in manifest["skipped"]}
    assert "no texture" in reasons["2.obj"]
    assert "empty" in reasons["3.obj"]
    assert manifest["count"] == 3 * 2


def test_a_texture_outside_the_data_set_is_not_read(tmp_path):
    folder = tmp_path / "raw/subject_01/Model/frontal1/obj"
    fake.write_scan(folder, "1", np.random.default_rng(0))
    (folder / "1.png").rename(tmp_path / "secret.png")
    (folder / "1.mtl").write_text("newmtl face\nmap_Kd ../../../../../secret.png\n")
    with pytest.raises(SampleError):
        read_scan(folder / "1.obj", tmp_path / "raw")


@pytest.mark.parametrize("version", [1, 2])
def test_vrml_scans_are_the_scans_of_obj_files(tmp_path, version):
    fake.write_scan(tmp_path, "1", np.random.default_rng(0))
    fake.write_vrml(tmp_path, "2", np.random.default_rng(0), version=version)
    expected, found = read_scan(tmp_path / "1.obj", tmp_path), read_scan(tmp_path / "2.wrl", tmp_path)
    assert found.texture.shape == (256, 256, 3)
    distance, nearest = cKDTree(found.vertices_mm).query(expected.vertices_mm)
    assert distance.max() < 1e-3
    np.testing.assert_allclose(found.uv[nearest], expected.uv, atol=1e-5)
    assert len(found.triangles) == len(expected.triangles)

    def normal(scan):  # of the whole surface: the triangles are turned alike
        a, b, c = (scan.vertices_mm[scan.triangles[:, k]] for k in range(3))
        return np.cross(b - a, c - a).sum(axis=0)

    np.testing.assert_allclose(normal(found), normal(expected), rtol=1e-3, atol=1)


def test_vrml_is_read_where_a_side_has_no_obj(tmp_path):
    fake.write(tmp_path, 2)
    shutil.rmtree(tmp_path / "subject_02/Model/frontal1/obj")
    rng = np.random.default_rng(1)
    fake.write_vrml(tmp_path / "subject_01/Model/frontal1/vrml", "7", rng)
    fake.write_vrml(tmp_path / "subject_02/Model/frontal1/vrml", "8", rng)
    keys = load_converter("florence").find(tmp_path).keys
    assert [key.rsplit("/", 1)[1] for key in keys] == ["110926121601.obj", "110926121601.obj", "8.wrl"]
    [sample] = florence.read(tmp_path, keys[2], Options(pitch_deg=(0,), yaw_deg=(0,)))
    assert sample.id == "subject_02_frontal1_8_pitch+00_yaw+00"
    assert sample.image_rgb().std() > 10


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"texture": "../../../../../secret.png"}, "outside the data set"),
        ({"texture": "/etc/passwd"}, "outside the data set"),
        ({"texture": "missing.png"}, "no texture"),
        ({"transform": "Transform { rotation 0 1 0 1.57 }\n"}, "Transform"),
        ({"transform": "Shape { geometry IndexedFaceSet { } }\n"}, "2 IndexedFaceSets"),
    ],
)
def test_vrml_scans_that_are_not_read(tmp_path, change, reason):
    folder = tmp_path / "raw/subject_01/Model/frontal1/vrml"
    (tmp_path / "secret.png").write_bytes(b"x")
    fake.write_vrml(folder, "1", np.random.default_rng(0), **change)
    with pytest.raises(SampleError, match=reason):
        read_scan(folder / "1.wrl", tmp_path / "raw")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: text.replace("#VRML", "VRML"), "not a VRML file"),
        (lambda text: text.replace("0.5 ", "0.5x ").replace("100.0", "1e"), "not a readable VRML scan"),
        (lambda text: text.replace("coordIndex [", "coordIndex [ 0 1 99999999 -1, "), "beyond the coordinates"),
        (lambda text: text[: len(text) // 3], "no triangles"),
    ],
)
def test_damaged_vrml(tmp_path, damage, reason):
    fake.write_vrml(tmp_path, "1", np.random.default_rng(0))
    (tmp_path / "1.wrl").write_text(damage((tmp_path / "1.wrl").read_text()))
    with pytest.raises(SampleError, match=reason):
        read_scan(tmp_path / "1.wrl", tmp_path)


def test_a_face_model_is_of_no_use_and_not_asked_for(tmp_path, capsys):
    fake.write(tmp_path / "raw", 1)
    manifest = convert("florence", tmp_path / "raw", tmp_path / "out", face_model="builtin", options=TWO_VIEWS)
    assert manifest["count"] == 2
    assert "--face-model" not in capsys.readouterr().err


def test_a_library_of_materials_outside_the_data_set_is_not_read(tmp_path):
    folder = tmp_path / "raw/subject_01/Model/frontal1/obj"
    fake.write_scan(folder, "1", np.random.default_rng(0))
    (folder / "1.mtl").rename(tmp_path / "1.mtl")
    text = (folder / "1.obj").read_text()
    for outside in ("../../../../../1.mtl", str(tmp_path / "1.mtl"), "../../../../../../../../../../etc/passwd"):
        (folder / "1.obj").write_text(text.replace("mtllib 1.mtl", f"mtllib {outside}"))
        with pytest.raises(SampleError, match="outside the data set"):
            read_scan(folder / "1.obj", tmp_path / "raw")


def test_two_scans_of_one_subject_are_two_sets_of_views(tmp_path):
    fake.write(tmp_path / "raw", 1)
    fake.write_scan(tmp_path / "raw/subject_01/Model/frontal1/obj", "2", np.random.default_rng(9))
    assert convert("florence", tmp_path / "raw", tmp_path / "out", options=TWO_VIEWS)["count"] == 4
    opened = prnbench.open_shards(tmp_path / "out")
    assert len(set(opened.column("id"))) == 4
    assert set(opened.column("group")) == {"subject_01"}


def test_wrong_root(tmp_path):
    (tmp_path / "AFW").mkdir()
    with pytest.raises(InputError, match=r"subject_NN/Model/frontal1.*holds AFW"):
        load_converter("florence").find(tmp_path)


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("a.json", lambda p: p),
        ("a.json", lambda p: {"landmarks": p}),
        (
            "a.ljson",
            lambda p: {"version": 1, "groups": [{"label": "x", "landmarks": [{"point": q} for q in p]}]},
        ),
        ("a.ljson", lambda p: {"version": 2, "labels": [], "landmarks": {"points": p, "connectivity": []}}),
        ("a.ljson", lambda p: {"version": 3, "groups": {"x": {"landmarks": {"points": p}, "labels": []}}}),
    ],
)
def test_landmark_files(tmp_path, name, wrap):
    points = np.arange(204.0).reshape(68, 3)
    (tmp_path / name).write_text(json.dumps(wrap(points.tolist())))
    np.testing.assert_array_equal(read_landmarks(tmp_path / name), points)


def test_landmark_csv_with_and_without_header(tmp_path):
    points = np.arange(204.0).reshape(68, 3)
    np.savetxt(tmp_path / "a.csv", points, delimiter=",")
    np.savetxt(tmp_path / "b.csv", points, delimiter=",", header="x,y,z", comments="")
    np.testing.assert_allclose(read_landmarks(tmp_path / "a.csv"), points)
    np.testing.assert_allclose(read_landmarks(tmp_path / "b.csv"), points)
    (tmp_path / "c.csv").write_text("1,2\n3,4\n")
    with pytest.raises(SampleError, match="68 x 3"):
        read_landmarks(tmp_path / "c.csv")


def test_nose_tip_of_a_bulge_with_a_nose():
    points, _, _ = fake.surface(np.random.default_rng(0))
    tip = points[points[:, 2].argmax()]
    assert np.linalg.norm(nose_tip(points.astype(np.float32)) - tip) < 6
