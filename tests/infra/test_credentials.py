import pytest

from infra.credentials import hide_credentials, holds_credentials


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://ann:pw@db:5432/x", "postgresql://db:5432/x"),
        ("two: http://a:b@c and https://d@e/f?g=h@i", "two: http://c and https://e/f?g=h@i"),
        ("http://host/path@2 and ann@example.org", "http://host/path@2 and ann@example.org"),
        ("no URI at all", "no URI at all"),
    ],
)
def test_user_and_password_are_taken_out_of_every_uri(text: str, shown: str) -> None:
    assert hide_credentials(text) == shown
    assert holds_credentials(text) == (text != shown)
