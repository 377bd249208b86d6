"""Reports: golden texts, deterministic files, a page in which nothing of the user's runs, private and partial runs."""

import hashlib
import html.parser
import json
import math
import re
import shutil
import subprocess

import numpy as np
import pytest

from prnbench.errors import InputError, TableError, UsageError
from prnbench.files import write_json
from prnbench.metrics.ced import ced
from prnbench.report import compare, read_run, terminal, write_report
from prnbench.report.figure import Figure, Series, ticks, upper_end
from prnbench.report.figures import ced_figure, file_stem, running_median
from prnbench.report.plots import write_figure
from prnbench.report.tables import latex_text, markdown_text
from tests.golden.make import EXPECTED, RUN, terminal_text, texts
from tests.golden.runs import KEYS, made_table, made_timing

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'|`*_$\\{{7*7}}\n=1+1"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A written report of three models with timings."""
    folder = tmp_path_factory.mktemp("report")
    made_table().write(folder)
    write_json(folder / "timing.json", made_timing())
    write_report(folder)
    return folder


class Page(html.parser.HTMLParser):
    """Tags with their attributes, scripts and visible text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.texts, self._open = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._open = tag

    def handle_endtag(self, tag):
        self._open = ""

    def handle_data(self, data):
        (self.scripts if self._open == "script" else self.texts).append(data)


def page_of(path):
    return Page(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(path.name for path in EXPECTED.iterdir()))
def test_golden_texts(name):
    assert texts(RUN)[name] == (EXPECTED / name).read_text(encoding="utf-8")


def test_everything_is_written_and_twice_the_same(report, tmp_path):
    names = {str(path.relative_to(report)) for path in report.rglob("*") if path.is_file()}
    assert {"report.html", "summary.json", "summary.md", "table.tex", "table.csv"} <= names
    assert {f"figures/ced-synthetic_faces-nme_2d_68-v1.{kind}" for kind in ("svg", "png")} <= names
    again = tmp_path / "again"
    again.mkdir()
    for name in ("per_sample.parquet", "per_sample.json", "timing.json"):
        shutil.copy(report / name, again)
    write_report(again)
    for name in names:
        assert (again / name).read_bytes() == (report / name).read_bytes(), name


def test_summary_records_are_means_of_the_table(report):
    rows = made_table().rows
    records = json.loads((report / "summary.json").read_text())
    for record in records:
        assert {"model", "dataset", "protocol", "metric", "unit", "subset", "statistic", "value", "n", "failed"} <= set(
            record
        )
    found = next(
        r["value"] for r in records
        if (r["model"], r["protocol"], r["subset"], r["statistic"]) == ("prn", KEYS[0], "all", "mean")
    )  # fmt: skip
    assert found == pytest.approx(rows.loc[rows["model"] == "prn", KEYS[0]].mean())
    assert f"{found:.2f}" in (report / "report.html").read_text()
    assert f"{found:.2f}" in (report / "table.tex").read_text()


def test_the_page_needs_no_network_and_names_its_script(report):
    page = page_of(report / "report.html")
    links = [v for _, attributes in page.tags for k, v in attributes.items() if k in ("src", "href", "action")]
    assert links and all(link.startswith(("#", "data:")) for link in links)
    scripts = [text for text in page.scripts if not text.lstrip().startswith("{")]
    assert len(scripts) == 1
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv"))
    import base64

    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_every_protocol_is_explained_and_every_anchor_exists(report):
    page = page_of(report / "report.html")
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    anchors = {a["href"][1:] for tag, a in page.tags if tag == "a" and a.get("href", "").startswith("#")}
    assert anchors <= ids
    assert {f"protocol-{key}" for key in KEYS} <= ids
    text = " ".join(page.texts)
    assert "not offered" in text and "z: mean to 0" in text and "the face box is empty" in text
    assert "prnbench evaluate --model prn" in text and "d" * 64 in text and "no real person" in text


def test_hostile_names_neither_run_nor_break(tmp_path):
    made_table(levels={HOSTILE: 3.0, "__class__": 4.0, "$x_1$": 5.0}).write(tmp_path)
    write_json(tmp_path / "timing.json", made_timing((HOSTILE, "__class__")))
    page = page_of(write_report(tmp_path))
    assert not [tag for tag, attributes in page.tags if "onerror" in attributes or tag == "img"]
    assert sum(tag == "script" and not attributes for tag, attributes in page.tags) == 1
    for path in tmp_path.rglob("*.svg"):
        assert "<script" not in path.read_text()
    summary = (tmp_path / "summary.md").read_text()
    assert "<script" not in summary and "<img" not in summary
    assert "\n'=1" not in (tmp_path / "table.csv").read_text()
    data = [json.loads(text) for text in page.scripts if text.lstrip().startswith("{")]
    assert any(series["name"] == HOSTILE for figure in data for series in figure["series"])


def test_spreadsheets_take_no_name_for_a_formula(tmp_path):
    made_table(levels={"=cmd|' /C calc'!A0": 3.0}).write(tmp_path)
    write_report(tmp_path)
    assert ",'=cmd" in (tmp_path / "table.csv").read_text()


@pytest.mark.parametrize("text", ["a|b", "<b>", "*x*", "_y_", "[l](u)", "`c`", "a\nb"])
def test_markdown_text_shows_what_it_is_given(text):
    shown = markdown_text(text)
    assert "\n" not in shown and not re.search(r"(?<!\\)[|*_`\[\]]", shown) and "<" not in shown


def test_latex_text_has_no_bare_special_characters():
    assert latex_text(r"50% of a_b & {c} \d ~ ^ # $") == (
        r"50\% of a\_b \& \{c\} \textbackslash{}d \textasciitilde{} \textasciicircum{} \# \$"
    )


def test_pictures_are_embedded_and_left_out_of_private_reports(tmp_path):
    made_table(levels={"prn": 3.0}).write(tmp_path)
    gallery = tmp_path / "gallery"
    gallery.mkdir()
    for name in ("face.png", "map.png"):
        write_figure(Figure(name[:-4], "t", "x", "y", (0, 1), (0, 1), ()), gallery)
    pictures = [
        {"title": "input", "file": "face.png", "person": True},
        {"title": "map", "file": "map.png", "person": False},
    ]
    entry = {"model": "prn", "dataset": "synthetic_faces", "id": "image00001", "place": "worst", "protocol": KEYS[0]}
    write_json(gallery / "index.json", [{**entry, "value": 7.25, "pictures": pictures}])
    public = write_report(tmp_path).read_text()
    assert public.count("data:image/png") == 2 and "7.25 %" in public
    private = write_report(tmp_path, private=True).read_text()
    assert private.count("data:image/png") == 1 and "pictures of persons are left out" in private


@pytest.mark.parametrize("file", ["../per_sample.json", "/etc/passwd", "index.json", "missing.png", ""])
def test_a_gallery_reads_pictures_of_its_own_folder_only(tmp_path, file):
    made_table(levels={"prn": 3.0}).write(tmp_path)
    write_json(tmp_path / "gallery" / "index.json", [{"pictures": [{"file": file}]}])
    with pytest.raises(InputError, match="no picture"):
        write_report(tmp_path)


def test_a_folder_without_a_table_is_named(tmp_path):
    with pytest.raises(TableError, match="per_sample"):
        write_report(tmp_path)


def test_a_huge_table_makes_a_page_of_bounded_size(tmp_path):
    made_table(levels={"prn": 3.0, "tddfa": 3.2}, faces=6000, failures=500).write(tmp_path)
    page = write_report(tmp_path).read_text()
    assert len(page) < 2_000_000 and page.count("<tr") < 600
    assert "500 predictions failed" in page and "The first 200" in page


def test_few_faces_and_no_yaw(tmp_path):
    table = made_table(levels={"prn": 3.0}, faces=1)
    table.rows["yaw_fitted_deg"] = np.nan
    table.write(tmp_path)
    text = " ".join(page_of(write_report(tmp_path)).texts)
    assert "only 1 face" in text and "nan" not in text.lower().split()


def test_a_model_that_always_failed(tmp_path):
    table = made_table(levels={"tddfa": 3.0, "prn": 3.0}, faces=12, failures=2)
    bad = table.rows["model"] == "tddfa"
    table.rows.loc[bad, "failed"] = "no face found"
    for key in KEYS:
        table.rows.loc[bad, key] = np.inf
    table.write(tmp_path)
    text = " ".join(page_of(write_report(tmp_path)).texts)
    assert "12 predictions failed" in text and "inf" not in text.split()


def test_the_verdict_follows_the_paired_test(tmp_path):
    made_table(levels={"prn": 3.0, "same": 3.0, "mean_face": 9.0}).write(tmp_path)
    write_report(tmp_path)
    summary = (tmp_path / "summary.md").read_text()
    assert "mean\\_face, 2D · 68 points" in summary and re.search(
        r"mean\\_face, 2D · 68 points.*worse than (prn|same)", summary
    )
    assert "not distinguishable from" in summary


def test_a_ceiling_is_no_rival(tmp_path):
    table = made_table(levels={"prn": 3.0, "oracle": 0.1, "mean_face": 9.0})
    table.header["models"]["oracle"]["sees_ground_truth"] = True
    table.write(tmp_path)
    text = " ".join(page_of(write_report(tmp_path)).texts)
    assert "never ranked: oracle." in text and "worse than prn" in text and "than oracle" not in text
    summary = (tmp_path / "summary.md").read_text()
    assert re.search(r"- prn, 2D · 68 points.*: best", summary) and re.search(r"- oracle, 2D.*: ceiling", summary)
    bold = re.findall(r"\| ([\w\\]+) \|[^\n]*\*\*", summary)
    assert bold and set(bold) == {"prn"}


def test_ced_figure_is_the_ced(report):
    run = read_run(report)
    figure = ced_figure(run, "synthetic_faces", KEYS[0])
    for series in figure.series:
        errors = run.errors(series.name, "synthetic_faces", KEYS[0])
        assert series.y == pytest.approx(ced(errors, series.x))
        assert series.y[-1] <= 100 * np.mean(np.isfinite(errors)) + 1e-9


def test_running_median_counts_failures_as_infinite():
    yaw = np.zeros(6)
    places, medians = running_median(yaw, np.array([1.0, 2, 3, np.inf, np.inf, np.inf]))
    at = dict(zip(places, medians, strict=True))
    assert at[0.0] == math.inf and math.isnan(at[60.0])


@pytest.mark.parametrize(("low", "high"), [(0.0, 10.0), (0.0, 0.013), (-90.0, 90.0), (0.0, 7e5)])
def test_ticks_are_round_and_inside(low, high):
    marks = ticks(low, high)
    assert 3 <= len(marks) <= 12 and all(low - 1e-9 <= mark <= high + 1e-9 for mark in marks)
    assert np.allclose(np.diff(marks), marks[1] - marks[0])
    assert upper_end([high]) >= high


def test_file_stems_are_plain():
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", file_stem("../../etc", "a b/c", HOSTILE))
    assert "/" not in file_stem("..", ".")


def test_figures_of_an_earlier_table_are_removed(tmp_path):
    made_table().write(tmp_path)
    write_report(tmp_path)
    (tmp_path / "figures" / "ced-gone.png").touch()
    write_report(tmp_path)
    assert not (tmp_path / "figures" / "ced-gone.png").exists()


def test_terminal_names_depth_alignment_and_failures():
    text = terminal_text(RUN)
    assert "3D 68 z mean" in text and "not offered" in text and "latency, ms per query" in text


def test_terminal_of_hostile_names(tmp_path):
    made_table(levels={"[bold red]x[/]": 3.0, "[/nothing]": 4.0}).write(tmp_path)
    assert "[bold red]x[/]" in terminal_text(tmp_path)
    assert terminal(tmp_path)


def test_comparison_page(tmp_path):
    for name, seed_level in (("a", 3.0), ("b", 3.6)):
        made_table(levels={"prn": seed_level}).write(tmp_path / name)
    page = page_of(compare([tmp_path / "a", tmp_path / "b"], tmp_path / "out"))
    text = " ".join(" ".join(page.texts).split())
    assert "prn (b) against prn (a)" in text and "worse" in text and "Faces that changed most" in text
    assert list((tmp_path / "out" / "figures").glob("against-*.svg"))


def test_comparison_shows_the_changed_faces_of_its_own_models(tmp_path):
    for name, level in (("a", 3.0), ("b", 3.6)):
        table = made_table(levels={"prn": level, "mean_face": 3 * level})
        table.write(tmp_path / name)
        write_figure(Figure("face", "t", "x", "y", (0, 1), (0, 1), ()), tmp_path / name / "gallery")
        pictures = [{"title": "input", "file": "face.png"}]
        ids = list(table.rows["id"].unique())
        entries = [
            {"model": model, "dataset": "synthetic_faces", "id": face, "pictures": pictures}
            for model in ("prn", "mean_face")
            for face in ids
        ]
        write_json(tmp_path / name / "gallery" / "index.json", entries)
    page = compare([tmp_path / "a", tmp_path / "b"], tmp_path / "out").read_text()
    first = page[page.index("prn (b) against prn (a)") : page.index("mean_face (b) against mean_face (a)")]
    titles = re.findall(r'<figure class="card"><h3>(.*?) <span class="soft">· (image\d+)', first)
    assert {name for name, _ in titles} == {"prn (a)", "prn (b)"}
    assert [face for _, face in titles[::2]] == [face for _, face in titles[1::2]]


def test_comparison_counts_a_new_failure_as_the_largest_change(tmp_path):
    made_table(levels={"tddfa": 3.0}, failures=0).write(tmp_path / "a")
    made_table(levels={"tddfa": 3.0}, failures=1).write(tmp_path / "b")
    text = " ".join(page_of(compare([tmp_path / "a", tmp_path / "b"], tmp_path / "out")).texts)
    assert re.search(r"image00003\s.*?failed", " ".join(text.split()))


def test_comparison_says_what_is_missing(tmp_path):
    made_table(levels={"prn": 3.0}).write(tmp_path / "a")
    with pytest.raises(UsageError, match="two runs"):
        compare([tmp_path / "a"], tmp_path / "out")
    made_table(levels={"prn": 3.0}, dataset="aflw2000_3d").write(tmp_path / "b")
    with pytest.raises(UsageError, match="no data set"):
        compare([tmp_path / "a", tmp_path / "b"], tmp_path / "out")


def test_series_without_finite_values_draw():
    figure = Figure("x", "t", "x", "y", (0, 1), (0, 1), (Series("a", 0, (0.0,), (math.nan,)),))
    from prnbench.report.charts import chart

    assert "NaN" not in str(chart(figure)) and "nan" not in str(chart(figure))


DRIVER = """<script>
window.onerror = (message) => document.body.setAttribute("data-error", message);
document.querySelectorAll("figure.chart svg[role='img']").forEach((svg) => {
  const box = svg.getBoundingClientRect();
  const at = { clientX: box.left + box.width * 0.5, clientY: box.top + box.height * 0.6, bubbles: true };
  svg.dispatchEvent(new PointerEvent("pointermove", at));
});
</script></body>"""


def test_values_are_read_off_the_figures_in_a_browser(report, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser here")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", (report / "report.html").read_text())
    driven = tmp_path / "driven.html"
    driven.write_text(text.replace("</body>", DRIVER))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000", "--dump-dom", driven.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
    assert 'data-error="' not in dom
    readouts = re.findall(r'<div class="readout"[^>]*>([^<]*)</div>', dom)
    assert readouts and not [text for text in readouts if text.startswith("Point at")]
    run = read_run(report)
    errors = run.errors("prn", "synthetic_faces", KEYS[0])
    level, shown = re.search(r"at ([\d.]+) %: prn ([\d.]+) %", readouts[0]).groups()
    assert float(shown) == pytest.approx(100 * np.mean(errors <= float(level)), abs=2.0)
    assert any("image0" in text for text in readouts) and any(
        "jaw: " in text or "nose" in text or "eyes" in text for text in readouts
    )
