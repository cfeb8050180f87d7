"""The gates that need a server: what the source is asked, what the quantized model is asked, when.

The source comes first, is asked all that the listed gates want of it and the cache does not have,
and is closed; then the quantized model is loaded once and judged gate by gate until one fails
(docs/adr/0009). Called by `halftone.validate.validating`, in the environment that has vLLM.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from halftone.spec.documents import sha256_hex
from halftone.spec.errors import CheckFailed
from halftone.spec.gates import (
    METRIC_ORDER,
    AcceptanceLength,
    EngineLoads,
    Gate,
    KlDivergence,
    Metric,
    Perplexity,
    Speed,
    Task,
    TopOneAgreement,
    WeightError,
)
from halftone.spec.names import CHECKPOINT_DIRECTORY
from halftone.spec.reports import GateResult, Outcome, Platform
from halftone.validate.earlier import gpu_names
from halftone.validate.gates import acceptance_length, divergence, engine_loads, speed
from halftone.validate.gates.task import judge_tasks
from halftone.validate.gates.token_divergence import Divergence
from halftone.validate.local_tasks import is_local, read_local_task
from halftone.validate.serving.prompts import PromptSet, can_see, prompt_set
from halftone.validate.serving.session import EngineFacts, EngineOptions, EngineSession
from halftone.validate.source_files import SourceResults, directory_of

if TYPE_CHECKING:
    from halftone.validate.validating import Ledger, Measured, Subject

LOG_DIRECTORY: Final = "logs"
# The source's likeliest ids at each position; all others are one more outcome.
_TOP_IDS: Final = 64
_GENERATED_TOKENS: Final = 32
_GENERATED_PROMPTS: Final = 8
_DRAFTED_TOKENS: Final = 64
_DIVERGENCE: Final = frozenset({Metric.KlDivergence, Metric.TopOneAgreement, Metric.Perplexity})

Answer = dict[str, Any]


def run_engine_gates(subject: "Subject", gates: Sequence[Gate], ledger: "Ledger") -> None:
    """Measure and judge `gates`, cheap ones first; book each in `ledger`.

    Raises EnvironmentFault without vLLM or when its process dies, CheckFailed when not even the
    source loads.
    """
    ordered = sorted(gates, key=lambda gate: METRIC_ORDER.index(gate.metric))
    source = directory_of(subject.source)
    file = subject.validation.promptFile
    prompts = prompt_set(None if file is None else Path(file), sees=can_see(source))
    options = _options(ordered)
    answers = SourceAnswers(subject, ordered, source, prompts, options).gather()
    checkpoint = subject.workdir / CHECKPOINT_DIRECTORY
    log = subject.workdir / LOG_DIRECTORY / "quantized.log"
    session = EngineSession(checkpoint, log=log, options=options)
    try:
        with session:
            ledger.platform = _platform(session.facts)
            measuring = Measuring(subject, ordered, prompts, answers, session)
            _judge_in_order(ordered, measuring, ledger)
    except CheckFailed as error:
        _book_failed_load(ordered, error, ledger)


def _options(gates: Sequence[Gate]) -> EngineOptions:
    """The same for both models, or they could not be compared."""
    fetches = any(gate.metric is Metric.Task and not is_local(gate.task) for gate in gates)
    most = max((g.concurrency for g in gates if g.metric is Metric.Speed), default=0)
    return EngineOptions(offline=not fetches, maxSequences=max(EngineOptions.maxSequences, most))


def _platform(facts: EngineFacts) -> Platform:
    return Platform(
        device=facts.device,
        emulated=facts.emulated,
        engine=facts.engine,
        driver=facts.driver,
        kernels=facts.kernels,
    )


# The source ---------------------------------------------------------------------------------------


class SourceAnswers:
    """What the source says to everything that the gates want to compare with."""

    def __init__(
        self,
        subject: "Subject",
        gates: Sequence[Gate],
        source: Path,
        prompts: PromptSet,
        options: EngineOptions,
    ) -> None:
        self._gates, self._source, self._prompts = gates, source, prompts
        self._options = options
        self._log = subject.workdir / LOG_DIRECTORY / "source.log"
        self._kept = SourceResults(subject.source)
        self._open: EngineSession | None = None
        self._sessions = ExitStack()

    def gather(self) -> dict[str, Answer]:
        """Answers by `score`, `floor` and the names of gates; the model is loaded if one lacks."""
        answers: dict[str, Answer] = {}
        with self._sessions:
            if any(gate.metric in _DIVERGENCE for gate in self._gates):
                answers |= self._divergence()
            for gate in self._gates:
                if isinstance(gate, Task):
                    answers[gate.name] = self._task(gate)
                elif isinstance(gate, Speed):
                    # Never kept: both models have to be timed in one run.
                    asked = speed.parameters(gate, card=False)
                    answers[gate.name] = self._ask("speed", asked)
        return answers

    def _task(self, gate: Task) -> Answer:
        asked = _task_parameters(gate)
        key = self._key({**asked, "files": _task_files(gate)})
        return self._kept.or_measured("task", key, lambda: self._ask("task", asked))

    def _divergence(self) -> dict[str, Answer]:
        rows = self._prompts.rows
        asked = self._key({"prompts": self._prompts.sha256, "topK": _TOP_IDS})
        score = self._kept.or_measured(
            "score", asked, lambda: self._ask("score", {"prompts": rows, "topK": _TOP_IDS})
        )
        again = {"prompts": rows, "source": score["prompts"], "reversed": True, "together": 1}
        floor = self._kept.or_measured("floor", asked, lambda: self._ask("follow", again))
        return {"score": score, "floor": floor}

    def _key(self, asked: Answer) -> Answer:
        """What decides an answer beside the source itself; machines of other GPUs may share it."""
        gpu = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
        installed = {name: _version(name) for name in ("halftone", "lm_eval", "vllm")}
        machine = {"gpu": gpu, "gpuNames": sorted(gpu_names())}
        return {**asked, **installed, **machine, "maxModelLen": self._options.maxModelLen}

    def _ask(self, question: str, parameters: Answer) -> Answer:
        if self._open is None:
            session = EngineSession(self._source, log=self._log, options=self._options)
            self._open = self._sessions.enter_context(session)
        return self._open.ask(question, **parameters)


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:  # asking the engine says so, in a sentence
        return ""


def _task_parameters(gate: Task) -> Answer:
    return {"task": gate.task, "sampleLimit": gate.sampleLimit}


def _task_files(gate: Task) -> dict[str, str]:
    """Digests of what decides a local task's score."""
    if not is_local(gate.task):
        return {}
    files = read_local_task(Path(gate.task)).files
    return {str(path): sha256_hex(path.read_bytes()) for path in sorted(files)}


