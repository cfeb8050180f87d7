"""What errors of huggingface_hub mean to somebody who publishes, and which of them may pass.

Called by `halftone.stores.hub_target`; `hub` shares how long to wait. The library's own texts are
not passed on: they hold signed addresses. Only what the server itself said is, and only where it
decides what to do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit

from huggingface_hub import get_token
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HfHubHTTPError,
    HTTPError,  # httpx's or httpx2's, whichever the library is built on
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from halftone.spec.errors import EnvironmentFault, HalftoneError, RefusedInput
from halftone.spec.names import Reason
from halftone.stores.credentials import Credential

# What another attempt may get another answer to.
PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})
# Somebody else was faster; what is there now is judged again.
_OVERTAKEN: Final = frozenset({409, 412})
# What the store of large files says of an address that expired, or of bytes that arrived broken.
_SENT_AGAIN: Final = frozenset({400, 403})
# The longest that we let a server make us wait before we try again.
_LONGEST_PAUSE: Final = 60.0
_LONGEST_QUOTE: Final = 200


def pause_for(endpoint: str, error: Exception, wait: float) -> float | None:
    """How long to wait before trying again; None when the same answer would come.

    What failed while large files went up has been tried again by the library already; another
    attempt only helps when it asks for new addresses.
    """
    cause = _cause(error)
    if not isinstance(cause, HfHubHTTPError):
        return wait if isinstance(cause, HTTPError) and cause is error else None
    status = cause.response.status_code
    if cause is not error:
        elsewhere = not str(cause.response.url).startswith(f"{endpoint}/")
        return wait if elsewhere and status in _SENT_AGAIN else None
    if status in PASSING:
        return asked_pause(cause, wait)
    return wait if status in _OVERTAKEN else None


def asked_pause(error: HfHubHTTPError, wait: float) -> float:
    """The seconds that the server asks for, within reason, else `wait`."""
    asked = error.response.headers.get("Retry-After", "")
    return min(float(asked), _LONGEST_PAUSE) if asked.isdecimal() else wait


@contextmanager
def hub_errors(uri: str, credentials: Credential | None = None) -> Iterator[None]:
    """Turn huggingface_hub's errors into ours; `credentials` are those that were given, if any.

    Raises RefusedInput(AccessDenied) and (QuotaExceeded), EnvironmentFault(StoreUnavailable).
    """
    try:
        yield
    except HalftoneError:
        raise
    except LocalTokenNotFoundError as error:
        raise no_token(uri) from error
    except (HTTPError, OfflineModeIsEnabled, RuntimeError, ValueError, OSError) as error:
        # RuntimeError and ValueError: a thread of an upload, or an answer that makes no sense.
        raise _meaning(uri, credentials, _cause(error)) from error
    except (TypeError, KeyError, AttributeError) as error:
        raise _strange(uri) from error


def no_token(uri: str) -> RefusedInput:
    """There is no token at all."""
    return RefusedInput(
        Reason.AccessDenied,
        uri,
        f"Publishing to `{uri}` needs a token and there is none; set HF_TOKEN, or run "
        "`hf auth login`.",
    )


def place_of(credentials: Credential | None) -> str:
    """Where whoever reads a message has to put a token."""
    return "HF_TOKEN" if credentials is None else credentials.place


def _cause(error: Exception) -> Exception:
    """The error of a thread's request behind the RuntimeError that reports it."""
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        return error.__cause__
    return error


def _meaning(uri: str, credentials: Credential | None, error: Exception) -> HalftoneError:
    if isinstance(error, OfflineModeIsEnabled):
        return _unavailable(uri, "was not asked", "unset HF_HUB_OFFLINE")
    if isinstance(error, RepositoryNotFoundError):
        return _denied(uri, credentials, "shows no such repository to this token")
    if isinstance(error, HfHubHTTPError):
        return _answered(uri, credentials, error)
    said = _quoted(str(error), credentials)
    if isinstance(error, ValueError) and "README.md" in said:
        return RefusedInput(
            Reason.WorkdirInconsistent,
            "README.md",
            f"The Hub does not accept the metadata of the model card ({said}); correct the "
            "licence or the tags of the source.",
        )
    if isinstance(error, ValueError) and "LFS batch" in said:
        return _full(uri, said) if _speaks_of_room(said) else _unavailable(uri, f"says: {said}")
    if isinstance(error, OSError) and not isinstance(error, HTTPError) and error.filename:
        return EnvironmentFault(
            Reason.StorageFailed,
            str(error.filename),
            f"'{error.filename}' could not be read ({error.strerror}); mend this and run the same "
            "command again.",
        )
    if isinstance(error, HTTPError):
        return _unavailable(uri, f"did not answer ({type(error).__name__})")
    return _strange(uri)


def _answered(uri: str, credentials: Credential | None, error: HfHubHTTPError) -> HalftoneError:
    """What a status means."""
    status = error.response.status_code
    said = _quoted(error.server_message or "", credentials)
    quote = f", saying: {said}" if said else ""
    if status in (402, 413) or (status == 403 and _speaks_of_room(said)):
        return _full(uri, said or f"status {status}")
    if status in (401, 403):
        return _denied(uri, credentials, f"answered {status}{quote}")
    if status in _OVERTAKEN:
        return _unavailable(
            uri,
            f"says that something else was committed each time ({status})",
            "stop other publishers, check that the token may write to `main`, then run the "
            "command again",
        )
    host = urlsplit(str(error.response.url)).hostname
    return _unavailable(uri, f"answered {status} at {host}{quote}")


def _speaks_of_room(said: str) -> bool:
    return any(word in said.lower() for word in ("storage", "quota", "payment", "billing"))


def _full(uri: str, said: str) -> RefusedInput:
    return RefusedInput(
        Reason.QuotaExceeded,
        uri,
        f"The Hub has no room for `{uri}` ({said}); remove something, get more storage, or "
        "publish elsewhere. Nothing became visible.",
    )


def _denied(uri: str, credentials: Credential | None, what: str) -> RefusedInput:
    return RefusedInput(
        Reason.AccessDenied,
        uri,
        f"The Hub {what} for `{uri}`; set {place_of(credentials)} to a token that may write there.",
    )


def _unavailable(
    uri: str,
    what: str,
    remedy: str = "check the network and HF_ENDPOINT, then run the command again",
) -> EnvironmentFault:
    return EnvironmentFault(Reason.StoreUnavailable, uri, f"The Hub {what} for `{uri}`; {remedy}.")


def _strange(uri: str) -> EnvironmentFault:
    return _unavailable(
        uri,
        "answered with something that huggingface_hub does not understand",
        "check HF_ENDPOINT and any proxy on the way, then run the command again",
    )


def _quoted(said: str, credentials: Credential | None) -> str:
    """What a server said, fit for one line of a message and without our token."""
    token = get_token() if credentials is None else credentials.token
    if token:
        said = said.replace(token, "***")
    line = " ".join("".join(c if c.isprintable() else " " for c in said).split())
    return line[:_LONGEST_QUOTE].rstrip(".")
