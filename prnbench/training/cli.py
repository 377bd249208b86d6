"""``prnbench train``: LightningCLI with this project's names for configurations, shards and runs.

``--config prn`` finds the file that travels with prnbench, ``--data SHARDS`` is short for ``--data.shards SHARDS``,
``--out RUN`` for ``--trainer.default_root_dir RUN``, and ``--resume RUN`` takes that run's configuration and its last
checkpoint. Everything else is LightningCLI's own.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from prnbench.benchmark_set import synthetic_training_shards
from prnbench.errors import InputError, UsageError, unknown_name
from prnbench.files import make_folder
from prnbench.progress import console

CONFIGS = Path(__file__).parents[1] / "configs"
LAST, BEST, MONITORED = "last.ckpt", "best", "nme_2d"

CHATTER = (
    "LightningCLI's args parameter",
    "`isinstance(treespec",
    "The number of training batches",
    "Checkpoint directory",
    "The 'train_dataloader' does not have many workers",
    "It is recommended to use `self.log('val/",
    "torch.distributed.nn.functional.all_gather is deprecated",
    "The 'val_dataloader' does not have many workers",
)
"""Beginnings of warnings that tell the user nothing about the run."""


def main(argv: list[str]) -> int:
    """Run ``prnbench train`` with these arguments; returns the exit code (143 after SIGTERM)."""
    options, rest = _own_options(argv)
    if _fits_in_closed_form(options):
        return _fit_mean_face(options, rest)
    if options["resume"]:
        rest = _resumed(Path(options["resume"]), rest)
    elif _needs_built_in_data(options, rest):
        options["data"] = str(synthetic_training_shards())
        console().print(f"no --data: training on the small built-in set, {options['data']}", soft_wrap=True)
    return _train([*_config_arguments(options), *rest])


def _needs_built_in_data(options: dict[str, str], rest: list[str]) -> bool:
    """Whether a configuration of prnbench's own is to be trained and nobody named the data."""
    asked = any(argument.split("=")[0] in ("--help", "-h", "--print_config", "--data.shards") for argument in rest)
    return options["config"] in config_names() and not options["data"] and not asked


def config_names() -> list[str]:
    """Names of the configurations that travel with prnbench."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def find_config(name: str) -> Path:
    """A configuration by name, or the user's own file."""
    if Path(name).suffix in (".yaml", ".yml", ".json"):
        if not Path(name).is_file():
            raise InputError("no such configuration", file=name, remedy=f"or take one of {', '.join(config_names())}")
        return Path(name)
    if name not in config_names():
        raise unknown_name("configuration", name, config_names())
    return CONFIGS / f"{name}.yaml"


def _own_options(argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """Take ``--config``, ``--data``, ``--out`` and ``--resume`` (also as ``--name=value``) out of the arguments."""
    options = dict.fromkeys(("config", "data", "out", "resume"), "")
    rest, waiting = [], iter(argv)
    for argument in waiting:
        name, equals, value = argument.partition("=")
        if not name.startswith("--") or name[2:] not in options:
            rest.append(argument)
            continue
        value = value if equals else next(waiting, "")
        if not value:
            raise UsageError(f"{name} needs a value", remedy="see `prnbench train --help`")
        options[name[2:]] = value
    return options, rest


def _config_arguments(options: dict[str, str]) -> list[str]:
    arguments = []
    if options["config"]:
        arguments += ["--config", str(find_config(options["config"]))]
    if options["data"]:
        arguments += ["--data.shards", options["data"]]
    if options["out"]:
        arguments += ["--trainer.default_root_dir", options["out"]]
    return arguments


def _resumed(run: Path, rest: list[str]) -> list[str]:
    checkpoint, config = run / "checkpoints" / LAST, run / "config.yaml"
    for file in (config, checkpoint):
        if not file.is_file():
            raise InputError("nothing to resume here", file=file, remedy="give the folder of an earlier run (--out)")
    return ["--config", str(config), *rest, "--trainer.default_root_dir", str(run), "--ckpt_path", str(checkpoint)]


# -- training by gradients


def _train(arguments: list[str]) -> int:
    from lightning.pytorch.cli import LightningCLI
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    from prnbench.data.datamodule import FaceData
    from prnbench.training.curves import draw_curves
    from prnbench.training.module import FaceModule

    class TrainCLI(LightningCLI):
        """LightningCLI with this project's run folder, checkpoints, records and pictures."""

        def add_arguments_to_parser(self, parser: Any) -> None:
            parser.link_arguments("model.model", "data.model")
            parser.add_argument("--ckpt_path", type=str | None, default=None, help="checkpoint to go on from")

        def instantiate_trainer(self, **kwargs: Any) -> Any:
            settings = self.config_init["trainer"]
            self.run = run_folder(settings["default_root_dir"])
            callbacks = [*(settings["callbacks"] or []), *_callbacks(self.run, settings["enable_checkpointing"])]
            store = Path("reports") if settings["default_root_dir"] is None else None
            logger = settings["logger"]
            if logger in (None, True):
                logger = _loggers(self.run, store, resume=bool(self.config_init["ckpt_path"]))
            return super().instantiate_trainer(
                callbacks=callbacks, logger=logger, default_root_dir=self.run, use_distributed_sampler=False, **kwargs
            )

    keep_freed_memory()
    _quieten()
    cli = TrainCLI(
        FaceModule,
        FaceData,
        args=arguments,
        run=False,
        save_config_callback=None,
        parser_kwargs={"prog": "prnbench train", "description": __doc__},
        trainer_defaults={"enable_model_summary": False},
    )
    trainer, checkpoint = cli.trainer, cli.config["ckpt_path"]
    if trainer.is_global_zero:
        make_folder(cli.run)
        cli.parser.save(cli.config, cli.run / "config.yaml", skip_none=False, overwrite=True)
        console().print(f"run folder: {cli.run}")
    cli.datamodule.setup()
    try:
        trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, weights_only=True)
    except SIGTERMException:
        console().print(f"stopped by SIGTERM; go on with: prnbench train --resume {cli.run}")
        return 143
    if trainer.is_global_zero and trainer.state.finished:
        curves = draw_curves(cli.run)
        records = [cli.run / "config.yaml", *([curves] if curves else [])]
        trackers = [one for one in trainer.loggers if hasattr(one, "register")]
        _finish(cli.run, cli.model.hparams["model"], records, trackers)
    return 0


