"""Timing: stages, warm-up, percentiles that may be stated, noise, fingerprint. Never a comparison of two durations."""

import json
import os
import time
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from prnbench.errors import InputError, SampleError
from prnbench.sample import Prediction
from prnbench.timing import STAGES, Plan, measure, next_query, quick
from prnbench.timing.hardware import ReferenceKernel, hardware, peak_memory, pinned, reset_peak_memory
from prnbench.timing.percentiles import percentile_bound, queries_needed, slower_allowed

FACES = [(np.full((8, 8, 3), i, np.uint8), [0, 0, 7, 7]) for i in range(5)]
SHORT = Plan(seconds=0.02, queries=4, limit_s=1, multi_stream=3, offline=4, warmup_s=0.0)


@dataclass
class Card:
    parameters: int = 10
    macs: int = 20
    runtime: str = "eager float32"
    notes: tuple = ()


@dataclass
class Sleeper:
    """A model whose stages take known times."""

    preprocess_s: float = 0.0
    forward_s: float = 0.0
    postprocess_s: float = 0.0
    first_s: float = 0.0
    card: Card = field(default_factory=Card)
    batches: list = field(default_factory=list)
    seen: list = field(default_factory=list)

    def preprocess(self, image, box):
        time.sleep(self.preprocess_s)
        if image[0, 0, 0] == 4:
            raise SampleError("this face cannot be cropped")
        return np.full((1, 2, 2), image[0, 0, 0], np.float32), len(self.batches)

    def forward(self, batch):
        time.sleep(self.forward_s if self.batches else self.first_s)
        self.batches.append(len(batch))
        self.seen.append(batch[:, 0, 0, 0].tolist())
        return batch

    def postprocess(self, raw, contexts):
        time.sleep(self.postprocess_s)
        assert len(raw) == len(contexts)
        return [Prediction() for _ in contexts]


def test_stages_are_told_apart_and_add_up():
    result = measure({"m": Sleeper(0.001, 0.004, 0.002)}, FACES, SHORT)
    one, many = (result["models"]["m"]["scenarios"][name] for name in ("single_stream", "multi_stream"))
    assert one["stages"]["preprocess"]["min_ms"] >= 1 and one["stages"]["forward"]["min_ms"] >= 4
    assert one["stages"]["postprocess"]["min_ms"] >= 2 and one["stages"]["end_to_end"]["min_ms"] >= 7
    assert many["stages"]["preprocess"]["min_ms"] >= 3  # three faces in a query, one after the other
    for scenario in (one, many):
        means = [scenario["stages"][stage]["mean_ms"] for stage in STAGES]
        assert sum(means[:3]) == pytest.approx(means[3], rel=1e-9)


def test_scenarios_have_their_batch_sizes_and_minimum_queries():
    model = Sleeper()
    result = measure({"m": model}, FACES, SHORT)["models"]["m"]
    sizes = {name: scenario["batch"] for name, scenario in result["scenarios"].items()}
    assert sizes == {"single_stream": 1, "multi_stream": 3, "offline": 4}
    assert set(model.batches) == {1, 3, 4}
    for scenario in result["scenarios"].values():
        assert scenario["queries"] >= 4 and scenario["seconds"] >= 0.02
        assert scenario["faces_per_s"] == pytest.approx(scenario["batch"] * scenario["queries"] / scenario["seconds"])
        assert len(scenario["latencies_ms"]) == scenario["queries"]


def test_faces_come_shuffled_evenly_and_the_same_each_time():
    runs = []
    for _ in range(2):
        model = Sleeper()
        measure({"m": model}, FACES, SHORT)
        runs.append([face for batch in model.seen[:20] for face in batch])
    length = min(map(len, runs))
    assert runs[0][:length] == runs[1][:length]
    assert set(runs[0]) == {0, 1, 2, 3}  # the face that cannot be cropped is left out


def test_warm_up_is_reported_and_left_out():
    model = Sleeper(first_s=0.15)
    result = measure({"m": model}, FACES, SHORT)["models"]["m"]
    assert result["warmup"]["first_ms"] >= 150 and result["warmup"]["queries"] == 3
    queries = sum(scenario["queries"] for scenario in result["scenarios"].values())
    assert len(model.batches) == queries + 3
    assert max(result["scenarios"]["single_stream"]["latencies_ms"]) < 150


def test_percentiles_appear_only_when_enough_queries_ran():
    few = measure({"m": Sleeper()}, FACES, SHORT)["models"]["m"]["scenarios"]["offline"]
    plan = Plan(seconds=0, queries=70, limit_s=9, warmup_s=0)
    enough = measure({"m": Sleeper()}, FACES, plan)["models"]["m"]["scenarios"]["single_stream"]
    assert enough["queries"] == 70 and "p99_ms" not in enough
    assert enough["stages"]["end_to_end"]["median_ms"] <= enough["p90_ms"] <= max(enough["latencies_ms"])
    if few["queries"] < 64:
        assert "p90_ms" not in few


