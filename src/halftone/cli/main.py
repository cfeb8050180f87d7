"""`halftone`: the group of verbs, loaded one at a time so that `--help` stays quick.

Exit codes: 0 done, 1 a check failed, 2 refused input, 3 environment.
"""

import gc
import sys
from typing import Final

import click

from halftone import __version__
from halftone.cli.verbs import Verbs
from halftone.spec.errors import EnvironmentFault, HalftoneError

# verb -> one line of help; the module is `halftone.cli.<verb>`, the command has the verb's name.
_VERBS: Final = {
    "plan": "Say on paper what quantizing a checkpoint gives, from headers alone.",
    "sweep": "Propose the formats of best quality under a size, from measurements.",
    "calibrate": "Measure the activations of a model on data, for a calibrated recipe.",
    "quantize": "Stream a checkpoint once into a smaller one.",
    "convert": "Put a quantized checkpoint into the other layout, codes untouched.",
    "inspect": "Look for defects in anyone's quantized checkpoint.",
    "validate": "Run the gates of a work directory and write its report.",
    "publish": "Publish what a passed report opens, all or nothing.",
    "run": "Carry a QuantizationJob from source to artifact.",
    "submit": "Have a QuantizationJob carried out in a cluster.",
    "watch": "Show a job in a cluster until it ends.",
    "logs": "Print what the pods of a job say.",
    "pipeline": "Compile, submit and follow the Kubeflow pipeline.",
    "stage": "Run one stage of a work directory (what every runner calls).",
    "recipes": "List the recipes, or print one.",
    "compare": "Replay prompts on two endpoints, and say whether the new one is as good.",
    "bench": "Put load on an endpoint: a table, ratios to another, a capacity card.",
    "replay": "Replay a load on a model of replicas, scaled by each of several policies.",
    "serve": "Serve an artifact on this machine, behind OpenAI's API.",
    "autoscale": "Keep as many replicas as the load needs, of Ray Serve or a Deployment.",
    "doctor": "Check that every metric is there that rules and dashboards need.",
    "verify": "Check a published artifact: files, signature, verdict, and its source.",
    "keygen": "Make a key pair that signs artifacts.",
    "gc": "List, or remove, superseded artifacts and dead uploads of a target.",
}


@click.group(
    cls=Verbs,
    verbs=_VERBS,
    module="halftone.cli.{}",
    attribute="{}",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="halftone")
def halftone() -> None:
    """Make a language model small, prove that it is still good, and serve it."""


def main(arguments: list[str] | None = None) -> None:
    """The console script: run a verb, turn our errors into a sentence and an exit code."""
    # A plan is some 300,000 small records without a cycle among them; searching those for cycles
    # again and again is half of its time. Everything else here allocates little.
    gc.set_threshold(200_000, 50, 50)
    try:
        code = halftone.main(args=arguments, prog_name="halftone", standalone_mode=False)
    except HalftoneError as error:
        click.echo(f"halftone: {error.message}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("halftone: interrupted; run the same command again to go on.", err=True)
        sys.exit(130)
    except ModuleNotFoundError as error:
        _refuse_missing_module(error)
    except OSError as error:
        told = f"'{error.filename}': {error.strerror}" if error.filename else str(error)
        click.echo(f"halftone: {told}; mend this and run the same command again.", err=True)
        sys.exit(EnvironmentFault.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


# Third-party modules by the extra that brings them.
_EXTRAS: Final = {
    "numba": "data-free",
    "boto3": "s3",
    "huggingface_hub": "hub",
    "httpx": "bench",
    "kr8s": "cluster",
    "prometheus_client": "operator",
    "kfp": "pipelines",
    "model_signing": "sign",
    "OpenSSL": "sign",  # which model_signing 1.1.1 imports without saying so
    "cryptography": "sign",
}


def _refuse_missing_module(error: ModuleNotFoundError) -> None:
    extra = _EXTRAS.get((error.name or "").split(".")[0])
    if extra is None:
        raise error
    click.echo(
        f"halftone: this needs '{error.name}', which is not installed; "
        f"install it with: pip install 'halftone[{extra}]'",
        err=True,
    )
    sys.exit(3)
