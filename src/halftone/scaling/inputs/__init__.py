"""From Prometheus to a `Reading`: names found by probe, ages, what is missing and why."""
