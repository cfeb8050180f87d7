"""`halftone doctor`: whether what rules, dashboards and the scaler need is still exported, and
whether the rules run."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import click

from halftone.cli.lasting import ended, log_to_stderr, told_where
from halftone.cli.numbers import Finite
from halftone.cli.selectors import label
from halftone.cli.urls import require_url
from halftone.spec.errors import CheckFailed, EnvironmentFault, HalftoneError, RefusedInput
from halftone.spec.names import Reason

if TYPE_CHECKING:
    from halftone.doctor.judging import Diagnosis
    from halftone.telemetry.contract import Need

_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
_METRICS: Final = ("vllm", "ray", "halftone", "kubernetes", "dcgm", "prometheus")
_RULES: Final = ("rules", "alerts")
_NAMED: Final = 4  # metrics in the last sentence; the table has all
# Of one query; those that look an hour back take longer than the scaler's.
_ANSWER_S: Final = 20.0
_log: Final = logging.getLogger("halftone.doctor")


@dataclass(frozen=True)
class Wishes:
    """The options as click gives them."""

    prometheus: str | None
    exposition: tuple[Path, ...]
    model: str | None
    selector: tuple[str, ...]
    without: tuple[str, ...]
    max_age: float
    prometheus_token_file: Path | None
    prometheus_ca_file: Path | None
    metrics_host: str
    metrics_port: int | None
    interval: float


@click.command()
@click.option("--prometheus", metavar="URL", help="Look at what it has.")
@click.option("--exposition", type=_FILE, multiple=True, help="Look at a saved /metrics; repeat.")
@click.option("--model", help="Look at the series of this model alone.")
@click.option(
    "--selector",
    multiple=True,
    metavar="LABEL=VALUE",
    help="A label that all series of an endpoint have, as in the rules' `selector`.",
)
@click.option(
    "--without",
    type=click.Choice((*_METRICS, *_RULES)),
    multiple=True,
    help="A family that nobody runs here, such as vllm beside an operator alone.",
)
@click.option(
    "--max-age",
    type=Finite(min=1),
    default=180.0,
    show_default=True,
    help="Seconds after which a sample is old.",
)
@click.option("--prometheus-token-file", type=_FILE, help="A bearer token for Prometheus.")
@click.option("--prometheus-ca-file", type=_FILE, help="Certificates to trust.")
@click.option("--all", "every", is_flag=True, help="Print every metric, also those that are there.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@click.option("--metrics-host", default="127.0.0.1", show_default=True, help="Of our metrics.")
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65_535),
    help="Keep looking, and export halftone_metric_contract_ok here; 0 takes a free port.",
)
@click.option(
    "--interval",
    type=Finite(1, 86_400),
    default=60.0,
    show_default=True,
    help="Seconds between two looks, with --metrics-port.",
)
def doctor(every: bool, as_json: bool, **options: object) -> None:
    """Check that every metric is there that rules, dashboards and the scaler need, and the rules.

    Exit code 1 when one is missing, old, or without a label, or a rule fails.
    """
    from halftone.cli.doctor_text import as_document, print_diagnosis

    wishes = Wishes(**options)  # type: ignore[arg-type]
    look = _looking(wishes)
    if wishes.metrics_port is not None:
        _keep_looking(look, wishes, wishes.metrics_port)
        return
    diagnosis = look()
    if as_json:
        click.echo(json.dumps(as_document(diagnosis), indent=2))
    else:
        print_diagnosis(diagnosis, every=every)
    if not diagnosis.ok:
        raise CheckFailed(Reason.ContractBroken, "metrics", _verdict(diagnosis))


def _verdict(diagnosis: "Diagnosis") -> str:
    failing = diagnosis.failing
    names = ", ".join(f"`{finding.need.name}`" for finding in failing[:_NAMED])
    more = f" and {len(failing) - _NAMED} more" if len(failing) > _NAMED else ""
    has_rules = any(finding.need.family in _RULES for finding in diagnosis.findings)
    what = "metrics and groups of rules" if has_rules else "metrics"
    return f"{len(failing)} of {len(diagnosis.findings)} {what} are not as needed: {names}{more}."


def _looking(wishes: Wishes) -> "Callable[[], Diagnosis]":
    """What looks once. Raises RefusedInput for options that do not fit each other."""
    from halftone.telemetry.contract import load_contract

    if (wishes.prometheus is None) == (not wishes.exposition):
        told = "Exactly one of `--prometheus` and `--exposition` must be given: where to look."
        raise RefusedInput(Reason.InvalidJob, "--prometheus", told)
    needs = [need for need in load_contract() if need.family not in wishes.without]
    if wishes.prometheus is not None:
        require_url("--prometheus", wishes.prometheus)
        return _of_prometheus(wishes, wishes.prometheus, needs)
    if wishes.selector or wishes.metrics_port is not None:
        told = "`--selector` and `--metrics-port` are for a Prometheus; leave them out for a page."
        raise RefusedInput(Reason.InvalidJob, "--exposition", told)
    return _of_pages(wishes, needs)


def _of_prometheus(wishes: Wishes, url: str, needs: "Sequence[Need]") -> "Callable[[], Diagnosis]":
    from halftone.doctor.judging import Circumstances, judge
    from halftone.doctor.prometheus import Chosen, seen_in
    from halftone.doctor.rules import judge_rules, recorded, running
    from halftone.scaling.inputs.asking import Access, Asking, NotLetIn
    from halftone.scaling.inputs.parsing import UnusableAnswer
    from halftone.telemetry.contract import load_groups

    access = Access({}, wishes.prometheus_token_file, wishes.prometheus_ca_file, _ANSWER_S)
    asking = Asking(url, access)
    chosen = Chosen(dict(label(text) for text in wishes.selector), wishes.model)
    groups = [group for group in load_groups() if group.family not in wishes.without]

    def look() -> "Diagnosis":
        try:
            observed = seen_in(asking, needs, chosen)
            diagnosis = judge(needs, observed, Circumstances(True, wishes.max_age))
            if not groups:
                return diagnosis
            rules = judge_rules(groups, running(asking), diagnosis, recorded(asking))
            return diagnosis.beside(rules)
        except NotLetIn as error:
            told = f"Prometheus at '{url}' {error}; name a token with `--prometheus-token-file`."
            raise RefusedInput(Reason.AccessDenied, "--prometheus", told) from error
        except UnusableAnswer as error:
            told = f"Prometheus at '{url}' {error}; check `--prometheus`."
            raise EnvironmentFault(Reason.StoreUnavailable, "--prometheus", told) from error

    return look


def _of_pages(wishes: Wishes, needs: "Sequence[Need]") -> "Callable[[], Diagnosis]":
    from halftone.doctor.expositions import UnreadableExposition, seen_on
    from halftone.doctor.judging import Circumstances, judge

    def look() -> "Diagnosis":
        pages = []
        for path in wishes.exposition:
            try:
                page = path.read_text(encoding="utf-8")
                seen_on([page], needs)  # so that the one that is wrong can be named
            except (UnreadableExposition, UnicodeDecodeError) as error:
                said = error if isinstance(error, UnreadableExposition) else "is no text"
                told = f"`--exposition {path}` {said}; save what `/metrics` answers."
                raise RefusedInput(Reason.InvalidExposition, str(path), told) from error
            pages.append(page)
        return judge(needs, seen_on(pages, needs, wishes.model), Circumstances(False))

    return look


def _keep_looking(look: "Callable[[], Diagnosis]", wishes: Wishes, port: int) -> None:
    """Look again and again, until SIGTERM or Ctrl-C; the log says what has changed."""
    from halftone.scaling.acting.exporting import served
    from halftone.telemetry.doctor import DoctorMetrics

    log_to_stderr()
    metrics = DoctorMetrics(urlsplit(wishes.prometheus or "").netloc)
    told = ""
    with ended() as stop, told_where(served(metrics.registry, wishes.metrics_host, port), port):
        while not stop.is_set():
            try:
                diagnosis = look()
            except HalftoneError as error:
                metrics.forget()
                now = error.message
            else:
                metrics.tell(diagnosis.missing_by_family())
                now = "All that is needed is there." if diagnosis.ok else _verdict(diagnosis)
            if now != told:
                _log.info("%s", now)
            told = now
            stop.wait(wishes.interval)
