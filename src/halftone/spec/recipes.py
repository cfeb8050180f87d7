"""Recipes: presets that ship with the package, and files that a user writes.

A recipe file is the content of a job's `quantization` block, without the key; a whole job is
accepted too. `resolve` gives a `Recipe` with nothing left open.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from halftone.spec.errors import RefusedInput
from halftone.spec.gates import Metric
from halftone.spec.job import Quantization, QuantizationJob, Recipe
from halftone.spec.names import Reason
from halftone.spec.pipelines import PIPELINE_FILE
from halftone.spec.presentation import printable
from halftone.spec.yaml_text import parse_yaml

# Fields of a recipe for which "none at all" is a choice.
_CLEARABLE: Final = frozenset({"kvCache", "calibration"})
# The metrics that a gate may have; each is the name of its model too.
_METRICS: Final = frozenset(Metric) - {Metric.Structure}
# What pydantic puts into a path for the kinds of a union and for a key; the user wrote neither.
_KINDS: Final = ("constrained-", "[key]")
_MOST_SHOWN: Final = 100  # characters of a value: enough to find it again


@dataclass(frozen=True)
class Preset:
    """A recipe of the package: its name, its one-line description and its text."""

    name: str
    description: str
    text: str


def presets() -> dict[str, Preset]:
    """Every shipped recipe by name; the description is the file's first comment."""
    found = {}
    for entry in resources.files("halftone.recipes").iterdir():
        if entry.name.endswith(".yaml") and entry.name != PIPELINE_FILE:
            name, text = entry.name.removesuffix(".yaml"), entry.read_text(encoding="utf-8")
            found[name] = Preset(name, text.splitlines()[0].lstrip("# "), text)
    return dict(sorted(found.items()))


def packaged_pipeline() -> dict[str, Any]:
    """The compiled pipeline that lies beside them, a new copy."""
    text = resources.files("halftone.recipes").joinpath(PIPELINE_FILE).read_text("utf-8")
    # Either is safe; the one in C takes a tenth of the time.
    found = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    assert isinstance(found, dict)
    return found


def load_recipe(name_or_file: str) -> Recipe:
    """The recipe called `name_or_file`, or the one in that file.

    Raises RefusedInput(UnknownRecipe) for neither, RefusedInput(InvalidJob) for a malformed one.
    """
    if name_or_file in presets():
        return resolve(Quantization(preset=name_or_file), name_or_file)
    path = Path(name_or_file)
    if not path.is_file():
        raise RefusedInput(
            Reason.UnknownRecipe,
            name_or_file,
            f"There is no recipe and no file '{name_or_file}'; presets are "
            f"{', '.join(presets())}, or give the path of a YAML file.",
        )
    document = read_yaml(path)
    if document.get("kind") is not None:
        quantization = parse_job(document, str(path)).spec.quantization
    else:
        quantization = _validated(document, str(path))
    return resolve(anchored_data(quantization, path.absolute().parent), path.stem)


def anchored_data(quantization: Quantization, folder: Path) -> Quantization:
    """`quantization` with the path of its calibration data made absolute, from `folder`.

    Fields that were not set stay unset: beside a preset that makes a difference.
    """
    calibration = quantization.calibration
    if calibration is None or calibration.dataset.path is None:
        return quantization
    # Links stay: what a cache links to has lost its name, and the name says what a file holds.
    path = os.path.abspath(folder / calibration.dataset.path)  # noqa: PTH100
    dataset = calibration.dataset.model_copy(update={"path": path})
    moved = calibration.model_copy(update={"dataset": dataset})
    return quantization.model_copy(update={"calibration": moved})


def resolve(quantization: Quantization, name: str) -> Recipe:
    """`quantization` with its preset read and its defaults filled in; own fields win.

    A field that is null beside a preset clears the preset's own. Raises RefusedInput(InvalidJob)
    for the null of a field that every recipe has.
    """
    chosen = {key: getattr(quantization, key) for key in sorted(quantization.model_fields_set)}
    chosen = {key: value for key, value in chosen.items() if value is not None}
    for field in cleared_fields(quantization):
        if field not in _CLEARABLE:
            raise RefusedInput(
                Reason.InvalidJob,
                f"quantization.{field}",
                f"`quantization.{field}` is null, but a recipe always has one; give a value, or "
                "remove the field to take the default.",
            )
        chosen[field] = None
    chosen.pop("maxShardBytes", None)
    preset_name = chosen.pop("preset", None)
    if preset_name is None:
        return Recipe(name=name, **chosen)
    preset = presets().get(preset_name)
    if preset is None:
        raise RefusedInput(
            Reason.UnknownRecipe,
            preset_name,
            f"`quantization.preset` names '{preset_name}', which is not one of "
            f"{', '.join(presets())}.",
        )
    base = resolve(_validated(parse_yaml(preset.text), preset_name), preset_name)
    return base.model_copy(update=chosen)


