"""Keeps passwords out of what people and logs see."""

import re

_USER_INFO = re.compile(r"(?<=://)[^/\s@]*@")


def hide_credentials(text: str) -> str:
    """``text`` without the ``user:password@`` of any URI in it.

    A password that holds a blank or a slash must be percent-encoded in a URI, so it is found whole.
    """
    return _USER_INFO.sub("", text)


def holds_credentials(uri: str) -> bool:
    """Whether a URI names a user or a password."""
    return _USER_INFO.search(uri) is not None


def first_line_of(error: BaseException) -> str:
    """Class and first line of an error, for a log; no credentials in it."""
    return f"{type(error).__name__}: {hide_credentials(str(error)).partition(chr(10))[0]}"
