import pytest

from tasks.curation.licences import LicenceRules, licence_reason, licences_of


@pytest.mark.parametrize(
    ("licence", "rules", "reason"),
    [
        ("MIT", None, ""),
        ("MIT", LicenceRules(), ""),
        ("mit ", LicenceRules(allow=("MIT", "BSD-*")), ""),
        ("BSD-3-Clause", LicenceRules(allow=("MIT", "bsd-*")), ""),
        ("GPL-3.0", LicenceRules(allow=("MIT",)), "licence:not_allowed"),
        ("GPL-3.0", LicenceRules(deny=("GPL*",)), "licence:denied"),
        ("CC-BY-NC-4.0", LicenceRules(allow=("CC-BY*",), deny=("*-NC-*",)), "licence:denied"),
        ("", LicenceRules(allow=("MIT",)), "licence:not_allowed"),
    ],
)
def test_what_is_denied_is_never_allowed(
    licence: str, rules: LicenceRules | None, reason: str
) -> None:
    assert licence_reason(licence, rules) == reason


def test_a_source_that_is_not_named_has_the_rules_of_all() -> None:
    named, every = LicenceRules(allow=("MIT",)), LicenceRules(deny=("GPL*",))
    assert licences_of({"web": named, "*": every}, "web") == named
    assert licences_of({"web": named, "*": every}, "code") == every
    assert licences_of({"web": named}, "code") is None
