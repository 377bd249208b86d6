"""The LightningModule: a model's network and objective, optimiser, schedule, validation that counts every face once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from prnbench.cards import YAW_BINS
from prnbench.data.datamodule import resolution_at
from prnbench.data.transforms import FaceBatch, photometric
from prnbench.errors import PrnbenchError, UsageError
from prnbench.files import replacing
from prnbench.metrics.nme import box_size, nme
from prnbench.models import Objective, Trainable, _weights, trainable

EXAMPLES = 8
"""Validation faces kept for the sample pictures."""


class TrainingDivergedError(PrnbenchError):
    """The loss is not a number; the batch that made it so is on disk."""

    exit_code = 1


class FaceModule(lightning.LightningModule):
    """A model of ``prnbench/models`` in training.

    Parameters
    ----------
    model
        Name of the model file; it offers what :class:`prnbench.models.Trainable` names.
    network
        Options of the network (``width`` for prn).
    objective
        Options of the objective (``loss``, ``consistency`` for prn).
    learning_rate
        At the start (``halving``) or at its height (``cosine``).
    schedule
        ``halving``: halved every ``halve_every`` epochs, the paper's. ``cosine``: 2 % warm-up, then half a cosine to 0.
    halve_every
        Epochs, for ``halving``.
    weight_decay
        Decoupled (AdamW) if not 0.
    batch_norm_momentum
        Weight of the newest batch in the running statistics.
    freeze_batch_norm
        Leave batch norm in evaluation mode: its statistics do not change.
    compile
        Compile the network (pays on GPUs; not on a CPU).
    seed
        Seeds the network's initial values.
    initial_weights
        Weights file to start from instead of seeded values (``.safetensors`` or ``.ckpt`` of the same network).
    """

    def __init__(
        self,
        model: str = "prn",
        network: dict[str, Any] | None = None,
        objective: dict[str, Any] | None = None,
        learning_rate: float = 1e-4,
        schedule: Literal["halving", "cosine"] = "halving",
        halve_every: int = 5,
        weight_decay: float = 0.0,
        batch_norm_momentum: float = 0.01,
        freeze_batch_norm: bool = False,
        compile: bool = False,
        seed: int = 0,
        initial_weights: str | None = None,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.network = _network(trainable(model), {"seed": seed, **(network or {})})
        for norm in _batch_norms(self.network):
            norm.momentum = batch_norm_momentum
        if compile:
            self.network.compile()
        self.objective: Objective | None = None
        self.examples: tuple[FaceBatch, Any] | None = None
        self._rows: list[Tensor] = []
        self.train()

    # -- set-up

    def setup(self, stage: str) -> None:
        """Make the objective for the data's face model."""
        options = self.hparams["objective"] or {}
        try:
            file = trainable(self.hparams["model"])
            self.objective = file.objective(self.trainer.datamodule.face_model, **options)
        except (TypeError, KeyError) as error:
            raise UsageError(f"wrong objective {options}: {error}", remedy="see the model's objective") from None
        if self.hparams["initial_weights"] and not self.trainer.ckpt_path:
            path = Path(self.hparams["initial_weights"])
            _weights.assign_weights(self.network, _weights.read_weights(path), path)

    def train(self, mode: bool = True) -> FaceModule:
        """Switch to training mode, leaving frozen batch norms in evaluation mode."""
        super().train(mode)
        if self.hparams["freeze_batch_norm"]:
            for norm in _batch_norms(self.network):
                norm.eval()
        return self

    def configure_optimizers(self) -> dict[str, Any]:
        """Adam (or AdamW) under the schedule."""
        rate, decay = self.hparams["learning_rate"], self.hparams["weight_decay"]
        fused = self.device.type == "cpu"
        kind = torch.optim.AdamW if decay else torch.optim.Adam
        optimiser = kind(self.network.parameters(), rate, weight_decay=decay, fused=fused)
        if self.hparams["schedule"] == "halving":
            halving = torch.optim.lr_scheduler.StepLR(optimiser, self.hparams["halve_every"], gamma=0.5)
            return {"optimizer": optimiser, "lr_scheduler": {"scheduler": halving, "interval": "epoch"}}
        steps = int(self.trainer.estimated_stepping_batches)
        cosine = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: cosine_share(step, steps))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip by norm without Lightning's check: it refuses fused optimisers, which only matters with loss scaling."""
        if gradient_clip_val and self.device.type == "cpu" and gradient_clip_algorithm in (None, "norm"):
            nn.utils.clip_grad_norm_(self.network.parameters(), gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    # -- steps

    def training_step(self, batch: FaceBatch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        terms = self._terms(batch)[1]
        if not torch.isfinite(terms["loss"]):
            raise self._diverged(batch, terms)
        for name, value in terms.items():
            self.log(f"train/{name}", value.detach(), prog_bar=name == "loss", sync_dist=True)
        self.log("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        return terms["loss"]

    def validation_step(self, batch: FaceBatch, batch_idx: int) -> None:
        """One row a face: place in the data set, NME in per cent, yaw, loss, and whether it counts."""
        raw, terms = self._terms(batch)
        assert self.objective is not None
        truth = batch.landmarks_B683[..., :2].double().cpu().numpy()
        predicted = self.objective.landmarks(raw, batch)[..., :2].double().cpu().numpy()
        error = torch.from_numpy(nme(predicted, truth, box_size(truth)))
        size = len(batch.index_B)
        columns = [
            batch.index_B.cpu(),
            error,
            batch.yaw_B.cpu(),
            terms["loss"].cpu().expand(size),
            batch.counts_B.cpu(),
        ]
        self._rows.append(torch.stack([column.double() for column in columns], dim=1))
        if batch_idx == 0:
            first = FaceBatch(*(value[:EXAMPLES].cpu() for value in batch))
            self.examples = first, apply_to_collection(raw, Tensor, lambda value: value[:EXAMPLES].cpu())

    def on_validation_epoch_end(self) -> None:
        """Gather the rows of all ranks and log means over faces that count, each once."""
        rows = torch.cat(self._rows).to(self.device, torch.float32 if self.device.type == "mps" else torch.float64)
        self._rows.clear()
        gathered = self.all_gather(rows).reshape(-1, rows.shape[-1]).cpu().numpy()
        for name, value in validation_metrics(gathered).items():
            self.log(f"val/{name}", value, prog_bar=name == "nme_2d", rank_zero_only=False, sync_dist=False)

    def _terms(self, batch: FaceBatch) -> tuple[Any, dict[str, Tensor]]:
        """Network output in float32 and loss terms; only the network runs under autocast."""
        kind = batch.image_BRR3.device.type
        with torch.autocast(kind, enabled=False):
            image = photometric(batch).contiguous(memory_format=torch.channels_last)
        assert self.objective is not None
        raw = apply_to_collection(self.network(image), Tensor, Tensor.float)
        with torch.autocast(kind, enabled=False):
            return raw, self.objective.loss(raw, batch)

    def _diverged(self, batch: FaceBatch, terms: dict[str, Tensor]) -> TrainingDivergedError:
        path = Path(self.trainer.default_root_dir) / f"diverged-step{self.global_step}-rank{self.global_rank}.npz"
        arrays = {name: value.detach().cpu().numpy() for name, value in batch._asdict().items()}
        with replacing(path) as temporary, temporary.open("wb") as handle:
            np.savez_compressed(handle, **arrays)
        values = ", ".join(f"{name} = {float(value.detach())}" for name, value in terms.items())
        weights = all(bool(torch.isfinite(p).all()) for p in self.network.parameters())
        state = "the weights are still finite" if weights else "the weights are not finite either"
        cause = f"training diverged at step {self.global_step}: {values}; {state}. The batch is stored"
        remedy = "look at its images and maps, or resume from an older checkpoint with a lower learning rate"
        return TrainingDivergedError(cause, file=path, remedy=remedy)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what the weights are, so that the checkpoint is enough to use them."""
        data, trainer = self.trainer.datamodule, self.trainer
        faces_a_step = data.batch_size * trainer.world_size * trainer.accumulate_grad_batches
        about = {
            "model": self.hparams["model"],
            "network": json.dumps(self.hparams["network"] or {}),
            "resolution": resolution_at(data.resolution, trainer.current_epoch),
            "face_model": data.face_model.fingerprint,
            "face_model_name": data.face_model.name,
            "trained_on": f"{len(data.train_faces)} faces of {data.shards.name}",
            "faces_seen": int(self.global_step * faces_a_step),
        }
        if "val/nme_2d" in trainer.callback_metrics:
            about["val_nme_2d"] = float(trainer.callback_metrics["val/nme_2d"])
        checkpoint["prnbench"] = about


def validation_metrics(rows: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float]:
    """Means over validation rows (index, NME, yaw, loss, counts).

    ``nme_2d`` is the plain mean, ``nme_2d_<bin>`` one a yaw bin, ``nme_2d_balanced`` the mean of the bins that have
    faces. Faces without landmarks or yaw do not enter the means that need them.
    """
    rows = rows[rows[:, 4] > 0]
    error, yaw = rows[:, 1], np.abs(rows[:, 2])
    metrics = {"loss": float(rows[:, 3].mean()), "faces": float(len(rows))}
    known = np.isfinite(error)
    if not known.any():
        return metrics
    metrics["nme_2d"] = float(error[known].mean())
    bins = {}
    for name, (low, high) in YAW_BINS.items():
        inside = known & (yaw <= high) & ((yaw > low) | (low == 0))
        if inside.any():
            bins[f"nme_2d_{name}"] = float(error[inside].mean())
    balanced = {"nme_2d_balanced": float(np.mean(list(bins.values())))} if bins else {}
    return metrics | bins | balanced


def cosine_share(step: int, steps: int, warm_up: float = 0.02) -> float:
    """Share of the highest learning rate at a step: linear warm-up, then half a cosine to 0."""
    rising = max(int(warm_up * steps), 1)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + float(np.cos(np.pi * min((step - rising) / max(steps - rising, 1), 1.0))))


def _network(file: Trainable, options: dict[str, Any]) -> nn.Module:
    try:
        network = file.network(**options)
    except TypeError as error:
        raise UsageError(f"wrong network {options}: {error}", remedy="see the model's network") from None
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _batch_norms(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
