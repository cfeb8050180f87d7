"""The component `resolve`."""

from pipelines.components.resolve.component import resolve as resolve
