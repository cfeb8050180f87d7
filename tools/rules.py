"""Writes the recording rules that scaling and dashboards share, and checks that they are fresh.

Called by `make generate` (`write`) and `make verify` (`check`). The rules of replicas follow from
the names that `halftone.scaling.inputs` reads; those of models stand here as a table. The chart
`halftone-monitoring` puts its user's selector in place of each `{}`, and a plain Prometheus takes
the file as it is. Contract tests run the rules; nothing here does.
"""

import sys
from pathlib import Path
from typing import Any, Final

import yaml

from halftone.scaling.inputs.names import (
    HISTOGRAMS,
    NATIVE,
    RAY,
    RECORDED,
    Family,
)
from halftone.scaling.reading import COUNTERS, GAUGES

ROOT: Final = Path(__file__).resolve().parent.parent
RULES: Final = ROOT / "charts" / "halftone-monitoring" / "rules" / "scaling.yaml"
_HEAD: Final = """\
# Written by `make generate` from tools/rules.py; do not edit. README.md says what is what.
# A plain Prometheus names this file in `rule_files`; labels in each `{}` narrow what it reads.
"""
INTERVAL: Final = "15s"

# What a model is told apart by: two endpoints of one name may be in two namespaces.
_MODEL: Final = "model_name, namespace"
_REPLICA: Final = f"{_MODEL}, job, instance, replica, source"
# Serve sets it every ten seconds; where Ray exports more often, it vanishes in between.
_HEALTHY: Final = "last_over_time(ray_serve_deployment_replica_healthy{}[2m])"
_OPERATIONS: Final = {"kv_usage": "avg"}  # all else is summed over a replica's engines


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _named(series: str, family: Family) -> str:
    """The series with the labels `replica`, of the first label that names one, and `source`."""
    for label in reversed(family.replica_labels):
        series = f'label_replace({series}, "replica", "$1", "{label}", "(.+)")'
    return f'label_replace({series}, "source", "{family.title}", "", "")'


def _per_replica(series: str, family: Family, operation: str, *more: str) -> str:
    kept = ", ".join((_REPLICA, *more))
    return f"{operation} by ({kept}) (\n  {_named(series, family)}\n)"


def _replica(field: str) -> dict[str, Any]:
    """One field of each replica, from vLLM itself, else through Ray, where idle ones are zero."""
    operation = _OPERATIONS.get(field, "sum")
    bound = ("le",) if field in HISTOGRAMS else ()
    native, ray = (
        _per_replica(family.series[field] + "{}", family, operation, *bound)
        for family in (NATIVE, RAY)
    )
    if field in GAUGES:
        ray = f'{ray}\nor\n0 * {RECORDED.time}{{source="{RAY.title}"}}'
    return {"record": RECORDED.series[field], "expr": _either(native, ray)}


def _sampled() -> dict[str, Any]:
    """When each replica was scraped, which a rule's own time hides. An idle replica of Ray has
    counters alone, and so has one that is gone, which Serve says where it is scraped."""
    native, live = (
        _per_replica(f"timestamp({family.series['running']}{{}})", family, "min")
        for family in (NATIVE, RAY)
    )
    idle = _per_replica(f"timestamp({RAY.series['prompt_tokens']}{{}})", RAY, "min")
    healthy = f"{idle}\nand on (namespace, replica) ({_HEALTHY} == 1)"
    unsaid = f"{idle}\nunless on (namespace) {_HEALTHY}"
    assert RECORDED.time is not None
    expression = _either(native, "\nor\n".join((live, healthy, unsaid)))
    return {"record": RECORDED.time, "expr": expression}


def _either(native: str, ray: str) -> str:
    inner = "\n".join(f"  {line}" for line in ray.splitlines())
    return f"{native}\nor on ({_MODEL}) (\n{inner}\n)\n"


def _each(expression: str, *more: str) -> str:
    """Each replica once, though two jobs scrape it."""
    return f"max by ({', '.join((_MODEL, 'replica', *more))}) ({expression})"


def _over(operation: str, expression: str, *more: str) -> str:
    return f"{operation} by ({', '.join((_MODEL, *more))}) (\n  {_each(expression, *more)}\n)\n"


def _rate(field: str) -> str:
    """Twice the longest interval at which anybody scrapes."""
    return _over("sum", f"rate({RECORDED.series[field]}[2m])")


def _model() -> dict[str, str]:
    """What a dashboard shows of a model, by the name of its rule."""
    there = "halftone:model_requests_running:sum + halftone:model_requests_waiting:sum"
    before = (
        "halftone:model_requests_running:sum offset 2m"
        " - halftone:model_requests_waiting:sum offset 2m"
    )
    prompt, cached = (f"halftone:model_prompt_tokens{each}:rate2m" for each in ("", "_cached"))
    finished = "halftone:model_requests_finished:rate2m"
    histograms = {
        RECORDED.series[field].replace("replica", "model") + ":rate5m": _over(
            "sum", f"rate({RECORDED.series[field]}[5m])", "le"
        )
        for field in HISTOGRAMS
    }
    return {
        "halftone:model_replicas:count": _over("count", RECORDED.series["running"]),
        "halftone:model_requests_running:sum": _over("sum", RECORDED.series["running"]),
        "halftone:model_requests_waiting:sum": _over("sum", RECORDED.series["waiting"]),
        "halftone:model_kv_cache_usage_ratio:avg": _over("avg", RECORDED.series["kv_usage"]),
        "halftone:model_kv_cache_usage_ratio:max": _over("max", RECORDED.series["kv_usage"]),
        finished: _rate("finished"),
        "halftone:model_requests_arrived:rate2m": (
            f"clamp_min({finished} + ({there} - {before}) / 120, 0)\nor\n{finished}\n"
        ),
        prompt: _rate("prompt_tokens"),
        cached: f"{_rate('cached_tokens')}or\n0 * {prompt}\n",
        "halftone:model_prompt_tokens_computed:rate2m": f"clamp_min({prompt} - {cached}, 0)\n",
        "halftone:model_generation_tokens:rate2m": _rate("generation_tokens"),
        "halftone:model_preemptions:rate2m": f"{_rate('preemptions')}or\n0 * {finished}\n",
        **histograms,
    }


def written() -> str:
    """The file as it should be. Rules run in this order, each after those that it reads."""
    replica = [_replica(field) for field in (*GAUGES, *COUNTERS, *HISTOGRAMS)]
    model = [{"record": name, "expr": expression} for name, expression in _model().items()]
    group = {
        "name": "halftone-scaling",
        "interval": INTERVAL,
        "rules": [_sampled(), *replica, *model],
    }
    return _HEAD + yaml.dump({"groups": [group]}, Dumper=_Dumper, width=1000, sort_keys=False)


def main(arguments: list[str]) -> int:
    """`write` or `check`."""
    if arguments == ["write"]:
        RULES.write_text(written(), encoding="utf-8")
        return 0
    if arguments != ["check"]:
        print("rules: `write` or `check`, and nothing else.", file=sys.stderr)
        return 2
    there = RULES.read_text(encoding="utf-8") if RULES.is_file() else ""
    if there == written():
        print("rules: the recording rules fit the names that are read")
        return 0
    print(f"{RULES.relative_to(ROOT)} does not fit its source; run `make generate`.")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
