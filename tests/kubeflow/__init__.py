"""The tier that runs against a real back end of Kubeflow Pipelines; `make e2e-kfp`, by hand."""
