"""Weights of the original TensorFlow PRNet without TensorFlow: V2 checkpoints read with NumPy alone.

A V2 checkpoint is two files. ``<prefix>.index`` is a LevelDB-style table (sorted keys in blocks, each key sharing a
prefix with the one before)::

    data block*  metaindex block  index block  footer: two block handles, padding to 40 bytes, magic
    block  = entry*  restart (uint32)*  restart count (uint32)  type (0: not compressed)  masked CRC-32C (uint32)
    entry  = shared key bytes, new key bytes, value bytes (varints), new key part, value

Key "" holds the BundleHeaderProto, every other key is a variable's name and holds its BundleEntryProto (type, shape,
place, masked CRC-32C). ``<prefix>.data-00000-of-00001`` is the values end to end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from prnbench.errors import WeightsError
from prnbench.models import _weights

MAGIC = 0xDB4775248B80FB57
FLOAT32, LITTLE_ENDIAN = 1, 0
SCOPE = "resfcn256/"
SLOTS = ("/Adam", "/Adam_1", "/Momentum", "/RMSProp", "/RMSProp_1", "/ExponentialMovingAverage")
COUNTERS = ("beta1_power", "beta2_power", "global_step")
REMEDY = "give the prefix of PRNet's released checkpoint (256_256_resfcn256_weight) with both of its files, undamaged"

Fields = dict[int, list[int | bytes]]


@dataclass(frozen=True, slots=True)
class Variable:
    """Where a variable lies: type (1 is float32), shape, offset and size in bytes, masked CRC-32C, data file."""

    dtype: int
    shape: tuple[int, ...]
    offset: int
    size: int
    checksum: int
    shard: int


def import_tf(checkpoint: Path, out: Path) -> Path:
    """Turn the released PRNet checkpoint into a safetensors file that ``--model prn --weights`` takes.

    Parameters
    ----------
    checkpoint
        Prefix of the checkpoint, or one of its files.
    out
        The file to write, float32.

    Raises
    ------
    WeightsError
        The files are damaged, or hold other variables than PRN's 245: the message names the first ones.
    """
    from prnbench.models.prn import network

    prefix = _prefix(checkpoint)
    variables, shards = read_index(prefix)
    wanted = {name: tf_name(name) for name in network().state_dict() if not name.endswith("num_batches_tracked")}
    _refuse_others(set(variables), set(wanted.values()), prefix)
    tensors = {}
    for name, source in wanted.items():
        values = read_variable(prefix, source, variables[source], shards)
        tensors[name] = torch.tensor(np.ascontiguousarray(values.transpose(3, 2, 0, 1) if values.ndim == 4 else values))
    metadata = {
        "model": "prn",
        "trained_on": "300W-LP by the authors of PRNet (imported from their TensorFlow release)",
        "face_model_name": "BFM with PRNet's own chart",
        "licence": "PRNet's",
    }
    weights = _weights.Weights(tensors, metadata)
    _weights.assign_weights(network(), weights, prefix)
    _weights.save_weights(out, weights, torch.float32)
    return out


def tf_name(name: str) -> str:
    """The original's name of a tensor of ours: ``encoder.0.reduce.norm.bias`` is ``resBlock/Conv/BatchNorm/beta``."""
    *path, leaf = name.split(".")
    suffix = {
        "weight": "gamma" if path[-1] == "norm" else "weights",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    }[leaf]
    norm = "/BatchNorm" if path[-1] == "norm" else ""
    return f"{SCOPE}{_tf_layer(path)}{norm}/{suffix}"


def _tf_layer(path: list[str]) -> str:
    match path:
        case ["stem", _]:
            return "Conv"
        case ["encoder", block, *inner]:
            convolution = {"reduce": "/Conv", "spatial": "/Conv_1", "expand": "/Conv_2", "shortcut": "/shortcut"}
            return _numbered("resBlock", int(block)) + convolution.get(inner[0], "")
        case ["decoder", layer, _]:
            return _numbered("Conv2d_transpose", int(layer))
        case _:
            return "Conv2d_transpose_16"


def _numbered(name: str, number: int) -> str:
    return f"{name}_{number}" if number else name


