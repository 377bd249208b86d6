"""PRN lite: PRN's layers, fewer channels, half the resolution; trained, loaded and exported like PRN."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prnbench.facemodel import load_face_model
from prnbench.models import _runtime, _weights, load_model, predict, prn, prn_lite
from prnbench.training.export import export
from tests.small_runs import first_and_last_loss, overfits
from tests.test_runtimes import tamed


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "lite.safetensors"
    state = {k: v for k, v in tamed(prn_lite.WIDTH).state_dict().items() if not k.endswith("num_batches_tracked")}
    about = {"model": "prn_lite", "face_model": load_face_model().fingerprint}
    _weights.save_weights(path, _weights.Weights(state, about), torch.float32)
    return path


def test_it_does_a_27th_of_the_work(monkeypatch):
    monkeypatch.setattr(_weights, "shipped_weights", lambda model: None)
    card = load_model("prn_lite", runtime="eager").card
    assert card.name == "prn_lite" and not card.trained
    assert card.macs * 27 < prn.MACS_256 < card.macs * 28
    assert card.parameters < 0.26 * prn.PARAMETERS


def test_weights_name_their_model_and_batch_equals_single(weights_file):
    predictor = load_model(weights_file, runtime="eager")
    assert predictor.card.name == "prn_lite" and predictor.resolution == 96
    rng = np.random.default_rng(0)
    images, boxes = rng.integers(0, 256, (3, 150, 150, 3), dtype=np.uint8), [(30, 30, 110, 120)] * 3
    together = predict(predictor, list(images), boxes)
    for image, box, expected in zip(images, boxes, together, strict=True):
        alone = predict(predictor, [image], [box])[0]
        np.testing.assert_allclose(alone.position_map_px, expected.position_map_px, atol=1e-3)
    assert np.ptp(together[0].position_map_px) > 1


def test_onnx_export_equals_the_network(weights_file, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out = export(weights_file, tmp_path / "lite.onnx")
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    image = _runtime.check_image(96)
    with torch.inference_mode():
        expected = prn_lite.network_of(_weights.read_weights(weights_file), weights_file)(image)
    np.testing.assert_allclose(session.run(["map"], {"image": image.numpy()})[0], expected, atol=1e-5)


def test_loss_falls(tmp_path):
    first, last = first_and_last_loss(tmp_path, "prn_lite", side=64, steps=8, more=["--model.network.width", "4"])
    assert last < 0.7 * first


@pytest.mark.training
def test_it_overfits_eight_faces():
    assert overfits("prn_lite", side=64, steps=3500, rate=8e-3, objective={"loss": "l1"}) < 1
