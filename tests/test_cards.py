"""Cards and protocols: complete, unambiguous, and errors that name the file."""

import pytest

from prnbench import cards
from prnbench.errors import InputError, UsageError

NAMES = ["aflw2000_3d", "florence", "synthetic_faces", "w300lp"]


def test_the_cards_are_there():
    assert cards.dataset_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_card_tells_what_a_user_must_know(name):
    card = cards.load_card(name)
    for field in ("title", "source", "licence", "consent", "privacy", "citation", "layout"):
        assert getattr(card, field).strip(), field
    assert card.counts and card.known_defects and card.protocols


@pytest.mark.parametrize("protocol", cards.load_protocols().values(), ids=lambda protocol: protocol.key)
def test_a_protocol_has_a_text_and_allowed_fields(protocol):
    assert protocol.key == f"{protocol.id}-v{protocol.version}"
    assert len(protocol.text) > 60 and not protocol.title.endswith(".")
    for field, allowed in cards.CHOICES.items():
        assert getattr(protocol, field) in allowed
    assert any(protocol in cards.load_card(name).protocols for name in NAMES), "used by no card"


def test_no_two_protocols_are_the_same_number():
    seen = [
        {k: v for k, v in p.identity().items() if k not in ("id", "version")} for p in cards.load_protocols().values()
    ]
    assert all(identity not in seen[:i] for i, identity in enumerate(seen))


def test_z_alignment_is_named_in_the_id():
    for protocol in cards.load_protocols().values():
        if protocol.metric == "nme" and protocol.dims == 3:
            assert f"_z{protocol.z_align}" in protocol.id


def test_all_evaluations_of_the_protocol_document_exist():
    have = {p.id for p in cards.load_card("aflw2000_3d").protocols}
    regions = {f"nme_2d_{region}" for region in ("eyes", "nose", "mouth", "jaw", "brows")}
    depth = {f"nme_3d_{points}_z{z}" for points in ("68", "dense") for z in ("none", "min", "mean")}
    rest = {"nme_2d_68", "nme_2d_68_reannotated", "nme_2d_dense", "pose_mae", "normal_error"}
    yaw = {"nme_2d_68_aflwyaw", "nme_2d_68_reannotated_aflwyaw"} | {
        f"nme_3d_68_z{z}_aflwyaw" for z in ("none", "min", "mean")
    }
    shape = {"reconstruction_aflw", "reconstruction_aflw_reverse"}
    assert regions | depth | rest | yaw | shape <= have
    ways = {f"florence_{way}_{fit}" for way in ("p2p", "p2s") for fit in ("rigid", "similarity")}
    ways |= {f"florence_p2p_{fit}_reverse" for fit in ("rigid", "similarity")}
    assert ways <= {p.id for p in cards.load_card("florence").protocols}
    # what is one number in both data sets has one definition in both
    assert {p.key for p in cards.load_card("synthetic_faces").protocols} <= {
        p.key for p in cards.load_card("aflw2000_3d").protocols
    }


def test_lookup_by_id_and_key_and_a_near_miss():
    card = cards.load_card("aflw2000_3d")
    assert card.protocol("nme_2d_68") is card.protocol("nme_2d_68-v1")
    with pytest.raises(UsageError, match=r"[Dd]id you mean 'nme_2d_68"):
        card.protocol("nme_2d_86")
    with pytest.raises(UsageError, match=r"[Dd]id you mean 'aflw2000_3d'"):
        cards.load_card("aflw2000-3d")


CARD = """
title = "T"\nconverter = "c"\nsource = "s"\nlicence = "l"\nconsent = "c"\nprivacy = "p"\ncitation = "c"\nlayout = "l"
known_defects = []\nprotocols = {protocols}\n[counts]\nimages = 1
"""
PROTOCOL = """
[[protocol]]\nid = "p"\nversion = 1\nmetric = "nme"\npoints = "jaw"\ndims = 2\nnormaliser = "none"
unit = "%"
title = "t"
text = "x"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "protocols").mkdir()
    (tmp_path / "protocols" / "p.toml").write_text(PROTOCOL)
    monkeypatch.setattr(cards, "card_folder", lambda: tmp_path)
    cards.load_protocols.cache_clear()
    yield tmp_path
    cards.load_protocols.cache_clear()
    cards.load_card.cache_clear()


def test_a_card_of_ones_own_loads(folder):
    (folder / "mine.toml").write_text(CARD.format(protocols='["p-v1"]'))
    assert cards.load_card("mine").protocols[0].points == "jaw"


@pytest.mark.parametrize(
    ("card", "protocol", "said"),
    [
        (CARD.format(protocols='["q-v1"]'), PROTOCOL, "q-v1"),
        (CARD.format(protocols="[]") + "\n[nonsense]\n", PROTOCOL, "nonsense"),
        ("title = ", PROTOCOL, "not a valid TOML"),
        (CARD.format(protocols="[]"), PROTOCOL.replace('"jaw"', '"chin"'), "chin"),
        (CARD.format(protocols="[]"), PROTOCOL.replace("dims = 2", "dim = 2"), "dim"),
        (CARD.format(protocols='["p-v1"]'), PROTOCOL.replace("dims = 2", ""), "dims"),
        (CARD.format(protocols='["p-v1"]'), PROTOCOL + PROTOCOL, "twice"),
    ],
)
def test_a_wrong_card_names_file_and_cause(folder, card, protocol, said):
    (folder / "mine.toml").write_text(card)
    (folder / "protocols" / "p.toml").write_text(protocol)
    with pytest.raises(InputError, match=said) as error:
        cards.load_protocols()
        cards.load_card("mine")
    assert error.value.file.endswith(".toml") and error.value.remedy


def test_cards_converters_and_fake_data_correspond():
    """Every converter has its card and its generator of fake data; the built-in set goes through AFLW2000-3D's."""
    from pathlib import Path

    from prnbench.convert import converter_names

    converters = {name: cards.load_card(name).converter for name in cards.dataset_names()}
    assert converters.pop("synthetic_faces") == "aflw2000_3d"
    assert converters == {name: name for name in converter_names()}
    fakes = {path.stem for path in (Path(__file__).parent / "fake").glob("*.py")} - {"__init__", "face_models"}
    assert fakes == set(converter_names())
