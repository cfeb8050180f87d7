"""Scores a task of lm-evaluation-harness on a loaded model, item by item.

Called by the worker in vLLM's process, once for each `Task` gate and model:

    measure(llm, {"task": "/abs/arithmetic.yaml", "sampleLimit": 500})

A task is a name that the harness knows (its data must be reachable or in the cache of `datasets`),
or a YAML file of the same form whose data lie beside it, which works without a network. The score
of a task is the mean over its items of its first metric that is such a mean, under its first
filter; a group's items are those of all its tasks.
"""

import contextlib
import hashlib
import json
import math
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from halftone.spec.errors import EnvironmentFault, HalftoneError, RefusedInput
from halftone.spec.names import Reason
from halftone.validate.local_tasks import is_local, read_local_task

_SHOWN_PROMPT: Final = 60  # characters of an item's prompt that a report quotes

Sample = dict[str, Any]


def measure(llm: Any, parameters: dict[str, Any]) -> dict[str, Any]:
    """Score `parameters["task"]`, the first `parameters["sampleLimit"]` items of it (None: all).

    Of a group, so many items of each of its tasks.

    `llm` is a `vllm.LLM`. The answer is JSON: {"task", "metric", "higherIsBetter", "score",
    "standardError", "fewShot", "dataSha256", "items": [{"id", "score", "prompt"}, …]}, scores as
    the harness gives them. `dataSha256` covers prompts and targets, so that two answers can be
    compared only where both models were asked the same.

    Raises RefusedInput for what is not a task, or has no score by item; EnvironmentFault for data
    that cannot be reached, or without lm-evaluation-harness.
    """
    with _loaded(str(parameters["task"])) as tasks:
        from lm_eval.evaluator import simple_evaluate

        from halftone.validate.serving.harness import LoadedModel

        results = simple_evaluate(
            model=LoadedModel(llm),
            tasks=list(tasks.values()),
            task_manager=_manager(include_defaults=False),
            limit=parameters.get("sampleLimit"),
            bootstrap_iters=0,
            log_samples=True,
        )
        return _answer(str(parameters["task"]), tasks, results["samples"])


@contextlib.contextmanager
def _loaded(name: str) -> Iterator[dict[str, Any]]:
    """The tasks that `name` stands for, by their own names; their data stay for the block."""
    if not is_local(name):
        yield _load(name, local=False)
        return
    path = Path(name).absolute()
    has_data = bool(read_local_task(path).data)
    with contextlib.ExitStack() as stack:
        if has_data:
            # A table made of local data is of no use to anybody else, and would be kept for ever.
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="halftone-task-"))
            stack.enter_context(_cache_of_datasets(Path(folder)))
        stack.enter_context(contextlib.chdir(path.parent))  # where relative names start
        yield _load(str(path), local=True)


def _load(spec: str, local: bool) -> dict[str, Any]:
    """Load by name or path, with every way in which that fails told in our words."""
    manager = _manager(include_defaults=not local)
    if not local and spec not in manager.all_tasks:
        told = (
            f"'{spec}' is no task of lm-evaluation-harness; `lm_eval ls tasks` lists them, and a "
            "task of your own is named by the path of its YAML file."
        )
        raise RefusedInput(Reason.InvalidJob, spec, told)
    try:
        loaded: dict[str, Any] = manager.load([spec])["tasks"]
    except Exception as error:  # whatever a task's YAML, templates and data can raise
        raise _fault(spec, local, error) from error
    if not loaded:
        told = f"'{spec}' names no task: it has `group` without `task`; list its tasks there."
        raise RefusedInput(Reason.InvalidJob, spec, told)
    return loaded


def _fault(spec: str, local: bool, error: Exception) -> HalftoneError:
    """Our error for one that loading a task raised."""
    from datasets.exceptions import (  # type: ignore[import-not-found]
        DatasetGenerationError,
        DatasetNotFoundError,
    )

    said = _first_line(error)
    if isinstance(error, DatasetNotFoundError | ConnectionError | TimeoutError):
        told = (
            f"The data of task '{spec}' cannot be reached ({said}); load them into the cache of "
            "`datasets` where there is a network, or name a task whose data lie beside its YAML."
        )
        return EnvironmentFault(Reason.StoreUnavailable, spec, told)
    if isinstance(error, FileNotFoundError):
        told = (
            f"Data of task '{spec}' are not there ({said}); paths under `dataset_kwargs` start at "
            "the folder of the YAML file."
        )
        return RefusedInput(Reason.SourceNotFound, spec, told)
    if isinstance(error, DatasetGenerationError):
        told = f"Data of task '{spec}' cannot be read ({_first_line(error.__cause__ or error)})."
        return RefusedInput(Reason.InvalidJob, spec, told)
    if local or not isinstance(error, OSError):
        told = (
            f"'{spec}' is not a task that lm-evaluation-harness can load "
            f"({type(error).__name__}: {said}); mend it until `lm_eval validate` accepts it."
        )
        return RefusedInput(Reason.InvalidJob, spec, told)
    told = f"The data of task '{spec}' cannot be read ({said})."
    return EnvironmentFault(Reason.StoreUnavailable, spec, told)


