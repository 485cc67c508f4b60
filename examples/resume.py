"""A run is killed on its way; the same command goes on from its last checkpoint, to the record of a run never killed.

python examples/resume.py [ENCODER]
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nlpcl import Record

encoder = sys.argv[1] if len(sys.argv) > 1 else "minilm"
command = [sys.executable, "-m", "nlpcl", "run", "--strategy", "hat", "--model", encoder]
command += ["--tasks", "3", "--train-size", "48", "--epochs", "2", "--out"]
with tempfile.TemporaryDirectory() as folder:
    killed, whole = Path(folder) / "killed", Path(folder) / "whole"
    with subprocess.Popen([*command, str(killed)]) as process:
        while process.poll() is None and not list(killed.glob("*/checkpoints/1")):  # saved after the first task
            time.sleep(0.01)
        process.kill()
    print("killed, with", *(path.relative_to(killed) for path in killed.glob("*/*")))
    for out in (killed, whole):
        subprocess.run([*command, str(out)], check=True)
    resumed, uninterrupted = (Record.load(next(out.glob("*/record.json"))) for out in (killed, whole))
print(f"went on from a checkpoint: {resumed.measured.resumed} time(s)")
print(f"the same matrices to the last bit: {resumed.matrices == uninterrupted.matrices}")
