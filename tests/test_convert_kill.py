"""kill -9 at ten random moments never harms a finished shard, and the result is that of an undisturbed run."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from prnbench.data import shards
from tests.fake import aflw2000_3d

SCRIPT = """
import sys
from pathlib import Path
from prnbench.convert import pipeline
pipeline.FACES_PER_SHARD = 3
print("ready", flush=True)
pipeline.convert("aflw2000_3d", Path(sys.argv[1]), Path(sys.argv[2]), workers=int(sys.argv[3]))
"""


def start(raw, out, workers):
    command = [sys.executable, "-c", SCRIPT, str(raw), str(out), str(workers)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    process.stdout.readline()
    return process


def finished(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.h5")} if folder.is_dir() else {}


def wait_for_shards(folder, process, count):
    """Until so many shards are finished (or the process is), so that kills fall into the work on any machine."""
    while len(list(folder.glob("*.h5"))) < count and process.poll() is None:
        time.sleep(0.002)


@pytest.mark.slow
def test_ten_kills(tmp_path):
    aflw2000_3d.write(tmp_path / "raw", 180)
    assert start(tmp_path / "raw", tmp_path / "whole", 1).wait() == 0
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    rng = random.Random(4)
    killed = 0
    for attempt in range(10):
        process = start(tmp_path / "raw", tmp_path / "out", 1 + attempt % 2)
        wait_for_shards(tmp_path / "out", process, len(finished(tmp_path / "out")) + rng.randrange(5))
        time.sleep(rng.uniform(0.0, 0.02))
        with contextlib.suppress(ProcessLookupError):  # a fast machine may have finished
            os.killpg(process.pid, signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        for name, content in finished(tmp_path / "out").items():
            assert content == whole[name], f"{name} is there and differs after kill {attempt}"
    assert killed >= 5, "the work was over before the kills"
    assert start(tmp_path / "raw", tmp_path / "out", 2).wait() == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == whole
    assert shards.verify(tmp_path / "out") == []
