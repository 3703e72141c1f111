"""A list of jobs shared by several workers through an Optuna journal file, each job done once."""

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
POLL_SECONDS = 0.5
# Locks are held for milliseconds; one this old belongs to a worker that was killed.
LOCK_GRACE_SECONDS = 10


class SharedStudy:
    """Jobs as trials of an Optuna study on a journal file.

    Any number of workers, on any machine that sees the folder, take jobs until none is left. A worker keeps a heartbeat
    file; a job whose worker is dead is enqueued again. Journal, locks and heartbeats work on network file systems
    (links and modification times only).

    Args:
        folder: Holds `journal.log` and the workers' heartbeats.
        name: Name of the study; one journal may hold several.
        jobs: Parameters of each job, numbers or strings.
        worker: Name of this worker; by default machine, process and a random part.
    """

    def __init__(self, folder: Path, name: str, jobs: Sequence[dict[str, Any]], worker: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Absolute, and with a target that exists: Optuna's lock is a link, and it waits forever on a dangling one.
        folder = folder.resolve()
        (folder / "queue").touch()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._folder = folder
        self._jobs = list(jobs)
        self._worker = worker or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._distributions: dict[str, optuna.distributions.BaseDistribution] = {
            key: optuna.distributions.CategoricalDistribution(sorted({job[key] for job in jobs})) for key in jobs[0]
        }
        journal = str(folder / "journal.log")
        self._lock = JournalFileSymlinkLock(str(folder / "queue"), LOCK_GRACE_SECONDS)
        storage = JournalStorage(JournalFileBackend(journal, JournalFileSymlinkLock(journal, LOCK_GRACE_SECONDS)))
        self._study = optuna.create_study(
            storage=storage,
            study_name=name,
            direction="maximize",
            load_if_exists=True,
            # All jobs are enqueued. Optuna's default sampler would read all trials before each.
            sampler=optuna.samplers.RandomSampler(),
        )

    def run(
        self, work: Callable[[dict[str, Any]], tuple[float, dict[str, Any]]], on_finished: Callable[[], None]
    ) -> list[dict[str, Any]]:
        """Take jobs until every one is finished; wait for those that other workers hold.

        Args:
            work: Computes (value, any JSON value) of a job.
            on_finished: Called after each job that this worker finished.

        Returns:
            For each job, in the order given, what `work` returned beside the value.
        """
        with self._heartbeat():
            while True:
                self._lock.acquire()
                try:
                    trial = self._take()
                finally:
                    self._lock.release()
                if trial is not None:
                    value, outcome = work(dict(trial.params))
                    trial.set_user_attr("outcome", outcome)
                    self._study.tell(trial, value)
                    on_finished()
                    continue
                finished = {_key(trial.params): trial for trial in self._trials(TrialState.COMPLETE)}
                if len(finished) == len(self._jobs):
                    return [finished[_key(job)].user_attrs["outcome"] for job in self._jobs]
                time.sleep(POLL_SECONDS)

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states)

    def _take(self) -> optuna.Trial | None:
        """Enqueue jobs that no living worker has, and return one that waits. The caller holds the lock."""
        for running in self._trials(TrialState.RUNNING):
            worker = running.user_attrs.get("worker")
            if worker != self._worker and not self._alive(worker):
                self._study.tell(running.number, state=TrialState.FAIL)
        known = self._trials(TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE)
        enqueued = {_key(trial.params or trial.system_attrs["fixed_params"]) for trial in known}
        for job in self._jobs:
            if _key(job) not in enqueued:
                self._study.enqueue_trial(job)
        if not self._trials(TrialState.WAITING):
            return None
        taken = self._study.ask(self._distributions)
        taken.set_user_attr("worker", self._worker)
        return taken

    def _alive(self, worker: str | None) -> bool:
        # A job is named under the lock, so one without a name belongs to a worker that died while holding it.
        if worker is None:
            return False
        host, pid, _ = worker.rsplit("-", 2)
        if host == socket.gethostname() and not _process_exists(int(pid)):
            return False
        try:
            # Compared with our own file, since the file system's clock need not be ours.
            age = os.stat(self._beat_file(self._worker)).st_mtime - os.stat(self._beat_file(worker)).st_mtime
        except FileNotFoundError:
            return False
        return age < STALE_SECONDS

    def _beat_file(self, worker: str) -> Path:
        return self._folder / f"worker-{worker}"

    @contextlib.contextmanager
    def _heartbeat(self) -> Iterator[None]:
        stop = threading.Event()
        path = self._beat_file(self._worker)
        path.touch()

        def beat() -> None:
            while not stop.wait(HEARTBEAT_SECONDS):
                path.touch()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            path.unlink(missing_ok=True)


def _key(params: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(sorted(params.items()))


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True
