"""What went wrong on S3: whether it may pass, and one sentence about it.

A sentence names the store, its endpoint and what to do, and never a credential.
"""

import time
from email.utils import parsedate_to_datetime
from typing import Any

from infra.credentials import hide_credentials
from storage.errors import (
    AccessError,
    CorruptError,
    StorageError,
    StoreFullError,
    UnavailableError,
)


class TryAgainError(Exception):
    """An attempt that another one may mend, though the store answered with no error."""


class AlteredError(TryAgainError):
    """The bytes that arrived are not those that the store promised."""


_PASSING_STATUS = {409, 429, 500, 502, 503, 504}
# Answered with status 400 or 403, and mended by sending the same again.
_PASSING_CODES = {
    "BadDigest",
    "IncompleteBody",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "XAmzContentSHA256Mismatch",
}
_FULL_CODES = {"InsufficientStorage", "QuotaExceeded", "XMinioStorageFull"}
_STALE_CODES = {
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
_SIGN_AGAIN = (
    "get new ones (a new session token) and set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
    "AWS_SESSION_TOKEN, or the profile"
)
_ADVICE = {
    "AccessDenied": "these credentials may not do this; grant the right (docs/operating.md has the "
    "policies), or get new credentials if they are temporary and have expired",
    "AuthorizationHeaderMalformed": "it takes requests for another region; correct "
    "AWS_DEFAULT_REGION (or the profile)",
    "ExpiredToken": f"the temporary credentials have expired; {_SIGN_AGAIN}",
    "InvalidAccessKeyId": "the access key is unknown there; correct AWS_ACCESS_KEY_ID (or the "
    "profile), or AWS_ENDPOINT_URL_S3",
    "InvalidToken": f"the session token is not valid; {_SIGN_AGAIN}",
    "NoSuchBucket": "there is no such bucket; create it, or correct the name or "
    "AWS_ENDPOINT_URL_S3",
    "NoSuchUpload": "the upload was dropped before it ended, as 'perennial gc --delete' with a "
    "short grace time does; run the same again",
    "SignatureDoesNotMatch": "the secret key does not fit the access key; correct "
    "AWS_SECRET_ACCESS_KEY (or the profile)",
    "TokenRefreshRequired": f"the temporary credentials have expired; {_SIGN_AGAIN}",
}


def failures() -> tuple[type[Exception], ...]:
    """What a request may raise that this module can tell about."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415  see s3_client
    from botocore.parsers import ResponseParserError  # noqa: PLC0415
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    # botocore reads the body of an error that answers a streaming request outside of the place
    # where it translates urllib3's errors: a cut there comes through as it is.
    return BotoCoreError, ClientError, ResponseParserError, HTTPError, TryAgainError


def code_of(error: Exception) -> str:
    """The store's own word for an error that it answered, else empty."""
    return str(_answer_of(error).get("Error", {}).get("Code", ""))


def is_stale_credential(error: Exception) -> bool:
    """Whether reading the credentials again may help."""
    return code_of(error) in _STALE_CODES


def may_pass(error: Exception) -> bool:
    """Whether the same request may succeed a moment later."""
    from botocore import exceptions as known  # noqa: PLC0415  see s3_client
    from botocore.parsers import ResponseParserError  # noqa: PLC0415
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    if isinstance(error, known.ClientError):
        return code_of(error) in _PASSING_CODES or _status_of(error) in _PASSING_STATUS
    if isinstance(error, known.SSLError):
        return "CERTIFICATE_VERIFY_FAILED" not in str(error)
    passing = (
        TryAgainError,
        HTTPError,
        ResponseParserError,
        known.ConnectionError,
        known.HTTPClientError,
        known.IncompleteReadError,
        known.ResponseStreamingError,
        # The instance's metadata service hiccups too.
        known.CredentialRetrievalError,
        known.MetadataRetrievalError,
    )
    return isinstance(error, passing)


def cause_of(error: Exception) -> str:
    """A few words about an error."""
    status = _status_of(error)
    if status:
        return f"it answered {status} {code_of(error)}"
    # An answer that is no XML is quoted on the lines below the first.
    return hide_credentials(str(error)).partition("\n")[0] or type(error).__name__


def sentence_of(error: Exception, what: str, store: str) -> StorageError:
    """The storage error for what boto3 raised.

    Args:
        error: The last attempt's failure.
        what: What we tried, as in "read key".
        store: The store's URI and endpoint.
    """
    code, begin = code_of(error), f"cannot {what} in {store}: "
    if isinstance(error, AlteredError):
        return CorruptError(f"{begin}{error}; if it stays so, restore the object from a copy")
    if may_pass(error):
        return UnavailableError(
            f"{begin}no success in all attempts, the last time {cause_of(error)}; look at the "
            "store, the network and AWS_ENDPOINT_URL_S3, then run the same again: it goes on"
        )
    if code in _FULL_CODES or _status_of(error) == 507:
        return StoreFullError(
            f"{begin}the bucket is full ({code}); make room ('perennial gc' lists what nothing "
            "needs any more) or raise the quota, then run the same again: it goes on"
        )
    if code == "RequestTimeTooSkewed":
        return AccessError(begin + _skew_of(error))
    return AccessError(begin + (_ADVICE.get(code) or _local_advice(error)))


def _local_advice(error: Exception) -> str:
    """What to do about an error that came from no store, or one without a word of ours."""
    from botocore import exceptions as known  # noqa: PLC0415  see s3_client

    if isinstance(error, known.NoCredentialsError | known.PartialCredentialsError):
        return (
            "there are no complete credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "a profile (AWS_PROFILE), or give the machine a role"
        )
    if isinstance(error, known.ClientError):
        return f"it answered {_status_of(error)} {code_of(error)}; look it up in the store's manual"
    return f"{cause_of(error)}; correct AWS_ENDPOINT_URL_S3, AWS_DEFAULT_REGION or the profile"


def _skew_of(error: Exception) -> str:
    date = _answer_of(error).get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    found = "the clocks of this machine and of the store differ"
    if date:
        ahead_seconds = time.time() - parsedate_to_datetime(date).timestamp()
        side = "ahead of" if ahead_seconds > 0 else "behind"
        found = (
            f"the clock of this machine is {abs(ahead_seconds):.0f} s {side} the store's ({date})"
        )
    return f"{found} and requests signed so are refused; set the clock (NTP)"


def _status_of(error: Exception) -> int:
    return int(_answer_of(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _answer_of(error: Exception) -> dict[str, Any]:
    # Errors of the connection have the attribute as well, and None in it.
    return getattr(error, "response", None) or {}
