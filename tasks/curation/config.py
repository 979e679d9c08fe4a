"""Which rules a domain's documents are judged by; goes into the identity of every snapshot."""

from dataclasses import dataclass
from typing import Any, ClassVar

from tasks.curation.alignment import AlignmentRules
from tasks.curation.c4 import C4Rules
from tasks.curation.code import CodeRules
from tasks.curation.fineweb import FinewebRules
from tasks.curation.gopher import GopherRules
from tasks.curation.importance import ImportanceRules
from tasks.curation.language import LanguageRules
from tasks.curation.perplexity import PerplexityRules
from tasks.curation.pii import PiiRules
from tasks.curation.quality import QualityRules
from tasks.curation.text_statistics import StatisticsRules
from tasks.paragraphs import ParagraphRules
from training.config import FORBID_UNKNOWN

EVERY = "*"
"""Stands for all domains, or sources, that are not named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainRules:
    """What is done to the documents of a domain; what is not set is not done.

    In this order, and a document is dropped by the first rule that it breaks. ``gopher: {}`` takes
    the published thresholds.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    mend_encoding: bool = False
    """Decode lines anew that were decoded with the wrong encoding (``schÃ¶n``), by ftfy."""
    language: LanguageRules | None = None
    """Languages that are allowed."""
    gopher: GopherRules | None = None
    """Gopher's rules on quality and repetition."""
    c4: C4Rules | None = None
    """C4's rules; they remove lines."""
    fineweb: FinewebRules | None = None
    """FineWeb's own rules, on the lines that C4's have left."""
    code: CodeRules | None = None
    """Rules for source code."""
    quality: QualityRules | None = None
    """A classifier learned from good and random documents of your own."""
    statistics: StatisticsRules | None = None
    """Length and repetition, counted."""
    importance: ImportanceRules | None = None
    """Weights towards a target by n-grams (DSIR)."""
    alignment: AlignmentRules | None = None
    """Likeness to a target by compression (ZIP-FIT)."""
    pii: PiiRules | None = None
    """Personal data and secrets: counted, masked, or a reason to drop the document."""
    perplexity: PerplexityRules | None = None
    """How probable the lineage's model in use holds a document."""
    paragraphs: ParagraphRules | None = None
    """Drop what is mostly made of paragraphs of earlier documents; after all other stages."""


NO_RULES = DomainRules()
