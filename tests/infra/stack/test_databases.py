import inspect

import asyncpg
import pytest
from sqlalchemy import make_url
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from infra.stack.databases import (
    check_database,
    check_url,
    password_of,
    with_driver,
    without_password,
)
from infra.stack.state import StackError

URL = "postgresql://user:p%40ss@127.0.0.1:5432/name?sslmode=require"


def test_a_url_is_written_in_the_dialect_of_each_server() -> None:
    rest = "://user:p%40ss@127.0.0.1:5432/name"
    prefect = f"postgresql+asyncpg{rest}?ssl=require"
    assert with_driver(URL, "asyncpg") == prefect
    assert with_driver(f"postgresql+psycopg2{rest}?sslmode=require", "asyncpg") == prefect
    assert with_driver(URL, "psycopg2") == f"postgresql+psycopg2{rest}?sslmode=require"


def test_each_driver_takes_what_the_url_says_of_encryption() -> None:
    parameters = inspect.signature(asyncpg.connect).parameters
    _, options = PGDialect_asyncpg().create_connect_args(make_url(with_driver(URL, "asyncpg")))
    assert [name for name in options if name not in parameters] == []
    assert options["ssl"] == "require"


def test_a_url_is_shown_without_its_password() -> None:
    shown = without_password(URL)
    assert shown == "postgresql://user@127.0.0.1:5432/name?sslmode=require"
    assert without_password(shown) == shown
    assert password_of(URL) == "p@ss"
    assert password_of(shown) == password_of("") == ""


@pytest.mark.parametrize("url", ["mysql://u:canary@h/d", "postgresql://u:canary@h", "canary"])
def test_another_database_is_refused_without_repeating_the_url(url: str) -> None:
    with pytest.raises(StackError, match="PERENNIAL_X must be postgresql://") as caught:
        check_url(url, "PERENNIAL_X")
    assert "canary" not in str(caught.value)


def test_a_missing_driver_is_one_sentence() -> None:
    with pytest.raises(StackError, match="needs the Python package no_such_driver"):
        check_database(URL, "PERENNIAL_X", driver="no_such_driver")


def test_a_database_that_does_not_answer_is_one_sentence_without_password() -> None:
    url = "postgresql://user:canary@127.0.0.1:1/name"
    with pytest.raises(StackError, match=r"\(postgresql://user@127.0.0.1:1/name\)") as caught:
        check_database(url, "PERENNIAL_X", driver="asyncpg")
    assert "canary" not in str(caught.value)
