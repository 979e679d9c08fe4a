"""Learning from the files that the rules name, before a refresh reads its sources."""

import hashlib
import logging
from collections.abc import Iterable, Iterator
from typing import Any

from tasks.curation.annotate import asked
from tasks.curation.config import DomainRules
from tasks.curation.learned import Learned
from tasks.curation.normalise import normalise
from tasks.documents import Reject
from tasks.ingest import list_source, read_objects
from tasks.sources import SourceConfig

logger = logging.getLogger(__name__)


def learn_from(rules: Iterable[DomainRules]) -> Learned:
    """What the scorers need; reads every file that the rules name once a section. Safe to retry.

    Raises:
        ValueError: A URI matches no file, or what it holds is not enough; names the field.
        SourceRefusedError: Too much of a file cannot be read.
    """
    models: dict[Any, Any] = {}
    digests: dict[str, str] = {}

    def read(uri: str) -> Iterator[str]:
        digest = hashlib.sha256()
        for text in map(normalise, _texts_of(uri)):
            # Of each text its own, so that no two lists of texts give the same bytes.
            digest.update(hashlib.sha256(text.encode()).digest())
            yield text
        digests[uri] = digest.hexdigest()

    for of_domain in rules:
        for scorer, section in asked(of_domain):
            if scorer.learn is not None and section not in models:
                models[section] = scorer.learn(section, read)
    return Learned(models, dict(sorted(digests.items())))


def _texts_of(uri: str) -> Iterator[str]:
    """The texts of all documents, as of a source."""
    source = SourceConfig(name="curate", uri=uri, domain="curate")
    objects = list_source(source)
    if not objects:
        raise ValueError(
            f"curate.domains: no file matches {uri}, which the rules learn from; name a file, a "
            "directory or a pattern with texts, as of a source"
        )
    rejects: list[Reject] = []
    for document in read_objects(source, objects, rejects.append):
        yield document.text
    if rejects:
        logger.warning("%s: %d lines or files were left out (%s)", uri, len(rejects), rejects[0])
