"""Position maps in shards: right places, both stores the same face, wrong face models refused."""

import shutil

import numpy as np
import pytest
import scipy.io

import prnbench
from prnbench.convert.pipeline import convert
from prnbench.errors import FaceModelError
from prnbench.facemodel import load_face_model
from prnbench.geometry import project, to_image
from prnbench.uv import chart_of
from tests.fake import aflw2000_3d, w300lp


@pytest.fixture(scope="module")
def head():
    return load_face_model()


@pytest.fixture(scope="module")
def raw(tmp_path_factory, head):
    """Fake faces whose parameters and landmarks belong to the built-in head."""
    root = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(3)
    for stem in aflw2000_3d.write(root, 6):
        mat = scipy.io.loadmat(root / f"{stem}.mat")
        fields = {name: value for name, value in mat.items() if not name.startswith("__")}
        fields["Shape_Para"] = (head.identity_std * rng.normal(size=199))[:, None]
        fields["Exp_Para"] = (head.expression_std * rng.uniform(0, 1, 29))[:, None]
        vertices = head.vertices(fields["Shape_Para"][:, 0], fields["Exp_Para"][:, 0])[head.landmarks]
        fields["pt3d_68"] = to_image(project(vertices, fields["Pose_Para"][0]), 450, "annotation").T.astype(np.float32)
        scipy.io.savemat(root / f"{stem}.mat", fields)
    return root


def test_maps_hold_every_vertex_where_it_projects(raw, tmp_path, head):
    convert("aflw2000_3d", raw, tmp_path / "out", face_model="builtin")
    raster = chart_of(head).raster(256)
    for sample in prnbench.open_shards(tmp_path / "out"):
        assert sample.position_map_px.shape == (256, 256, 3)
        vertices = head.vertices(sample.shape_params, sample.expression_params)
        posed = to_image(project(vertices, sample.pose_params), 450)
        crop_px = 1.5 * np.ptp(sample.landmarks_px[:, :2], axis=0).mean() / 255
        assert np.abs(sample.position_map_px - raster.position_map(posed)).max() < 0.005 * crop_px
        sampled = raster.sample(sample.position_map_px, chart_of(head).landmark_uv)
        assert np.median(np.linalg.norm(sampled - sample.landmarks_px, axis=1)) < 0.5 * crop_px


def test_both_stores_give_the_same_sample(raw, tmp_path):
    convert("aflw2000_3d", raw, tmp_path / "maps", face_model="builtin")
    convert("aflw2000_3d", raw, tmp_path / "parameters", face_model="builtin", store="parameters")
    convert("aflw2000_3d", raw, tmp_path / "fast", face_model="builtin", store="fast")
    pairs = zip(prnbench.open_shards(tmp_path / "maps"), prnbench.open_shards(tmp_path / "parameters"), strict=True)
    for stored, made in pairs:
        assert (stored.id, stored.jpeg) == (made.id, made.jpeg)
        np.testing.assert_array_equal(stored.landmarks_px, made.landmarks_px)
        crop_px = 1.5 * np.ptp(stored.landmarks_px[:, :2], axis=0).mean() / 255
        assert np.abs(stored.position_map_px - made.position_map_px).max() < 0.005 * crop_px
    for stored, fast in zip(
        prnbench.open_shards(tmp_path / "maps"), prnbench.open_shards(tmp_path / "fast"), strict=True
    ):
        np.testing.assert_allclose(fast.position_map_px, stored.position_map_px, atol=1e-4)
    alone = prnbench.open_shards(tmp_path / "parameters")
    np.testing.assert_allclose(alone[2].position_map_px, alone.__getitems__([0, 2])[1].position_map_px, atol=1e-2)
    assert prnbench.open_shards(tmp_path / "parameters", maps=False)[0].position_map_px is None


def test_300w_lp_gets_landmarks_with_depth_from_the_face_model(tmp_path, head):
    w300lp.write(tmp_path / "raw", variants=1, flips=False)
    convert("w300lp", tmp_path / "raw", tmp_path / "out", face_model="builtin")
    for sample in prnbench.open_shards(tmp_path / "out"):
        vertices = head.vertices(sample.shape_params, sample.expression_params)[head.landmarks]
        expected = to_image(project(vertices, sample.pose_params), 450)
        np.testing.assert_allclose(sample.landmarks_px, expected, atol=0.05)


