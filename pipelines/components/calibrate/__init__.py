"""The component `calibrate`."""

from pipelines.components.calibrate.component import calibrate as calibrate
