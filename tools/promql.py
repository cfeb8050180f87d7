"""What a PromQL expression needs: names of metrics, and the labels that it tells series apart by.

    needed("sum by (le) (rate(a_bucket{job!='x'}[5m]))", {})    # {"a_bucket": {"le", "job"}}

Called by `contract`. Labels flow from the outside in: an aggregation asks its own of what is below
it, `label_replace` gives one and asks for another, and what our own rules record is looked through,
down to what is scraped. Nothing is asked of a Prometheus.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, Final

from promql_parser import (
    AggModifierType,
    AggregateExpr,
    BinaryExpr,
    Call,
    LabelModifierType,
    MatchOp,
    MatrixSelector,
    NumberLiteral,
    ParenExpr,
    StringLiteral,
    SubqueryExpr,
    UnaryExpr,
    VectorMatchCardinality,
    VectorSelector,
    parse,
)

_NAME: Final = "__name__"
_SET_OPERATORS: Final = ("and", "or", "unless")
# They choose among series and keep all labels of those.
_CHOOSING: Final = ("topk", "bottomk", "limitk", "limit_ratio")
_OPTIONAL: Final = re.compile(r"\(([\w:|]+)\)(\??)")


class UnreadableExpression(ValueError):
    """An expression that is none, or of which it cannot be said what it needs."""


def needed(expression: str, recorded: Mapping[str, str]) -> dict[str, set[str]]:
    """Labels by name of metric. `recorded` are the expressions of our own rules, by their names.

    Raises UnreadableExpression.
    """
    reading = _Reading(recorded)
    reading.read(_parsed(expression), frozenset())
    return reading.found


def recorded_in(expression: str) -> set[str]:
    """The names of all series that an expression itself names. Raises UnreadableExpression."""
    reading = _Reading({})
    reading.read(_parsed(expression), frozenset())
    return set(reading.found)


def names_in(pattern: str) -> Iterator[str]:
    """The names that a pattern of them matches: alternatives, and groups that may be left out.

    Raises UnreadableExpression for a pattern with anything else in it.
    """
    for word in _alternatives(pattern):
        parts: list[tuple[str, ...]] = []
        end = 0
        for group in _OPTIONAL.finditer(word):
            optional = ("",) if group[2] else ()
            parts += [(word[end : group.start()],), (*group[1].split("|"), *optional)]
            end = group.end()
        parts.append((word[end:],))
        for chosen in product(*parts):
            name = "".join(chosen)
            if not re.fullmatch(r"[\w:]+", name):
                raise UnreadableExpression(f"`{pattern}` may be any name; list those that it means")
            yield name


def _alternatives(pattern: str) -> Iterator[str]:
    """Parts between those `|` that stand in no group."""
    depth, word = 0, ""
    for character in pattern:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "|" and not depth:
            yield word
            word = ""
        else:
            word += character
    yield word


def _parsed(expression: str) -> Any:
    try:
        return parse(expression)
    except ValueError as error:
        raise UnreadableExpression(f"`{expression}` is no PromQL: {error}") from error


class _Reading:
    """One expression while it is read; `wanted` are labels that something outside asks for."""

    def __init__(self, recorded: Mapping[str, str]) -> None:
        self.found: dict[str, set[str]] = {}
        self._recorded = recorded
        self._within: list[str] = []

    def read(self, each: Any, wanted: frozenset[str]) -> None:
        """Note what `each` needs."""
        match each:
            case VectorSelector():
                self._select(each, wanted)
            case MatrixSelector():
                self._select(each.vector_selector, wanted)
            case SubqueryExpr() | ParenExpr() | UnaryExpr():
                self.read(each.expr, wanted)
            case AggregateExpr():
                self._aggregate(each, wanted)
            case Call():
                self._call(each, wanted)
            case BinaryExpr():
                left, right = _sides(each, wanted)
                self.read(each.lhs, left)
                self.read(each.rhs, right)

    def _select(self, selector: Any, wanted: frozenset[str]) -> None:
        if selector.matchers.or_matchers:
            raise UnreadableExpression("`or` between matchers is no PromQL that is stable")
        matchers = selector.matchers.matchers
        names = [selector.name] if selector.name else []
        for matcher in matchers:
            if matcher.name == _NAME and matcher.op == MatchOp.Equal:
                names.append(matcher.value)
            elif matcher.name == _NAME and matcher.op == MatchOp.Re:
                names += names_in(matcher.value)
        if not names:
            raise UnreadableExpression("a selector without a name may be any series")
        own = {each.name for each in matchers if not _wants_absence(each)}
        labels = frozenset((wanted | own) - {_NAME})
        for name in names:
            if name in self._within:
                continue  # a rule that reads what it recorded before
            if name in self._recorded:
                self._within.append(name)
                below = _parsed(self._recorded[name])
                has = _labels_of(below, self._recorded, frozenset({name}))
                if has is not None and (lost := labels - has):
                    told = ", ".join(f"`{label}`" for label in sorted(lost))
                    raise UnreadableExpression(f"`{name}` is recorded without the label {told}")
                self.read(below, labels)
                self._within.pop()
            else:
                self.found.setdefault(name, set()).update(labels)

    def _aggregate(self, each: Any, wanted: frozenset[str]) -> None:
        modifier = each.modifier
        labels = frozenset(modifier.labels if modifier is not None else ())
        if str(each.op) in _CHOOSING:
            below = wanted | labels
        elif modifier is not None and modifier.type == AggModifierType.Without:
            below = wanted - labels
        else:
            below = labels
        self.read(each.expr, below)
        if each.param is not None:
            self.read(each.param, frozenset())

    def _call(self, each: Any, wanted: frozenset[str]) -> None:
        arguments = list(each.args)
        texts = [getattr(argument, "val", None) for argument in arguments]
        match each.func.name:
            case "label_replace":
                source = {texts[3]} if texts[3] else set()
                wanted = (wanted - {texts[1]}) | source
            case "label_join":
                wanted = (wanted - {texts[1]}) | {str(text) for text in texts[3:]}
            case "histogram_quantile":
                wanted = wanted | {"le"}
            case "absent" | "absent_over_time" | "scalar":
                wanted = frozenset()
        for argument in arguments:
            self.read(argument, frozenset(map(str, wanted)))


def _labels_of(
    each: Any, recorded: Mapping[str, str], within: frozenset[str] = frozenset()
) -> frozenset[str] | None:
    """The labels that a result has at most, as far as the expression says it; None if not."""
    match each:
        case ParenExpr() | UnaryExpr():
            return _labels_of(each.expr, recorded, within)
        case AggregateExpr() if str(each.op) not in _CHOOSING:
            modifier = each.modifier
            if modifier is not None and modifier.type == AggModifierType.Without:
                return None
            return frozenset(modifier.labels if modifier is not None else ())
        case AggregateExpr():
            return _labels_of(each.expr, recorded, within)
        case Call():
            return _labels_of_call(each, recorded, within)
        case VectorSelector(name=str(name)) if name in within:
            return frozenset()  # it adds none to those of its own rule
        case VectorSelector(name=str(name)) if name in recorded:
            below = _parsed(recorded[name])
            return _labels_of(below, recorded, within | {name})
        case BinaryExpr():
            left, right = (_labels_of(side, recorded, within) for side in (each.lhs, each.rhs))
            if str(each.op) in ("and", "unless"):
                return left
            return None if left is None or right is None else left | right
        case NumberLiteral():
            return frozenset()
    return None


def _labels_of_call(
    each: Any, recorded: Mapping[str, str], within: frozenset[str]
) -> frozenset[str] | None:
    if each.func.name in ("time", "vector", "scalar", "pi"):
        return frozenset()
    if each.func.name in ("label_join", "absent", "absent_over_time"):
        return None
    vectors = [arg for arg in each.args if not isinstance(arg, NumberLiteral | StringLiteral)]
    given = {each.args[1].val} if each.func.name == "label_replace" else set()
    inner = _labels_of(vectors[0], recorded, within) if vectors else None
    return None if inner is None else inner | given


def _wants_absence(matcher: Any) -> bool:
    """Whether it is a label's absence that is looked for."""
    return bool(matcher.op == MatchOp.Equal and not matcher.value)


def _sides(each: Any, wanted: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
    """What a binary operator asks of its sides: what it matches by, and what its result has."""
    modifier = each.modifier
    matching = None if modifier is None else modifier.matching
    if matching is None:
        return wanted, wanted
    labels = frozenset(matching.labels)
    if matching.type == LabelModifierType.Exclude:
        left, right = wanted - labels, frozenset[str]()
    elif str(each.op) in _SET_OPERATORS:
        return wanted | labels, labels | (wanted if str(each.op) == "or" else frozenset())
    elif modifier.card == VectorMatchCardinality.OneToOne:
        return labels, labels
    else:
        left, right = wanted | labels, labels
    group = frozenset(modifier.group_labels or ())
    left, right = left - (group - labels), right | group
    swapped = modifier.card == VectorMatchCardinality.OneToMany
    return (right, left) if swapped else (left, right)
