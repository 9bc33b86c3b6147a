"""The app as a process of its own, to end and to start again."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from conftest import free_port

ROOT = Path(__file__).resolve().parent.parent


def environment(folder: Path, **more) -> dict[str, str]:
    """For a server with its temporary files in `folder`, and what it keeps beside that."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIRF_", "HF_", "GRADIO_", "SPACE", "PORT"))}
    home = str(folder.parent / "home")
    return kept | {"TMPDIR": str(folder), "HOME": home, "HF_HOME": home, "MPLCONFIGDIR": home} | more


class App:
    """`python app.py` with `models`, its temporary files in `folder`/tmp."""

    def __init__(self, folder: Path, models: Path, **more):
        self.temporary, self.log = folder / "tmp", folder / "log.txt"
        self.temporary.mkdir(exist_ok=True)
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        self.environment = environment(self.temporary, PORT=str(port), PIRF_CHECKPOINTS=str(models), **more)
        self.start()

    def start(self) -> None:
        with open(self.log, "a") as log:
            options = {"cwd": ROOT, "env": self.environment, "stdout": log, "stderr": log}
            self.process = subprocess.Popen([sys.executable, "app.py"], **options)

    def wait(self, seconds: float = 240) -> "App":
        """Waits for the first answer."""
        end = time.monotonic() + seconds
        while True:
            try:
                urllib.request.urlopen(f"{self.address}/config", timeout=5).read()
                return self
            except (OSError, urllib.error.URLError):
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < end, self.log.read_text()
                time.sleep(0.1)

    def __enter__(self) -> "App":
        return self.wait()

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def files(self) -> list[Path]:
        """The temporary files that are there."""
        return [path for path in self.temporary.rglob("*") if path.is_file()]
