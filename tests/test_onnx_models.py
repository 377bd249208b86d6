"""ONNX files as models: what our export writes, others' layouts, evaluated by name, and clear errors."""

import numpy as np
import pytest
import torch

from prnbench import evaluation
from prnbench.convert.pipeline import convert
from prnbench.errors import UsageError, WeightsError
from prnbench.facemodel import load_face_model
from prnbench.geometry import prn_crop
from prnbench.models import _weights, load_model, predict, prn
from prnbench.table import PerSampleTable
from prnbench.training.export import export
from tests.fake import aflw2000_3d

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
SIDE = 64


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small PRN whose batch norm saw pictures, saved with the built-in head's fingerprint."""
    network = prn.PRN(width=4)
    with torch.no_grad():
        network(torch.rand(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)))
    state = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    about = {"model": "prn", "trained_on": "noise", "face_model": load_face_model().fingerprint, "licence": "MIT"}
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    _weights.save_weights(path, _weights.Weights(state, about), torch.float32)
    return path


@pytest.fixture(scope="module")
def exported(weights, tmp_path_factory):
    pytest.importorskip("onnxscript")
    return export(weights, tmp_path_factory.mktemp("onnx") / "small.onnx")


def identity(path, shape, output=None, **metadata):
    """An ONNX file whose output is its input: the map is the picture."""
    value = onnx.helper.make_tensor_value_info
    kind = onnx.TensorProto.FLOAT
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [value("x", kind, shape)], [value("y", kind, output or shape)])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    for key, text in metadata.items():
        model.metadata_props.add(key=key, value=text)
    onnx.save(model, path)
    return path


def test_our_export_is_the_network_it_came_from(weights, exported):
    first, second = load_model(weights, runtime="eager"), load_model(exported)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (300, 320, 3), np.uint8) for _ in range(3)]
    boxes = [np.array([60, 70, 240, 260]) + rng.uniform(-20, 20, 4) for _ in images]
    for a, b in zip(predict(first, images, boxes), predict(second, images, boxes), strict=True):
        np.testing.assert_allclose(a.landmarks_px, b.landmarks_px, atol=0.02)
        np.testing.assert_allclose(a.position_map_px, b.position_map_px, atol=0.02)
    card = second.card
    assert card.trained_on == "noise" and card.licence == "MIT" and card.weights_digest and card.name == "small"
    assert card.parameters > 0 and card.runtime == "onnxruntime cpu"


@pytest.mark.parametrize("shape", [["n", 3, SIDE, SIDE], [1, 3, SIDE, SIDE], ["n", SIDE, SIDE, 3], [1, SIDE, SIDE, 3]])
def test_either_layout_and_any_batch(tmp_path, shape):
    model = load_model(identity(tmp_path / "theirs.onnx", shape, face_model=load_face_model().fingerprint))
    image = np.zeros((200, 200, 3), np.uint8)
    image[:, :, 0], image[:, :, 1], image[:, :, 2] = 51, 102, 204
    box = np.array([50.0, 50, 150, 150])
    for said in predict(model, [image, image], [box, box]):
        crop = prn_crop(box, factor=prn.CROP_FACTOR, resolution=SIDE)
        in_crop = np.array([51, 102, 204]) / 255 * 281.6 * (SIDE - 1) / 255
        expected = (in_crop - [crop[0, 2], crop[1, 2], 0]) / crop[0, 0]
        np.testing.assert_allclose(said.position_map_px[32, 32], expected, rtol=1e-5)
        np.testing.assert_allclose(said.landmarks_px, np.tile(expected, (68, 1)), rtol=1e-5)


def test_a_map_of_an_unknown_chart_asks_for_the_face_model(tmp_path):
    model = load_model(identity(tmp_path / "theirs.onnx", ["n", 3, SIDE, SIDE]))
    with pytest.raises(WeightsError, match="--face-model"):
        predict(model, [np.zeros((99, 99, 3), np.uint8)], [np.array([9.0, 9, 90, 90])])


def test_what_is_no_such_network_is_told(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"not onnx")
    for path, words in (
        (tmp_path / "absent.onnx", "no such ONNX file"),
        (tmp_path / "broken.onnx", "not a readable ONNX file"),
        (identity(tmp_path / "grey.onnx", ["n", 1, SIDE, SIDE]), "its input and output are"),
        (identity(tmp_path / "free.onnx", ["n", 3, "h", "w"]), "its input and output are"),
        (identity(tmp_path / "flat.onnx", ["n", 3, 7]), "its input and output are"),
    ):
        with pytest.raises(WeightsError, match=words) as error:
            load_model(path)
        assert error.value.file == str(path)
    with pytest.raises(UsageError, match="holds its weights itself"):
        load_model(identity(tmp_path / "x.onnx", ["n", 3, SIDE, SIDE]), weights="y.safetensors")


def test_files_are_evaluated_by_name(weights, exported, tmp_path):
    aflw2000_3d.write(tmp_path / "raw", 4)
    convert("aflw2000_3d", tmp_path / "raw", tmp_path / "shards", workers=1)
    copied = tmp_path / "as_weights.safetensors"
    copied.write_bytes(weights.read_bytes())
    request = evaluation.Request(
        models=(str(exported), str(copied)),
        datasets=("aflw2000_3d",),
        shards=tmp_path / "shards",
        timing=False,
        pictures=False,
    )
    evaluation.run(request, tmp_path / "out")
    rows = PerSampleTable.read(tmp_path / "out").rows
    by_model = {name: part["nme_2d_68-v1"].to_numpy() for name, part in rows.groupby("model")}
    assert set(by_model) == {"small", "as_weights"}
    np.testing.assert_allclose(by_model["small"], by_model["as_weights"], atol=0.05)
