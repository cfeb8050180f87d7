"""Says how a run ended. Called by the pipeline whatever happened, and never from a cache."""

from kfp import dsl


@dsl.component(base_image="halftone-task", install_kfp_package=False)
def conclude(status: dsl.PipelineTaskFinalStatus) -> None:
    """Writes one line to the log."""
    from halftone.cli.pipeline_task import say_how_it_ended

    say_how_it_ended(status.state, status.error_message or "")
