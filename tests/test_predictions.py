"""Predictions files, folders and annotations: every format says the same, every mistake is one clear error."""

import hashlib
import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io

from prnbench.annotations import read_annotations
from prnbench.cards import load_card
from prnbench.errors import InputError, TableError
from prnbench.metrics import errors_of_batch, missing_ground_truth
from prnbench.metrics.stats import summary
from prnbench.predictions import MISSING, read_predictions
from prnbench.table import PerSampleTable

CARD = load_card("aflw2000_3d")
SAMPLES = Path(__file__).parents[2] / "shared" / "samples" / "AFLW2000-3D"
IDS = ["image00002", "image00004", "image00006"]
RNG = np.random.default_rng(0)
POINTS = RNG.uniform(50, 400, (3, 68, 3)).astype(np.float32)
MAPS = RNG.uniform(50, 400, (3, 16, 16, 3)).astype(np.float32)
VERTICES = RNG.uniform(50, 400, (3, 100, 3)).astype(np.float32)


def write(path, **columns):
    columns = {"id": IDS, "landmarks_px": POINTS} | columns
    if path.suffix == ".npz":
        np.savez(path, **columns)
    elif path.suffix == ".json":
        path.write_text(json.dumps({k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in columns.items()}))
    else:
        with h5py.File(path, "w") as file:
            for name, value in columns.items():
                file[name] = value
    return path


# files


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".hdf5", ".json"])
def test_every_format_gives_the_same_predictions(tmp_path, suffix):
    columns = {"vertices_px": VERTICES, "position_map_px": MAPS, "pose_deg": np.eye(3), "latency_ms": [1.0, 2.0, 3.0]}
    path = write(tmp_path / f"mine{suffix}", failed=np.array([False, True, False]), **columns)
    predictions = read_predictions(path, IDS)
    first, second, _ = predictions.of(IDS)
    np.testing.assert_array_equal(first.landmarks_px, POINTS[0])
    np.testing.assert_array_equal(first.vertices_px, VERTICES[0])
    np.testing.assert_array_equal(first.position_map_px, MAPS[0])
    assert first.pose_deg.tolist() == [1, 0, 0] and first.failed is None and first.pixel_convention == "annotation"
    assert "failed" in second.failed and second.landmarks_px is None
    assert predictions.latency_ms == dict(zip(IDS, [1.0, 2.0, 3.0], strict=True))
    assert predictions.name == "mine"
    assert predictions.digest == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".json"])
def test_origin_1_is_moved_and_the_convention_is_kept(tmp_path, suffix):
    path = write(tmp_path / f"p{suffix}", origin=1, pixel_convention="exact", model="net", pose_deg=np.ones((3, 3)))
    predictions = read_predictions(path, IDS)
    (first,) = predictions.of(IDS[:1])
    np.testing.assert_allclose(first.landmarks_px, POINTS[0] - [1, 1, 0], atol=1e-5)
    assert first.pose_deg.tolist() == [1, 1, 1]
    assert first.pixel_convention == "exact" and predictions.name == "net"


def test_missing_faces_failed_and_extra_faces_are_ignored(tmp_path):
    predictions = read_predictions(write(tmp_path / "p.npz"), ["image99999", IDS[2]])
    absent, there = predictions.of(["image99999", IDS[2]])
    assert absent.failed == MISSING
    np.testing.assert_array_equal(there.landmarks_px, POINTS[2])


def test_ids_may_be_file_names_and_bytes(tmp_path):
    path = write(tmp_path / "p.npz", id=np.array([f"{face}.jpg".encode() for face in IDS]))
    assert read_predictions(path, IDS).ids == tuple(IDS)


def test_json_may_be_a_list_of_faces_with_gaps(tmp_path):
    path = tmp_path / "p.json"
    faces = [
        {"id": IDS[0], "landmarks_px": POINTS[0].tolist(), "latency_ms": 4.5},
        {"id": IDS[1], "failed": True},
        {"id": IDS[2], "landmarks_px": None},
    ]
    path.write_text(json.dumps(faces))
    predictions = read_predictions(path, IDS)
    first, second, third = predictions.of(IDS)
    np.testing.assert_allclose(first.landmarks_px, POINTS[0])
    assert second.failed and third.failed
    assert predictions.latency_ms == {IDS[0]: 4.5}


