"""YAML from anybody: what it holds, or one kind of error that says what is wrong and where.

PyYAML's safe loader lets errors of other kinds through, out of what it makes of scalars: the 40th
of a month is a ValueError, `!!bool x` a KeyError, `!!int ""` an IndexError. Used for recipes and
jobs, and for the front matter of cards, which strangers write.
"""

import re
from typing import Any, Final

import yaml

_FRONT: Final = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)


class NotYamlError(ValueError):
    """The text is no YAML; the message is half a sentence on one line."""


def parse_yaml(text: str) -> Any:
    """What `text` holds, None for nothing. Raises NotYamlError, and nothing else."""
    try:
        return yaml.safe_load(text)
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


def front_matter(card: str) -> dict[Any, Any]:
    """The fields between the lines of dashes at the head of a model card.

    Empty for a card without any, and for one whose head is no YAML: it is text that anyone wrote.
    """
    found = _FRONT.match(card)
    try:
        fields = parse_yaml(found[1]) if found else None
    except NotYamlError:
        return {}
    return fields if isinstance(fields, dict) else {}
