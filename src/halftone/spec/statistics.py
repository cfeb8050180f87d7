"""`statistics.json`: what was measured, on which data, and where the numbers lie.

Written by `halftone calibrate` beside `statistics.safetensors`, read by the engine. Tensors there:

    {module}.input_amax              F32 [1]  largest magnitude that enters the module
    {module}.tokens, {module}.samples  I64 [1]  how many of each it saw
    {parent}.experts.{projection}.input_amax, .tokens, .samples   [E], one entry an expert
    {attention}.k_amax, {attention}.v_amax  F32 [1]  as keys and values enter the cache

where `module` is a weight's name on disk without `.weight`. Of experts, `tokens` counts what the
router sent, also where every expert was measured on all tokens.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

from halftone.spec.calibration import Modality, UnroutedExperts
from halftone.spec.documents import Document, WrittenFile, canonical_json, sha256_hex
from halftone.spec.names import API_VERSION


class MeasuredData(BaseModel):
    """The rows of one modality; `sha256` is over their exact token ids and images, in order.

    `usable` counts the rows that could have been drawn, `truncated` those that were cut to
    `maxSequenceLength`. `coders` is over what turned rows into inputs: name and bytes of the
    source's files of tokenizer, processor and chat template, sorted by name.
    """

    model_config = ConfigDict(frozen=True)
    modality: Modality
    uri: str
    revision: str | None
    usable: int
    samples: int
    truncated: int
    tokens: int
    images: int
    sha256: str
    coders: str


class StatisticsDocument(Document):
    """What calibration gave. See the module's text for `file`.

    `unrouted` names experts that the router sent no token, `versions` the libraries that measured.
    `sourceStamp` stands for the content of a source that has no revision: a digest over sizes and
    times of change. `digest` is over everything but it and the versions: equal work has an equal
    digest.
    """

    apiVersion: Literal["halftone.dev/v1alpha1"] = API_VERSION
    kind: Literal["Statistics"] = "Statistics"
    digest: str
    planDigest: str
    halftoneVersion: str
    versions: tuple[tuple[str, str], ...]
    seed: int
    maxSequenceLength: int
    unroutedExperts: UnroutedExperts
    data: tuple[MeasuredData, ...]
    unrouted: tuple[str, ...]
    sourceStamp: str | None = None
    file: WrittenFile

    def sealed(self) -> Self:
        """These statistics with the digest of their content."""
        return self.model_copy(update={"digest": self.compute_digest()})

    def compute_digest(self) -> str:
        """The digest of the content; equal to `digest` unless somebody edited the document."""
        outside = {"digest", "halftoneVersion", "versions", "sourceStamp"}
        return sha256_hex(canonical_json(self.model_dump(mode="json", exclude=outside)))
