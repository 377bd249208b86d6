"""The outcome of a check and its outputs: terminal, Markdown, JUnit XML, GitHub annotations, JSON."""

from __future__ import annotations

import math
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prnbench.errors import CheckFailedError, UndecidedError
from prnbench.files import write_json, write_text
from prnbench.report.tables import markdown_row, markdown_text

if TYPE_CHECKING:
    from rich.console import RenderableType

PASSED, REGRESSED, UNDECIDED = "passed", "regressed", "undecided"
MOST_BAD, MOST_MOVED, MOST_DETAILS = 12, 5, 5
"""Rows of the terminal's table (not passed, passed), and how many are explained below it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One quantity of one model, before and after.

    Attributes
    ----------
    kind
        ``accuracy``, ``failures`` or ``latency``.
    what
        Protocol and subset, or the timed stage.
    baseline, candidate
        Values in ``unit``.
    change, low, high
        Relative change (0.03 is 3 % worse) and its interval (95 % for accuracy, 99.8 % for latency); NaN where
        there is none.
    p
        One-sided p value after correction, NaN where there is none.
    tolerance
        Largest allowed change.
    status
        ``passed``, ``regressed`` or ``undecided``.
    detail
        Where it got worst, or why nothing could be decided.
    """

    kind: str
    model: str
    dataset: str
    what: str
    unit: str
    baseline: float
    candidate: float
    change: float
    low: float
    high: float
    p: float
    tolerance: float
    status: str
    detail: str = ""

    @property
    def name(self) -> str:
        """Model, data set and quantity in one line."""
        return " · ".join(filter(None, (self.model, self.dataset, self.what)))


@dataclass(frozen=True, slots=True)
class Verdict:
    """All findings of a check, and notes that are no findings."""

    findings: tuple[Finding, ...]
    baseline: str
    reason: str = ""
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """The worst of the findings: regressed, else undecided, else passed."""
        found = {finding.status for finding in self.findings}
        return next((status for status in (REGRESSED, UNDECIDED) if status in found), PASSED)

    @property
    def exit_code(self) -> int:
        """0 passed, 1 regressed, 3 undecided."""
        return {PASSED: 0, REGRESSED: CheckFailedError.exit_code, UNDECIDED: UndecidedError.exit_code}[self.status]

    def of(self, status: str) -> list[Finding]:
        """Findings with this status."""
        return [finding for finding in self.findings if finding.status == status]

    @property
    def headline(self) -> str:
        """The outcome in one sentence."""
        counts = {status: len(self.of(status)) for status in (REGRESSED, UNDECIDED, PASSED)}
        if self.status == REGRESSED:
            return f"Regressed: {counts[REGRESSED]} of {len(self.findings)} got worse beyond tolerance and chance."
        if self.status == UNDECIDED:
            return f"Undecided: {counts[UNDECIDED]} of {len(self.findings)} quantities could not be decided (see why)."
        return f"Passed: none of {len(self.findings)} quantities got worse beyond tolerance and chance."

    def raise_for_status(self) -> None:
        """Raise CheckFailedError or UndecidedError unless the check passed."""
        first = next(iter(self.of(self.status)), None)
        cause = f"{first.name}: {sentence(first)}" if first else ""
        if self.status == REGRESSED:
            raise CheckFailedError(cause, remedy="see check.md; accept it with prnbench check --update REASON")
        if self.status == UNDECIDED:
            raise UndecidedError(cause, remedy="run again on a quiet machine, or interleaved with the baseline")


def sentence(finding: Finding) -> str:
    """What happened to one quantity, in words."""
    moved = f"{value_text(finding.baseline, finding.unit)} -> {value_text(finding.candidate, finding.unit)}"
    allowed = f"{change_text(finding.change)}, allowed {change_text(finding.tolerance)}"
    return f"{moved} ({allowed}). {finding.detail}".strip()


def value_text(value: float, unit: str) -> str:
    """A value with three significant digits at least."""
    if not math.isfinite(value):
        return "none"
    return f"{value:.3f} {unit}".strip() if abs(value) < 1000 else f"{value:.0f} {unit}".strip()


def change_text(change: float) -> str:
    """A relative change in per cent with its sign."""
    return "–" if math.isnan(change) else f"{100 * change:+.1f} %"


def write_outputs(verdict: Verdict, folder: Path | str) -> list[Path]:
    """Write ``check.json``, ``check.md`` and ``junit.xml``; on GitHub also annotations and the job's summary."""
    folder = Path(folder)
    files = {"check.md": markdown(verdict), "junit.xml": junit(verdict)}
    for name, text in files.items():
        write_text(folder / name, text)
    write_json(folder / "check.json", as_json(verdict))
    if os.environ.get("GITHUB_ACTIONS") == "true":
        print("\n".join(github_annotations(verdict)))
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a", encoding="utf-8") as handle:
            handle.write(markdown(verdict))
    return [folder / name for name in ("check.json", *files)]


def as_json(verdict: Verdict) -> dict[str, Any]:
    """The verdict as strict JSON: a number that is not finite becomes null."""
    findings = [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(finding).items()}
        for finding in verdict.findings
    ]
    about = {"status": verdict.status, "exit_code": verdict.exit_code, "headline": verdict.headline}
    return {
        **about,
        "baseline": verdict.baseline,
        "reason": verdict.reason,
        "notes": list(verdict.notes),
        "findings": findings,
    }


# -- for people --------------------------------------------------------------------------------------------------------


