"""What `halftone serve` does in the environment that has Ray and vLLM.

    python -m halftone.cli.serving --host HOST --port PORT --endpoint JSON [--once PROMPT]

Started by `serve`, in its place, and by the pods of a standalone endpoint. Weights are verified
while Ray starts, so that a refusal is told with its own exit code before a replica meets it;
replicas verify again what they load.
"""

import json
import os
import shlex
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from typing import Final

import click
import httpx

from halftone.cli.progress import Shown, progress
from halftone.cli.signals import ended_in_order
from halftone.serve.arguments.device import this_device
from halftone.serve.arguments.engine_arguments import engine_arguments
from halftone.serve.http.keys import API_KEY, client_keys
from halftone.serve.local import live
from halftone.serve.local.asking import Answer, ask
from halftone.serve.local.cluster import Address, LocalRay
from halftone.serve.local.metrics_door import metrics_door
from halftone.serve.reference import reference_of
from halftone.serve.served_model import ServedModel
from halftone.serve.weights import Lease, Place, obtain
from halftone.spec.errors import HalftoneError
from halftone.spec.reports import Verdict
from halftone.spec.serving import Endpoint, Signatures

_REFRESH_S: Final = 2.0
_LOOK_S: Final = 10.0  # how far apart lines stand where nobody watches a terminal


@click.command()
@click.option("--host", required=True)
@click.option("--port", type=int, required=True)
@click.option("--endpoint", "document", required=True)
@click.option("--once")
@click.option("--key-file")
@click.option("--metrics-port", type=int)
def serving(
    host: str,
    port: int,
    document: str,
    once: str | None,
    key_file: str | None,
    metrics_port: int | None,
) -> None:
    """Serve until a signal ends us, or until `--once` is answered.

    The key is in the environment; `--key-file` is where a user has it, for the line of curl. With
    `--metrics-port` Ray's metrics are told there too, where `--host` says.
    """
    endpoint = Endpoint.model_validate_json(document)
    address = Address(host, port)
    _key()  # or the refusal of one that is none
    began = time.monotonic()
    with ExitStack() as bars:
        worker = ThreadPoolExecutor(1)
        # Whoever ends us, or a port that is taken, does not wait for hours of weights.
        bars.callback(worker.shutdown, wait=False, cancel_futures=True)
        proof = worker.submit(_prove, endpoint, bars)
        # Once more inside: Ray takes the signals for itself when it starts.
        with LocalRay(endpoint, address) as ray, ended_in_order(), ExitStack() as doors:
            if metrics_port is not None:
                doors.enter_context(metrics_door(host, metrics_port, ray.metrics_port))
            _say(f"Ray is up after {time.monotonic() - began:.0f} s")
            while not wait((proof,), timeout=_REFRESH_S).done:
                ray.require_alive()
            leases = proof.result()
            bars.close()
            _say(_standing(leases[0].model, endpoint))
            ray.deploy(endpoint)
            ray.wait_until_running()
            _say(f"serving after {time.monotonic() - began:.0f} s; logs in {ray.log_directory}")
            for lease in leases:
                lease.release()  # the replicas hold their own
            if once is not None:
                _print_answer(ask(_url(address), endpoint.servedModelName, once, _key()))
                return
            click.echo(f"{_url(address)}/v1")
            click.echo(curl(endpoint, address, _key_in_a_shell(key_file)))
            sys.stdout.flush()
            _watch(ray)


def _prove(endpoint: Endpoint, bars: ExitStack) -> list[Lease]:
    """The weights of artifact and draft, and that vLLM could be started with them at all."""
    leases = [obtain(reference_of(endpoint), endpoint.trust, endpoint.cache, _Bar(bars))]
    if endpoint.draft is not None:
        trust = endpoint.draftTrust or endpoint.trust
        leases.append(obtain(endpoint.draft, trust, endpoint.cache, place=Place.Draft))
    model, *draft = [lease.model for lease in leases]
    device = this_device(endpoint.accelerator)
    engine_arguments(endpoint, model, draft[0] if draft else None, device)
    return leases


class _Bar:
    """A bar that begins when `obtain` first says how much there is; it says how far it is."""

    def __init__(self, bars: ExitStack) -> None:
        self._bars = bars
        self._shown: Shown | None = None
        self._before = 0

    def __call__(self, done: int, total: int) -> None:
        if self._shown is None:
            self._shown = self._bars.enter_context(progress("weights", total))
        self._shown.advance(done - self._before)
        self._before = done


def _standing(model: ServedModel, endpoint: Endpoint) -> str:
    """Signature and verdict of what is served, in one sentence."""
    signed = endpoint.trust.signature is Signatures.Required
    verdict = Verdict.Unmeasured if model.report is None else model.report.verdict
    signature = (
        "its signature is that of `--public-key`"
        if signed
        else "its signature was not checked, as no `--public-key` is given"
    )
    return f"{model.uri}: digest {model.digest[:12]}…, verdict {verdict}; {signature}"


def curl(endpoint: Endpoint, address: Address, key: str | None) -> str:
    """A line that asks, and works as it is printed; `key` is what a shell makes the key of."""
    body = {
        "model": endpoint.servedModelName,
        "messages": [{"role": "user", "content": "What is 12 + 30?"}],
        "max_tokens": 64,
    }
    sent = f' -H "Authorization: Bearer {key}"' if key else ""
    return (
        f"curl {_url(address)}/v1/chat/completions -H 'Content-Type: application/json'{sent} "
        f"-d {shlex.quote(json.dumps(body))}"
    )


def _print_answer(answer: Answer) -> None:
    click.echo(answer.text)
    rate = "-" if answer.tokens_per_second is None else f"{answer.tokens_per_second:,.1f}"
    click.echo(
        f"TTFT {1000 * answer.first_token_s:,.0f} ms · {rate} tok/s · {answer.tokens} tokens"
    )


def _watch(ray: LocalRay) -> None:
    """The live line, until somebody ends us or Ray ends. A reading that fails is left out."""
    terminal = sys.stderr.isatty()
    url = f"http://127.0.0.1:{ray.metrics_port}/metrics"
    before, told = live.Reading(time.monotonic(), 0, 0, 0, 0, {}), ""
    while True:
        ray.require_alive(_REFRESH_S if terminal else _LOOK_S)
        try:
            now = live.read(httpx.get(url, timeout=_REFRESH_S, trust_env=False).text)
        except (httpx.HTTPError, ValueError):
            continue
        line = live.line(before, now)
        before = now
        if terminal:
            click.echo(f"\r\033[K{line}", err=True, nl=False)
        elif line != told:  # an endpoint at rest says so once
            click.echo(line, err=True)
        told = line


def _url(address: Address) -> str:
    host = "127.0.0.1" if address.host == "0.0.0.0" else address.host  # noqa: S104
    return f"http://{host}:{address.port}"


def _key_in_a_shell(file: str | None) -> str | None:
    """What stands for the key; it itself is in no output."""
    if _key() is None:
        return None
    return f"${API_KEY}" if file is None else f"$(cat {shlex.quote(file)})"


def _key() -> str | None:
    return next(iter(client_keys(os.environ)), None)


def _say(text: str) -> None:
    click.echo(f"halftone: {text}", err=True)


def main() -> None:
    """Run, and end without waiting for threads of Ray that have lost it."""
    code = 0
    try:
        with ended_in_order():
            serving(standalone_mode=False)
    except HalftoneError as error:
        _say(error.message)
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _say("ended")
        code = 130
    except click.ClickException as error:
        error.show()
        code = 2
    except Exception:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
