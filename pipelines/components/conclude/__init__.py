"""The component `conclude`."""

from pipelines.components.conclude.component import conclude as conclude
