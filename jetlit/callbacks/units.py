"""Units of the numbers a run reports, by the last part of their names."""

_UNITS = {
    "loss": "nats/token",
    "kl": "nats/token",
    "objective": "weighted sum",
    "feature": "relative squared error",
    "tokens": "tokens",
    "tokens_seen": "tokens",
    "parameters": "parameters",
    "steps": "steps",
    "seconds": "s",
}
_ENDINGS = {"tokens_per_s": "tokens/s", "bytes": "B", "_parameters": "parameters", "_seconds": "s"}


def unit_of(name: str) -> str:
    """The unit of metric `name` ("val/loss"); "1" for ratios, accuracies, tasks' objectives."""
    first, _, last = name.rpartition("/")
    if last in _UNITS and not first.startswith("task"):
        return _UNITS[last]
    return next((unit for ending, unit in _ENDINGS.items() if last.endswith(ending)), "1")
