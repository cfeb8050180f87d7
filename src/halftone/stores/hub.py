"""A repository of the Hub, of a model or of data, pinned to one commit and read by ranged GETs.

Opened by `halftone.stores.opening` and `halftone.stores.datasets`, which import this module, and
with it huggingface_hub, only for `hf://`. The library's own client says what is in the repository
and does every request, so its endpoint, token and proxy settings hold; no file is ever downloaded
whole. Where the Hub redirects to a content delivery network, the token stays behind and the address
is kept for the next range.
"""

import os
import re
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,  # httpx's or httpx2's, whichever the library is built on
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)

from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.files import FileEntry
from halftone.spec.names import Reason
from halftone.stores.credentials import Credential
from halftone.stores.hub_errors import PASSING, asked_pause
from halftone.stores.patience import WAITS, CutShortError, patiently
from halftone.stores.pinned import CHECKPOINT, Listing, PinnedSource, named

_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_URI: Final = re.compile(rf"^({_NAME}(?:/{_NAME})?)/?(?:@([^\s@]{{1,200}}))?$")
# What addresses of the Hub begin with, by what a repository holds.
_BEGINNINGS: Final = {"model": "hf://", "dataset": "hf://datasets/"}
_CONTENT_RANGE: Final = re.compile(r"^bytes (\d+)-(\d+)/(\d+)$")
_TIMEOUT: Final = 30.0
# What a content delivery network says when the address that it once gave has expired.
_EXPIRED: Final = frozenset({400, 401, 403, 404, 410})
# Small files are sometimes sent whole, whatever range was asked for.
_WHOLE_FILE_LIMIT: Final = 16_000_000