def test_a_slow_model_stops_at_the_limit():
    plan = Plan(seconds=0.0, queries=1000, limit_s=0.05, warmup_s=0.0)
    result = measure({"m": Sleeper(forward_s=0.02)}, FACES, plan)["models"]["m"]["scenarios"]
    assert all(scenario["queries"] <= 3 for scenario in result.values())


def test_the_result_is_json_with_all_promised_parts():
    result = json.loads(json.dumps(quick({"a": Sleeper()}, FACES)))
    assert {"schema_version", "mode", "hardware", "software", "reference", "models"} == set(result)
    assert set(result["models"]) == {"a"} and result["mode"] == "quick"
    assert result["reference"]["runs"] >= 6 and result["reference"]["noise_percent"] >= 0
    assert result["models"]["a"]["parameters"] == 10 and result["models"]["a"]["macs"] == 20
    assert result["models"]["a"]["memory"]["process_mib"] > 10
    assert result["software"]["torch"] == torch.__version__


def test_no_usable_face_is_an_input_error():
    with pytest.raises(InputError, match="no face"):
        measure({"m": Sleeper()}, FACES[4:], SHORT)


def test_a_model_without_pixels_gets_no_batch():
    class Blind(Sleeper):
        def preprocess(self, image, box):
            return None, box

        def forward(self, batch):
            assert batch is None
            return None

        def postprocess(self, raw, contexts):
            return [Prediction() for _ in contexts]

    assert measure({"m": Blind()}, FACES, SHORT)["models"]["m"]["scenarios"]["offline"]["queries"] >= 4


def test_queries_of_two_models_take_the_same_faces_in_turn():
    models = Sleeper(), Sleeper()
    for run in [next_query(model, FACES) for model in models]:
        for _ in range(9):
            run()
    assert models[0].seen == models[1].seen and {face for [face] in models[0].seen} == {0, 1, 2, 3}


def test_queries_needed_are_loadgens():
    assert [queries_needed(p) for p in (90, 99, 99.9)] == [64, 662, 6636]
    assert percentile_bound(np.arange(63), 90) is None
    assert percentile_bound(np.arange(64), 90) == 62


def test_the_stated_percentile_is_an_upper_bound_with_its_confidence():
    rng = np.random.default_rng(0)
    true = -np.log(0.1)  # p90 of the unit exponential
    held = np.mean([percentile_bound(rng.exponential(size=200), 90) >= true for _ in range(1500)])
    assert 0.975 <= held <= 1.0
    assert slower_allowed(100_000, 90) / 100_000 == pytest.approx(0.1, abs=0.003)  # and not a wasteful one


def test_fingerprint_is_stable_and_hardware_only():
    assert hardware() == hardware()
    assert hardware()["cores"] == len(os.sched_getaffinity(0))


def test_pinning_is_undone():
    before, cpus = torch.get_num_threads(), os.sched_getaffinity(0)
    with pytest.raises(RuntimeError), pinned(1):
        assert torch.get_num_threads() == 1 and len(os.sched_getaffinity(0)) == 1
        raise RuntimeError
    assert torch.get_num_threads() == before and os.sched_getaffinity(0) == cpus


def test_reference_kernel_counts_and_summarises():
    kernel = ReferenceKernel("cpu")
    kernel.times_ms = [10.0, 10.0, 11.0, 9.0, 50.0]
    assert kernel.report()["median_ms"] == 10.0
    assert kernel.report()["noise_percent"] == pytest.approx(14.826)  # MAD 1 of 10; one outlier does not matter


def test_peak_memory_sees_a_large_array_and_forgets_it():
    reset_peak_memory("cpu")
    before = peak_memory("cpu")["process_mib"]
    block = np.ones(512 << 20, np.uint8)
    assert peak_memory("cpu")["process_mib"] >= before + 250
    del block


def test_models_say_where_they_compute():
    """Timing synchronises the device that a predictor names; a network on another device than it says is not timed."""
    from prnbench.models import prn

    chart = object()
    predictor = prn.PrnPredictor(lambda image: image, Card(), lambda: chart, 64, "cuda:1")
    assert predictor.device == "cuda:1"


def test_benchmark_infer_measures_any_model_after_loadgen(monkeypatch, capsys):
    from prnbench.benchmarks import infer

    monkeypatch.setattr(infer, "load_dataset", lambda *_: None)
    monkeypatch.setattr(infer, "timed_faces", lambda _: FACES)
    (record,) = infer.run(repeats=4, model="tests.still_models:build")
    assert record["what"] == "loadgen" and record["software"]["torch_threads"] == torch.get_num_threads()
    scenarios = record["models"]["tests.still_models:build"]["scenarios"]
    assert {name: s["batch"] for name, s in scenarios.items()} == {"single_stream": 1, "multi_stream": 8, "offline": 16}
    assert all(s["queries"] >= 4 and "p99_9_ms" not in s for s in scenarios.values())
    told = capsys.readouterr().err
    for words in ("single stream", "warm-up, left out", "peak memory: process", "noise of the machine", "GMAC"):
        assert words in told
