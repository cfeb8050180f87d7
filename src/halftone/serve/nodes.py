"""Weights on every node that has a share of a replica.

Called by `replica`, in a process of Ray. vLLM's workers read the weights from their own node's
disk, so each node of the replica's placement group fetches and verifies them; an actor there keeps
them from being evicted as long as the replica lives.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from halftone.serve.reference import reference_of
from halftone.serve.served_model import ServedModel
from halftone.serve.weights import Found, Lease, Place, require_alike
from halftone.serve.weights import obtain as obtain_here
from halftone.spec.serving import Endpoint
from halftone.stores.offline import close_hub


@dataclass
class Weights:
    """What a replica serves, held for it as long as this object lives."""

    here: "_Here"
    elsewhere: list[Any]

    @property
    def model(self) -> ServedModel:
        """The artifact."""
        return self.here.model.model

    @property
    def draft(self) -> ServedModel | None:
        """The draft model, if there is one."""
        return None if self.here.draft is None else self.here.draft.model

    async def require_unchanged(self) -> None:
        """Once they are loaded: nobody wrote there meanwhile, on any node. Raises CheckFailed."""
        self.here.require_unchanged()
        await asyncio.gather(*(holder.require_unchanged.remote() for holder in self.elsewhere))


class _Here:
    """The weights of one node, held by one process there."""

    def __init__(self) -> None:
        self.model: Lease
        self.draft: Lease | None = None

    def obtain(self, endpoint: Endpoint) -> list[Found]:
        """Those of the artifact and of the draft. Raises what `weights.obtain` raises.

        It is no part of making the object: of an actor that cannot be made Ray tells no error of
        ours, and a replica that may not start is counted by its reason.
        """
        cache = endpoint.cache
        self.model = obtain_here(reference_of(endpoint), endpoint.trust, cache)
        if endpoint.draft is not None:
            trust = endpoint.draftTrust or endpoint.trust
            self.draft = obtain_here(endpoint.draft, trust, cache, place=Place.Draft)
        leases = [lease for lease in (self.model, self.draft) if lease is not None]
        return [lease.found for lease in leases]

    def require_unchanged(self) -> None:
        """Raise CheckFailed if somebody wrote there."""
        for lease in (self.model, self.draft):
            if lease is not None:
                lease.require_unchanged()


async def obtain(endpoint: Endpoint, llm_config: Any) -> Weights:
    """Fetch and verify the weights on this node and all others of the placement group.

    Raises what `weights.obtain` raises, on any node.
    """
    context = llm_config.get_or_create_callback().ctx
    context.run_init_node = False  # Ray would fetch a model of that name
    elsewhere = [
        ray.remote(_Here)
        .options(
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node, soft=False),
            runtime_env=context.runtime_env,
        )
        .remote()
        for node in _other_nodes(context.placement_group)
    ]
    fetching = [holder.obtain.remote(endpoint) for holder in elsewhere]
    here = _Here()
    found = await asyncio.to_thread(here.obtain, endpoint)
    for there in await asyncio.gather(*fetching):
        require_alike(found, there)
    return Weights(here, elsewhere)


def _other_nodes(placement_group: Any) -> list[str]:
    table = ray.util.placement_group_table(placement_group)
    nodes: set[str] = set(table["bundles_to_node_id"].values())
    return sorted(nodes - {ray.get_runtime_context().get_node_id()})


def point_at(llm_config: Any, model: ServedModel, arguments: dict[str, Any]) -> None:
    """Make Ray start vLLM on the verified directory, with `arguments` of its AsyncEngineArgs."""
    close_hub()  # whatever a settings file names there, nobody verified
    callback = llm_config.get_or_create_callback()  # before the engine's part is made anew
    llm_config.model_loading_config.model_source = str(model.path)
    llm_config.engine_kwargs = arguments
    llm_config._engine_config = None
    llm_config._callback_instance = callback
    llm_config.get_engine_config()
