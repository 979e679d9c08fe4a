"""Score two models, of a lineage or of anybody, on the same texts and tasks. Changes nothing."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from infra.progress import Progress
from storage.layout import Layout
from storage.objects import ObjectStore
from tasks.import_base import identity_of_directory
from tasks.judge.compare import Comparison, ScoredSlice, compare
from tasks.judge.health import Health
from tasks.judge.verdict import CheckConfig, DocumentScore
from tasks.scoring.canary import WritingRecord
from tasks.scoring.compare_tasks import GivenTask, answered
from tasks.scoring.held_out import HeldOut, SuiteText, spelling
from tasks.scoring.passages import Sample, passages_a_slice, passages_of
from tasks.scoring.scores import record_of
from training.items.score import ItemScore

if TYPE_CHECKING:
    from training.causal_model import CausalModel
    from training.tokenizer import Tokenizer

_LONGEST_WINDOW = 2048
"""Tokens that a model sees of a given text at once, at most: longer windows cost memory."""

_Scores = tuple[DocumentScore, ...]
_Recorded = Callable[[HeldOut], _Scores | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A model: a Hugging Face directory with its tokenizer."""

    name: str
    """As the result is to call it."""
    directory: Path
    version: str | None = None
    """Full name, when it is a version of the lineage whose suite is used."""


def contender_of(directory: Path, name: str, *, version: str | None = None) -> Contender:
    """The model in ``directory``, once it is plain that one lies there; its weights are not read.

    Raises:
        ValueError: There is no directory, or a file is missing; names it.
    """
    if not directory.is_dir():
        raise ValueError(f"there is no model directory at {directory}: name one that holds a model")
    for name_of_file, what in (
        ("config.json", "a Hugging Face model"),
        ("*.safetensors", "weights in safetensors"),
        ("tokenizer.json", "the model's own tokenizer"),
    ):
        if not any(directory.glob(name_of_file)):
            raise ValueError(
                f"{directory} has no {name_of_file}: expected {what}; give the directory that "
                "save_pretrained wrote, of the model and of its tokenizer"
            )
    return Contender(name=name, directory=directory, version=version)


