"""The whole of `halftone bench`: endpoints are looked at, loaded in turns, and a card is fitted.

Called by the command line.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from halftone.serve.measuring.connection import Connection, Place, connected
from halftone.serve.measuring.document import Bench, Card, Target
from halftone.serve.measuring.engine_document import ENGINE_PATH, ServedEngine
from halftone.serve.measuring.load import LoadProcess
from halftone.serve.measuring.prompting import text_tokens
from halftone.serve.measuring.rounds import Endpoint, Say, Shape, put_rounds
from halftone.serve.measuring.steps import measure_card
from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.names import Reason


async def look_at(
    place: Place, model: str | None, shape: Shape
) -> tuple[Endpoint, ServedEngine | None]:
    """The endpoint ready to be loaded, and what it says of its engine, if it does.

    Raises RefusedInput for a load that its context cannot take, and as `Connection` does.
    """
    async with connected(place) as endpoint:
        served = await endpoint.find_model(model)
        wanted = shape.input_tokens + shape.output_tokens
        if served.context is not None and wanted > served.context:
            told = (
                f"`--input-tokens` and `--output-tokens` are {wanted} together, and '{place.url}' "
                f"takes {served.context}; ask for fewer."
            )
            raise RefusedInput(Reason.InvalidJob, "--input-tokens", told)
        text = await text_tokens(endpoint)
        engine = await _engine(endpoint)
    return Endpoint(place.root, place.headers(), served.name, text), engine


async def _engine(endpoint: Connection) -> ServedEngine | None:
    said = await endpoint.get_if_there(ENGINE_PATH)
    if said is None:
        return None
    try:
        return ServedEngine.model_validate(said)
    except ValidationError as error:
        told = (
            f"'{endpoint.place.url}' answers `{ENGINE_PATH}` with something that this version does "
            "not know; use the version of Halftone that serves it, or `--no-card`."
        )
        raise EnvironmentFault(Reason.EndpointUnavailable, ENGINE_PATH, told) from error


def measure(
    python: Path,
    log: Path,
    endpoints: Sequence[Endpoint],
    engine: ServedEngine | None,
    shape: Shape,
    wants_card: bool,
    say: Say,
) -> Bench:
    """Measure `endpoints`, the one in question and perhaps a baseline, with `python`'s vLLM.

    Raises as `LoadProcess.put` does for the load itself. What goes wrong with the bursts of the
    card after it costs the card alone.
    """
    with LoadProcess(python, log) as process:
        loads = put_rounds(process, endpoints, shape, say)
        card = Card(card=None, requestSeconds=None, noCardBecause="It was not asked for.")
        if wants_card:
            say("timing steps for the capacity card")
            most = max(shape.concurrencies)
            try:
                card = measure_card(process, endpoints[0], engine, shape.input_tokens, most)
            except EnvironmentFault as error:
                card = card.model_copy(update={"noCardBecause": error.message})
    targets = [Target(url=each.url, model=each.model) for each in endpoints]
    return Bench(
        endpoint=targets[0],
        baseline=targets[1] if len(targets) > 1 else None,
        inputTokens=shape.input_tokens,
        outputTokens=shape.output_tokens,
        rounds=shape.rounds,
        loads=loads,
        capacity=card,
    )
