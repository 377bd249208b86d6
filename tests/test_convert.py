"""Converters on fake folders in the real layouts and on the real samples; bad input one by one; resumption."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io

import prnbench
from prnbench.convert import converter_names, load_converter
from prnbench.convert.pipeline import convert, convert_cached
from prnbench.convert.w300lp import photo_identity
from prnbench.errors import InputError, OutputError, SampleError, UsageError
from tests.fake import aflw2000_3d, w300lp


def folder_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_aflw_landmarks_are_pt3d_68_in_exact_pixels(tmp_path):
    stems = aflw2000_3d.write(tmp_path / "raw")
    convert("aflw2000_3d", tmp_path / "raw", tmp_path / "out")
    opened = prnbench.open_shards(tmp_path / "out")
    assert opened.column("id") == stems
    for sample in opened:
        mat = scipy.io.loadmat(tmp_path / "raw" / f"{sample.id}.mat")
        np.testing.assert_allclose(sample.landmarks_px, mat["pt3d_68"].T - [1, 1, 0], atol=1e-5)
        np.testing.assert_allclose(np.deg2rad(sample.pose_deg), mat["Pose_Para"][0, :3], rtol=1e-6)
        np.testing.assert_allclose(sample.shape_params, mat["Shape_Para"][:, 0], rtol=1e-6)
        assert sample.jpeg == (tmp_path / "raw" / f"{sample.id}.jpg").read_bytes()
        assert sample.visible21.tolist() == [i != 3 for i in range(21)]
        assert sample.image_rgb().shape == (450, 450, 3)


def test_w300lp_finds_sets_leaves_flips_and_groups_photos(tmp_path):
    count = w300lp.write(tmp_path / "raw")
    manifest = convert("w300lp", tmp_path / "raw", tmp_path / "out")
    assert manifest["count"] == count
    assert [e["file"] for e in manifest["skipped"]] == [
        "AFW_Flip/",
        "HELEN_Flip/",
        "IBUG_Flip/",
        "LFPW_Flip/",
    ]
    opened = prnbench.open_shards(tmp_path / "out")
    splits = {}
    for sample in opened:
        splits.setdefault(sample.group, set()).add(sample.split)
        points = scipy.io.loadmat(tmp_path / "raw/landmarks" / sample.source / f"{sample.id}_pts.mat")["pts_3d"]
        np.testing.assert_allclose(sample.landmarks_px[:, :2], points - 1, atol=1e-4)
    assert len(splits) == 4
    assert all(len(names) == 1 for names in splits.values())


@pytest.mark.parametrize(
    ("stem", "photo"),
    [
        ("IBUG_image_008_1_0", "IBUG_image_008"),
        ("IBUG_image_008_1_17", "IBUG_image_008"),
        ("LFPW_image_train_0001_3", "LFPW_image_train_0001"),
        ("AFW_1051618982_1_0", "AFW_1051618982"),
        ("HELEN_100032540_2_11", "HELEN_100032540"),
    ],
)
def test_photo_identity(stem, photo):
    assert photo_identity(stem) == photo


def one_bad(tmp_path, **change):
    """Convert two good faces and one changed by the caller; the reason given for the bad one."""
    raw = tmp_path / "raw"
    aflw2000_3d.write(raw, 3)
    bad = raw / "image00003.mat"
    content = {k: v for k, v in scipy.io.loadmat(bad).items() if not k.startswith("__")} | change
    scipy.io.savemat(bad, {name: value for name, value in content.items() if value is not None})
    return raw


def reason_of(raw, out, expected=2):
    manifest = convert("aflw2000_3d", raw, out)
    assert manifest["count"] == expected
    assert prnbench.open_shards(out).column("id") == ["image00002", "image00004"]
    [entry] = manifest["skipped"]
    return f"{entry['file']}: {entry['reason']}"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"pt3d_68": None}, "no field pt3d_68"),
        ({"pt3d_68": np.full((3, 68), np.nan)}, "NaN"),
        ({"pt3d_68": np.ones((3, 67))}, "expected numbers 3x68"),
        ({"pt3d_68": np.zeros((3, 68))}, "absurd landmarks"),
        ({"Pose_Para": np.array([[np.nan, 0, 0, 0, 0, 0, 1]])}, "Pose_Para holds NaN"),
        ({"Pose_Para": np.array([[1e6, 0, 0, 0, 0, 0, 1e-3]])}, "absurd pose"),
        ({"Pose_Para": np.array([[0, 0, 0, 0, 0, 0, -1e-3]])}, "absurd pose"),
        ({"Shape_Para": np.array(["text"])}, "Shape_Para"),
    ],
)
def test_bad_mats_are_listed_and_skipped(tmp_path, change, reason):
    assert reason in reason_of(one_bad(tmp_path, **change), tmp_path / "out")


def test_strict_stops_at_the_bad_face(tmp_path):
    with pytest.raises(SampleError, match="image00003"):
        convert("aflw2000_3d", one_bad(tmp_path, pt3d_68=None), tmp_path / "out", strict=True)


def test_uint8_expressions_and_yaw_beyond_90_are_accepted(tmp_path):
    pose = np.array([[0.1, 1.7, 0, 225, 225, -90, 1e-3]], np.float32)
    raw = one_bad(tmp_path, Exp_Para=np.zeros((29, 1), np.uint8), Pose_Para=pose)
    assert convert("aflw2000_3d", raw, tmp_path / "out")["count"] == 3
    assert prnbench.open_shards(tmp_path / "out")[1].yaw_deg == pytest.approx(97.4, abs=0.1)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda raw: truncate(raw / "image00003.jpg", 0.6), "truncated"),
        (lambda raw: (raw / "image00003.jpg").write_bytes(b""), "empty"),
        (lambda raw: (raw / "image00003.jpg").write_bytes(b"no image"), "not a readable image"),
        (lambda raw: (raw / "image00003.jpg").unlink(), "no image00003.jpg beside the .mat"),
        (lambda raw: (raw / "image00003.mat").unlink(), "no image00003.mat beside the image"),
        (lambda raw: (raw / "image00003.mat").write_bytes(b""), "empty"),
        (
            lambda raw: (raw / "image00003.mat").write_bytes(b"MATLAB 5.0 nonsense" * 50),
            "not a readable .mat",
        ),
    ],
)
def test_damaged_files_are_listed_and_skipped(tmp_path, damage, reason):
    aflw2000_3d.write(tmp_path / "raw", 3)
    damage(tmp_path / "raw")
    assert reason in reason_of(tmp_path / "raw", tmp_path / "out")


def truncate(path, share):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])


def test_matlab_73_files_are_named(tmp_path):
    import h5py

    raw = tmp_path / "raw"
    aflw2000_3d.write(raw, 3)
    with h5py.File(raw / "image00003.mat", "w", userblock_size=512) as file:
        file["pt3d_68"] = np.ones((68, 3))
    with (raw / "image00003.mat").open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    assert "v7.3" in reason_of(raw, tmp_path / "out")


def test_links_out_of_the_root_are_left_alone(tmp_path):
    raw = tmp_path / "raw"
    aflw2000_3d.write(raw, 3)
    shutil.move(raw / "image00003.jpg", tmp_path / "elsewhere.jpg")
    (raw / "image00003.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    assert "outside the root" in reason_of(raw, tmp_path / "out")


def test_a_linked_root_with_spaces_and_umlauts_works(tmp_path):
    real = tmp_path / "Gesichter für den Test"
    aflw2000_3d.write(real, 2)
    (tmp_path / "link").symlink_to(real)
    assert convert("aflw2000_3d", tmp_path / "link", tmp_path / "Aus gabe ö")["count"] == 2


@pytest.mark.parametrize("name", ["aflw2000_3d", "w300lp"])
def test_wrong_and_empty_roots_say_what_was_looked_for(tmp_path, name):
    with pytest.raises(InputError, match=r"no such folder; looked for .*\.jpg"):
        convert(name, tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "readme.txt").write_text("x")
    with pytest.raises(InputError, match=r"found 0 faces: looked for .* holds readme\.txt"):
        convert(name, tmp_path / "raw", tmp_path / "out")


def test_unknown_converter_suggests():
    with pytest.raises(UsageError, match=r"(?i)did you mean 'w300lp'"):
        load_converter("300wlp")
    assert {"aflw2000_3d", "w300lp"} <= set(converter_names())


def test_any_number_of_workers_and_a_second_call_give_the_same_bytes(tmp_path, monkeypatch):
    from prnbench.convert import pipeline

    monkeypatch.setattr(pipeline, "FACES_PER_SHARD", 3)
    aflw2000_3d.write(tmp_path / "raw", 8)
    for workers in (1, 2):
        convert("aflw2000_3d", tmp_path / "raw", tmp_path / f"out{workers}", workers=workers)
    assert folder_bytes(tmp_path / "out1") == folder_bytes(tmp_path / "out2")
    before = (tmp_path / "out1" / "shard-00001.h5").stat().st_mtime_ns
    convert("aflw2000_3d", tmp_path / "raw", tmp_path / "out1")
    assert (tmp_path / "out1" / "shard-00001.h5").stat().st_mtime_ns == before


def test_an_interrupted_conversion_is_finished_by_the_next_call(tmp_path, monkeypatch):
    from prnbench.convert import pipeline

    monkeypatch.setattr(pipeline, "FACES_PER_SHARD", 3)
    aflw2000_3d.write(tmp_path / "raw", 8)
    convert("aflw2000_3d", tmp_path / "raw", tmp_path / "whole", workers=1)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / "manifest.json").unlink()
    (tmp_path / "cut" / "shard-00001.h5").unlink()
    (tmp_path / "cut" / "shard-00002.h5").write_bytes(b"half a shard")
    (tmp_path / "cut" / ".shard-00001.h5.77.tmp").write_bytes(b"half a shard")
    convert("aflw2000_3d", tmp_path / "raw", tmp_path / "cut", workers=1)
    assert folder_bytes(tmp_path / "cut") == folder_bytes(tmp_path / "whole")


def test_a_full_disk_leaves_no_shard_behind(tmp_path):
    """A file-size limit stands for the full disk: the kernel refuses the write in the middle of a shard."""
    aflw2000_3d.write(tmp_path / "raw", 4)
    script = (
        "import resource, signal, sys; from pathlib import Path; from prnbench.convert.pipeline import convert\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "from prnbench.errors import OutputError\n"
        "try: convert('aflw2000_3d', Path(sys.argv[1]), Path(sys.argv[2]), workers=1)\n"
        "except OutputError as error: print(error)\n"
    )
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "raw"), str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "cannot be written" in done.stdout, done.stderr
    assert [path.name for path in out.iterdir()] == []
    assert convert("aflw2000_3d", tmp_path / "raw", out)["count"] == 4


def test_a_read_only_output_folder_is_told():
    """Root may write anywhere, so the process gives its rights up once everything is imported."""
    script = (
        "import os, sys; from pathlib import Path; from prnbench.convert.pipeline import convert\n"
        "from prnbench.errors import OutputError\n"
        "raw, folder = (Path(name) for name in sys.argv[1:])\n"
        "convert('aflw2000_3d', raw, folder / 'first', workers=1)\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "for out in (folder / 'locked', folder / 'locked' / 'new'):\n"
        "    try: convert('aflw2000_3d', raw, out, workers=1)\n"
        "    except OutputError as error: print(error)\n"
    )
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder = Path(name)
        folder.chmod(0o755)
        aflw2000_3d.write(folder / "raw", 2)
        (folder / "locked").mkdir(mode=0o555)
        command = [sys.executable, "-c", script, str(folder / "raw"), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        told = done.stdout.splitlines()
        assert len(told) == 2, done.stderr
        assert "locked: the output folder is read-only" in told[0]
        assert "new: cannot make the folder (Permission denied)" in told[1]
        assert list((folder / "locked").iterdir()) == []


def test_a_file_where_the_output_folder_should_be_is_told(tmp_path):
    aflw2000_3d.write(tmp_path / "raw", 2)
    (tmp_path / "out").write_text("mine")
    for out in (tmp_path / "out", tmp_path / "out" / "deeper"):
        with pytest.raises(OutputError, match="cannot make the folder"):
            convert("aflw2000_3d", tmp_path / "raw", out)
    assert (tmp_path / "out").read_text() == "mine"


def test_a_stem_that_occurs_twice_keeps_its_first_image(tmp_path):
    raw = tmp_path / "raw"
    aflw2000_3d.write(raw, 2)
    shutil.copy(raw / "image00002.jpg", raw / "image00002.jpeg")
    manifest = convert("aflw2000_3d", raw, tmp_path / "out")
    assert manifest["count"] == 2
    assert [entry["reason"] for entry in manifest["skipped"]] == ["duplicate of another image named image00002"]


def test_the_cache_follows_the_content(tmp_path):
    aflw2000_3d.write(tmp_path / "raw", 2)
    first = convert_cached("aflw2000_3d", tmp_path / "raw")
    assert convert_cached("aflw2000_3d", tmp_path / "raw") == first
    aflw2000_3d.write(tmp_path / "raw", 2, seed=1)
    assert convert_cached("aflw2000_3d", tmp_path / "raw") != first


def test_another_data_sets_folder_is_not_overwritten(tmp_path):
    aflw2000_3d.write(tmp_path / "a", 2)
    w300lp.write(tmp_path / "w")
    convert("aflw2000_3d", tmp_path / "a", tmp_path / "out")
    with pytest.raises(Exception, match="holds the data set 'aflw2000_3d'"):
        convert("w300lp", tmp_path / "w", tmp_path / "out")


def test_real_samples_convert(tmp_path, real_samples):
    assert convert("aflw2000_3d", real_samples / "AFLW2000-3D", tmp_path / "a")["count"] == 6
    for sample in prnbench.open_shards(tmp_path / "a"):
        left, top, right, bottom = sample.box_px
        assert 100 < right - left < 250
        assert 100 < bottom - top < 250
        assert sample.image_rgb().shape == (450, 450, 3)
    assert convert("w300lp", real_samples / "300W_LP", tmp_path / "w")["count"] == 1
    assert json.loads((tmp_path / "w" / "manifest.json").read_text())["sources"] == {"IBUG": 1}
