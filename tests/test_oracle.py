"""The oracle: it finds the face model's own faces exactly, nothing fits better, and it is never taken for a method."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import least_squares

from prnbench.errors import SampleError, UsageError
from prnbench.evaluate import predict
from prnbench.facemodel import load_face_model
from prnbench.geometry import rotation_from_euler
from prnbench.metrics.nme import box_size, nme
from prnbench.models import load_model
from prnbench.models import predict as predict_pictures
from prnbench.models._coefficients import modes_of
from prnbench.models.oracle import Fit
from prnbench.sample import Sample
from tests.rendered_faces import rendered_faces


@pytest.fixture(scope="module")
def faces():
    return rendered_faces(3)


def error_of(name, faces):
    predictions = predict(load_model(name), faces)
    predicted = np.stack([p.landmarks_px[:, :2] for p in predictions])
    truth = np.stack([f.landmarks_px[:, :2] for f in faces])
    return nme(predicted, truth, box_size(truth)), predictions


def test_all_modes_find_the_face_and_fewer_come_less_near(faces):
    full, predictions = error_of("oracle", faces)
    some, _ = error_of("oracle_100_29", faces)
    few, _ = error_of("oracle_40_10", faces)
    assert full.max() < 0.005 < few.min() < 2
    assert (full <= some + 0.003).all() and (some < few).all()
    assert predictions[0].vertices_px.shape == (load_face_model().vertex_count, 3)
    # Faces come as they are asked for, alone or together.
    alone = predict(load_model("oracle"), faces[1:2])[0]
    np.testing.assert_array_equal(alone.vertices_px, predictions[1].vertices_px)


def test_nothing_fits_better():
    """SciPy's general solver, started at the fit and at the mean, finds no lower squared distance."""
    model, rng = load_face_model(), np.random.default_rng(0)
    modes = modes_of(model, 6, 3)
    mean, basis = modes.mean_V3[model.landmarks], modes.basis_KV3[:, model.landmarks]
    face = mean + np.tensordot(rng.standard_normal(9), basis, 1) + 0.02 * rng.standard_normal((68, 3))
    points = 90 * face @ rotation_from_euler([0.2, -0.7, 0.1]).T + [20, -5, 3]
    coefficients, (scale, rotation, shift) = Fit(mean, basis)(points)
    found = scale * (mean + np.tensordot(coefficients, basis, 1)) @ rotation.T + shift

    def residual(x):
        moved = (mean + np.tensordot(x[7:], basis, 1)) @ rotation_from_euler(x[:3]).T
        return (x[3] * moved + x[4:7] - points).ravel()

    best = least_squares(residual, [0, 0, 0, 80, 0, 0, 0, *np.zeros(9)], x_scale="jac")
    ours = ((found - points) ** 2).sum()
    assert ours == pytest.approx(2 * best.cost, rel=1e-5) and ours > 1


def test_landmarks_alone_are_fitted_too(faces):
    bare = [replace(face, position_map_px=None) for face in faces]
    assert error_of("oracle", bare)[0].max() < 0.1  # more modes than equations: nearly nothing is left
    rng = np.random.default_rng(0)
    strange = [replace(f, landmarks_px=f.landmarks_px + rng.normal(0, 1, (68, 3)).astype(np.float32)) for f in bare]
    few, all_modes = error_of("oracle_40_10", strange)[0], error_of("oracle", strange)[0]
    assert (all_modes < few).all() and few.max() < 2.5  # the noise itself is 2.3 %
    assert error_of("oracle_40_10", bare)[0].max() < error_of("oracle_40_10", faces)[0].min()
    failed = predict(load_model("oracle"), [Sample(id="nothing")])[0]
    assert "no ground truth" in failed.failed


def test_it_says_what_it_is(faces):
    card = load_model("oracle_40_10").card
    assert card.sees_ground_truth and "fitted to the ground truth" in card.title
    assert card.name == "oracle_40_10" and "40 shape and 10 expression modes of builtin" in card.notes[1]
    with pytest.raises(UsageError, match="fitted to the ground truth"):
        predict_pictures(load_model("oracle"), [faces[0].image_rgb()], [faces[0].box_px])
    with pytest.raises(UsageError, match="no weights"):
        load_model("oracle", weights="x.safetensors")
    with pytest.raises(SampleError):
        load_model("oracle").preprocess_truth(Sample(id="nothing"))