def test_hdf5_rows_come_right_in_any_order_and_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("prnbench.predictions._BLOCK_BYTES", 2 * 68 * 3 * 4)
    many = RNG.uniform(0, 9, (11, 68, 3)).astype(np.float32)
    ids = [f"f{i}" for i in range(11)]
    predictions = read_predictions(write(tmp_path / "p.h5", id=ids, landmarks_px=many), ids)
    for i in (10, 0, 5, 4, 3, 10):
        np.testing.assert_array_equal(predictions.read(f"f{i}").landmarks_px, many[i])


BAD = {
    "no id": ({"id": None}, "Give id"),
    "no quantity": ({"landmarks_px": None}, "one of landmarks_px"),
    "id of numbers": ({"id": [1, 2, 3]}, "list of strings"),
    "an id twice": ({"id": [IDS[0], IDS[0], IDS[1]]}, "occurs twice"),
    "too few rows": ({"landmarks_px": POINTS[:2]}, "2 x 68 x 3, expected 3 x 68 x 2 or 3"),
    "67 points": ({"landmarks_px": POINTS[:, :67]}, "3 x 67 x 3"),
    "four dimensions": ({"landmarks_px": np.zeros((3, 68, 4))}, "3 x 68 x 4"),
    "flat vertices": ({"vertices_px": np.zeros((3, 300))}, "vertices_px is 3 x 300"),
    "text": ({"landmarks_px": np.full((3, 68, 2), "x")}, "numbers"),
    "a wrong key": ({"landmarks": POINTS}, "unknown keys landmarks"),
    "origin 2": ({"origin": 2}, "origin is 2"),
    "a made-up convention": ({"pixel_convention": "mine"}, "pixel_convention is 'mine'"),
    "short failed": ({"failed": np.array([True])}, "failed has shape"),
}


@pytest.mark.parametrize("suffix", [".npz", ".json"])
@pytest.mark.parametrize("case", BAD)
def test_a_wrong_file_is_one_clear_error(tmp_path, case, suffix):
    columns, said = BAD[case]
    all_columns = {"id": IDS, "landmarks_px": POINTS} | columns
    path = tmp_path / f"p{suffix}"
    kept = {name: value for name, value in all_columns.items() if value is not None}
    if suffix == ".npz":
        np.savez(path, **kept)
    else:
        path.write_text(json.dumps({k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in kept.items()}))
    with pytest.raises(TableError, match=said) as error:
        read_predictions(path, IDS)
    assert error.value.file == str(path) and error.value.remedy


@pytest.mark.parametrize("name", ["p.npz", "p.h5", "p.json", "p.csv", "absent.npz"])
def test_damaged_and_foreign_files_are_named(tmp_path, name):
    path = tmp_path / name
    if name != "absent.npz":
        path.write_bytes(b"PK\x03\x04 this is not a file of that kind")
    with pytest.raises(TableError, match=name):
        read_predictions(path, IDS)


def test_pickled_objects_are_refused(tmp_path):
    np.savez(tmp_path / "p.npz", id=np.array(IDS, object), landmarks_px=POINTS)
    with pytest.raises(TableError, match="string array"):
        read_predictions(tmp_path / "p.npz", IDS)


def test_hdf5_links_that_lead_elsewhere_are_refused(tmp_path):
    write(tmp_path / "other.h5")
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["id"] = IDS
        file["landmarks_px"] = h5py.ExternalLink("other.h5", "landmarks_px")
    with pytest.raises(TableError, match="another file"):
        read_predictions(tmp_path / "p.h5", IDS)


def test_a_file_of_other_faces_says_so_with_examples(tmp_path):
    with pytest.raises(TableError, match=r"none of the 1 faces.*'image00002'.*'row00000'"):
        read_predictions(write(tmp_path / "p.npz"), ["row00000"])


# folders


