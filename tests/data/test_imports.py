import subprocess
import sys

import pytest

HEAVY = ("litdata", "boto3", "pyarrow", "lightning")


@pytest.mark.parametrize("module", ["jetlit_data", "jetlit.tasks"])
def test_importing_brings_nothing_that_streams(module):
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
