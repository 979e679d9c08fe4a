"""Where a text has personal data and secrets. Time is linear in its length.

Each kind is looked for by what is rare in text, an @, a run of digits, a literal prefix
(``pii_candidates``), and only what stands around such a place is matched: a pattern that is tried
everywhere takes ten times as long.
"""

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    from tasks.curation.pii_candidates import Candidates, Hints

Kind = Literal["email", "phone", "ip", "card", "key"]
KINDS: tuple[Kind, ...] = get_args(Kind)

Span: TypeAlias = tuple[int, int, Kind]
Found: TypeAlias = Iterator[Span]

_LOCAL = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._%+'-")
_MOST_LOCAL = 64
_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}(?:[a-z]{2,24}|[A-Z]{2,24})"
    # A call, an index or another name after it: code.
    r"(?![A-Za-z0-9_(\[-]|\.[A-Za-z])"
)
_RESERVED = re.compile(
    r"(?i)(?:^|\.)example\.(?:com|org|net|edu)$|\.(?:example|test|invalid|localhost|local)$"
)
_NOT_PEOPLE = frozenset(("git", "hg", "svn", "noreply", "no-reply"))
_FILE_ENDINGS = frozenset(("png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "json", "html"))

_IPV4 = re.compile(r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}")
_IPV6 = re.compile(r"[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}")

_DIGITS = re.compile(r"[+(]?\d[\d ()./-]{5,40}\d")
"""What a telephone or card number may lie in."""
_CARD = re.compile(r"[2-6]\d{3}[ -]?(?:\d[ -]?){8,14}\d")
_CARD_OF_ISSUER = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}"
    r"|3[47]\d{13}|(?:6011|65\d\d|64[4-9]\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}"
    r"|3(?:0[0-5]|[68]\d)\d{11}"
)
_PHONE = re.compile(
    r"(?:"
    # With the code of a country, and no decimal number with its sign.
    r"\+(?!\d+\.\d+(?![\d.]))[1-9]\d{0,2}[ .-]?(?:\(0?\d{1,5}\)[ .-]?)?\d{1,5}"
    r"(?:[ .-]?\d{2,5}){1,5}"
    # North America, where area codes and exchanges begin with 2 to 9.
    r"|(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .-])[2-9]\d\d[ .-]\d{4}"
    # Within countries that dial a 0 first, in pairs or in blocks.
    r"|0[1-9](?:[ .-]\d\d){4}|0[1-9]\d{0,3}[ /-]\d{3,4}[ -]\d{3,4}|0[1-9]\d{1,3}[ /-]\d{6,8}"
    # Brazil; mobiles in China.
    r"|\([1-9]\d\) ?9?\d{4}-\d{4}|1[3-9]\d(?P<mark>[ -])\d{4}(?P=mark)\d{4}"
    r")(?!\d)"
)
_AFTER_CUE = re.compile(r"\(?\d{2,5}\)?(?:[ ./-]{0,2}\d{2,5}){1,5}")
_CUE = re.compile(
    r"(?i)(?:(?:^|[\W_])(?:tele(?:phone|fon)|tel|phone|fon|fax|mobile?|cell|handy|whatsapp)"
    r"|\u7535\u8bdd|\u624b\u673a|\u96fb\u8a71)"
    r"(?: ?(?:no|nr|number|nummer))?[.:\uff1a]{0,2} {0,2}$"
)
_LONGEST_CUE = 24
_FEWEST_DIGITS, _FEWEST_AFTER_CUE, _MOST_DIGITS, _FEWEST_OF_CARD = 9, 7, 15, 13

