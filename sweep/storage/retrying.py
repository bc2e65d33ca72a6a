"""Object storage fails for a while now and then. What passes is tried again; what does not is said in plain words.

fsspec's backends raise whatever their own libraries do, translated or not: botocore's and aiohttp's errors for S3,
requests' and Google's for GCS. `trouble_of` sorts them by what a person, or a program, can do about them.
"""

import functools
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sweep.errors import StorageError

PATIENCE_VARIABLE = "W2S_STORAGE_PATIENCE_SECONDS"
WARN_EVERY_SECONDS = 5.0
_log = logging.getLogger("w2s")


class Trouble(StrEnum):
    """What is the matter with a storage."""

    PASSING = "passing"
    """Busy, unreachable, or something was lost on the way: worth another try."""
    DENIED = "permission denied"
    NO_BUCKET = "no such bucket"
    NO_CREDENTIALS = "no credentials"
    REJECTED = "credentials not accepted"
    EXPIRED = "credentials expired"
    EXISTS = "there already"
    OTHER = "other"


_CODES = {
    Trouble.PASSING: (
        "SlowDown Throttling ThrottlingException ThrottledException RequestThrottled RequestThrottledException "
        "TooManyRequests TooManyRequestsException RequestLimitExceeded BandwidthLimitExceeded InternalError "
        "ServiceUnavailable RequestTimeout RequestTimeoutException OperationAborted ConditionalRequestConflict "
        "IncompleteBody BadDigest XAmzContentSHA256Mismatch NoSuchUpload 408 409 429 500 502 503 504"
    ),
    Trouble.DENIED: "AccessDenied AllAccessDisabled AccountProblem Forbidden Unauthorized 401 403",
    Trouble.NO_BUCKET: "NoSuchBucket",
    Trouble.REJECTED: "InvalidAccessKeyId SignatureDoesNotMatch InvalidToken InvalidSecurity UnrecognizedClient",
    Trouble.EXPIRED: "ExpiredToken ExpiredTokenException TokenRefreshRequired RequestExpired",
    Trouble.EXISTS: "PreconditionFailed 412",
}
_TROUBLE_OF_CODE = {code: trouble for trouble, codes in _CODES.items() for code in codes.split()}

_CLASSES = {
    # before the passing ones, which some of these derive from
    Trouble.OTHER: "SSLError ClientSSLError ClientConnectorCertificateError InvalidURL NonRetryableError",
    Trouble.NO_CREDENTIALS: (
        "NoCredentialsError PartialCredentialsError ProfileNotFound ConfigNotFound DefaultCredentialsError"
    ),
    Trouble.EXPIRED: "SSOTokenLoadError UnauthorizedSSOTokenError TokenRetrievalError RefreshError",
    Trouble.PASSING: (
        "HTTPClientError ResponseStreamingError IncompleteReadError IncompleteRead ResponseParserError "
        "CredentialRetrievalError "  # from the machine's own role: its service may be slow
        "ConnectionError ClientError FSTimeoutError ChunkedEncodingError ContentDecodingError Timeout ProxyError "
        "ChecksumError TransportError ServiceUnavailable InternalServerError DeadlineExceeded ResourceExhausted"
    ),
}
_TROUBLE_OF_CLASS = {name: trouble for trouble, names in _CLASSES.items() for name in names.split()}
_LIBRARIES = ("botocore", "aiobotocore", "aiohttp", "requests", "urllib3", "google", "gcsfs", "s3fs", "fsspec", "http")


