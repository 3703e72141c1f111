"""Callbacks are tested in the same tiny real fits as the recipes."""

from tests.recipes.conftest import finished_run, run_dir  # noqa: F401
