"""The regression check: accuracy and latency of a run against a baseline, decided by factor AND test."""

from prnbench.regression.baseline import update_baseline
from prnbench.regression.check import check
from prnbench.regression.pair import interleaved_calls
from prnbench.regression.simulate import simulate
from prnbench.regression.verdict import Finding, Verdict, github_annotations, junit, markdown, terminal, write_outputs

__all__ = [
    "Finding",
    "Verdict",
    "check",
    "github_annotations",
    "interleaved_calls",
    "junit",
    "markdown",
    "simulate",
    "terminal",
    "update_baseline",
    "write_outputs",
]
