"""Many nights of one lineage: does a model stay up to date, or is nothing ever published?

    python tests/benchmarks/nights.py run NOTHING --corpus news=news.jsonl.gz --corpus de=de.gz@16
    python tests/benchmarks/nights.py base BASE --text books.jsonl.gz --text facts.jsonl.gz
    python tests/benchmarks/nights.py run IMPORTED --base BASE --corpus news=news.jsonl.gz
    python tests/benchmarks/nights.py table NOTHING IMPORTED

The first run starts from nothing, the third from a base model. Without a corpus it is text that
every installation has: prose from the first night on, code from the middle on.

Every night a delivery is put into the sources and the flow of the scheduled deployment runs, with
the defaults of everything that judges, holds out and replays. ``nights.jsonl`` in the folder gets
one line a night; a run that is started again goes on after the last one. The page
docs/results/nights.md says what the columns mean.
"""
# ruff: noqa: T201  a script that prints its tables

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.nights_table import print_tables
from tests.benchmarks.nights_text import Corpus, corpus_of, deal, split_base

if TYPE_CHECKING:
    from infra.settings import Settings

MODEL = """\
  model:
    vocab_size: 4096
    hidden_size: 96
    num_layers: 3
    num_heads: 3
    num_kv_heads: 3
    intermediate_size: 256
    max_position_embeddings: 256
"""
"""0.7 million parameters."""
RECIPE = """\
recipe:
  seq_len: 256
  global_batch_samples: 8
  micro_batch_size: 8
{schedule}  seed: {seed}
compute: {{num_workers: {workers}, threads_per_worker: {threads}}}
"""
SOURCE = """\
  - name: {name}
    uri: {uri}
    domain: {domain}
    fields: {{text: text, id: id, cluster: cluster}}
"""


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="deal out and update, night after night")
    run.add_argument("folder", type=Path)
    run.add_argument("--corpus", type=corpus_of, action="append", help="DOMAIN=FILE[@FIRST_NIGHT]")
    run.add_argument("--nights", type=int, default=30)
    run.add_argument("--until", type=int, help="stop after this night; the dealing stays the same")
    run.add_argument("--chars", type=int, default=100_000, help="of a domain and night")
    run.add_argument(
        "--base", type=Path, help="folder of the command 'base'; from nothing if empty"
    )
    _common(run)
    run.set_defaults(command=run_nights)
    base = commands.add_parser("base", help="train the model that another lineage imports")
    base.add_argument("folder", type=Path)
    base.add_argument("--text", type=Path, action="append", required=True)
    base.add_argument("--chars", type=int, default=5_000_000)
    _common(base)
    base.set_defaults(command=train_base)
    table = commands.add_parser("table", help="Markdown tables of runs")
    table.add_argument("folders", type=Path, nargs="+")
    table.set_defaults(command=lambda options: print_tables(options.folders))
    options = parser.parse_args()
    options.command(options)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="0: train in this process, no Ray")


def run_nights(options: argparse.Namespace) -> None:
    """Deal out and update until the last night."""
    home = options.folder.resolve()
    corpora = options.corpus or [
        Corpus("prose", None),
        Corpus("code", None, options.nights // 2 + 1),
    ]
    deal(corpora, home / "dealt", nights=options.nights, chars=options.chars)
    file = home / "lineage.yaml"
    file.write_text(_lineage("nights", _base_of(options), _sources(corpora), options))
    _use(home)
    from tests.benchmarks.nights_run import Nights

    lines = home / "nights.jsonl"
    nights = Nights(file, lines)
    for night in range(nights.last + 1, (options.until or options.nights) + 1):
        delivered = _deliver(home, night)
        line = nights.run(night, delivered)
        print(json.dumps({key: line[key] for key in ("night", "kind", "reason", "seconds")}))
    (home / "final.json").write_text(json.dumps(nights.finish()) + "\n")


def _deliver(home: Path, night: int) -> dict[str, int]:
    """Put the night's files into the sources; returns their sizes in bytes by domain."""
    delivered: dict[str, int] = {}
    for path in sorted((home / "dealt" / f"{night:02d}").glob("*.jsonl.gz")):
        domain = path.name.removesuffix(".jsonl.gz")
        target = home / "sources" / domain / f"night-{night:02d}.jsonl.gz"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
        delivered[domain] = path.stat().st_size
    return delivered


def train_base(options: argparse.Namespace) -> None:
    """Train a base model, by a lineage of its own whose only update this is."""
    home = options.folder.resolve()
    split_base(options.text, home / "text", chars=options.chars, reference_share=0.6)
    folders = sorted((home / "text" / "base").iterdir())
    sources = "".join(
        SOURCE.format(name=path.name, uri=path, domain=path.name.replace("_", "-"))
        for path in folders
    )
    file = home / "lineage.yaml"
    file.write_text(_lineage("base", f"base:\n{MODEL}", f"sources:\n{sources}", options))
    settings = _use(home)
    from flows.update import update_model

    started = time.monotonic()
    outcome = update_model(lineage_file=file)
    print(outcome.kind, outcome.text, f"{time.monotonic() - started:.0f} s")
    models = settings.home_path / "store" / "lineages" / "base" / "models"
    shutil.copytree(models / str(outcome.version), home / "model")


def _base_of(options: argparse.Namespace) -> str:
    if options.base is None:
        return f"base:\n{MODEL}"
    home = options.base.resolve()
    references = "".join(
        SOURCE.format(name=f"reference-{path.name}", uri=path, domain=path.name.replace("_", "-"))
        for path in sorted((home / "text" / "reference").iterdir())
    )
    indented = "".join(f"  {line}\n" for line in references.splitlines())
    return f"base:\n  directory: {home / 'model'}\n  reference:\n{indented}"


def _sources(corpora: list[Corpus]) -> str:
    return "sources:\n" + "".join(
        SOURCE.format(
            name=corpus.domain, uri=f"sources/{corpus.domain}/*.jsonl.gz", domain=corpus.domain
        )
        for corpus in corpora
    )


def _lineage(name: str, base: str, sources: str, options: argparse.Namespace) -> str:
    # From nothing a model this small learns too little at the default rate; everything else may
    # as well be the default.
    is_new = "directory:" not in base
    recipe = RECIPE.format(
        seed=options.seed,
        workers=options.workers,
        threads=options.threads,
        schedule="  schedule: {eta_max: 2.0e-3}\n" if is_new else "",
    )
    return f"name: {name}\n{base}{sources}{recipe}"


def _use(home: Path) -> "Settings":
    from infra.settings import use_home

    home.mkdir(parents=True, exist_ok=True)
    settings = use_home(home)
    from flows.temporary_server import start_temporary_server

    start_temporary_server()
    return settings


if __name__ == "__main__":
    main()
