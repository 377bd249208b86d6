"""Ways to run a network for inference: eager PyTorch, torch.compile, onnxruntime, OpenVINO, behind one call.

Each takes a folded network (``body``, ``head``, see :mod:`prnbench.models._prn_fast`) and gives a function from images
(B, 3, R, R) to maps (B, 3, R, R). Converted networks are kept in the cache folder, filed under the weights.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from prnbench.errors import MissingExtraError, PrnbenchError, UsageError, unknown_name
from prnbench.files import cache_folder, digest_of, replacing
from prnbench.progress import console

RUNTIMES = ("eager", "compile", "onnx", "openvino")
PRECISIONS = ("float32", "bf16")
FASTEST_FIRST = ("openvino", "onnx", "eager")
"""What the default tries on a CPU; compiling takes half a minute at each start, so it is left to those who ask."""
TOLERANCE = {"float32": 1e-4, "bf16": 5e-3}
"""Largest difference from eager float32 that a runtime may show on the check image, in network units."""

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Runtime:
    """A network ready to run.

    Attributes
    ----------
    run
        Images (B, 3, R, R) float32 in 0..1 to maps (B, 3, R, R) float32.
    name
        ``openvino bf16``.
    difference
        Largest difference from the eager float32 network on the check image, in network units.
    """

    run: Run
    name: str
    difference: float


def make_runtime(
    network: nn.Module,
    folded: Callable[[], Any],
    resolution: int,
    *,
    runtime: str | None = None,
    precision: str = "float32",
    device: str = "cpu",
) -> Runtime:
    """Make a network ready to run and check that it still says the same.

    Parameters
    ----------
    network
        The network in evaluation mode, the reference of the check.
    folded
        Makes its folded form.
    resolution
        R.
    runtime
        One of ``RUNTIMES``; None takes the fastest that is installed, works for this precision and device, and
        passes the check.
    precision
        ``float32``, or ``bf16`` (the last layers stay float32).
    device
        ``onnx`` and ``openvino`` run on the CPU only.

    Raises
    ------
    UsageError
        A runtime or precision that does not exist, or a combination that is not possible.
    MissingExtraError
        The runtime is not installed.
    PrnbenchError
        It is, but its results differ.
    """
    if runtime is not None and runtime not in RUNTIMES:
        raise unknown_name("runtime", runtime, RUNTIMES)
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    if runtime is not None:
        return _checked(network, folded, resolution, runtime, precision, device)
    for candidate in FASTEST_FIRST if device == "cpu" else ("eager",):
        try:
            return _checked(network, folded, resolution, candidate, precision, device)
        except (MissingExtraError, UsageError):
            continue
        except PrnbenchError as error:
            console().print(f"warning: {error}")
    raise UsageError(f"no runtime can run {precision} on {device}", remedy="take --precision float32")


def _checked(
    network: nn.Module, folded: Callable[[], Any], resolution: int, runtime: str, precision: str, device: str
) -> Runtime:
    run = _MAKERS[runtime](folded().eval(), resolution, precision, device)
    image = check_image(resolution)
    with torch.inference_mode():
        expected = network(image.to(device)).float().cpu()
        difference = float((run(image).float().cpu() - expected).abs().max())
    if not difference <= TOLERANCE[precision]:
        cause = f"runtime {runtime} in {precision} differs from eager float32 by {difference:.2g} (of 1)"
        raise PrnbenchError(cause, remedy="take --runtime eager --precision float32")
    return Runtime(run, f"{runtime} {precision}", difference)


def check_image(resolution: int) -> Tensor:
    """A smooth, seeded picture (1, 3, R, R) for the check."""
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(coarse, size=(resolution, resolution), mode="bicubic").clamp(0, 1)


# -- the ways


def _eager(folded: Any, resolution: int, precision: str, device: str) -> Run:
    module = folded.with_precision(precision).to(device).to(memory_format=torch.channels_last)

    def run(image_B3RR: Tensor) -> Tensor:
        result: Tensor = module(image_B3RR.to(device, memory_format=torch.channels_last))
        return result

    return run


def _compiled(folded: Any, resolution: int, precision: str, device: str) -> Run:
    if device == "cpu" and shutil.which("g++") is None:
        raise MissingExtraError("torch.compile needs a C++ compiler (g++)", remedy="install one, or another --runtime")
    from torch._inductor import config

    config.freezing = True
    module = folded.with_precision(precision).to(device).to(memory_format=torch.channels_last)
    mode = "default" if device == "cpu" else "reduce-overhead"
    compiled = cast(Run, torch.compile(module, mode=mode))

    def run(image_B3RR: Tensor) -> Tensor:
        result: Tensor = compiled(image_B3RR.to(device, memory_format=torch.channels_last))
        return result.clone() if mode == "reduce-overhead" else result

    return run


def _onnx(folded: Any, resolution: int, precision: str, device: str) -> Run:
    _require(("onnxruntime",), "onnx", device)
    if precision != "float32":
        raise UsageError("onnxruntime runs float32 only", remedy="take --runtime openvino or eager for bf16")
    import onnxruntime

    path = _cached(folded, resolution, "onnx")
    if not path.is_file():
        _require(("onnx", "onnxscript"), "onnx", device)
        export_onnx(folded, resolution, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda image_B3RR: torch.from_numpy(session.run(None, {"image": image_B3RR.numpy()})[0])


def export_onnx(
    module: nn.Module, resolution: int, out: Path, metadata: dict[str, str] | None = None, output: str = "map"
) -> None:
    """Write a network as ONNX: input ``image`` (B, 3, R, R), B free, and its output, or the fields of its outputs."""
    import onnx

    example = torch.zeros(2, 3, resolution, resolution)
    batch = {0: torch.export.Dim("batch", min=1)}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        names = getattr(module.eval()(example), "_fields", (output,))
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            input_names=["image"],
            output_names=list(names),
            dynamic_shapes=(batch,),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model)
    with replacing(out) as temporary:
        temporary.write_bytes(model.SerializeToString())


def _openvino(folded: Any, resolution: int, precision: str, device: str) -> Run:
    _require(("openvino",), "openvino", device)
    import openvino

    core = openvino.Core()
    exact = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
    }
    if precision == "float32":
        whole = core.compile_model(_converted(core, folded, folded, 3, resolution, "whole"), "CPU", exact)
        request = whole.create_infer_request()
        return lambda image_B3RR: _inferred(request, image_B3RR.numpy())
    rounded = exact | {"INFERENCE_PRECISION_HINT": "bf16"}
    body = core.compile_model(_converted(core, folded, folded.body, 3, resolution, "body"), "CPU", rounded)
    head = core.compile_model(
        _converted(core, folded, nn.Sequential(folded.head, nn.Sigmoid()), folded.head_channels, resolution, "head"),
        "CPU",
        exact,
    )
    first, second = body.create_infer_request(), head.create_infer_request()

    def run(image_B3RR: Tensor) -> Tensor:
        features = first.infer({0: image_B3RR.numpy()}, share_inputs=True, share_outputs=True)[0]
        return _inferred(second, features)

    return run


def _inferred(request: Any, values: Any) -> Tensor:
    return torch.from_numpy(request.infer({0: np.ascontiguousarray(values)}, share_inputs=True)[0])


def _converted(core: Any, folded: Any, module: nn.Module, channels: int, resolution: int, part: str) -> Any:
    import openvino

    path = _cached(folded, resolution, f"{part}.xml")
    if path.is_file() and path.with_suffix(".bin").is_file():
        return core.read_model(path)
    example = torch.zeros(1, channels, resolution, resolution)
    with torch.no_grad():
        model = openvino.convert_model(module, example_input=example, input=[-1, channels, resolution, resolution])
    openvino.save_model(model, path, compress_to_fp16=False)
    return model


def _cached(folded: nn.Module, resolution: int, suffix: str) -> Path:
    """File of a converted network in the cache, named by its weights, its size and the versions that made it."""
    weights = (tensor.detach().float().numpy().tobytes() for tensor in folded.state_dict().values())
    version = torch.__version__, _version("openvino"), _version("onnxscript")
    key = digest_of(type(folded).__name__, resolution, *version, *weights)
    return cache_folder("runtime") / f"{key[:24]}.{suffix}"


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _require(packages: tuple[str, ...], extra: str, device: str) -> None:
    if device != "cpu":
        raise UsageError(f"runtime {extra} runs on the CPU here, not on {device}", remedy="take --runtime compile")
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtraError(
                f"{package} is not installed", remedy=f"install it: pip install 'prnbench[{extra}]'"
            )


_MAKERS = {"eager": _eager, "compile": _compiled, "onnx": _onnx, "openvino": _openvino}
