"""The plant as whoever scales it meets it: time goes on, a reading, a number of replicas.

    plant = Plant(world, load)
    plant.run_until(15.0)
    plant.scale(wanted(plant.read()))

Called by `halftone.scaling.replay`. Replicas that are ready when the load begins have warm prefix
caches; each later one begins cold.
"""

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from halftone.scaling.loads.load import Floats, Integers, Load
from halftone.scaling.plant import state
from halftone.scaling.plant.advancing import advance
from halftone.scaling.plant.scraping import Scraper
from halftone.scaling.reading import Reading

if TYPE_CHECKING:
    from halftone.scaling.replay import World

_ROWS_AT_FIRST: Final = 16


class Moment(NamedTuple):
    """The plant as it truly was at a scrape."""

    time_s: float
    arrived: int  # requests so far
    wanted: int
    ready: int
    starting: int
    kv_usage: float  # mean of the ready replicas
    waiting: int


class Plant:
    """N replicas behind a router, with one load. Times are seconds since the load began.

    `requests` and `replicas` are its arrays, for whoever looks at single requests; `lives` has the
    rows (asked, gone) of replicas that are gone, `history` a row a scrape.
    """

    def __init__(self, world: "World", load: Load) -> None:
        self.world = world
        self.load = load
        self.now_s = 0.0
        self.rules = state.rules(world.capacity, world.client_timeout_s, world.router)
        self.requests = state.requests(load, world.seed)
        self.replicas = state.replicas(_ROWS_AT_FIRST)
        self.running = state.running(_ROWS_AT_FIRST, world.capacity.max_sequences)
        self.cursor: Integers = state.cursor(len(load))
        self.lives: list[tuple[float, float]] = []
        self._leads = np.random.default_rng((world.seed, 2))
        self._names: dict[int, str] = {}
        self.history: list[Moment] = []
        self._wanted = world.start
        self._begun = 0
        self._preemptions = 0  # of replicas that are gone
        self._scraper = Scraper(world.scrape_interval_s, world.capacity.kv_blocks)
        self._scrapes = 0
        for _ in range(world.start):
            row = self._begin(0.0)
            self.replicas.status[row] = state.READY
            self.replicas.served[row] = state.WARM_AFTER

    @property
    def idle(self) -> bool:
        """Whether every request of the load is settled: answered or dropped."""
        return bool(self.cursor[state.OPEN] == 0)

    @property
    def held(self) -> int:
        """Requests in front of the replicas now."""
        return int(self.cursor[state.HELD_COUNT])

    @property
    def preemptions(self) -> int:
        """So far, on all replicas that there were."""
        return self._preemptions + int(self.replicas.counters[:, state.PREEMPTIONS].sum())

    @property
    def dropped(self) -> int:
        """Requests so far that no replica could hold, or whose client went."""
        return int(np.count_nonzero(self.requests.state == state.DROPPED))

    @property
    def last_answer_s(self) -> float:
        """When the last token so far was there; 0 before."""
        answered = self.requests.last_s[~np.isnan(self.requests.last_s)]
        return float(answered.max()) if len(answered) else 0.0

    def counts(self) -> tuple[int, int, int]:
        """Replicas that are ready, starting, draining now."""
        status = self.replicas.status
        kinds = (state.READY, state.STARTING, state.DRAINING)
        ready, starting, draining = (int(np.count_nonzero(status == kind)) for kind in kinds)
        return ready, starting, draining

    def kv_usage(self) -> float:
        """Share of the blocks of ready replicas that is in use now; 0 without one."""
        blocks = self.replicas.blocks[self.replicas.status == state.READY]
        return float(blocks.mean()) / self.rules.kv_blocks if len(blocks) else 0.0

    def waiting(self) -> int:
        """Requests that wait now, in replicas and in front of them."""
        return int(self.replicas.waiting.sum()) + self.held

    def run_until(self, time_s: float) -> None:
        """Let everything happen until `time_s`, that moment included, and be scraped on the way.

        Raises ValueError for a time that is gone.
        """
        if time_s < self.now_s:
            raise ValueError(f"the plant is at {self.now_s} s and cannot go back to {time_s} s")
        interval_s = self.world.scrape_interval_s
        while (scrape_s := self._scrapes * interval_s) <= time_s:
            self._advance(scrape_s)
            rows = {self._names[row]: row for row in self._rows(state.READY, state.DRAINING)}
            self._scraper.take(scrape_s, rows, self.replicas, self.held)
            self._scrapes += 1
            self.history.append(self._moment())
        self._advance(time_s)

    def read(self) -> Reading:
        """What can be known now: the counts as they are, everything else one scrape late."""
        ready, starting, draining = self.counts()
        names = [self._names[row] for row in self._rows(state.READY)]
        return Reading(
            time_s=self.now_s,
            ready=ready,
            starting=starting,
            draining=draining,
            replicas=self._scraper.replicas_at(self.now_s, names),
            held=self._scraper.held_at(self.now_s),
        )

    def scale(self, wanted: int) -> None:
        """Have `wanted` replicas, ready and starting together.

        More: each is paid for from now on, and ready after a lead of its own. Fewer: those that
        start are given up first, the newest before others; then the least loaded drain: they get
        no new requests and are paid until their last answer. One that drains never comes back.
        """
        self._wanted = wanted
        ready, starting, _ = self.counts()
        for _ in range(wanted - ready - starting):
            row = self._begin(self.now_s)
            self.replicas.status[row] = state.STARTING
            self.replicas.ready_s[row] = self.now_s + self._lead_s()
        surplus = ready + starting - wanted
        if surplus <= 0:
            return
        newest = sorted(self._rows(state.STARTING), key=self._age)[:surplus]
        for row in newest:
            self.replicas.status[row] = state.GONE
            self.replicas.gone_s[row] = self.now_s
        loads = self.replicas.sequences + self.replicas.waiting
        by_load = sorted(self._rows(state.READY), key=lambda row: (loads[row], self._age(row)))
        for row in by_load[: surplus - len(newest)]:
            self._drain(row)
        self._bury()

    def finish(self) -> None:
        """Go on until every request is settled.

        Raises RuntimeError when that never happens: nothing runs, and nothing is to come.
        """
        while not self.idle:
            if self._is_stuck():
                raise RuntimeError("requests wait, and no replica of the plant will take them")
            self.run_until(self.now_s + self.world.scrape_interval_s)

    def paid_s(self, until_s: float) -> float:
        """Replica-seconds from each ask until the replica was gone, or until `until_s`."""
        alive = (state.READY, state.STARTING, state.DRAINING)
        asked = self.replicas.asked_s[self._rows(*alive)]
        gone = sum(min(gone, until_s) - min(asked, until_s) for asked, gone in self.lives)
        return float(gone + np.maximum(until_s - asked, 0.0).sum())

    def _advance(self, time_s: float) -> None:
        advance(self.rules, self.requests, self.replicas, self.running, self.cursor, time_s)
        self.now_s = time_s
        self._bury()

    def _moment(self) -> Moment:
        ready, starting, _ = self.counts()
        arrived = int(self.cursor[state.NEXT])
        usage = self.kv_usage()
        return Moment(self.now_s, arrived, self._wanted, ready, starting, usage, self.waiting())

    def _rows(self, *kinds: int) -> list[int]:
        """Of replicas that are of one of these kinds."""
        return [int(row) for row in np.flatnonzero(np.isin(self.replicas.status, kinds))]

    def _age(self, row: int) -> int:
        """By which the newest replica comes first."""
        return -int(self._names[row].rpartition("-")[2])

    def _lead_s(self) -> float:
        """From an ask until ready: lognormal around `lead_s`, which is its mean."""
        lead_s, spread = self.world.lead_s, self.world.lead_spread
        if lead_s <= 0 or spread <= 0:
            return max(0.0, lead_s)
        variance = math.log1p(spread**2)
        centre = math.log(lead_s) - variance / 2
        return float(self._leads.lognormal(centre, math.sqrt(variance)))

    def _begin(self, time_s: float) -> int:
        """A free row for a replica that is asked for now, which has served nothing."""
        free = self._rows(state.FREE)
        if not free:
            rows = len(self.replicas)
            free = [rows]
            self.replicas = state.more_replicas(self.replicas, rows)
            self.running = np.concatenate([self.running, np.full_like(self.running, state.NOBODY)])
        row = free[0]
        self.replicas.asked_s[row] = time_s
        self._names[row] = f"replica-{self._begun}"
        self._begun += 1
        return row

    def _drain(self, row: int) -> None:
        if self.replicas.step_end_s[row] == math.inf:
            self.replicas.status[row] = state.GONE
            self.replicas.gone_s[row] = self.now_s
        else:
            self.replicas.status[row] = state.DRAINING

    def _bury(self) -> None:
        """Remember those that are gone, and free their rows."""
        for row in self._rows(state.GONE):
            self.lives.append((float(self.replicas.asked_s[row]), float(self.replicas.gone_s[row])))
            self._preemptions += int(self.replicas.counters[row, state.PREEMPTIONS])
            self.replicas[row] = state.replicas(1)[0]
            del self._names[row]

    def _is_stuck(self) -> bool:
        """Whether requests wait although nothing runs, arrives, starts or expires any more."""
        runs = math.isfinite(self.replicas.step_end_s.min())
        arrives = self.cursor[state.NEXT] < len(self.load)
        last_s = self.load.duration_s + self.world.client_timeout_s
        expires = math.isfinite(last_s) and self.now_s <= last_s
        return not (runs or arrives or expires or self._rows(state.STARTING))


def answers(plant: Plant) -> tuple[Floats, Floats]:
    """TTFT and mean ITL of each request in seconds, NaN where there was none: of dropped ones, and
    the ITL of a single token.
    """
    requests = plant.requests
    done = requests.state == state.DONE
    ttft = np.where(done, requests.first_s - requests.arrival_s, math.nan)
    later = np.where(done & (requests.output > 1), requests.output - 1, math.nan)
    return ttft, (requests.last_s - requests.first_s) / later
