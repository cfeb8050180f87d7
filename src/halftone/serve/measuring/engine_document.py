"""What a replica says of its engine under `GET /halftone/engine`: all that a capacity card needs.

Written by `engine_facts`, in the replica; read by `benching`, beside the user. It holds nothing
that only an operator may know: no path, no address, no key.
"""

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from halftone.spec.names import API_VERSION
from halftone.validate.serving.session import EngineFacts

ENGINE_PATH: Final = "/halftone/engine"


class Speculation(BaseModel):
    """Since the engine started: drafts of speculative decoding, and tokens of them that were taken.
    Tokens a step are 1 + acceptedTokens / drafts."""

    model_config = ConfigDict(frozen=True)
    drafts: int
    acceptedTokens: int


class ServedEngine(BaseModel):
    """One replica of an endpoint.

    `checkpointDigest` is the one of the weights that it loaded, `replicas` how many the endpoint
    was asked to have. `engine.loadSeconds` is from the engine's start until it was warm.
    `speculation` is None where the engine does not speculate.
    """

    model_config = ConfigDict(frozen=True)
    apiVersion: Literal["halftone.dev/v1alpha1"] = API_VERSION
    kind: Literal["ServedEngine"] = "ServedEngine"
    servedModelName: str
    checkpointDigest: str
    replicas: int
    engine: EngineFacts
    speculation: Speculation | None = None
