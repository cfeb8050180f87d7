"""A double of the Hub: serves one local directory as one repository, over real HTTP.

It stands for huggingface.co and for the content delivery network behind it, which are two origins
here too. It speaks what huggingface_hub calls to describe a model, or with `kind` "dataset" a data
set, and to read ranges of its files:

    GET  /api/{models|datasets}/{repository}[/revision/{revision}][?blobs=True]
    GET, HEAD  [/datasets]/{repository}/resolve/{revision}/{path}    large files are redirected
    GET, HEAD  {network}/{commit}/{path}?signature=…                 with Range, no token accepted

    with HubDouble(directory) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.fail(Place.Network, Fault.Reset, times=2)
        open_source(hub.uri)
        hub.move(other)  # the revision goes to another commit, and the first stays readable

It leaves out: uploads, tree listings, Xet, and LFS digests, which are made up from names so that
huge sparse files cost nothing. Commits are told apart by names and sizes of their files.
"""

import hashlib
import json
import os
import re
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.doubles.loopback import LoopbackHandler, LoopbackServer

LARGE_FILE_BYTES = 1_000_000
_RANGE = re.compile(r"^bytes=(\d+)-(\d+)$")


class Place(Enum):
    """Where a request arrives."""

    Description = "description"
    Resolve = "resolve"
    Network = "network"


class Fault(Enum):
    """What can go wrong with one answer."""

    Unavailable = "503 with Retry-After: 0"
    TooManyRequests = "429 with Retry-After: 0"
    Reset = "half of the body, then the connection is reset"
    Short = "half of the range that was asked for, honestly labelled"
    WholeFile = "200 and the whole file, whatever range was asked for"
    OtherSize = "a Content-Range with another size of the file"
    Compressed = "a body labelled as compressed"
    Garbage = "200 and something that is not what the API sends"


@dataclass(frozen=True)
class Request:
    """One request as it arrived, and the status that it got."""

    place: Place
    method: str
    path: str
    range: str | None
    authorization: str | None
    connection: int
    status: int


class HubDouble:
    """One repository. With `token`, it is private; with `gated`, its files are refused."""

    def __init__(
        self,
        directory: Path,
        repository: str = "org/name",
        *,
        kind: Literal["model", "dataset"] = "model",
        revision: str = "main",
        token: str | None = None,
        gated: bool = False,
        large_file_bytes: int = LARGE_FILE_BYTES,
    ) -> None:
        self.directory = directory
        self.repository = repository
        self.kind = kind
        self.revision = revision
        self.token = token
        self.gated = gated
        self.large_file_bytes = large_file_bytes
        self.earlier: dict[str, Path] = {}
        self.requests: list[Request] = []
        self.signature = 1
        self._faults: dict[Place, deque[Fault]] = {place: deque() for place in Place}
        self._lock = threading.Lock()
        self._hub = _Server(self, _HubHandler)
        self._network = _Server(self, _NetworkHandler)

    def __enter__(self) -> Self:
        self._hub.start()
        self._network.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._hub.stop()
        self._network.stop()

    @property
    def endpoint(self) -> str:
        """The value of HF_ENDPOINT."""
        return self._hub.origin

    @property
    def network(self) -> str:
        """The origin that large files are redirected to."""
        return self._network.origin

    @property
    def uri(self) -> str:
        """The repository as Halftone names it."""
        return f"hf://{self.folder}{self.repository}@{self.revision}"

    @property
    def folder(self) -> str:
        """What stands before the repository in addresses of its files."""
        return "" if self.kind == "model" else "datasets/"

    @property
    def commit(self) -> str:
        """The commit that the revision stands for now."""
        listing = json.dumps([[path, size] for path, size in self.files()])
        return hashlib.sha1(listing.encode()).hexdigest()

    def files(self, directory: Path | None = None) -> list[tuple[str, int]]:
        """Path and size of each file, now or as it was in `directory`."""
        root = directory or self.directory
        found = (path for path in root.rglob("*") if path.is_file())
        return sorted((p.relative_to(root).as_posix(), p.stat().st_size) for p in found)

    def move(self, directory: Path) -> None:
        """Let the revision stand for a commit with the files of `directory`."""
        self.earlier[self.commit] = self.directory
        self.directory = directory

    def at(self, revision: str) -> Path | None:
        """Where the files of `revision` lie; None for one that is not there."""
        is_now = revision in (self.revision, self.commit)
        return self.directory if is_now else self.earlier.get(revision)

    def fail(self, place: Place, fault: Fault, times: int = 1) -> None:
        """Let the next `times` answers at `place` go wrong."""
        self._faults[place].extend([fault] * times)

    def expire(self) -> None:
        """Make every address that was handed out so far invalid."""
        self.signature += 1

    def seen(self, place: Place) -> list[Request]:
        """Requests that arrived at `place`, in order."""
        return [request for request in self.requests if request.place is place]

    def next_fault(self, place: Place) -> Fault | None:
        """The fault for the answer that is about to be given."""
        with self._lock:
            return self._faults[place].popleft() if self._faults[place] else None

    def describe(self, revision: str, blobs: bool) -> dict[str, Any]:
        """The body of the repository's description at `revision`, which is there."""
        siblings: list[dict[str, Any]] = []
        for path, size in self.files(self.at(revision)):
            sibling: dict[str, Any] = {"rfilename": path}
            if blobs:
                sibling |= {"size": size, "blobId": hashlib.sha1(path.encode()).hexdigest()}
                if self.is_large(size):
                    digest = hashlib.sha256(path.encode()).hexdigest()
                    sibling["lfs"] = {"sha256": digest, "size": size, "pointerSize": 135}
            siblings.append(sibling)
        return {
            "_id": "0" * 24,
            "id": self.repository,
            **({"modelId": self.repository} if self.kind == "model" else {}),
            "sha": revision if revision in self.earlier else self.commit,
            "private": self.token is not None,
            "gated": "manual" if self.gated else False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": siblings,
        }

    def is_large(self, size: int) -> bool:
        """Whether a file of this size is kept by the network."""
        return size > self.large_file_bytes


