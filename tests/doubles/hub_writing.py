"""A double of the Hub that is written to, over real HTTP, with a store for large files behind it.

It speaks what huggingface_hub calls to publish a model without Xet, in this order:

    GET    /api/whoami-v2, /api/models/{repository}/auth-check/write
    GET    /api/models/{repository}[/revision/{revision}], /api/models/{repository}/refs
    POST   /api/repos/create
    POST   /api/models/{repository}/preupload/{revision}      large or regular, file by file
    POST   /{repository}.git/info/lfs/objects/batch           where large files go
    PUT    {storage}/{object}/{part}?signature=…              no token accepted
    POST   /{repository}/complete?signature=…, /{repository}.git/info/lfs/objects/verify
    POST   /api/validate-yaml
    POST   /api/models/{repository}/commit/{revision}         makes everything visible
    POST, DELETE  /api/models/{repository}/tag/{name}
    GET    /{repository}/resolve/{revision}/{path}

    with HubWritingDouble(TOKEN) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.fail(Place.Storage, Fault.Reset, times=2)
        hub.repositories["org/name"].files()   # what readers see

It leaves out: pull requests, branches other than main, tree listings (the client asks for none)
and Xet, whose first question is recorded and refused.
"""

import hashlib
import json
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from tests.doubles.hub_repositories import RefusedError, Repository
from tests.doubles.hub_server import ERRORS, Fault, Handler, Journal, Place, Server


class HubWritingDouble(Journal):
    """An empty Hub with one account, which may write to the organization `org`.

    Files above `large_bytes`, and all safetensors, are large; those above `part_bytes` go up in
    parts.
    """

    def __init__(
        self,
        token: str,
        *,
        role: str = "write",
        large_bytes: int = 5_000,
        part_bytes: int = 100_000,
    ) -> None:
        super().__init__()
        self.token = token
        self.role = role
        self.large_bytes = large_bytes
        self.part_bytes = part_bytes
        self.repositories: dict[str, Repository] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self._servers = [Server(self, _HubHandler), Server(self, _StorageHandler)]

    def __enter__(self) -> Self:
        for server in self._servers:
            server.start()
        return self

    def __exit__(self, *error: object) -> None:
        for server in self._servers:
            server.stop()

    @property
    def endpoint(self) -> str:
        """The value of HF_ENDPOINT."""
        return self._servers[0].origin

    @property
    def storage(self) -> str:
        """The origin that large files go to and come from."""
        return self._servers[1].origin

    def upload_actions(self, repository: str, oid: str, size: int) -> dict[str, Any]:
        """Where one large file goes; nothing when it is there already."""
        if oid in self.repositories[repository].large:
            return {"oid": oid, "size": size}
        address = f"{self.storage}/{repository}/{oid}"
        verify = {"href": f"{self.endpoint}/{repository}.git/info/lfs/objects/verify"}
        if size <= self.part_bytes:
            upload: dict[str, Any] = {"href": f"{address}/0?signature=1"}
        else:
            count = -(-size // self.part_bytes)
            parts = {str(n): f"{address}/{n}?signature=1" for n in range(1, count + 1)}
            header = {"chunk_size": str(self.part_bytes)} | parts
            upload = {
                "href": f"{self.endpoint}/{repository}/complete?signature=1",
                "header": header,
            }
        return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}}

    def keep(self, repository: str, oid: str, content: bytes) -> None:
        """Take a large file, if it is the one that was announced."""
        if hashlib.sha256(content).hexdigest() != oid:
            raise RefusedError(400, "BadDigest: the SHA-256 is not the expected one")
        self.repositories[repository].large[oid] = content


class _DoubleHandler(Handler):
    """A handler that knows the double."""

    @property
    def double(self) -> HubWritingDouble:
        assert isinstance(self.server.journal, HubWritingDouble)
        return self.server.journal


