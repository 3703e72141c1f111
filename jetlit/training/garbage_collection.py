"""Python's garbage collector during a fit."""

import gc


def freeze_gc() -> None:
    """Exclude all present objects from garbage collection, until `gc.unfreeze` or the next call.

    A full collection visits every object of all libraries and stops a process for as long as a step. It comes at
    another step in each process, so the more processes there are, the more often all wait for one.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