_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    r"[A-Za-z0-9+/=\s:,.\\()-]{40,16000}?"
    r"-----END (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
)
_KEYS = {
    hint: re.compile(pattern)
    for hints, pattern in (
        ("AKIA ASIA AROA AIDA", r"A[A-Z]{3}[0-9A-Z]{16}(?![0-9A-Za-z])"),
        ("ghp_ gho_ ghu_ ghs_ ghr_", r"gh[pousr]_[A-Za-z0-9]{36,255}"),
        ("github_pat_", r"github_pat_[A-Za-z0-9_]{22,255}"),
        ("glpat-", r"glpat-[A-Za-z0-9_-]{20,64}"),
        ("xoxa- xoxb- xoxe- xoxo- xoxp- xoxr- xoxs-", r"xox[abeoprs]-[0-9A-Za-z-]{10,250}"),
        ("xapp-", r"xapp-[0-9A-Za-z-]{10,250}"),
        ("AIza", r"AIza[0-9A-Za-z_-]{35}"),
        ("ya29.", r"ya29\.[0-9A-Za-z_-]{20,250}"),
        ("sk_live_ sk_test_ rk_live_ rk_test_", r"[sr]k_(?:live|test)_[0-9A-Za-z]{16,250}"),
        ("SG.", r"SG\.[0-9A-Za-z_-]{22}\.[0-9A-Za-z_-]{43}"),
        ("sk-", r"sk-(?:proj-|ant-|svcacct-)?[0-9A-Za-z_-]{20,250}"),
        ("hf_", r"hf_[0-9A-Za-z]{30,64}"),
        ("npm_", r"npm_[0-9A-Za-z]{36}"),
        ("pypi-", r"pypi-[0-9A-Za-z_-]{50,250}"),
        ("dop_v1_", r"dop_v1_[0-9a-f]{64}"),
        ("eyJ", r"eyJ[0-9A-Za-z_-]{10,2000}\.eyJ[0-9A-Za-z_-]{10,8000}\.[0-9A-Za-z_-]{10,1000}"),
    )
    for hint in hints.split(" ")
}
"""What the keys and tokens of well-known services begin with, and what they look like."""
_SECRET_NAMES = ("key", "secret", "token", "password", "passwd", "pwd")
_BEFORE_KEY = re.compile(r"(?i)(?:api|access|secret)[_-]?$")
_ASSIGNED = re.compile(
    r"[\"']?\s{0,4}(?::|=>?)\s{0,4}[\"']?"
    r"(?P<secret>[A-Za-z0-9+/_.~!@#$%^&*-][A-Za-z0-9+/_=.~!@#$%^&*-]{15,199})(?=[\"'\s,;)}]|$)"
)
_IN_URL = re.compile(r"://[^\s:/@\"'<>{}$]{1,64}:(?P<secret>[^\s:/@\"'<>{}$]{3,100})@(?=[\w.-])")
_LITERALS = (*_KEYS, "PRIVATE KEY", "://")
_LEAST_BITS = 3.3
"""A character of what counts as a secret, by its own frequencies: random ones have 4 and more."""


def find_pii(text: str) -> list[Span]:
    """Start, end and kind of each item, in order and without overlaps. Time is linear in ``text``.

    Where two overlap, a key counts before an e-mail address, and that before numbers.
    """
    # Not at the top: it imports numba, and a scheduler imports this module.
    from tasks.curation.pii_candidates import candidates_in  # noqa: PLC0415

    return find_among(text, candidates_in(text, _hints()))


def find_among(text: str, candidates: "Candidates") -> list[Span]:
    """What ``find_pii`` finds, where it is in ``candidates``; more of them change nothing."""
    found = [
        *_keys(text, candidates),
        *_emails(text),
        *_addresses(text, candidates),
        *_numbers(text, candidates),
    ]
    if len(found) < 2:
        return found
    kept: list[Span] = []
    for span in sorted(found, key=lambda span: (span[0], _ORDER[span[2]])):
        if not kept or span[0] >= kept[-1][1]:
            kept.append(span)
        elif _ORDER[span[2]] < _ORDER[kept[-1][2]]:
            kept[-1] = span
    return kept


@cache
def _hints() -> "Hints":
    from tasks.curation.pii_candidates import hints_of  # noqa: PLC0415  imports numba

    return hints_of(_LITERALS, _SECRET_NAMES)


def _emails(text: str) -> Found:
    at = text.find("@")
    while at >= 0:
        start = at
        while start > max(0, at - _MOST_LOCAL - 1) and text[start - 1] in _LOCAL:
            start -= 1
        local = text[start:at].lstrip(".%+'-")
        host = _HOST.match(text, at + 1) if 0 < len(local) <= _MOST_LOCAL else None
        if host is not None and not _is_nobodys(local, host[0]):
            yield at - len(local), host.end(), "email"
        at = text.find("@", at + 1)


def _is_nobodys(local: str, host: str) -> bool:
    is_file = host.rpartition(".")[2].lower() in _FILE_ENDINGS
    return (
        is_file
        or local.lower() in _NOT_PEOPLE
        or local.endswith(".")
        or ".." in local
        or _RESERVED.search(host) is not None
    )


def _addresses(text: str, candidates: "Candidates") -> Found:
    for match in _matches(_IPV4, text, candidates.ipv4):
        before, after = _around(text, match)
        is_alone = before[-1:] not in "./:-" or before in ("//", " :", "=:")
        is_alone = is_alone and not _is_word(before[-1:]) and not _is_word(after[:1])
        is_alone = is_alone and after[:1] != "-" and not (after[:1] == "." and after[1:].isdigit())
        if (is_alone or not before) and _is_global(match[0]) and not _is_version(match[0]):
            yield (*match.span(), "ip")
    for match in _matches(_IPV6, text, candidates.ipv6):
        before, after = _around(text, match)
        is_inside = before[-1:] in (":", ".") or _is_word(before[-1:]) or _is_word(after[:1])
        if not is_inside and match[0].count(":") > 1 and _is_global(match[0].rstrip(":") or "-"):
            yield (*match.span(), "ip")


def _matches(
    pattern: re.Pattern[str], text: str, regions: Iterable[Sequence[int]]
) -> Iterator[re.Match[str]]:
    """Of a pattern that matches nothing across the ends of regions."""
    for start, end in regions:
        yield from pattern.finditer(text, start, end)


