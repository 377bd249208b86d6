"""The layers of docs/architecture.md, drawn from the imports: every import inside the package points down."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "prnbench"

LAYERS = [
    {"errors"},
    {"sample", "cards", "geometry", "landmarks", "files", "progress", "environment"},
    {"morphable"},
    {"uv"},
    {"render"},
    {"overlay"},
    {"synthetic"},
    {"facemodel"},
    {"data.codec", "data.shards", "table", "metrics", "timing"},
    {"annotations", "predictions"},
    {"scan", "convert", "benchmark_set"},
    {"data", "models"},
    {"predict", "tracking"},
    {"training", "evaluate", "gallery", "error_maps", "describe", "evaluation", "chunks", "robustness"},
    {"report", "leaderboard", "regression"},
    {"benchmarks"},
    {"commands"},
    {"cli", "__main__"},
]
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}


def room_of(module):
    """The room a dotted name below the package belongs to, the longest known prefix."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if (room := ".".join(parts[:length])) in RANK:
            return room
    return None


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("prnbench"):
            base = (node.module or "")[len("prnbench") :].lstrip(".")
            for alias in node.names:
                joined = f"{base}.{alias.name}".lstrip(".")
                yield (
                    node.lineno,
                    joined if (PACKAGE / joined.replace(".", "/")).with_suffix(".py").exists() else base,
                )
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("prnbench."):
                    yield node.lineno, alias.name[len("prnbench.") :]


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    relative = path.relative_to(PACKAGE).with_suffix("")
    own = room_of(".".join(part for part in relative.parts if part != "__init__"))
    assert own, f"{relative} has no layer: give it one here and in docs/architecture.md"
    upward = [
        f"line {line}: {own} (layer {RANK[own]}) imports {target} (layer {RANK[room]})"
        for line, target in imports_of(path)
        if target and (room := room_of(target)) and room != own and RANK[room] > RANK[own]
    ]
    assert not upward


def test_every_module_says_what_lives_there():
    silent = [str(path) for path in FILES if not (ast.get_docstring(ast.parse(path.read_text())) or "").strip()]
    assert not silent
