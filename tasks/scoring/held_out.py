"""Held-out text to score any model on: a lineage's suite, or files that a person names."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from storage.head import Head
from storage.layout import Layout
from storage.objects import ObjectStore
from storage.suite import read_suite
from tasks.curate import CurateConfig, curate, none_known
from tasks.documents import Reject
from tasks.ingest import list_source, read_objects
from tasks.judge.verdict import CheckConfig
from tasks.scoring.compute import Desk
from tasks.scoring.panel import JudgedSlice, panel_of
from tasks.sources import SourceConfig
from training.data.holdout import HoldoutDocument

if TYPE_CHECKING:
    from training.tokenizer import Tokenizer

_ANY_LENGTH = CurateConfig(min_chars=1, max_chars=1_000_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """One document, not yet tokenised."""

    document: str
    cluster: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenText:
    """The documents of one source that a person named."""

    domain: str
    passages: tuple[Passage, ...]

    def cut(self, tokenizer: "Tokenizer") -> list[HoldoutDocument]:
        """The documents as ``tokenizer`` cuts them, framed, in their order."""
        return _tokenised(self.passages, tokenizer)


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteText:
    """What is judged of a slice of a lineage's suite, which keeps tokens and no text."""

    domain: str
    """The name of its guard."""
    judged: JudgedSlice
    rows: tuple[HoldoutDocument, ...]
    """As the lineage's tokenizer cut them, unit after unit."""
    seq_len: int
    """At which the lineage's versions are scored."""
    tokenizer: "Tokenizer"
    """The lineage's."""

    def cut(self, tokenizer: "Tokenizer") -> list[HoldoutDocument]:
        """The documents as ``tokenizer`` cuts their texts, framed, in their order.

        Raises:
            ValueError: It is another tokenizer, and the texts do not come back from the tokens.
        """
        if spelling(tokenizer) == spelling(self.tokenizer):
            return list(self.rows)
        return _tokenised([self._passage(row) for row in self.rows], tokenizer)

    def _passage(self, row: HoldoutDocument) -> Passage:
        text = self.tokenizer.decode(row.tokens[1:-1])
        if len(text.encode()) != row.text_bytes:
            raise ValueError(
                f"document {row.document} of {self.judged.item.name} had {row.text_bytes} bytes, "
                f"its tokens spell {len(text.encode())}: the lineage's tokenizer does not give "
                "texts back unchanged, which a model with another tokenizer needs; name texts by "
                "--text"
            )
        return Passage(document=row.document, cluster=row.cluster, text=text)


HeldOut = GivenText | SuiteText


def spelling(tokenizer: "Tokenizer") -> tuple[str, int, int]:
    """What decides which tokens a text becomes."""
    return tokenizer.encoder.to_str(), tokenizer.start_id, tokenizer.end_id


def read_texts(sources: Sequence[SourceConfig]) -> tuple[list[GivenText], list[str]]:
    """The documents of ``sources``, a domain each, and what a person should know of them.

    Texts are normalised and of equal ones the first is kept, as a refresh does it.

    Raises:
        SourceRefusedError: Too much of a source cannot be read.
        ValueError: A source has no text.
    """
    texts: list[GivenText] = []
    warnings: list[str] = []
    for source in sources:
        rejects: list[Reject] = []
        documents = read_objects(source, list_source(source), rejects.append)
        curated = list(curate(documents, none_known, _ANY_LENGTH))
        passages = tuple(
            Passage(
                document=item.document.id, cluster=item.document.cluster, text=item.document.text
            )
            for item in curated
            if not item.reason
        )
        if not passages:
            raise ValueError(
                f"found no text in {source.uri}: expected files of text or code, JSONL with a "
                "field 'text' or Parquet with such a column, or a directory of them"
            )
        texts.append(GivenText(domain=source.domain, passages=passages))
        if rejects:
            warnings.append(
                f"{source.domain}: {len(rejects)} documents could not be read, first "
                f"{rejects[0].uri}:{rejects[0].position} {rejects[0].reason}"
            )
        if left_out := len(curated) - len(passages):
            warnings.append(f"{source.domain}: {left_out} documents were left out as duplicates")
    return texts, warnings


def read_suite_texts(
    store: ObjectStore,
    layout: Layout,
    head: Head,
    work_dir: Path,
    config: CheckConfig,
    *,
    with_pending: bool,
) -> list[SuiteText]:
    """What the lineage must not forget; with ``with_pending`` also what it has not learned yet.

    Of the suite, what would be judged of a candidate tonight; nothing is written. The domain of
    pending text is ``<domain> (pending)``.

    Raises:
        CorruptError: A shard is damaged.
        ValueError: Nothing is held out.
    """
    # Not at the top: it imports tokenizers.
    from training.tokenizer import fetch_tokenizer  # noqa: PLC0415

    pending = [record.id for record in head.snapshots if record.state == "pending"]
    panel = (
        panel_of(
            store,
            layout,
            head=head,
            suite=read_suite(store, layout, head.suite),
            new_snapshots=pending if with_pending else (),
            config=config,
            work_dir=work_dir,
            keep=False,
        )
        if head.suite
        else None
    )
    slices = [item for item in (panel.slices if panel else ()) if item.is_guarded]
    if not slices or head.tokenizer is None:
        raise ValueError(
            f"lineage {head.lineage} has no held-out text of what it has learned: run "
            "'perennial update' first, or name texts by --text"
        )
    tokenizer = fetch_tokenizer(store, head.tokenizer, work_dir / "tokenizer")
    desk = Desk(store, layout, work_dir)
    return [
        SuiteText(
            domain=item.label + (" (pending)" if item.role == "new" else ""),
            judged=item,
            rows=tuple(desk.scored_documents(item)),
            seq_len=desk.folder(item.item).seq_len,
            tokenizer=tokenizer,
        )
        for item in slices
    ]


def _tokenised(passages: Sequence[Passage], tokenizer: "Tokenizer") -> list[HoldoutDocument]:
    encoded = tokenizer.encode_batch([passage.text for passage in passages])
    return [
        HoldoutDocument(
            document=passage.document,
            cluster=passage.cluster,
            tokens=np.concatenate([[tokenizer.start_id], tokens, [tokenizer.end_id]]),
            text_bytes=len(passage.text.encode()),
        )
        for passage, tokens in zip(passages, encoded, strict=True)
    ]
