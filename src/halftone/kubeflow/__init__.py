"""Kubeflow Pipelines' server, over its REST interface v2beta1.

Called by the operator and by `halftone pipeline`. It knows nothing of jobs and stages, and needs no
kfp.
"""
