"""The regression check: unchanged models pass, worse and slower ones fail, noise is named, outputs are well formed."""

import io
import json
import shutil
import time
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import binomtest

from prnbench.cli import main
from prnbench.errors import CheckFailedError, InputError, TableError, UndecidedError, UsageError
from prnbench.files import write_json
from prnbench.regression import (
    Finding,
    Verdict,
    check,
    github_annotations,
    interleaved_calls,
    junit,
    markdown,
    simulate,
    terminal,
    update_baseline,
    write_outputs,
)
from prnbench.regression.accuracy import failure_finding
from prnbench.regression.latency import LOOKS, decide, interleaved, median_interval, scaled
from prnbench.table import PerSampleTable
from tests.golden.runs import KEYS, made_table, made_timing

PRN = {"prn": 3.0}


@pytest.fixture
def baseline(tmp_path):
    return stored(tmp_path / "baseline")


def stored(folder, change=None, timing=None, levels=PRN, **options):
    """A run folder; ``change`` edits the rows before they are written."""
    table = made_table(levels=levels, **{"faces": 120, "failures": 0, **options})
    if change is not None:
        change(table.rows)
    table.write(folder)
    if timing is not None:
        write_json(folder / "timing.json", timing)
    return folder


def scale(factor, where=lambda rows: rows["id"] == rows["id"]):
    def change(rows):
        rows.loc[where(rows), list(KEYS)] *= factor

    return change


def regressed(verdict, kind="accuracy"):
    return [finding for finding in verdict.findings if finding.kind == kind and finding.status == "regressed"]


# -- accuracy ----------------------------------------------------------------------------------------------------------


def test_an_identical_run_passes(tmp_path, baseline):
    verdict = check(stored(tmp_path / "run"), baseline)
    assert verdict.exit_code == 0 and not regressed(verdict)
    assert all(finding.change == 0 for finding in verdict.findings if finding.kind == "accuracy")
    verdict.raise_for_status()


def test_a_three_per_cent_increase_fails_and_names_bin_and_faces(tmp_path, baseline):
    verdict = check(stored(tmp_path / "run", scale(1.03)), baseline)
    found = regressed(verdict)
    assert verdict.exit_code == 1
    assert all(finding.change == pytest.approx(0.03) for finding in found)
    assert "Worst bin: yaw_" in found[0].detail and "image0" in found[0].detail
    with pytest.raises(CheckFailedError):
        verdict.raise_for_status()


def test_within_tolerance_passes_however_certain(tmp_path, baseline):
    assert check(stored(tmp_path / "run", scale(1.015)), baseline).exit_code == 0
    assert check(stored(tmp_path / "run", scale(1.015)), baseline, max_nme_increase=0.01).exit_code == 1


def test_beyond_tolerance_but_within_chance_passes(tmp_path, baseline):
    def change(rows):
        rows.loc[rows.index[:3], list(KEYS)] *= 3.0

    verdict = check(stored(tmp_path / "run", change), baseline)
    assert max(finding.change for finding in verdict.findings) > 0.02 and verdict.exit_code == 0


def test_a_regression_of_profile_faces_only_is_found(tmp_path, baseline):
    profile = lambda rows: rows["yaw_fitted_deg"].abs() > 60  # noqa: E731
    verdict = check(stored(tmp_path / "run", scale(1.05, profile)), baseline)
    found = regressed(verdict)
    assert {finding.what.rpartition(" · ")[2] for finding in found} <= {"yaw_60_90", "all"} and found
    assert any("Worst bin: yaw_60_90 (+5.0 %)" in finding.detail for finding in found)


def test_better_is_no_regression(tmp_path, baseline):
    assert check(stored(tmp_path / "run", scale(0.8)), baseline).exit_code == 0


def test_new_failures_are_a_regression_though_the_mean_improves(tmp_path, baseline):
    def change(rows):
        worst = rows[KEYS[0]].nlargest(10).index
        rows.loc[worst, "failed"] = "no face found"
        rows.loc[worst, list(KEYS)] = np.inf

    verdict = check(stored(tmp_path / "run", change), baseline)
    assert regressed(verdict, "failures") and "10 faces fail" in regressed(verdict, "failures")[0].detail


@pytest.mark.parametrize(("new", "fixed"), [(0, 0), (1, 0), (6, 0), (7, 0), (9, 1), (3, 3)])
def test_failures_are_judged_by_the_exact_mcnemar_test(new, fixed):
    before = {f"b{i}" for i in range(fixed)} | {"both"}
    now = {f"n{i}" for i in range(new)} | {"both"}
    finding = failure_finding("m", "d", before, now, 100)
    expected = binomtest(new, new + fixed, 0.5, alternative="greater").pvalue if new else 1.0
    assert finding.p == pytest.approx(expected)
    assert finding.status == ("regressed" if expected < 0.01 else "passed")