def _refuse_others(found: set[str], wanted: set[str], prefix: Path) -> None:
    ignored = {name for name in found if name in COUNTERS or _is_slot(name, wanted)}
    missing, unknown = sorted(wanted - found), sorted(found - wanted - ignored)
    if not missing and not unknown:
        return
    parts = [
        f"{len(names)} {what} ({', '.join(names[:2])} ...)"
        for what, names in (("missing", missing), ("unknown", unknown))
        if names
    ]
    raise WeightsError(f"not the variables of PRN: {', '.join(parts)}", file=prefix, remedy=REMEDY)


def _is_slot(name: str, wanted: set[str]) -> bool:
    return any(name.endswith(slot) and name.removesuffix(slot) in wanted for slot in SLOTS)


# -- the files


def _prefix(path: Path) -> Path:
    text = str(path)
    prefix = Path(text.removesuffix(".index")) if text.endswith(".index") else Path(text.partition(".data-")[0])
    if not Path(f"{prefix}.index").is_file():
        raise WeightsError("no TensorFlow V2 checkpoint here (no .index file)", file=prefix, remedy=REMEDY)
    return prefix


def read_index(prefix: Path) -> tuple[dict[str, Variable], int]:
    """Variables of a checkpoint by name, and the number of its data files."""
    path = Path(f"{prefix}.index")
    raw = path.read_bytes()
    try:
        if len(raw) < 48 or int.from_bytes(raw[-8:], "little") != MAGIC:
            raise ValueError("not a checkpoint index (wrong magic number)")
        entries = dict(_table(raw))
        header = _fields(entries.pop(b""))
        if _number(header, 2) != LITTLE_ENDIAN:
            raise ValueError("big-endian values")
        variables = {name.decode(): _variable(_fields(value)) for name, value in entries.items()}
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise WeightsError(f"damaged checkpoint index: {error}", file=path, remedy=REMEDY) from None
    return variables, _number(header, 1)


def read_variable(prefix: Path, name: str, variable: Variable, shards: int) -> NDArray[np.float32]:
    """Values of one variable, its checksum checked."""
    path = Path(f"{prefix}.data-{variable.shard:05d}-of-{shards:05d}")
    if variable.dtype != FLOAT32 or variable.size != 4 * int(np.prod(variable.shape)):
        raise WeightsError(f"{name} is not float32 of shape {variable.shape}", file=path, remedy=REMEDY)
    try:
        with path.open("rb") as file:
            file.seek(variable.offset)
            raw = file.read(variable.size)
    except OSError as error:
        raise WeightsError(f"cannot read {name} ({error.strerror})", file=path, remedy=REMEDY) from None
    if len(raw) != variable.size or masked(crc32c(raw)) != variable.checksum:
        raise WeightsError(f"{name} is truncated or damaged (wrong checksum)", file=path, remedy=REMEDY)
    return np.frombuffer(raw, "<f4").reshape(variable.shape)


