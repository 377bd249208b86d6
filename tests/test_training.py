"""Training: losses, exact resume, devices that agree, divergence, configurations, and that it learns."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
import yaml

from prnbench.data import transforms
from prnbench.data.datamodule import Draw, Faces
from prnbench.data.transforms import Augmentation
from prnbench.errors import FaceModelError, InputError, UsageError, WeightsError
from prnbench.facemodel import load_face_model
from prnbench.models import _weights, load_model, prn
from prnbench.training import cli
from prnbench.training.curves import read_curves
from prnbench.training.module import TrainingDivergedError, cosine_share, validation_metrics
from tests.rendered_faces import rendered_faces, write_faces

FAST = ["--data.resolution", "32", "--data.workers", "0", "--trainer.log_every_n_steps", "1"]
FAST += [
    "--model.network",
    "{width: 2}",
    "--trainer.enable_progress_bar",
    "false",
    "--trainer.num_sanity_val_steps",
    "0",
]
FAST += ["--trainer.logger", "lightning.pytorch.loggers.CSVLogger", "--trainer.logger.name", "curves"]


@pytest.fixture(scope="module")
def faces():
    return rendered_faces(12) + rendered_faces(5, seed=1, split="val")


@pytest.fixture(scope="module")
def shards(faces, tmp_path_factory):
    return write_faces(tmp_path_factory.mktemp("faces"), faces)


def arguments(shards, run, *more, config="prn"):
    fixed = f"--config {config} --data {shards} --data.face_model {shards}/face_model.npz --out {run}"
    return [*fixed.split(), *FAST, "--trainer.logger.save_dir", str(run), *more]


def curve(run, column="train/loss"):
    """Step -> value of a column, over all logged pieces of a run."""
    values = {}
    for path in sorted(run.glob("curves/version_*/metrics.csv"), key=lambda p: int(p.parent.name.split("_")[1])):
        with path.open() as handle:
            values |= {int(row["step"]): float(row[column]) for row in csv.DictReader(handle) if row.get(column)}
    return values


# --- the objective


def exact_output(batch, resolution):
    return transforms.network_target(batch.position_map_BMM3, batch.crop_B23, resolution)


def test_perfect_maps_give_no_loss_and_the_true_landmarks(faces):
    batch = Faces(faces, {0: 128}).__getitems__([Draw(i) for i in range(3)])
    objective = prn.objective(load_face_model())
    raw = exact_output(batch, 128)
    assert objective.loss(raw, batch)["loss"] == 0
    found = objective.landmarks(raw, batch)[..., :2]
    # Landmarks lie between texels: bilinear reading is off by parts of a pixel, most at the folds of the lips.
    off = (found - batch.landmarks_B683[..., :2]).norm(dim=-1)
    assert off.mean() < 0.4 and off.max() < 2
    maps = objective.position_map(raw, batch)[..., :2]
    assert (maps[:, ::127, ::127] - batch.position_map_BMM3[:, ::255, ::255, :2]).abs().max() < 1e-2


@pytest.mark.parametrize(("loss", "power"), [("l2", 2), ("l1", 1)])
def test_loss_is_the_weighted_mean_over_texels(faces, loss, power):
    from prnbench.uv import chart_of, weight_mask

    model = load_face_model()
    batch = Faces(faces, {0: 64}).__getitems__([Draw(0), Draw(1)])
    raw = exact_output(batch, 64)
    row, column = chart_of(model).landmark_texels(64)[30]
    wrong = raw.clone()
    wrong[0, :, row, column] += torch.tensor([0.1, -0.2, 0.3])
    mask = weight_mask(model, chart_of(model), 64)
    expected = 16 * (0.1**power + 0.2**power + 0.3**power) / mask.sum() / 2
    actual = prn.objective(model, loss=loss).loss(wrong, batch)["loss"].item()
    assert actual == pytest.approx(expected, rel=1e-4)
    outside = raw.clone()
    outside[:, :, torch.from_numpy(mask == 0)] += 0.5
    assert prn.objective(model, loss=loss).loss(outside, batch)["loss"] < 1e-12
    assert prn.objective(model, loss=loss, neck=1).loss(outside, batch)["loss"] > 0.01


def test_views_agree_whatever_their_augmentation(faces):
    """Two exact maps of one face, turned, shifted and mirrored differently, are one shape in the original picture."""
    data = Faces(faces, {0: 128}, Augmentation(flip=0.5), seed=5)
    batch = data.__getitems__([Draw(i, 0, view) for i in range(4) for view in (0, 1)])
    assert batch.flipped_B.any() and not batch.flipped_B.all()
    objective = prn.objective(load_face_model(), consistency=1.0)
    terms = objective.loss(exact_output(batch, 128), batch)
    assert terms["views"] < 1e-9
    apart = exact_output(batch, 128)
    apart[::2, 0] += 0.05
    assert objective.loss(apart, batch)["views"] > 1e-3


def test_cosine_share():
    shares = [cosine_share(step, 1000) for step in range(1000)]
    assert shares[0] == pytest.approx(1 / 20) and max(shares) == shares[20] == 1
    assert shares[510] == pytest.approx(0.5, abs=1e-6) and shares[-1] < 1e-5
    assert cosine_share(5, 1) == pytest.approx(0)


def test_validation_means():
    rows = np.array([[0, 2, -10, 0.1, 1], [1, 4, 45, 0.1, 1], [2, 6, 95, 0.1, 1], [3, 8, 80, 0.1, 1], [0, 99, 0, 9, 0]])
    metrics = validation_metrics(rows)
    assert metrics["faces"] == 4 and metrics["nme_2d"] == 5
    bins = {name: metrics[f"nme_2d_{name}"] for name in ("yaw_0_30", "yaw_30_60", "yaw_60_90")}
    assert bins == {"yaw_0_30": 2, "yaw_30_60": 4, "yaw_60_90": 7}
    assert metrics["nme_2d_balanced"] == pytest.approx(13 / 3)
    unknown = validation_metrics(np.array([[0, np.nan, np.nan, 0.1, 1]]))
    assert unknown == {"loss": pytest.approx(0.1), "faces": 1}


# --- runs


class Sigterm(lightning.Callback):
    """SIGTERM arrives in the middle of an epoch."""

    def on_train_batch_start(self, trainer, module, batch, index):
        if trainer.global_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)


MODERN = ["--data.resolution", "{0: 32, 1: 64}", "--data.batch_size", "4"]


@pytest.mark.parametrize(("config", "more"), [("prn", ["--data.batch_size", "4"]), ("prn_modern", MODERN)])
def test_killed_run_resumes_exactly(shards, tmp_path, monkeypatch, config, more):
    """Loss by loss equal: weights, averages, optimiser, schedule, order and augmentation are all as they were."""
    common = [*more, "--trainer.max_epochs", "3"]
    assert cli.main(arguments(shards, tmp_path / "whole", *common, config=config)) == 0
    plain = cli._callbacks
    monkeypatch.setattr(cli, "_callbacks", lambda *a: [Sigterm(), *plain(*a)])
    assert cli.main(arguments(shards, tmp_path / "killed", *common, config=config)) == 143
    monkeypatch.setattr(cli, "_callbacks", plain)
    assert sorted(curve(tmp_path / "killed")) == list(range(5))
    assert cli.main(["--resume", str(tmp_path / "killed")]) == 0
    for column in ("train/loss", "train/learning_rate", "val/loss", "val/nme_2d"):
        whole, resumed = curve(tmp_path / "whole", column), curve(tmp_path / "killed", column)
        assert whole == resumed, column
    assert sorted(curve(tmp_path / "whole")) == list(range(9))
    drawn = [read_curves(tmp_path / name)["train/loss"].dropna().tolist() for name in ("whole", "killed")]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 9
    files = [_weights.read_weights(tmp_path / name / "prn.safetensors").tensors for name in ("whole", "killed")]
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])


def test_finished_epoch_resumes_exactly(shards, tmp_path):
    """A run of one epoch, resumed for a second, goes on as a run of two."""
    common = ["--data.batch_size", "4"]
    cli.main(arguments(shards, tmp_path / "two", *common, "--trainer.max_epochs", "2"))
    cli.main(arguments(shards, tmp_path / "one", *common, "--trainer.max_epochs", "1"))
    cli.main(["--resume", str(tmp_path / "one"), "--trainer.max_epochs", "2"])
    assert curve(tmp_path / "one") == curve(tmp_path / "two")
    assert curve(tmp_path / "one", "val/nme_2d") == curve(tmp_path / "two", "val/nme_2d")


def test_two_processes_equal_one(shards, tmp_path):
    """Same global batch, batch norm frozen: same losses to 1e-4; 5 validation faces over 2 ranks count 5."""
    common = ["--model.freeze_batch_norm", "true", "--trainer.max_epochs", "2", "--trainer.accelerator", "cpu"]
    two = [*common, "--data.batch_size", "2", "--trainer.devices", "2", "--trainer.strategy", "ddp_fork"]
    command = [sys.executable, "-m", "prnbench", "train", *arguments(shards, tmp_path / "two", *two)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(prn.__file__).parents[2])}
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    cli.main(arguments(shards, tmp_path / "one", *common, "--data.batch_size", "4"))
    output, _ = child.communicate(timeout=300)
    assert child.returncode == 0, output
    one, both = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert len(one) == 6 and set(one) == set(both)
    assert max(abs(one[step] - both[step]) for step in one) < 1e-4
    assert set(curve(tmp_path / "two", "val/faces").values()) == {5.0}
    for column in ("val/nme_2d", "val/nme_2d_balanced"):
        ours, theirs = curve(tmp_path / "one", column), curve(tmp_path / "two", column)
        assert list(ours.values()) == pytest.approx(list(theirs.values()), rel=1e-3)


def test_run_writes_what_a_user_needs(shards, tmp_path):
    run = tmp_path / "run"
    cli.main(arguments(shards, run, "--trainer.max_epochs", "1", "--data.batch_size", "4"))
    written = {"config.yaml", "checkpoints", "pictures", "curves", "curves.png", "prn.safetensors"}
    assert written <= {p.name for p in run.iterdir()}
    picture = next((run / "pictures").glob("*.png"))
    assert picture.stat().st_size > 10_000
    stored = yaml.safe_load((run / "config.yaml").read_text())
    assert stored["data"]["resolution"] == 32 and stored["model"]["learning_rate"] == 1e-4
    for file in (run / "prn.safetensors", run / "checkpoints" / "last.ckpt"):
        predictor = load_model(file)
        assert predictor.card.trained and "12 faces of" in predictor.card.trained_on
    metadata = _weights.read_weights(run / "prn.safetensors").metadata
    assert metadata["face_model"] == load_face_model().fingerprint
    assert metadata["resolution"] == "32" and load_model(run / "prn.safetensors").resolution == 32
    assert load_model(run / "prn.safetensors", resolution=64).resolution == 64

    more = ["--model.initial_weights", str(run / "prn.safetensors"), "--model.learning_rate", "0"]
    cli.main(arguments(shards, tmp_path / "more", "--trainer.max_epochs", "1", *more))
    first, second = (_weights.read_weights(tmp_path / name / "prn.safetensors").tensors for name in ("run", "more"))
    assert all(torch.equal(first[name], second[name]) for name in first if name.endswith("conv.weight"))


def test_divergence_keeps_the_batch(shards, tmp_path):
    rate = ["--model.learning_rate", "1e30", "--trainer.max_epochs", "3", "--data.batch_size", "4"]
    with pytest.raises(TrainingDivergedError, match="training diverged at step") as caught:
        cli.main(arguments(shards, tmp_path, *rate))
    with np.load(caught.value.file) as stored:
        assert stored["image_BRR3"].shape == (4, 32, 32, 3)
        assert np.isfinite(stored["position_map_BMM3"]).all()


def test_accumulation_clipping_and_views_train(shards, tmp_path):
    more = ["--trainer.accumulate_grad_batches", "2", "--trainer.gradient_clip_val", "1", "--data.views", "2"]
    more += ["--model.objective", "{loss: l1, consistency: 0.5}", "--data.batch_size", "3", "--trainer.max_epochs", "1"]
    cli.main(arguments(shards, tmp_path, *more))
    assert len(curve(tmp_path, "train/views")) == 2


# --- usage


def test_wrong_usage_is_one_clear_error(shards, tmp_path):
    with pytest.raises(UsageError, match=r"unknown configuration 'prn_moder'\. Did you mean 'prn_modern'"):
        cli.main(["--config", "prn_moder", "--data", str(shards)])
    with pytest.raises(InputError, match="no such configuration"):
        cli.main(["--config", str(tmp_path / "none.yaml")])
    with pytest.raises(InputError, match="nothing to resume here"):
        cli.main(["--resume", str(tmp_path)])
    with pytest.raises(UsageError, match="--data needs a value"):
        cli.main(["--config", "prn", "--data"])
    with pytest.raises(UsageError, match="unknown model 'prm'"):
        cli.main(arguments(shards, tmp_path, "--model.model", "prm"))
    with pytest.raises(UsageError, match="wrong objective"):
        cli.main(arguments(shards, tmp_path, "--model.objective", "{loss: l7}"))


def test_wrong_shards_are_refused(faces, tmp_path):
    stranger = write_faces(tmp_path / "stranger", faces, fingerprint="0" * 64)
    with pytest.raises(FaceModelError, match="not those of the face model 'builtin'"):
        cli.main(arguments(stranger, tmp_path / "run"))
    few = write_faces(tmp_path / "few", [replace(faces[0], split="val")])
    with pytest.raises(InputError, match="0 training and 1 validation faces"):
        cli.main(arguments(few, tmp_path / "run"))


def test_print_config_shows_the_recipe(capsys):
    with pytest.raises(SystemExit) as done:
        cli.main(["--config", "prn", "--data", "somewhere", "--print_config"])
    assert done.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["learning_rate"] == 1e-4 and printed["model"]["halve_every"] == 5
    assert printed["data"]["batch_size"] == 16 and printed["data"]["shards"] == "somewhere"
    recipe = {"rotation_deg": 45, "scale": [0.9, 1.2], "shift": 0.1, "gain": [0.6, 1.4]}
    assert recipe.items() <= printed["data"]["augmentation"].items()


def test_mean_face_is_trained_by_one_pass(shards, faces, tmp_path):
    assert cli.main(["--config", "mean_face", "--data", str(shards), "--out", str(tmp_path)]) == 0
    predictor = load_model("mean_face", weights=tmp_path / "mean_face.npz")
    boxes = [sample.box_px for sample in faces]
    sizes = np.array([[b[2] - b[0], b[3] - b[1]] for b in boxes])
    expected = np.mean(
        [(s.landmarks_px[:, :2] - b[:2]) / wh for s, b, wh in zip(faces, boxes, sizes, strict=True)], axis=0
    )
    placed = predictor.postprocess(None, [np.array([10.0, 20.0, 110.0, 220.0])])[0].landmarks_px
    np.testing.assert_allclose(placed[:, :2], expected * [100, 200] + [10, 20], atol=1e-2)
    with pytest.raises(UsageError, match="needs --data"):
        cli.main(["--config", "mean_face"])


def test_checkpoint_of_another_program_is_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(WeightsError, match="not a readable checkpoint of prnbench"):
        load_model(tmp_path / "other.ckpt")
    (tmp_path / "evil.ckpt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(WeightsError, match="not a readable checkpoint of prnbench"):
        load_model(tmp_path / "evil.ckpt")


@pytest.mark.slow
def test_it_learns(faces, tmp_path):
    """Eight faces without augmentation, a few hundred steps: well below the mean face's error."""
    eight = [replace(s, split=split, id=f"{split}{s.id}") for s in faces[:8] for split in ("train", "val")]
    shards = write_faces(tmp_path / "eight", eight)
    still = "{rotation_deg: 0, scale: [1, 1], shift: 0, gain: [1, 1], occlusion: 0}"
    more = "--data.batch_size 8 --data.resolution 64 --model.network.width 8 --model.learning_rate 1e-3"
    more += " --model.objective.loss l1 --model.schedule cosine --model.batch_norm_momentum 0.1"
    more += " --trainer.max_epochs 150 --trainer.check_val_every_n_epoch 150"
    cli.main(arguments(shards, tmp_path / "run", "--data.augmentation", still, *more.split()))
    assert min(curve(tmp_path / "run", "val/nme_2d").values()) < 12  # untrained 40, the mean face 17
