"""The CI files that users copy: they parse, say the same, name options that exist, and their commands run."""

import json
import os
import shlex
from pathlib import Path

import pytest

from prnbench.cli import _parser
from tests import workflow

ROOT = Path(__file__).parents[1]
FILES = [ROOT / ".github/workflows/regression.yml", ROOT / "docs/ci/gitlab.yml"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_commands_are_those_of_the_command_line(path):
    variables, commands = workflow.job_of(path)
    assert [shlex.split(command)[1] for command in commands] == ["evaluate", "check"]
    for command in commands:
        _, name, *rest = shlex.split(os.path.expandvars(_filled(command, variables)))
        _parser(name).parse_args(rest)
    assert (ROOT / variables["BASELINE"] / "baseline.json").is_file()


def _filled(command, variables):
    for name, value in variables.items():
        command = command.replace(f"${name}", value)
    return command


def test_both_files_are_the_same_gate():
    first, second = (workflow.job_of(path) for path in FILES)
    assert first[1] == second[1]
    assert {name: second[0][name] for name in first[0]} == first[0]


def test_tox_runs_the_workflow_itself():
    assert "-m tests.workflow .github/workflows/regression.yml" in (ROOT / "tox.ini").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_very_commands_run(tmp_path, path):
    few = {"OPTIONS": "--limit 6 --no-timing --private", "PYTHONPATH": str(ROOT)}
    run, other = str(tmp_path / "run"), str(tmp_path / "other")
    assert workflow.run(path, **few, RUN=run, BASELINE=str(tmp_path / "missing")) == 2
    assert workflow.run(path, **few, RUN=other, BASELINE=run) == 0
    verdict = json.loads((tmp_path / "other" / "check.json").read_text())
    assert verdict["status"] == "passed" and (tmp_path / "other" / "junit.xml").is_file()