def _quieten() -> None:
    """Leave out what Lightning says of itself: its errors and warnings about this run stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for beginning in CHATTER:
        warnings.filterwarnings("ignore", message=re.escape(beginning))


def run_folder(given: str | Path | None) -> Path:
    """The run's folder: the given one, or ``runs/<time>``; processes that a launcher starts share the first one's."""
    if given is not None:
        return Path(given)
    if "LOCAL_RANK" not in os.environ or "PRNBENCH_RUN" not in os.environ:
        os.environ["PRNBENCH_RUN"] = str(Path("runs") / time.strftime("%Y%m%d-%H%M%S"))
    return Path(os.environ["PRNBENCH_RUN"])


def _callbacks(run: Path, checkpoints: bool | None) -> list[Any]:
    from lightning.pytorch.callbacks import ModelCheckpoint

    from prnbench.training.callbacks import SamplePictures, SaveLast, Throughput

    observers = [Throughput(), SamplePictures(run / "pictures")]
    if checkpoints is False:
        return observers
    best = ModelCheckpoint(
        run / "checkpoints",
        BEST,
        monitor=f"val/{MONITORED}",
        enable_version_counter=False,
        auto_insert_metric_name=False,
    )
    return [*observers, SaveLast(run / "checkpoints" / LAST), best]


def _loggers(run: Path, store: Path | None, *, resume: bool) -> list[Any]:
    """CSV in the run, and MLflow: the named store, else the one of all results, else (with ``--out``) in the run."""
    from lightning.pytorch.loggers import CSVLogger

    from prnbench.tracking import lightning_logger

    store = None if os.environ.get("MLFLOW_TRACKING_URI") else store
    return [CSVLogger(run, "curves"), lightning_logger(run, run.name, store=store, resume=resume)]


def _finish(run: Path, model: str, records: list[Path], trackers: list[Any]) -> None:
    """Write the best weights as safetensors, say where they are and how good they were, and hand over what is kept."""
    from prnbench.models import _weights
    from prnbench.training.export import export_weights

    checkpoint = run / "checkpoints" / f"{BEST}.ckpt"
    if not checkpoint.is_file():
        return
    out = export_weights(checkpoint, run / f"{model}.safetensors")
    score = _weights.read_weights(out).metadata["val_nme_2d"]
    console().print(f"best validation NME {float(score):.2f} %; weights: {out}")
    for tracker in trackers:
        tracker.log_files([*records, checkpoint])
        tracker.register(out)
    console().print(f"next: prnbench evaluate --model {out}")


def keep_freed_memory() -> None:
    """Ask glibc to keep freed memory: returning every activation to the kernel halves the speed of CPU training.

    The same as the environment variables ``MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=...``; elsewhere it does nothing.
    """
    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


# -- the mean face


def _fits_in_closed_form(options: dict[str, str]) -> bool:
    if not options["config"]:
        return False
    import yaml  # type: ignore[import-untyped]

    config = yaml.safe_load(find_config(options["config"]).read_text(encoding="utf-8"))
    return isinstance(config, dict) and (config.get("model") or {}).get("model") == "mean_face"


def _fit_mean_face(options: dict[str, str], rest: list[str]) -> int:
    from prnbench.data.shards import open_shards
    from prnbench.models.mean_face import fit

    if not options["data"]:
        raise UsageError("mean_face needs --data SHARDS", remedy="give the training set's converted folder")
    face_model = rest[1] if len(rest) == 2 and rest[0] == "--data.face_model" else None
    if rest and face_model is None:
        raise UsageError(f"mean_face takes no option {rest[0]}", remedy="it takes --data, --data.face_model and --out")
    shards = open_shards(options["data"], face_model)
    out = run_folder(options["out"] or None) / "mean_face.npz"
    mean = fit(shards, out, f"{shards.name} ({Path(options['data']).name})")
    console().print(f"mean of {mean.faces} faces: {out}")
    console().print(f"next: prnbench evaluate --model mean_face --weights {out}")
    return 0
