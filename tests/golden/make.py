"""Write the golden files anew after a wanted change: python -m tests.golden.make, then read the difference."""

from pathlib import Path

from prnbench.files import make_folder, write_json, write_text
from tests.golden.runs import made_table, made_timing

FOLDER = Path(__file__).parent
RUN, EXPECTED = FOLDER / "run", FOLDER / "expected"


def texts(folder):
    """Every text that is a pure function of a run folder, by file name."""
    from prnbench.report.run import read_run
    from prnbench.report.summary import summary_markdown
    from prnbench.report.tables import csv_table, latex_table

    run = read_run(folder)
    return {
        "summary.md": summary_markdown(run),
        "table.tex": latex_table(run),
        "table.csv": csv_table(run),
        "terminal.txt": terminal_text(folder),
    }


def terminal_text(folder):
    """The terminal tables as plain text, 110 columns wide."""
    import io

    from rich.console import Console

    from prnbench.report import terminal

    out = io.StringIO()
    Console(file=out, width=110, color_system=None).print(terminal(folder))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def main():
    """Write the stored table once, and what renders from it."""
    make_folder(RUN)
    if not (RUN / "per_sample.csv").exists():
        table = made_table(faces=45)
        table.rows.to_csv(RUN / "per_sample.csv", index=False)
        write_json(RUN / "per_sample.json", table.header)
        write_json(RUN / "timing.json", made_timing())
    for name, text in texts(RUN).items():
        write_text(EXPECTED / name, text)


if __name__ == "__main__":
    main()