def test_a_folder_in_the_ways_of_public_code(tmp_path):
    np.savetxt(tmp_path / "image00002_kpt.txt", POINTS[0])  # PRNet
    mesh = {"vertices": VERTICES[0], "colors": VERTICES[1], "triangles": np.ones((50, 3))}
    scipy.io.savemat(tmp_path / "image00002_mesh.mat", mesh)
    np.savetxt(tmp_path / "image00004_0.txt", POINTS[1].T, fmt="%.3f")  # 3DDFA
    scipy.io.savemat(tmp_path / "image00004_0.mat", {"vertex": VERTICES[1].T})
    np.save(tmp_path / "image00006.npy", MAPS[2])  # face3d
    lines = [f"v {x} {y} {z} 0.5 0.5 0.5\n" for x, y, z in VERTICES[2]]
    (tmp_path / "image00006.obj").write_text("".join([*lines, "f 1 2 3\n"]))
    (tmp_path / "notes.md").write_text("not a prediction")
    first, second, third = read_predictions(tmp_path, IDS).of(IDS)
    np.testing.assert_allclose(first.landmarks_px, POINTS[0], rtol=1e-6)
    np.testing.assert_array_equal(first.vertices_px, VERTICES[0])
    np.testing.assert_allclose(second.landmarks_px, POINTS[1], atol=1e-3)
    np.testing.assert_array_equal(second.vertices_px, VERTICES[1])
    np.testing.assert_array_equal(third.position_map_px, MAPS[2])
    np.testing.assert_allclose(third.vertices_px, VERTICES[2], rtol=1e-6)


def test_notes_in_the_folder_turn_meshes_with_y_up(tmp_path):
    (tmp_path / "image00002.obj").write_text("".join(f"v {i} {i} 0\n" for i in range(100)))
    (tmp_path / "predictions.json").write_text('{"obj_y_up": 449, "pixel_convention": "exact", "model": "their net"}')
    predictions = read_predictions(tmp_path, IDS)
    (face,) = predictions.of(IDS[:1])
    assert face.vertices_px[3].tolist() == [3, 446, 0]
    assert face.pixel_convention == "exact" and predictions.name == "their net"


def test_an_id_that_begins_like_another_keeps_its_own_files(tmp_path):
    np.save(tmp_path / "face.npy", POINTS[0])
    np.save(tmp_path / "face_1.npy", POINTS[1])
    np.save(tmp_path / "face_1_0.npy", POINTS[2])
    first, second = read_predictions(tmp_path, ["face", "face_1"]).of(["face", "face_1"])
    np.testing.assert_array_equal(first.landmarks_px, POINTS[0])
    np.testing.assert_array_equal(second.landmarks_px, POINTS[1])


@pytest.mark.parametrize(
    ("name", "content"), [("image00002.npy", b"no"), ("image00002.mat", b"no"), ("image00002.txt", b"a b c"),
                          ("image00002.obj", b"v 1 2\n"), ("image00002.txt", b"1 2 3\n")],
)  # fmt: skip
def test_a_bad_file_in_a_folder_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TableError, match=name):
        read_predictions(tmp_path, IDS).of(IDS)


def test_a_folder_without_any_face_says_so(tmp_path):
    with pytest.raises(TableError, match="none of the 3 faces"):
        read_predictions(tmp_path, IDS)


# annotations


def table_of(samples, predictions, protocols):
    faces = [sample.id for sample in samples]
    said = predictions.of(faces)
    nan = [np.nan] * 3
    rows = pd.DataFrame({
        "model": predictions.name, "dataset": "aflw2000_3d", "id": faces, "failed": [p.failed or "" for p in said],
        "yaw_fitted_deg": [(nan if s.pose_deg is None else s.pose_deg)[1] for s in samples],
        "yaw_aflw_deg": [np.nan if s.yaw_aflw_deg is None else s.yaw_aflw_deg for s in samples],
    } | errors_of_batch(protocols, samples, said))  # fmt: skip
    return PerSampleTable.make(
        rows, {"protocols": {p.key: p.identity() | {"title": "", "text": ""} for p in protocols}}
    )


