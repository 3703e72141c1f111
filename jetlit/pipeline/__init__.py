"""Typed stages (a config dataclass in, a Result out), runs made of them, and the report."""
