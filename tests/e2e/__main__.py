"""`make e2e`: from a source checkpoint to a chat answer that scales and is watched, on one node.

    python -m tests.e2e [--keep] [--load 'ctr -n k8s.io images import'] [--output build/e2e]

Needs root, `.venvs/serve`, `python -m tools.packages` and `python -m tools.servers build
monitoring`. Prints a line an act; times, logs of all containers and events lie in the output
folder. Exit code 1 when an act failed; what comes after it is not tried.

With KUBECONFIG set that cluster is used, which must be empty and have this machine for its only
node; `--load` loads an archive of images there, and without it the images must be there. What a
failed story has made in it stays; its CustomResourceDefinitions stay in any case.
"""

import argparse
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from halftone.cli.signals import ended_in_order
from tests.e2e import acts
from tests.e2e.scene import JOBS, Scene, set_up
from tests.e2e.timeline import Timeline, is_for_a_story
from tests.endpoint.release import Release


def main() -> int:
    """Tell the story; 0 when every act went as it should."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e", description=__doc__)
    parser.add_argument(
        "--keep", action="store_true", help="before all is uninstalled, wait until Enter is pressed"
    )
    parser.add_argument(
        "--load", default="", metavar="COMMAND", help="with KUBECONFIG: what loads an archive"
    )
    parser.add_argument("--output", type=Path, default=Path("build/e2e"))
    chosen = parser.parse_args()
    if not is_for_a_story(chosen.output):
        parser.error(f"'{chosen.output}' holds other things; --output is emptied, so name another.")
    shutil.rmtree(chosen.output, ignore_errors=True)
    timeline = Timeline(chosen.output)
    told = False
    with tempfile.TemporaryDirectory(prefix="halftone-e2e-") as scratch:
        folder = Path(scratch)
        try:
            # A signal would end us alone, and leave a node and its mounts behind.
            with ended_in_order(), set_up(folder, timeline, chosen.load) as scene:
                told = _tell(scene, chosen.keep)
        except KeyboardInterrupt:
            told = False
            print("e2e: somebody ended it.", file=sys.stderr)
        except Exception as error:  # what brings the cluster up says what it lacks
            told = False
            print(f"e2e: {error}", file=sys.stderr)
        _keep_files(folder, chosen.output)
    timeline.close()
    ended = "done" if told else "failed"
    print(f"{timeline.now():6.0f} s  {ended}; times and logs are in {chosen.output}", flush=True)
    return 0 if told else 1


def _keep_files(folder: Path, output: Path) -> None:
    """What is read afterwards: logs of pods and of the cluster itself, and measurements."""
    folders = {"logs": "logs", "measured": "measured", "cluster/logs": "cluster"}
    for name, kept in folders.items():
        if (folder / name).is_dir():
            shutil.copytree(folder / name, output / kept)
    for name in ("bench.log", "events.txt"):
        if (folder / name).exists():
            shutil.copy(folder / name, output)


def _tell(scene: Scene, keep: bool) -> bool:
    release = None
    try:
        release = _acts(scene)
    except Exception as error:  # told, and not tried any further
        print(f"e2e: {error}", file=sys.stderr, flush=True)
    if keep:
        print(f"It still runs: {scene.inside} kubectl -n {JOBS} get pods", flush=True)
        with suppress(EOFError, KeyboardInterrupt):
            input("Enter ends it. ")
    if release is None:
        return False
    with scene.timeline.act("all is uninstalled") as told:
        told.facts += acts.uninstall(scene, release)
    return True


def _acts(scene: Scene) -> Release:
    act = scene.timeline.act
    with act("the operator is installed with its chart") as told:
        told.facts += acts.install_operator(scene)
    with act("rules, dashboards and the doctor are installed") as told:
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
    with act("a replica is measured, and the law gets its card") as told:
        told.facts += acts.measure(scene, release)
    with act("load: replicas come, and go again") as told:
        told.facts += acts.follow(scene, release)
    with act("the second artifact takes the first one's place") as told:
        told.facts += acts.swap(scene, release)
    with act("things break") as told:
        told.facts += acts.break_things(scene, release)
    with act("the doctor finds every metric that somebody needs") as told:
        told.facts += acts.ask_the_doctor(scene, release)
    with act("no value of a Secret stands in any log") as told:
        told.facts += acts.search_logs(scene)
    return release


if __name__ == "__main__":
    sys.exit(main())