def test_2000_rows_are_scored_from_arrays_alone(tmp_path):
    rng = np.random.default_rng(1)
    truth = rng.uniform(-20, 460, (2000, 3, 68)).astype(np.float32)
    again = (truth[:, :2] + rng.normal(0, 5, (2000, 2, 68))).astype(np.float32)
    yaw, yaw_aflw = rng.uniform(-100, 100, 2000), rng.uniform(0, 100, 2000)
    np.save(tmp_path / "AFLW2000-3D.pts68.npy", truth)
    np.save(tmp_path / "AFLW2000-3D-Reannotated.pts68.npy", again)
    np.save(tmp_path / "AFLW2000-3D.pose.npy", yaw)
    np.save(tmp_path / "AFLW2000-3D-new.pose.npy", yaw_aflw)
    ids = [f"row{k:05d}" for k in range(2000)]
    predicted = truth.transpose(0, 2, 1) + rng.normal(0, 6, (2000, 68, 3))
    np.savez(tmp_path / "net.npz", id=ids[:1990], landmarks_px=predicted[:1990])

    samples = read_annotations(tmp_path)
    assert [sample.id for sample in samples] == ids
    protocols = [p for p in CARD.protocols if missing_ground_truth(p, samples[0]) is None]
    assert {p.points for p in protocols} == {"landmarks_68", "jaw", "brows", "nose", "eyes", "mouth"}
    table = table_of(samples, read_predictions(tmp_path / "net.npz", ids), protocols)
    got = {(r["protocol"], r["subset"], r["statistic"]): r for r in summary(table, resamples=500)}

    def independent(target, dims):
        g, p = target.transpose(0, 2, 1)[:1990, :, :dims].astype(float), predicted[:1990, :, :dims]
        w, h = (g[:, :, k].max(1) - g[:, :, k].min(1) for k in (0, 1))
        return 100 * np.sqrt(((p - g) ** 2).sum(2)).mean(1) / np.sqrt(w * h)

    for protocol, target, dims, source in (
        ("nme_2d_68-v1", truth, 2, yaw),
        ("nme_2d_68_aflwyaw-v1", truth, 2, yaw_aflw),
        ("nme_2d_68_reannotated-v1", again, 2, yaw),
        ("nme_3d_68_znone-v1", truth, 3, yaw),
    ):
        expected, magnitude = independent(target, dims), abs(source[:1990])
        bins = [magnitude <= 30, (magnitude > 30) & (magnitude <= 60), magnitude > 60]
        means = [expected[inside].mean() for inside in bins]
        assert got[protocol, "all", "mean"]["value"] == pytest.approx(expected.mean(), rel=1e-9)
        assert got[protocol, "all", "mean"]["n"] == 2000 and got[protocol, "all", "mean"]["failed"] == 10
        assert got[protocol, "balanced", "mean"]["value"] == pytest.approx(np.mean(means), rel=1e-9)
        assert got[protocol, "yaw_60_90", "mean"]["value"] == pytest.approx(means[2], rel=1e-9)


def test_predictions_equal_to_the_annotation_have_no_error_at_all(tmp_path):
    truth = RNG.uniform(-20, 460, (4, 3, 68)).astype(np.float32)
    np.save(tmp_path / "AFLW2000-3D.pts68.npy", truth)
    samples = read_annotations(tmp_path)
    ids = [sample.id for sample in samples]
    np.savez(tmp_path / "same.npz", id=ids, landmarks_px=truth.transpose(0, 2, 1))
    np.savez(
        tmp_path / "zero_based.npz", id=ids, landmarks_px=truth.transpose(0, 2, 1) - [1, 1, 0], pixel_convention="exact"
    )
    np.savez(tmp_path / "one_based.npz", id=ids, landmarks_px=truth.transpose(0, 2, 1), origin=1)
    key = CARD.protocol("nme_3d_68_znone")
    found = {
        name: errors_of_batch([key], samples, read_predictions(tmp_path / f"{name}.npz", ids).of(ids))[key.key]
        for name in ("same", "zero_based", "one_based")
    }
    assert (found["same"] == 0).all()
    np.testing.assert_allclose(found["zero_based"], 0, atol=1e-12)
    w, h = np.ptp(truth[:, :2].astype(float), axis=2).T
    np.testing.assert_allclose(found["one_based"], 100 * np.sqrt(2) / np.sqrt(w * h), rtol=1e-6)


def write_mat(path, points, pose=(0.1, 0.2, 0.3)):
    scipy.io.savemat(path, {"pt3d_68": points, "Pose_Para": np.array([[*pose, 1, 2, 3, 1e-3]], np.float32)})


def test_mats_give_points_pose_and_row_names(tmp_path):
    truth = RNG.uniform(50, 400, (3, 3, 68)).astype(np.float32)
    for face, points in zip(IDS, truth, strict=True):
        write_mat(tmp_path / f"{face}.mat", points)
    np.save(tmp_path / "AFLW2000-3D-new.pose.npy", np.array([5.0, 35, 75]))
    samples = read_annotations(tmp_path)
    assert [(s.id, s.yaw_aflw_deg) for s in samples] == list(zip(IDS, [5.0, 35, 75], strict=True))
    np.testing.assert_allclose(samples[1].landmarks_px, truth[1].T - [1, 1, 0])
    np.testing.assert_allclose(samples[1].pose_deg, np.degrees([0.1, 0.2, 0.3]), rtol=1e-6)


