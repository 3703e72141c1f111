"""Build the wheel, install it into a clean environment, and see its command begin the shipped run."""

import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 180


def install(folder: Path) -> Path:
    """Return the scripts' folder of an environment that holds the wheel, and this one's packages behind it."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT], check=True
    )
    venv.create(folder / "env")
    scripts = folder / "env/bin"
    wheel = next(folder.glob("*.whl"))
    pip = [sys.executable, "-m", "pip", "--python", scripts / "python"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", wheel], check=True)
    packages = next((folder / "env/lib").glob("python*/site-packages"))
    # Files named .pth count in an environment's own folder alone: the editable checkout of this one stays out.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return scripts


def begin(scripts: Path, folder: Path) -> None:
    """Start the quickstart of the installed package, wait until its first stage begins, and interrupt it."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = "import jetlit, jetlit_data as d, jetlit_kernels as k; print(jetlit.__file__, d.__file__, k.__file__)"
    imported = subprocess.run(
        [scripts / "python", "-c", code], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    found = imported.stdout.split()
    if not all(Path(file).is_relative_to(folder) for file in found):
        sys.exit(f"Imported from elsewhere than the wheel: {found}")
    command = [scripts / "jetlit", "postnas", "--config", "jetlit://quickstart/postnas.yaml", "--run_dir", "run"]
    with open(folder / "output.txt", "w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env={**environment, "PYTHONUNBUFFERED": "1"}, stdout=output, stderr=subprocess.STDOUT
        )
    deadline = time.monotonic() + SECONDS
    while "data: begins" not in (folder / "output.txt").read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            sys.exit(f"No stage began:\n{(folder / 'output.txt').read_text()}")
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    status = process.wait(60)
    if status != 130:
        sys.exit(f"Interrupted, it ended with status {status} instead of 130:\n{(folder / 'output.txt').read_text()}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as working:
        begin(install(Path(working)), Path(working))
    print("The wheel installs, and its command begins the shipped run.")
