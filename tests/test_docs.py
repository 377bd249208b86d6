"""The documentation: generated pages name every card, protocol and command; the site builds without a warning."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from prnbench.cards import dataset_names, load_card
from prnbench.cli import COMMANDS

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_say_what_the_cards_say(generate):
    cards = [load_card(name) for name in dataset_names()]
    page = generate.datasets_page(cards)
    for card in cards:
        assert all(" ".join(text.split()) in page for text in (card.title, card.source, card.licence, card.consent))
    protocols = {p.key: p for card in cards for p in card.protocols}
    page = generate.protocols_page(protocols, {key: ["x"] for key in protocols}, dict.fromkeys(protocols, "x.png"))
    assert all(f"## {key}\n" in page and p.text.strip() in page for key, p in protocols.items())
    assert all(f"## prnbench {name}" in generate.commands_page() for name in COMMANDS)


def test_protocols_that_look_different_have_different_pictures(generate):
    dense = load_card("synthetic_faces").protocol("nme_2d_dense-v1")
    others = [load_card("synthetic_faces").protocol(key) for key in ("nme_2d_dense_ownbox-v1", "nme_3d_dense_zmin-v1")]
    assert len({generate.picture_name(p) for p in (dense, *others)}) == 3


def test_links_and_pictures_of_the_pages_exist():
    for page in DOCS.glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert target.startswith("generated/") or (DOCS / target).is_file(), f"{page.name}: {target}"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "nme_2d_68-v1" in (tmp_path / "generated" / "protocols.html").read_text(encoding="utf-8")
    assert not re.search(
        r'(src|href)="https?://[^"]*\.(js|css|woff2?|png)', (tmp_path / "index.html").read_text("utf-8")
    )
