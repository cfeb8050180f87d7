"""Groups made again from the source: equal when honest, and forgeries found at theory's rate.

Everything is real but the artifact's signature, which the forger is taken to have.
"""

import random
from contextlib import closing
from math import comb, sqrt
from pathlib import Path
from typing import NamedTuple

import pytest

from halftone.checkpoint.index import Checkpoint, read_checkpoint
from halftone.plan.planning import Planned
from halftone.quantize.rebuilding import Rebuilt, draw, plan_again, rebuild
from halftone.spec.documents import Plan
from halftone.spec.errors import CheckFailed, RefusedInput
from halftone.spec.names import Reason
from halftone.stores import open_source
from tests.artifacts import Work, found, publish, verified, work_directory
from tests.builders import set_value, write_checkpoint, write_fp8
from tests.commands import halftone, plan_directory, quantize_directory, wide_config

DRAWS = 300
# Four standard deviations of the count: one run in 16,000 would be beyond it by chance alone, and
# the seeds are fixed.
DEVIATIONS = 4.0


class Pair(NamedTuple):
    """A source and what was made of it."""

    planned: Planned
    source: Path
    made: Path


def quantized(folder: Path, model: str, recipe: str) -> Pair:
    source = write_checkpoint(folder / "source", model)
    made = quantize_directory(source, folder / "made", recipe, max_shard_bytes=200_000)
    return Pair(made.planned, source, made.directory)


def rebuilt(pair: Pair, count: int, seed: int | None = None) -> Rebuilt:
    with closing(open_source(pair.source)) as source, closing(open_source(pair.made)) as made:
        return rebuild(pair.planned, read_checkpoint(source), made, count, seed)


def groups(planned: Planned) -> list[str]:
    return [unit.name for shard in planned.shards for unit in shard.units]


def forge(pair: Pair, name: str, seed: int) -> str:
    """Change one byte of one stored tensor of the group `name`; return that tensor's name."""
    chance = random.Random(seed)
    shard, unit = next((s, u) for s in pair.planned.shards for u in s.units if u.name == name)
    part = chance.choice([part for stored in unit.parts for part in stored])
    with (pair.made / shard.file).open("r+b") as file:
        file.seek(shard.offsets()[part.name] + chance.randrange(part.nbytes))
        (byte,) = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte ^ chance.randrange(1, 256)]))
    return part.name


@pytest.mark.parametrize("recipe", ["nvfp4a16", "fp8-dynamic", "fp8-block"])
@pytest.mark.parametrize("model", ["qwen3", "qwen3_5_moe", "gemma4_unified"])
def test_every_group_of_an_honest_checkpoint_is_equal(
    model: str, recipe: str, tmp_path: Path
) -> None:
    pair = quantized(tmp_path, model, recipe)

    done = rebuilt(pair, 10_000)

    assert sorted(done.groups) == sorted(groups(pair.planned))
    assert done.of == len(done.groups)
    assert done.nbytes == sum(s.rows[-1].end for s in pair.planned.shards)


def test_a_source_in_fp8_gives_the_same_bytes_again(tmp_path: Path) -> None:
    source = write_fp8(tmp_path / "source", "qwen3_5", scheme="Block").directory
    made = quantize_directory(source, tmp_path / "made")

    assert rebuilt(Pair(made.planned, source, made.directory), 10_000).of > 20


