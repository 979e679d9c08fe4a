"""PostgreSQL for the servers: one URL as people write it, in the dialect of each server."""

import asyncio
from importlib.util import find_spec
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from infra.stack.state import StackError

_CONNECT_SECONDS = 10


def with_driver(url: str, driver: str) -> str:
    """``url`` for SQLAlchemy with this driver, e.g. ``asyncpg``."""
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    if driver == "asyncpg":
        # SQLAlchemy hands the query to asyncpg's connect, which has another word for it.
        query = [("ssl" if name == "sslmode" else name, value) for name, value in query]
    rest = parts.path + (f"?{urlencode(query)}" if query else "")
    return f"postgresql+{driver}://{parts.netloc}{rest}"


def without_password(url: str) -> str:
    """``url`` as it may be shown and remembered."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}{at}{host}"))


def password_of(url: str) -> str:
    """The password in ``url``, empty when there is none."""
    return unquote(urlsplit(url).password or "")


def check_url(url: str, variable: str) -> None:
    """Refuse what is no PostgreSQL URL, without repeating it: it may hold a password.

    Raises:
        StackError: Names the variable that it came from.
    """
    parts = urlsplit(url)
    if parts.scheme.partition("+")[0] not in ("postgresql", "postgres") or not parts.path.strip(
        "/"
    ):
        raise StackError(
            f"{variable} must be postgresql://user:password@host:port/database, and is something "
            "else; correct it, or leave it unset for a SQLite file"
        )


def check_database(url: str, variable: str, *, driver: str) -> None:
    """Connect once, so that what is wrong is said in one sentence before a server starts.

    Args:
        url: From ``variable``.
        variable: Named in the error.
        driver: Python package that the server will connect with.

    Raises:
        StackError: The driver is missing, or the database does not let us in.
    """
    check_url(url, variable)
    if find_spec(driver) is None:
        raise StackError(
            f"{variable} names a PostgreSQL database, which needs the Python package {driver}, and "
            "that is not installed; run pip install 'perennial[postgres]'"
        )
    try:
        reason = asyncio.run(_reason_against(url))
    except ImportError:
        raise StackError(
            f"{variable} names a PostgreSQL database, which needs the Python package asyncpg, and "
            "that is not installed; install the versions of constraints.txt"
        ) from None
    if reason:
        raise StackError(
            f"the database of {variable} ({without_password(url)}) must let the server in, and "
            f"does not: {reason}; correct the variable or start the database"
        )


async def _reason_against(url: str) -> str:
    """Why no connection can be made; empty when one can."""
    # Comes with Prefect; not needed with SQLite.
    import asyncpg  # noqa: PLC0415

    try:
        connection = await asyncpg.connect(
            f"postgresql://{urlsplit(url).netloc}{_rest(url)}", timeout=_CONNECT_SECONDS
        )
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        return next(iter(str(error).splitlines()), "") or type(error).__name__
    await connection.close()
    return ""


def _rest(url: str) -> str:
    parts = urlsplit(url)
    return parts.path + (f"?{parts.query}" if parts.query else "")
