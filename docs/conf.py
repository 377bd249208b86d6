"""Sphinx configuration; the pages of data sets, protocols and commands are written from cards and parsers first."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import generate

from prnbench import __version__

project = "prnbench"
release = __version__
copyright = "the prnbench maintainers, MIT licence"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
suppress_warnings = ["misc.highlighting_failure"]
html_theme = "furo"
html_title = "prnbench"
html_show_sphinx = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_use_ivar = True

generate.write_pages(Path(__file__).parent / "generated")
