"""Tracking against real MLflow stores: SQLite, a server on the loopback, one that is down, silent or broken."""

import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from prnbench import tracking
from prnbench.errors import InputError, OutputError, UsageError
from prnbench.models import load_model, predict
from prnbench.report import write_report
from prnbench.tracking import registry
from prnbench.tracking.store import reachable
from prnbench.training import cli
from tests.golden.runs import KEYS, made_table
from tests.rendered_faces import rendered_faces, write_faces

mlflow = pytest.importorskip("mlflow")


@pytest.fixture(autouse=True)
def _no_store_from_outside(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    return made_run(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def run(tmp_path, whole_run):
    """A fresh copy of a run folder with its report."""
    return shutil.copytree(whole_run, tmp_path / "run")


def made_run(folder, **options):
    made_table(**options).write(folder)
    write_report(folder)
    return folder


def client_of(tracked):
    return mlflow.MlflowClient(tracking_uri=tracked.uri)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def said(capsys):
    """What was printed on stderr, without line breaks."""
    return " ".join(capsys.readouterr().err.split())


def test_store_is_in_the_run_folder_unless_named(tmp_path, monkeypatch):
    assert tracking.store_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking.store_uri(tmp_path, tmp_path / "x") == f"sqlite:///{tmp_path}/x/mlflow.db"
    assert tracking.store_uri(tmp_path, tmp_path / "y.db") == f"sqlite:///{tmp_path}/y.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example:5000")
    assert tracking.store_uri(tmp_path) == "http://tracking.example:5000"
    assert tracking.store_uri(tmp_path, "http://other:1") == "http://other:1"


def test_several_models_are_nested_runs_with_the_numbers_of_the_summary(run):
    tracked = tracking.log_run(run)
    runs = client_of(tracked).search_runs([tracked.experiment_id])
    nested = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == tracked.run_id]
    children = {r.data.tags["prnbench.model"]: r for r in nested}
    assert set(children) == {"prn", "tddfa", "mean_face"}
    records = json.loads((run / "summary.json").read_text())
    for model, child in children.items():
        mine = [r for r in records if r["model"] == model]
        expected = {f"{r['protocol']}/{r['subset']}/{r['statistic']}": r["value"] for r in mine}
        logged = {name: value for name, value in child.data.metrics.items() if not name.endswith("/failed")}
        assert logged == pytest.approx(expected)
        assert {name.split("/")[0] for name in logged} == set(KEYS) - (
            {"nme_2d_dense-v1"} if model == "tddfa" else set()
        )
    assert children["tddfa"].data.metrics["nme_2d_68-v1/all/failed"] == 2
    assert children["prn"].data.tags["prnbench.digest.weights"] == "e" * 64
    assert children["prn"].data.tags["prnbench.digest.code"] == "c" * 64
    assert children["prn"].data.params["command"].startswith("prnbench evaluate")


def test_artifacts_dataset_and_faces(run, tmp_path):
    tracked = tracking.log_run(run)
    client = client_of(tracked)
    names = {item.path for item in client.list_artifacts(tracked.run_id)}
    assert {"report.html", "figures", "per_sample.parquet", "per_sample.json", "summary.json"} <= names
    child = client.search_runs([tracked.experiment_id], f"tags.`mlflow.parentRunId` = '{tracked.run_id}'")[0]
    dataset = child.inputs.dataset_inputs[0].dataset
    assert (dataset.name, dataset.digest) == ("synthetic_faces", "d" * 36)
    assert json.loads(dataset.profile) == {"faces": 60}
    assert "prnbench synth" in mlflow.data.get_source(dataset).to_dict()["tags"]["mlflow.source.name"]
    local = client.download_artifacts(child.info.run_id, "faces.json", str(tmp_path))
    assert len(json.loads(Path(local).read_text())["data"]) == 60
    assert (run / "mlartifacts").is_dir()  # beside the database, not in the working folder


def test_the_machines_load_during_an_evaluation_is_logged(run, monkeypatch):
    monkeypatch.setattr(tracking.load, "PERIOD_S", 0.05)
    with tracking.machine_load(run):
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            pass
    samples = json.loads((run / "load.json").read_text())
    assert (
        len(samples) >= 3
        and samples[0]["system/cpu_utilization_percentage"] > 0
        and np.all(np.diff([sample["time_ms"] for sample in samples]) >= 0)
    )
    tracked = tracking.log_run(run)
    for name in ("system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"):
        history = client_of(tracked).get_metric_history(tracked.run_id, name)
        assert [(m.timestamp, m.value) for m in history] == [(s["time_ms"], s[name]) for s in samples]