def test_a_group_of_several_tiles_gives_the_same_bytes_again(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", wide_config(layers=1))
    made = quantize_directory(source, tmp_path / "made")

    assert rebuilt(Pair(made.planned, source, made.directory), 10_000).of > 5


@pytest.mark.parametrize("recipe", ["nvfp4a16", "fp8-dynamic", "fp8-block"])
def test_forgeries_are_found_at_the_rate_of_the_hypergeometric_distribution(
    recipe: str, tmp_path: Path
) -> None:
    pair = quantized(tmp_path, "qwen3", recipe)
    names = groups(pair.planned)
    forged = random.Random(recipe).sample(names, 3)
    tensors = {name: forge(pair, name, seed) for seed, name in enumerate(forged)}
    count, total = 4, len(names)

    hits = 0
    with closing(open_source(pair.source)) as source, closing(open_source(pair.made)) as made:
        checkpoint = read_checkpoint(source)
        for seed in range(DRAWS):
            drawn = [unit.name for _, unit in draw(pair.planned, count, seed)]
            culprit = next((tensors[name] for name in drawn if name in tensors), None)
            if culprit is None:
                assert list(rebuild(pair.planned, checkpoint, made, count, seed).groups) == drawn
                continue
            with pytest.raises(CheckFailed) as caught:
                rebuild(pair.planned, checkpoint, made, count, seed)
            assert (caught.value.reason, caught.value.subject) == (Reason.DigestDiffers, culprit)
            hits += 1

    theory = 1 - comb(total - len(forged), count) / comb(total, count)
    deviation = sqrt(DRAWS * theory * (1 - theory))
    assert abs(hits - DRAWS * theory) <= DEVIATIONS * deviation


def test_what_it_promises_is_the_theory() -> None:
    done = Rebuilt(tuple("abcd"), 19, 0)

    assert done.chance_of_finding(1) == pytest.approx(4 / 19)
    assert done.chance_of_finding(0) == 0
    assert done.chance_of_finding(16) == 1


def test_every_group_is_as_likely_as_any_other(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "source", "qwen3")
    planned = plan_directory(tmp_path / "source", "nvfp4a16")
    names = groups(planned)
    runs, count = 3000, 5

    seen = dict.fromkeys(names, 0)
    for seed in range(runs):
        drawn = [unit.name for _, unit in draw(planned, count, seed)]
        assert len(set(drawn)) == count
        for name in drawn:
            seen[name] += 1

    share = count / len(names)
    limit = 5 * sqrt(runs * share * (1 - share))
    assert all(abs(times - runs * share) <= limit for times in seen.values())


def test_without_a_seed_nobody_knows_what_will_be_drawn(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "source", "qwen3_5_moe")
    planned = plan_directory(tmp_path / "source", "nvfp4a16")

    draws = {tuple(unit.name for _, unit in draw(planned, 10)) for _ in range(5)}

    assert len(draws) == 5


def test_a_source_whose_weights_are_others_is_found_although_its_headers_are_equal(
    tmp_path: Path,
) -> None:
    pair = quantized(tmp_path, "qwen3", "nvfp4a16")
    set_value(pair.source, "model.norm.weight", 3.0)

    with pytest.raises(CheckFailed, match=r"'model\.norm\.weight' in 'model-"):
        rebuilt(pair, 10_000)


def test_a_shard_with_another_header_is_found(tmp_path: Path) -> None:
    pair = quantized(tmp_path, "qwen3", "nvfp4a16")
    path = pair.made / "model-00001-of-00003.safetensors"
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)

    with pytest.raises(CheckFailed, match="has another header than planned"):
        rebuilt(pair, 10_000)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return work_directory(tmp_path_factory.mktemp("made"))


def published_plan(work: Work) -> Plan:
    return Plan.load(work.directory / "plan.json")


def opened(source: Path) -> Checkpoint:
    return read_checkpoint(open_source(source))


def test_the_published_plan_is_made_again_whatever_its_shard_size(work: Work) -> None:
    plan = published_plan(work)
    assert plan.output is not None
    assert len(plan.output.files) == 3

    assert plan_again(plan, opened(work.source)).plan.digest == plan.digest


def test_a_download_of_the_source_is_as_good_as_the_source(work: Work, tmp_path: Path) -> None:
    mirror = write_checkpoint(tmp_path / "mirror", "qwen3")

    assert plan_again(published_plan(work), opened(mirror)).plan.digest


def test_another_source_is_refused_and_the_file_named(work: Work, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", "llama")

    with pytest.raises(RefusedInput, match=r"'model-00001.*is not the file") as caught:
        plan_again(published_plan(work), opened(other))

    assert caught.value.reason is Reason.SourceChanged


def test_a_source_without_its_companions_is_refused(work: Work, tmp_path: Path) -> None:
    mirror = write_checkpoint(tmp_path / "mirror", "qwen3")
    (mirror / "tokenizer.json").unlink()

    with pytest.raises(RefusedInput, match="give the whole source"):
        plan_again(published_plan(work), opened(mirror))


def test_the_command_says_how_many_groups_were_equal(work: Work, tmp_path: Path) -> None:
    artifact = publish(work, tmp_path / "small")

    ended = verified(artifact, None, "--rebuild", "4", "--source", str(work.source))

    assert ended.code == 0, ended.err
    assert f"rebuilt 4 of 19 groups from {work.source}, " in ended.out
    assert "equal (one forged group is found with 21.1 %)" in ended.out


def test_the_command_names_the_tensor_that_differs(work: Work, tmp_path: Path) -> None:
    artifact = publish(work, tmp_path / "small")
    source = write_checkpoint(tmp_path / "source", "qwen3")
    set_value(source, "lm_head.weight", 3.0)

    shown = found(artifact, None, "--rebuild", "1000", "--source", str(source))

    assert shown["subject"] == "lm_head.weight"


@pytest.mark.parametrize("options", [["--rebuild", "3"], ["--source", "x"]])
def test_rebuilding_needs_both_options(options: list[str], tmp_path: Path) -> None:
    ended = halftone("verify", tmp_path, *options)

    assert ended.code == 2
    assert "must be given together" in ended.err
