"""The component `split`."""

from pipelines.components.split.component import split as split
