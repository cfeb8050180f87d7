"""The component `target`."""

from pipelines.components.target.component import target as target
