"""The command line: help without heavy imports, one clear error, exit codes, every command has its function."""

import subprocess
import sys

import pytest

from prnbench import commands
from prnbench.cli import COMMANDS, main
from tests.fake import aflw2000_3d

HEAVY = ("torch", "lightning", "mlflow", "matplotlib", "pandas", "cv2", "h5py", "numba", "scipy", "sklearn", "numpy")


def test_help_imports_nothing_heavy():
    script = (
        "import sys; from prnbench.cli import main; main(['--help']); main(['--version']); "
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")
    for name in COMMANDS:
        assert name in done.stdout


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_its_function_and_help(name, capsys):
    if name == "train":
        from prnbench.training.cli import main as train

        assert callable(train)
        return
    assert callable(getattr(commands, name.replace("-", "_")))
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    assert f"prnbench {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evalute"], "Did you mean 'evaluate'"),
        (["convert", "w300lp"], "--root, --out"),
        (["convert", "300wlp", "--root", ".", "--out", "x"], "unknown converter"),
        (["convert", "w300lp", "--root", "nowhere", "--out", "x"], "nowhere: there is no such folder"),
        (["evaluate"], "nothing to evaluate"),
        (["evaluate", "--model", "prnn"], "Did you mean 'prn'"),
        (["evaluate", "--model", "mean_face", "--dataset", "aflw2000"], "Did you mean 'aflw2000_3d'"),
        (["evaluate", "--model", "mean_face", "--dataset", "aflw2000_3d"], "has to be brought along"),
        (["evaluate", "--model", "mean_face", "--root", "."], "belong to one --dataset"),
        (["report", "nowhere"], "nowhere"),
        (["verify", "."], "no shards here"),
        (["info", "--dataset", "x", "--model", "y"], "one thing at a time"),
        (["check", "nowhere", "--baseline", "missing.json"], "nowhere"),
        (["check", "x", "--baseline", "y", "--max-nme-increase", "lots"], "not a tolerance"),
        (["predict", "nowhere.jpg", "--model", "mean_face"], "no such picture"),
        (["predict", "x.jpg", "--nonsense"], "--nonsense"),
    ],
)
def test_errors_are_one_line_with_exit_code_2(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.strip().startswith("prnbench: ")
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1


def test_debug_shows_the_traceback(capsys):
    with pytest.raises(Exception, match="unknown command"):
        main(["evalute", "--debug"])


def test_a_fault_of_prnbench_is_one_line_too(capsys, monkeypatch):
    def broken(_):
        raise RuntimeError("boom")

    monkeypatch.setattr(commands, "verify", broken)
    assert main(["verify", "."]) == 2
    assert "internal error: RuntimeError: boom. Run again with --debug." in capsys.readouterr().err


def test_convert_verify_and_info_from_the_command_line(tmp_path, capsys):
    aflw2000_3d.write(tmp_path / "raw", 3)
    (tmp_path / "raw" / "image00004.mat").write_bytes(b"")
    shards = tmp_path / "shards"
    assert main(["convert", "aflw2000_3d", "--root", str(tmp_path / "raw"), "--out", str(shards)]) == 0
    told = capsys.readouterr().err
    assert "image00004.jpg" in told
    assert "the file is empty" in told
    assert "give --face-model" in told
    assert main(["verify", str(shards)]) == 0
    picture = tmp_path / "faces.png"
    assert main(["info", str(shards), "--gallery", str(picture)]) == 0
    assert picture.stat().st_size > 10_000
    assert "landmarks" in capsys.readouterr().out
    shard = shards / "shard-00000.h5"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert main(["verify", str(shards)]) == 1
    assert "truncated" in capsys.readouterr().err
    assert main(["convert", "aflw2000_3d", "--root", str(tmp_path / "raw"), "--out", str(shards), "--strict"]) in (0, 2)


def test_info_describes_cards_models_and_the_installation(capsys):
    for arguments, word in ((["--dataset", "aflw2000_3d"], "nme_2d_68-v1"), ([], "cache")):
        assert main(["info", *arguments]) == 0
        assert word in capsys.readouterr().out
