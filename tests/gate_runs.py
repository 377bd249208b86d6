"""The gate on real evaluations of PRN, unchanged, worsened and slowed: ``python -m tests.gate_runs --repeats 100``."""

import argparse
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from prnbench.evaluation import Request
from prnbench.evaluation import run as evaluate
from prnbench.models import load_model
from prnbench.progress import console
from prnbench.regression import check, interleaved_calls

MOVED_PX = 5.0
SLOWER = 0.15


class Changed:
    """PRN with its 68 points moved to the right, or with a wait after its network."""

    def __init__(self, moved_px=0.0, slower=0.0):
        self.inner, self.moved_px, self.slower = load_model("prn"), moved_px, slower
        self.card, self.chart = self.inner.card, self.inner.chart

    def preprocess(self, image_rgb, box_px):
        self.start = time.perf_counter()
        return self.inner.preprocess(image_rgb, box_px)

    def forward(self, batch):
        raw = self.inner.forward(batch)
        time.sleep(self.slower * (time.perf_counter() - self.start))
        return raw

    def postprocess(self, raw, contexts):
        found = self.inner.postprocess(raw, contexts)
        right = np.array([self.moved_px, 0, 0], np.float32)
        return [replace(p, landmarks_px=p.landmarks_px + right) for p in found]


def worsened(weights=None):
    """PRN with its landmarks 5 px beside the mark."""
    return Changed(moved_px=MOVED_PX)


def slowed(weights=None):
    """PRN that takes 15 % longer over everything up to the network's output."""
    return Changed(slower=SLOWER)


def accuracy(folder, repeats, faces):
    """Outcomes of the check of unchanged models (every other one by the other runtime), and of the worsened one."""

    def run(name, model="prn", runtime=None):
        request = Request(models=(model,), runtime=runtime, limit=faces, timing=False, pictures=False)
        evaluate(request, folder / name)
        return folder / name

    baseline = run("baseline")
    unchanged = [check(run(f"run{i}", runtime=(None, "eager")[i % 2]), baseline) for i in range(repeats)]
    worse = check(run("worse", "tests.gate_runs:worsened"), baseline)
    largest = max(abs(f.change) for verdict in unchanged for f in verdict.findings if f.kind == "accuracy")
    print(f"unchanged, accuracy: {dict(Counter(v.status for v in unchanged))}, largest change {largest:.1e}")
    found = [f for f in worse.findings if f.status == "regressed"]
    print(f"worsened by {MOVED_PX:g} px: {worse.status}, " + "; ".join(f"{f.what} {f.change:+.1%}" for f in found))
    return baseline


def latency(baseline, repeats):
    """Outcomes of the check of the same model against itself and of the slowed one, timed in turns."""
    for name in ("prn", "tests.gate_runs:slowed"):
        calls = interleaved_calls("prn", name, baseline, baseline)
        verdicts = [check(baseline, baseline, calls=calls) for _ in range(repeats)]
        changes = sorted(f.change for v in verdicts for f in v.findings if f.kind == "latency")
        outcomes = dict(Counter(v.status for v in verdicts))
        print(f"{name}, latency: {outcomes}, changes {changes[0]:+.1%} to {changes[-1]:+.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=100, help="evaluations of the unchanged model")
    parser.add_argument("--latency-repeats", type=int, default=10)
    parser.add_argument("--faces", type=int, default=20)
    options = parser.parse_args()
    console().quiet = True
    with tempfile.TemporaryDirectory() as scratch:
        latency(accuracy(Path(scratch), options.repeats, options.faces), options.latency_repeats)
