"""Models: one file each, holding the network, its decoding to Predictions and its card.

``--model prn`` imports ``prnbench/models/prn.py`` and calls its ``build``; the names are the files here.
A model is anything with the methods of :class:`Predictor`; nothing is inherited and nothing is registered.
A file that ``prnbench train`` shall train offers in addition what :class:`Trainable` names: its network, what the
network learns, and how faces are cropped for it.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from prnbench.errors import InputError, UsageError, unknown_name

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import ArrayLike, NDArray

    from prnbench.data.transforms import FaceBatch
    from prnbench.morphable import MorphableModel
    from prnbench.sample import Prediction, Sample

    CropRule = Callable[[ArrayLike, int], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a reader of a result must know of the model behind it.

    Attributes
    ----------
    name, title
        File stem in ``prnbench/models`` and the name shown in tables.
    paper
        Citation of the method.
    parameters, macs
        Numbers in the weights, and multiply-accumulates for one face; 0 where there is no network.
    trained
        False while the weights are seeded initial values: the numbers then mean nothing.
    trained_on
        Data, steps and seed in one line.
    weights_digest
        sha256 of the weights file, or None.
    licence
        Of the weights.
    offers
        What a Prediction holds: ``landmarks``, ``position_map``, ``vertices``, ``pose``.
    runtime
        How the network runs (``eager float32``).
    notes
        Plain sentences for the reader: limits, differences from the paper.
    sees_ground_truth
        True for a ceiling that is fitted to the ground truth (``oracle``), see :class:`SeesTruth`.
    """

    name: str
    title: str
    paper: str
    parameters: int = 0
    macs: int = 0
    trained: bool = True
    trained_on: str | None = None
    weights_digest: str | None = None
    licence: str = ""
    offers: tuple[str, ...] = ("landmarks",)
    runtime: str = "numpy"
    notes: tuple[str, ...] = ()
    sees_ground_truth: bool = False

    def as_dict(self) -> dict[str, Any]:
        """JSON-able fields."""
        return asdict(self)


class Predictor(Protocol):
    """A model as evaluation, prediction and timing see it; each method is one timed stage."""

    card: ModelCard

    def preprocess(self, image_rgb: NDArray[np.uint8], box_px: ArrayLike) -> tuple[NDArray[np.float32] | None, Any]:
        """Make the network's input of one face.

        Parameters
        ----------
        image_rgb
            (H, W, 3) uint8.
        box_px
            (4,) left, top, right, bottom of the face (the landmarks' bounding box), original pixels.

        Returns
        -------
        input
            (C, h, w) float32, or None if the model looks at no pixels.
        context
            What ``postprocess`` needs to get back to original pixels.
        """
        ...

    def forward(self, batch: torch.Tensor | None) -> Any:
        """Run the network on (B, C, h, w) float32; None if ``preprocess`` gave no inputs."""
        ...

    def postprocess(self, raw: Any, contexts: Sequence[Any]) -> list[Prediction]:
        """Decode the network's output into one Prediction per context, in original pixels."""
        ...


@runtime_checkable
class SeesTruth(Protocol):
    """A ceiling that is fitted to the ground truth: it takes the Sample itself in place of image and box.

    Only evaluation knows it; prediction and timing refuse it or leave it out, and its title says what it is.
    """

    card: ModelCard

    def preprocess_truth(self, sample: Sample) -> tuple[NDArray[np.float32] | None, Any]:
        """Input (or None) and context of one face, as ``preprocess`` gives them."""
        ...


class Objective(Protocol):
    """What a network learns; it knows the data's face model and turns the network's output into errors and landmarks.

    ``raw`` is what the network returned: a tensor or a NamedTuple of tensors, faces first, in float32, on any device.
    An objective that also has ``position_map(raw, batch)`` (B, R, R, 3) gets meshes and error maps among its sample
    pictures.
    """

    def loss(self, raw: Any, batch: FaceBatch) -> dict[str, torch.Tensor]:
        """Terms to log, of which ``loss`` is minimised."""
        ...

    def landmarks(self, raw: Any, batch: FaceBatch) -> torch.Tensor:
        """Predicted landmarks (B, 68, 3) in original pixels, for validation and pictures."""
        ...