class HubSource(PinnedSource):
    """The files of `hf://org/name[@revision]` at the commit that the revision had when opened.

    With `kind` "dataset" those of `hf://datasets/org/name[@revision]`. The token is that of
    `credentials`, without any the library's own.
    """

    def __init__(
        self,
        uri: str,
        waits: tuple[float, ...] = WAITS,
        *,
        kind: Literal["model", "dataset"] = "model",
        listing: Listing = CHECKPOINT,
        credentials: Credential | None = None,
    ) -> None:
        self._repository, revision = _parsed(uri, kind)
        self._kind = kind
        # Asked now, because the library reads the variable only when it is first imported.
        self._endpoint = (os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None
        self._waits = waits
        self._located: dict[str, str] = {}
        self._token = None if credentials is None else credentials.token
        self._place = "HF_TOKEN" if credentials is None else credentials.place
        api = HfApi(endpoint=self._endpoint, token=self._token)
        self._origin = _origin(api.endpoint)
        attempts = 0

        def ask() -> Any:
            nonlocal attempts
            attempts += 1
            describe = api.model_info if kind == "model" else api.dataset_info
            return describe(
                self._repository, revision=revision, files_metadata=True, timeout=_TIMEOUT
            )

        with _translated(uri, uri, self._place):
            info = patiently(ask, _pause, waits)
        super().__init__(uri, *_understood(uri, info), listing)
        self._count(attempts, 0)

    def close(self) -> None:
        """Nothing to give back: the session belongs to huggingface_hub."""

    def _fill(self, entry: FileEntry, offset: int, buffer: memoryview) -> None:
        done = 0

        def receive() -> None:
            nonlocal done  # a body that breaks off is taken up where it broke
            with closing(self._body(entry, offset + done, offset + len(buffer))) as body:
                for chunk in body:
                    take = min(len(chunk), len(buffer) - done)
                    buffer[done : done + take] = chunk[:take]
                    done += take
                    if take < len(chunk):
                        return  # more than was asked for: hang up
            # Only a body that was read to its end leaves the connection open for the next range.
            if done < len(buffer):
                raise CutShortError

        with _translated(self._uri, entry.path, self._place):
            patiently(receive, _pause, self._waits)

    def _body(self, entry: FileEntry, begin: int, end: int) -> Generator[bytes, None, None]:
        """The bytes from `begin` on, as they come."""
        resolve = hf_hub_url(
            self._repository,
            entry.path,
            repo_type=self._kind,
            revision=self._revision,
            endpoint=self._endpoint,
        )
        known = self._located.get(entry.path)
        url = known or resolve
        headers = self._headers(url) | {"Range": f"bytes={begin}-{end - 1}"}
        with get_session().stream(
            "GET", url, headers=headers, timeout=_TIMEOUT, follow_redirects=True
        ) as answer:
            self._count(1 + len(answer.history), 0)
            if known is None or answer.status_code not in _EXPIRED:
                skip = self._checked(entry, answer, begin, end)
                if answer.history:
                    self._located[entry.path] = str(answer.url)
                yield from self._chunks(answer, skip)
                return
        self._located.pop(entry.path, None)
        yield from self._body(entry, begin, end)

    def _headers(self, url: str) -> dict[str, str]:
        """The library's headers; the token only for the Hub itself."""
        headers = build_hf_headers(token=self._token if _origin(url) == self._origin else False)
        return headers | {"Accept-Encoding": "identity"}

    def _checked(self, entry: FileEntry, answer: Any, begin: int, end: int) -> int:
        """How many bytes of this answer come before the first that was asked for."""
        if answer.status_code == 416:
            self._changed(entry.path, "it became shorter")
        hf_raise_for_status(answer)
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise _strange(entry.path, "a compressed body")
        if answer.status_code == 200 and entry.size_bytes <= _WHOLE_FILE_LIMIT:
            if answer.headers.get("Content-Length") not in (None, str(entry.size_bytes)):
                self._changed(entry.path, "its size differs")
            return begin
        match = _CONTENT_RANGE.match(answer.headers.get("Content-Range", ""))
        if answer.status_code != 206 or match is None:
            raise _strange(entry.path, "the whole file instead of a part of it")
        first, last, size = (int(number) for number in match.groups())
        if size != entry.size_bytes:
            self._changed(entry.path, "its size differs")
        if first != begin or last >= end:
            raise _strange(entry.path, "another part of the file than the one asked for")
        return 0

    def _chunks(self, answer: Any, skip: int) -> Iterator[bytes]:
        for chunk in answer.iter_raw():
            self._count(0, len(chunk))
            if skip < len(chunk):
                yield chunk[skip:]
            skip = max(0, skip - len(chunk))


def _parsed(uri: str, kind: str) -> tuple[str, str | None]:
    """Repository and revision."""
    beginning = _BEGINNINGS[kind]
    match = _URI.match(uri.removeprefix(beginning)) if uri.startswith(beginning) else None
    if match is None or not uri.isprintable():
        raise RefusedInput(
            Reason.InvalidJob,
            uri,
            f"{uri!r} is no {kind} on the Hub; write `{beginning}org/name` or "
            f"`{beginning}org/name@revision`.",
        )
    return match[1], match[2]


def _understood(uri: str, info: Any) -> tuple[str, list[FileEntry]]:
    """Commit and files from the Hub's description of a repository."""
    files = [
        (item.rfilename, item.lfs.size if item.lfs else item.size) for item in info.siblings or ()
    ]
    if not isinstance(info.sha, str) or not all(
        isinstance(path, str) and isinstance(size, int) and size >= 0 for path, size in files
    ):
        raise _strange(uri, "a description without commit or sizes")
    return info.sha, [FileEntry(path, size) for path, size in files]


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _pause(error: Exception, wait: float) -> float | None:
    """How long to wait before asking again; None when the same answer would come."""
    if isinstance(error, HfHubHTTPError):
        return asked_pause(error, wait) if error.response.status_code in PASSING else None
    return wait if isinstance(error, (HTTPError, CutShortError)) else None


def _strange(subject: str, what: str) -> EnvironmentFault:
    return EnvironmentFault(
        Reason.StoreUnavailable,
        subject,
        f"The Hub answered with {what} for `{subject}`; check HF_ENDPOINT and any proxy on the "
        "way, then run the command again.",
    )


@contextmanager
def _translated(uri: str, subject: str, place: str) -> Iterator[None]:
    """Turn huggingface_hub's errors into ours; `subject` is a file's path, or the whole source.

    `place` is where a token has to be put.
    """
    try:
        yield
    except GatedRepoError as error:
        raise RefusedInput(
            Reason.AccessDenied,
            uri,
            f"`{uri}` is gated; accept its terms on its page, and set {place} to a token of the "
            "account that did.",
        ) from error
    except RepositoryNotFoundError as error:
        raise RefusedInput(
            Reason.SourceNotFound,
            uri,
            f"The Hub shows no `{uri}`; correct the name or, if it is private, set {place} to a "
            "token that may read it.",
        ) from error
    except RevisionNotFoundError as error:
        raise RefusedInput(
            Reason.SourceNotFound,
            uri,
            f"`{uri}` has no such revision; give a branch, a tag or a commit after the `@`.",
        ) from error
    except EntryNotFoundError as error:
        raise RefusedInput(
            Reason.SourceNotFound,
            subject,
            f"`{uri}` has no file `{subject}`; give another revision, or ask its authors.",
        ) from error
    except (HTTPError, OfflineModeIsEnabled, CutShortError) as error:
        raise _failure(error, uri, subject, place) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        # The library's way to say that it did not understand the server.
        raise _strange(subject, "something that huggingface_hub does not understand") from error


def _failure(
    error: Exception, uri: str, subject: str, place: str
) -> RefusedInput | EnvironmentFault:
    """What an answer, or its absence, means."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status in (401, 403):
        return RefusedInput(
            Reason.AccessDenied,
            subject,
            f"The Hub refused {named(uri, subject)}; set {place} to a token that may read it.",
        )
    if isinstance(error, OfflineModeIsEnabled):
        remedy = "unset HF_HUB_OFFLINE"
    else:
        remedy = "check the network and HF_ENDPOINT, then run the command again"
    what = f"answered {status}" if status else f"did not answer ({type(error).__name__})"
    return EnvironmentFault(
        Reason.StoreUnavailable, subject, f"The Hub {what} for {named(uri, subject)}; {remedy}."
    )
