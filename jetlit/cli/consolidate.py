"""`jetlit consolidate`."""

from jetlit.pipeline import consolidate as pipeline


def consolidate(config: pipeline.ConsolidateConfig) -> None:
    """Write the model of a fit's checkpoint."""
    pipeline.consolidate(config)
    print(f"Wrote {config.out_dir}.")