def terminal(verdict: Verdict) -> RenderableType:
    """What did not pass and the passed ones that moved most, counts of the rest, the outcome last.

    Every quantity with its interval and p stands in ``check.md``.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    colours = {PASSED: "green", REGRESSED: "bold red", UNDECIDED: "yellow"}
    bad = [finding for finding in _worst_first(verdict.findings) if finding.status != PASSED]
    shown = bad[:MOST_BAD] + _moved_most(verdict)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("quantity", overflow="fold", min_width=30)
    for head in ("baseline", "now", "change"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for finding in shown:
        cells = [value_text(finding.baseline, finding.unit), value_text(finding.candidate, finding.unit)]
        cells.append(change_text(finding.change))
        table.add_row(Text(finding.name), *cells, Text(finding.status, style=colours[finding.status]))
    details = [Text(f"{f.name}: {f.detail}") for f in bad[:MOST_DETAILS] if f.detail]
    notes = [Text(text, style="dim") for text in (*_counts_of_rest(verdict, shown), *verdict.notes)]
    return Group(*([table] if shown else []), *details, *notes, Text(verdict.headline, style=colours[verdict.status]))


def _moved_most(verdict: Verdict) -> list[Finding]:
    """The passed quantities that changed at all, the largest changes first; a few of them."""
    moved = [f for f in verdict.of(PASSED) if f.detail or f.baseline != f.candidate]
    return sorted(moved, key=lambda f: (not f.detail, -abs(f.change) if f.change == f.change else 0.0))[:MOST_MOVED]


def _counts_of_rest(verdict: Verdict, shown: list[Finding]) -> list[str]:
    """``55 more passed; check.md lists every quantity.``: what the table leaves out."""
    rest = [finding.status for finding in verdict.findings if finding not in shown]
    more = " more" if shown else ""
    counts = [f"{rest.count(status)}{more} {status}" for status in (REGRESSED, UNDECIDED, PASSED) if status in rest]
    return [f"{', '.join(counts)}; check.md lists every quantity."] if counts else []


def markdown(verdict: Verdict) -> str:
    """The verdict for a pull request: the outcome, what did not pass, and the rest folded away."""
    marks = {PASSED: "✅", REGRESSED: "❌", UNDECIDED: "⚠️"}
    lines = [f"## {marks[verdict.status]} prnbench check", "", markdown_text(verdict.headline), ""]
    bad = [f for f in _worst_first(verdict.findings) if f.status != PASSED]
    if bad:
        lines += [*_markdown_table(bad), ""]
        lines += [f"- {markdown_text(f.name)}: {markdown_text(f.detail)}" for f in bad if f.detail] + [""]
    good = verdict.of(PASSED)
    if good:
        lines += [f"<details><summary>{len(good)} passed</summary>", "", *_markdown_table(good), "", "</details>", ""]
    lines += [markdown_text(note) + "  " for note in verdict.notes]
    reason = f" ({verdict.reason})" if verdict.reason else ""
    lines.append("Intervals: 95 % for accuracy, 99.8 % for latency; p is corrected for all quantities.  ")
    return "\n".join([*lines, f"Baseline: {markdown_text(verdict.baseline + reason)}", ""])


def _markdown_table(findings: list[Finding]) -> list[str]:
    heads = ["quantity", "baseline", "now", "change", "interval", "p", "outcome"]
    lines = [markdown_row(heads), markdown_row(["---", *["---:"] * 5, "---"])]
    for f in findings:
        values = [value_text(f.baseline, f.unit), value_text(f.candidate, f.unit), change_text(f.change)]
        lines.append(markdown_row([markdown_text(f.name), *values, _bounds(f), _p_text(f.p), f.status]))
    return lines


def _worst_first(findings: Iterable[Finding]) -> list[Finding]:
    order = {REGRESSED: 0, UNDECIDED: 1, PASSED: 2}
    return sorted(findings, key=lambda f: (order[f.status], -f.change if f.status == REGRESSED else 0.0))


def _bounds(finding: Finding) -> str:
    if math.isnan(finding.low) or math.isnan(finding.high):
        return ""
    return f"[{change_text(finding.low)}, {change_text(finding.high)}]"


def _p_text(p: float) -> str:
    if math.isnan(p):
        return ""
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


# -- for machines ------------------------------------------------------------------------------------------------------


def junit(verdict: Verdict) -> str:
    """JUnit XML: a failure for each regression, an error for each undecided quantity."""
    counts = {"failures": verdict.of(REGRESSED), "errors": verdict.of(UNDECIDED), "tests": verdict.findings}
    suite = ET.Element("testsuite", {"name": "prnbench check", **{k: str(len(v)) for k, v in counts.items()}})
    for finding in verdict.findings:
        group = _xml_text(f"{finding.kind}.{finding.model}.{finding.dataset}".rstrip("."))
        case = ET.SubElement(suite, "testcase", classname=group, name=_xml_text(finding.what))
        if finding.status != PASSED:
            tag = "failure" if finding.status == REGRESSED else "error"
            ET.SubElement(case, tag, message=_xml_text(sentence(finding)), type=finding.status)
    ET.indent(suite)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(suite, encoding="unicode")}\n'


def _xml_text(text: str) -> str:
    """Text without the control characters that XML forbids."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


def github_annotations(verdict: Verdict) -> list[str]:
    """GitHub workflow commands: an error a regression, a warning an undecided quantity, a notice when all passed."""
    lines = [_command("error", f.name, sentence(f)) for f in verdict.of(REGRESSED)]
    lines += [_command("warning", f.name, sentence(f)) for f in verdict.of(UNDECIDED)]
    return lines or [_command("notice", "prnbench check", verdict.headline)]


def _command(level: str, title: str, message: str) -> str:
    escaped = message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    name = title.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A").replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={name}::{escaped}"
