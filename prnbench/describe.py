"""What ``prnbench info`` tells: shards, data-set cards, models, face models; each as a rich table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def _table(title: str, rows: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        if value not in (None, "", (), [], {}):
            table.add_row(name, _text(value))
    return table


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {entry}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return "\n".join(str(entry) for entry in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def overview() -> Table:
    """Versions, names of models and data sets, and the cache folder."""
    from prnbench import __version__
    from prnbench.cards import dataset_names
    from prnbench.convert import converter_names
    from prnbench.files import cache_folder
    from prnbench.models import model_names

    rows = {
        "version": __version__,
        "models": ", ".join(model_names()),
        "data sets": ", ".join(dataset_names()),
        "converters": ", ".join(converter_names()),
        "cache": str(cache_folder()),
    }
    return _table("prnbench", rows)


def shards(folder: Path, gallery: Path | None = None, faces: int = 24) -> Table:
    """A converted data set; with ``gallery`` a contact sheet of faces evenly drawn from it is written."""
    from prnbench.data.shards import open_shards, read_manifest

    manifest = read_manifest(folder)
    size = sum(entry["bytes"] for entry in manifest["shards"])
    reasons = [f"{entry['file']}: {entry['reason']}" for entry in manifest["skipped"]]
    rows = {
        "data set": manifest["dataset"],
        "faces": manifest["count"],
        "store": f"{manifest['store']}, {manifest['resolution']} x {manifest['resolution']} texels",
        "size": f"{size / 1e6:.1f} MB, {size / manifest['count'] / 1024:.0f} KiB a face",
        "shards": len(manifest["shards"]),
        "face model": manifest["face_model"],
        "pixel convention": manifest["pixel_convention"],
        "splits": manifest["splits"],
        "yaw bins": manifest["yaw_bins"],
        "sources": manifest["sources"] if len(manifest["sources"]) <= 8 else None,
        "skipped": [*reasons[:10], *([f"... {len(reasons) - 10} more"] if len(reasons) > 10 else [])],
    }
    if gallery is not None:
        from prnbench.gallery import dataset_sheet
        from prnbench.overlay import write_image

        opened = open_shards(folder, maps=False)
        step = max(len(opened) // faces, 1)
        write_image(gallery, dataset_sheet(list(opened[::step])[:faces]))
        rows["gallery"] = str(gallery)
    return _table(str(folder), rows)


def dataset(name: str) -> Table:
    """A data-set card with its protocols."""
    from prnbench.cards import load_card

    card = load_card(name)
    rows = {
        "source": card.source,
        "licence": card.licence,
        "consent": card.consent,
        "privacy": card.privacy,
        "citation": card.citation.strip(),
        "layout": card.layout.strip(),
        "counts": card.counts,
        "known defects": card.known_defects,
        "protocols": [f"{protocol.key}: {protocol.title}" for protocol in card.protocols],
    }
    return _table(card.title, rows)


def model(name: str) -> Table:
    """A model's card."""
    from prnbench.models import load_model

    card = load_model(name).card.as_dict()
    return _table(card.pop("title"), card)


def face_model(path: str, picture_file: Path | None = None) -> Table:
    """A morphable model; with ``picture_file`` a rendering is written, by default beside the working folder."""
    from prnbench.facemodel import describe, load_face_model, picture
    from prnbench.overlay import write_image

    loaded = load_face_model(path)
    rows = describe(loaded)
    target = picture_file or Path(f"{Path(path).stem}.png")
    write_image(target, picture(loaded))
    return _table(loaded.name, {**rows, "picture": str(target)})