class Trainable(Protocol):
    """What a file of this folder offers so that ``prnbench train`` can train it; the LightningModule knows no more.

    Attributes
    ----------
    NEEDS
        Fields of a Sample that the objective learns from (``position_map_px``, ``landmarks_px``, or ``pose_params`` for
        the face model's coefficients with their pose); data without them are refused before the first step.
    RESOLUTION, STEP
        Side of the network's input, and what other sides must be a multiple of.
    """

    NEEDS: tuple[str, ...]
    RESOLUTION: int
    STEP: int

    def network(self, seed: int = 0, **options: Any) -> torch.nn.Module:
        """The network to train, from images (B, 3, R, R) in 0..1 to ``raw``, initialised by the seed."""
        ...

    def objective(self, face_model: MorphableModel, **options: Any) -> Objective:
        """What training asks of the network."""
        ...

    def crop(self, box_px: ArrayLike, resolution: int) -> NDArray[np.float64]:
        """(2, 3) map from original pixels to the network's input of a face box, in training as in prediction."""
        ...


def predict(
    predictor: Predictor, images_rgb: Sequence[NDArray[np.uint8]], boxes_px: Sequence[ArrayLike]
) -> list[Prediction]:
    """Predict one batch of faces: preprocess, forward, postprocess."""
    pairs = [predictor.preprocess(image, box) for image, box in zip(images_rgb, boxes_px, strict=True)]
    batch = stack_inputs([inputs for inputs, _ in pairs])
    return predictor.postprocess(predictor.forward(batch), [context for _, context in pairs])


def stack_inputs(inputs: Sequence[NDArray[np.float32] | None]) -> torch.Tensor | None:
    """Stack inputs (C, h, w) to one batch (B, C, h, w); None where the model takes no pixels."""
    import numpy as np
    import torch

    arrays = [array for array in inputs if array is not None]
    return torch.from_numpy(np.stack(arrays)) if arrays else None


def model_names() -> list[str]:
    """Names of all models: the files of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def trainable(name: str) -> Trainable:
    """The file of a model that can be trained by gradients.

    Raises
    ------
    UsageError
        No such model, or one without a network.
    """
    if name not in model_names():
        raise unknown_name("model", name, model_names())
    file = import_module(f"{__name__}.{name}")
    if not hasattr(file, "objective"):
        raise UsageError(f"{name} has nothing to train by gradients", remedy="see `prnbench train --help`")
    return cast(Trainable, file)


def load_model(name: str | Path, *, weights: str | Path | None = None, **options: Any) -> Predictor:
    """Load a model by name, from a weights file, or from the user's own code.

    Parameters
    ----------
    name
        A file of ``prnbench/models`` (``prn``), a ``.safetensors`` file that names its model in its metadata,
        a ``.ckpt`` of ``prnbench train``, an ``.onnx`` file (see ``models/_onnx.py`` for what it must do), or
        ``package.module:build`` for code outside prnbench.
    weights
        Weights for a model given by name.
    options
        Handed to the model's ``build`` (``device``, ``face_model``, ``runtime``, ``precision``, ...).

    Raises
    ------
    UsageError
        No such model, or an option that it does not have.
    WeightsError
        The weights do not fit.
    """
    text = str(name)
    if Path(text).suffix in (".safetensors", ".ckpt"):
        if weights is not None:
            raise UsageError(f"{text} is a weights file itself", remedy="leave out --weights")
        return load_model(_model_of_file(Path(text)), weights=text, **options)
    if Path(text).suffix == ".onnx":
        from prnbench.models import _onnx

        if weights is not None:
            raise UsageError(f"{text} holds its weights itself", remedy="leave out --weights")
        return _call_build(_onnx.build, text, text, options)
    if ":" in text:
        return _call_build(_users_build(text), text, weights, options)
    if text not in model_names():
        raise unknown_name("model", text, model_names())
    return _call_build(import_module(f"{__name__}.{text}").build, text, weights, options)


def _call_build(build: Any, name: str, weights: str | Path | None, options: dict[str, Any]) -> Predictor:
    from inspect import signature

    accepted = signature(build).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    for option in options:
        if option not in accepted and not takes_any:
            raise unknown_name(f"option of model {name}:", option, set(accepted) - {"weights"})
    return cast(Predictor, build(weights=None if weights is None else Path(weights), **options))


def _users_build(text: str) -> Any:
    module_name, _, attribute = text.partition(":")
    if (here := str(Path.cwd())) not in sys.path:  # as `python -m` does, so that a file beside the user is found
        sys.path.insert(0, here)
    try:
        return getattr(import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        remedy = "give package.module:build of an importable module"
        raise UsageError(f"cannot load the model {text!r} ({error})", remedy=remedy) from None


def _model_of_file(path: Path) -> str:
    from prnbench.models import _weights

    if not path.is_file():
        raise InputError("no such weights file", file=path, remedy="check the path")
    return _weights.model_name(path)