def trouble_of(error: BaseException) -> Trouble | None:
    """What an error of a backend means, by the codes and classes in its chain of causes; None if it tells nothing."""
    found = [trouble for inner in _chain(error) if (trouble := _trouble_of_one(inner)) is not None]
    return found[-1] if found else None  # the innermost is nearest to what happened


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _trouble_of_one(error: BaseException) -> Trouble | None:
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's ClientError
        code = str(response.get("Error", {}).get("Code", ""))
        status = str(response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
        return _TROUBLE_OF_CODE.get(code) or _TROUBLE_OF_CODE.get(status)
    code = getattr(error, "code", None)
    if type(error).__name__ == "HttpError" and code is not None:  # gcsfs
        return _TROUBLE_OF_CODE.get(str(code))
    if str(error).startswith("Forbidden: "):  # gcsfs again: an OSError with nothing but this text
        return Trouble.DENIED
    for kind in type(error).__mro__:
        if kind.__module__.partition(".")[0] in _LIBRARIES and kind.__name__ in _TROUBLE_OF_CLASS:
            return _TROUBLE_OF_CLASS[kind.__name__]
    if isinstance(error, FileExistsError):
        return Trouble.EXISTS
    if isinstance(error, PermissionError):
        return Trouble.DENIED
    if isinstance(error, (ConnectionError, TimeoutError)) or type(error).__name__ == "gaierror":
        return Trouble.PASSING
    return None


@dataclass(frozen=True)
class Patience:
    """How long, and how often, something is tried again."""

    seconds: float = 120.0
    """In all, from the first try on; 0 for a single try."""
    first: float = 0.5
    """Seconds before the second try; twice that before the third, and so on."""
    longest: float = 20.0
    """Seconds between tries at most."""

    @classmethod
    def of_environment(cls) -> "Patience":
        """W2S_STORAGE_PATIENCE_SECONDS, if it is set, instead of two minutes."""
        try:
            return cls(seconds=max(0.0, float(os.environ[PATIENCE_VARIABLE])))
        except (KeyError, ValueError):
            return cls()

    def delay(self, tries: int, draw: float) -> float:
        """Seconds to wait after so many tries: at random between half of the doubled time and all of it.

        Random, so that a thousand workers that failed together do not come back together.

        Args:
            draw: Uniform in [0, 1).
        """
        return min(self.longest, self.first * 2 ** min(tries - 1, 30)) * (0.5 + 0.5 * draw)


class RetryingFileSystem:
    """An fsspec file system whose requests are tried again while their trouble may pass.

    What is absent or there already raises FileNotFoundError or FileExistsError, as ever; every other trouble a
    StorageError that says what to do. Attributes that are no request are those of the file system.
    """

    REQUESTS = frozenset(
        {"cat_file", "pipe_file", "put_file", "get_file", "rm_file", "rm", "mv", "cp_file"}
        | {"ls", "find", "glob", "info", "exists", "isdir", "isfile", "size", "du", "modified"}
    )

    def __init__(self, fs: Any, root: str, patience: Patience | None = None) -> None:
        """`root` is what a person calls the storage."""
        self.raw = fs
        self._root = root
        self._patience = patience or Patience.of_environment()
        protocols = (fs.protocol,) if isinstance(getattr(fs, "protocol", ()), str) else getattr(fs, "protocol", ())
        # otherwise the size is asked for first, to read large files in parallel
        self._one_request = (
            {"max_concurrency": 1} if "s3" in protocols else {"concurrency": 1} if "gs" in protocols else {}
        )
        self._warned = float("-inf")
        self._lock = threading.Lock()

    @property
    def impatient(self) -> "RetryingFileSystem":
        """The same with one try: for what may as well be left out."""
        return RetryingFileSystem(self.raw, self._root, Patience(seconds=0.0))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "raw" not in self.__dict__:  # while it is unpickled or copied
            raise AttributeError(name)
        value = getattr(self.raw, name)
        if name == "cat_file":
            value = functools.partial(value, **self._one_request)
        return functools.partial(self._request, name, value) if name in self.REQUESTS else value

    def _request(self, name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        begun, tries = time.monotonic(), 0
        while True:
            tries += 1
            try:
                return call(*args, **kwargs)
            except Exception as error:
                trouble = trouble_of(error)
                if trouble == Trouble.EXISTS:
                    raise FileExistsError(first_line(error)) from error
                if trouble is None and _is_an_answer(error):
                    raise
                wait = self._patience.delay(tries, random.random())
                gone = time.monotonic() - begun
                if trouble != Trouble.PASSING or gone + wait > self._patience.seconds:
                    place = next((a for a in args if isinstance(a, str) and "/" in a), "")
                    raise StorageError(explain(self._root, trouble, error, place=place, gone=gone)) from error
                self._warn(error, gone)
            time.sleep(wait)

    def _warn(self, error: Exception, gone: float) -> None:
        with self._lock:  # many threads meet the same trouble at once
            if time.monotonic() - self._warned < WARN_EVERY_SECONDS:
                return
            self._warned = time.monotonic()
        left = max(1.0, self._patience.seconds - gone)
        _log.warning(
            "storage %s does not answer (%s); it is tried again for up to %.0f s", self._root, first_line(error), left
        )


def _is_an_answer(error: Exception) -> bool:
    """Whether an error tells of what was asked for, or of a mistake in a program, and not of the storage."""
    if isinstance(error, OSError):
        return isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError))
    return type(error).__module__ == "builtins"


def explain(root: str, trouble: Trouble | None, error: BaseException, *, place: str = "", gone: float = 0.0) -> str:
    """What is wrong with a storage, and what to do about it."""
    reason, scheme = first_line(error), root.partition("://")[0]
    bucket = root.partition("://")[2].partition("/")[0]
    google = scheme in ("gs", "gcs")
    if trouble == Trouble.NO_BUCKET:
        make = f"gcloud storage buckets create gs://{bucket}" if google else f"aws s3 mb s3://{bucket}"
        return f"storage '{root}': there is no bucket '{bucket}'; create it ({make}), or give another `storage`"
    if trouble == Trouble.NO_CREDENTIALS:
        how = (
            "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS"
            if google
            else "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
        return (
            f"storage '{root}': no credentials were found ({reason}); {how}, or give the machine a role (on a cluster: "
            "every node)"
        )
    if trouble == Trouble.REJECTED:
        return f"storage '{root}': the credentials were not accepted ({reason}); check them, and the endpoint"
    if trouble == Trouble.EXPIRED:
        again = "`gcloud auth application-default login`" if google else "such as `aws sso login`"
        return f"storage '{root}': the credentials have expired ({reason}); log in again, {again}"
    if trouble == Trouble.DENIED:
        rights = (
            "storage.objects.get, .create, .delete and .list"
            if google
            else "s3:GetObject, s3:PutObject and s3:DeleteObject on the objects, and s3:ListBucket on the bucket"
        )
        at = f" at {place}" if place else ""
        return f"storage '{root}': permission denied{at} ({reason}); the role needs {rights}"
    if trouble == Trouble.PASSING:
        since = f" for {gone:.0f} s" if gone >= 1 else ""
        return f"storage '{root}' does not answer{since}: {reason}; the same command goes on when it does"
    return f"storage '{root}': {reason}"


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
