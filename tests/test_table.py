"""The per-sample table: round trips, byte equality, refusals."""

import json

import numpy as np
import pandas as pd
import pytest

from prnbench.cards import load_card
from prnbench.errors import OutputError, PrnbenchError, SchemaError, TableError
from prnbench.table import PerSampleTable, concatenate

CARD = load_card("aflw2000_3d")
NME, POSE = "nme_2d_68-v1", "pose_mae-v1"


def header(*keys):
    protocols = {key: CARD.protocol(key).identity() | {"title": "t", "text": "x"} for key in keys}
    return {"protocols": protocols, "models": {"a": {}}, "datasets": {"d": {"digest": "0"}}, "environment": {}}


def rows(**columns):
    n = len(next(iter(columns.values())))
    frame = {"model": ["a"] * n, "dataset": ["d"] * n, "id": [f"face{i}" for i in range(n)], "failed": [""] * n}
    return pd.DataFrame(frame | columns)


def table():
    values = [0.1 + 0.2, np.inf, np.nan, 1e-300, 12345.678901234567]
    return PerSampleTable.make(
        rows(**{NME: values, "yaw_fitted_deg": [1.0, -2, 3, 4, np.nan], "failed": ["", "no box", "", "", ""]}),
        header(NME),
    )


def test_round_trip_keeps_every_bit(tmp_path):
    written = table()
    back = PerSampleTable.read(written.write(tmp_path).parent)
    pd.testing.assert_frame_equal(back.rows, written.rows, check_exact=True)
    assert back.header == written.header
    assert back.protocols[NME].identity() == CARD.protocol(NME).identity()


def test_same_table_same_bytes(tmp_path):
    first = table().write(tmp_path / "a")
    second = PerSampleTable.read(first).write(tmp_path / "b")
    for suffix in (".parquet", ".json"):
        assert first.with_suffix(suffix).read_bytes() == second.with_suffix(suffix).read_bytes()


def test_csv_reads_as_parquet(tmp_path):
    original = table()
    original.rows.loc[0, "id"] = "NA"  # a name, not a missing value
    path = original.write(tmp_path / "a")
    (tmp_path / "b").mkdir()
    original.rows.to_csv(tmp_path / "b" / "per_sample.csv", index=False)
    (tmp_path / "b" / "per_sample.json").write_text(path.with_suffix(".json").read_text())
    pd.testing.assert_frame_equal(PerSampleTable.read(tmp_path / "b").rows, original.rows, check_exact=True)


def test_numeric_ids_stay_text(tmp_path):
    frame = rows(**{NME: [1.0, 2.0]})
    frame["id"] = ["00050", "00051"]
    assert PerSampleTable.read(PerSampleTable.make(frame, header(NME)).write(tmp_path)).rows["id"].tolist() == [
        "00050",
        "00051",
    ]


def test_a_protocol_that_a_model_never_gives_is_not_offered_where_it_failed():
    frame = rows(**{NME: [1.0, np.inf], POSE: [np.nan, np.inf], "failed": ["", "no face"]})
    made = PerSampleTable.make(frame, header(NME, POSE)).rows
    assert made[NME].tolist() == [1.0, np.inf]
    assert made[POSE].isna().all()


def test_a_model_that_failed_everywhere_keeps_its_failures():
    made = PerSampleTable.make(rows(**{NME: [np.inf, np.inf], "failed": ["x", "x"]}), header(NME)).rows
    assert made[NME].tolist() == [np.inf, np.inf]


def test_a_newer_schema_is_refused_by_name(tmp_path):
    path = table().write(tmp_path).with_suffix(".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with pytest.raises(SchemaError, match=r"per_sample\.json.*99.*[Uu]pdate"):
        PerSampleTable.read(tmp_path)


@pytest.mark.parametrize(
    "damage", ["missing", "no header", "truncated", "header is a list", "no id", "text in a number"]
)
def test_damage_is_one_clear_error(tmp_path, damage):
    path = table().write(tmp_path)
    if damage == "missing":
        path.unlink()
    elif damage == "no header":
        path.with_suffix(".json").unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "header is a list":
        path.with_suffix(".json").write_text("[]")
    else:
        path.unlink()
        frame = table().rows.drop(columns="id") if damage == "no id" else table().rows.astype({NME: object})
        if damage == "text in a number":
            frame.loc[0, NME] = "many"
        frame.to_csv(tmp_path / "per_sample.csv", index=False)
    with pytest.raises(TableError, match=str(tmp_path)) as error:
        PerSampleTable.read(tmp_path)
    assert error.value.remedy


def test_two_rows_for_one_face_are_refused():
    frame = pd.concat([rows(**{NME: [1.0]}), rows(**{NME: [2.0]})])
    with pytest.raises(TableError, match="two rows for face face0"):
        PerSampleTable.make(frame, header(NME))


def test_concatenate_joins_models_and_refuses_two_meanings_of_a_key():
    first = PerSampleTable.make(rows(**{NME: [1.0]}), header(NME))
    other = rows(**{POSE: [2.0]}).assign(model="b")
    joined = concatenate([first, PerSampleTable.make(other, header(POSE))])
    assert joined.rows["model"].tolist() == ["a", "b"]
    assert np.isnan(joined.rows[POSE][0]) and joined.rows[POSE][1] == 2.0
    bent = header(NME)
    bent["protocols"][NME]["normaliser"] = "sqrt_box_points"
    with pytest.raises(TableError, match="two definitions"):
        concatenate([first, PerSampleTable.make(rows(**{NME: [1.0]}).assign(model="b"), bent)])


def test_an_unwritable_folder_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        table().write(tmp_path / "file")


def test_every_refusal_is_a_prnbench_error(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(PrnbenchError):
            PerSampleTable.read(path)
