"""The component `plan`."""

from pipelines.components.plan.component import plan as plan
