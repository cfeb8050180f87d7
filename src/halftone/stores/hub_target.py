"""A repository of the Hub as a target: files first, then one commit makes all of them visible.

Opened by `halftone.stores.opening`, which imports this module, and with it huggingface_hub, only
for the Hub. The commit names the head that was judged as its parent, so of two publishers one is
told that it was overtaken (412) and judges again. A commit whose answer got lost is found by
looking. Each artifact gets a tag named after its checkpoint digest, by which it stays reachable
once another one took its place; a tag that a killed publisher did not set is set by the next run.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NoReturn, TypeVar

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelInfo,
    constants,
    get_token,
)
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from pydantic import ValidationError

from halftone.spec.artifacts import SHORT_DIGEST, Artifact
from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.names import ARTIFACT_FILE, CAPACITY_DIRECTORY, MODEL_CARD, Reason
from halftone.spec.publishing import Leftover, LeftoverKind, Progress
from halftone.spec.targets import Existing, Transfer, Visibility
from halftone.stores.credentials import Credential
from halftone.stores.hub import HubSource
from halftone.stores.hub_errors import hub_errors, no_token, pause_for, place_of
from halftone.stores.hub_upload import Upload, library_settings
from halftone.stores.patience import WAITS, patiently

_FIELD: Final = "publish.huggingFace"
_TAG: Final = re.compile(rf"^[0-9a-f]{{{SHORT_DIGEST}}}$")
# What a repository holds that was created and never used.
_MADE_BY_THE_HUB: Final = frozenset({".gitattributes", MODEL_CARD})

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class _Head:
    """What `main` is at one moment."""

    commit: str
    files: frozenset[str]
    private: bool
    artifact: Artifact | None


class HubArtifactTarget:
    """`hf://repository`; the token is that of `credentials`, without any the library's own.

    That one comes from HF_TOKEN or the token file.
    """

    def __init__(
        self,
        repository: str,
        visibility: Visibility = Visibility.Private,
        transfer: Transfer = Transfer.Lfs,
        waits: tuple[float, ...] = WAITS,
        credentials: Credential | None = None,
    ) -> None:
        self._repository = repository
        self._credentials = credentials
        self._visibility = visibility
        self._transfer = transfer
        self._waits = waits
        # Asked now, because the library reads the variable only when it is first imported.
        endpoint = (os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None
        token = None if credentials is None else credentials.token
        self._api = HfApi(endpoint=endpoint, token=token)

    @property
    def uri(self) -> str:
        """`hf://org/name`."""
        return f"hf://{self._repository}"

    def current(self) -> Artifact | None:
        """The artifact that `main` shows, with the commit as its revision, sealed anew.

        None for a repository that is absent or was never used. Raises RefusedInput(TargetOccupied)
        for one with other content.
        """
        with hub_errors(self.uri, self._credentials):
            head = self._head()
        return None if head is None or head.artifact is None else _at(head.artifact, head.commit)

    def refuse_unusable(self) -> None:
        """Raise RefusedInput unless this token may write here, and what is there may be replaced.

        Nothing is created. What a fine-grained token may do in a repository that does not exist
        yet is only known once it is created.
        """
        if self._credentials is None and get_token() is None:
            raise no_token(self.uri)
        with hub_errors(self.uri, self._credentials), library_settings(self._transfer):
            head = self._head()
            if head is not None:
                self._refuse_other_visibility(head)
                self._ask(lambda: self._api.auth_check(self._repository, write=True))
            else:
                self._refuse_stranger()
        self._refuse_without_xet()

    def publish(
        self, tree: Path, artifact: Artifact, existing: Existing, progress: Progress
    ) -> Artifact:
        """See `ArtifactTarget.publish`. `artifact.json` cannot name its own commit, so `revision`
        is null in it and filled in here.

        Raises RefusedInput(QuotaExceeded) or (AccessDenied), EnvironmentFault(StoreUnavailable).
        """
        self._refuse_without_xet()
        draft = artifact.model_copy(update={"uri": self.uri, "revision": None}).sealed()
        with hub_errors(self.uri, self._credentials), library_settings(self._transfer):
            found = self._judged(draft, existing)
            if found is None or not _is_same(found, draft):
                upload = Upload(self._api, self._repository, tree, draft, progress)
                found = self._patiently(lambda: self._replaced(draft, existing, upload))
                upload.finish()
            assert found.artifact is not None
            self._tag(found)
        return _at(found.artifact, found.commit)

    def add_cards(self, tree: Path, paths: Sequence[str]) -> None:
        """See `ArtifactTarget.add_cards`: one commit, and none when all of them are there.

        Raises RefusedInput(SourceNotFound) when there is no artifact.
        """
        if paths:
            with hub_errors(self.uri, self._credentials), library_settings(self._transfer):
                self._patiently(lambda: self._commit_cards(tree, paths))

    def leftovers(self) -> list[Leftover]:
        """Tags of superseded artifacts.

        Removing one takes away its name only: the Hub keeps the history, and with it the files,
        until somebody squashes it. Large files of dead uploads cannot be listed: the Hub's list
        does not say which commit, if any, names a file.
        """
        with hub_errors(self.uri, self._credentials):
            head = self._head()
            if head is None:
                return []
            tags = sorted(tag for tag in self._tags() if _TAG.match(tag))
            found = [self._superseded(tag) for tag in tags if not _is_tag_of(tag, head)]
        return [leftover for leftover in found if leftover is not None]

    def remove(self, leftover: Leftover) -> None:
        """Delete the tag of one of `leftovers()`; what is none of them stays."""
        with hub_errors(self.uri, self._credentials):
            tag = leftover.uri.removeprefix(f"{self.uri}@")
            head = self._head()
            if head is None or not _TAG.match(tag) or _is_tag_of(tag, head):
                return
            if self._superseded(tag) == leftover:
                self._ask(lambda: self._api.delete_tag(self._repository, tag=tag))

    def close(self) -> None:
        """Nothing to give back: the session belongs to huggingface_hub."""

    def _head(self) -> _Head | None:
        """What `main` is now; None when there is no repository that this token can see."""
        info = self._ask(self._description)
        if info is None:
            return None
        files = frozenset(sibling.rfilename for sibling in info.siblings or ())
        if not isinstance(info.sha, str):
            raise ValueError("a repository without a commit")
        artifact = self._artifact_at(info.sha) if ARTIFACT_FILE in files else None
        if artifact is None and not files <= _MADE_BY_THE_HUB:
            self._refuse_occupied(
                f"holds something else than an artifact (no {ARTIFACT_FILE} of this version); "
                "choose another repository"
            )
        return _Head(info.sha, files, bool(info.private), artifact)

    def _description(self) -> ModelInfo | None:
        try:
            return self._api.model_info(self._repository, timeout=30.0)
        except RepositoryNotFoundError:
            return None

    def _artifact_at(self, revision: str) -> Artifact | None:
        uri = f"{self.uri}@{revision}"
        source = HubSource(uri, waits=self._waits, credentials=self._credentials)
        sizes = {file.path: file.size_bytes for file in source.files()}
        if ARTIFACT_FILE not in sizes:
            return None
        try:
            document = source.read_range(ARTIFACT_FILE, 0, sizes[ARTIFACT_FILE])
            return Artifact.model_validate_json(document)
        except ValidationError:
            return None

    def _judged(self, draft: Artifact, existing: Existing) -> _Head | None:
        """The head, if `draft` may take its place or is there already; None without repository."""
        head = self._head()
        if head is None:
            return None
        self._refuse_other_visibility(head)
        if not (head.artifact is None or _is_same(head, draft) or existing is Existing.Replace):
            self._refuse_occupied(
                "holds another artifact; choose another repository, or write `existing: "
                "Replace`, which keeps that one under its digest"
            )
        strangers = _strangers(head, draft)
        if strangers and not _is_same(head, draft):
            self._refuse_occupied(
                f"holds '{strangers[0]}', which is no file of its artifact, and beside which the "
                "new one would not verify; remove it from the repository"
            )
        return head

    def _replaced(self, draft: Artifact, existing: Existing, upload: Upload) -> _Head:
        """One attempt, from judging to the commit; what it leads to is the new head."""
        head = self._judged(draft, existing)
        if head is None:
            private = self._visibility is Visibility.Private
            self._api.create_repo(self._repository, private=private, exist_ok=True)
            head = self._judged(draft, existing)
            if head is None:
                raise ValueError("a repository that was created and is not there")
        if _is_same(head, draft):
            return head  # somebody else was faster, or the answer to our commit got lost
        if head.artifact is not None:
            self._tag(head)
        additions = upload.send()
        deletions = [CommitOperationDelete(path) for path in _dropped(head, draft)]
        done = self._api.create_commit(
            self._repository,
            operations=[*additions, *deletions],
            commit_message=f"Publish {draft.checkpointDigest[:SHORT_DIGEST]}",
            parent_commit=head.commit,
        )
        return _Head(done.oid, head.files, head.private, draft)

    def _commit_cards(self, tree: Path, paths: Sequence[str]) -> None:
        head = self._head()
        if head is None or head.artifact is None:
            raise RefusedInput(
                Reason.SourceNotFound,
                self.uri,
                f"`{self.uri}` holds no artifact that a capacity card could belong to; publish it "
                "first.",
            )
        self._api.create_commit(  # without what is there already, and not at all without the rest
            self._repository,
            operations=[CommitOperationAdd(path, (tree / path).read_bytes()) for path in paths],
            commit_message="Add capacity cards",
            parent_commit=head.commit,
        )

    def _tag(self, head: _Head) -> None:
        """Let the head's artifact be reachable by its digest."""
        assert head.artifact is not None
        tag = head.artifact.checkpointDigest[:SHORT_DIGEST]
        if tag not in self._tags():
            self._ask(
                lambda: self._api.create_tag(
                    self._repository, tag=tag, revision=head.commit, exist_ok=True
                )
            )

    def _tags(self) -> set[str]:
        refs = self._ask(lambda: self._api.list_repo_refs(self._repository))
        return {tag.name for tag in refs.tags}

    def _superseded(self, tag: str) -> Leftover | None:
        """The artifact that `tag` names, if it is ours."""
        try:
            artifact = self._artifact_at(tag)
        except RefusedInput as error:
            if isinstance(error.__cause__, RevisionNotFoundError):
                return None  # gone meanwhile
            raise
        if artifact is None or not artifact.checkpointDigest.startswith(tag):
            return None
        kind, uri, digest = LeftoverKind.Superseded, f"{self.uri}@{tag}", artifact.checkpointDigest
        return Leftover(kind, uri, artifact.sizeBytes, digest)

    def _ask(self, ask: Callable[[], Answer]) -> Answer:
        """One question, whose errors are ours once patience is at its end."""
        with hub_errors(self.uri, self._credentials):
            return self._patiently(ask)

    def _patiently(self, ask: Callable[[], Answer]) -> Answer:
        def pause(error: Exception, wait: float) -> float | None:
            return pause_for(self._api.endpoint, error, wait)

        return patiently(ask, pause, self._waits)

    def _refuse_stranger(self) -> None:
        """Refuse a token that surely may not create the repository."""
        account = self._ask(self._api.whoami)
        role = account.get("auth", {}).get("accessToken", {}).get("role")
        owner = self._repository.split("/")[0]
        names = {account.get("name"), *(org.get("name") for org in account.get("orgs", ()))}
        if role == "read" or owner not in names:
            why = "may only read" if role == "read" else f"belongs to nobody in '{owner}'"
            raise RefusedInput(
                Reason.AccessDenied,
                f"{_FIELD}.repository",
                f"`{self.uri}` cannot be created, because the token {why}; set "
                f"{place_of(self._credentials)} to one that may write there, or correct the name.",
            )

    def _refuse_other_visibility(self, head: _Head) -> None:
        if head.private == (self._visibility is Visibility.Private):
            return
        found = "private" if head.private else "public"
        raise RefusedInput(
            Reason.InvalidJob,
            f"{_FIELD}.visibility",
            f"`{_FIELD}.visibility` is {self._visibility}, but `{self.uri}` is {found}; change it "
            "in the repository's settings, or correct the job.",
        )

    def _refuse_without_xet(self) -> None:
        possible = not constants.HF_HUB_DISABLE_XET and find_spec("hf_xet") is not None
        if self._transfer is Transfer.Xet and not possible:
            raise EnvironmentFault(
                Reason.MissingDependency,
                f"{_FIELD}.transfer",
                f"`{_FIELD}.transfer: Xet` needs hf_xet and no HF_HUB_DISABLE_XET; install it, or "
                "write `transfer: Lfs`.",
            )

    def _refuse_occupied(self, why: str) -> NoReturn:
        field = f"{_FIELD}.repository"
        raise RefusedInput(Reason.TargetOccupied, field, f"`{field}` '{self.uri}' {why}.")


