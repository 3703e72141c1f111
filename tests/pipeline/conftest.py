from pathlib import Path

import pytest

from tests.pipeline.runs import run_to_the_end


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished miniature run."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    run_to_the_end(folder)
    return folder
