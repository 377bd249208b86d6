"""Inference runtimes and exports say what the network says: folding, eager, compile, onnxruntime, OpenVINO, ONNX."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prnbench.benchmarks.infer import published
from prnbench.errors import MissingExtraError, PrnbenchError, UsageError, WeightsError
from prnbench.models import _runtime, _weights, load_model, prn
from prnbench.models._prn_fast import FoldedPRN, scale_and_shift
from prnbench.training.export import export

SIDE = 64
EXTRAS = {"eager": (), "compile": (), "onnx": ("onnxruntime", "onnxscript"), "openvino": ("openvino",)}


def tamed(width, seed=0):
    """A network whose layers keep the size of their signal (He) and whose norms all do something."""
    network = prn.PRN(seed=seed, width=width)
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            taps = module.weight[:, 0].numel() if module.stride == (2, 2) else module.weight[0].numel()
            torch.nn.init.normal_(module.weight, 0, (2 / taps) ** 0.5, generator=generator)
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.8, 1.2),
                (module.running_var, 0.8, 1.2),
                (module.bias, -0.1, 0.1),
            ):
                torch.nn.init.uniform_(tensor, low, high, generator=generator)
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1, generator=generator)
    return network.eval()


@pytest.fixture(scope="module")
def network():
    return tamed(4)


@pytest.fixture(scope="module")
def weights_file(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "prn.safetensors"
    state = {name: t for name, t in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    _weights.save_weights(path, _weights.Weights(state, {"model": "prn", "trained_on": "nothing"}), torch.float32)
    return path


def images(count=3):
    return torch.cat([_runtime.check_image(SIDE).roll(17 * i, dims=3) for i in range(count)])


def test_folded_norm_is_the_norm():
    norm = torch.nn.BatchNorm2d(5, eps=1e-3).double().eval()
    for name, low in (("weight", -1), ("bias", -1), ("running_mean", -1), ("running_var", 0.1)):
        torch.nn.init.uniform_(getattr(norm, name), low, 2)
    x = torch.randn(2, 5, 3, 3, dtype=torch.float64)
    scale, shift = scale_and_shift(norm)
    torch.testing.assert_close(norm(x), x * scale[:, None, None] + shift[:, None, None])


def test_folded_network_is_the_network(network):
    with torch.inference_mode():
        expected = network(images())
        folded = FoldedPRN(network).eval()(images())
    assert expected.std() > 0.02, expected.std()
    torch.testing.assert_close(folded, expected, atol=2e-5, rtol=0)


def test_benchmarks_reference_is_the_same_network(network):
    plain = published(network)
    assert sum(isinstance(m, torch.nn.ConvTranspose2d) for m in plain.modules()) == 17
    assert not any(type(m) is prn.SameConvTranspose2d for m in plain.modules())
    assert type(network.head.conv) is prn.SameConvTranspose2d
    with torch.inference_mode():
        torch.testing.assert_close(plain(images()), network(images()), atol=2e-5, rtol=0)


def test_bf16_keeps_the_last_layers_in_float32(network):
    folded = FoldedPRN(network).with_precision("bf16")
    assert {p.dtype for p in folded.body.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in folded.head.parameters()} == {torch.float32}
    assert [tuple(layer.conv.weight.shape) for layer in folded.head] == [(3, 4, 4, 4), (3, 3, 4, 4), (3, 3, 4, 4)]
    with torch.inference_mode():
        assert folded(images(1)).dtype == torch.float32


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("runtime", ["eager", pytest.param("compile", marks=pytest.mark.slow), "onnx", "openvino"])
def test_runtime_says_what_the_network_says(network, runtime, precision):
    for package in EXTRAS[runtime]:
        pytest.importorskip(package)
    if (runtime, precision) == ("onnx", "bf16"):
        with pytest.raises(UsageError, match="float32 only"):
            prn.ready(network, SIDE, runtime, precision)
        return
    ready = prn.ready(network, SIDE, runtime, precision)
    assert ready.name == f"{runtime} {precision}"
    with torch.inference_mode():
        expected = network(images())
        together, alone = ready.run(images()).clone(), ready.run(images()[1:2]).clone()
    limit = {"float32": 5e-5, "bf16": 5e-3}[precision]
    assert (together - expected).abs().max() < limit
    assert (alone - together[1:2]).abs().max() < limit
    assert together.dtype == torch.float32


def test_converted_networks_are_kept(network, monkeypatch):
    pytest.importorskip("openvino")
    prn.ready(network, SIDE, "openvino")
    import openvino

    monkeypatch.setattr(openvino, "convert_model", None)
    prn.ready(network, SIDE, "openvino")
    with pytest.raises(TypeError):
        prn.ready(tamed(4, seed=1), SIDE, "openvino")


def test_default_is_the_fastest_that_is_there_and_right(network, monkeypatch, capsys):
    present = {name for name in ("openvino", "onnxruntime") if _runtime.find_spec(name)}
    best = "openvino" if "openvino" in present else "onnx" if "onnxruntime" in present else "eager"
    assert prn.ready(network, SIDE).name == f"{best} float32"
    monkeypatch.setattr(_runtime, "find_spec", lambda name: None)
    assert prn.ready(network, SIDE).name == "eager float32"
    assert prn.ready(network, SIDE, device="cpu", precision="float32").difference < 1e-4


def test_wrong_runtime_is_passed_over(network, monkeypatch, capsys):
    monkeypatch.setitem(_runtime._MAKERS, "openvino", lambda *_: lambda image: image * 0)
    monkeypatch.setitem(_runtime._MAKERS, "onnx", lambda *_: lambda image: image * float("nan"))
    assert prn.ready(network, SIDE).name == "eager float32"
    assert "openvino in float32 differs" in capsys.readouterr().err.replace("\n", " ")
    with pytest.raises(PrnbenchError, match="onnx in float32 differs"):
        prn.ready(network, SIDE, "onnx")


def test_wrong_choices_are_explained(network, monkeypatch):
    with pytest.raises(UsageError, match="Did you mean 'openvino'"):
        prn.ready(network, SIDE, "openvin")
    with pytest.raises(UsageError, match="unknown precision 'fp8'"):
        prn.ready(network, SIDE, precision="fp8")
    monkeypatch.setattr(_runtime, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'prnbench\[openvino\]'"):
        prn.ready(network, SIDE, "openvino")


def test_predictor_takes_the_runtime(weights_file):
    predictor = load_model(weights_file, resolution=SIDE, runtime="eager", precision="bf16")
    assert predictor.card.runtime == "eager bf16"
    assert predictor.card.parameters == sum(
        t.numel() for n, t in prn.PRN(width=4).state_dict().items() if not n.endswith("num_batches_tracked")
    )
    assert 0 < predictor.card.macs < prn.MACS_256 / 10


# --- export


def test_onnx_equals_the_network_for_any_batch(network, weights_file, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out = export(weights_file, tmp_path / "prn.onnx", resolution=SIDE)
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["model"] == "prn"
    for count in (1, 2, 5):
        (found,) = session.run(None, {"image": images(count).numpy()})
        with torch.inference_mode():
            np.testing.assert_allclose(found, network(images(count)).numpy(), atol=1e-5)


def test_safetensors_export_round_trips(weights_file, tmp_path):
    half = export(weights_file, tmp_path / "half.safetensors", float16=True)
    full = export(weights_file, tmp_path / "full.safetensors")
    assert half.stat().st_size < 0.6 * full.stat().st_size
    first, second = (_weights.read_weights(path) for path in (weights_file, full))
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    assert second.metadata["model"] == "prn" and second.metadata["trained_on"] == "nothing"


def test_wrong_exports_are_refused(weights_file, tmp_path):
    with pytest.raises(UsageError, match=r"cannot export to \.pth"):
        export(weights_file, tmp_path / "out.pth")
    _weights.save_weights(tmp_path / "anonymous.safetensors", _weights.Weights({"a": torch.zeros(1)}))
    with pytest.raises(WeightsError, match="does not say which model"):
        export(tmp_path / "anonymous.safetensors", tmp_path / "out.safetensors")
