"""The engine: a continuous batch over live items, on one thread beside the event loop.

It fills a batch with the copies that live items want, oldest first, admits as many items as it has room for, and has it
classified. While that is under way it fills a second one. When a batch lands it hands out the answers and retires what
is decided. Nothing waits for a batch to fill.
"""

from __future__ import annotations

import hmac
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from itertools import groupby

import structlog
import torch

from guard.errors import DeadlineExceeded, EngineStopped, GuardError, Overloaded
from guard.model.backend import Backend, device_of
from guard.plural import counted
from guard.screen.admission import Door, Job, Pace
from guard.screen.batch import HostReplica, Replica, share_out
from guard.screen.device import DeviceReplica
from guard.screen.flight import Evaluator, Flight
from guard.screen.keystream import NONCE_BYTES
from guard.screen.live import Decided, LiveItem, Share, Stages
from guard.screen.trial import MODEL, Detector
from guard.values import FaultReason, Float32Array, Screening

HANG_S = 60.0
"""A turn that takes longer won't end: the slowest replica gives up sooner."""

_IDLE_S = 0.05
_CAUTION = 1.25
"""By how much the wait may turn out longer than expected: what expires half-way has cost evaluations for nothing. Row
10 of `benchmarks.engine` is what this and the next two were chosen by."""
_FEW_COPIES = 32
_NEAR_BATCHES = 20
_log = structlog.get_logger(__name__)