def _manager(include_defaults: bool) -> Any:
    """The harness' index of tasks; with its own tasks only where one of them is asked for."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        told = (
            "`Task` gates need lm-evaluation-harness beside vLLM; install the extra "
            "`halftone[evaluate]` there."
        )
        raise EnvironmentFault(Reason.MissingDependency, "lm_eval", told) from error
    return TaskManager(include_defaults=include_defaults)


@contextlib.contextmanager
def _cache_of_datasets(folder: Path) -> Iterator[None]:
    """Let `datasets` keep its tables in `folder`; its own variable is read at import only."""
    import datasets  # type: ignore[import-not-found]

    former = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = folder
    try:
        yield
    finally:
        datasets.config.HF_DATASETS_CACHE = former


def _answer(spec: str, tasks: dict[str, Any], samples: dict[str, list[Sample]]) -> dict[str, Any]:
    metrics = {_metric_of(name, task) for name, task in tasks.items()}
    if len(metrics) > 1:
        told = (
            f"The tasks of group '{spec}' have different metrics "
            f"({', '.join(sorted(metric for metric, _ in metrics))}), which have no common mean; "
            "make a gate of each task."
        )
        raise RefusedInput(Reason.NotSupported, spec, told)
    metric, higher_is_better = metrics.pop()
    items, digest, filters = [], hashlib.sha256(), set()
    for name in sorted(samples):
        first = samples[name][0]["filter"]
        filters.add(first)
        for sample in sorted(samples[name], key=lambda sample: int(sample["doc_id"])):
            if sample["filter"] == first:
                items.append(_item(spec, sample, metric, prefix=name if len(tasks) > 1 else ""))
                digest.update(f"{sample['prompt_hash']}{sample['target_hash']}\n".encode())
    scores = [item["score"] for item in items]
    named = sorted(filters - {"none"})
    return {
        "task": next(iter(tasks)) if len(tasks) == 1 else spec,
        "metric": f"{metric} ({', '.join(named)})" if named else metric,
        "higherIsBetter": higher_is_better,
        "score": statistics.fmean(scores),
        "standardError": _standard_error(scores),
        "fewShot": max(task.config.num_fewshot or 0 for task in tasks.values()),
        "dataSha256": digest.hexdigest(),
        "items": items,
    }


def _metric_of(name: str, task: Any) -> tuple[str, bool]:
    """The first metric that is a mean over items, and whether more of it is better."""
    from lm_eval.api.registry import get_aggregation

    mean, aggregations = get_aggregation("mean"), task.aggregation()
    for metric, aggregation in aggregations.items():
        if aggregation is mean:
            return metric, bool(task.higher_is_better()[metric])
    told = (
        f"Task '{name}' has no score by item: none of its metrics ({', '.join(aggregations)}) is a "
        "mean over items, so models cannot be paired; choose another task, or gate `Perplexity`."
    )
    raise RefusedInput(Reason.NotSupported, name, told)


def _item(spec: str, sample: Sample, metric: str, prefix: str) -> dict[str, Any]:
    identity = f"{prefix}/{sample['doc_id']}" if prefix else str(sample["doc_id"])
    try:
        score = float(sample[metric])
    except (KeyError, TypeError, ValueError) as error:
        told = f"Task '{spec}' gives item {identity} no number under its metric '{metric}'."
        raise RefusedInput(Reason.NotSupported, spec, told) from error
    if not math.isfinite(score):
        told = f"Task '{spec}' scores item {identity} as {score}, which no mean can hold."
        raise RefusedInput(Reason.NotSupported, spec, told)
    prompt = str(sample["arguments"][0][0]).strip()
    return {"id": identity, "score": score, "prompt": prompt[-_SHOWN_PROMPT:]}


def _standard_error(scores: list[float]) -> float | None:
    return statistics.stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else None


def _first_line(error: BaseException) -> str:
    """The first line of what a library said, without its full stop."""
    lines = str(error).strip().splitlines()
    return json.dumps(lines[0].rstrip("."), ensure_ascii=False)[1:-1][:200] if lines else "no words"
