"""The runner KubeflowPipelines, judged on paper: what a run is made of, and what it has come to."""
