"""Which run carries a job out, and whose turn it is to make it.

Called by `running` and `ending`. A run has a name before it exists. Whoever wants to make it writes
the name and itself into the status first, which the API server grants to one of several; then it
looks whether the run is there; then it makes it. So a kill at any point leaves one run or none.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from halftone.control.conditions import read_time, time_text
from halftone.spec.pipelines import Run, RunState
from halftone.spec.status import PipelineRunStatus

_MAX_NAME: Final = 128
_NUMBER: Final = re.compile(r"-([0-9]{1,9})")
# A claim that is older is written anew before the run is made, for somebody may be about to take
# it over; as a part of the time that a claim holds.
_USABLE: Final = 3
_FINAL_BY_WORD: Final = frozenset({RunState.Failed, RunState.Succeeded, RunState.Canceled})


def run_name(metadata: Mapping[str, Any], number: int) -> str:
    """The name of a job's `number`th run. The uid is always whole: it is what is looked up."""
    tail = f"-{metadata['uid']}-{int(metadata.get('generation', 0))}-{number}"
    head = f"{metadata['namespace']}.{metadata['name']}"
    return head[: _MAX_NAME - len(tail)] + tail


def next_number(uid: str, known: Collection[str]) -> int:
    """One more than that of any of the names in `known`."""
    return 1 + max((_number(uid, name) for name in known), default=0)


def _number(uid: str, name: str) -> int:
    """0 for a name that is none of ours."""
    tail = name.rpartition(uid)[2] if uid in name else ""
    found = _NUMBER.findall(tail)
    return int(found[-1]) if len(found) > 1 else 0


def claim(name: str, identity: str, now: datetime) -> PipelineRunStatus:
    """What is written by the replica that is going to make the run."""
    return PipelineRunStatus(name=name, claimedBy=identity, claimTime=time_text(now))


def is_usable(mine: PipelineRunStatus, identity: str, now: datetime, seconds: int) -> bool:
    """Whether the claim is of this replica, and fresh enough to make the run."""
    age = _age(mine, now)
    return mine.claimedBy == identity and age is not None and age * _USABLE < timedelta(0, seconds)


def is_held(mine: PipelineRunStatus, identity: str, now: datetime, seconds: int) -> bool:
    """Whether another replica may be about to make the run."""
    age = _age(mine, now)
    foreign = mine.claimedBy not in (None, identity)
    return foreign and age is not None and age < timedelta(0, seconds)


def _age(mine: PipelineRunStatus, now: datetime) -> timedelta | None:
    """How old a claim is; None where no clock of a cluster can have written it."""
    moment = read_time(mine.claimTime)
    if moment is None or moment - now > timedelta(minutes=1):
        return None
    return max(timedelta(0), now - moment)


def current(uid: str, mine: PipelineRunStatus | None, runs: Sequence[Run]) -> Run | None:
    """The run to judge: the one that the status names, else the last that was made.

    Of several with one name it is the first: the others were made by accident.
    """
    if mine is not None:
        named = [run for run in runs if run.display_name == mine.name]
        if named:
            return min(named, key=_made)
        by_id = next((run for run in runs if run.run_id == mine.id), None)
        if by_id is not None:
            return by_id
    newest = min(runs, key=lambda run: (-_number(uid, run.display_name), *_made(run)), default=None)
    if newest is None or mine is None:
        return newest
    # One that is older than what the status names was given up.
    return newest if _number(uid, newest.display_name) > _number(uid, mine.name) else None


def _made(run: Run) -> tuple[str, str]:
    return run.created_at or "", run.run_id


def is_live(run: Run) -> bool:
    """Whether tasks of it may run now, or later."""
    return not run.state.is_final


def is_ending(run: Run) -> bool:
    """Whether it was told to terminate."""
    return is_live(run) and (run.state is RunState.Canceling or _was_told(run))


def was_terminated(run: Run) -> bool:
    """Whether it ended because it was told to."""
    return run.state is RunState.Canceled or (run.state is RunState.Failed and _was_told(run))


def _was_told(run: Run) -> bool:
    """Whether it was told to terminate since it began, or since it was last retried.

    2.14 ends such a run as FAILED; its history still says so.
    """
    told = False
    ended = False
    for change in run.state_history:
        if change.state is RunState.Canceling:
            told = True
        elif change.state in _FINAL_BY_WORD:
            ended = True
        elif ended:
            told = ended = False
    return told
