"""Run the demo over seeds, or its update B over replay shares, and tabulate the verdicts.

    python tests/benchmarks/demo_seeds.py FOLDER --seeds 0 1 2 3 4 5 6 7 8 9
    python tests/benchmarks/demo_seeds.py FOLDER --shares 0.05 0.1 0.25 0.4 0.5

Every run has a folder of its own below FOLDER; one that is complete is not run again. Peak memory
is the largest sum of the proportional set sizes of all processes, sampled twice a second.
"""
# ruff: noqa: T201  a script that prints its table

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

YAML_SHARE = re.compile(r"(?m)^  share: .*$")


def main() -> None:
    """Run and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="*", default=[])
    parser.add_argument("--shares", type=float, nargs="*", default=[])
    options = parser.parse_args()
    if options.shares:
        sweep_shares(options.folder.resolve(), options.shares)
    if options.seeds:
        print("| seed | version | domain | before | after | change | bound | margin | verdict |")
        print("| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |")
        for seed in options.seeds:
            home = options.folder.resolve() / f"seed-{seed}"
            run_once(home, ["demo", "--folder", str(home), "--seed", str(seed)])
            for report in reports(home):
                print_rows(f"{seed}", report)
    for log in sorted(options.folder.resolve().glob("*/measured.json")):
        print(log.parent.name, log.read_text().strip())


def sweep_shares(folder: Path, shares: list[float]) -> None:
    """Update B with each share, all from the state after update A of one demo."""
    whole = folder / "seed-0"
    run_once(whole, ["demo", "--folder", str(whole), "--seed", "0"])
    print("| replay share | domain | before | after | change | bound | margin | verdict |")
    for share in shares:
        home = folder / f"share-{share}"
        if not home.exists():
            shutil.copytree(whole, home)
            roll_back(home)
            yaml = home / "lineage.yaml"
            yaml.write_text(YAML_SHARE.sub(f"  share: {share}", yaml.read_text()))
        run_once(home, ["update", str(home / "lineage.yaml")])
        print_rows(f"{share:.2f}", reports(home)[-1])


def roll_back(home: Path) -> None:
    """Undo update B by removing its heads: only right in a copy that nobody else reads."""
    heads = home / "store" / "lineages" / "demo" / "heads"
    for path in heads.glob("*.json"):
        if len(json.loads(path.read_text())["versions"]) > 2:
            path.unlink()
    (home / "measured.json").unlink(missing_ok=True)


def run_once(home: Path, arguments: list[str]) -> None:
    """Run ``perennial`` once, with its time and peak memory into ``measured.json``."""
    measured = home / "measured.json"
    if measured.exists():
        return
    home.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with (home / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PERENNIAL_HOME": str(home)},
        )
        peak_bytes = watch_memory(process)
    figures = {
        "exit_code": process.returncode,
        "elapsed_seconds": round(time.monotonic() - started, 1),
        "peak_gib": round(peak_bytes / 2**30, 2),
    }
    measured.write_text(json.dumps(figures) + "\n")


def watch_memory(process: "subprocess.Popen[bytes]") -> int:
    """Wait for the end; returns the peak of the sum of proportional set sizes, bytes."""
    tree = psutil.Process(process.pid)
    peak_bytes = 0
    ended = threading.Event()
    while not ended.wait(0.5):
        total = 0
        try:
            for one in [tree, *tree.children(recursive=True)]:
                total += one.memory_full_info().pss
        except psutil.Error:
            # A process ended between listing and looking; the next sample counts.
            pass
        peak_bytes = max(peak_bytes, total)
        if process.poll() is not None:
            ended.set()
    return peak_bytes


def reports(home: Path) -> list[dict[str, Any]]:
    """The verdicts of all versions on the newest head, in order."""
    lineage = home / "store" / "lineages" / "demo"
    newest = max((lineage / "heads").glob("*.json"), key=lambda path: int(path.stem))
    head = json.loads(newest.read_text())
    return [
        json.loads((lineage / "updates" / version["update"] / "verdict.json").read_text())
        for version in head["versions"]
    ]


def print_rows(label: str, report: dict[str, Any]) -> None:
    """One row a tested comparison."""
    for row in report["rows"]:
        if row["test"] == "shown":
            continue
        figures = [
            row["champion_nats_per_token"],
            row["candidate_nats_per_token"],
            row["difference"],
            row["upper_bound"],
            row["margin"],
        ]
        shown = " | ".join("-" if value is None else f"{value:.3f}" for value in figures)
        version = report["candidate"].split("-")[0]
        print(f"| {label} | {version} | {row['domain']} | {shown} | {report['verdict']} |")


if __name__ == "__main__":
    main()
