import itertools
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.curation.config import DomainRules
from tasks.curation.pii import PiiRules, describe_found, mask_pii
from tasks.curation.pii_candidates import Candidates
from tasks.curation.pii_search import KINDS, Kind, find_among, find_pii
from tests.tasks.curation.planted import cleaned, reason_of
from tests.tasks.curation.planted_pii import plant

PII = DomainRules(pii=PiiRules())


def found(text: str) -> list[tuple[str, str]]:
    return [(kind, text[start:end]) for start, end, kind in find_pii(text)]


@pytest.mark.parametrize("kind", KINDS)
def test_of_planted_items_at_least_99_of_100_are_found_and_masked(kind: Kind) -> None:
    rng = random.Random(0)
    planted = [plant(kind, rng) for _ in range(2000)]
    missed = [item for item, text in planted if item in cleaned(text, PII)]
    assert len(missed) <= 20, missed[:10]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mail jane.doe@corp.org.", [("email", "jane.doe@corp.org")]),
        ("curl -H 'token: 8fK2jQ7vLx9TzR4mWc1P'", [("key", "8fK2jQ7vLx9TzR4mWc1P")]),
        ("postgres://app:hunter2@db.corp.org/x", [("key", "hunter2")]),
        ("Tel. 123 45678", [("phone", "123 45678")]),
        ("ping 63.245.215.20:80", [("ip", "63.245.215.20")]),
        ("http://63.245.215.20/", [("ip", "63.245.215.20")]),
        ("pay 4111 1111 1111 1111 now", []),
        ("pay 4012 8888 8888 1881 now", [("card", "4012 8888 8888 1881")]),
        ("pay 4012 8888 8888 1882 now", []),
    ],
)
def test_what_is_found(text: str, expected: list[tuple[str, str]]) -> None:
    assert found(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "write to someone@example.com, a@host.test or root@localhost",
        "git clone git@github.com:org/repo.git",
        "y = x@w.dot(z) + a@b.T - q@k.transpose(1, 2)",
        "@decorator\ndef f(a, *, b): ...",
        "icon@2x.png",
        "127.0.0.1 10.1.2.3 192.168.0.17 172.16.31.3 0.0.0.0 255.255.255.255",
        "version 1.2.3.4, section 3.1.12.2, v10.20.30.40, Chrome/91.0.4472.124, 1.2.3.4.5",
        "OID 1.3.6.1.4.1.311.21.20",
        "std::vector<int> a::b 12:34:56 fe80::1 ::1",
        "0.4242424242424242 and 4242424242424242.5 and 1e4242424242424242",
        "2024-11-28 2024-11-29, 1990-1995, ISBN 978-3-16-148410-0, 1,234,567,890",
        "[+1.9779984951, -2.428] + 3.14159265358979",
        "pi = 3.141592653589793; n = 6_011_000_000; x = 100000000000",
        "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "token = tokenizer.convert_ids_to_tokens(ids)[0]",
        "password = os.environ['DATABASE_PASSWORD']",
        "secret: a-long-hyphenated-placeholder-value-1",
        "sk-learn, skip-connections, hf_hub_download(repo_id)",
        "in 1945 and 1968 there were 120 000 000 people, 3 000 000 of them abroad",
    ],
)
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    assert found(text) == []


def test_kinds_are_masked_or_drop_the_document_as_the_domain_says() -> None:
    text = "jane.doe@corp.org has AKIAIOSFODNN7EXAMPLZ"
    assert cleaned(text, PII) == "[EMAIL] has [KEY]"
    only_keys = DomainRules(pii=PiiRules(mask=("key",)))
    assert cleaned(text, only_keys) == "jane.doe@corp.org has [KEY]"
    assert reason_of(text, PII) == ""
    assert reason_of(text, DomainRules(pii=PiiRules(drop=("card", "key")))) == "pii:key"


def test_counts_are_told_in_a_sentence() -> None:
    from tasks.curation.annotate import annotate

    texts = ["a b@corp.org c d@corp.org", "AKIAIOSFODNN7EXAMPLZ", "nothing"]
    numbers = annotate(texts, [""] * 3, PII).numbers
    told = "personal data and secrets found: email 2, key 1"
    assert describe_found(numbers) == told
    assert describe_found({name: column[2:] for name, column in numbers.items()}) == ""


@settings(deadline=None)
@given(st.text(st.sampled_from("a1@.:/-+( )\n2345sk_=\"'")) | st.text())
def test_spans_are_in_order_and_masking_leaves_nothing_to_mask_of_emails_and_keys(
    text: str,
) -> None:
    spans = find_pii(text)
    for start, end, _ in spans:
        assert 0 <= start < end <= len(text)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))
    assert mask_pii(text, spans, ()) == text


SCRAPS = [
    *("AKIA", "AKIAKIA", "ghp_", "sk-", "eyJ", "hf_", "://u:", "pass@", "PRIVATE KEY-----", "api_"),
    *("key", "KEY", "To\u212aen", "\u0130", "password", "pwd=", "Secret: ", "-----BEGIN ", "Tel. "),
    *("a1B2c3D4e5F6g7H8", "1.2.3.4", "63.245.215.20", "2001:0db8:", "::", "20a1:db8:0:1", "+49 ("),
    *(
        "4012 8888 8888 1881",
        "555 123 4567",
        "\u0661\u0662\u0663.",
        "0",
        "12",
        ".",
        "-",
        "/",
        " ",
        "\n",
        "(",
        "+",
    ),
]


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.sampled_from(SCRAPS) | st.text(max_size=3), max_size=25).map("".join),
    st.sampled_from(["", "\u6f22", "\U0001f600", "\ud800"]),
)
def test_nothing_is_outside_of_the_places_that_are_looked_at(text: str, rare: str) -> None:
    # Of ASCII and of other text the places are found by different machine code.
    text += rare
    whole = [(0, len(text))]
    everywhere = Candidates(hints=-1, numbers=whole, ipv4=whole, ipv6=whole)
    assert find_among(text, everywhere) == find_pii(text)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_planted_items_is_outside_of_them_either(kind: Kind) -> None:
    rng = random.Random(1)
    for _ in range(300):
        _, text = plant(kind, rng)
        whole = [(0, len(text))]
        assert find_among(text, Candidates(-1, whole, whole, whole)) == find_pii(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("phone: 123 4567", [("phone", "123 4567")]),
        ("phone: 123 456", []),
        ("0123 456 78", []),
        ("01234 567 890", [("phone", "01234 567 890")]),
        ("4222 2222 2222 2", []),
        ("4929 1234 5678 8", [("card", "4929 1234 5678 8")]),
    ],
)
def test_numbers_have_as_many_digits_as_their_kind_at_least(
    text: str, expected: list[tuple[str, str]]
) -> None:
    assert found(text) == expected


@pytest.mark.parametrize(
    "hostile",
    [
        "a" * 200_000 + "@",
        "a@" * 100_000,
        "1 " * 100_000,
        "1-" * 100_000,
        "+1(" * 70_000,
        "a.b" * 70_000,
        "=" * 200_000,
        "eyJa." * 40_000,
        "1.1.1." * 30_000,
        "2000:" * 40_000,
        "://a:b" * 30_000,
        "-----BEGIN PRIVATE KEY-----" * 200,
        "token:" * 30_000,
        "(" * 200_000,
        "0 (0)" * 40_000,
    ],
)
def test_no_text_takes_long(hostile: str) -> None:
    started_at = time.process_time()
    find_pii(hostile)
    # A quadratic search takes minutes.
    assert time.process_time() - started_at < 5
