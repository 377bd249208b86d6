"""Small training runs on rendered faces: what the tests of every trainable model ask."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from prnbench.data.datamodule import Draw, Faces
from prnbench.data.transforms import photometric
from prnbench.facemodel import load_face_model
from prnbench.metrics.nme import box_size, nme
from prnbench.models import trainable
from prnbench.training import cli
from prnbench.training.module import _batch_norms, cosine_share
from tests.rendered_faces import rendered_faces, write_faces

STILL = "{rotation_deg: 0, scale: [1, 1], shift: 0, gain: [1, 1], occlusion: 0}"


def trained(folder: Path, model: str, *, side: int, steps: int, rate: float, more: list[str], faces: int) -> Path:
    """Folder of a run on so many faces without augmentation, one batch a step; it is validated on the same faces."""
    same = [replace(s, split=split, id=f"{split}{s.id}") for s in rendered_faces(faces) for split in ("train", "val")]
    shards, run = write_faces(folder / "faces", same), folder / "run"
    options = f"--model.model {model} --data {shards} --data.face_model {shards}/face_model.npz --out {run}"
    options += f" --data.resolution {side} --data.batch_size {faces} --data.workers 0 --model.learning_rate {rate}"
    options += f" --model.schedule cosine --model.batch_norm_momentum 0.1 --trainer.max_epochs {steps}"
    options += f" --trainer.check_val_every_n_epoch {steps} --trainer.num_sanity_val_steps 0"
    options += " --trainer.log_every_n_steps 1 --trainer.enable_progress_bar false"
    options += f" --trainer.logger lightning.pytorch.loggers.CSVLogger --trainer.logger.save_dir {run}"
    options += " --trainer.logger.name curves"
    assert cli.main([*options.split(), "--data.augmentation", STILL, *more]) == 0
    return run


def curve(run: Path, column: str) -> list[float]:
    """Logged values of a column."""
    with (run / "curves" / "version_0" / "metrics.csv").open() as handle:
        return [float(row[column]) for row in csv.DictReader(handle) if row.get(column)]


def first_and_last_loss(
    folder: Path, model: str, *, side: int, steps: int = 10, rate: float = 1e-3, more: list[str] | None = None
) -> tuple[float, float]:
    """Training loss of the first and of the last step on four faces."""
    losses = curve(trained(folder, model, side=side, steps=steps, rate=rate, more=more or [], faces=4), "train/loss")
    return losses[0], losses[-1]


def overfits(
    name: str,
    *,
    side: int,
    steps: int,
    rate: float = 1e-3,
    network: dict[str, Any] | None = None,
    objective: dict[str, Any] | None = None,
) -> float:
    """Mean NME in per cent on the eight faces that a model was trained on: the bare loop, without Lightning.

    Batch norm learns its statistics for 70 % of the steps; then they stand still and the weights settle on them.
    """
    torch.manual_seed(0)
    file = trainable(name)
    batch = Faces(rendered_faces(8), {0: side}, crop=file.crop).batch([Draw(i) for i in range(8)])
    net, goal = file.network(**(network or {})), file.objective(load_face_model(), **(objective or {}))
    image, optimiser = photometric(batch), torch.optim.Adam(net.parameters(), rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: cosine_share(step, steps))
    for step in range(steps):
        for norm in _batch_norms(net):
            norm.train(step < 0.7 * steps)
        optimiser.zero_grad()
        goal.loss(net(image), batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        found = goal.landmarks(net.eval()(image), batch)[..., :2].double().numpy()
    truth = batch.landmarks_B683[..., :2].double().numpy()
    return float(nme(found, truth, box_size(truth)).mean())
