"""The component `assemble`."""

from pipelines.components.assemble.component import assemble as assemble
