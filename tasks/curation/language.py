"""In which language a text is written, by a model that ships inside a package (py3langid).

A naive Bayes classifier of 140 languages over byte n-grams, after Lui and Baldwin 2012 (langid.py).
It sees parts of the text from its beginning to its end: enough, and the same time at every length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from infra.bounds import Bounds
from tasks.curation.scorer import Batch, Numbers, Scorer, Verdicts
from training.config import FORBID_UNKNOWN

_CODES = (
    "ace af am an ar ary arz as az ba bcl be bg bn br bs ca crh cs cy da de dz el en eo es et "
    "eu ext fa fi fo fr fuv fy ga gcf gcr gd gl gom grc gu gug guw ha hbo he hi hr ht hu hy id "
    "ig is it ja jv ka kab kik kk km kn ko ku ky la lb lg lij ln lo lt ltg lv mg mk ml mn mr "
    "ms mt my ne nl nn no nso oc om or pa pcm pl ps pt qu ro ru rw sa sdh se si sk sl sn so sq "
    "sr st sv sw ta te tg th tk tl tr tt ug uk ur uz uzs vec vi vo wa wuu xh yo yue zh zu zxx"
)
LANGUAGES = frozenset(_CODES.split())
"""Codes that the model gives (ISO 639); ``zxx`` is no language at all."""
COLUMNS = {"language": "string", "language_probability": "float64"}

_PARTS, _PART_CHARACTERS = 4, 150


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageRules:
    """Which languages a domain may have."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    allow: tuple[str, ...]
    """Codes of ISO 639, such as en or de."""
    min_probability: Annotated[float, Bounds(ge=0, le=1)] = 0.5
    """Least probability of the language found."""

    def __post_init__(self) -> None:
        unknown = [code for code in self.allow if code not in LANGUAGES]
        if unknown:
            raise ValueError(
                f"language.allow: {unknown[0]!r} is no language that can be told; known are "
                f"{', '.join(sorted(LANGUAGES))}"
            )
        if not self.allow:
            raise ValueError(
                "language.allow is empty, so every document would be dropped; name languages, or "
                "leave the section out"
            )


def identify(texts: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The columns ``COLUMNS``: the likeliest language of each text, and its probability."""
    from tasks.curation.language_model import language_model  # noqa: PLC0415  imports numba

    model = language_model()
    found = [model.classify(_parts(text)) for text in texts]
    return {
        "language": np.array([code for code, _ in found], object),
        "language_probability": np.array([probability for _, probability in found], np.float64),
    }


def language_verdicts(numbers: Numbers, rules: LanguageRules) -> Verdicts:
    """Which documents are in another language, or in none for sure."""
    allowed = np.isin(numbers["language"].astype(str), rules.allow)
    yield "language:not_allowed", ~allowed
    yield "language:uncertain", numbers["language_probability"] < rules.min_probability


def _parts(text: str) -> str:
    """Parts of a long text, from its beginning to its end."""
    if len(text) <= _PARTS * _PART_CHARACTERS:
        return text
    last = len(text) - _PART_CHARACTERS
    starts = (last * part // (_PARTS - 1) for part in range(_PARTS))
    return "\n".join(text[start : start + _PART_CHARACTERS] for start in starts)


def _score(batch: Batch, _rules: LanguageRules) -> tuple[Sequence[str], Numbers]:
    return batch.texts, identify(batch.texts)


SCORER = Scorer("language", COLUMNS, _score, language_verdicts)
