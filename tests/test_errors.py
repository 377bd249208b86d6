"""Messages name file, cause and remedy, and travel between processes."""

import pickle

import pytest

from prnbench import errors


def test_message_names_file_cause_and_remedy():
    error = errors.SampleError("the file is empty", file="a.mat", remedy="copy it again")
    assert str(error) == "a.mat: the file is empty. Copy it again."


def test_unknown_name_suggests_the_nearest():
    assert "did you mean 'prn'" in str(errors.unknown_name("model", "prnn", ["prn", "vrn_guided"])).lower()


@pytest.mark.parametrize(
    ("kind", "code"), [(errors.InputError, 2), (errors.CheckFailedError, 1), (errors.UndecidedError, 3)]
)
def test_exit_codes(kind, code):
    assert kind("x").exit_code == code


def test_errors_cross_process_borders():
    error = errors.ShardError("truncated", file="s.h5", remedy="convert again")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is errors.ShardError
    assert str(back) == str(error)
