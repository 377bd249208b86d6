"""The command line: parsing only. One parser is built, that of the named command, so that ``--help`` is instant."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from prnbench.errors import PrnbenchError, UsageError, unknown_name

Parser = argparse.ArgumentParser


def _evaluate(parser: Parser) -> None:
    what = parser.add_argument_group("what to evaluate")
    what.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help="a model of prnbench (prn, mean_face, ...), "
        "a .safetensors, .ckpt or .onnx file, or package.module:build; may be given several times",
    )
    what.add_argument("--weights", type=Path, metavar="FILE", help="weights for a single --model given by name")
    what.add_argument(
        "--predictions",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="predictions of any system (.npz, .h5, .json or a folder); may be given several times",
    )
    data = parser.add_argument_group("on which faces")
    data.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="NAME",
        help="synthetic_faces (built in, the default), aflw2000_3d, florence, w300lp",
    )
    data.add_argument("--root", type=Path, metavar="DIR", help="the raw data set; converted once and cached")
    data.add_argument("--shards", type=Path, metavar="DIR", help="a converted data set instead of --root")
    data.add_argument(
        "--annotations",
        type=Path,
        metavar="DIR",
        help="annotation files held beside AFLW2000-3D; with --predictions they suffice, no images are needed",
    )
    data.add_argument(
        "--face-model", metavar="PATH", help="BFM.mat, raw BFM parts or ICT-FaceKit: adds dense metrics on real data"
    )
    data.add_argument("--limit", type=int, metavar="N", help="only the first N faces (the result is marked so)")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the results (default: reports/<model>-<data set>)"
    )
    how.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    how.add_argument(
        "--runtime", default=None, help="eager, compile, onnx or openvino (default: the fastest installed)"
    )
    how.add_argument("--precision", default=None, help="float32 or bf16")
    how.add_argument(
        "--devices", type=int, default=1, metavar="N", help="processes that share the faces; with cuda one a GPU"
    )
    how.add_argument(
        "--robustness",
        type=int,
        nargs="?",
        const=100,
        default=0,
        metavar="FACES",
        help="also measure under 12 corruptions in 5 severities, on so many faces (default: %(const)s)",
    )
    how.add_argument("--no-timing", action="store_true", help="leave out the timing run")
    how.add_argument("--no-tracking", action="store_true", help="do not log to MLflow")
    how.add_argument("--private", action="store_true", help="leave every picture of a person out of the report")


def _convert(parser: Parser) -> None:
    parser.add_argument("converter", metavar="NAME", help="w300lp, aflw2000_3d or florence")
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="the raw data set")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="SHARDS", help="folder of the shards to make or to finish"
    )
    parser.add_argument(
        "--face-model", metavar="PATH", help="BFM.mat, raw BFM parts, ICT-FaceKit or `builtin`: adds position maps"
    )
    parser.add_argument(
        "--store",
        choices=("maps", "fast", "parameters"),
        default="maps",
        help="position maps; the same uncompressed; or parameters, made into maps when loaded (default: %(default)s)",
    )
    parser.add_argument(
        "--resolution", type=int, default=256, choices=(128, 256, 512), help="texels a side (default: %(default)s)"
    )
    parser.add_argument("--annotations", type=Path, metavar="DIR", help="annotation files held beside the data set")
    parser.add_argument("--dataset", metavar="CARD", help="card to file it under (default: that of the converter)")
    parser.add_argument("--pitch", type=float, nargs="+", metavar="DEG", help="Florence: pitch angles of the views")
    parser.add_argument("--yaw", type=float, nargs="+", metavar="DEG", help="Florence: yaw angles of the views")
    parser.add_argument(
        "--seed", type=int, default=0, help="Florence: seed of the ground-truth points (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: all cores)")
    parser.add_argument("--strict", action="store_true", help="stop at the first bad face instead of listing it")
    parser.add_argument(
        "--backend", choices=("local", "dask"), default="local", help="where the jobs run (default: %(default)s)"
    )
    parser.add_argument("--scheduler", metavar="ADDRESS", help="Dask scheduler (tcp://host:port) for --backend dask")


def _synth(parser: Parser) -> None:
    parser.add_argument(
        "--layout",
        choices=("w300lp", "aflw2000_3d", "florence"),
        default="aflw2000_3d",
        help="the real data set whose folders, names and fields are written (default: %(default)s)",
    )
    parser.add_argument("--count", type=int, default=300, help="faces, or subjects for florence (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write")
    parser.add_argument("--face-model", metavar="PATH", help="another morphable model than the built-in head")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: all cores)")
    parser.add_argument(
        "--sheets", type=Path, metavar="DIR", help="write contact sheets of the head instead of a data set"
    )


def _predict(parser: Parser) -> None:
    parser.add_argument("image", type=Path, nargs="+", help="pictures with one face each")
    parser.add_argument("--model", default="prn", metavar="NAME", help="default: %(default)s")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="weights of the model")
    parser.add_argument(
        "--box",
        type=float,
        nargs=4,
        metavar=("L", "T", "R", "B"),
        help="face box in pixels; else a .mat beside the picture, else the picture's middle, refined",
    )
    parser.add_argument("--out", type=Path, default=Path("predictions"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--mesh", choices=("obj", "ply"), default="obj", help="mesh format (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")


def _report(parser: Parser) -> None:
    parser.add_argument("run", type=Path, help="folder with per_sample.parquet (or .csv)")
    parser.add_argument("--private", action="store_true", help="leave every picture of a person out")


def _compare(parser: Parser) -> None:
    parser.add_argument("run", type=Path, nargs="+", help="folders of evaluations, the reference first")
    parser.add_argument(
        "--out", type=Path, default=Path("reports/comparison"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument("--private", action="store_true", help="leave every picture of a person out")


def _leaderboard(parser: Parser) -> None:
    parser.add_argument(
        "action",
        choices=("show", "add", "render", "verify"),
        nargs="?",
        default="show",
        help="show: print the boards; add RUN: file its results; render: write Markdown and HTML; verify: recompute",
    )
    parser.add_argument("run", type=Path, nargs="?", help="folder of an evaluation, for add")
    parser.add_argument("--folder", type=Path, default=Path("leaderboards"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--date", help="date of the entry, YYYY-MM-DD (default: today)")
    parser.add_argument(
        "--budget", default="", metavar="TEXT", help="the cost of the training, if the weights do not say"
    )


def _check(parser: Parser) -> None:
    parser.add_argument("run", type=Path, nargs="?", help="folder of an evaluation (default: evaluate --model now)")
    parser.add_argument(
        "--baseline", type=Path, required=True, metavar="FILE|RUN", help="stored baseline, or an evaluation"
    )
    parser.add_argument(
        "--max-nme-increase", default="2%", metavar="PERCENT", help="tolerated increase of the NME (default: 2%%)"
    )
    parser.add_argument(
        "--max-latency-increase", default="10%", metavar="PERCENT", help="tolerated slowdown (default: 10%%)"
    )
    parser.add_argument(
        "--model", metavar="NAME", help="the candidate, as for evaluate; evaluated when no run is given (default: prn)"
    )
    parser.add_argument(
        "--baseline-model",
        metavar="NAME",
        help="the baseline's model (weights file or package.module:build): latency is then measured now, both in turns",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for check.md, check.json and junit.xml (default: the run)"
    )
    parser.add_argument("--update", metavar="REASON", help="write the run as the new baseline, with this reason")


def _dashboard(parser: Parser) -> None:
    parser.add_argument(
        "store", type=Path, nargs="?", help="mlflow.db or a folder that holds it (default: reports/mlflow.db)"
    )
    parser.add_argument("--port", type=int, default=5000, help="default: %(default)s")
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")


def _info(parser: Parser) -> None:
    parser.add_argument("shards", type=Path, nargs="?", help="a converted data set")
    parser.add_argument("--dataset", metavar="NAME", help="a data-set card and its protocols")
    parser.add_argument("--model", metavar="NAME", help="a model's card")
    parser.add_argument("--face-model", metavar="PATH", help="a morphable model")
    parser.add_argument(
        "--gallery", type=Path, metavar="PNG", help="write a picture: faces with their landmarks, or the face model"
    )


def _verify(parser: Parser) -> None:
    parser.add_argument("shards", type=Path, help="a converted data set")


def _benchmark(parser: Parser) -> None:
    parser.add_argument("what", choices=("faces", "convert", "train", "infer", "metrics"), help="which room to measure")
    parser.add_argument("--repeats", type=int, metavar="N", help="repetitions of each measurement")
    parser.add_argument("--model", default="prn", metavar="NAME", help="infer: the model (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records")


def _track(parser: Parser) -> None:
    parser.add_argument("run", type=Path, help="folder of an evaluation to upload to the tracking store")
    parser.add_argument(
        "--store", metavar="URI", help="tracking store (default: MLFLOW_TRACKING_URI, else mlflow.db in the run)"
    )
    parser.add_argument("--model", metavar="NAME", help="also register the run's model, to be loaded and served")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="weights for a --model given by name")
    parser.add_argument(
        "--alias", choices=("champion", "candidate"), default="candidate", help="its alias (default: %(default)s)"
    )


def _import_weights(parser: Parser) -> None:
    parser.add_argument("source", choices=("tf",), help="tf: a TensorFlow V2 checkpoint of the original PRNet release")
    parser.add_argument("checkpoint", type=Path, help="prefix of the checkpoint (without .index)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .safetensors file to write")


def _export(parser: Parser) -> None:
    parser.add_argument("checkpoint", type=Path, help="a .ckpt of `prnbench train` or a .safetensors file")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=".safetensors or .onnx")
    parser.add_argument("--float16", action="store_true", help="store half precision")


COMMANDS: dict[str, tuple[str, Callable[[Parser], None] | None]] = {
    "evaluate": ("score models or predictions on a data set: tables, figures, report, MLflow run", _evaluate),
    "predict": ("reconstruct the face in a picture: mesh, 68 landmarks, overlay", _predict),
    "train": ("train a model on shards (LightningCLI options; --config prn)", None),
    "convert": ("turn a raw data set into HDF5 shards", _convert),
    "synth": ("write synthetic faces in a real data set's layout", _synth),
    "verify": ("check shards against their manifest", _verify),
    "info": ("describe shards, a data set, a model or a face model", _info),
    "report": ("rebuild the report from a stored per-sample table", _report),
    "compare": ("compare evaluations with paired statistics", _compare),
    "leaderboard": ("show, add to, render or verify the boards", _leaderboard),
    "check": ("fail (exit 1) if accuracy or latency got worse than a baseline", _check),
    "dashboard": ("open MLflow's pages on the stored runs", _dashboard),
    "track": ("upload a stored run to the tracking store", _track),
    "benchmark": ("measure speed and size, side by side with a reference", _benchmark),
    "import-weights": ("read weights of the original TensorFlow release", _import_weights),
    "export": ("write weights as safetensors or ONNX", _export),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 1 failed check, 2 usage or input error, 3 undecided)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        return _run(arguments)
    except PrnbenchError as error:
        if debug:
            raise
        print(f"prnbench: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("prnbench: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:  # a fault of prnbench itself: one line, the rest on request
        if debug:
            raise
        print(f"prnbench: internal error: {type(error).__name__}: {error}. Run again with --debug.", file=sys.stderr)
        return 2


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] in ("-V", "--version"):
        from prnbench import __version__

        print(f"prnbench {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        raise unknown_name("command", name, COMMANDS)
    if COMMANDS[name][1] is None:
        from prnbench.training.cli import main as train

        return train(rest)
    options = _parser(name).parse_args(rest)
    from prnbench import commands

    run: Callable[[argparse.Namespace], int] = getattr(commands, name.replace("-", "_"))
    return run(options)


class _Parser(Parser):
    """An argument parser whose errors are PrnbenchErrors."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(f"{self.prog}: {message}", remedy=f"see `{self.prog} --help`")


def _parser(name: str) -> Parser:
    text, add_arguments = COMMANDS[name]
    parser = _Parser(prog=f"prnbench {name}", description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False)
    if add_arguments is not None:
        add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (text, _) in COMMANDS.items()]
    return "\n".join(
        [
            "prnbench: benchmark and data-set toolkit for UV position-map regression of faces",
            "",
            "usage: prnbench COMMAND [options]      prnbench COMMAND --help tells them",
            "",
            *lines,
            "",
            "Start with: prnbench evaluate --model prn",
        ]
    )