def test_a_failed_evaluation_leaves_no_load(tmp_path):
    with pytest.raises(ValueError), tracking.machine_load(tmp_path):
        raise ValueError
    assert not list(tmp_path.iterdir())


def test_a_data_set_with_an_address_links_there(tmp_path):
    run = made_run(tmp_path, levels={"prn": 3.0}, dataset="aflw2000_3d")
    tracked = tracking.track(run)
    dataset = client_of(tracked).get_run(tracked.run_id).inputs.dataset_inputs[0].dataset
    assert mlflow.data.get_source(dataset).url.startswith("http://www.cbsr.ia.ac.cn/")


def test_the_experiment_has_columns_and_charts_of_metrics_that_runs_have(run):
    tracked = tracking.track(run)
    state = json.loads(client_of(tracked).get_experiment(tracked.experiment_id).tags["mlflow.sharedViewState.prnbench"])
    child = client_of(tracked).search_runs([tracked.experiment_id], "params.model = 'prn'")[0]
    columns = {name for name in state["selectedColumns"] if name.startswith("metrics.")}
    there = {f"metrics.`{name}`" for name in child.data.metrics}
    assert len(columns & there) >= 6 and state["orderByKey"] in there
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == {
        section["uuid"] for section in state["compareRunSections"]
    }


# -- the registry ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """A run of the real mean face, its model registered as the candidate."""
    folder = tmp_path_factory.mktemp("registered")
    table = made_table(levels={"mean_face": 9.0})
    table.header["models"]["mean_face"] = load_model("mean_face").card.as_dict()
    table.write(folder)
    write_report(folder)
    tracked = tracking.track(folder)
    uri = tracking.register(tracked, folder, "mean_face", "candidate")
    return folder, tracked, uri


def test_a_registered_model_predicts_a_batch_of_pictures(registered):
    _, tracked, uri = registered
    assert uri == "models:/mean_face@candidate"
    mlflow.set_tracking_uri(tracked.uri)
    model = mlflow.pyfunc.load_model(uri)
    assert model.metadata.signature.inputs.inputs[0].shape == (-1, -1, -1, 3)
    example = model.input_example
    assert example.shape == (1, 128, 128, 3) and example.std() > 10
    images = np.repeat(example.astype(np.uint8), 2, axis=0)
    boxes = np.array([[20, 30, 100, 110], [40, 40, 90, 100]], float)
    found = model.predict(images, params={"boxes_px": boxes.ravel().tolist(), "position_maps": True})
    expected = predict(load_model("mean_face"), list(images), list(boxes))
    np.testing.assert_allclose(found["landmarks_px"], [p.landmarks_px for p in expected])
    np.testing.assert_allclose(found["position_maps_px"], [p.position_map_px for p in expected])
    assert set(model.predict(images)) == {"landmarks_px", "boxes_px"}


def test_what_is_registered_holds_no_pickle(registered, tmp_path):
    _, tracked, _ = registered
    client = client_of(tracked)
    (place,) = [item.path for item in client.list_artifacts(tracked.run_id) if item.path.startswith("model-")]
    folder = Path(client.download_artifacts(tracked.run_id, place, str(tmp_path)))
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert "served.py" in names and not [name for name in names if name.endswith((".pkl", ".pickle", ".pt"))]


def test_the_same_weights_are_one_version_and_the_aliases_move(registered):
    folder, tracked, _ = registered
    assert tracking.register(tracked, folder, "mean_face", "champion") == "models:/mean_face@champion"
    client = client_of(tracked)
    versions = {alias: client.get_model_version_by_alias("mean_face", alias).version for alias in tracking.ALIASES}
    assert versions["champion"] == versions["candidate"]
    assert len(client.search_model_versions("name = 'mean_face'")) == 1


def test_a_model_that_was_not_evaluated_is_not_registered(run):
    tracked = tracking.track(run)
    with pytest.raises(UsageError, match="was not evaluated there"):
        tracking.register(tracked, run, "mean_face", "candidate")
    with pytest.raises(UsageError, match="cannot be served"):
        tracking.register(tracked, run, "mine:build", "candidate")


