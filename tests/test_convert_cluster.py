"""A conversion on a Dask cluster: a real scheduler and two worker processes over TCP, the same bytes as at home."""

import json
import subprocess
import sys
import time

import pytest

from prnbench.convert import pipeline
from prnbench.errors import UsageError
from tests.fake import aflw2000_3d

pytest.importorskip("distributed")


def start(folder, *command):
    """A process of Dask's in a folder, quiet."""
    command = [sys.executable, "-m", *command, "--no-dashboard"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)


def address_in(card, patience_s=120):
    """The scheduler's address, once it has written its card."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if card.is_file() and (text := card.read_text()).rstrip().endswith("}"):
            return json.loads(text)["address"]
        time.sleep(0.1)
    raise TimeoutError(card)


@pytest.fixture
def scheduler(tmp_path):
    """Address of a scheduler with two workers, each a process of its own."""
    card = tmp_path / "scheduler.json"
    listen = ["--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(card)]
    processes = [start(tmp_path, "distributed.cli.dask_scheduler", *listen)]
    try:
        address = address_in(card)
        worker = ["distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny"]
        processes += [start(tmp_path, *worker), start(tmp_path, *worker)]
        yield address
    finally:
        for process in processes[::-1]:  # at once: a worker that is asked to stop looks for its scheduler first
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_cluster_gives_the_bytes_of_one_machine(tmp_path, monkeypatch, scheduler):
    from dask.distributed import Client

    monkeypatch.setattr(pipeline, "FACES_PER_SHARD", 3)
    aflw2000_3d.write(tmp_path / "raw", 11)
    assert scheduler.startswith("tcp://127.0.0.1:")
    with Client(scheduler) as client:
        client.wait_for_workers(2, timeout=120)
        pipeline.convert("aflw2000_3d", tmp_path / "raw", tmp_path / "cluster", scheduler=scheduler)
        hosts = client.run(lambda: __import__("sys").modules.get("prnbench.convert.pipeline") is not None)
    assert len(hosts) == 2
    assert any(hosts.values())  # the shards were made over there
    pipeline.convert("aflw2000_3d", tmp_path / "raw", tmp_path / "home", workers=1)
    there, here = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("cluster", "home"))
    assert len(here) == 5
    assert there == here


def test_a_scheduler_that_is_not_there_is_told(tmp_path):
    aflw2000_3d.write(tmp_path / "raw", 2)
    with pytest.raises(UsageError, match="no Dask scheduler"):
        pipeline.convert("aflw2000_3d", tmp_path / "raw", tmp_path / "out", scheduler="tcp://127.0.0.1:9")
