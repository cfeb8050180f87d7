"""URLs of the command line.

Used by verbs that ask servers which a user names.
"""

from urllib.parse import urlsplit

from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason


def require_url(option: str, url: str) -> None:
    """Raises RefusedInput(InvalidJob) for what is no URL of HTTP, and for one with a password: it
    would stand in messages and logs.
    """
    told = f"`{option} {url}` must be a URL, such as `http://host:9090`."
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is no port
    except ValueError as error:
        raise RefusedInput(Reason.InvalidJob, option, told) from error
    if "@" in parts.netloc:
        told = f"`{option}` must hold no user name and no password."
        raise RefusedInput(Reason.InvalidJob, option, told)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RefusedInput(Reason.InvalidJob, option, told)
