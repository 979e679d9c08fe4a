"""``perennial check A B``: may model B replace model A? Needs no server and changes nothing."""

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.table import Table

from flows.ground import Ground, find_version, head_of, open_ground
from flows.outcome import Outcome
from flows.output import say, say_table
from infra.log import set_up_logging
from infra.settings import Settings
from storage.models import fetch_model
from tasks.judge.compare import ComparedDomain, Comparison
from tasks.judge.verdict import CheckConfig
from tasks.readers import FieldNames
from tasks.scoring.compare_models import Contender, compare_models, contender_of
from tasks.scoring.held_out import read_suite_texts, read_texts
from tasks.sources import SourceConfig

_YAML = (".yaml", ".yml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What ``perennial check`` was asked."""

    models: tuple[str, ...]
    """A version alone, or A and B: versions or model directories."""
    lineage: Path | None
    texts: tuple[str, ...] = ()
    """Files or directories, each ``PATH`` or ``DOMAIN=PATH``; the lineage's suite without any."""
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
        if self.cluster_field and not self.texts:
            raise ValueError("--cluster-field names a field of the files of --text: give both")
        asks_more = self.texts or self.pending or self.max_loss_nats is not None or self.alpha
        if len(self.models) == 1 and asks_more:
            raise ValueError(
                f"{self.models[0]} alone is judged by its lineage's own rules: name two models to "
                "use --text, --pending, --max-loss-nats or --alpha"
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
    warnings: list[str] = []
    if question.texts:
        texts, warnings = read_texts(_sources(question))
    elif ground is not None:
        texts = read_suite_texts(
            ground.store,
            ground.layout,
            head_of(ground),
            ground.work_dir,
            ground.lineage.check,
            with_pending=question.pending,
        )
    else:
        raise ValueError("there is no text to judge on: give --text, or --lineage for its suite")
    comparison = compare_models(
        a,
        b,
        texts,
        _config(question, ground),
        store=ground.store if ground else None,
        layout=ground.layout if ground else None,
    )
    if not as_json:
        say_table(_table(comparison))
        say()
    verdict = comparison.verdict
    return Outcome(
        lineage=ground.lineage.name if ground else "",
        kind=verdict,
        message=f"{verdict}: {comparison.reason}",
        details=asdict(comparison),
        warnings=tuple(warnings),
    )


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
        uri = text
        stem = Path(uri).expanduser().resolve().name.split(".")[0]
        # A domain's name is safe in a path, a file's may be anything.
        domain = re.sub(r"[^a-z0-9_-]+", "-", stem.lower()).strip("-_")[:63] or "text"
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