def test_other_faces_and_other_models_are_bad_input(tmp_path, baseline):
    with pytest.raises(InputError, match="missing"):
        check(stored(tmp_path / "fewer", faces=100), baseline)
    with pytest.raises(InputError, match="nothing to compare"):
        check(stored(tmp_path / "other", levels={"tddfa": 3.0, "mean_face": 9.0}), baseline)
    with pytest.raises(InputError, match="no such run"):
        check(tmp_path / "missing", baseline)
    with pytest.raises(TableError):
        check(tmp_path, baseline)


def test_a_changed_protocol_is_bad_input(tmp_path, baseline):
    run = stored(tmp_path / "run")
    header = json.loads((run / "per_sample.json").read_text())
    header["protocols"][KEYS[0]]["normaliser"] = "sqrt_box_points"
    write_json(run / "per_sample.json", header)
    with pytest.raises(TableError, match="two definitions"):
        check(run, baseline)


# -- latency -----------------------------------------------------------------------------------------------------------


def rounds(rng, change=0.0, noise=0.1, count=LOOKS[-1]):
    """Latencies with a shared drift and interruptions."""
    drift = 0.0
    for _ in range(count):
        drift = 0.9 * drift + 0.05 * rng.normal()
        pair = [
            10 * np.exp(drift + noise * rng.normal()) * (1 + (rng.random() < 0.1) * rng.exponential()) for _ in "ab"
        ]
        yield pair[0], pair[1] * (1 + change)


@pytest.mark.parametrize(
    ("change", "status"), [(0.0, "passed"), (0.05, "passed"), (0.15, "regressed"), (-0.3, "passed")]
)
def test_interleaved_rounds_are_decided(change, status):
    outcomes = [decide(rounds(np.random.default_rng(seed), change), 0.10) for seed in range(40)]
    assert {outcome.status for outcome in outcomes} == {status}
    assert np.median([outcome.change for outcome in outcomes]) == pytest.approx(change, abs=0.02)


def test_easy_cases_stop_early_and_hard_ones_say_so():
    rng = np.random.default_rng(0)
    assert decide(rounds(rng, 0.0, noise=0.02), 0.10).rounds == LOOKS[0]
    hard = decide(rounds(rng, 0.05, noise=1.5, count=60), 0.10)
    assert hard.status == "undecided" and "too noisy" in hard.detail
    assert decide(rounds(rng, count=3), 0.10).status == "undecided"


def test_median_interval_covers_the_median():
    rng = np.random.default_rng(0)
    inside = [low <= 0 <= high for low, high in (median_interval(rng.standard_cauchy(48), 0.95) for _ in range(1500))]
    assert 0.94 <= np.mean(inside) <= 0.995
    assert median_interval([1.0, 2.0], 0.95) == (-np.inf, np.inf)


def test_interleaved_calls_both_equally_often_and_in_turns():
    seen = []

    def call(name):
        return lambda: (seen.append(name), time.sleep(0.026))

    result = interleaved(call("a"), call("b"), seconds=2.0)
    assert seen.count("a") == seen.count("b") >= LOOKS[0]
    assert seen[6:10] == ["a", "b", "b", "a"] and result.rounds >= LOOKS[0]


def test_short_calls_are_timed_in_blocks():
    seen = []
    interleaved(lambda: seen.append("a"), lambda: seen.append("b"), seconds=0.1)
    assert "a" * 100 in "".join(seen) and seen.count("a") == seen.count("b")


def test_scaled_by_the_reference_kernel():
    slower_machine = scaled((10.0, 20.0), (1.0, 2.0), 0.01, 0.10)
    assert slower_machine.status == "passed" and slower_machine.change == pytest.approx(0.0)
    assert scaled((10.0, 12.0), (1.0, 1.0), 0.01, 0.10).status == "regressed"
    assert scaled((10.0, 12.0), (1.0, 1.0), 0.10, 0.10).status == "undecided"
    assert scaled((10.0, 10.0), (1.0, 1.0), 0.10, 0.10).status == "undecided"
    assert scaled((10.0, 10.0), (1.0, 1.0), 0.02, 0.10).status == "passed"


def timed(tmp_path, name, **options):
    return stored(tmp_path / name, timing=made_timing(("prn",), **options))