# The quantized model ------------------------------------------------------------------------------


class Measuring:
    """Asks the loaded quantized model what each gate needs, once."""

    def __init__(
        self,
        subject: "Subject",
        gates: Sequence[Gate],
        prompts: PromptSet,
        source: Mapping[str, Answer],
        session: EngineSession,
    ) -> None:
        self._subject, self._gates = subject, gates
        self._prompts, self._source, self._session = prompts, source, session
        self._tasks: dict[str, Measured] = {}

    def measure(self, gate: Gate) -> "Measured":
        """The gate's result and evidence."""
        match gate:
            case EngineLoads():
                return self._engine_loads(gate)
            case Task():
                return self._all_tasks()[gate.name]
            case AcceptanceLength():
                return self._acceptance(gate)
            case Speed():
                return self._speed(gate)
            case KlDivergence() | TopOneAgreement() | Perplexity():
                return divergence.judge(gate, self._divergence), self._divergence_evidence
            case WeightError():
                raise AssertionError("a gate on files is measured elsewhere. This is a bug.")

    def _engine_loads(self, gate: EngineLoads) -> "Measured":
        rows = self._prompts.rows[:_GENERATED_PROMPTS]
        answer = self._session.ask("generate", prompts=rows, maxTokens=_GENERATED_TOKENS)
        plan = self._subject.planned.plan
        names = (row.name for shard in self._subject.planned.shards for row in shard.rows)
        return engine_loads.judge(
            gate,
            self._session.facts,
            answer["generated"],
            self._session.log_text(),
            calibrated=any(name.endswith((".k_scale", ".v_scale")) for name in names),
            formats=[line.format for line in plan.roles if line.format is not None],
        )

    @cached_property
    def _divergence(self) -> Divergence:
        score = self._source["score"]
        rows = self._prompts.rows
        answer = self._session.ask("follow", prompts=rows, source=score["prompts"])
        kinds, digest = self._prompts.kinds, self._prompts.sha256
        return divergence.compare(score, answer, self._source["floor"], kinds, digest)

    @cached_property
    def _divergence_evidence(self) -> Answer:
        return divergence.evidence(self._divergence)

    def _all_tasks(self) -> "dict[str, Measured]":
        """Tasks are judged together, since each is one more chance of a wrong claim."""
        if not self._tasks:
            gates = [gate for gate in self._gates if isinstance(gate, Task)]
            found = [self._session.ask("task", **_task_parameters(gate)) for gate in gates]
            judged = judge_tasks(gates, [self._source[gate.name] for gate in gates], found)
            self._tasks = {g.name: row for g, row in zip(gates, judged, strict=True)}
        return self._tasks

    def _speed(self, gate: Speed) -> "Measured":
        found = self._session.ask("speed", **speed.parameters(gate))
        return speed.judge(
            gate,
            self._source[gate.name],
            found,
            self._session.facts,
            self._subject.document.digest,
            self._subject.workdir,
        )

    def _acceptance(self, gate: AcceptanceLength) -> "Measured":
        """In a session of its own, because speculation is an option of the whole engine.

        It is the last metric of the order: nothing is asked of the plain session after it, which
        ends first, because a GPU has no memory for both.
        """
        self._session.__exit__(None, None, None)
        options = EngineOptions(arguments=acceptance_length.engine_arguments())
        log = self._subject.workdir / LOG_DIRECTORY / "speculative.log"
        with EngineSession(self._session.model, log=log, options=options) as session:
            rows = [row for row in self._prompts.rows if "image" not in row]
            answer = session.ask("accept", prompts=rows, maxTokens=_DRAFTED_TOKENS)
            return acceptance_length.judge(gate, session.facts, answer)


