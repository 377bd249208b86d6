"""TensorFlow V2 checkpoints, written here byte by byte: index table, protocol buffers, checksums, PRN's 545 tensors."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prnbench.errors import WeightsError
from prnbench.models import load_model, prn
from prnbench.training import tf_checkpoint
from prnbench.training.tf_checkpoint import crc32c, import_tf, masked, read_index, read_variable, tf_name

# --- a writer of the format, independent of the reader


def slow_crc32c(data):
    """Bit by bit, from the definition."""
    crc = 0xFFFFFFFF
    for octet in data:
        crc ^= octet
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def message(*fields):
    """Protocol buffer of (number, value): int -> varint, bytes -> nested, ("fixed32", int)."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        elif isinstance(value, bytes):
            out += varint(number << 3 | 2) + varint(len(value)) + value
        else:
            out += varint(number << 3 | 5) + struct.pack("<I", value[1])
    return out


def block(entries, restart_every=16):
    """Block contents of sorted (key, value), keys sharing prefixes between restarts, with type and checksum."""
    out, restarts, last = b"", [], b""
    for i, (key, value) in enumerate(entries):
        shared = 0
        if i % restart_every == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    out += struct.pack(f"<{len(restarts)}I", *restarts) + struct.pack("<I", len(restarts))
    return out + b"\0" + struct.pack("<I", masked(crc32c(out + b"\0")))


def write_checkpoint(prefix, tensors, entries_per_block=40):
    """Write ``<prefix>.index`` and ``<prefix>.data-00000-of-00001``."""
    entries, data = [(b"", message((1, 1), (3, message((1, 1)))))], b""
    for name in sorted(tensors):
        raw = np.asarray(tensors[name], "<f4").tobytes()
        shape = message(*[(2, message((1, size))) for size in np.shape(tensors[name])])
        place = [(4, len(data))] if data else []
        entry = message((1, 1), (2, shape), *place, (5, len(raw)), (6, ("fixed32", masked(crc32c(raw)))))
        entries.append((name.encode(), entry))
        data += raw
    table, handles = b"", []
    for start in range(0, len(entries), entries_per_block):
        part = entries[start : start + entries_per_block]
        body = block(part)
        handles.append((part[-1][0], varint(len(table)) + varint(len(body) - 5)))
        table += body
    metaindex, index = block([]), block(handles, restart_every=1)
    footer = varint(len(table)) + varint(len(metaindex) - 5)
    footer += varint(len(table) + len(metaindex)) + varint(len(index) - 5)
    table += metaindex + index + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    prefix.with_name(f"{prefix.name}.index").write_bytes(table)
    prefix.with_name(f"{prefix.name}.data-00000-of-00001").write_bytes(data)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Five variables of odd names and shapes."""
    rng = np.random.default_rng(0)
    shapes = {"a/weights": (4, 4, 3, 2), "a/weights/Adam": (4, 4, 3, 2), "a/beta": (2,), "ab": (), "b/é": (1, 300)}
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    prefix = tmp_path_factory.mktemp("tiny") / "model"
    write_checkpoint(prefix, tensors, entries_per_block=2)
    return prefix, tensors


# --- the format


def test_known_checksums():
    """RFC 3720, appendix B.4, and the check value of the CRC catalogue."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"") == 0


@given(st.binary(max_size=600))
@settings(max_examples=60, deadline=None)
def test_checksum_equals_its_definition(data):
    assert crc32c(data) == slow_crc32c(data)


@pytest.mark.parametrize("size", [4097, 5000, 65_537])
def test_checksum_in_lanes_equals_its_definition(size):
    data = np.random.default_rng(size).bytes(size)
    assert crc32c(data) == slow_crc32c(data)


def test_tiny_checkpoint_reads_back(tiny):
    prefix, tensors = tiny
    variables, shards = read_index(prefix)
    assert set(variables) == set(tensors) and shards == 1
    for name, values in tensors.items():
        np.testing.assert_array_equal(read_variable(prefix, name, variables[name], shards), values)


