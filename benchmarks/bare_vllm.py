"""vLLM's own server on an endpoint's weights, with the arguments that its replica would start with.

    python bare_vllm.py ENDPOINT_JSON PORT

Runs in the environment that has vLLM, for `serving`. What is not said here is what `vllm serve`
does by default: an engine in a process of its own, uvloop, statistics for Prometheus.
"""

import asyncio
import os
import sys

# As `halftone.serve.replica` sets it on a CPU, before vLLM is imported.
os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "TORCH_COMPILE_DISABLE": "1"}
os.environ |= {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}


def main(document: str, port: str) -> None:
    """Serve until we are ended."""
    import uvloop
    from vllm.entrypoints.launchers.api_server.entry import run_server
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from halftone.serve.arguments.device import this_device
    from halftone.serve.arguments.engine_arguments import engine_arguments
    from halftone.serve.weights import obtain
    from halftone.spec.serving import Endpoint

    endpoint = Endpoint.model_validate_json(document)
    assert endpoint.artifact is not None
    lease = obtain(endpoint.artifact, endpoint.trust, endpoint.cache)
    arguments = engine_arguments(endpoint, lease.model, None, this_device(endpoint.accelerator))
    place = ["--model", str(lease.model.path), "--host", "127.0.0.1", "--port", port]
    named = ["--served-model-name", endpoint.servedModelName, "--disable-uvicorn-access-log"]
    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args([*place, *named])
    for name, value in arguments.items():
        setattr(parsed, name, value)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_server(parsed))


if __name__ == "__main__":
    main(*sys.argv[1:])
