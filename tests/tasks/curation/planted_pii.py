"""Personal data and secrets that nobody has, as people write them and where."""

import random
import string
from collections.abc import Callable

from tasks.curation.pii_search import Kind

_NAMES = ("jane", "j.doe", "mueller_k", "info", "o'brien", "anna-lena.b", "x1", "first.last+tag")
_HOSTS = ("gmail.com", "mail.corp.co.uk", "uni-koeln.de", "a1.io", "web.museum", "x-y.org")
_PLACES = (
    "Please write to {} today.",
    "contact: {}",
    "<{}>",
    '"value": "{}",',
    "| {} |",
    "({})",
    "first {}, second",
    "{}",
    "on two\n{}\nlines",
    "key={};",
)


def plant(kind: Kind, rng: random.Random) -> tuple[str, str]:
    """An item of this kind, and a text with it."""
    item = _MAKERS[kind](rng)
    place = rng.choice(_PLACES)
    return item, place.format(item)


def _digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choices(string.digits, k=count))


def _email(rng: random.Random) -> str:
    item = f"{rng.choice(_NAMES)}{rng.randrange(100)}@{rng.choice(_HOSTS)}"
    return item.upper() if rng.random() < 0.1 else item


def _phone(rng: random.Random) -> str:
    area, exchange = (f"{rng.randrange(2, 10)}{_digits(rng, 2)}" for _ in range(2))
    line, pairs = _digits(rng, 4), [_digits(rng, 2) for _ in range(4)]
    return rng.choice(
        (
            f"({area}) {exchange}-{line}",
            f"{area}-{exchange}-{line}",
            f"{area}.{exchange}.{line}",
            f"+1 {area} {exchange} {line}",
            f"+1-{area}-{exchange}-{line}",
            f"+1 ({area}) {exchange}-{line}",
            f"1-800-{exchange}-{line}",
            f"+1{area}{exchange}{line}",
            f"+44 20 7{_digits(rng, 3)} {line}",
            f"+44 (0)20 7{_digits(rng, 3)} {line}",
            f"020 7{_digits(rng, 3)} {line}",
            f"+49 30 {_digits(rng, 6)}",
            f"+49 (0) 221 / {_digits(rng, 6)}".replace(" / ", " "),
            f"0221/{_digits(rng, 7)}",
            f"+33 1 {' '.join(pairs)}",
            f"01 {' '.join(pairs)}",
            f"+91 9{line} {_digits(rng, 5)}",
            f"+86 138 {line} {_digits(rng, 4)}",
            f"03-3{_digits(rng, 3)}-{line}",
        )
    )


def _ip(rng: random.Random) -> str:
    if rng.random() < 0.2:
        return f"2001:4860:{rng.randrange(0x1000, 0xFFFF):x}::{rng.randrange(1, 0xFFFF):x}"
    parts = [rng.choice((8, 17, 46, 91, 151, 201)), *(rng.randrange(256) for _ in range(3))]
    return ".".join(map(str, parts))


def _card(rng: random.Random) -> str:
    prefix, length = rng.choice((("4", 16), ("52", 16), ("2345", 16), ("37", 15), ("6011", 16)))
    body = prefix + _digits(rng, length - len(prefix) - 1)
    total = sum(
        sum(divmod(int(digit) * (2 if place % 2 == 0 else 1), 10))
        for place, digit in enumerate(reversed(body))
    )
    number = body + str(-total % 10)
    mark = rng.choice(("", " ", "-"))
    return mark.join(number[place : place + 4] for place in range(0, length, 4))


def _key(rng: random.Random) -> str:
    def some(count: int, letters: str = string.ascii_letters + string.digits) -> str:
        return "".join(rng.choices(letters, k=count))

    upper = string.ascii_uppercase + string.digits
    return rng.choice(
        (
            f"AKIA{some(16, upper)}",
            f"ghp_{some(36)}",
            f"github_pat_{some(22)}_{some(59)}",
            f"xoxb-{_digits(rng, 12)}-{_digits(rng, 12)}-{some(24)}",
            f"AIza{some(35)}",
            f"sk_live_{some(24)}",
            f"sk-proj-{some(48)}",
            f"hf_{some(34)}",
            f"glpat-{some(20)}",
            f"npm_{some(36)}",
            f"eyJ{some(30)}.eyJ{some(60)}.{some(43)}",
            f"SG.{some(22)}.{some(43)}",
            "-----BEGIN RSA PRIVATE KEY-----\n"
            + "\n".join(some(64) for _ in range(12))
            + "\n-----END RSA PRIVATE KEY-----",
        )
    )


_MAKERS: dict[Kind, Callable[[random.Random], str]] = {
    "email": _email,
    "phone": _phone,
    "ip": _ip,
    "card": _card,
    "key": _key,
}
