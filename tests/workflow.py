"""Runs the commands of a CI file as its CI would: ``python -m tests.workflow .github/workflows/regression.yml``."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml


def job_of(path):
    """(variables, commands) of the one job of a GitHub workflow or a GitLab file, of prnbench's commands only."""
    content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if "jobs" in content:
        [job] = content["jobs"].values()
        variables, lines = job["env"], [step.get("run", "") for step in job["steps"]]
    else:
        [job] = content.values()
        variables, lines = job["variables"], job["script"]
    return variables, [line for line in lines if line.startswith("prnbench ")]


def run(path, **changed):
    """Run the commands with bash, some variables changed; returns the exit code of the first that fails, or 0."""
    variables, commands = job_of(path)
    scripts = str(Path(sys.executable).parent)
    own = {name: value for name, value in variables.items() if "$" not in value}  # the others are the CI's own
    environment = {**os.environ, **own, **changed, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    for command in commands:
        print(f"$ {command}", flush=True)
        if code := subprocess.run(["bash", "-ec", command], env=environment, check=False).returncode:
            return code
    return 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(run(sys.argv[1], RUN=f"{folder}/run"))
