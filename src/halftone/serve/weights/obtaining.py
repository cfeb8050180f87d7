"""From a reference to a proven checkpoint on this machine: where it lies, or in the cache.

Called by replicas before vLLM starts, for the artifact and for a draft model. What `trust` asks
for is judged from documents, before a weight is fetched; then every byte is held against them.
"""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Final, NamedTuple

from halftone.checkpoint.json_objects import parse_object
from halftone.publish.published_documents import PublishedDocuments
from halftone.publish.reading import ArtifactReader
from halftone.serve.served_model import ServedModel
from halftone.serve.weights.cache import Cache, Entry, artifact_name, plain_name
from halftone.serve.weights.cards import TrustedCard, trusted_cards
from halftone.serve.weights.lease import Lease
from halftone.serve.weights.plain import plain_digest, plain_files
from halftone.serve.weights.stamps import Stamps, folders_of, take_stamps
from halftone.serve.weights.storage import storage_errors
from halftone.serve.weights.transferring import Progress, Transfer, Wanted, sync_folders
from halftone.serve.weights.trusting import (
    Asked,
    Place,
    require_digest,
    require_pinned,
    require_plain_trusted,
    require_trusted,
)
from halftone.spec.artifacts import Artifact
from halftone.spec.documents import WrittenFile, sha256_hex
from halftone.spec.errors import EnvironmentFault, HalftoneError, RefusedInput
from halftone.spec.files import FileSource
from halftone.spec.names import ARTIFACT_FILE, CONFIG_FILE, Reason
from halftone.spec.serving import ArtifactReference, Trust, WeightsCache
from halftone.stores import open_source

_HUB: Final = "hf://"


