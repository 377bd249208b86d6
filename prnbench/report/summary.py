"""The Markdown summary of a run, for a terminal, a pull request or MLflow's run page."""

from __future__ import annotations

import re

from prnbench.report.robustness import robustness_markdown
from prnbench.report.run import Run, headline_protocols, short_name
from prnbench.report.speed import speed_markdown
from prnbench.report.tables import accuracy_rows, interval, markdown_table, markdown_text, number
from prnbench.report.verdicts import verdict_of


def summary_markdown(run: Run) -> str:
    """Headline numbers with verdicts, the tables by yaw bin, speed, failures and the command."""
    parts = [f"# {markdown_text(', '.join(run.models))}", *(_dataset(run, dataset) for dataset in run.datasets)]
    parts += [robustness_markdown(run), speed_markdown(run), _failures(run), _command(run)]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _dataset(run: Run, dataset: str) -> str:
    regions = markdown_table(run, dataset, regions=True)
    folded = f"<details><summary>Regions of the face</summary>\n\n{regions}\n</details>" if regions else ""
    heading = f"## {markdown_text(dataset)}, {run.faces(dataset)} faces"
    note = "Mean errors, smaller is better; bins by absolute yaw; 95 % bootstrap intervals of the mean over all faces."
    return "\n\n".join(filter(None, (heading, _headline(run, dataset), note, markdown_table(run, dataset), folded)))


def _headline(run: Run, dataset: str) -> str:
    main = headline_protocols(run, dataset)
    lines = []
    for row in accuracy_rows(run, dataset):
        if row.protocol not in main or not row.offered:
            continue
        value = f"**{number(row.all_faces.value, row.unit)}** {interval(row.all_faces)}".rstrip()
        verdict = verdict_of(run, dataset, row.model, row.protocol)
        judged = f": {verdict['text']}" if verdict else ""
        lines.append(
            f"- {markdown_text(row.model)}, {short_name(run.protocols[row.protocol])}: {value}{markdown_text(judged)}"
        )
    return "\n".join(lines)


def _failures(run: Run) -> str:
    failed = run.table.rows[run.table.rows["failed"] != ""]
    if failed.empty:
        return ""
    counts = failed.groupby(["model", "dataset"], sort=False).size()
    lines = [
        f"- {markdown_text(model)} on {markdown_text(dataset)}: {count} faces"
        for (model, dataset), count in counts.items()
    ]
    return "## Failed predictions\n\n" + "\n".join(lines)


def _command(run: Run) -> str:
    command = " ".join(str(run.table.header.get("command", "")).split())
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", command)), default=0))
    return f"## Reproduce\n\n{fence}\n{command}\n{fence}" if command else ""