def cleared_fields(quantization: Quantization) -> list[str]:
    """The fields that are null because somebody wrote so, which is not the same as left out.

    Of `preset` and `precision` one is always absent, and null says just that.
    """
    told = quantization.model_fields_set - {"preset", "precision"}
    return sorted(field for field in told if getattr(quantization, field) is None)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises RefusedInput when there is none."""
    try:
        document = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        told = f"'{path}' cannot be read ({error.strerror}); correct the path or its permissions."
        raise RefusedInput(Reason.InvalidJob, str(path), told) from error
    except ValueError as error:  # NotYamlError, or no UTF-8
        told = f"'{path}' is not YAML: {error}; correct it."
        raise RefusedInput(Reason.InvalidJob, str(path), told) from error
    if not isinstance(document, dict):
        raise RefusedInput(
            Reason.InvalidJob, str(path), f"'{path}' must hold a mapping, such as `precision: …`."
        )
    return document


def parse_job(document: dict[str, Any], origin: str) -> QuantizationJob:
    """The job in `document`; raises RefusedInput that names the first wrong field."""
    if not {"kind", "spec"} & document.keys():
        told = f"'{origin}' is no QuantizationJob: it has neither `kind` nor `spec`; name a job."
        raise RefusedInput(Reason.InvalidJob, printable(origin), printable(told))
    try:
        return QuantizationJob.model_validate(document)
    except ValidationError as error:
        raise _refusal(error, origin, "", QuantizationJob) from error


def _validated(document: dict[str, Any], origin: str) -> Quantization:
    try:
        return Quantization.model_validate(document)
    except ValidationError as error:
        raise _refusal(error, origin, "quantization", Quantization) from error


def _refusal(
    error: ValidationError, origin: str, parent: str, model: type[BaseModel]
) -> RefusedInput:
    """The first error of pydantic as one sentence with the field's path."""
    first = error.errors()[0]
    # Where gates differ by metric, pydantic puts the metric into the path too.
    told = (str(part) for part in first["loc"] if part not in _METRICS)
    parts = [parent, *(part for part in told if not part.startswith(_KINDS))]
    what = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        known = ", ".join(_model_at(model, first["loc"][:-1]).model_fields)
        what = f"there is no such field; there are {known}"
    elif first["type"] == "missing":
        what = "must be given"
    elif first["type"] in {"union_tag_invalid", "union_tag_not_found"}:
        parts.append("metric")
        named = first["ctx"].get("tag")
        is_not = "must be given; one" if named is None else f"'{named}' is not one"
        what = f"{is_not} of {', '.join(sorted(_METRICS))}"
    where = ".".join(part for part in parts if part) or "the document"
    value = first.get("input")
    if first["type"] == "string_type" and isinstance(value, float):
        what = f"is a number; write it as a string, '{value}'"
    got = f" (found '{_shown(value)}')" if _may_be_shown(first, value) else ""
    message = printable(f"In '{origin}', `{where}`: {what}{got}.")
    return RefusedInput(Reason.InvalidJob, printable(where), message)


def _may_be_shown(error: ErrorDetails, value: object) -> bool:
    """Whether a value can be no secret that somebody put into the wrong place."""
    if error["type"] == "extra_forbidden" or any(str(p).endswith("Ref") for p in error["loc"]):
        return False
    # An address with an `@` may hold a password.
    return isinstance(value, int) or (isinstance(value, str) and not {"@", ":"} <= set(value))


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def _model_at(model: type[BaseModel], path: Sequence[str | int]) -> type[BaseModel]:
    """The model whose fields stand at `path`; numbers are places in a list, a metric chooses."""
    found = [model]
    for part in path:
        if part in _METRICS:
            found = [gate for gate in found if gate.__name__ == part]
        elif isinstance(part, str):
            found = list(_models(found[0].model_fields[part].annotation))
    return found[0]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