def _judge_in_order(gates: Sequence[Gate], measuring: Measuring, ledger: "Ledger") -> None:
    for gate in gates:
        failed = ledger.failed
        if failed is not None:
            ledger.skip(gate, f"Not run, because '{failed.name}' failed.")
            continue
        ledger.add(*_measured(gate, measuring.measure))


def _measured(gate: Gate, measure: Callable[[Gate], "Measured"]) -> "Measured":
    """What vLLM cannot answer although it loaded is the checkpoint's failure."""
    try:
        return measure(gate)
    except CheckFailed as error:
        return _failure(gate, error), {"error": error.message}


def _book_failed_load(gates: Sequence[Gate], error: CheckFailed, ledger: "Ledger") -> None:
    """Every gate needs a model that loads; the first says that it does not."""
    first, *rest = gates
    if isinstance(first, EngineLoads):
        ledger.add(*engine_loads.failed_to_load(first, error))
    else:
        ledger.add(_failure(first, error), {"error": error.message})
    for gate in rest:
        ledger.skip(gate, f"Not run, because '{first.name}' failed.")


def _failure(gate: Gate, error: CheckFailed) -> GateResult:
    return GateResult(
        name=gate.name,
        metric=Metric(gate.metric),
        outcome=Outcome.Failed,
        message=error.message,
        culprit=error.subject,
    )
