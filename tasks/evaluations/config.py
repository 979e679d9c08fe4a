"""What of a lineage's YAML says which task items its suite has."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from infra.bounds import Bounds
from storage.layout import check_name
from training.config import FORBID_UNKNOWN

TaskKind = Literal[
    "multiple_choice", "cloze", "minimal_pairs", "perplexity", "generation", "lm_eval"
]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskConfig:
    """One set of questions with right answers, in a local file."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    name: str
    """Names the task within the lineage."""
    uri: str
    """The file: JSONL, or for ``lm_eval`` the task's YAML; a path or a ``file://`` URI."""
    kind: TaskKind
    """What a line of the file has. ``multiple_choice``: query, choices, gold (its index).
    ``cloze``: context, continuation. ``minimal_pairs``: sentence_good, sentence_bad.
    ``perplexity``: text. ``generation``: prompt, answer (one or a list). Each may have an ``id``
    too. ``lm_eval``: a definition of lm-evaluation-harness over local files."""
    max_items: Annotated[int, Bounds(ge=1, le=100_000, unit="items")] = 1500
    """Items taken at most, chosen by the hash of their content. Judging costs in proportion."""
    cluster_field: str = "cluster"
    """Field of a line that names what its item belongs to (a passage, a template): items of one
    cluster are right and wrong together. Without it every item stands for itself."""
    informs_only: bool = False
    """Show the task, and let no verdict depend on it."""

    def __post_init__(self) -> None:
        check_name(self.name, "task")
        scheme, found, _ = self.uri.partition("://")
        if found and scheme != "file":
            raise ValueError(
                f"uri {self.uri!r} of task {self.name!r} is not local: expected a path or a "
                "file:// URI; copy the file to this machine"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class MintedConfig:
    """Items that are made without anybody writing them."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    cloze_items: Annotated[int, Bounds(ge=0, le=10_000, unit="items")] = 200
    """Made from the held-out documents of each refresh, at most: names, numbers and rare words to
    be found again, whose answer stands earlier in the document. 0: none."""
    cloze_snapshots: Annotated[int, Bounds(ge=1, le=20, unit="snapshots")] = 5
    """Newest snapshots whose cloze items stay in the suite, so that judging costs the same at every
    update."""
    canary_items: Annotated[int, Bounds(ge=0, le=10_000, unit="items")] = 400
    """Of each in-context canary (copy, induction, ordering), built from the vocabulary: so many can
    guard once versions differ in a tenth of them. 0: none."""
