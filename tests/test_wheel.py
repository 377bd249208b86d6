"""The wheel works outside the repository: built, installed into an environment of its own, run in another folder."""

import csv
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from prnbench.cards import dataset_names
from prnbench.cli import COMMANDS
from tests.fake.aflw2000_3d import write

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], check=True)
    [path] = folder.glob("prnbench-*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_what_the_package_reads(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {path for path in (ROOT / "prnbench").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {str(path.relative_to(ROOT)) for path in package} <= names
    assert {f"prnbench/_cards/{name}.toml" for name in dataset_names()} <= names
    assert "prnbench/_cards/protocols/landmarks.toml" in names


@pytest.mark.slow
def test_it_evaluates_in_an_environment_of_its_own(wheel, tmp_path):
    """The environment sees the installed dependencies, but neither the repository nor an editable install of it."""
    venv, work = tmp_path / "venv", tmp_path / "work"
    work.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    with zipfile.ZipFile(wheel) as archive:
        [site] = venv.glob("lib/python*/site-packages")
        archive.extractall(site)
    (site / "dependencies.pth").write_text("\n".join(p for p in sys.path if p.endswith("site-packages")) + "\n")
    python = venv / "bin" / "python"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"MLFLOW_DISABLE_TELEMETRY": "true"}

    def prnbench(*arguments):
        command = [str(python), "-m", "prnbench", *map(str, arguments)]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    where = "import prnbench; print(prnbench.__file__)"
    found = subprocess.run([str(python), "-c", where], cwd=work, env=environment, capture_output=True, text=True)
    assert str(site) in found.stdout
    assert all(name in prnbench("--help") for name in COMMANDS)
    assert "AFLW2000-3D" in prnbench("info", "--dataset", "aflw2000_3d")
    write(work / "raw", 4)
    prnbench(
        "evaluate", "--model", "mean_face", "--dataset", "aflw2000_3d", "--root", "raw", "--no-timing", "--out", "run"
    )
    assert (work / "run" / "report.html").stat().st_size > 50_000
    rows = list(csv.DictReader((work / "run" / "table.csv").open(encoding="utf-8")))
    assert rows and all(float(row["mean"]) > 0 for row in rows if row["subset"] == "all" and row["n"] == "4")
