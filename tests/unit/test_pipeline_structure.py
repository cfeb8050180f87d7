"""What must hold of the compiled pipeline, read from the package's file and from its components.

We test these aspects:
- tasks, parameters and their order are the words of `halftone.spec.pipelines`;
- no condition guards `publish`, directly or through a parent, and it takes the report's digest;
- only calibration hangs on a condition, and nothing hangs on calibration;
- what is cached by default, and by what; every task is tried again, and pauses end no long stage;
- weights never travel as artifacts: no task takes one, and those that come out are for people;
- images are a placeholder, and the version is the one that is pinned;
- a body has at most ten lines and calls nothing but the module for tasks.
"""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from halftone.spec.pipelines import PIPELINE_NAME, Parameter, Task

ROOT = Path(__file__).resolve().parents[2]
IR: dict[str, Any] = yaml.safe_load((ROOT / "tests/golden/ir/quantization.yaml").read_text())
COMPONENTS = ROOT / "pipelines" / "components"


def tasks_below(component: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[Any]:
    """Every task with its own definition and the names of all groups that it lies in."""
    for name, task in component.get("dag", {}).get("tasks", {}).items():
        yield name, task, above
        yield from tasks_below(IR["components"][task["componentRef"]["name"]], (*above, name))


ALL = {name: (task, above) for name, task, above in tasks_below(IR["root"])}
TASKS = {name: task for name, (task, _) in ALL.items() if name in set(Task)}


def body(task: str) -> ast.FunctionDef:
    tree = ast.parse((COMPONENTS / task / "component.py").read_text())
    return next(node for node in tree.body if isinstance(node, ast.FunctionDef))


def producers(task: str) -> dict[str, str]:
    """By input, the task that it comes from."""
    given = TASKS[task]["inputs"]["parameters"]
    sources = {name: value.get("taskOutputParameter") for name, value in given.items()}
    return {name: source["producerTask"] for name, source in sources.items() if source}


def test_names_are_those_of_the_vocabulary() -> None:
    assert IR["pipelineInfo"]["name"] == PIPELINE_NAME
    assert set(IR["root"]["inputDefinitions"]["parameters"]) == set(Parameter)
    assert set(TASKS) == set(Task)
    executors = {f"exec-{task}" for task in Task}
    assert set(IR["deploymentSpec"]["executors"]) == executors
    assert {path.parent.name for path in COMPONENTS.glob("*/component.py")} == set(Task)


def test_no_condition_guards_publish_and_it_takes_the_digest_of_the_report() -> None:
    _, above = ALL["publish"]
    chain = [ALL[name][0] for name in above] + [TASKS["publish"]]
    assert [task for task in chain if "triggerPolicy" in task] == []
    assert [task for task in chain if "parameterIterator" in task] == []
    assert producers("publish")["report_digest"] == "validate"
    assert producers("validate")["checkpoint_digest"] == "assemble"


def test_only_calibration_hangs_on_a_condition_and_nothing_hangs_on_calibration() -> None:
    conditions = {name for name, (task, _) in ALL.items() if "condition" in str(task)}
    guarded = {name for name in conditions if "condition" in ALL[name][0].get("triggerPolicy", {})}
    assert guarded == {"condition-1"}
    policy = ALL["condition-1"][0]["triggerPolicy"]["condition"]
    assert policy == "inputs.parameter_values['pipelinechannel--method'] == 'Calibrated'"
    inside = {name for name, (_, above) in ALL.items() if guarded & set(above)}
    assert inside == {"calibrate"}
    after = {name for task, _ in ALL.values() for name in task.get("dependentTasks", ())}
    assert not after & {"calibrate", "condition-1"}
    assert "measure" in TASKS["split"]["dependentTasks"]
    assert "for-loop-2" in TASKS["assemble"]["dependentTasks"]


def test_what_is_cached_and_by_what() -> None:
    cached = {name for name, task in TASKS.items() if task["cachingOptions"].get("enableCache")}
    assert cached == {"plan", "split", "validate"}
    for name in ("plan", "split", "calibrate", "quantize", "validate"):
        given = set(TASKS[name]["inputs"]["parameters"])
        assert {"job", "source", "work_area"} <= given, name
    assert {"checkpoint_digest", "device", "engine"} <= set(
        TASKS["validate"]["inputs"]["parameters"]
    )
    assert producers("plan") == dict.fromkeys(("job", "source", "work_area"), "resolve")


def test_every_task_is_tried_again_and_no_pause_ends_a_long_one() -> None:
    policies = [task["retryPolicy"] for task in TASKS.values()]
    assert {policy["maxRetryCount"] for policy in policies} == {2}
    assert {policy["backoffMaxDuration"] for policy in policies} == {"31536000s"}


def test_no_task_takes_an_artifact_and_those_that_come_out_are_for_people() -> None:
    taken = [
        name for name, c in IR["components"].items() if "artifacts" in c.get("inputDefinitions", {})
    ]
    assert taken == []
    given = {
        (name.removeprefix("comp-"), made["artifactType"]["schemaTitle"])
        for name, component in IR["components"].items()
        for made in component.get("outputDefinitions", {}).get("artifacts", {}).values()
    }
    assert given == {
        ("plan", "system.HTML"),
        ("validate", "system.HTML"),
        ("validate", "system.Metrics"),
    }


def test_the_exit_handler_ends_every_run() -> None:
    conclude, above = ALL["conclude"]
    assert above == ()
    assert conclude["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    assert {above[0] for task, above in ALL.values() if above} == {"exit-handler-1"}


def test_images_are_a_placeholder_and_the_version_is_the_pinned_one() -> None:
    containers = [row["container"] for row in IR["deploymentSpec"]["executors"].values()]
    assert {container["image"] for container in containers} == {"halftone-task"}
    assert "pip install" not in str(containers)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (pin,) = project["optional-dependencies"]["pipelines"]
    assert IR["sdkVersion"] == pin.replace("==", "-")


@pytest.mark.parametrize("task", list(Task))
def test_a_body_is_short_and_calls_the_module_for_tasks_alone(task: Task) -> None:
    function = body(task)
    code = function.body[1:]  # without its docstring
    assert (code[-1].end_lineno or 0) - code[0].lineno < 10
    imported = [
        node for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    modules = [node.module for node in imported if isinstance(node, ast.ImportFrom)]
    assert len(modules) == len(imported)
    assert modules == ([] if task is Task.Split else ["halftone.cli.pipeline_task"])
    names = {node.value for node in ast.walk(function) if isinstance(node, ast.Constant)}
    assert task in names or task in (Task.Split, Task.Conclude)


@pytest.mark.parametrize("task", list(Task))
def test_a_component_is_described(task: Task) -> None:
    folder = COMPONENTS / task
    described = yaml.safe_load((folder / "metadata.yaml").read_text())
    assert described["name"] == task
    readme = (folder / "README.md").read_text()
    given = {argument.arg for argument in body(task).args.args}
    assert {name for name in given if f"`{name}`" not in readme} == set()