class _Server(LoopbackServer):
    """A server of one of the double's origins."""

    def __init__(self, double: HubDouble, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(handler)
        self.double = double


class _Handler(LoopbackHandler):
    """What both origins share: one log, and ranges of files with whatever may go wrong."""

    server: _Server

    def do_GET(self) -> None:  # noqa: N802  # http.server's name
        try:
            self.answer()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_HEAD = do_GET

    def answer(self) -> None:
        raise NotImplementedError

    @property
    def double(self) -> HubDouble:
        return self.server.double

    def reply(self, place: Place, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        """Headers and a short body."""
        self.begin(place, status, headers | {"Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def begin(self, place: Place, status: int, headers: dict[str, str]) -> None:
        """Log the request and send the status line and all headers."""
        asked = self.headers.get("Range"), self.headers.get("Authorization")
        port = self.client_address[1]
        self.double.requests.append(Request(place, self.command, self.path, *asked, port, status))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def refused_by_fault(self, place: Place, fault: Fault | None) -> bool:
        """Answer with an error if the fault is one."""
        if fault is Fault.Unavailable:
            self.reply(place, 503, {"Retry-After": "0"}, b"Service Unavailable")
        elif fault is Fault.TooManyRequests:
            self.reply(place, 429, {"Retry-After": "0"}, b"Too Many Requests")
        elif fault is Fault.Garbage:
            self.reply(place, 200, {"Content-Type": "text/html"}, b"<html>a proxy says hello")
        else:
            return False
        return True

    def send_file(
        self, place: Place, file: Path, headers: dict[str, str], fault: Fault | None
    ) -> None:
        """The range of `file` that was asked for, or all of it."""
        size = file.stat().st_size
        begin, end, status = 0, size, 200
        asked = _RANGE.match(self.headers.get("Range", ""))
        if asked and fault is not Fault.WholeFile:
            begin, end, status = int(asked[1]), min(int(asked[2]) + 1, size), 206
            if begin >= size:
                self.reply(place, 416, {"Content-Range": f"bytes */{size}"})
                return
            if fault is Fault.Short:
                end = begin + max(1, (end - begin) // 2)
            shown = size + 1 if fault is Fault.OtherSize else size
            headers = headers | {"Content-Range": f"bytes {begin}-{end - 1}/{shown}"}
        if fault is Fault.Compressed:
            headers = headers | {"Content-Encoding": "gzip"}
        self.begin(place, status, headers | {"Content-Length": str(end - begin)})
        if self.command == "HEAD":
            return
        stop = (begin + end) // 2 if fault is Fault.Reset else end
        for piece in _pieces(file, begin, stop):
            self.wfile.write(piece)
        if fault is Fault.Reset:
            # A closing connection that lingers for no time at all is reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True


class _HubHandler(_Handler):
    """The Hub itself."""

    def answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        api = f"/api/{self.double.kind}s/{self.double.repository}"
        files = f"/{self.double.folder}{self.double.repository}/resolve/"
        if path == api or path.startswith(f"{api}/revision/"):
            revision = path.removeprefix(api).removeprefix("/revision/") or "main"
            self.describe(revision, parse_qs(url.query))
        elif path.startswith(files):
            revision, _, name = path.removeprefix(files).partition("/")
            self.resolve(revision, name)
        else:
            place = Place.Description if path.startswith("/api/") else Place.Resolve
            self.reply(place, 401, {"X-Error-Code": "RepoNotFound"})

    def describe(self, revision: str, query: dict[str, list[str]]) -> None:
        place = Place.Description
        if self.refused_by_fault(place, self.double.next_fault(place)):
            return
        if not self.admitted(place, revision):
            return
        body = json.dumps(self.double.describe(revision, "blobs" in query)).encode()
        self.reply(place, 200, {"Content-Type": "application/json"}, body)

    def resolve(self, revision: str, name: str) -> None:
        place = Place.Resolve
        fault = self.double.next_fault(place)
        if self.refused_by_fault(place, fault) or not self.admitted(place, revision):
            return
        if self.double.gated:
            self.reply(place, 403, {"X-Error-Code": "GatedRepo"})
            return
        directory = self.double.at(revision)
        if directory is None or not (directory / name).is_file():
            self.reply(place, 404, {"X-Error-Code": "EntryNotFound"})
            return
        size = (directory / name).stat().st_size
        commit = self.double.commit if directory == self.double.directory else revision
        tag = f'"{hashlib.sha256(name.encode()).hexdigest()}"'
        headers = {"X-Repo-Commit": commit, "ETag": tag, "Accept-Ranges": "bytes"}
        if not self.double.is_large(size):
            self.send_file(place, directory / name, headers, fault)
            return
        headers |= {"X-Linked-Size": str(size), "X-Linked-ETag": tag}
        target = f"{self.double.network}/{commit}/{quote(name)}?signature={self.double.signature}"
        self.reply(place, 302, headers | {"Location": target})

    def admitted(self, place: Place, revision: str) -> bool:
        """Whether the repository is shown to this caller, and has the revision."""
        token = self.double.token
        authorization = self.headers.get("Authorization")
        if token is not None and authorization != f"Bearer {token}":
            error = "Invalid credentials in Authorization header"
            headers = {"X-Error-Message": error} if authorization else {}
            self.reply(place, 401, headers or {"X-Error-Code": "RepoNotFound"})
            return False
        if self.double.at(revision) is None:
            self.reply(place, 404, {"X-Error-Code": "RevisionNotFound"})
            return False
        return True


class _NetworkHandler(_Handler):
    """The content delivery network: signed addresses, and no tokens of the Hub."""

    def answer(self) -> None:
        place = Place.Network
        fault = self.double.next_fault(place)
        if self.refused_by_fault(place, fault):
            return
        url = urlsplit(self.path)
        if self.headers.get("Authorization") is not None:
            self.reply(place, 400, {}, b"Only one auth mechanism allowed")
        elif parse_qs(url.query).get("signature") != [str(self.double.signature)]:
            self.reply(place, 403, {}, b"Request has expired")
        else:
            commit, _, name = unquote(url.path).lstrip("/").partition("/")
            directory = self.double.earlier.get(commit, self.double.directory)
            self.send_file(place, directory / name, {"Accept-Ranges": "bytes"}, fault)


def _pieces(file: Path, begin: int, end: int) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while begin < end:
            piece = os.pread(opened.fileno(), min(1 << 20, end - begin), begin)
            begin += len(piece)
            yield piece
