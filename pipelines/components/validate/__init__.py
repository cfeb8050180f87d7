"""The component `validate`."""

from pipelines.components.validate.component import validate as validate
