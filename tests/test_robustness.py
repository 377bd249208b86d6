"""Corruptions do what their card says, the same for a face whatever runs beside it; curves and errors by hand."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from prnbench.cards import load_card
from prnbench.errors import SampleError, TableError
from prnbench.metrics import Context
from prnbench.robustness.corruptions import Face, corrupted, face_of, generator, shifted
from prnbench.robustness.curves import MEAN, corruption_errors, curves, steadiness
from prnbench.robustness.measure import conditions, jitter, robust_protocols, robustness_rows, sub_pixel_shifts
from prnbench.robustness.sheet import corruption_sheet
from prnbench.robustness.suite import CLEAN, SEVERITIES, load_suite, suite_from
from prnbench.robustness.table import RobustnessTable, read_robustness
from prnbench.sample import Prediction, Sample
from tests.fake import aflw2000_3d

SUITE = load_suite()
IDS = [corruption.id for corruption in SUITE.corruptions]
PICTURE = [name for name in IDS if not name.startswith("box")]
PROTOCOLS = robust_protocols(load_card("aflw2000_3d").protocols)[:1]


def sample(name="a", seed=0, side=300):
    rng = np.random.default_rng(seed)
    points = np.concatenate([rng.uniform(90, 210, (68, 2)), rng.uniform(-50, 50, (68, 1))], axis=1)
    points[:4, :2] = [[90, 90], [210, 210], [90, 210], [210, 90]]  # a face size of 120
    return Sample(name, aflw2000_3d.jpeg(rng, side, side), (side, side), points.astype(np.float32))


FACE = face_of(sample())


def harmed(name, severity, face=FACE, of="a"):
    return corrupted(face, name, SUITE.corruptions[IDS.index(name)].levels[severity - 1], generator(0, of, name))


def difference(name, severity):
    return float(np.abs(harmed(name, severity).image_rgb.astype(float) - FACE.image_rgb).mean())


# the card


def test_every_corruption_of_the_issue_is_there_with_five_levels_and_a_reason():
    wanted = {"resolution", "blur", "noise", "jpeg", "darkness", "over_exposure", "colour_cast"}
    wanted |= {"occlusion_eyes", "occlusion_mouth", "occlusion_half", "box_shift", "box_scale"}
    assert set(IDS) == wanted and SUITE.key == "corruptions-v1"
    assert all(len(c.levels) == SEVERITIES and len(c.text) > 40 and c.unit for c in SUITE.corruptions)
    assert suite_from(SUITE.as_dict()) == SUITE
    assert len(list(conditions(SUITE))) == 1 + 12 * 5


# what they do


@pytest.mark.parametrize("name", IDS)
def test_a_face_is_harmed_the_same_every_time_and_truth_is_never_moved(name):
    before = FACE.image_rgb.copy()
    first, again = harmed(name, 3), harmed(name, 3)
    assert np.array_equal(first.image_rgb, again.image_rgb) and np.array_equal(first.box_px, again.box_px)
    assert np.array_equal(FACE.image_rgb, before) and first.image_rgb.dtype == np.uint8
    assert first.landmarks_px is FACE.landmarks_px
    changed = not np.array_equal(first.image_rgb, FACE.image_rgb), not np.array_equal(first.box_px, FACE.box_px)
    assert changed == (name in PICTURE, name not in PICTURE)


@pytest.mark.parametrize("name", PICTURE)
def test_a_higher_severity_changes_the_picture_more(name):
    steps = [difference(name, severity) for severity in range(1, SEVERITIES + 1)]
    assert steps == sorted(steps) and steps[0] > 0.01 and steps[-1] > 1.3 * steps[0]


@pytest.mark.parametrize("name", ["noise", "colour_cast", "occlusion_half", "box_shift", "box_scale"])
def test_faces_draw_apart_and_severities_together(name):
    other = [harmed(name, 2, of=f"face{i}") for i in range(6)]
    values = {(o.image_rgb.tobytes(), o.box_px.tobytes()) for o in other}
    assert len(values) > 1
    assert generator(0, "a", name).random() == generator(0, "a", name).random() != generator(1, "a", name).random()


def test_noise_has_its_standard_deviation():
    grey = Face(np.full((200, 200, 3), 128, np.uint8), FACE.box_px, FACE.landmarks_px)
    noise = corrupted(grey, "noise", 8.0, generator(0, "a", "noise")).image_rgb.astype(float) - 128
    assert noise.std() == pytest.approx(np.sqrt(64 + 1 / 12), rel=0.01) and abs(noise.mean()) < 0.1


def test_blur_is_the_gaussian_of_its_share_of_the_face():
    expected = gaussian_filter(FACE.image_rgb[:, :, 0].astype(float), 0.03 * 120, mode="mirror")
    got = harmed("blur", 3).image_rgb[:, :, 0]
    assert np.abs(got - expected)[20:-20, 20:-20].max() < 2


def test_light_is_counted_in_stops_of_linear_light():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    face = Face(np.repeat(ramp, 4, axis=0), FACE.box_px, FACE.landmarks_px)
    darker = corrupted(face, "darkness", 1.0, generator(0, "a", "darkness")).image_rgb[0, :, 0]
    assert darker[255] == 188 and darker[188] in (136, 137) and darker[0] == 0  # half the light of white is sRGB 188
    lighter = corrupted(face, "over_exposure", 1.0, generator(0, "a", "over")).image_rgb[0, :, 0]
    assert lighter[188] == 255 and lighter[255] == 255
    assert (np.diff(darker.astype(int)) >= 0).all() and (np.diff(lighter.astype(int)) >= 0).all()


def test_a_colour_cast_leaves_green_alone_and_goes_both_ways():
    signs = set()
    for face in range(8):
        out = harmed("colour_cast", 3, of=f"f{face}").image_rgb.astype(int) - FACE.image_rgb
        assert not out[:, :, 1].any()
        signs.add((bool(out[:, :, 0].sum() > 0), bool(out[:, :, 2].sum() > 0)))
    assert signs == {(True, False), (False, True)}


def test_covers_lie_where_they_say():
    eyes = np.any(harmed("occlusion_eyes", 1).image_rgb != FACE.image_rgb, axis=2)
    inside = FACE.landmarks_px[36:48, :2].mean(axis=0).round().astype(int)
    assert eyes[inside[1], inside[0]]
    left, top, right, bottom = FACE.box_px
    half = np.any(harmed("occlusion_half", 5).image_rgb != FACE.image_rgb, axis=2)
    rows = slice(int(top) + 2, int(bottom) - 2)
    shares = (
        half[rows, int(left) : int((left + right) / 2)].mean(),
        half[rows, int((left + right) / 2) + 1 : int(right)].mean(),
    )
    assert max(shares) > 0.97 and min(shares) < 0.03
    assert not half[int(bottom) + 2 :].any()


def test_boxes_err_by_their_level():
    shift = harmed("box_shift", 5).box_px - FACE.box_px
    assert np.hypot(shift[0], shift[1]) == pytest.approx(0.2 * 120) and np.allclose(shift[:2], shift[2:])
    scaled = harmed("box_scale", 5).box_px
    ratio = (scaled[2] - scaled[0]) / 120
    assert ratio == pytest.approx(1.4) or ratio == pytest.approx(1 / 1.4)
    assert np.allclose(scaled[:2] + scaled[2:], FACE.box_px[:2] + FACE.box_px[2:])


def test_a_face_that_is_small_already_keeps_its_resolution():
    small = Face(FACE.image_rgb, FACE.box_px, FACE.landmarks_px / 10)
    assert corrupted(small, "resolution", 20.0, generator(0, "a", "x")) is small


def test_a_whole_pixel_shift_moves_the_picture_by_one():
    moved = shifted(FACE, 1.0, 0.0).image_rgb
    assert np.array_equal(moved[:, 1:], FACE.image_rgb[:, :-1])


def test_the_sheet_shows_every_corruption_and_severity():
    assert corruption_sheet(sample(), SUITE, side=40).shape[:2] == (12 * (40 + 26 + 3) + 3, 6 * 43 + 3)


# steadiness


def test_jitter_by_hand():
    shifts = sub_pixel_shifts(SUITE.steadiness)
    assert np.allclose(np.hypot(*shifts.T), 0.5) and np.allclose(shifts.sum(axis=0), 0)
    points = np.random.default_rng(0).uniform(0, 100, (68, 2))
    follows = points + 3 + shifts[:, None]  # a constant error is no jitter
    assert jitter(follows, shifts, 120) == pytest.approx(0, abs=1e-12)
    stays = np.repeat(points[None], 8, axis=0)
    assert jitter(stays, shifts, 120) == pytest.approx(100 * 0.5 / 120)


# table and curves


def looker(level, dark=40):
    """Predictions that are wrong by ``level`` pixels per unit of change of the mean picture, failing on the darkest."""

    def predict(given):
        out = []
        for make in given:
            try:
                image, box = make()
            except SampleError as error:
                out.append(Prediction(failed=str(error)))
                continue
            points = np.random.default_rng(0).uniform(90, 210, (68, 3)) + level * abs(float(image.mean()) - 128) / 128
            points[:, 0] += box[0]
            out.append(
                Prediction(landmarks_px=points.astype(np.float32)) if image.mean() > dark else Prediction(failed="dark")
            )
        return out

    return predict


def table_of(samples, dark=40, **models):
    rows = []
    for name, level in models.items():
        own = robustness_rows(looker(level, dark), samples, PROTOCOLS, Context(), SUITE)
        rows += [{"model": name, "dataset": "d", **row} for row in own]
    header = {
        "suite": SUITE.as_dict(),
        "protocols": {p.key: p.identity() | {"title": "", "text": ""} for p in PROTOCOLS},
    }
    return RobustnessTable.make(rows, header)


def test_rows_do_not_depend_on_the_batch_or_the_order():
    samples = [sample(f"f{i}", i) for i in range(4)]
    together = robustness_rows(looker(30), samples, PROTOCOLS, Context(), SUITE)
    alone = [row for s in samples[::-1] for row in robustness_rows(looker(30), [s], PROTOCOLS, Context(), SUITE)]
    key = lambda row: (row["id"], row["corruption"], row["severity"])  # noqa: E731
    assert repr(sorted(together, key=key)) == repr(sorted(alone, key=key))
    assert len(together) == 4 * (61 + 1)


def test_errors_by_hand_failures_apart_and_the_same_bytes(tmp_path):
    samples = [sample(f"f{i}", i) for i in range(5)]
    broken = Sample("broken", b"no picture", (9, 9), samples[0].landmarks_px)
    table = table_of([*samples, broken], a=30.0, b=0.0)
    key, rows = PROTOCOLS[0].key, table.rows[table.rows["model"] == "a"]
    clean = rows[rows["corruption"] == CLEAN].set_index("id")[key]
    assert np.isinf(clean["broken"])
    by_hand = []
    for corruption in IDS:
        ratios = []
        for severity in range(1, 6):
            here = rows[(rows["corruption"] == corruption) & (rows["severity"] == severity)].set_index("id")[key]
            both = np.isfinite(here) & np.isfinite(clean)
            ratios.append(here[both].mean() / clean[both].mean())
        by_hand.append(np.mean(ratios))
    found = {(r["model"], r["corruption"]): r for r in corruption_errors(table)}
    assert found["a", "darkness"]["value"] is None  # no face is left in the dark: no small error by failing
    assert found["a", MEAN]["value"] is None and np.isnan(by_hand[IDS.index("darkness")])
    known = [name for name in IDS if name != "darkness"]
    assert [found["a", name]["value"] for name in known] == pytest.approx([v for v in by_hand if np.isfinite(v)])
    assert found["b", "noise"]["value"] == pytest.approx(1) and found["b", "box_shift"]["value"] != pytest.approx(1)
    assert found["a", "noise"]["failed"] == 5 and found["a", "darkness"]["failed"] > 5
    assert (
        found["a", "over_exposure"]["low"] is None
        or found["a", "over_exposure"]["low"] <= found["a", "over_exposure"]["value"]
    )
    curve = [r for r in curves(table) if r["model"] == "a" and r["corruption"] == "over_exposure"]
    assert [r["severity"] for r in curve] == list(range(6)) and curve[0]["relative"] == pytest.approx(1)
    assert all(r["n"] == 6 and r["failed"] >= 1 for r in curve)
    still = {r["model"]: r for r in steadiness(table)}
    assert still["b"]["value"] == pytest.approx(100 * 0.5 / 120, rel=1e-4) and still["b"]["failed"] == 1

    first = table.write(tmp_path / "x").read_bytes()
    read = read_robustness(tmp_path / "x")
    assert read.write(tmp_path / "y").read_bytes() == first
    assert corruption_errors(read) == corruption_errors(table)
    (tmp_path / "x" / "robustness.parquet").write_bytes(first[:-9])
    with pytest.raises(TableError, match="not a readable"):
        read_robustness(tmp_path / "x")
    assert read_robustness(tmp_path) is None


def test_the_interval_covers_the_ratio_of_means():
    """Against an own bootstrap of the same ratio: faces drawn with all their conditions."""
    samples = [sample(f"f{i}", i) for i in range(8)]
    table = table_of(samples, dark=0, a=8.0)
    key = PROTOCOLS[0].key
    wide = table.rows[table.rows["corruption"].isin([CLEAN, "noise"])].pivot(
        index="id", columns=["corruption", "severity"], values=key
    )
    records = {r["corruption"]: r for r in corruption_errors(table)}
    assert records[MEAN]["value"] == pytest.approx(np.mean([records[name]["value"] for name in IDS]))
    found = records["noise"]
    rng, values = np.random.default_rng(5), wide.to_numpy()
    first = list(wide.columns).index((CLEAN, 0))
    draws = values[rng.integers(0, 8, (4000, 8))].mean(axis=1)
    ratios = (np.delete(draws, first, axis=1) / draws[:, [first]]).mean(axis=1)
    width = found["high"] - found["low"]
    assert found["low"] == pytest.approx(np.quantile(ratios, 0.025), abs=0.1 * width + 1e-9)
    assert found["high"] == pytest.approx(np.quantile(ratios, 0.975), abs=0.1 * width + 1e-9)
