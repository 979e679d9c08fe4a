"""Markdown tables of the nights that tests/benchmarks/nights.py has run."""
# ruff: noqa: T201  a script that prints its tables

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

_Line = dict[str, Any]


def print_tables(folders: Sequence[Path]) -> None:
    """A summary of all runs beside each other, then one table a run with a row a night."""
    folders_by_name = {folder.name: folder for folder in folders}
    runs = {name: _read(folder) for name, folder in folders_by_name.items()}
    rows = {name: _summary(lines) for name, lines in runs.items()}
    print("| | " + " | ".join(rows) + " |")
    print("| --- |" + " ---: |" * len(rows))
    for key in next(iter(rows.values())):
        print(f"| {key} | " + " | ".join(row[key] for row in rows.values()) + " |")
    for name, lines in runs.items():
        print(f"\n## {name}: night after night\n")
        _print_nights(lines)
        print(f"\n## {name}: losses by domain\n")
        _print_domains(json.loads((folders_by_name[name] / "final.json").read_text()))


def _read(folder: Path) -> list[_Line]:
    return [json.loads(line) for line in (folder / "nights.jsonl").read_text().splitlines()]


def waits(lines: Sequence[_Line]) -> list[int]:
    """Nights from the delivery of each snapshot to its publication; those still pending: so far."""
    minted = {key: value for line in lines for key, value in line["minted"].items()}
    learned: dict[str, int] = {}
    for line in lines:
        for snapshot in line["learned"]:
            learned.setdefault(snapshot, line["night"])
    last = lines[-1]["night"]
    return [learned.get(snapshot, last + 1) - night for snapshot, night in minted.items()]


def _summary(lines: Sequence[_Line]) -> dict[str, str]:
    kinds = Counter(line["kind"] for line in lines)
    waited = waits(lines)
    updates = [line for line in lines if line["verdict"]]
    stages = _stages(lines)
    train = sum(line["trained_tokens"] for line in lines)
    scored = sum(line["scored_tokens"] for line in lines)
    tail, head = lines[-10:], lines[:10]
    return {
        "nights": f"{len(lines)}",
        "PASS, FAIL, AMBIGUOUS, nothing to do": ", ".join(
            str(kinds[kind]) for kind in ("PASS", "FAIL", "AMBIGUOUS", "nothing to do")
        ),
        "nights until text was published: median, mean, most": (
            f"{median(waited):.0f}, {mean(waited):.1f}, {max(waited)}"
        ),
        "deliveries still pending at the end": f"{len(lines[-1]['pending'])}",
        "tokens delivered to train on": f"{sum(n['new_tokens']['train'] for n in lines):,}",
        "tokens held out": f"{sum(n['new_tokens']['holdout'] for n in lines):,}",
        "tokens trained on, replay and repetition included": f"{train:,}",
        "tokens scored by the judge": f"{scored:,}",
        "seconds a night: first ten, last ten": (
            f"{mean(n['seconds'] for n in head):.0f}, {mean(n['seconds'] for n in tail):.0f}"
        ),
        "share of judging in training + judging: first ten, last ten": (
            f"{_judging(head):.0%}, {_judging(tail):.0%}"
        ),
        "seconds in all, by step": ", ".join(
            f"{name} {seconds:,.0f}"
            for name, seconds in sorted(stages.items(), key=lambda item: -item[1])
        ),
        "gain on new text, median of the updates": _median_of(updates, "gain"),
        "largest change on an old domain, median": _median_of(updates, "loss"),
    }


def _median_of(updates: Sequence[_Line], test: str) -> str:
    found: list[float] = []
    for line in updates:
        values = [
            row["difference"]
            for row in line["verdict"]["rows"]
            if row["test"] == test and row["difference"] is not None
        ]
        found += [max(values)] if values else []
    return f"{median(found):+.3f}" if found else "-"


def _stages(lines: Sequence[_Line]) -> dict[str, float]:
    total: defaultdict[str, float] = defaultdict(float)
    for line in lines:
        for name, seconds in line["stages"].items():
            total[name] += seconds
    return total


def _judging(lines: Sequence[_Line]) -> float:
    stages = _stages(lines)
    judging = stages.get("check", 0.0)
    return judging / max(1e-9, judging + stages.get("train", 0.0))


def _print_nights(lines: Sequence[_Line]) -> None:
    print(
        "| night | deliveries | trained | verdict | gain, bound | worst old domain | change, bound "
        "| new text before, after, frozen | pending | seconds: train, judge, rest |"
    )
    print("| ---: | ---: | ---: | --- | --- | --- | --- | --- | ---: | --- |")
    for line in lines:
        rows = (line["verdict"] or {"rows": []})["rows"]
        gain = next((row for row in rows if row["test"] == "gain"), None)
        losses = [row for row in rows if row["test"] in ("loss", "cumulative")]
        worst = max(losses, key=_over_margin) if losses else None
        after = gain["candidate_nats_per_token"] if gain else None
        before = gain["champion_nats_per_token"] if gain else None
        frozen = line["frozen_on_new"]
        judge, train = line["stages"].get("check", 0.0), line["stages"].get("train", 0.0)
        cells = [
            f"{line['night']}",
            f"{line.get('snapshots', 0)}",
            f"{line['trained_tokens'] / 1000:.0f}k",
            line["kind"],
            _bound(gain),
            f"{worst['domain']} ({worst['test']})" if worst else "-",
            _bound(worst),
            f"{_figure(before)}, {_figure(after)}, {_figure(frozen)}",
            f"{len(line['pending'])}",
            f"{train:.0f}, {judge:.0f}, {line['seconds'] - train - judge:.0f}",
        ]
        print("| " + " | ".join(cells) + " |")


def _over_margin(row: Mapping[str, Any]) -> float:
    upper = row["upper_bound"]
    return float("inf") if upper is None else upper - row["margin"]


def _bound(row: Mapping[str, Any] | None) -> str:
    if row is None or row["difference"] is None:
        return "-"
    upper = row["upper_bound"]
    return f"{row['difference']:+.3f}, {'-' if upper is None else f'{upper:+.3f}'}"


def _print_domains(final: _Line) -> None:
    """Held-out losses by domain: of the first published version, and of the champion at the end."""
    if not final:
        print("nothing was published")
        return
    champions: dict[str, dict[str, float | None]] = final["champions"]
    last = list(champions.values())[-1]
    best: dict[str, float] = {}
    for losses in champions.values():
        for name, loss in losses.items():
            if loss is not None:
                best[name] = min(loss, best.get(name, loss))
    domains: defaultdict[str, list[str]] = defaultdict(list)
    for name in last:
        domains[name.rpartition("@")[0]].append(name)
    print(
        "| domain | slices | frozen first version | last champion | best champion of each slice |"
    )
    print("| --- | ---: | ---: | ---: | ---: |")
    for domain, names in sorted(domains.items()):
        scored = [name for name in names if last[name] is not None]
        figures = (_mean([table.get(n) for n in scored]) for table in (final["frozen"], last, best))
        print(f"| {domain} | {len(scored)} | " + " | ".join(map(_figure, figures)) + " |")


def _mean(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return mean(found) if found else None


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
