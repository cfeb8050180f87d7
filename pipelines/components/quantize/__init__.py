"""The component `quantize`."""

from pipelines.components.quantize.component import quantize as quantize