class _HubHandler(_DoubleHandler):
    """The Hub itself."""

    def place(self) -> Place:
        path = urlsplit(self.path).path
        marks = {
            "/refs": Place.Refs,
            "/preupload/": Place.Preupload,
            "/commit/": Place.Commit,
            "/tag/": Place.Tag,
            "/xet-": Place.Xet,
            "/resolve/": Place.Resolve,
            "/objects/batch": Place.Batch,
            "/objects/verify": Place.Verify,
            "/complete": Place.Complete,
            "/repos/create": Place.Create,
            "/validate-yaml": Place.Card,
            "/whoami-v2": Place.Account,
            "/auth-check/": Place.Account,
        }
        return next((marks[mark] for mark in marks if mark in path), Place.Description)

    def answer(self, place: Place, body: bytes) -> tuple[Any, dict[str, str]]:
        authorization = self.headers.get("Authorization")
        # The client completes parts without a token: the address is signed.
        if place is not Place.Complete and authorization != f"Bearer {self.double.token}":
            if authorization:
                raise RefusedError(401, ERRORS[Fault.Unauthorized][1])
            raise RefusedError(401, "Repository not found", "RepoNotFound")
        url = urlsplit(self.path)
        path = unquote(url.path)
        if place is Place.Card:
            return {"errors": [], "warnings": []}, {}
        if place is Place.Create:
            return self.create(json.loads(body)), {}
        if path == "/api/whoami-v2":
            auth = {"type": "access_token", "accessToken": {"role": self.double.role}}
            return {"name": "someone", "orgs": [{"name": "org"}], "auth": auth}, {}
        parts = path.removeprefix("/api/models").split("/")
        name = f"{parts[1]}/{parts[2].removesuffix('.git')}"
        repository = self.double.repositories.get(name)
        if repository is None:
            raise RefusedError(404, "Repository not found", "RepoNotFound")
        if place is Place.Account and self.double.role == "read":
            raise RefusedError(403, ERRORS[Fault.Forbidden][1])
        rest = "/".join(parts[4:]) or "main"
        if place is Place.Resolve:
            return self.resolve(repository, rest)
        return self.ask(place, repository, rest, json_or_lines(place, body)), {}

    def create(self, wanted: dict[str, Any]) -> dict[str, str]:
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.double.repositories:
            raise RefusedError(409, "You already created this model repo")
        private = wanted.get("visibility") == "private" or wanted.get("private") is True
        self.double.repositories[name] = Repository(name, private)
        return {"url": f"{self.double.endpoint}/{name}"}

    def ask(self, place: Place, repository: Repository, rest: str, body: Any) -> Any:
        """The endpoints of one repository."""
        if place is Place.Description:
            return repository.describe(rest, "blobs" in parse_qs(urlsplit(self.path).query))
        if place is Place.Refs:
            tags = [
                {"name": name, "ref": f"refs/tags/{name}", "targetCommit": commit}
                for name, commit in repository.tags.items()
            ]
            return {"branches": [], "converts": [], "tags": tags}
        if place is Place.Preupload:
            return {"files": [self.mode(repository, file) for file in body["files"]]}
        if place is Place.Batch:
            name, wanted = repository.name, body["objects"]
            objects = [self.double.upload_actions(name, o["oid"], o["size"]) for o in wanted]
            return {"transfer": "basic", "objects": objects}
        if place is Place.Complete:
            return self.complete(repository, body)
        if place is Place.Verify:
            if len(repository.large.get(body["oid"], b"")) != body["size"]:
                raise RefusedError(422, "The object is not the one that was announced")
        elif place is Place.Commit:
            commit = repository.commit(body)
            url = f"{self.double.endpoint}/{repository.name}/commit/{commit}"
            return {"commitUrl": url, "commitOid": commit}
        elif place is Place.Tag and self.command == "DELETE":
            repository.untag(rest)
        elif place is Place.Tag:
            repository.tag(body["tag"], rest)
        elif place is Place.Xet:
            raise RefusedError(404, "no Xet here")
        return {}

    def mode(self, repository: Repository, file: dict[str, Any]) -> dict[str, Any]:
        path, size = file["path"], file["size"]
        large = path.endswith(".safetensors") or size > self.double.large_bytes
        there = repository.stored().get(path)
        return {
            "path": path,
            "uploadMode": "lfs" if large else "regular",
            "shouldIgnore": path in repository.ignored,
            "oid": there.oid if there else None,
        }

    def complete(self, repository: Repository, body: dict[str, Any]) -> dict[str, Any]:
        oid = body["oid"]
        content = b""
        for part in body["parts"]:
            piece = self.double.parts.pop((oid, part["partNumber"]), b"")
            if part["etag"] != hashlib.md5(piece).hexdigest():
                raise RefusedError(400, "InvalidPart")
            content += piece
        self.double.keep(repository.name, oid, content)
        return {}

    def resolve(self, repository: Repository, rest: str) -> tuple[bytes, dict[str, str]]:
        revision, _, path = rest.partition("/")
        file = repository.stored(revision).get(path)
        if file is None:
            raise RefusedError(404, "Entry not found", "EntryNotFound")
        headers = {"X-Repo-Commit": repository.commit_of(revision), "ETag": f'"{file.oid}"'}
        if not file.is_large:
            return file.content, headers
        address = f"{self.double.storage}/{repository.name}/{file.sha256}/0?signature=1"
        return b"", headers | {"Location": address}


class _StorageHandler(_DoubleHandler):
    """The store of large files: signed addresses, and no tokens of the Hub."""

    def place(self) -> Place:
        return Place.Storage

    def answer(self, place: Place, body: bytes) -> tuple[bytes, dict[str, str]]:
        if self.headers.get("Authorization") is not None:
            raise RefusedError(400, "Only one auth mechanism allowed")
        name, oid, part = urlsplit(self.path).path.lstrip("/").rsplit("/", 2)
        if self.command == "GET":
            return self.double.repositories[name].large[oid], {}
        if part == "0":
            self.double.keep(name, oid, body)
        self.double.parts[oid, int(part)] = body
        return b"", {"ETag": hashlib.md5(body).hexdigest()}


def json_or_lines(place: Place, body: bytes) -> Any:
    """A body as its endpoint takes it."""
    return body if place is Place.Commit or not body else json.loads(body)
