"""A list of jobs shared by several workers through files, each job done once."""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jetlit.files import claim_folder, fenced, read_mapping, remove, write_error, write_text
from jetlit.results import config_hash

HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
POLL_SECONDS = 0.5


class Superseded(Exception):
    """This worker stood still so long that another took its job: what it still writes would come too late."""


class SharedStudy:
    """Jobs that any number of workers take until none is left, on any machine that sees the folder.

    The file `JOB.json` holds the outcome of a job, whole or not at all. A worker takes a job by creating `JOB.N`, which
    succeeds for one alone, and touches that file while it works. Where another worker sees no touch for
    `STALE_SECONDS`, or no such process on its own machine, it takes the job by creating `JOB.N+1`. The highest number
    is the owner: a worker that was stopped and continues finds it, and its writes are refused (`jetlit.files.fenced`).
    No clock is compared with another one, no lock is held, and no file is shared, so that none can be torn. All of it
    works on network file systems.

    Args:
        folder: Holds the jobs of this and other studies in `jobs/`.
        name: Name of the study, which stands for all that the outcomes depend on.
        jobs: Parameters of each job, JSON values.
    """

    def __init__(self, folder: Path, name: str, jobs: Sequence[dict[str, Any]]) -> None:
        claim_folder(folder)
        self._folder = folder / "jobs" / name
        self._jobs = {config_hash(job)[:16]: dict(job) for job in jobs}
        self._order = [config_hash(job)[:16] for job in jobs]
        self._seen: dict[Path, tuple[int, float]] = {}
        self._polled = time.monotonic()
        self._since_poll = 0.0

    def run(
        self, work: Callable[[dict[str, Any]], dict[str, Any]], on_finished: Callable[[], None]
    ) -> list[dict[str, Any]]:
        """Take jobs until every one is finished; wait for those that other workers hold.

        Args:
            work: Computes the outcome of a job, JSON values (NaN may be among them).
            on_finished: Called after each job that this worker finished.

        Returns:
            The outcome of each job, in the order given, the same for all workers.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        while True:
            outcomes = {job: outcome for job in self._jobs if (outcome := self._outcome(job)) is not None}
            if len(outcomes) == len(self._jobs):
                return [outcomes[job] for job in self._order]
            claim = self._take(job for job in self._jobs if job not in outcomes)
            if claim is None:
                time.sleep(POLL_SECONDS)
                continue
            job = claim.stem
            with contextlib.suppress(Superseded), _held(claim):
                outcome = work(dict(self._jobs[job]))
                write_text(self._folder / f"{job}.json", json.dumps({"job": self._jobs[job], "outcome": outcome}))
                for earlier in _claims(self._folder / job):
                    earlier.unlink(missing_ok=True)
                on_finished()

    def _outcome(self, job: str) -> dict[str, Any] | None:
        path = self._folder / f"{job}.json"
        if not path.exists():
            return None
        try:
            outcome = read_mapping(path, "outcome")["outcome"]
        except ValueError:
            outcome = None
        if not isinstance(outcome, dict):
            remove(path)  # damaged: the job is done again
            return None
        return outcome

    def _take(self, jobs: Iterator[str]) -> Path | None:
        """Return the claim of a job that no living worker has; None if there is none now."""
        now = time.monotonic()
        # Counted at most as far as we look: while this worker itself stood still, it saw nothing.
        self._since_poll, self._polled = min(now - self._polled, 4 * POLL_SECONDS), now
        for job in jobs:
            claims = _claims(self._folder / job)
            if claims and self._alive(claims[-1]):
                continue
            number = int(claims[-1].suffix[1:]) + 1 if claims else 1
            claim = self._folder / f"{job}.{number}"
            if _create(claim):
                if self._outcome(job) is None:
                    return claim
                claim.unlink(missing_ok=True)  # its last owner finished just now
        return None

    def _alive(self, claim: Path) -> bool:
        try:
            touched = claim.stat().st_mtime_ns
            owner = read_mapping(claim, "pid", "started", "place")
        except FileNotFoundError:
            return False  # given back
        except ValueError:
            owner = None  # is being written
        beside = owner is not None and owner["place"] is not None and owner["place"] == _process()["place"]
        if owner is not None and beside and _started(owner["pid"]) != owner["started"]:
            return False
        last, unchanged = self._seen.get(claim, (touched, -self._since_poll))
        unchanged = unchanged + self._since_poll if last == touched else 0.0
        self._seen[claim] = touched, unchanged
        return unchanged < STALE_SECONDS


def _create(claim: Path) -> bool:
    """Create a claim in the name of this process; return whether no other one was faster."""
    try:
        with open(claim, "x", encoding="utf-8") as file:
            file.write(json.dumps(_process()))
    except FileExistsError:
        return False
    except OSError as error:
        with contextlib.suppress(OSError):
            claim.unlink(missing_ok=True)
        raise write_error(claim, error) or error from error
    return True


def _claims(job: Path) -> list[Path]:
    """Return the claims on a job, the present owner's last."""
    claims = [path for path in job.parent.glob(f"{job.name}.*") if path.suffix[1:].isdigit()]
    return sorted(claims, key=lambda path: int(path.suffix[1:]))


@contextlib.contextmanager
def _held(claim: Path) -> Iterator[None]:
    """Touch a claim while the body runs, and keep it from writing once another worker has its job.

    A body that fails gives its job back.
    """
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(claim)

    def check() -> None:
        if _claims(claim.with_suffix(""))[-1:] != [claim]:
            raise Superseded

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        with fenced(check):
            yield
    except BaseException:
        claim.unlink(missing_ok=True)
        raise
    finally:
        stop.set()
        thread.join()


def _process() -> dict[str, Any]:
    """Return this process' number, when it began, and where such numbers mean the same: a boot's PID namespace."""
    try:
        place = f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        place = None
    return {"pid": os.getpid(), "started": _started(os.getpid()), "place": place}


def _started(pid: int) -> str | None:
    """Return when a process began, in the kernel's own count, so that a number given again is told; None for none."""
    try:
        # The name in parentheses may hold spaces; a zombie has ended.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
