"""Runs the binary that EVENTS_BIN names, with a private PostgreSQL, for tests in Python."""

import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("EVENTS_BIN", ROOT / "target/debug/elephantasm-events")).resolve()
PATIENCE = 60


class Server:
    """The binary on a free port, with a private PostgreSQL."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="elephantasm-python-", dir="/var/tmp")
        os.chmod(self.directory, 0o755)  # PostgreSQL's user needs access
        environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        self.environment = environment | {"EVENTS_DATA_DIR": f"{self.directory}/data", "EVENTS_LISTEN_ADDR": "127.0.0.1:0"}
        with open(f"{self.directory}/log", "wb") as log:
            self.process = subprocess.Popen([BINARY], env=self.environment, stdout=subprocess.PIPE, stderr=log, text=True)
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            raise AssertionError(f"the server did not start: {line!r}\n{self.log()}")
        self.address = line.removeprefix("listening on ").strip()

    def command(self, *arguments: str, code: int = 0, environment: dict[str, str] | None = None, **options) -> str:
        """Runs a subcommand of the binary against the server and returns its output."""
        environment = self.environment | {"EVENTS_ADDR": self.address} | (environment or {})
        done = subprocess.run([BINARY, *arguments], env=environment, capture_output=True, timeout=PATIENCE, text=True, **options)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def log(self) -> str:
        return pathlib.Path(f"{self.directory}/log").read_text()

    def kill_postgres(self):
        """Kills the private PostgreSQL, which the server then starts again."""
        file = pathlib.Path(f"{self.directory}/data/pgdata/postmaster.pid")
        os.kill(int(file.read_text().splitlines()[0]), signal.SIGKILL)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE)
        self.process.stdout.close()
        shutil.rmtree(self.directory)
        return code
