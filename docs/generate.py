"""Pages that are written from the cards and the command line, so that they cannot say anything else."""

import os
from dataclasses import asdict

import numpy as np

from prnbench.cards import dataset_names, load_card
from prnbench.cli import COMMANDS, _parser
from prnbench.files import write_text
from prnbench.landmarks import REGIONS
from prnbench.report.run import protocol_place

DIAGRAMS = {
    "nme": "The points that are compared: true ones blue, a prediction orange; the box gives the face size.",
    "reconstruction": "The surface that is compared after alignment; divided by the distance of the outer eye corners.",
    "normal_error": "The points whose surface normals are compared.",
    "pose_mae": "The head whose pitch, yaw and roll are compared.",
}


def write_pages(folder):
    """Write ``datasets.md``, ``protocols.md``, ``commands.md`` and the pictures of the protocols."""
    cards = [load_card(name) for name in dataset_names()]
    protocols = {p.key: p for card in cards for p in card.protocols}
    used = {key: [card.name for card in cards if any(p.key == key for p in card.protocols)] for key in protocols}
    pictures = {key: picture_name(p) for key, p in protocols.items()}
    for name, protocol in {pictures[key]: p for key, p in protocols.items()}.items():
        if not (folder / name).is_file():
            draw(protocol, folder / name)
    write_text(folder / "datasets.md", datasets_page(cards))
    write_text(folder / "protocols.md", protocols_page(protocols, used, pictures))
    write_text(folder / "commands.md", commands_page())


def datasets_page(cards):
    """Every data set: where to ask for it, its terms, what is known to be wrong with it."""
    lines = ["# Bring your data", "", "One section a data-set card (`prnbench info --dataset NAME`).", ""]
    for card in cards:
        lines += [f"## {card.title}", "", "```console", f"$ {_command(card)}", "```", ""]
        facts = {"Where to ask": card.source, "Licence": card.licence, "Consent": card.consent, "Privacy": card.privacy}
        facts |= {"Layout": card.layout, "Citation": card.citation}
        lines += [f"{name}\n: {_line(text)}\n" for name, text in facts.items() if text]
        if card.known_defects:
            lines += ["Known defects:", "", *(f"- {_line(defect)}" for defect in card.known_defects), ""]
        lines += ["Protocols: " + ", ".join(f"[{p.key}](protocols.md#{p.key})" for p in card.protocols), ""]
    return "\n".join(lines)


def _command(card):
    if card.name == "synthetic_faces":
        return "prnbench evaluate --model prn"
    if card.converter == "w300lp":
        return "prnbench convert w300lp --root DIR --face-model BFM.mat --out shards/w300lp"
    return f"prnbench evaluate --model prn --dataset {card.name} --root DIR"


def protocols_page(protocols, used, pictures):
    """Every protocol: its picture, its text, and the fields that make it this one."""
    lines = ["# Protocols", ""]
    lines += ["A number is a value with its protocol; numbers of different keys are never comparable.", ""]
    for key, protocol in sorted(protocols.items(), key=lambda item: protocol_place(item[1])):
        lines += [f"({key})=", f"## {key}", "", f"**{_line(protocol.title)}**", ""]
        lines += [f"![{DIAGRAMS[protocol.metric]}]({pictures[key]})", "", f"*{DIAGRAMS[protocol.metric]}*", ""]
        lines += [protocol.text.strip(), ""]
        lines += [f"Used on: {', '.join(used[key])}.", "", "```text"]
        lines += [f"{name:<13} {value}" for name, value in protocol.identity().items()] + ["```", ""]
    return "\n".join(lines)


def commands_page():
    """Every command with its help."""
    lines = ["# Commands", ""]
    for name, (text, add_arguments) in COMMANDS.items():
        lines += [f"## prnbench {name}", "", f"{text[0].upper()}{text[1:]}.", ""]
        if add_arguments is not None:
            lines += ["```text", _help(name), "```", ""]
    return "\n".join(lines)


def _help(name):
    os.environ["COLUMNS"] = "100"
    return _parser(name).format_help().strip()


def _line(text):
    return " ".join(str(text).split()).replace("<", "&lt;")


# -- pictures ----------------------------------------------------------------------------------------------------------


def picture_name(protocol):
    """One picture for all protocols that it would show the same of."""
    fields = asdict(protocol)
    parts = [fields[name] for name in ("metric", "points", "dims", "normaliser", "z_align")]
    return "-".join(str(part) for part in parts if part) + ".png"


def draw(protocol, path):
    """Front and side of the built-in head's points with what the protocol compares."""
    import matplotlib
    from matplotlib.figure import Figure

    from prnbench.report.plots import STYLE

    points, shown, predicted = _points(protocol)
    views = {"x": 0, "z": 2} if protocol.dims == 3 or protocol.metric != "nme" else {"x": 0}
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        canvas = Figure(figsize=(2.6 * len(views), 2.9), layout="constrained")
        for place, (name, axis) in enumerate(views.items()):
            axes = canvas.add_subplot(1, len(views), place + 1)
            axes.scatter(points[:, axis], points[:, 1], s=2, color="#cccccc", linewidths=0)
            size = 10 if len(shown) < 100 else 1.5
            axes.scatter(predicted[:, axis], predicted[:, 1], s=size, color="#E69F00", linewidths=0)
            axes.scatter(shown[:, axis], shown[:, 1], s=size, color="#0072B2", linewidths=0)
            if name == "x":
                _size(axes, protocol, points, shown)
            axes.set(aspect="equal", xticks=[], yticks=[], xlabel="from the front" if name == "x" else "from the side")
            axes.spines[:].set_visible(False)
        path.parent.mkdir(parents=True, exist_ok=True)
        canvas.savefig(path, dpi=110)


def _points(protocol):
    """All 68 landmarks, the points that are compared, and a made-up prediction of them; y up, width 1."""
    from prnbench.evaluation import face_context
    from prnbench.facemodel import load_face_model

    model = load_face_model()
    unit = model.mean / np.ptp(model.mean[model.landmarks][:, 0])
    landmarks = unit[model.landmarks]
    if protocol.points == "landmarks_68" or protocol.points in REGIONS:
        shown = landmarks[list(REGIONS.get(protocol.points, range(68)))]
    elif protocol.metric == "pose_mae":
        shown = landmarks
    else:
        context = face_context(model, 256)
        shown = context.position_map_of(unit).reshape(-1, 3)[context.face_texels][::24]
    if protocol.metric != "nme":  # aligned before it is compared
        return landmarks, shown, shown.mean(axis=0) + 1.06 * (shown - shown.mean(axis=0))
    return landmarks, shown, shown + np.array([0.05, -0.03, 0.2 if protocol.z_align == "none" else 0.0])


def _size(axes, protocol, landmarks, shown):
    """What the error is divided by."""
    from matplotlib.patches import Rectangle

    if protocol.normaliser.startswith("sqrt_box"):
        points = shown if protocol.normaliser == "sqrt_box_points" else landmarks
        low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
        axes.add_patch(Rectangle(low, *(high - low), fill=False, edgecolor="#555555", linewidth=1))
        axes.set_title("face size = sqrt(w h)", fontsize=8, color="#555555")
    elif "interocular" in protocol.normaliser:
        ends = landmarks[[36, 45]]
        axes.plot(ends[:, 0], ends[:, 1], color="#D55E00", linewidth=1.5)
        axes.set_title("outer eye corners", fontsize=8, color="#555555")