def test_stored_timings(tmp_path):
    before = timed(tmp_path, "before", noise_percent=0.5)
    assert check(timed(tmp_path, "same", seed=1, noise_percent=0.5), before).exit_code == 0
    slow = check(timed(tmp_path, "slow", scale=1.15, noise_percent=0.5), before)
    assert slow.exit_code == 1 and regressed(slow, "latency")[0].change == pytest.approx(0.15, abs=0.02)
    noisy = check(timed(tmp_path, "noisy", noise_percent=20.0), before)
    assert noisy.exit_code == 3
    with pytest.raises(UndecidedError):
        noisy.raise_for_status()


def test_timings_of_other_hardware_are_not_compared(tmp_path):
    before, now = timed(tmp_path, "before"), timed(tmp_path, "now", scale=3.0)
    raw = json.loads((now / "timing.json").read_text())
    raw["hardware"]["fingerprint"] = "other"
    write_json(now / "timing.json", raw)
    verdict = check(now, before)
    assert verdict.exit_code == 0 and "other hardware" in verdict.notes[0] and "not compared" in markdown(verdict)


def test_interleaved_calls_take_the_place_of_stored_timings(tmp_path):
    before, now = timed(tmp_path, "before"), timed(tmp_path, "now", scale=3.0)
    verdict = check(now, before, calls={"prn": (lambda: None, lambda: None)}, seconds=0.2)
    assert [f.what for f in verdict.findings if f.kind == "latency"] == ["latency of one face, interleaved"]


def test_one_model_each_is_compared_under_any_name(tmp_path):
    before = timed(tmp_path, "before", noise_percent=0.5)
    now = stored(tmp_path / "now", scale(1.05), made_timing(("epoch12",), noise_percent=0.5), {"epoch12": 3.0})
    verdict = check(now, before)
    assert {finding.model for finding in regressed(verdict)} == {"epoch12"}
    assert [finding.status for finding in verdict.findings if finding.kind == "latency"] == ["passed"]
    assert verdict.notes == ("The baseline is prn, the run epoch12.",)


def test_a_baseline_model_must_be_the_baselines(tmp_path, baseline):
    run = stored(tmp_path / "run")
    with pytest.raises(UsageError, match="other weights than those of mean_face"):
        interleaved_calls("mean_face", "mean_face", baseline, run)
    several = stored(tmp_path / "several", levels={"prn": 3.0, "mean_face": 9.0})
    with pytest.raises(UsageError, match="holds 2 models"):
        interleaved_calls("mean_face", "mean_face", several, run)


VARIANTS = """
import time

from prnbench.models import load_model


class Delayed:
    def __init__(self, seconds):
        self.inner, self.seconds = load_model("mean_face"), seconds
        self.card, self.chart = self.inner.card, self.inner.chart
        self.preprocess, self.postprocess = self.inner.preprocess, self.inner.postprocess

    def forward(self, batch):
        time.sleep(self.seconds)


def same(weights=None):
    return Delayed(0.0)


def slower(weights=None):
    return Delayed(0.01)
"""


@pytest.mark.slow
def test_the_command_times_both_models_in_turns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "variants.py").write_text(VARIANTS)
    evaluated = ["evaluate", "--model", "variants:same", "--limit", "8", "--no-timing", "--no-tracking", "--private"]
    assert main([*evaluated, "--out", "run"]) == 0
    for name, code in {"same": 0, "slower": 1}.items():
        compared = ["check", "run", "--baseline", "run", "--model", f"variants:{name}", "--out", name]
        assert main([*compared, "--baseline-model", "variants:same"]) == code
        findings = json.loads((tmp_path / name / "check.json").read_text())["findings"]
        assert [finding["kind"] for finding in findings if finding["status"] != "passed"] == ["latency"] * code


# -- baseline ----------------------------------------------------------------------------------------------------------


def test_update_keeps_what_a_check_needs_and_why(tmp_path):
    run = timed(tmp_path, "run", noise_percent=0.5)
    about = update_baseline(run, tmp_path / "base", "new crop rule")
    assert {p.name for p in about.parent.iterdir()} == {
        "baseline.json",
        "per_sample.parquet",
        "per_sample.json",
        "timing.json",
    }
    first = json.loads(about.read_text())
    assert first["reason"] == "new crop rule" and first["replaces"] is None
    for path in (tmp_path / "base", about):
        verdict = check(run, path)
        assert verdict.exit_code == 0 and verdict.reason == "new crop rule"
    update_baseline(stored(tmp_path / "worse", scale(1.2)), about, "accepted")
    second = json.loads(about.read_text())
    assert second["replaces"] == first["table"] and not (tmp_path / "base" / "timing.json").exists()
    assert check(stored(tmp_path / "again", scale(1.2)), about).exit_code == 0


