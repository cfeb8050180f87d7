"""What became of a source between two plans of it.

Called by the engine, which may find work of an earlier run, and by the stages, which plan again
before they quantize. Each says in its own sentence what to do about it.
"""

from halftone.spec.documents import PlanSource


def changed_file(before: PlanSource | None, after: PlanSource | None) -> str | None:
    """The first shard, by name, whose size or header is not the same in both; None when all are.

    A shard that only one of them has is not the same.
    """
    earlier = {file.path: file for file in before.files} if before else {}
    later = {file.path: file for file in after.files} if after else {}
    return next(
        (p for p in sorted(earlier.keys() | later.keys()) if earlier.get(p) != later.get(p)), None
    )
