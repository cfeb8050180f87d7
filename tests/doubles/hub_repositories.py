"""What the writing double of the Hub remembers: repositories with commits, tags and large files.

Called by `tests.doubles.hub_writing`. As on the Hub, a large file may lie in the store without any
commit that names it; only commits make anything visible.
"""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


class RefusedError(Exception):
    """An answer other than 200; `code` is the Hub's X-Error-Code, if it gives one."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code


@dataclass(frozen=True)
class StoredFile:
    """One file of one commit."""

    content: bytes
    is_large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        """What a client compares its own file with: the large file's SHA-256, or git's own hash."""
        if self.is_large:
            return self.sha256
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


@dataclass
class Repository:
    """A model repository: its history, the newest commit last."""

    name: str
    private: bool
    commits: list[tuple[str, dict[str, StoredFile]]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not self.commits:
            self._append({".gitattributes": StoredFile(ATTRIBUTES, False)})

    @property
    def head(self) -> str:
        return self.commits[-1][0]

    def commit_of(self, revision: str) -> str:
        """The commit that a branch, a tag or a commit names."""
        if revision == "main":
            return self.head
        commit = self.tags.get(revision, revision)
        if commit not in dict(self.commits):
            raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """What a reader of `revision` gets."""
        return {path: file.content for path, file in self.stored(revision).items()}

    def stored(self, revision: str = "main") -> dict[str, StoredFile]:
        return dict(self.commits)[self.commit_of(revision)]

    def put(self, path: str, content: bytes) -> None:
        """A commit of somebody else."""
        self._append(self.stored() | {path: StoredFile(content, False)})

    def describe(self, revision: str, blobs: bool) -> dict[str, Any]:
        """The body of the model's description."""
        siblings: list[dict[str, Any]] = []
        for path, file in sorted(self.stored(revision).items()):
            sibling: dict[str, Any] = {"rfilename": path}
            if blobs:
                sibling |= {"size": len(file.content), "blobId": file.oid[:40]}
                if file.is_large:
                    large = {"sha256": file.sha256, "size": len(file.content), "pointerSize": 135}
                    sibling["lfs"] = large
            siblings.append(sibling)
        return {
            "_id": "0" * 24,
            "id": self.name,
            "modelId": self.name,
            "sha": self.commit_of(revision),
            "private": self.private,
            "gated": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": siblings,
        }

    def commit(self, lines: bytes) -> str:
        """Apply a commit as the client sends it: a header and operations, one JSON a line."""
        files = dict(self.stored())
        for line in lines.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                if value.get("parentCommit", self.head) != self.head:
                    raise RefusedError(412, "A commit has happened since. Please refresh.")
            elif entry["key"] == "file":
                files[value["path"]] = StoredFile(base64.b64decode(value["content"]), False)
            elif entry["key"] == "lfsFile":
                content = self.large.get(value["oid"])
                if content is None or len(content) != value["size"]:
                    raise RefusedError(400, f"LFS pointer of {value['path']} leads nowhere")
                files[value["path"]] = StoredFile(content, True)
            elif entry["key"] == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise RefusedError(404, "A file with this name doesn't exist", "EntryNotFound")
            else:
                raise RefusedError(400, f"unknown operation {entry['key']}")
        return self._append(files)

    def tag(self, name: str, revision: str) -> None:
        commit = self.commit_of(revision)
        if name in self.tags:
            raise RefusedError(409, f"Tag {name} already exists")
        self.tags[name] = commit

    def untag(self, name: str) -> None:
        if self.tags.pop(name, None) is None:
            raise RefusedError(404, f"Tag {name} does not exist", "RevisionNotFound")

    def _append(self, files: dict[str, StoredFile]) -> str:
        listing = f"{len(self.commits)}" + "".join(f"{p}{f.oid}" for p, f in sorted(files.items()))
        commit = hashlib.sha1(listing.encode()).hexdigest()
        self.commits.append((commit, files))
        return commit