def test_update_refuses(tmp_path, baseline):
    with pytest.raises(UsageError, match="reason"):
        update_baseline(baseline, tmp_path / "b", "  ")
    with pytest.raises(UsageError, match="already"):
        update_baseline(baseline, baseline, "again")


def test_a_csv_baseline_is_read(tmp_path, baseline):
    other = tmp_path / "csv"
    other.mkdir()
    PerSampleTable.read(baseline).rows.to_csv(other / "per_sample.csv", index=False)
    shutil.copy(baseline / "per_sample.json", other)
    assert check(baseline, other).exit_code == 0


# -- outputs -----------------------------------------------------------------------------------------------------------


def finding(status, name="m", detail="", **values):
    numbers = {
        "baseline": 3.0,
        "candidate": 3.3,
        "change": 0.1,
        "low": 0.05,
        "high": 0.15,
        "p": 1e-5,
        "tolerance": 0.02,
    }
    return Finding("accuracy", name, "d", "2D", "%", **{**numbers, **values}, status=status, detail=detail)


HOSTILE = "<b>|x`\x00\x1b[31m::error::a,b%\n]]>"


def test_outputs_of_hostile_names(tmp_path):
    verdict = Verdict((finding("regressed", HOSTILE, HOSTILE), finding("passed", low=np.nan)), HOSTILE, HOSTILE)
    names = {path.name for path in write_outputs(verdict, tmp_path)}
    assert names == {"check.json", "check.md", "junit.xml"}
    suite = ET.parse(tmp_path / "junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "0")
    assert "<b>" not in (tmp_path / "check.md").read_text()
    assert all(len(line.splitlines()) == 1 for line in github_annotations(verdict))

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    raw = json.loads((tmp_path / "check.json").read_text(), parse_constant=refuse)
    assert raw["status"] == "regressed" and raw["exit_code"] == 1 and raw["findings"][1]["low"] is None


def test_annotations_escape_as_github_reads_them():
    line = github_annotations(Verdict((finding("regressed", "a:b,c", "50%\nmore"),), "b"))[0]
    title, message = line.removeprefix("::error title=").split("::", 1)
    assert title == "a%3Ab%2Cc · d · 2D" and "50%25%0Amore" in message


def test_status_is_the_worst():
    passed, bad, unsure = finding("passed"), finding("regressed"), finding("undecided")
    assert [Verdict(found, "b").exit_code for found in ((passed,), (passed, unsure), (unsure, bad), ())] == [0, 3, 1, 0]
    assert ET.fromstring(junit(Verdict((unsure,), "b"))).find("testcase/error") is not None


def test_github_summary_and_annotations(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    write_outputs(Verdict((finding("regressed"),), "b"), tmp_path / "out")
    assert capsys.readouterr().out.startswith("::error title=m · d · 2D::")
    assert "prnbench check" in (tmp_path / "summary.md").read_text()


def printed(*findings):
    out = io.StringIO()
    Console(file=out, width=120).print(terminal(Verdict(findings, "b")))
    return out.getvalue()


def test_terminal_shows_the_worst_first():
    text = printed(finding("passed", "good"), finding("regressed", "[bold]bad", "why"))
    assert text.index("[bold]bad") < text.index("good") and "Regressed: 1 of 2" in text and "why" in text


def test_terminal_counts_what_passed_and_shows_what_moved_most():
    still = [finding("passed", f"still{i}", candidate=3.0, change=0.0) for i in range(40)]
    moved = [finding("passed", f"moved{i}", change=0.001 * i) for i in range(9)]
    text = printed(*still, *moved, finding("undecided", "unsure"))
    rows = [line.split()[0] for line in text.splitlines() if " · d · " in line]
    assert rows == ["unsure", "moved8", "moved7", "moved6", "moved5", "moved4"]
    assert "44 more passed; check.md lists every quantity" in text
    alone = printed(*still)
    assert " · d · " not in alone and "40 passed; check.md" in alone and "none of 40" in alone
    worse = printed(*[finding("regressed", f"bad{i}", "why") for i in range(60)])
    assert len(worse.splitlines()) < 30 and "48 more regressed" in worse


def test_simulated_rates_are_those_asked_for():
    rates = simulate(repeats=25, faces=400)
    assert rates["accuracy_unchanged"]["regressed"] <= 0.04 and rates["accuracy_worsened"]["regressed"] >= 0.95
    assert rates["latency_unchanged"]["regressed"] == 0 and rates["latency_slowed"]["regressed"] >= 0.95