def _around(text: str, match: re.Match[str]) -> tuple[str, str]:
    """Two characters before and after, fewer at the ends of the text."""
    return text[max(0, match.start() - 2) : match.start()], text[match.end() : match.end() + 2]


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _is_global(found: str) -> bool:
    try:
        address = ipaddress.ip_address(found)
    except ValueError:
        return False
    return address.is_global and not address.is_multicast


def _is_version(found: str) -> bool:
    """Whether four numbers are those of a version or a section: small, or zeros at the end."""
    parts = [int(part) for part in found.split(".")]
    return max(parts) <= 20 or parts[1:] == [0, 0, 0]


def _numbers(text: str, candidates: "Candidates") -> Found:
    """Card and telephone numbers."""
    for place in _matches(_DIGITS, text, candidates.numbers):
        start, end = place.span()
        num_digits = sum(map(str.isdecimal, place[0]))
        if num_digits < _FEWEST_AFTER_CUE:
            continue
        for match in _CARD.finditer(text, start, end) if num_digits >= _FEWEST_OF_CARD else ():
            if _is_card(match[0]) and _stands_alone(text, match):
                yield (*match.span(), "card")
        for match in _PHONE.finditer(text, start, end) if num_digits >= _FEWEST_DIGITS else ():
            digits = sum(map(str.isdigit, match[0]))
            if _FEWEST_DIGITS <= digits <= _MOST_DIGITS and _stands_alone(text, match):
                yield (*match.span(), "phone")
        if _CUE.search(text, max(0, start - _LONGEST_CUE), start):
            match = _AFTER_CUE.match(text, start, end)
            digits = sum(map(str.isdigit, match[0])) if match else 0
            if match and _FEWEST_AFTER_CUE <= digits <= _MOST_DIGITS:
                yield (*match.span(), "phone")


def _is_card(found: str) -> bool:
    digits = found.replace(" ", "").replace("-", "")
    is_of_issuer = _CARD_OF_ISSUER.fullmatch(digits) is not None and len(set(digits)) > 2
    return is_of_issuer and _passes_luhn(digits)


def _passes_luhn(digits: str) -> bool:
    """The check of ISO/IEC 7812-1: every second digit from the right counts twice."""
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[::-2])) + sum(doubled)) % 10 == 0


def _stands_alone(text: str, match: re.Match[str]) -> bool:
    """Whether it is no part of a longer number, a name or a formula."""
    before, after = _around(text, match)
    if _is_word(before[-1:]) or (before[-1:] and before[-1] in ".,-+*^/"):
        return False
    is_longer = after[:1] != "" and after[0] in ".,-" and after[1:].isdigit()
    return not (is_longer or _is_word(after[:1]) or (after[:1] != "" and after[0] in "*/^"))


def _keys(text: str, candidates: "Candidates") -> Found:
    hints = candidates.hints
    if not hints:
        return
    there = {hint for bit, hint in enumerate((*_LITERALS, *_SECRET_NAMES)) if hints >> bit & 1}
    for hint, pattern in _KEYS.items():
        if hint not in there:
            continue
        place = text.find(hint)
        while place >= 0:
            match = pattern.match(text, place)
            is_start = place == 0 or not _is_word(text[place - 1])
            if is_start and match is not None and _bits_per_character(match[0]) >= _LEAST_BITS:
                yield (*match.span(), "key")
            place = text.find(hint, place + len(hint))
    if "PRIVATE KEY" in there:
        for match in _PRIVATE_KEY.finditer(text):
            yield (*match.span(), "key")
    if "://" in there:
        for match in _IN_URL.finditer(text):
            yield (*match.span("secret"), "key")
    for start, end in _assigned_secrets(text, [name for name in _SECRET_NAMES if name in there]):
        yield start, end, "key"


def _assigned_secrets(text: str, names: Sequence[str]) -> Iterator[tuple[int, int]]:
    """What looks random and is the value of something that is called a key or a password."""
    if not names:
        return
    lower = text.lower()
    if len(lower) != len(text):
        # A few capitals have two small letters, and places would no longer agree.
        lower = text
    for name in names:
        place = lower.find(name)
        while place >= 0:
            after = place + len(name)
            match = _ASSIGNED.match(text, after)
            is_key = name != "key" or _BEFORE_KEY.search(text, max(0, place - 8), place)
            if match is not None and is_key and _is_random(match["secret"]):
                yield match.span("secret")
            place = lower.find(name, after)


def _is_random(secret: str) -> bool:
    """Whether it is no name, no expression and no sentence."""
    has_both = any(map(str.isdigit, secret)) and any(map(str.isalpha, secret))
    longest = max(map(len, re.split(r"[._\-/]", secret)))
    is_wordy = longest < 12 or re.search(r"[a-z]{9}", secret) is not None
    return has_both and not is_wordy and _bits_per_character(secret) >= _LEAST_BITS


def _bits_per_character(text: str) -> float:
    counts = Counter(text).values()
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts)


_ORDER: dict[Kind, int] = {"key": 0, "email": 1, "card": 2, "ip": 3, "phone": 4}
"""Of two that overlap the first one counts."""
