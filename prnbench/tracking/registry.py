"""Models in MLflow's registry: loadable and servable, a version for each weights file, champion and candidate named."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from prnbench.errors import UsageError
from prnbench.models import ModelCard, load_model
from prnbench.table import PerSampleTable
from prnbench.tracking.store import open_client
from prnbench.tracking.upload import Tracked

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXAMPLE_PX = 128
ALIASES = ("champion", "candidate")
"""The version that is in use, and the one that wants to be."""

_DIGEST = "prnbench.digest.weights"


def register(tracked: Tracked, run: Path, model: str, alias: str, *, weights: Path | None = None) -> str:
    """Register the model behind a tracked run, point an alias at it and return its URI.

    ``models:/<name>@<alias>`` then takes a batch of pictures (see :mod:`prnbench.tracking.served`). Weights that are
    registered already get no second version.

    Parameters
    ----------
    tracked, run
        The run in the store, and its folder.
    model, weights
        As for ``prnbench evaluate``: a name of ``prnbench/models``, with or without a weights file, or a
        ``.safetensors`` file.
    alias
        ``champion`` or ``candidate``.

    Raises
    ------
    UsageError
        The model cannot be served from a file, or is not the one that was evaluated.
    OutputError
        The store cannot be reached or did not take the model.
    """
    card = _card(model, weights)
    _check_evaluated(run, card)
    from prnbench.models._weights import shipped_weights

    file = weights or (Path(model) if Path(model).suffix else shipped_weights(card.name))
    with open_client(tracked.uri) as client:
        version = _version_of(client, tracked.run_id, card, file)
        client.set_registered_model_alias(card.name, alias, str(version))
    return f"models:/{card.name}@{alias}"


def register_weights(client: MlflowClient, run_id: str, weights: Path) -> str:
    """Register a training's weights file under its model's name, and return the version's URI, ``models:/prn/3``."""
    card = load_model(weights).card
    return f"models:/{card.name}/{_version_of(client, run_id, card, weights)}"


def _version_of(client: MlflowClient, run_id: str, card: ModelCard, weights: Path | None) -> int:
    """The version of these weights, made and uploaded to the run if there is none."""
    version = _version_with(client, card.name, card.weights_digest)
    if version is not None:
        return version
    with tempfile.TemporaryDirectory() as scratch:
        save_model(Path(scratch) / "model", card.name, weights)
        client.log_artifacts(run_id, str(Path(scratch) / "model"), _place(card))
    return _new_version(client, card, run_id)


def _place(card: ModelCard) -> str:
    """Folder of these weights among a run's artifacts: a training that goes on makes several versions."""
    return f"model-{(card.weights_digest or 'built-in')[:8]}"


def _card(model: str, weights: Path | None) -> ModelCard:
    if ":" in model or Path(model).suffix not in ("", ".safetensors"):
        remedy = "give a model of prnbench or a .safetensors file (prnbench export makes one)"
        raise UsageError(f"{model} cannot be served from a file", remedy=remedy)
    return load_model(model, weights=weights).card


def _check_evaluated(run: Path, card: ModelCard) -> None:
    known = PerSampleTable.read(run).header.get("models", {}).values()
    if card.weights_digest not in [entry.get("weights_digest") for entry in known]:
        remedy = "give the weights that the run was made with"
        raise UsageError(f"{card.name} with these weights was not evaluated there", file=run, remedy=remedy)


def save_model(folder: Path, name: str, weights: Path | None) -> None:
    """Write a folder that ``mlflow.pyfunc.load_model`` and ``mlflow models serve`` take.

    Parameters
    ----------
    folder
        Must not exist.
    name
        Model of ``prnbench/models``.
    weights
        File that travels with it; None for a model that makes its own.
    """
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    from prnbench import __version__

    inputs = Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))])
    outputs = Schema(
        [
            TensorSpec(np.dtype(np.float32), (-1, 68, 3), "landmarks_px"),
            TensorSpec(np.dtype(np.float32), (-1, 4), "boxes_px"),
        ]
    )
    params = ParamSchema(
        [ParamSpec("boxes_px", "double", [], shape=(-1,)), ParamSpec("position_maps", "boolean", False)]
    )
    with warnings.catch_warnings(record=True):  # MLflow asks for type hints in place of the signature that is given
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(Path(__file__).with_name("served.py")),
            artifacts=None if weights is None else {"weights": str(weights)},
            model_config={"model": name},
            signature=ModelSignature(inputs, outputs, params),
            input_example=example_rgb()[None],
            pip_requirements=[f"prnbench=={__version__}"],
        )


def example_rgb() -> NDArray[np.uint8]:
    """A small picture (128, 128, 3) of a synthetic person: the input example."""
    from prnbench.overlay import square_around
    from prnbench.synthetic.head import built_in_head
    from prnbench.synthetic.person import draw_face
    from prnbench.synthetic.scene import picture

    rng = np.random.default_rng(0)
    image = picture(built_in_head(), draw_face(built_in_head(), 10.0, rng), rng, plain=True)
    height, width = image.shape[:2]
    return square_around(image, (0, 0, width, height), EXAMPLE_PX, 1.0)[0]


def _version_with(client: MlflowClient, name: str, digest: str | None) -> int | None:
    found = client.search_model_versions(f"name = '{name}' and tags.`{_DIGEST}` = '{digest}'")
    return max((int(version.version) for version in found), default=None)


def _new_version(client: MlflowClient, card: ModelCard, run_id: str) -> int:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(card.name, description=f"{card.title}. {card.paper}")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"{client.get_run(run_id).info.artifact_uri}/{_place(card)}"
    return int(client.create_model_version(card.name, source, run_id, tags={_DIGEST: str(card.weights_digest)}).version)