def test_parameters_of_another_face_model_are_refused(tmp_path):
    w300lp.write(tmp_path / "raw", variants=1, flips=False, modes=(199, 79))
    with pytest.raises(FaceModelError, match=r"expression_params of .* has 79 values, this face model has 29 modes"):
        convert("w300lp", tmp_path / "raw", tmp_path / "out", face_model="builtin")
    w300lp.write(tmp_path / "short", variants=1, flips=False, modes=(80, 29))
    with pytest.raises(FaceModelError, match="has 80 values"):
        convert("w300lp", tmp_path / "short", tmp_path / "out", face_model="builtin")


def test_a_face_whose_map_is_absurd_is_listed_and_its_neighbours_stay(raw, tmp_path):
    whole = tmp_path / "raw"
    shutil.copytree(raw, whole)
    stems = sorted(path.stem for path in whole.glob("*.mat"))
    for stem, scale in ((stems[1], 1e12), (stems[3], 1e38)):
        mat = scipy.io.loadmat(whole / f"{stem}.mat")
        fields = {name: value for name, value in mat.items() if not name.startswith("__")}
        fields["Shape_Para"] = np.full((199, 1), scale)
        scipy.io.savemat(whole / f"{stem}.mat", fields)
    manifest = convert("aflw2000_3d", whole, tmp_path / "out", face_model="builtin")
    assert [entry["file"] for entry in manifest["skipped"]] == [f"{stems[1]}.jpg", f"{stems[3]}.jpg"]
    assert "65535 fit" in manifest["skipped"][0]["reason"]
    assert "not finite" in manifest["skipped"][1]["reason"]
    undisturbed = convert("aflw2000_3d", raw, tmp_path / "good", face_model="builtin")
    assert manifest["count"] == undisturbed["count"] - 2
    good = {sample.id: sample for sample in prnbench.open_shards(tmp_path / "good")}
    for sample in prnbench.open_shards(tmp_path / "out"):
        np.testing.assert_array_equal(sample.position_map_px, good[sample.id].position_map_px)


def test_landmark_visibility_is_that_of_the_whole_mesh(head):
    from prnbench.convert.visibility import LandmarkVisibility
    from prnbench.geometry import rotation_from_euler
    from prnbench.render import rasterise, visible_vertices

    rng = np.random.default_rng(5)
    count = 12
    shape = (head.identity_std * rng.normal(size=(count, len(head.identity_std)))).astype(np.float32)
    expression = np.zeros((count, len(head.expression_std)), np.float32)
    pose = np.zeros((count, 7), np.float32)
    pose[:, :3] = rng.uniform([-0.4, -1.3, -0.3], [0.4, 1.3, 0.3], (count, 3))
    pose[0, :3], pose[1, :3] = 0, (0, np.deg2rad(75), 0)
    vertices = head.vertices(shape, expression)
    found = LandmarkVisibility(head)(shape, expression, pose)
    assert found[0].all()
    right_jaw, left_jaw = found[1, :6].mean(), found[1, 11:17].mean()
    assert sorted((right_jaw, left_jaw)) == [0, 1]
    agree = []
    for points, angles, seen in zip(vertices, pose[:, :3], found, strict=True):
        turned = points @ rotation_from_euler(angles).T * [1, -1, 1] / np.ptp(points[:, 1]) * 400
        turned = (turned - turned.min(axis=0) + 5).astype(np.float32)
        buffer = rasterise(turned, head.triangles, 600, 600)
        size_px = np.ptp(turned[head.landmarks, 1])
        truth = visible_vertices(turned, head.triangles, buffer, tolerance=0.03 * size_px)[head.landmarks]
        agree.append((truth == seen).mean())
    assert np.mean(agree) > 0.95


def test_visibility_is_stored_with_every_store(raw, tmp_path):
    seen = []
    for store in ("maps", "parameters"):
        convert("aflw2000_3d", raw, tmp_path / store, face_model="builtin", store=store)
        seen.append(np.stack(prnbench.open_shards(tmp_path / store, maps=False).column("visible")))
    np.testing.assert_array_equal(*seen)
    assert 0.4 < seen[0].mean() < 1