@pytest.mark.parametrize("part", ["block", "magic", "cut", "empty"])
def test_damaged_index_is_refused(tiny, tmp_path, part):
    raw = bytearray((tiny[0].with_name("model.index")).read_bytes())
    if part == "block":
        raw[10] ^= 1
    if part == "magic":
        raw[-1] ^= 1
    if part == "cut":
        raw = raw[: len(raw) // 2]
    if part == "empty":
        raw = bytearray()
    (tmp_path / "model.index").write_bytes(raw)
    with pytest.raises(WeightsError, match="damaged checkpoint index"):
        read_index(tmp_path / "model")


def test_damaged_data_is_refused(tiny, tmp_path):
    prefix, _ = tiny
    variables, _ = read_index(prefix)
    data = bytearray(prefix.with_name("model.data-00000-of-00001").read_bytes())
    data[-5] ^= 1
    (tmp_path / "model.data-00000-of-00001").write_bytes(data)
    with pytest.raises(WeightsError, match="b/é is truncated or damaged"):
        read_variable(tmp_path / "model", "b/é", variables["b/é"], 1)
    with pytest.raises(WeightsError, match="cannot read ab"):
        read_variable(tmp_path / "elsewhere", "ab", variables["ab"], 1)


# --- PRN


def original_variables(network):
    """The released file's 545 tensors: the network's 245, two Adam slots for each of 149 trained, and two powers."""
    variables = {}
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        values = tensor.numpy()
        variables[tf_name(name)] = values.transpose(2, 3, 1, 0) if values.ndim == 4 else values
        if "running" not in name:
            variables[f"{tf_name(name)}/Adam"] = variables[f"{tf_name(name)}/Adam_1"] = np.zeros_like(
                variables[tf_name(name)]
            )
    return variables | {"beta1_power": np.float32(0.9), "beta2_power": np.float32(0.999)}


@pytest.fixture(scope="module")
def narrow():
    """A PRN of two channels with statistics unlike the defaults, and the same checkpoint code paths."""
    network = prn.PRN(seed=11, width=2).eval()
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if "norm" in name and tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return network


def test_names_are_those_of_the_release(narrow):
    """Names as TensorFlow's slim layers number them, in the order in which the published code makes them."""
    names = set(original_variables(narrow))
    assert len(names) == 545
    network_names = {name for name in names if not name.endswith(("/Adam", "/Adam_1", "_power"))}
    assert len(network_names) == 245
    expected = {
        "resfcn256/Conv/weights": (4, 4, 3, 16),
        "resfcn256/Conv/BatchNorm/moving_variance": (16,),
        "resfcn256/resBlock/shortcut/weights": (1, 1, 16, 32),
        "resfcn256/resBlock/Conv/weights": (1, 1, 16, 16),
        "resfcn256/resBlock/Conv_1/weights": (4, 4, 16, 16),
        "resfcn256/resBlock/Conv_2/weights": (1, 1, 16, 32),
        "resfcn256/resBlock/BatchNorm/gamma": (32,),
        "resfcn256/resBlock_9/Conv_1/BatchNorm/beta": (256,),
        "resfcn256/Conv2d_transpose/weights": (4, 4, 512, 512),
        "resfcn256/Conv2d_transpose_1/weights": (4, 4, 256, 512),
        "resfcn256/Conv2d_transpose_13/BatchNorm/moving_mean": (16,),
        "resfcn256/Conv2d_transpose_16/weights": (4, 4, 3, 3),
    }
    shapes = {name: values.shape for name, values in original_variables(prn.PRN()).items()}
    assert {name: shapes[name] for name in expected} == expected
    assert "resfcn256/resBlock_1/shortcut/weights" not in names
    assert "resfcn256/resBlock/Conv_2/BatchNorm/beta" not in names


def test_import_gives_the_same_network(narrow, tmp_path, monkeypatch):
    monkeypatch.setattr(prn, "network", lambda: prn.PRN(width=2))
    write_checkpoint(tmp_path / "weights", original_variables(narrow))
    for given_path in ("weights", "weights.index", "weights.data-00000-of-00001"):
        out = import_tf(tmp_path / given_path, tmp_path / "prn.safetensors")
    predictor = load_model(out, resolution=64)
    assert predictor.card.trained and "300W-LP" in predictor.card.trained_on
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(predictor.forward(image), narrow(image), atol=1e-5, rtol=0)
    with pytest.raises(WeightsError, match="BFM"):
        predictor.chart  # noqa: B018 -- PRNet's chart is BFM's: never that of the built-in head


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("resfcn256/Conv/weights"), "1 missing"),
        (lambda v: v.update({"resfcn256/other": np.zeros(3)}), "1 unknown"),
        (lambda v: v.update({"unknown/Adam": np.zeros(3)}), "unknown/Adam"),
        (lambda v: v.update({"resfcn256/Conv/weights": np.zeros((4, 4, 3, 5))}), "expected"),
    ],
)
def test_other_variables_are_refused(narrow, tmp_path, monkeypatch, change, message):
    monkeypatch.setattr(prn, "network", lambda: prn.PRN(width=2))
    variables = original_variables(narrow)
    change(variables)
    write_checkpoint(tmp_path / "weights", variables)
    with pytest.raises(WeightsError, match=message):
        import_tf(tmp_path / "weights", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"no \.index file"):
        import_tf(tmp_path / "none", tmp_path / "out.safetensors")


def test_full_size_round_trip(tmp_path):
    """All 13,365,508 numbers, back bit by bit."""
    network = prn.PRN(seed=5)
    variables = {n: v for n, v in original_variables(network).items() if not n.endswith(("/Adam", "/Adam_1"))}
    write_checkpoint(tmp_path / "full", variables)
    out = import_tf(tmp_path / "full", tmp_path / "prn.safetensors")
    stored = tf_checkpoint._weights.read_weights(out).tensors
    assert sum(t.numel() for t in stored.values()) == 13_365_508
    assert all(torch.equal(stored[name], t) for name, t in network.state_dict().items() if name in stored)
