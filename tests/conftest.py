"""Fixtures shared by the tests: an own cache folder, the real samples where they are at hand."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("any machine", deadline=None)  # a busy machine is no failure
settings.load_profile("any machine")

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Keep the user's cache out of the tests, and the tests out of it; compiled kernels are kept."""
    if "PRNBENCH_CACHE" not in os.environ:
        os.environ["PRNBENCH_CACHE"] = str(tmp_path_factory.getbasetemp().parent / "prnbench-cache")


@pytest.fixture(scope="session")
def real_samples():
    """Folder of the real samples beside the repository; tests that use it skip without it."""
    folder = Path(__file__).parents[2] / "shared" / "samples"
    if not folder.is_dir():
        pytest.skip("no real samples beside the repository")
    return folder
