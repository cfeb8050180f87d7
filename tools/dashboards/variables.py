"""Variables of the dashboards.

Called by the dashboards. "All" is a pattern that fits a label that is not there too: a Prometheus
that reads Ray's file of targets has no namespaces. What is chosen by text alone is listed here.
"""

from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as models

SOURCE: Final = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
Variable = Builder[models.VariableModel]

# Bounds that vLLM's histograms have, so that the share below one is exact. Seconds.
_TTFT_BOUNDS: Final = ("0.25", "0.5", "1", "2.5", "5", "10")
_ITL_BOUNDS: Final = ("0.025", "0.05", "0.075", "0.1", "0.2", "0.5")
_ANY: Final = ".*"


def datasource() -> Variable:
    """Which Prometheus."""
    return dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")


def listed(name: str, label: str, says: str, series: str, values_of: str) -> Variable:
    """The values of a label of `series`, any number of them."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .description(says)
        .datasource(SOURCE)
        .query(f"label_values({series}, {values_of})")
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(_ANY)
        .current(models.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def _chosen(
    name: str, label: str, says: str, options: dict[str, str], first: str
) -> dashboard.CustomVariable:
    """One of `options`, text by value."""
    there = [
        models.VariableOption(selected=value == first, text=text, value=value)
        for value, text in options.items()
    ]
    given = (value if text == value else f"{text} : {value}" for value, text in options.items())
    return (
        dashboard.CustomVariable(name)
        .label(label)
        .description(says)
        .values(",".join(given))
        .options(there)
        .current(next(option for option in there if option.selected))
        .allow_custom_value(False)
    )


def namespace(series: str) -> Variable:
    """Where what is watched runs."""
    return listed("namespace", "Namespace", "Where it runs.", series, "namespace")


def family() -> Variable:
    """Through whom replicas are scraped, of which recorded series tell by a label."""
    return _chosen(
        "family",
        "Scraped from",
        "Narrows panels of replicas to those that vLLM exports itself, or Ray.",
        {_ANY: "All", "native": "vLLM", "ray": "Ray"},
        _ANY,
    )


def ttft() -> Variable:
    """The objective for the first token."""
    says = "A first token within so many seconds is good; these are bounds of vLLM's histogram."
    bounds = {bound: bound for bound in _TTFT_BOUNDS}
    return _chosen("ttft", "First token within (s)", says, bounds, "2.5")


def itl() -> Variable:
    """The objective for later tokens."""
    says = "A next token within so many seconds is good; these are bounds of vLLM's histogram."
    bounds = {bound: bound for bound in _ITL_BOUNDS}
    return _chosen("itl", "Next token within (s)", says, bounds, "0.05")


def price() -> Variable:
    """What an hour of a replica costs, in whatever currency one thinks in."""
    return (
        dashboard.TextBoxVariable("price")
        .label("Price of a replica-hour")
        .description("A number: what one replica with its GPUs costs an hour, in your currency.")
        .default_value("1")
        .current(models.VariableOption(selected=True, text="1", value="1"))
    )
