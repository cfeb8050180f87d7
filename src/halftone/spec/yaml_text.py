"""YAML from anybody: what it holds, or one kind of error that says what is wrong and where.

PyYAML's safe loader lets errors of other kinds through, out of what it makes of scalars: the 40th
of a month is a ValueError, `!!bool x` a KeyError, `!!int ""` an IndexError. Used for recipes and
jobs, and for the heads of model cards, which strangers write.
"""

from typing import Any

import yaml


class NotYamlError(ValueError):
    """The text is no YAML; the message is half a sentence on one line."""


def parse_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """What `text` holds, None for nothing. Raises NotYamlError, and nothing else."""
    try:
        return yaml.load(text, loader)  # noqa: S506 - a safe one
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = "" if mark is None else f" in line {mark.line + 1}"
        raise NotYamlError(f"{error.problem}{where}") from error
    except RecursionError as error:
        raise NotYamlError("it is nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:
        raise NotYamlError(str(error).splitlines()[0]) from error
    except (LookupError, TypeError, AttributeError) as error:
        raise NotYamlError("a value is not what its tag says") from error
