"""``perennial check A B``: may model B replace model A? Needs no server and changes nothing."""

import math
import re
from dataclasses import asdict, dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import cast, get_args

from rich.table import Table

from flows.ground import Ground, find_version, head_of, open_ground
from flows.outcome import Outcome
from flows.output import say, say_table
from infra.log import set_up_logging
from infra.settings import Settings
from storage.models import fetch_model
from storage.suite import read_suite
from tasks.evaluations.config import TaskConfig, TaskKind
from tasks.judge.compare import ComparedDomain, Comparison
from tasks.judge.verdict import CheckConfig, TaskRow
from tasks.readers import FieldNames
from tasks.scoring.compare_models import Contender, compare_models, contender_of
from tasks.scoring.compare_tasks import GivenTask, read_given_tasks, read_suite_tasks
from tasks.scoring.held_out import HeldOut, read_suite_texts, read_texts
from tasks.sources import SourceConfig

_YAML = (".yaml", ".yml")
_MOST_ITEMS = 100_000
"""Of a file that a person names all count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What ``perennial check`` was asked."""

    models: tuple[str, ...]
    """A version alone, or A and B: versions or model directories."""
    lineage: Path | None
    texts: tuple[str, ...] = ()
    """Files or directories, each ``PATH`` or ``DOMAIN=PATH``."""
    tasks: tuple[str, ...] = ()
    """Files of questions, each ``KIND:PATH`` with a kind of ``tasks.evaluations.config.TaskKind``.
    Without a text and a task it is the lineage's suite that both are asked."""
    cluster_field: str = ""
    pending: bool = False
    max_loss_nats: float | None = None
    alpha: float | None = None

    def __post_init__(self) -> None:
        if len(self.models) not in (1, 2):
            raise ValueError(
                f"expected one version, or two models A and B, found {len(self.models)}: "
                f"{' '.join(self.models)}"
            )
        if self.texts and self.pending:
            raise ValueError("--pending goes with the lineage's suite, not with --text")
        if self.max_loss_nats is not None and not math.isfinite(self.max_loss_nats):
            raise ValueError(
                f"--max-loss-nats must be a finite number, got {self.max_loss_nats:g}: a margin "
                "that allows everything is a large one, such as 1000"
            )
        if self.cluster_field and not self.texts:
            raise ValueError("--cluster-field names a field of the files of --text: give both")
        if self.tasks and self.pending:
            raise ValueError("--pending goes with the lineage's suite, not with --task")
        asks_more = (
            self.texts or self.tasks or self.pending or self.max_loss_nats is not None or self.alpha
        )
        if len(self.models) == 1 and asks_more:
            raise ValueError(
                f"{self.models[0]} alone is judged by its lineage's own rules: name two models to "
                "use --text, --task, --pending, --max-loss-nats or --alpha"
            )


def names_and_lineage(
    words: list[str], lineage: Path | None, default: Path
) -> tuple[tuple[str, ...], Path | None]:
    """The models among ``words`` and the lineage's YAML, which may stand last of them."""
    if lineage is None and len(words) > 1 and words[-1].endswith(_YAML):
        return tuple(words[:-1]), Path(words[-1])
    if lineage is None and default.exists():
        lineage = default
    return tuple(words), lineage


def answer(question: Question, *, as_json: bool) -> Outcome:
    """Score both models and print the table, unless as JSON; the outcome has the sentence.

    Raises:
        LineageError: The YAML cannot be used.
        ValueError: A model, a version or a text does not exist or cannot be used.
    """
    settings = Settings()
    set_up_logging(settings.log_level)
    ground = open_ground(question.lineage) if question.lineage else None
    a, b = (contender(name, ground) for name in question.models)
    texts, tasks, warnings = _asked(question, ground)
    comparison = compare_models(
        a,
        b,
        texts,
        _config(question, ground),
        tasks=tasks,
        store=ground.store if ground else None,
        layout=ground.layout if ground else None,
    )
    if not as_json:
        if comparison.rows:
            say_table(_table(comparison))
        if comparison.task_rows:
            say_table(_task_table(comparison.task_rows))
        say()
    verdict = comparison.verdict
    return Outcome(
        lineage=ground.lineage.name if ground else "",
        kind=verdict,
        message=f"{verdict}: {comparison.reason}",
        details=asdict(comparison),
        warnings=tuple(warnings),
    )


def _asked(
    question: Question, ground: Ground | None
) -> tuple[list[HeldOut], list[GivenTask], list[str]]:
    """Texts and tasks to compare on, and what a person should know of them."""
    if question.texts or question.tasks:
        texts, warnings = read_texts(_sources(question)) if question.texts else ([], [])
        return [*texts], read_given_tasks(_tasks(question.tasks)), warnings
    if ground is None:
        raise ValueError(
            "there is nothing to judge on: give --text or --task, or --lineage for its suite"
        )
    store, layout, head = ground.store, ground.layout, head_of(ground)
    suite_texts = read_suite_texts(
        store,
        layout,
        head,
        ground.work_dir,
        ground.lineage.check,
        with_pending=question.pending,
    )
    suite = read_suite(store, layout, head.suite) if head.suite else None
    return [*suite_texts], read_suite_tasks(store, layout, suite), []


def _tasks(given: tuple[str, ...]) -> list[TaskConfig]:
    """The tasks, each once; files of one name in several directories are numbered."""
    tasks: list[TaskConfig] = []
    taken: set[str] = set()
    for task in map(_task, dict.fromkeys(given)):
        numbered = (f"{task.name[:58]}-{number}" for number in count(2))
        name = next(name for name in chain([task.name], numbered) if name not in taken)
        taken.add(name)
        tasks.append(replace(task, name=name))
    return tasks


