"""Models on scans: the truth brings no chart, so a position map is read by the chart of the model that made it."""

from dataclasses import replace

import numpy as np
import pytest

from prnbench.cards import load_card
from prnbench.evaluate import Dataset
from prnbench.evaluation import Request, with_own_chart
from prnbench.facemodel import load_face_model
from prnbench.metrics import Context, errors_of_batch
from prnbench.models import ModelCard
from prnbench.sample import Prediction, Sample, Scan
from prnbench.uv import chart_of, face_area

CARD = load_card("florence")
PX_PER_MM = 2.0


class Reader:
    """A model that says which chart its position maps follow."""

    card = ModelCard("reader", "Reader", "none")

    def __init__(self, chart):
        self.chart = chart


@pytest.fixture(scope="module")
def head():
    return load_face_model()


@pytest.fixture(scope="module")
def scanned(head):
    """A scan of the face area of the built-in head's mean, its sample, and the position map in the picture."""
    chart = chart_of(head)
    mm = head.mean * head.mm_per_unit
    position_map = chart.raster(256).position_map(mm)
    area = position_map.reshape(-1, 3)[face_area(head, chart, 256)]
    landmarks = mm[head.landmarks].astype(np.float32)
    nose = landmarks[30]
    points = area[np.linalg.norm(area - nose, axis=1) < 90][::17]
    camera = np.array([[PX_PER_MM, 0, 0, 300], [0, -PX_PER_MM, 0, 300], [0, 0, PX_PER_MM, 0]], np.float32)
    interocular = float(np.linalg.norm(landmarks[36] - landmarks[45]))
    sample = Sample("view", scan=Scan(points, camera, landmarks, interocular), pose_deg=np.zeros(3, np.float32))
    return sample, (position_map @ camera[:, :3].T + camera[:, 3]).astype(np.float32)


def dataset(sample):
    return Dataset("florence", [sample], CARD.protocols, "digest", Context())


def test_a_position_map_on_a_scan_is_read_by_its_own_chart(head, scanned):
    sample, position_map = scanned
    said = [Prediction(position_map_px=position_map)]
    without = errors_of_batch(CARD.protocols, [sample], said, Context())
    assert all(np.isnan(values[0]) for values in without.values())  # nothing says where its landmarks are
    seen = with_own_chart(Reader(chart_of(head)), dataset(sample), Request())
    found = errors_of_batch(CARD.protocols, [sample], said, seen.context)
    assert {p.id for p in CARD.protocols} == {key.removesuffix("-v1") for key in found}
    forward = [values[0] for key, values in found.items() if "reverse" not in key]
    assert max(forward) < 0.05  # the scan is the face itself
    assert all(np.isfinite(values[0]) for values in found.values())


def test_a_larger_head_is_wrong_rigidly_and_right_by_similarity(head, scanned):
    sample, position_map = scanned
    longer = position_map * np.array([1, 1.1, 1], np.float32)
    seen = with_own_chart(Reader(chart_of(head)), dataset(sample), Request())
    found = errors_of_batch(CARD.protocols, [sample], [Prediction(position_map_px=longer)], seen.context)
    values = {key.removesuffix("-v1"): float(column[0]) for key, column in found.items()}
    assert values["florence_p2s_rigid"] > 0.5 and values["florence_p2p_rigid"] >= values["florence_p2s_rigid"]
    assert values["florence_p2s_similarity"] <= values["florence_p2s_rigid"] + 1e-6


def test_other_data_and_other_charts_are_left_as_they_are(head, scanned):
    whole = dataset(scanned[0])
    assert with_own_chart(object(), whole, Request()) is whole
    known = replace(whole, chart=chart_of(head))
    assert with_own_chart(Reader(chart_of(head)), known, Request()) is known
    foreign = replace(chart_of(head), uv=chart_of(head).uv * 0.9)
    assert with_own_chart(Reader(foreign), whole, Request()) is whole
