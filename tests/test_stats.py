"""Statistics against SciPy, published rows and closed forms."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from prnbench.cards import load_card
from prnbench.metrics.bootstrap import bca_interval, resampled_means
from prnbench.metrics.ced import auc, ced, failure_rate
from prnbench.metrics.comparison import comparisons, holm, signed_rank
from prnbench.metrics.draws import balanced_draws
from prnbench.metrics.stats import balanced, bins_of, summary
from prnbench.table import PerSampleTable

CARD = load_card("aflw2000_3d")
NME, AFLW = "nme_2d_68-v1", "nme_2d_68_aflwyaw-v1"
ERRORS = st.lists(st.floats(0, 50) | st.just(float("inf")), min_size=1, max_size=40)


def table(errors, yaw, **columns):
    protocols = {key: {**CARD.protocol(key).identity(), "title": "", "text": ""} for key in (NME, AFLW)}
    n = len(errors)
    frame = {
        "model": ["m"] * n,
        "dataset": ["d"] * n,
        "id": [str(i) for i in range(n)],
        NME: errors,
        "yaw_fitted_deg": yaw,
    }
    frame["failed"] = ["x" if e == np.inf else "" for e in errors]
    return PerSampleTable.make(pd.DataFrame(frame | columns), {"protocols": protocols})


def value(records, subset, statistic, protocol=NME):
    (found,) = [r for r in records if (r["protocol"], r["subset"], r["statistic"]) == (protocol, subset, statistic)]
    return found["value"]


@pytest.mark.parametrize(
    ("bins", "mean", "std"),
    [((3.78, 4.54, 7.93), 5.42, 2.21), ((2.75, 3.51, 4.61), 3.62, None), ((2.63, 3.42, 4.48), 3.51, None),
     ((3.67, 4.94, 9.76), 6.12, None), ((4.26, 5.96, 13.18), 7.80, None), ((4.60, 6.70, 12.67), 7.99, None),
     ((3.43, 4.24, 7.17), 4.94, None), ((3.62, 6.06, 9.56), 6.41, None), ((2.75, 3.46, 4.45), 3.55, None)],
)  # fmt: skip
def test_balanced_reproduces_the_published_rows(bins, mean, std):
    got_mean, got_std = balanced(np.array(bins))
    assert got_mean == pytest.approx(mean, abs=0.0068)  # the sources round some means and cut others
    if std is not None:
        assert got_std == pytest.approx(std, abs=0.0051)


def test_bins_are_closed_above_and_faces_beyond_90_stay():
    yaw = np.array([0.0, 30, -30, 30.001, 60, -60, 60.001, 90, -95, np.nan])
    got = {name: np.flatnonzero(inside).tolist() for name, inside in bins_of(yaw).items()}
    assert got == {"yaw_0_30": [0, 1, 2], "yaw_30_60": [3, 4, 5], "yaw_60_90": [6, 7, 8]}


def test_bca_equals_scipy_to_rounding():
    x = np.random.default_rng(1).gamma(2, 2, 157)
    low, high = bca_interval([x[:, None]], resampled_means(x[:, None], np.random.default_rng(5), 3000))
    reference = scipy.stats.bootstrap((x,), np.mean, n_resamples=3000, rng=np.random.default_rng(5), method="BCa")
    assert (low[0], high[0]) == pytest.approx(tuple(reference.confidence_interval), rel=1e-12)


def test_stratified_bca_equals_scipy_with_three_samples():
    rng = np.random.default_rng(2)
    strata = [rng.gamma(2, scale, n) for scale, n in ((1, 60), (2, 40), (4, 25))]
    draw = np.random.default_rng(6)
    boot = sum(resampled_means(x[:, None], draw, 2000) for x in strata) / 3
    low, high = bca_interval([x[:, None] for x in strata], boot)

    def mean_of_means(a, b, c, axis=-1):
        return (a.mean(axis) + b.mean(axis) + c.mean(axis)) / 3

    reference = scipy.stats.bootstrap(
        strata, mean_of_means, n_resamples=2000, rng=np.random.default_rng(6), method="BCa"
    )
    assert (low[0], high[0]) == pytest.approx(tuple(reference.confidence_interval), rel=1e-12)


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    samples = rng.exponential(1.0, (60, 400))  # 400 columns = 400 independent data sets of 60 faces
    low, high = bca_interval([samples], resampled_means(samples, rng, 1500))
    covered = ((low <= 1.0) & (high >= 1.0)).mean()
    assert 0.90 <= covered <= 0.98


def test_interval_of_equal_values_is_that_value():
    x = np.full((9, 1), 3.3)
    low, high = bca_interval([x], resampled_means(x, np.random.default_rng(0), 100))
    assert low[0] == high[0] == pytest.approx(3.3, rel=1e-15)


@given(ERRORS, st.floats(0.5, 20))
def test_auc_is_the_integral_of_the_ced(errors, threshold):
    levels = np.linspace(0, threshold, 20001)
    middle = (levels[1:] + levels[:-1]) / 2
    assert auc(errors, threshold) == pytest.approx(ced(errors, middle).mean(), abs=0.01 + 100 / 20000)


@given(ERRORS, st.floats(0.5, 20))
def test_ced_and_failure_rate_are_complementary_and_bounded(errors, threshold):
    assert ced(errors, [threshold])[0] + failure_rate(errors, threshold) == pytest.approx(100)
    assert 0 <= auc(errors, threshold) <= 100 - failure_rate(errors, threshold) + 1e-9
    assert np.all(np.diff(ced(errors, np.linspace(0, 60, 50))) >= 0)


def test_failed_faces_weigh_on_median_auc_and_failure_rate_but_not_on_the_mean():
    records = summary(table([1.0, 3.0, np.inf], [0.0, 0.0, 0.0]))
    assert value(records, "all", "mean") == 2.0
    assert value(records, "all", "std") == pytest.approx(2**0.5)
    assert value(records, "all", "median") == 3.0
    assert value(records, "all", "failure_rate_8") == pytest.approx(100 / 3)
    assert value(records, "all", "auc_10") == pytest.approx(100 * (0.9 + 0.7) / 3)
    assert {(r["n"], r["failed"]) for r in records if r["subset"] == "all"} == {(3, 1)}


def test_summary_against_pandas_on_random_faces():
    rng = np.random.default_rng(4)
    n = 500
    errors, yaw = rng.gamma(3, 1.2, n), rng.uniform(-95, 95, n)
    errors[::50] = np.inf
    records = summary(table(errors, yaw, yaw_aflw_deg=np.abs(yaw)[::-1], **{AFLW: errors}))
    for protocol, source in ((NME, yaw), (AFLW, np.abs(yaw)[::-1])):
        frame = pd.DataFrame({"e": errors, "bin": pd.cut(np.abs(source), [-1, 30, 60, 1e9], labels=False)})
        seen = frame[np.isfinite(frame.e)]
        by_bin = seen.groupby("bin").e.mean()
        assert value(records, "balanced", "mean", protocol) == pytest.approx(by_bin.mean())
        assert value(records, "balanced", "std", protocol) == pytest.approx(by_bin.std())
        for k, subset in enumerate(("yaw_0_30", "yaw_30_60", "yaw_60_90")):
            part = frame.e[frame.bin == k]
            assert value(records, subset, "mean", protocol) == pytest.approx(by_bin[k])
            assert value(records, subset, "std", protocol) == pytest.approx(seen.e[seen.bin == k].std())
            assert value(records, subset, "median", protocol) == pytest.approx(part.median())
            assert value(records, subset, "failure_rate_5", protocol) == pytest.approx(100 * (part > 5).mean())
    for subset in ("all", "yaw_0_30", "balanced"):
        low, mean, high = (value(records, subset, s) for s in ("ci95_low", "mean", "ci95_high"))
        assert low < mean < high < low + 1


def test_summary_is_deterministic_and_blind_to_other_columns():
    rng = np.random.default_rng(7)
    errors, yaw = rng.gamma(3, 1, 60), rng.uniform(-90, 90, 60)
    alone = summary(table(errors, yaw))
    assert alone == summary(table(errors, yaw))
    beside = summary(table(errors, yaw, **{AFLW: errors[::-1]}, yaw_aflw_deg=np.abs(yaw)))
    assert [r for r in beside if r["protocol"] == NME] == alone


def test_one_face_and_empty_bins_leave_out_what_cannot_be_known():
    records = summary(table([2.0], [45.0]))
    assert {r["subset"] for r in records} == {"all", "yaw_30_60"}
    assert value(records, "all", "mean") == value(records, "all", "median") == 2.0
    assert not {"std", "ci95_low", "ci95_high"} & {r["statistic"] for r in records}


def test_a_model_that_failed_everywhere_has_failure_rates_only():
    records = summary(table([np.inf, np.inf], [0.0, 0.0]))
    assert value(records, "all", "failure_rate_10") == 100 and value(records, "all", "auc_8") == 0
    assert {r["failed"] for r in records} == {2}
    assert "mean" not in {r["statistic"] for r in records}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.01, 40) | st.just(np.inf), min_size=1, max_size=12), st.integers(0, 9))
def test_every_record_is_finite_and_complete(errors, seed):
    yaw = np.random.default_rng(seed).uniform(-90, 90, len(errors))
    records = summary(table(errors, yaw), resamples=200)
    keys = {"model", "dataset", "protocol", "metric", "unit", "subset", "statistic", "value", "n", "failed"}
    assert records and all(set(r) == keys and np.isfinite(r["value"]) for r in records)


# two models


def two_models(a, b, yaw, **columns):
    rows = [table(errors, yaw, **columns).rows.assign(model=name) for name, errors in (("a", a), ("b", b))]
    protocols = {NME: {**CARD.protocol(NME).identity(), "title": "", "text": ""}}
    return PerSampleTable.make(pd.concat(rows), {"protocols": protocols})


def only(records, subset="all"):
    (found,) = [record for record in records if record["subset"] == subset]
    return found


@pytest.mark.parametrize("ties", [False, True])
def test_signed_rank_is_scipys_wilcoxon(ties):
    d = np.random.default_rng(1).normal(0.2, 1, 80)
    d = np.round(d, 0 if ties else 9)
    p, effect = signed_rank([d])
    reference = scipy.stats.wilcoxon(d, method="approx", correction=False)
    assert p == pytest.approx(reference.pvalue, rel=1e-12)
    ranks = scipy.stats.rankdata(np.abs(d[d != 0]))
    plus, minus = ranks[d[d != 0] > 0].sum(), ranks[d[d != 0] < 0].sum()
    assert effect == pytest.approx((plus - minus) / (plus + minus))
    assert min(plus, minus) == reference.statistic


def test_stratified_signed_rank_keeps_its_level_and_finds_a_shift():
    rng = np.random.default_rng(2)
    null = [signed_rank([rng.normal(0, s, n) for s, n in ((1, 60), (5, 15), (9, 9))])[0] for _ in range(1500)]
    assert np.mean(np.array(null) < 0.05) == pytest.approx(0.05, abs=0.02)
    shifted = [rng.normal(0.8 * s, s, n) for s, n in ((1, 60), (5, 15), (9, 9))]
    assert signed_rank(shifted)[0] < 1e-4


def test_signed_rank_of_no_difference_and_of_infinite_ones():
    assert signed_rank([np.zeros(5)]) == (1.0, 0.0)
    assert signed_rank([np.array([np.inf, 1.0, 2.0])])[1] == 1.0
    assert signed_rank([np.array([-np.inf, 1.0, 2.0])])[1] == pytest.approx((1 + 2 - 3) / 6)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_by_its_definition(p):
    order = sorted(range(len(p)), key=p.__getitem__)
    expected, running = [0.0] * len(p), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p) - rank) * p[index]))
        expected[index] = running
    assert holm(p) == pytest.approx(expected)


def test_holm_on_the_textbook_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_a_clearly_better_model_is_better_and_the_other_way_round_worse():
    rng = np.random.default_rng(3)
    b, yaw = rng.gamma(9, 0.5, 300), rng.uniform(-90, 90, 300)
    records = comparisons(two_models(b - 0.2 + rng.normal(0, 0.3, 300), b, yaw))
    assert {r["subset"] for r in records} == {"all", "yaw_0_30", "yaw_30_60", "yaw_60_90", "balanced"}
    record = only(records)
    assert record["verdict"] == only(records, "balanced")["verdict"] == "better"
    assert record["ci95_low"] < record["difference"] < record["ci95_high"] < 0
    assert record["difference"] == pytest.approx(record["mean"] - record["other_mean"], abs=1e-12)
    assert -1 <= record["effect_size"] < 0 and record["p"] <= record["p_holm"] < 0.05
    turned = only(comparisons(two_models(b - 0.2, b, yaw), pairs=[("b", "a")]))
    assert turned["verdict"] == "worse" and turned["effect_size"] == 1


def test_the_interval_of_a_difference_is_scipys():
    rng = np.random.default_rng(4)
    a, b = rng.gamma(3, 1, 70), rng.gamma(3, 1, 70)
    record = only(comparisons(two_models(a, b, np.full(70, 5.0)), seed=8, resamples=2000))
    reference = scipy.stats.bootstrap((a - b,), np.mean, n_resamples=2000, rng=np.random.default_rng(8), method="BCa")
    assert (record["ci95_low"], record["ci95_high"]) == pytest.approx(tuple(reference.confidence_interval), rel=1e-9)


def test_equal_models_are_not_distinguishable_and_seldom_called_different():
    rng = np.random.default_rng(5)
    b, yaw = rng.gamma(9, 0.5, 60), np.zeros(60)
    assert only(comparisons(two_models(b, b, yaw)))["verdict"] == "not distinguishable"
    verdicts = [
        only(comparisons(two_models(b + rng.normal(0, 1, 60), b, yaw), resamples=300))["verdict"] for _ in range(60)
    ]
    assert verdicts.count("not distinguishable") >= 52  # 5 % false alarms: 57 expected


def test_failures_count_against_a_model():
    rng = np.random.default_rng(6)
    b = rng.gamma(9, 0.5, 200)
    a = b + rng.normal(0, 0.1, 200)
    a[:40] = np.inf
    record = only(comparisons(two_models(a, b, np.zeros(200))))
    assert (record["failed"], record["other_failed"], record["n"]) == (40, 0, 200)
    assert record["verdict"] == "worse" and abs(record["difference"]) < 0.1
    both = b.copy()
    both[:40] = np.inf
    same = only(comparisons(two_models(both, both, np.zeros(200))))
    assert same["verdict"] == "not distinguishable" and same["effect_size"] == 0


def test_one_face_is_never_a_verdict():
    record = only(comparisons(two_models([1.0], [9.0], [0.0])))
    assert record["verdict"] == "not distinguishable" and record["ci95_low"] is None


# balanced draws


def test_draws_are_balanced_reproducible_and_named():
    rng = np.random.default_rng(7)
    yaw = np.concatenate([rng.uniform(0, 30, 50), rng.uniform(31, 60, 20), rng.uniform(61, 90, 9)])
    errors = rng.gamma(3, 1, len(yaw))
    errors[0] = np.inf
    both = two_models(errors, errors * 2, yaw)
    got = balanced_draws(both, seeds=[3, 4])
    assert got == balanced_draws(both, seeds=[3, 4])
    assert [(d["seed"], d["per_bin"], len(set(d["ids"]))) for d in got["draws"]] == [(3, 9, 27), (4, 9, 27)]
    chosen = np.array(got["draws"][0]["ids"], int)
    assert [inside[chosen].sum() for inside in bins_of(yaw).values()] == [9, 9, 9]
    for record in got["records"]:
        (draw,) = [d for d in got["draws"] if d["seed"] == record["seed"]]
        values = errors[np.array(draw["ids"], int)] * (2 if record["model"] == "b" else 1)
        assert record["mean"] == pytest.approx(values[np.isfinite(values)].mean())
        assert record["n"] == 27 and record["failed"] == int(np.isinf(values).sum())
    # another model in the table does not change the faces
    assert balanced_draws(table(errors, yaw), seeds=[3])["draws"][0]["ids"] == got["draws"][0]["ids"]


def test_no_draw_where_a_bin_is_empty_or_too_small():
    assert balanced_draws(table([1.0, 2.0], [0.0, 40.0])) == {"draws": [], "records": []}
    assert balanced_draws(table([1.0, 2.0, 3.0], [0.0, 40.0, 80.0]), per_bin=2) == {"draws": [], "records": []}
