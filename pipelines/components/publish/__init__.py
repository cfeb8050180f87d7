"""The component `publish`."""

from pipelines.components.publish.component import publish as publish
