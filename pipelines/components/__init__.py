"""The tasks of the pipeline: each a component of its own, that another pipeline can use alone.

Compiled by `tools.pipelines`. A body calls one stage and hands values on; it must not hold logic,
for it travels inside the compiled pipeline as text, where no linter and no test of ours sees it.
"""
