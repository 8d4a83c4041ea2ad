"""The loads that benches/table.py and benches/compare.py measure, by name: those of the service, and those of peers."""

import os
import pathlib
import re
import socket
import subprocess
import sys
import time
import uuid

from bench import CONTENT, REPLAY_EVENTS, SPIRITS, Result

LIST = ("list", "--events", 100_000)
SERVICE = {
    "create 1": ("create", "--concurrency", 1),
    "create 64": ("create",),
    "create 64, one spirit": ("create", "--spirits", 1),
    "create 256": ("create", "--concurrency", 256),
    "create 64, one spirit, 200 edits/s of it": ("create", "--spirits", 1, "--edits", 200),
    "edit 1": ("edit", "--concurrency", 1),
    "edit 64": ("edit",),
    "edit 64, one spirit": ("edit", "--spirits", 1),
    "ingest 4 × 64": ("ingest", "--streams", 4, "--concurrency", 256),
    "batch 1,000 × 4": ("batch", "--concurrency", 4),
    "batch 1,000 × 4, one spirit a batch": ("batch", "--concurrency", 4, "--batch-spirits", 1),
    "get 64": ("get",),
    "list 50, 64": LIST,
    "replay of 10,000": ("replay", "--concurrency", 1, "--events", REPLAY_EVENTS),
}
"""Arguments of `elephantasm-events bench`."""

BASELINE_DIR = os.environ.get("BASELINE_DIR")
"""Directory of the programs of benches/baseline."""
UMADB_DIR = os.environ.get("UMADB_DIR")
"""Directory of the Python package umadb, which contains the server."""


def service(bench):
    """Returns the loads of the service. Loads whose options the client does not have are left out."""
    options = subprocess.run([bench.client, "bench", "--help"], check=True, capture_output=True, text=True).stdout
    loads = {}
    for name, arguments in SERVICE.items():
        unknown = [word for word in arguments if str(word).startswith("--") and word not in options]
        if unknown:
            leave_out(name, f"`bench` does not have {unknown[0]}")
        else:
            loads[name] = lambda bench, arguments=arguments: bench.service(*arguments)
    return loads


def leave_out(name, reason):
    print(f"LEFT OUT: {name}: {reason}", file=sys.stderr, flush=True)


class Peers:
    """The servers of peers, beside the PostgreSQL of a bench, and their loads."""

    def __init__(self, bench):
        self.bench = bench
        self.servers = []
        self.loads = {
            "pgbench insert 1": lambda bench: bench.pgbench("create", 1),
            "pgbench insert 16": lambda bench: bench.pgbench("create", 16),
            "pgbench insert 64": lambda bench: bench.pgbench("create", 64),
            "COPY by one client": copy,
            "pgbench unnest 1,000 × 4": lambda bench: bench.pgbench("batch", 4, "simple"),
            "pgbench select by id 64": lambda bench: bench.pgbench("get", 64),
            "pgbench select 50, 64": lambda bench: bench.pgbench("list", 64),
            "pgbench select of 10,000": lambda bench: bench.pgbench("replay", 1),
        }
        if BASELINE_DIR:
            self.start_by_hand()
        else:
            leave_out("service by hand", "BASELINE_DIR is not set")
        if BASELINE_DIR and UMADB_DIR:
            self.start_umadb()
        else:
            leave_out("UmaDB", "its package could not be installed")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for server in self.servers:
            server.kill()
            server.wait()

    def start_by_hand(self):
        url = f"postgres://elephantasm:{self.bench.password}@localhost/events?host={self.bench.socket}"
        server = subprocess.Popen([f"{BASELINE_DIR}/by_hand", url], stdout=subprocess.PIPE, text=True)
        self.servers.append(server)
        addr = server.stdout.readline().split()[-1]
        self.loads["service by hand 64"] = lambda bench: bench.service("create", addr=addr, server=server.pid)

    def start_umadb(self):
        with socket.create_server(("127.0.0.1", 0)) as free:
            addr = "127.0.0.1:{}".format(free.getsockname()[1])
        code = "from umadb.umadb_server_cli import main; main()"
        command = [sys.executable, "-c", code, "--listen", addr, "--db-path", self.bench.dir / "uma.db"]
        server = subprocess.Popen(
            command, env=os.environ | {"PYTHONPATH": UMADB_DIR}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.servers.append(server)
        if not listens(addr):
            return leave_out("UmaDB", "it did not start")
        for calls in (1, 64, 256):
            command = [f"{BASELINE_DIR}/umadb_load", addr, calls, self.bench.seconds]
            self.loads[f"UmaDB {calls}"] = lambda bench, command=command: bench.load(command, server.pid)


def listens(addr):
    """Waits until a server listens, for ten seconds at most; returns whether it does."""
    host, port = addr.split(":")
    for _ in range(100):
        try:
            socket.create_connection((host, int(port))).close()
            return True
        except ConnectionRefusedError:
            time.sleep(0.1)
    return False


COPIED = "id, spirit_id, sequence, event_type, content, occurred_at, session_id, role, dedupe_key"


def copy(bench):
    """Copies rows with the fields and sizes of those of `elephantasm-events bench` in one transaction. A call is a
    row."""
    bench.runs += 1
    rows = 25_000 * bench.seconds
    path = bench.dir / "copy.tsv"
    with path.open("w") as file:
        start = time.time_ns() // 1_000_000
        for n in range(rows):
            # Ids ascend, as those of the service do.
            event = uuid.UUID(int=(start + n // 25 << 80) | 7 << 76 | n << 16 | bench.runs)
            spirit = f"00000000-0000-7000-8000-{n % SPIRITS + 1:012}"
            sequence = bench.runs * 10**12 + n + 1
            key = f"copy-{bench.runs}-{n}"
            file.write(f"{event}\t{spirit}\t{sequence}\tmessage.in\t{CONTENT}\tnow\tbench\tuser\t{key}\n")
    command = [bench.psql, "-qX", "-v", "ON_ERROR_STOP=1", "-c", r"\timing on"]
    command += ["-c", rf"\copy events ({COPIED}) from '{path}'"]
    output, _, database = bench.run(command, env=bench.env)
    path.unlink()
    rate = rows / (float(re.search(r"Time: ([\d.]+) ms", output)[1]) / 1000)
    return Result(rate, 0, database / rate * 1000)
