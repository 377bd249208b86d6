"""Leaderboards: entries recomputed from their tables, edits and test-set training refused, ranks, quotes, pages."""

import json
import shutil

import numpy as np
import pytest

from prnbench.cards import load_card, load_protocols
from prnbench.errors import InputError, UsageError
from prnbench.files import write_json
from prnbench.leaderboard import add, render, show, stale, verify
from prnbench.leaderboard.entries import digest_of_entry, read_entry
from prnbench.leaderboard.published import load_published, published_file
from prnbench.leaderboard.ranks import ranks
from tests.golden.runs import KEYS, made_table

DATE = "2026-01-31"
KEY = KEYS[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Boards with three entries on each protocol, rendered."""
    run = tmp_path_factory.mktemp("run")
    made_table().write(run)
    folder = tmp_path_factory.mktemp("boards")
    add(run, folder, date=DATE, budget="1 h on 2 cores")
    render(folder)
    return folder


@pytest.fixture
def boards(made, tmp_path):
    return shutil.copytree(made, tmp_path / "boards")


def entry_path(boards, model="prn", key=KEY):
    return boards / "synthetic_faces" / key / f"{model}.json"


def edit(path, change):
    raw = json.loads(path.read_text())
    change(raw)
    write_json(path, raw)
    return raw


def test_an_entry_says_everything_about_a_number(boards):
    entry = read_entry(entry_path(boards))
    facts, rows = entry.facts, made_table().rows
    mean = rows.loc[rows["model"] == "prn", KEY].mean()
    assert facts["values"]["all"]["mean"] == pytest.approx(mean, abs=1e-6)
    assert {"ci95_low", "ci95_high", "n", "failed"} <= set(facts["values"]["yaw_60_90"])
    assert facts["digests"]["data"] == "d" * 64 and facts["digests"]["weights"] == "e" * 64
    assert facts["digests"]["code"] == "c" * 64 and len(facts["digests"]["table"]) == 64
    assert (facts["date"], facts["budget"], facts["trained_on"]) == (DATE, "1 h on 2 cores", "w300lp, seed 1")
    assert list(entry.header["protocols"]) == [KEY] and list(entry.header["models"]) == ["prn"]


def test_boards_hold_what_their_models_offer(boards):
    names = {path.name for path in (boards / "synthetic_faces" / "nme_2d_dense-v1").glob("*.json")}
    assert names == {"prn.json", "mean_face.json"}
    assert not (boards / "synthetic_faces" / "nme_2d_eyes-v1").exists()  # regions have no board


def test_the_same_run_gives_the_same_bytes(made, tmp_path):
    made_table().write(tmp_path / "run")
    add(tmp_path / "run", tmp_path / "boards", date=DATE, budget="1 h on 2 cores")
    render(tmp_path / "boards")
    files = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
    assert files == sorted(
        path.relative_to(tmp_path / "boards") for path in (tmp_path / "boards").rglob("*") if path.is_file()
    )
    for path in files:
        assert (made / path).read_bytes() == (tmp_path / "boards" / path).read_bytes(), path


def test_whole_boards_verify(boards):
    assert verify(boards) == [] and stale(boards) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda raw: raw["entry"]["values"]["all"].update(mean=1.0), "was edited"),
        (lambda raw: raw["entry"].update(date="2020-01-01"), "was edited"),
        (lambda raw: raw["models"]["prn"].update(trained_on="nothing"), "was edited"),
        (lambda raw: raw["entry"]["digests"].update(table="0" * 64), "not the one that was added"),
        (lambda raw: raw["entry"].pop("values"), "not an entry"),
        (lambda raw: raw["entry"].update(protocol="nme_2d_68-v9"), "no protocol nme_2d_68-v9"),
        (lambda raw: raw["protocols"][KEY].update(normaliser="none"), "changed its meaning"),
    ],
)
def test_edited_entries_are_found(boards, change, problem):
    edit(entry_path(boards), change)
    found = verify(boards)
    assert any(problem in line and line.startswith("synthetic_faces/nme_2d_68-v1/prn.json") for line in found), found


def test_a_forged_digest_does_not_help(boards):
    def forge(raw):
        raw["entry"]["values"]["all"]["mean"] = 1.0
        raw["entry"]["digest"] = digest_of_entry(raw, raw["entry"])

    edit(entry_path(boards), forge)
    found = verify(boards)
    assert len(found) == 1 and "all mean is 1.0, the table says" in found[0]


def test_another_models_table_is_found(boards):
    shutil.copy(entry_path(boards).with_suffix(".parquet"), entry_path(boards, "mean_face").with_suffix(".parquet"))
    found = verify(boards)
    assert any("not the one that was added" in line for line in found) and any(
        "another model" in line for line in found
    )


def test_misplaced_missing_and_stray_files_are_found(boards):
    shutil.move(entry_path(boards), entry_path(boards, "better"))
    found = verify(boards)
    assert any("better.json" in line for line in found) and any("a table without an entry" in line for line in found)
    entry_path(boards, "mean_face").with_suffix(".parquet").unlink()
    assert any("mean_face.json: its table mean_face.parquet is missing" in line for line in verify(boards))


def test_a_stale_page_is_found(boards):
    (boards / "README.md").write_text("# Mine\n")
    assert stale(boards) == [boards / "README.md"]
    assert any("README.md: is not what renders" in line for line in verify(boards))
    render(boards)
    assert verify(boards) == []


@pytest.mark.parametrize("trained_on", ["synthetic_faces", "350 faces of synthetic_faces, seed 1", "d" * 64])
def test_a_model_trained_on_the_test_set_is_refused(tmp_path, boards, trained_on):
    table = made_table(levels={"cheat": 1.0})
    table.header["models"]["cheat"]["trained_on"] = trained_on
    table.write(tmp_path / "run")
    with pytest.raises(UsageError, match="trained on the test set"):
        add(tmp_path / "run", boards, date=DATE)

    def forge(raw):
        raw["models"]["prn"]["trained_on"] = trained_on
        raw["entry"]["digest"] = digest_of_entry(raw, raw["entry"])

    edit(entry_path(boards), forge)
    assert any("trained on the test set" in line for line in verify(boards))


def test_refusals(tmp_path, boards):
    table = made_table(levels={"raw": 9.0})
    table.header["models"]["raw"]["trained"] = False
    table.write(tmp_path / "raw")
    with pytest.raises(UsageError, match="no trained weights"):
        add(tmp_path / "raw", boards, date=DATE)
    made_table(levels={"prn": 3.0}).write(tmp_path / "fine")
    with pytest.raises(UsageError, match="not a date"):
        add(tmp_path / "fine", boards, date="today")
    made_table(levels={"mean face": 3.0}).write(tmp_path / "twin")
    with pytest.raises(UsageError, match="holds the model"):
        add(tmp_path / "twin", boards, date=DATE)


def test_a_newer_result_replaces_the_entry(tmp_path, boards):
    made_table(levels={"prn": 2.0}).write(tmp_path / "run")
    add(tmp_path / "run", boards, date="2026-02-28")
    render(boards)
    assert read_entry(entry_path(boards)).facts["date"] == "2026-02-28" and verify(boards) == []


def test_ranks_group_what_cannot_be_told_apart():
    levels = {"a": 3.0, "b": 3.0, "c": 9.0, "d": 20.0}
    table = made_table(levels=levels, faces=150)
    found = dict(zip(levels, ranks([part(table, name) for name in levels], KEY), strict=True))
    assert found == {"a": 1, "b": 1, "c": 3, "d": 4}


def test_ceilings_stand_apart_and_take_no_rank(tmp_path):
    table = made_table(levels={"prn": 3.0, "oracle": 0.1, "mean_face": 9.0})
    table.header["models"]["oracle"] |= {"sees_ground_truth": True, "title": "Fitted to the truth", "trained_on": None}
    table.write(tmp_path / "run")
    add(tmp_path / "run", tmp_path / "boards", date=DATE)
    render(tmp_path / "boards")
    text = (tmp_path / "boards" / "synthetic_faces" / KEY / "README.md").read_text()
    assert "| 1 | prn |" in text and "| 2 | mean\\_face |" in text
    assert "| – | *oracle* (ceiling, not ranked) |" in text and "Fitted to the truth" in text
    assert text.index("mean\\_face |") < text.index("*oracle*") and "not stated" not in text
    assert "| 60 | 2 | prn " in (tmp_path / "boards" / "README.md").read_text()
    page = (tmp_path / "boards" / "index.html").read_text()
    assert page.count('<tr class="ceiling">') == page.count('<span class="mark">ceiling</span>') > 0
    assert verify(tmp_path / "boards") == []


def test_pages_say_in_one_line_what_the_models_were_trained_with(boards):
    for path in (boards / "README.md", boards / "synthetic_faces" / KEY / "README.md", boards / "index.html"):
        line = next(line for line in path.read_text().splitlines() if "training budget" in line)
        assert "not the papers" in line and "mean" in line and "w300lp, seed 1; 1 h on 2 cores" in line


def part(table, model):
    from prnbench.table import PerSampleTable

    rows = table.rows[table.rows["model"] == model].reset_index(drop=True)
    header = {**table.header, "protocols": {KEY: table.header["protocols"][KEY]}}
    return PerSampleTable(rows, header)


def test_other_faces_are_another_board(tmp_path, boards):
    table = made_table(levels={"late": 1.0}, faces=20, seed=3)
    table.header["datasets"]["synthetic_faces"]["digest"] = "f" * 64
    table.write(tmp_path / "run")
    add(tmp_path / "run", boards, date=DATE)
    render(boards)
    text = (boards / "synthetic_faces" / KEY / "README.md").read_text()
    assert "## 60 faces" in text and "## 20 faces" in text
    assert "| 1 | late |" in text and "| 1 | prn |" in text


def test_pages_show_ranks_and_mark_the_published(boards):
    text = (boards / "synthetic_faces" / KEY / "README.md").read_text()
    assert "| 1 | prn |" in text and "| 3 | mean\\_face |" in text and "w300lp, seed 1; 1 h on 2 cores" in text
    index = (boards / "README.md").read_text()
    assert "not reproduced here" in index and "SynergyNet" in index and "3.41" in index
    page = (boards / "index.html").read_text()
    assert 'class="sortable"' in page and "PRN (paper)" in page and "not reproduced" in page
    assert "prn" in show(boards)


def test_hostile_names_on_boards(tmp_path):
    name = '<script>alert(1)</script>|../../x"'
    made_table(levels={name: 3.0}).write(tmp_path / "run")
    paths = add(tmp_path / "run", tmp_path / "boards", date=DATE)
    render(tmp_path / "boards")
    assert all(path.resolve().is_relative_to((tmp_path / "boards").resolve()) for path in paths)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "boards"}
    for path in (tmp_path / "boards").rglob("*"):
        if path.suffix in (".md", ".html"):
            assert "<script>alert" not in path.read_text()
    assert verify(tmp_path / "boards") == []


def test_published_rows_are_quoted_whole():
    published = load_published()
    assert all(row.source and row.reproduced is False for row in published.rows)
    by_name = {row.model: row for row in published.rows if row.protocol == "nme_2d_68-v1"}
    assert by_name["PRN"].values == {"yaw_0_30": 2.75, "yaw_30_60": 3.51, "yaw_60_90": 4.61, "balanced": 3.62}
    for row in published.rows:
        bins = [row.values.get(name) for name in ("yaw_0_30", "yaw_30_60", "yaw_60_90")]
        if None not in bins:
            assert np.mean(bins) == pytest.approx(row.values["balanced"], abs=0.011), row.model
        assert row.protocol in published.unstated or load_card(row.dataset).protocol(row.protocol)
    assert not set(published.unstated) & set(load_protocols())


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("reproduced = false", "reproduced = true", "reproduced = false"),
        ('protocol = "nme_2d_68-v1"', 'protocol = "nme-v0"', "no protocol"),
        ("balanced = 6.12", "whole = 6.12", "values are numbers by subset"),
        ('model = "SDM"', 'modle = "SDM"', "wrong row"),
        ("[[row]]", "[[row", "cannot be read"),
    ],
)
def test_wrong_published_rows_are_named(tmp_path, old, new, cause):
    path = tmp_path / "published.toml"
    path.write_text(published_file().read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=cause):
        load_published(path)


def test_committed_boards_are_what_renders():
    assert verify(published_file().parent) == []