def compare_models(
    a: Contender,
    b: Contender,
    texts: Sequence[HeldOut],
    config: CheckConfig,
    *,
    tasks: Sequence[GivenTask] = (),
    store: ObjectStore | None = None,
    layout: Layout | None = None,
) -> Comparison:
    """Score both on ``texts`` and ``tasks`` and judge whether B may replace A; safe to retry.

    The same model twice is scored once, so that it differs by exactly 0 from itself. One model is
    in memory at a time, on a GPU when there is one, in float32.

    Args:
        a: The model in use.
        b: The model that is to replace it.
        texts: At least one, unless there are tasks.
        config: Margins and level.
        tasks: Questions that both are asked.
        store: Where scores of the lineage's versions are on record, which are then used.
        layout: Of that lineage.

    Raises:
        ValueError: A model cannot be computed, or a text cannot be given to it.
    """
    # Unequal windows would favour the model that sees more of a text.
    window = min(_window(a), _window(b))

    def recorded(contender: Contender, text: HeldOut) -> _Scores | None:
        # A window that is not the suite's gives other scores than those on record.
        if store is None or layout is None or contender.version is None:
            return None
        if not isinstance(text, SuiteText) or text.seq_len > window:
            return None
        units, depth = text.judged.units, text.judged.depth
        record = record_of(store, layout, contender.version)
        return record.scores(units, depth) if record.has(units, depth) else None

    _refuse_unknown(a, b, texts)
    seen_a = _see(a, texts, tasks, window, partial(recorded, a))
    seen_b = seen_a if _is_same(a, b) else _see(b, texts, tasks, window, partial(recorded, b))
    return compare(
        [
            ScoredSlice(domain=text.domain, a=ours, b=theirs)
            for text, ours, theirs in zip(texts, seen_a.scores, seen_b.scores, strict=True)
        ],
        config,
        a=a.name,
        b=b.name,
        health=_health(seen_a.writes, seen_b),
        tasks=[
            answered(task, ours, theirs)
            for task, ours, theirs in zip(tasks, seen_a.answers, seen_b.answers, strict=True)
        ],
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one model makes of everything."""

    scores: list[_Scores]
    """By text."""
    answers: list[tuple[ItemScore, ...]]
    """By task."""
    writes: WritingRecord | None
    """How it continues openings of the texts; None without a text."""


def _refuse_unknown(a: Contender, b: Contender, texts: Sequence[HeldOut]) -> None:
    """Refuse texts that one of two tokenizers cannot spell: what it leaves out costs it nothing."""
    from training.tokenizer import load_tokenizer  # noqa: PLC0415  imports tokenizers

    tokenizers = [(model, load_tokenizer(model.directory)) for model in (a, b)]
    if len({spelling(tokenizer) for _, tokenizer in tokenizers}) == 1:
        return
    for contender, tokenizer in tokenizers:
        unknown = _unknown_id(tokenizer)
        for text in texts if unknown is not None else ():
            rows = text.cut(tokenizer)
            count = sum(int((row.tokens[1:-1] == unknown).sum()) for row in rows)
            if count:
                raise ValueError(
                    f"the tokenizer of {contender.name} has no tokens for parts of {text.domain}, "
                    f"which become {count} unknown tokens: a model with another tokenizer cannot "
                    "be compared with it there; give texts that both can spell"
                )


def _unknown_id(tokenizer: "Tokenizer") -> int | None:
    """The token that stands for what the tokenizer has no token for; None when it has all."""
    model = json.loads(tokenizer.encoder.to_str())["model"]
    name = model.get("unk_token")
    return model.get("unk_id") if name is None else tokenizer.encoder.token_to_id(name)


def _is_same(a: Contender, b: Contender) -> bool:
    """Whether both are one model, wherever it lies; every byte of the files is read."""
    one, other = a.directory, b.directory
    return one.samefile(other) or identity_of_directory(one) == identity_of_directory(other)


def _window(contender: Contender) -> int:
    """Longest input of the model, as its config.json says it, in tokens."""
    from training.foreign.config import model_config_of  # noqa: PLC0415  imports torch

    path = contender.directory / "config.json"
    try:
        fields = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}; copy the file again") from error
    return min(_LONGEST_WINDOW, model_config_of(fields, path).max_position_embeddings)


def _see(
    contender: Contender,
    texts: Sequence[HeldOut],
    tasks: Sequence[GivenTask],
    window: int,
    recorded: _Recorded,
) -> _Seen:
    import torch  # noqa: PLC0415  heavy

    from training.items.score_items import score_items  # noqa: PLC0415  torch
    from training.model_files import load_model  # noqa: PLC0415  torch
    from training.tokenizer import load_tokenizer  # noqa: PLC0415  imports tokenizers

    tokenizer = load_tokenizer(contender.directory)
    model = load_model(contender.directory).to("cuda" if torch.cuda.is_available() else "cpu")
    scores = _score(contender, model, tokenizer, texts, window, recorded)
    answers: list[tuple[ItemScore, ...]] = []
    with Progress(f"ask {contender.name}", sum(len(task.items) for task in tasks), "items") as told:
        done = 0
        for task in tasks:
            told.update(done, task.name)
            answers.append(tuple(score_items(model, tokenizer, task.items, window_tokens=window)))
            done += len(task.items)
        told.update(done)
    return _Seen(scores, answers, _writing(contender, model, tokenizer, texts, window))


def _writing(
    contender: Contender,
    model: "CausalModel",
    tokenizer: "Tokenizer",
    texts: Sequence[HeldOut],
    window: int,
) -> WritingRecord | None:
    """How the model continues the openings of a few documents of every text."""
    from tasks.scoring.measure import look_at_writing  # noqa: PLC0415  torch

    if not texts:
        return None
    count = passages_a_slice(len(texts))
    samples = [
        Sample(
            slice=text.domain,
            domain=text.domain,
            snapshot="",
            role="old",
            is_guarded=True,
            documents=tuple(passages_of(text.cut(tokenizer), count, seq_len=window)),
        )
        for text in texts
    ]
    return look_at_writing(model, samples, contender.name, end_id=tokenizer.end_id, seq_len=window)


def _health(a: WritingRecord | None, seen_b: _Seen) -> Health:
    """Whether B still computes and writes, beside A on the same openings."""
    # An answer that is no number is wrong, which a task that only informs would not tell.
    answers = all(math.isfinite(score.nats) for scores in seen_b.answers for score in scores)
    b = seen_b.writes
    if a is None or b is None:
        return Health(finite=answers)
    return Health(
        finite=b.finite and answers,
        probes=b.probes,
        empty=b.empty,
        distinct_token_share=b.distinct_token_share,
        candidate=b.writing,
        champion=a.writing,
    )


def _score(
    contender: Contender,
    model: "CausalModel",
    tokenizer: "Tokenizer",
    texts: Sequence[HeldOut],
    window: int,
    recorded: _Recorded,
) -> list[_Scores]:
    """The scores of every text, in order; only those are computed that are not on record."""
    from training.evaluate import score_documents  # noqa: PLC0415  torch

    found = [recorded(text) for text in texts]
    cut = [[] if done else text.cut(tokenizer) for text, done in zip(texts, found, strict=True)]
    total = sum(len(row.tokens) - 1 for rows in cut for row in rows)
    before = 0
    with Progress(f"score {contender.name}", total, "tokens") as progress:
        for index, (text, rows) in enumerate(zip(texts, cut, strict=True)):
            if found[index] is not None:
                continue
            tell = partial(_tell, progress, before, text.domain)
            found[index] = tuple(
                score_documents(
                    model,
                    rows,
                    start_id=tokenizer.start_id,
                    end_id=tokenizer.end_id,
                    seq_len=min(window, text.seq_len) if isinstance(text, SuiteText) else window,
                    on_progress=tell,
                )
            )
            before += sum(len(row.tokens) - 1 for row in rows)
    return [scores for scores in found if scores is not None]


def _tell(progress: Progress, before: int, domain: str, done: int, _total: int) -> None:
    progress.update(before + done, domain)
