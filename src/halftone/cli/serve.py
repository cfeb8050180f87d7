"""`halftone serve`: an artifact behind an OpenAI-compatible URL on this machine.

The options are read here; `serving` does the rest in the environment with Ray and vLLM, as the same
process, so that signals and exit codes need no messenger.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from halftone.cli.elsewhere import SERVE
from halftone.cli.serve_options import TRUST, Options, api_key, endpoint, require_directories
from halftone.serve.http.keys import API_KEY
from halftone.spec.serving import ServingMode

_ENVIRONMENT: Final = replace(
    SERVE,
    package="ray",
    library="Ray and vLLM",
    purpose="`halftone serve` needs",
    extras="'halftone[serve]' and vLLM",
)
_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
_AT_LEAST_1: Final = click.IntRange(min=1)


@click.command()
@click.argument("artifact", metavar="PATH_OR_URI")
@click.option(
    "--mode",
    "modes",
    multiple=True,
    type=click.Choice([str(mode) for mode in ServingMode]),
    help="What it is served for; may be given several times. [default: text]",
)
@click.option("--name", help="What clients call the model. [default: the artifact's last part]")
@click.option("--public-key", type=_FILE, help="The key that must have signed the artifact.")
@click.option(
    "--trust",
    multiple=True,
    type=click.Choice(TRUST),
    help="Accept also this; a directory without --public-key and --trust is served as it is.",
)
@click.option("--digest", help="The digest that the artifact must have.")
@click.option("--draft", help="A draft model for speculative decoding, PATH_OR_URI.")
@click.option("--draft-digest", help="The digest that the draft model must have.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option("--replicas", type=_AT_LEAST_1, default=1, show_default=True)
@click.option("--gpu/--cpu", default=None, help="[default: --gpu where there is one]")
@click.option("--tensor-parallel", type=_AT_LEAST_1, default=1, show_default=True)
@click.option("--max-model-len", type=_AT_LEAST_1, help="Tokens of prompt and answer together.")
@click.option("--max-num-seqs", type=_AT_LEAST_1, help="Requests that run at a time.")
@click.option("--max-queued-requests", type=click.IntRange(min=0), default=64, show_default=True)
@click.option("--max-request-seconds", type=_AT_LEAST_1, default=900, show_default=True)
@click.option(
    "--engine-arg", "engine_args", multiple=True, metavar="NAME=VALUE", help="An argument of vLLM."
)
@click.option(
    "--cache-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where weights from elsewhere are kept. "
    "[default: halftone/weights in HALFTONE_CACHE_DIR, else in ~/.cache]",
)
@click.option("--api-key-file", type=_FILE, help="Clients must have the key in this file.")
@click.option("--once", metavar="PROMPT", help="Print the answer to PROMPT, and end.")
def serve(
    host: str, port: int, api_key_file: Path | None, once: str | None, **options: Any
) -> None:
    """Serve the artifact at PATH_OR_URI: a directory, s3://bucket/prefix or hf://org/name.

    Every byte of it is verified before it is loaded. The URL speaks OpenAI's API. Ctrl-C ends it.
    """
    chosen = Options(**options)
    served = endpoint(chosen)
    require_directories(chosen)
    environment = dict(os.environ)
    if api_key_file is not None:
        environment[API_KEY] = api_key(api_key_file)
    python = Path(sys.executable) if _is_here() else _ENVIRONMENT.python()
    arguments = ["--host", host, "--port", str(port), "--endpoint", served.model_dump_json()]
    if api_key_file is not None:
        arguments += ["--key-file", str(api_key_file.absolute())]
    if once is not None:
        arguments += ["--once", once]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(  # noqa: S606  # the interpreter that was named; there is no shell
        python, [str(python), "-m", "halftone.cli.serving", *arguments], environment
    )


def _is_here() -> bool:
    return _ENVIRONMENT.is_here and SERVE.is_here