def test_ids_file_names_the_rows_and_mats_may_be_fewer(tmp_path):
    truth = RNG.uniform(50, 400, (3, 3, 68)).astype(np.float32)
    np.save(tmp_path / "AFLW2000-3D.pts68.npy", truth)
    np.save(tmp_path / "AFLW2000-3D.pose.npy", np.array([-70.0, 0, 40]))
    (tmp_path / "ids.txt").write_text("image00006.jpg\nimage00002.jpg\nimage00004.jpg\n")
    write_mat(tmp_path / "image00002.mat", truth[1])
    samples = {sample.id: sample for sample in read_annotations(tmp_path)}
    assert list(samples) == ["image00006", "image00002", "image00004"]
    assert samples["image00006"].yaw_deg == -70 and np.isnan(samples["image00006"].pose_deg[0])
    assert samples["image00002"].yaw_deg == 0 and samples["image00002"].pose_deg[0] == pytest.approx(np.degrees(0.1))


def rows(folder, name, values):
    np.save(folder / f"AFLW2000-3D{name}.npy", np.array(values), allow_pickle=True)


BROKEN = {
    "empty": (lambda d: None, "found no annotations"),
    "shape": (lambda d: rows(d, ".pts68", np.zeros((5, 68, 3))), "Nx3x68"),
    "nan": (lambda d: rows(d, ".pose", [1, np.nan]), "row 1"),
    "pickle": (lambda d: rows(d, ".pose", [None]), "not a readable"),
    "lengths": (lambda d: [rows(d, ".pose", [0.0, 0]), rows(d, "-new.pose", [0.0])], "different length"),
    "ids": (lambda d: [rows(d, ".pose", [0.0] * 3), (d / "ids.txt").write_text("a\nb\n")], "2 ids for 3"),
    "ids twice": (lambda d: [rows(d, ".pose", [0.0] * 2), (d / "ids.txt").write_text("a\na\n")], "occurs twice"),
    "count": (lambda d: [rows(d, ".pose", [0.0] * 3), write_mat(d / "a.mat", np.zeros((3, 68)))], "Add ids.txt"),
    "order": (
        lambda d: [rows(d, ".pts68", np.ones((1, 3, 68))), write_mat(d / "a.mat", np.zeros((3, 68)))],
        "another order",
    ),
    "mat": (lambda d: scipy.io.savemat(d / "a.mat", {"pt2d": np.zeros((2, 21))}), "pt3d_68"),
    "damaged mat": (lambda d: (d / "a.mat").write_bytes(b"MATLAB 5.0 but cut"), "not a readable"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_annotations_are_one_clear_error(tmp_path, case):
    make, said = BROKEN[case]
    make(tmp_path)
    with pytest.raises(InputError, match=said) as error:
        read_annotations(tmp_path)
    assert error.value.file.startswith(str(tmp_path)) and error.value.remedy


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the real samples are not here")
def test_the_six_real_faces_are_scored_from_annotations_alone(tmp_path):
    samples = read_annotations(SAMPLES)
    ids = [sample.id for sample in samples]
    yaws = {s.id: round(s.yaw_deg) for s in samples}
    assert sorted(yaws.values()) == [-55, 1, 11, 38, 45, 66] or sorted(yaws.values()) == [-55, 1, 11, 38, 46, 66]
    raw = np.stack([scipy.io.loadmat(SAMPLES / f"{face}.mat")["pt3d_68"].T for face in ids])
    np.savez(tmp_path / "p.npz", id=ids, landmarks_px=raw + np.array([3, 4, 0], np.float32))
    key = CARD.protocol("nme_2d_68")
    got = errors_of_batch([key], samples, read_predictions(tmp_path / "p.npz", ids).of(ids))[key.key]
    size = np.sqrt(np.prod(np.ptp(raw[:, :, :2], axis=1), axis=1))
    np.testing.assert_allclose(got, 500 / size, rtol=1e-5)