class Engine:
    """Screens items against one guarded model.

    `backends` maps a trial's backend name to a replica; MODEL is always there. `secret` seeds the noise by
    HMAC(secret, model fingerprint and input), so that a replay gets the same answer. With `decided`, detectors run
    stage by stage, and later stages are spared an item whose verdict can't change any more. With `on_device`, copies
    are made on the replica's device even where that is the CPU.
    """

    def __init__(
        self,
        *,
        detectors: Sequence[Detector],
        backends: Mapping[str, Backend],
        secret: bytes,
        decided: Decided | None = None,
        max_queued_items: int = 256,
        max_live_items: int = 64,
        on_device: bool = False,
    ) -> None:
        self._stages = _stages(detectors, staged=decided is not None)
        self._backends = frozenset(backends)
        self._decided = decided
        self._key = hmac.digest(secret, backends[MODEL].info.fingerprint.encode(), "sha256")
        self._replicas = tuple(
            _replica(name, backend, self._key, on_device=on_device) for name, backend in backends.items()
        )
        self._door = Door(max_queued_items)
        self._pace = Pace()
        self._live: dict[LiveItem, Job] = {}
        self._evaluator = Evaluator()
        self._flights: deque[tuple[Replica, Flight]] = deque()
        self._landed = 0.0
        self._max_live_items = max_live_items
        self._stopping = threading.Event()
        self._dead = threading.Event()
        self._turn_began = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="guard-engine", daemon=True)

    def start(self) -> None:
        """Start the engine thread."""
        self._evaluator.start()
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stop the thread; whatever was not answered fails with EngineStopped. The backends stay the caller's.

        A replica that hangs for longer than `timeout_s` is left behind on its daemon thread.
        """
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
            self._evaluator.join(0.0 if self._thread.is_alive() else timeout_s)
        self._fail_all()

    @property
    def alive(self) -> bool:
        """Whether the engine thread runs and takes items."""
        return self._thread.is_alive() and not self._stopping.is_set() and not self._dead.is_set()

    @property
    def hangs(self) -> bool:
        """Whether the thread runs and gets nowhere: a detector or a replica doesn't come back."""
        return self.alive and time.monotonic() - self._turn_began > HANG_S

    @property
    def depth(self) -> int:
        """Items waiting to be admitted."""
        return len(self._door)

    @property
    def live(self) -> int:
        """Items that are being screened."""
        return len(self._live)

    @property
    def busy_s(self) -> float:
        """Seconds that evaluations were under way, since the start."""
        return self._pace.busy_s

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is screened."""
        return not (len(self._door) or self._live)

    def submit(
        self, x: Float32Array, *, deadline_s: float | None = None, decision_id: str = "", client: str = ""
    ) -> Future[Screening]:
        """Hand in one input of the model's shape, to be screened within `deadline_s` seconds from now.

        The future may be cancelled. It fails with DeadlineExceeded if its turn never came, and with Overloaded if it
        had to leave the queue for another client's. What is logged about the input carries `decision_id`.

        Raises:
            Overloaded: the queue is full, or too long for the item to be screened in time.
            EngineStopped: the thread isn't running.
        """
        if not self.alive:
            raise EngineStopped("the screening engine isn't running")
        if deadline_s is not None:
            self._refuse_hopeless(deadline_s, client)
        deadline = None if deadline_s is None else time.monotonic() + deadline_s
        future: Future[Screening] = Future()
        evicted = self._door.enter(Job(x, deadline, future, decision_id, client))
        if evicted is not None:
            _fail(evicted, Overloaded("the queue is full, and this client has more of it than others"))
        if self._stopping.is_set() or self._dead.is_set():  # it stopped meanwhile, and may have missed this one
            self._fail_all()
        return future

    def _refuse_hopeless(self, deadline_s: float, client: str) -> None:
        waiting = self._door.ahead(client)
        ahead = waiting + len(self._live) / 2  # live ones are half done, on average
        expected_s = _CAUTION * (ahead + 1) * self._pace.item_s
        if ahead >= 1 and expected_s > deadline_s:
            raise Overloaded(
                f"{counted(waiting, 'item is', 'items are')} waiting to be screened before it, which takes about "
                f"{expected_s * 1000:.0f} ms, and there are {deadline_s * 1000:.0f} ms for this one",
                takes_s=expected_s,
            )

    def _run(self) -> None:
        torch.set_num_threads(1)  # of this thread: the copies are small, and the cores are shared with a server
        try:
            while not self._stopping.is_set():
                self._turn_began = time.monotonic()
                self._turn()
        except BaseException:
            _log.exception("the screening engine died")
            raise
        finally:
            self._dead.set()
            self._evaluator.stop()
            self._fail_all()

    def _turn(self) -> None:
        """Launch a batch a replica, as far as something is wanted; if there was none, land the oldest flight."""
        launched = [self._launched(replica) for replica in self._replicas]  # each may, so that none waits for another
        if any(launched):
            return
        if self._flights:
            self._land(*self._flights.popleft())
        self._retire_all_done(stuck=not self._flights)

    def _launched(self, replica: Replica) -> bool:
        """Whether another flight is under way. One that nothing could be made ready beside has landed already."""
        if not replica.free or (self._flights and self._hurried(replica)):
            return False
        shares, room = self._next_batch(replica)
        if not shares:
            return False
        if not self._flights and (room or self._hurried(replica)):
            self._land(replica, replica.launch(shares))
            return False
        self._flights.append((replica, replica.launch(shares, self._evaluator)))
        return True

    def _hurried(self, replica: Replica) -> bool:
        """Whether a batch under way holds few copies, and an item's deadline is near.

        Few copies belong to an item or two, which want more as soon as they have their answers. Behind a second batch
        they would wait for items that came later.
        """
        if replica.room >= _FEW_COPIES:
            return False
        near = time.monotonic() + _NEAR_BATCHES * replica.room * self._pace.evaluation_s
        return any(job.deadline is not None and job.deadline < near for job in self._live.values())

    def _land(self, replica: Replica, flight: Flight) -> None:
        replica.land(flight)
        if replica.name == MODEL:
            landed = time.perf_counter()
            self._pace.evaluated(flight.copies, landed - max(flight.began, self._landed))
            self._landed = landed
        for item in dict.fromkeys(share.item for share in flight.shares):
            item.advance()

    def _retire_all_done(self, *, stuck: bool) -> None:
        for item, job in list(self._live.items()):
            if item.done:
                self._retire(item)
            elif job.future.cancelled():
                del self._live[item]
            elif job.expired:
                self._retire(item, FaultReason.DEADLINE)
            elif stuck and not any(item.wants(replica.name) for replica in self._replicas):
                # It wants nothing that a replica could give: a trial neither asks nor ends.
                _log.error("an item can't be screened to its end", decision_id=item.decision_id)
                self._retire(item, FaultReason.DETECTOR)

    def _next_batch(self, replica: Replica) -> tuple[list[Share], int]:
        """What is wanted of a replica, oldest item first, and the room that is left.

        New items are let in for as long as there is room.
        """
        shares: list[Share] = []
        room = replica.room
        for item in self._live:
            room = share_out(item.wants(replica.name), room, shares)
        while room > 0 and replica.name == MODEL and len(self._live) < self._max_live_items:
            admitted = self._admit()
            if admitted is None:
                break
            room = share_out(admitted.wants(MODEL), room, shares)
        return shares, room

    def _admit(self) -> LiveItem | None:
        """Let in the next item that is still waited for; with nothing else to do, wait for one a moment."""
        while (job := self._door.next(0.0 if self._live or self._flights else _IDLE_S)) is not None:
            if job.future.cancelled():
                continue
            if job.expired:
                _fail(job, DeadlineExceeded("the time allowed for screening ran out in the queue"))
                continue
            values = (job.x + 0.0).tobytes()  # zeros have signs, by which equal inputs would differ
            nonce = hmac.digest(self._key, values, "sha256")[:NONCE_BYTES]
            item = LiveItem(
                job.x, nonce, self._stages, self._backends, decided=self._decided, decision_id=job.decision_id
            )
            self._live[item] = job
            return item
        return None

    def _retire(self, item: LiveItem, reason: FaultReason | None = None) -> None:
        screening = item.close(reason)
        spent = sum(screening.spent.values())
        if reason is None:
            self._pace.finished(spent)
        elif reason is FaultReason.DEADLINE:
            self._pace.expired(spent)
        job = self._live.pop(item)
        try:
            job.future.set_result(screening)
        except InvalidStateError:  # cancelled a moment ago
            return

    def _fail_all(self) -> None:
        """Fail every item. Any thread may: it leaves the live ones in place, and what is set later comes to nothing."""
        stopped = EngineStopped("the screening engine stopped before this input was screened")
        for job in list(self._live.values()):
            _fail(job, stopped)
        for job in self._door.drain():
            _fail(job, stopped)


def _replica(name: str, backend: Backend, key: bytes, *, on_device: bool) -> Replica:
    if on_device or device_of(backend).type != "cpu":
        return DeviceReplica(name, backend, key)
    return HostReplica(name, backend, key)


def _stages(detectors: Sequence[Detector], *, staged: bool) -> Stages:
    """Detectors with their places, by stage; in one stage where nothing could be spared anyway."""
    placed = list(enumerate(detectors))
    if not staged:
        return [placed]
    placed.sort(key=lambda pair: pair[1].stage)
    return [list(group) for _, group in groupby(placed, key=lambda pair: pair[1].stage)]


def _fail(job: Job, error: GuardError) -> None:
    try:
        job.future.set_exception(error)
    except InvalidStateError:  # cancelled a moment ago
        return