def _is_same(head: _Head, draft: Artifact) -> bool:
    return head.artifact is not None and head.artifact.checkpointDigest == draft.checkpointDigest


def _is_tag_of(tag: str, head: _Head) -> bool:
    return head.artifact is not None and head.artifact.checkpointDigest.startswith(tag)


def _at(artifact: Artifact, commit: str) -> Artifact:
    return artifact.model_copy(update={"revision": commit}).sealed()


def _dropped(head: _Head, draft: Artifact) -> list[str]:
    """Files of the former artifact, its capacity cards included, that the new one has not."""
    wanted = {file.path for file in draft.files}
    return sorted((_of_the_former(head) & head.files) - wanted)


def _strangers(head: _Head, draft: Artifact) -> list[str]:
    """Files that somebody put beside the former artifact, and that nothing would replace."""
    wanted = {file.path for file in draft.files} | {ARTIFACT_FILE} | _MADE_BY_THE_HUB
    return [] if head.artifact is None else sorted(head.files - _of_the_former(head) - wanted)


def _of_the_former(head: _Head) -> set[str]:
    if head.artifact is None:
        return set()
    cards = {path for path in head.files if path.startswith(f"{CAPACITY_DIRECTORY}/")}
    return cards | {file.path for file in head.artifact.files}