@pytest.mark.slow
def test_mlflow_serves_the_registered_model(registered):
    _, tracked, uri = registered
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", uri, "--env-manager", "local"]
    environment = os.environ | {"MLFLOW_TRACKING_URI": tracked.uri, "PYTHONPATH": str(Path(__file__).parents[1])}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    with subprocess.Popen([*command, "--port", str(port), "--workers", "1"], start_new_session=True, **quiet) as server:
        try:
            wait_for(f"http://127.0.0.1:{port}")
            body = json.dumps(
                {"inputs": np.zeros((1, 32, 32, 3), int).tolist(), "params": {"boxes_px": [4, 4, 28, 28]}}
            )
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body.encode(), headers)
            with urllib.request.urlopen(request, timeout=60) as reply:
                found = json.load(reply)["predictions"]
        finally:
            os.killpg(server.pid, signal.SIGTERM)
    assert np.shape(found["landmarks_px"]) == (1, 68, 3) and found["boxes_px"] == [[4, 4, 28, 28]]


# -- training ----------------------------------------------------------------------------------------------------------


def test_one_model_is_one_run_below_its_training(tmp_path):
    run = made_run(tmp_path / "one", levels={"prn": 3.0})
    first = tracking.log_run(run, experiment="mine")
    child = client_of(first).get_run(first.run_id)
    assert child.data.tags["prnbench.model"] == "prn" and "mlflow.parentRunId" not in child.data.tags
    nested = tracking.track(run, store=tmp_path / "other", parent=first.run_id)
    assert client_of(nested).get_run(nested.run_id).data.tags["mlflow.parentRunId"] == first.run_id


def test_the_same_run_is_logged_once_and_a_new_table_again(run):
    first = tracking.track(run)
    assert tracking.track(run) == first
    time.sleep(0.02)
    made_table(seed=5).write(run)
    write_report(run)
    assert tracking.track(run).run_id != first.run_id


def test_hostile_names_are_logged(tmp_path):
    run = made_run(tmp_path, levels={"<script>alert(1)</script>/../é|\n": 3.0})
    tracked = tracking.track(run)
    assert client_of(tracked).get_run(tracked.run_id).data.metrics["nme_2d_68-v1/all/mean"] > 0


def test_a_server_that_is_down_loses_nothing(run, capsys):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    started = time.monotonic()
    assert tracking.log_run(run, store=f"http://127.0.0.1:{free_port()}") is None
    assert time.monotonic() - started < 5
    warning = said(capsys)
    assert warning.count("warning:") == 1 and "prnbench track" in warning
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert tracking.log_run(run) is not None  # later, to a store that is there


def test_a_server_that_never_answers_is_given_up(run):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(OutputError, match="no answer"):
            tracking.track(run, store=f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - started < 8


def test_a_password_in_the_uri_is_not_printed(run, capsys):
    tracking.log_run(run, store=f"http://me:secret@127.0.0.1:{free_port()}")
    warning = said(capsys)
    assert "warning" in warning and "secret" not in warning


class Broken(http.server.BaseHTTPRequestHandler):
    """A server that is healthy and fails at everything else."""

    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 500)
        self.end_headers()

    def do_POST(self):
        self.send_response(500)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_server_that_fails_costs_one_warning(run, capsys):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert tracking.log_run(run, store=f"http://127.0.0.1:{server.server_port}") is None
    finally:
        server.shutdown()
    assert said(capsys).count("warning:") == 1
    assert not (run / "tracking.json").exists()


def test_an_upload_beyond_its_deadline_is_given_up(run, monkeypatch):
    monkeypatch.setattr("prnbench.tracking.upload.DEADLINE_S", -1.0)
    with pytest.raises(OutputError, match="not done within"):
        tracking.track(run)


