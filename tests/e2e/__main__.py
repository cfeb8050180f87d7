"""`make e2e`: from a source checkpoint to a chat answer that scales and is watched, on one node.

    python -m tests.e2e [--keep] [--output build/e2e]

Needs root, `.venvs/serve`, `python -m tools.packages` and `python -m tools.servers build
monitoring`. Prints a line an act; times, logs of all pods and what was applied lie in the output
folder. Exit code 1 when an act failed; what comes after it is not tried.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tests.e2e import acts
from tests.e2e.scene import JOBS, Scene, set_up
from tests.e2e.timeline import Timeline


def main() -> int:
    """Tell the story; 0 when every act went as it should."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="let it run until Enter is pressed")
    parser.add_argument("--output", type=Path, default=Path("build/e2e"))
    chosen = parser.parse_args()
    shutil.rmtree(chosen.output, ignore_errors=True)
    timeline = Timeline(chosen.output)
    status = 0
    with tempfile.TemporaryDirectory(prefix="halftone-e2e-") as scratch:
        folder = Path(scratch)
        try:
            with set_up(folder, timeline) as scene:
                status = _tell(scene, chosen.keep)
        except Exception as error:  # what brings the cluster up says what it lacks
            status = 1
            print(f"e2e: {error}", file=sys.stderr)
        for name in ("logs", "measured", "bench.log"):
            kept = folder / name
            if kept.is_dir():
                shutil.copytree(kept, chosen.output / name)
            elif kept.exists():
                shutil.copy(kept, chosen.output / name)
    timeline.close()
    ended = "failed" if status else "done"
    print(f"{timeline.now():6.0f} s  {ended}; times and logs are in {chosen.output}", flush=True)
    return status


def _tell(scene: Scene, keep: bool) -> int:
    status = 0
    try:
        _acts(scene)
    except Exception as error:  # told, and not tried any further
        status = 1
        print(f"e2e: {error}", file=sys.stderr, flush=True)
    if keep:
        print(
            f"It still runs; kubectl --kubeconfig {scene.cluster.kubeconfig} -n {JOBS}", flush=True
        )
        input("Enter ends it. ")
    return status


def _acts(scene: Scene) -> None:
    act = scene.timeline.act
    with act("the operator is installed with its chart") as told:
        told.facts += acts.install_operator(scene)
    with act("rules and dashboards are installed with theirs") as told:
        told.facts += acts.install_monitoring(scene)
    with act("a job that cannot be is refused") as told:
        told.facts += acts.refuse(scene)
    with act("a QuantizationJob: S3 to a signed artifact") as told:
        told.facts += acts.quantize(scene, acts.FIRST)
    with act("another one, which loses its operator on the way") as told:
        told.facts += acts.lose_the_operator(scene, acts.SECOND)
    with act("the endpoint is installed from the first job, and asked") as told:
        release, facts = acts.serve(scene)
        told.facts += facts
    with act("a replica is measured, and autoscaling turned on") as told:
        told.facts += acts.measure(scene, release)
    with act("load: replicas come, and go again") as told:
        told.facts += acts.follow(scene, release)
    with act("the second artifact takes the first one's place") as told:
        told.facts += acts.swap(release, scene)
    with act("things break") as told:
        told.facts += acts.break_things(scene, release)
    with act("no value of a Secret stands in any log") as told:
        told.facts += acts.search_logs(scene)
    with act("all is uninstalled") as told:
        told.facts += acts.uninstall(scene, release)


if __name__ == "__main__":
    sys.exit(main())