class _Content(NamedTuple):
    """What is to lie in the cache under `name`; `documents` are None for a plain checkpoint.

    `cards` lie beside `files` and are none of them: more of them come as devices are met.
    """

    name: str
    files: tuple[Wanted, ...]
    artifact: Artifact | None
    documents: PublishedDocuments | None
    cards: tuple[TrustedCard, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(file.size_bytes for file in self.files)


def obtain(
    reference: ArtifactReference,
    trust: Trust,
    cache: WeightsCache,
    progress: Progress = lambda done, total: None,
    *,
    place: Place = Place.Artifact,
) -> Lease:
    """The checkpoint of `reference`, proven, if `trust` accepts it. Blocks until it is there.

    A directory is proven where it lies, every time. Everything else is fetched into `cache` once
    for all processes of the node: one fetches, the others wait. An entry whose files have not been
    touched since they were proven is not read a second time; a touched one is, and what was damaged
    is fetched again. With a pinned digest a cached checkpoint
    is used without asking the store. `progress` gets bytes proven and bytes in all.

    Raises CheckFailed (DigestDiffers, SignatureInvalid, VerdictNotPassed, RequirementNotMet,
    SourceChanged), RefusedInput for a reference, key or cache that cannot be used as it is, and
    EnvironmentFault (StoreUnavailable, OutOfSpace, StorageFailed). What was fetched stays for the
    next attempt only where the store or this process ended early, and is proven again then.
    """
    asked = Asked(reference, trust, place)
    if "://" not in reference.uri:
        return _in_place(asked, progress)
    kept = Cache(cache)
    lease = _known(asked, kept)
    if lease is not None:
        return lease
    with closing(_opened(asked)) as source:
        content = _content(source, asked)
        return _from_cache(source, content, asked, kept, progress)


def _opened(asked: Asked) -> FileSource:
    """The store's view, pinned to the revision that is asked for."""
    reference, field = asked.reference, f"{asked.place}.revision"
    uri = reference.uri
    if reference.revision is not None and uri.startswith(_HUB):
        if "@" in uri:
            raise RefusedInput(
                Reason.InvalidEndpoint,
                field,
                f"`{asked.place}.uri` is `{uri}` and names a revision, and so does `{field}`; "
                "leave one of them out.",
            )
        uri = f"{uri}@{reference.revision}"
    source = open_source(uri, endpoint_url=reference.endpointUrl)
    if reference.revision not in (None, source.revision) and not uri.startswith(_HUB):
        source.close()
        raise RefusedInput(
            Reason.SourceChanged,
            field,
            f"`{field}` is {reference.revision}, and `{uri}` is at {source.revision}; correct it, "
            f"or leave it out and pin `{asked.digest_field}`.",
        )
    return source


def _content(source: FileSource, asked: Asked) -> _Content:
    """What is to be fetched from `source`, once it is known to be trusted."""
    sizes = {entry.path: entry.size_bytes for entry in source.files()}
    if ARTIFACT_FILE in sizes:
        reader = ArtifactReader(source)
        return _published(reader, require_trusted(reader, source.uri, asked), asked)
    require_plain_trusted(source.uri, asked)
    require_pinned(None, source.uri, asked)
    digest = asked.reference.digest
    assert digest is not None
    files = tuple(plain_files(source))
    return _Content(plain_name(digest), files, None, None)


def _published(reader: ArtifactReader, documents: PublishedDocuments, asked: Asked) -> _Content:
    artifact = reader.artifact
    files = tuple(Wanted(file.path, file.sizeBytes, file.sha256) for file in artifact.files)
    name = artifact_name(artifact.checkpointDigest, artifact.manifestDigest)
    cards = trusted_cards(reader, documents.checkpoint.digest, asked.trust)
    return _Content(name, files, artifact, documents, cards)


def _known(asked: Asked, kept: Cache) -> Lease | None:
    """A cached checkpoint with the pinned digest that is as it was proven, and trusted."""
    digest = asked.reference.digest
    for entry in kept.whole(digest) if digest is not None else []:
        held = kept.hold(entry)
        try:
            with kept.filling(entry):
                if entry.is_proven():
                    with closing(open_source(entry.folder)) as source:
                        content = _content(source, asked)
                    return _lease(entry, content, asked, held)
        except HalftoneError:
            pass  # the store may have another publication of the same checkpoint, or says why not
        except BaseException:
            held.close()
            raise
        held.close()
    return None


def _from_cache(
    source: FileSource, content: _Content, asked: Asked, kept: Cache, progress: Progress
) -> Lease:
    entry = kept.entry(content.name)
    held = kept.hold(entry)
    try:
        with kept.filling(entry):
            if not entry.is_proven(content.files):
                with storage_errors(entry.root):
                    entry.demote()
                kept.make_room(entry, source.uri, content.size_bytes)
                with _left_in_order(entry):
                    _fill(source, content, entry, asked, progress)
            return _lease(entry, content, asked, held)
    except BaseException:
        kept.give_up(entry, held)
        raise


@contextmanager
def _left_in_order(entry: Entry) -> Iterator[None]:
    """Keep what was fetched only if the same may be fetched again, and there is room for it."""
    try:
        yield
    except HalftoneError as error:
        passing = isinstance(error, EnvironmentFault) and error.reason is not Reason.OutOfSpace
        if not passing:
            with storage_errors(entry.root):
                entry.remove()
        raise


def _fill(
    source: FileSource, content: _Content, entry: Entry, asked: Asked, progress: Progress
) -> None:
    """Fetch what `entry` lacks, prove all of it, and give it its name."""
    with storage_errors(entry.root):
        entry.partial.mkdir(parents=True, exist_ok=True)
    transfer = Transfer(source, entry.partial, progress)
    files = transfer.run(content.files)
    if content.artifact is None:
        if transfer.resumed and plain_digest(files) != asked.reference.digest:
            # Of what was found nothing says which part is wrong: none of it is kept.
            with storage_errors(entry.root):
                entry.empty()
            files = Transfer(source, entry.partial, progress).run(content.files)
        require_digest(plain_digest(files), source.uri, asked)
    else:
        beside = {ARTIFACT_FILE: content.artifact.to_bytes()}
        for card in content.cards:
            beside |= card.files
        with storage_errors(entry.root):
            for path, data in beside.items():
                (entry.partial / path).parent.mkdir(exist_ok=True)
                (entry.partial / path).write_bytes(data)
        files = (*files, *(_written(path, data) for path, data in beside.items()))
    with storage_errors(entry.root):
        sync_folders(entry.partial, files)
        entry.promote(source.uri, files)


def _lease(entry: Entry, content: _Content, asked: Asked, held: IO[bytes]) -> Lease:
    record = entry.record()
    assert record is not None
    return Lease(_model(entry.folder, content, asked), record.stamps, held)


def _in_place(asked: Asked, progress: Progress) -> Lease:
    """A directory, proven where it lies; whoever writes to it meanwhile is noticed."""
    # What a link leads to now: it may lead elsewhere by the time that vLLM reads.
    folder = Path(os.path.realpath(asked.reference.uri))
    if asked.reference.revision is not None:
        raise RefusedInput(
            Reason.InvalidEndpoint,
            f"{asked.place}.revision",
            f"`{asked.place}.uri` is a directory, which has no revisions; leave "
            f"`{asked.place}.revision` out, and pin `{asked.digest_field}`.",
        )
    with closing(open_source(folder)) as source:
        stamps = _stamps(folder, source)
        if ARTIFACT_FILE in stamps:
            reader = ArtifactReader(source)
            content = _published(reader, require_trusted(reader, str(folder), asked), asked)
            Transfer(source, None, progress).run(content.files)
        else:
            require_plain_trusted(str(folder), asked)
            files = Transfer(source, None, progress).run(plain_files(source))
            digest = plain_digest(files)
            require_pinned(digest, str(folder), asked)
            require_digest(digest, str(folder), asked)
            content = _Content(plain_name(digest), (), None, None)
        lease = Lease(_model(folder, content, asked), stamps, None)
        lease.require_unchanged()
        return lease


def _model(folder: Path, content: _Content, asked: Asked) -> ServedModel:
    documents = content.documents
    with closing(open_source(folder)) as local:
        sizes = {entry.path: entry.size_bytes for entry in local.files()}
        config = local.read_range(CONFIG_FILE, 0, sizes.get(CONFIG_FILE, 0))
    return ServedModel(
        path=folder,
        uri=asked.reference.uri,
        digest=content.name.partition("-")[0],
        config=parse_object(config, CONFIG_FILE),
        plan=None if documents is None else documents.plan,
        report=None if documents is None else documents.report,
        cards=tuple(kept.card for kept in content.cards),
    )


def _stamps(folder: Path, source: FileSource) -> Stamps:
    paths = [entry.path for entry in source.files()]
    try:
        return take_stamps(folder, [*paths, *folders_of(paths)])
    except OSError as error:
        raise RefusedInput(
            Reason.SourceChanged,
            str(folder),
            f"Files of `{folder}` went away while they were listed; start again once nothing "
            "writes there.",
        ) from error


def _written(path: str, data: bytes) -> WrittenFile:
    return WrittenFile(path=path, sizeBytes=len(data), sha256=sha256_hex(data))