def _table(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of every entry of the table's data blocks."""
    _, place = _handle(raw, len(raw) - 48)
    (index_offset, index_size), _ = _handle(raw, place)
    for _, handle in _block(raw, index_offset, index_size):
        (offset, size), _ = _handle(handle, 0)
        yield from _block(raw, offset, size)


def _handle(raw: bytes, place: int) -> tuple[tuple[int, int], int]:
    offset, place = _varint(raw, place)
    size, place = _varint(raw, place)
    return (offset, size), place


def _block(raw: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    body, kind = raw[offset : offset + size], raw[offset + size]
    if masked(crc32c(raw[offset : offset + size + 1])) != int.from_bytes(
        raw[offset + size + 1 : offset + size + 5], "little"
    ):
        raise ValueError("wrong checksum of a block")
    if kind != 0:
        raise ValueError(f"compressed block (type {kind})")
    end = size - 4 - 4 * int.from_bytes(body[-4:], "little")
    key, place = b"", 0
    while place < end:
        shared, place = _varint(body, place)
        fresh, place = _varint(body, place)
        length, place = _varint(body, place)
        key = key[:shared] + body[place : place + fresh]
        place += fresh + length
        yield key, body[place - length : place]


def _varint(raw: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        octet = raw[place]
        value |= (octet & 127) << shift
        place, shift = place + 1, shift + 7
        if octet < 128:
            return value, place


def _fields(raw: bytes) -> Fields:
    """Fields of a protocol-buffer message: number -> values (integers, or bytes of nested messages)."""
    fields: Fields = {}
    place = 0
    while place < len(raw):
        tag, place = _varint(raw, place)
        value: int | bytes
        match tag & 7:
            case 0:
                value, place = _varint(raw, place)
            case 2:
                length, place = _varint(raw, place)
                value, place = raw[place : place + length], place + length
            case 5:
                value, place = int.from_bytes(raw[place : place + 4], "little"), place + 4
            case 1:
                value, place = int.from_bytes(raw[place : place + 8], "little"), place + 8
            case other:
                raise ValueError(f"unknown wire type {other}")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _number(fields: Fields, field: int) -> int:
    value = fields.get(field, [0])[-1]
    if not isinstance(value, int):
        raise ValueError(f"field {field} is not a number")
    return value


def _variable(fields: Fields) -> Variable:
    """BundleEntryProto: dtype 1, shape 2, shard 3, offset 4, size 5, crc32c 6, slices 7."""
    if 7 in fields:
        raise ValueError("a partitioned variable")
    dimensions = [] if 2 not in fields else _fields(bytes(fields[2][-1])).get(2, [])
    shape = tuple(_number(_fields(bytes(dimension)), 1) for dimension in dimensions)
    dtype, shard, offset, size, checksum = (_number(fields, field) for field in (1, 3, 4, 5, 6))
    return Variable(dtype, shape, offset, size, checksum, shard)


# -- CRC-32C (Castagnoli), many lanes at a time


def masked(crc: int) -> int:
    """TensorFlow's and LevelDB's stored form of a checksum: rotated right by 15, plus a constant."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C of bytes: octet by octet if they are few, else in parallel lanes."""
    if len(data) > 4096:
        return _crc32c_in_lanes(data)
    table, crc = _octet_table().tolist(), 0xFFFFFFFF
    for octet in data:
        crc = table[(crc ^ octet) & 255] ^ crc >> 8
    return int(crc ^ 0xFFFFFFFF)


def _crc32c_in_lanes(data: bytes) -> int:
    """Cut the data, zeros put before it, into lanes whose remainders are computed side by side.

    Two neighbours join by advancing the first over the length of the second. Zeros at the front do not change a
    remainder that starts at 0; the start value 0xFFFFFFFF is advanced over the whole and added.
    """
    count = len(data)
    lanes = 1 << (count.bit_length() // 2)
    length = -(-count // lanes)
    padded = np.zeros(lanes * length, np.uint8)
    padded[lanes * length - count :] = np.frombuffer(data, np.uint8)
    crc = np.zeros(lanes, np.uint32)
    for column in np.ascontiguousarray(padded.reshape(lanes, length).T):
        crc = _octet_table()[(crc ^ column) & 255] ^ (crc >> 8)
    while len(crc) > 1:
        crc = _advanced(crc[0::2], length) ^ crc[1::2]
        length *= 2
    start = _advanced(np.array([0xFFFFFFFF], np.uint32), count)
    return int(start[0] ^ crc[0]) ^ 0xFFFFFFFF


@cache
def _octet_table() -> NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(0x82F63B78), table >> 1)
    return table


def _advanced(crc: NDArray[np.uint32], octets: int) -> NDArray[np.uint32]:
    """Remainders after ``octets`` more zero bytes: a linear map over GF(2), by repeated squaring."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    operator = _octet_table()[bits & 255] ^ (bits >> 8)
    while octets:
        if octets & 1:
            crc = _applied(operator, crc)
        operator = _applied(operator, operator)
        octets >>= 1
    return crc


def _applied(operator: NDArray[np.uint32], crc: NDArray[np.uint32]) -> NDArray[np.uint32]:
    out = np.zeros_like(crc)
    for bit in range(32):
        out ^= np.where(crc >> bit & 1, operator[bit], 0).astype(np.uint32)
    return out
