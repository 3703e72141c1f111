"""Python's collector of reference cycles, kept from what lasts as long as a fit."""

import gc


def spare_what_is_there() -> None:
    """Leave all present objects out of the collector's searches, until `gc.unfreeze` or the next call.

    A full search goes through every object of all libraries, which holds a process up for as long as a step, at another
    step in each: the more processes, the more often one is waited for.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