@pytest.mark.slow
def test_a_real_server_with_proxied_artifacts(run, tmp_path):
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{tmp_path}/s.db"]
    command += ["--artifacts-destination", str(tmp_path / "a"), "--port", str(port), "--workers", "1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, start_new_session=True, **quiet) as server:
        try:
            wait_for(uri)
            tracked = tracking.track(run, store=uri)
            assert "report.html" in {item.path for item in client_of(tracked).list_artifacts(tracked.run_id)}
            assert list((tmp_path / "a").rglob("report.html"))
            os.utime(run / "tracking.json", (0, 0))
            private = f"http://me:secret@127.0.0.1:{port}"
            again = tracking.track(run, store=private)
            assert again.run_id != tracked.run_id
            assert "secret" not in (run / "tracking.json").read_text()
            assert tracking.track(run, store=private).run_id == again.run_id
        finally:
            os.killpg(server.pid, signal.SIGTERM)


def said_by(process):
    """What a process printed until it named the page, whether the line was broken or not."""
    text = ""
    while "viewStateShareKey=prnbench" not in text and (line := process.stderr.readline()):
        text += line.rstrip("\n")
    return text


def wait_for(uri, seconds=150):
    deadline = time.monotonic() + seconds
    while reachable(uri) is not None and time.monotonic() < deadline:
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_dashboard_serves_the_store_and_stops_cleanly(run, number):
    tracking.track(run)
    port = free_port()
    code = f"from prnbench.tracking import dashboard; dashboard({str(run)!r}, {port})"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert f"open http://127.0.0.1:{port}/#/experiments/1/runs?viewStateShareKey=prnbench" in said_by(process)
        process.send_signal(number)
        try:
            text = process.communicate(timeout=30)[1]
        finally:
            process.kill()
    assert process.returncode == 0 and "Traceback" not in text and "stopped" in text
    assert reachable(f"http://127.0.0.1:{port}") is not None


def test_dashboard_says_what_is_wrong(tmp_path):
    with pytest.raises(InputError, match="no tracking store"):
        tracking.dashboard(tmp_path)
    (tmp_path / "mlflow.db").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="cannot be used"):
            tracking.dashboard(tmp_path, taken.getsockname()[1])


def test_lightning_logger_falls_back_to_the_folder_and_logs_the_machines_load(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    logger = tracking.lightning_logger(tmp_path, "prn", store=f"http://127.0.0.1:{free_port()}", tags={"seed": "1"})
    assert "instead" in said(capsys)
    logger.log_hyperparams({"lr": 1e-4})
    logger.log_metrics({"loss": 1.0}, step=1)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    load, deadline = "system/cpu_utilization_percentage", time.monotonic() + 30
    while load not in client.get_run(logger.run_id).data.metrics and time.monotonic() < deadline:
        time.sleep(0.1)
    logger.finalize("success")
    logged = client.get_run(logger.run_id)
    assert 0 <= logged.data.metrics[load] <= 100 and "SystemMetricsMonitor" not in {
        t.name for t in threading.enumerate()
    }
    assert logged.data.metrics["loss"] == 1.0 and logged.data.tags["prnbench.kind"] == "training"


def test_a_training_keeps_its_checkpoint_and_registers_its_model_and_goes_on_in_its_run(tmp_path):
    faces = rendered_faces(4) + rendered_faces(2, seed=1, split="val")
    shards, run = write_faces(tmp_path / "faces", faces), tmp_path / "run"
    options = f"--config prn --data {shards} --data.face_model {shards}/face_model.npz --out {run} --data.resolution 32"
    options += " --data.workers 0 --data.batch_size 2 --trainer.enable_progress_bar false --trainer.max_epochs 1"
    options += " --trainer.num_sanity_val_steps 0 --trainer.log_every_n_steps 1"
    assert cli.main([*options.split(), "--model.network", "{width: 2}"]) == 0
    first = json.loads((run / "tracking.json").read_text())
    assert cli.main(["--resume", str(run), "--trainer.max_epochs", "2"]) == 0
    assert json.loads((run / "tracking.json").read_text()) == first
    client = mlflow.MlflowClient(tracking_uri=first["uri"])
    assert len(client.get_metric_history(first["run_id"], "train/loss")) == 4
    kept = {item.path for item in client.list_artifacts(first["run_id"])}
    assert {"best.ckpt", "config.yaml", "curves.png", "pictures"} <= kept
    versions = client.search_model_versions("name = 'prn'")
    assert versions and len({version.source for version in versions}) == len(versions)
    served = mlflow.pyfunc.load_model(versions[0].source)
    assert {column.name for column in served.metadata.signature.outputs} == {"landmarks_px", "boxes_px"}
    assert np.isfinite(served.predict(registry.example_rgb()[None])["landmarks_px"]).all()


def test_lightning_logger_outlives_its_server(tmp_path, capsys):
    logger = tracking.lightning_logger(tmp_path, "prn")
    logger.log_metrics({"loss": 1.0}, step=1)
    mlflow.MlflowClient(tracking_uri=logger._tracking_uri).delete_run(logger.run_id)
    for step in range(3):
        logger.log_metrics({"loss": 0.5}, step=step)
    assert said(capsys).count("went away") == 1