def _task(given: str) -> TaskConfig:
    """A task, named after its file, of the kind that stands before ":"."""
    kind, _, path = given.partition(":")
    kinds = get_args(TaskKind)
    if not path or kind not in kinds:
        raise ValueError(
            f"--task {given}: expected KIND:PATH with one of the kinds {', '.join(kinds)}, as in "
            "--task multiple_choice:questions.jsonl"
        )
    return TaskConfig(
        name=_name_of(path),
        # A path would lose a slash of "://", and the refusal of what is not local with it.
        uri=path if "://" in path else str(Path(path).expanduser()),
        kind=cast("TaskKind", kind),
        max_items=_MOST_ITEMS,
    )


def _name_of(path: str) -> str:
    """A name that is safe anywhere, after a file or directory that may be called anything."""
    stem = Path(path).expanduser().resolve().name.split(".")[0]
    return re.sub(r"[^a-z0-9_-]+", "-", stem.lower()).strip("-_")[:63] or "text"


def contender(name: str, ground: Ground | None) -> Contender:
    """The model that a word names: one in a directory, where it can be one, else a version."""
    path = Path(name).expanduser()
    # A version begins with its number; a directory may too.
    is_meant = "/" in name or (path.is_dir() and not name[:1].isdigit())
    if is_meant or (path / "config.json").is_file():
        return contender_of(path, name)
    if ground is None:
        raise ValueError(
            f"{name} is no directory, and without a lineage there are no versions: name a model "
            "directory, or the lineage's YAML by --lineage"
        )
    version = find_version(ground, name).version
    directory = fetch_model(
        ground.store, ground.layout.model(version), ground.work_dir / "models" / version
    )
    return contender_of(directory, version, version=version)


def _sources(question: Question) -> list[SourceConfig]:
    sources = [_source(text, question.cluster_field) for text in question.texts]
    domains = [source.domain for source in sources]
    if twice := sorted({domain for domain in domains if domains.count(domain) > 1}):
        raise ValueError(
            f"--text gives the domain {twice[0]} twice: name the domains, as in --text "
            f"{twice[0]}-2=PATH, or give one directory with all files of the domain"
        )
    return sources


def _source(text: str, cluster_field: str) -> SourceConfig:
    """A source whose domain is named before "=", or after the file or directory."""
    domain, found, uri = text.partition("=")
    if not found or "/" in domain:
        uri, domain = text, _name_of(text)
    if not uri:
        raise ValueError(
            f"--text {text!r} names no file: expected PATH or DOMAIN=PATH, as in "
            "--text german=/texts"
        )
    return SourceConfig(
        name=domain,
        uri=uri if "://" in uri else str(Path(uri).expanduser()),
        domain=domain,
        fields=FieldNames(cluster=cluster_field),
    )


def _config(question: Question, ground: Ground | None) -> CheckConfig:
    config = ground.lineage.check if ground else CheckConfig()
    if question.alpha is not None:
        config = replace(config, alpha=question.alpha)
    if question.max_loss_nats is not None:
        config = replace(
            config,
            max_loss_nats=question.max_loss_nats,
            # Not judged here; it must not be the smaller one.
            max_cumulative_loss_nats=max(question.max_loss_nats, config.max_cumulative_loss_nats),
        )
    return config


def _table(found: Comparison) -> Table:
    level = f"{1 - found.alpha:.0%}"
    title = f"A: {found.a}   B: {found.b}   held-out loss in {found.unit}"
    table = Table(title=title, title_justify="left")
    table.add_column("domain", overflow="fold")
    for name in (
        "documents",
        "clusters",
        "A",
        "B",
        "B - A",
        f"at least ({level})",
        f"at most ({level})",
    ):
        table.add_column(name, justify="right")
    table.add_column("margin", justify="right")
    table.add_column("B is")
    for row in found.rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: ComparedDomain) -> tuple[str, ...]:
    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return (
        row.domain,
        f"{row.documents:,}",
        f"{row.clusters:,}",
        number(row.a_loss, ".4f"),
        number(row.b_loss, ".4f"),
        number(row.change, "+.4f"),
        number(row.lower_bound, "+.4f"),
        number(row.upper_bound, "+.4f"),
        f"{row.margin:+.4f}",
        row.meaning,
    )


def _task_table(rows: tuple[TaskRow, ...]) -> Table:
    table = Table(title="right answers", title_justify="left")
    table.add_column("task", overflow="fold")
    for name in ("items", "A", "B", "B - A", "at least", "allowed", "wrong now", "right now"):
        table.add_column(name, justify="right")
    table.add_column("")
    for row in rows:
        table.add_row(*_task_cells(row))
    return table


def _task_cells(row: TaskRow) -> tuple[str, ...]:
    def share(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    meaning = "worse" if row.violated else "kept" if row.passed else "cannot tell"
    return (
        row.task,
        f"{row.items:,}",
        share(row.champion_accuracy, ".1%"),
        share(row.candidate_accuracy, ".1%"),
        share(row.difference, "+.1%"),
        share(row.lower_bound, "+.1%"),
        share(None if row.margin is None else -row.margin, "+.1%"),
        f"{row.negative_flips:,}",
        f"{row.positive_flips:,}",
        f"informs: {row.why_unguarded}" if row.margin is None else meaning,
    )
