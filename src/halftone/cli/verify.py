"""`halftone verify`: whether an artifact is what was published, and what its source gives."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from halftone.cli.opening import opened, opened_checkpoint
from halftone.cli.progress import progress
from halftone.cli.quantize import default_workers
from halftone.spec.errors import CheckFailed, RefusedInput
from halftone.spec.files import FileSource
from halftone.spec.names import ARTIFACT_FILE, Reason
from halftone.spec.presentation import size_text
from halftone.spec.reports import Verdict

if TYPE_CHECKING:
    from halftone.plan.planning import Planned
    from halftone.publish.verifying import Verification, Verified
    from halftone.quantize.rebuilding import Rebuilt
    from halftone.quantize.statistics import Statistics

_REQUIREMENTS: Final = ("signature", "verdict", "platform")


class _Asked(NamedTuple):
    """The command line, read."""

    public_key: Path | None
    require: frozenset[str]
    rebuild: int | None
    source: str | None


class _Again(NamedTuple):
    """What was made again from `source`.

    `scales` counts those that rest on the artifact's own statistics.
    """

    source: str
    made: "Rebuilt"
    scales: int


@click.command()
@click.argument("artifact", metavar="PATH_OR_URI")
@click.option(
    "--public-key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The key that must have signed it, such as keygen's PATH.pub.",
)
@click.option(
    "--require",
    "required",
    multiple=True,
    metavar="WORD,...",
    help="signature: signed by --public-key; verdict: Passed, no other; platform: gates ran on the "
    "real device.",
)
@click.option(
    "--rebuild", type=click.IntRange(min=1), metavar="K", help="Make K random groups again."
)
@click.option("--source", help="The full-precision checkpoint, for --rebuild.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def verify(
    artifact: str,
    public_key: Path | None,
    required: tuple[str, ...],
    rebuild: int | None,
    source: str | None,
    as_json: bool,
) -> None:
    """Verify the artifact at PATH_OR_URI: a directory, s3://bucket/prefix or hf://org/name.

    Every file is read and held against artifact.json, the documents and the signature. Exits 1 and
    names the first file that differs. With --rebuild, K random fused groups (or kept tensors) are
    quantized again from --source, and must have the same bytes. Scales of activations and cache are
    made of the artifact's own statistics then: nobody measures those again.
    """
    if (rebuild is None) != (source is None):
        raise click.UsageError("`--rebuild` and `--source` must be given together.")
    asked = _Asked(public_key, _words(required), rebuild, source)
    try:
        with opened(artifact) as files:
            verified, again = _verify(files, asked)
    except CheckFailed as error:
        if as_json:
            failure = {"reason": error.reason, "subject": error.subject, "message": error.message}
            _print_json({"uri": artifact, "verified": False, **failure})
        raise
    if as_json:
        _print_json(_shown(verified.found, again))
    else:
        _tell(verified.found, again)


def _words(required: tuple[str, ...]) -> frozenset[str]:
    words = frozenset(word.strip() for text in required for word in text.split(","))
    unknown = sorted(words - set(_REQUIREMENTS))
    if unknown:
        raise RefusedInput(
            Reason.InvalidJob,
            "--require",
            f"`--require` does not know '{unknown[0]}'; it takes {', '.join(_REQUIREMENTS)}.",
        )
    return words


def _verify(files: FileSource, asked: _Asked) -> "tuple[Verified, _Again | None]":
    from halftone.publish.capacity_cards import is_capacity
    from halftone.publish.verifying import verify as check

    # All that is hashed: cards are held against their signatures, and the list against itself.
    hashed = (e for e in files.files() if e.path != ARTIFACT_FILE and not is_capacity(e.path))
    total = sum(entry.size_bytes for entry in hashed)
    with progress("verify", total) as shown:
        verified = check(files, asked.public_key, asked.require, shown.advance)
    if asked.rebuild is None or asked.source is None:
        return verified, None
    from halftone.quantize.rebuilding import plan_again
    from halftone.quantize.rebuilding import rebuild as carry_out

    with opened_checkpoint(asked.source) as checkpoint:
        planned = plan_again(verified.plan, checkpoint)
        rebuilt = carry_out(
            planned,
            checkpoint,
            files,
            asked.rebuild,
            statistics=_statistics(verified, planned),
            workers=default_workers(),
        )
        scales = _measured_scales(planned, rebuilt.groups)
        return verified, _Again(asked.source, rebuilt, scales)


def _statistics(verified: "Verified", planned: "Planned") -> "Statistics | None":
    """What a calibrated artifact was made with; its files, proven by now, may lie far away."""
    if not verified.statistics:
        return None
    from halftone.quantize.statistics import published_statistics

    return published_statistics(verified.statistics, planned)


def _measured_scales(planned: "Planned", names: tuple[str, ...]) -> int:
    """How many scales of the groups in `names` were made of statistics."""
    from halftone.plan.measurements import measured_scales

    drawn = frozenset(names)
    units = (unit for shard in planned.shards for unit in shard.units)
    return measured_scales(unit for unit in units if unit.name in drawn)


def _shown(found: "Verification", again: _Again | None) -> dict[str, Any]:
    shown = {"verified": True, **found.model_dump(mode="json"), "rebuilt": None}
    if again is not None:
        shown["rebuilt"] = {
            "source": again.source,
            "groups": list(again.made.groups),
            "of": again.made.of,
            "bytes": again.made.nbytes,
            "measuredScales": again.scales,
        }
    return shown


def _print_json(shown: dict[str, Any]) -> None:
    click.echo(json.dumps(shown, indent=2, ensure_ascii=False))


def _tell(found: "Verification", again: _Again | None) -> None:
    """What was found, one sentence a line."""
    from halftone.publish.verifying import SignatureState

    revision = f" at {found.revision}" if found.revision else ""
    click.echo(f"{found.uri}{revision}: {found.files} files, {size_text(found.sizeBytes)}, intact")
    click.echo(f"checkpoint {found.checkpointDigest}")
    if found.statisticsDigest is not None:
        click.echo(f"calibrated, statistics {found.statisticsDigest}")
    signatures = {
        SignatureState.Valid: f"valid, by the key {found.keyIdentifier}",
        SignatureState.NotChecked: "not checked; give --public-key to check it",
        SignatureState.Absent: "none; anybody could have made this artifact",
    }
    click.echo(f"signature: {signatures[found.signature]}")
    click.echo(f"verdict: {found.verdict}{_meaning(found)}")
    if found.cards:
        click.echo(f"capacity cards: {len(found.cards)}")
    if again is None:
        return
    made, chance = again.made, 100 * again.made.chance_of_finding(1)
    click.echo(
        f"rebuilt {len(made.groups)} of {made.of} groups from {again.source}, "
        f"{size_text(made.nbytes)}: equal (one forged group is found with {chance:.1f} %)"
    )
    if found.statisticsDigest is not None:
        click.echo(
            "scales in these groups that rest on the artifact's own statistics, which nobody "
            f"measured again: {again.scales}"
        )


def _meaning(found: "Verification") -> str:
    """What a reader must know who takes every verdict for `Passed`."""
    if found.verdict is Verdict.Unmeasured:
        return " (nobody measured this checkpoint)"
    if found.platform is not None and found.platform.emulated:
        return f" ({found.platform.device} emulated the device)"
    return "" if found.platform is None else f" (on {found.platform.device})"
