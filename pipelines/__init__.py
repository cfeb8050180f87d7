"""The Kubeflow pipeline: components, and what chains them.

Needs kfp. Imported by tools and tests only: whoever runs the pipeline has its compiled form.
"""
