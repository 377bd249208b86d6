"""Shards: what is written comes back, and nothing damaged, newer or half-written is taken for whole."""

import json
import pickle

import h5py
import hdf5plugin  # noqa: F401  registers the filter for plain h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prnbench
from prnbench.data import shards
from prnbench.data.codec import decode_map, difference, quantisation_step, quantise_map
from prnbench.errors import OutputError, SampleError, SchemaError, ShardError
from prnbench.sample import Sample, Scan


def smooth_map(rng, low=0.0, high=450.0, resolution=256):
    """A position map as smooth as a face: random low frequencies."""
    grid = np.linspace(0, np.pi, resolution)
    waves = sum(
        rng.normal() * np.cos(a * grid)[:, None, None] * np.cos(b * grid[None, :, None] + rng.uniform(0, 6, 3))
        for a in range(4)
        for b in range(4)
    )
    return (low + (high - low) * (waves - waves.min()) / np.ptp(waves)).astype(np.float32)


def faces(count=5, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Sample(
            id=f"Gesicht ä{i}",
            jpeg=bytes(rng.integers(0, 256, 100 + i, np.uint8)),
            size_px=(450, 400 + i),
            landmarks_px=rng.uniform(100, 300, (68, 3)).astype(np.float32),
            position_map_px=smooth_map(rng),
            pose_deg=rng.uniform(-90, 90, 3).astype(np.float32),
            yaw_aflw_deg=12.5 if i % 2 else None,
            shape_params=rng.normal(0, 1e5, 199).astype(np.float32),
            expression_params=rng.normal(0, 1, 29).astype(np.float32),
            pose_params=rng.normal(size=7).astype(np.float32),
            visible=rng.random(68) < 0.5 if i != 1 else None,
            source="AFW",
            split="train" if i else "val",
            group=f"photo{i // 2}",
        )
        for i in range(count)
    ]


@pytest.fixture
def folder(tmp_path):
    """Two shards of five faces with their manifest."""
    written = faces()
    entries = []
    for index, part in enumerate((written[:3], written[3:])):
        path = tmp_path / f"shard-{index:05d}.h5"
        shards.write_shard(path, part, {"job": "x"})
        digest = shards.sha256_of(path)
        entries.append({"file": path.name, "count": len(part), "bytes": path.stat().st_size, "sha256": digest})
    shards.write_manifest(tmp_path, {"dataset": "aflw2000_3d", "store": "maps", "shards": entries, "count": 5})
    return tmp_path


def test_every_field_comes_back(folder):
    opened = prnbench.open_shards(folder)
    assert len(opened) == 5
    for written, read in zip(faces(), opened, strict=True):
        for name in ("id", "jpeg", "size_px", "yaw_aflw_deg", "source", "split", "group"):
            assert getattr(read, name) == getattr(written, name), name
        for name in (
            "landmarks_px",
            "pose_deg",
            "shape_params",
            "expression_params",
            "pose_params",
            "visible",
        ):
            np.testing.assert_array_equal(getattr(read, name), getattr(written, name), err_msg=name)
        assert read.position_map_px.dtype == np.float32
        crop_px = 128 * quantisation_step(written.box_px)
        assert np.abs(read.position_map_px - written.position_map_px).max() < 0.004 * crop_px


def test_a_plain_hdf5_reader_decodes_the_maps_by_the_stored_formula(folder):
    with h5py.File(folder / "shard-00000.h5") as file:
        x = file["position_map"][1]
        q = x.cumsum(1, dtype="uint16").cumsum(2, dtype="uint16")
        read = (file["map_offset"][1][:, None, None] + file["map_step"][1] * q).transpose(1, 2, 0)
    np.testing.assert_allclose(read, prnbench.open_shards(folder)[1].position_map_px, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(-100, 0), st.floats(200, 480))
def test_codec_error_is_at_most_half_a_step(seed, low, high):
    original = smooth_map(np.random.default_rng(seed), low, high, 32)
    step = 1 / 100
    maps = quantise_map(original, step)
    stored = difference(maps.steps_N3RR)[0]
    assert np.abs(decode_map(stored, maps.offset_N3[0], step) - original).max() <= step / 2 + 1e-4


def test_codec_refuses_overflow_and_nan():
    wide = np.zeros((8, 8, 3), np.float32)
    wide[0, 0] = 1000
    with pytest.raises(SampleError, match="65535 fit"):
        quantise_map(wide, 1 / 100)
    wide[0, 0] = np.nan
    with pytest.raises(SampleError, match="not finite"):
        quantise_map(wide, 1.0)


def test_slices_splits_batches_and_pickles_agree(folder):
    opened = prnbench.open_shards(folder)
    assert [s.id for s in opened.split("val")] == [opened[0].id]
    assert [s.id for s in opened[1:4]] == [s.id for s in opened.__getitems__([1, 2, 3])]
    assert opened[-1].id == opened[4].id
    assert [s.id for s in pickle.loads(pickle.dumps(opened))] == opened.column("id")


def test_scans_of_different_sizes_come_back(tmp_path):
    scans = [Scan(np.full((n, 3), n, np.float32), np.eye(3, 4, dtype=np.float32)) for n in (7, 11)]
    shards.write_shard(tmp_path / "shard-00000.h5", [Sample(id=str(i), scan=s) for i, s in enumerate(scans)], {})
    path = tmp_path / "shard-00000.h5"
    entry = {"file": path.name, "count": 2, "bytes": path.stat().st_size, "sha256": shards.sha256_of(path)}
    shards.write_manifest(tmp_path, {"dataset": "florence", "store": "landmarks", "shards": [entry], "count": 2})
    read = prnbench.open_shards(tmp_path)
    assert [s.scan.points_mm.shape for s in read] == [(7, 3), (11, 3)]
    assert read[0].position_map_px is None
    assert read[0].landmarks_px is None


def test_truncated_edited_and_missing_shards_are_refused(folder):
    path = folder / "shard-00001.h5"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(ShardError, match=r"shard-00001\.h5: truncated"):
        prnbench.open_shards(folder)[4]
    path.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    with pytest.raises(ShardError, match="sha256"):
        prnbench.open_shards(folder)[4]
    assert len(shards.verify(folder)) == 1
    path.unlink()
    with pytest.raises(ShardError, match="missing"):
        prnbench.open_shards(folder)[4]
    assert prnbench.open_shards(folder)[0].id == faces()[0].id


def test_newer_schema_and_unfinished_folders_are_refused(folder, tmp_path_factory):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 99}))
    with pytest.raises(SchemaError, match="Update prnbench"):
        prnbench.open_shards(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(ShardError, match="unfinished"):
        prnbench.open_shards(folder)
    with pytest.raises(ShardError, match="no shards here"):
        prnbench.open_shards(tmp_path_factory.mktemp("empty"))


def test_a_manifest_cannot_point_outside_its_folder(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][0]["file"] = "../../../etc/passwd"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match="missing") as caught:
        prnbench.open_shards(folder)[0]
    assert str(folder / "passwd") in str(caught.value)


def test_same_faces_same_bytes(tmp_path):
    for name in ("a", "b"):
        shards.write_shard(tmp_path / name, faces(), {"job": "x"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards, "_write_scans", full)
    with pytest.raises(OutputError, match="No space left"):
        shards.write_shard(tmp_path / "shard-00000.h5", faces(1), {})
    assert list(tmp_path.iterdir()) == []
