"""Runs a server on a new private PostgreSQL, and loads on it and on its PostgreSQL, and measures rates, latencies and
CPU time."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import tempfile
import time

BIN = os.environ.get("EVENTS_BIN")
SPIRITS = 100
CONTENT = "x" * 300
TICKS = os.sysconf("SC_CLK_TCK")
SAMPLE_SECONDS = 0.1
"""Interval at which CPU time is read during a load."""
COLUMNS = (
    "id, spirit_id, sequence, event_type, meta_summary, occurred_at, session_id, role, author, source_uri,"
    " dedupe_key, importance_score, revision, deleted_at, created_at, updated_at, content, meta::text"
)
# Spirits and events for pgbench have ids that its scripts can compute.
SPIRIT_ID = "('00000000-0000-7000-8000-' || lpad((%s)::text, 12, '0'))::uuid"
EVENT_ID = "('00000000-0000-7000-9000-' || lpad((%s)::text, 12, '0'))::uuid"
REPLAY_SPIRIT = SPIRITS + 1
REPLAY_EVENTS = 10_000

SCRIPTS = {
    # A hand-written insert with the spirit check and deduplication. It does not advance the spirit's last sequence; the
    # column gets a number from pgbench.
    "create": f"""
\\set n :n + 1
\\set s random(1, {SPIRITS})
insert into events (id, spirit_id, sequence, event_type, content, occurred_at, session_id, role, dedupe_key)
select gen_random_uuid(), id, :run * 1000000000000 + :client_id * 1000000000::bigint + :n, 'message.in', '{CONTENT}',
    now(), 'bench', 'user', :run || '-' || :client_id || '-' || :n
from spirits
where id = {SPIRIT_ID % ":s"} and deleted_at is null
on conflict (spirit_id, dedupe_key) where dedupe_key is not null do nothing
returning id, sequence, created_at;
""",
    "batch": f"""
\\set n :n + 1
insert into events (id, spirit_id, sequence, event_type, content, occurred_at, session_id, role, dedupe_key)
select gen_random_uuid(), spirits.id, :run * 1000000000000 + :client_id * 1000000000::bigint + :n * 1000 + k,
    'message.in', content, now(), 'bench', 'user', :run || '-' || :client_id || '-' || :n || '-' || k
from unnest('{{{",".join([CONTENT] * 1000)}}}'::text[]) with ordinality as new (content, k)
join spirits on spirits.id = {SPIRIT_ID % f"k % {SPIRITS} + 1"} and deleted_at is null
on conflict (spirit_id, dedupe_key) where dedupe_key is not null do nothing
returning id, sequence, created_at;
""",
    "get": f"""
\\set e random(1, :events)
select {COLUMNS} from events where id = {EVENT_ID % ":e"} and not is_deleted;
""",
    "list": f"""
\\set s random(1, {SPIRITS})
select {COLUMNS} from events where spirit_id = {SPIRIT_ID % ":s"} and not is_deleted
order by occurred_at desc, sequence desc limit 50;
""",
    "replay": f"""
select {COLUMNS} from events
where spirit_id = {SPIRIT_ID % REPLAY_SPIRIT} and session_id = 'bench' and not is_deleted
order by occurred_at, sequence;
""",
}


@dataclasses.dataclass
class Result:
    """Figures of one load. `p50` and `p99` are None if the load does not report them."""

    rate: float
    """Calls per second; rows per second of a COPY."""
    server_cpu: float
    """CPU seconds of the server per 1,000 calls, 0 if the load does not use one."""
    database_cpu: float
    """CPU seconds of PostgreSQL per 1,000 calls."""
    p50: float | None = None
    p99: float | None = None
    events: float | None = None
    """Events per second."""
    memory: float | None = None
    """Growth of the server's peak memory in MiB."""


def cpu_of(pid):
    """Returns the CPU seconds of a process and of its ended children, and its parent."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / TICKS, sum(map(int, fields[13:15])) / TICKS, int(fields[1])


class Bench:
    """A running server with a new private PostgreSQL, and loads on both.

    `server` is the program to run, and `client` the one whose `bench` command sends the calls.
    """

    def __init__(self, seconds, *serve, server=BIN, client=BIN, log="warn"):
        self.seconds = seconds
        self.client = client
        self.events = 1
        self.runs = 0
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="elephantasm-bench-"))
        self.dir.chmod(0o755)
        data = self.dir / "data"
        command = [server, "serve", "--listen-addr", "127.0.0.1:0", "--data-dir", data, "--log", log, *serve]
        self.server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.addr = self.server.stdout.readline().split()[-1]
        self.password = (data / "password").read_text().strip()
        lines = (data / "pgdata" / "postmaster.pid").read_text().splitlines()
        self.postmaster, self.socket = int(lines[0]), lines[4]
        self.env = os.environ | {
            "PGHOST": self.socket,
            "PGUSER": "elephantasm",
            "PGDATABASE": "events",
            "PGPASSWORD": self.password,
        }
        bin_dir = pathlib.Path(f"/proc/{self.postmaster}/exe").resolve().parent
        self.pgbench_bin, self.psql = bin_dir / "pgbench", bin_dir / "psql"
        for name, script in SCRIPTS.items():
            (self.dir / f"{name}.sql").write_text(script)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.server.send_signal(signal.SIGTERM)
        self.server.wait()
        shutil.rmtree(self.dir)

    def sql(self, text):
        command = [self.psql, "-qAtX", "-v", "ON_ERROR_STOP=1", "-c", text]
        return subprocess.run(command, env=self.env, check=True, capture_output=True, text=True).stdout.strip()

    def fill(self, events, analyze=True):
        """Inserts the events that pgbench reads, with the same fields and sizes as those of `elephantasm-events bench`.
        Without `analyze` autovacuum leaves the tables alone, too."""
        if not analyze:
            self.sql("alter table events set (autovacuum_enabled = off); alter table spirits set (autovacuum_enabled = off)")
        self.sql(
            f"insert into spirits (id, name, name_folded) select {SPIRIT_ID % 'n'}, 'pgbench', 'pgbench'"
            f" from generate_series(1, {REPLAY_SPIRIT}) as n"
        )
        for spirit, first, last in [
            (f"n % {SPIRITS} + 1", 1, events),
            (REPLAY_SPIRIT, events + 1, events + REPLAY_EVENTS),
        ]:
            self.sql(
                "insert into events (id, spirit_id, sequence, event_type, content, occurred_at, session_id, role,"
                f" dedupe_key) select {EVENT_ID % 'n'}, {SPIRIT_ID % f'{spirit}'}, n, 'message.in', '{CONTENT}',"
                f" to_timestamp(1700000000 + n), 'bench', 'user', 'fill-' || n from generate_series({first}, {last}) as n"
            )
        if analyze:
            self.sql("vacuum analyze events")
        self.events = events

    def run(self, command, server=None, env=None, stdin=None):
        """Runs a load; returns its output, and the CPU seconds that a second took of the process `server` and of
        PostgreSQL, over the last seconds of the load: what comes before prepares it."""
        samples = []
        command = [str(part) for part in command]
        load = subprocess.Popen(command, env=env, stdin=stdin, stdout=subprocess.PIPE, text=True)
        while load.poll() is None:
            samples.append((time.monotonic(), cpu_of(server)[0] if server else 0, self.database_cpu()))
            time.sleep(SAMPLE_SECONDS)
        output = load.stdout.read()
        if load.returncode != 0:
            raise RuntimeError(f"{command} ended with code {load.returncode}: {output}")
        end = samples[-1]
        begin = next(sample for sample in samples if sample[0] > end[0] - self.seconds)
        elapsed = max(end[0] - begin[0], SAMPLE_SECONDS)
        return output, (end[1] - begin[1]) / elapsed, (end[2] - begin[2]) / elapsed

    def pgbench(self, script, clients, mode="prepared"):
        """Runs pgbench; a call is a transaction."""
        self.runs += 1
        command = [self.pgbench_bin, "-n", "-M", mode, "-f", self.dir / f"{script}.sql"]
        command += ["-c", clients, "-j", min(clients, 2), "-T", self.seconds]
        command += ["-D", "n=0", "-D", f"run={self.runs}", "-D", f"events={self.events}"]
        output, _, database = self.run(command, env=self.env)
        line = next((line for line in output.splitlines() if line.startswith("tps")), None)
        if line is None:
            raise RuntimeError(f"pgbench finished no transaction in {self.seconds} s: {output}")
        rate = float(line.split()[2])
        return Result(rate, 0, database / rate * 1000)

    def service(self, workload, *args, addr=None, server=None):
        """Runs `elephantasm-events bench` against this server, or against a process at another address."""
        before = self.peak_kib(reset=True)
        result = self.load(self.command(workload, *args, addr=addr), server or self.server.pid)
        result.memory = (self.peak_kib() - before) / 1024
        return result

    def load(self, command, server):
        """Runs a program that calls the process `server` and prints a report as `elephantasm-events bench` does."""
        output, server, database = self.run(command, server)
        report = json.loads(output)
        rate, latency = report["calls_per_second"], report["latency_ms"]
        return Result(
            rate,
            server / rate * 1000,
            database / rate * 1000,
            latency["p50"],
            latency["p99"],
            report.get("events_per_second"),
        )

    def command(self, workload, *args, addr=None):
        command = [self.client, "bench", workload, "--addr", addr or self.addr, "--json", "--warmup", 1]
        command += ["--duration", self.seconds, *args]
        return [str(part) for part in command]

    def cpu_seconds(self):
        """Returns the CPU seconds of the server, and of PostgreSQL."""
        return cpu_of(self.server.pid)[0], self.database_cpu()

    def database_cpu(self):
        """Returns the CPU seconds of PostgreSQL, its exited backends included."""
        own, ended, _ = cpu_of(self.postmaster)
        database = own + ended
        for child in pathlib.Path(f"/proc/{self.postmaster}/task/{self.postmaster}/children").read_text().split():
            try:
                database += cpu_of(child)[0]
            except OSError:
                continue
        return database

    def peak_kib(self, reset=False):
        """Returns the peak resident memory of the server in KiB; `reset` starts a new measurement."""
        if reset:
            pathlib.Path(f"/proc/{self.server.pid}/clear_refs").write_text("5")
        status = pathlib.Path(f"/proc/{self.server.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def up_and_down(values, rounds):
    """Yields every value once per round, in reverse order in every other round."""
    for number in range(rounds):
        yield from values if number % 2 == 0 else reversed(values)


def print_table(rows, rounds):
    """Prints the median, lowest and highest figure of each row; a row is a key, a title and a target."""
    print("| row | median | lowest | highest | target |\n|---|---|---|---|---|")
    for key, title, target in rows:
        values = [figures[key] for figures in rounds if figures.get(key) is not None]
        print(f"| {title} | {' | '.join(spread(values))} | {target} |")


def spread(values):
    """Returns the median, the lowest and the highest value as text; dashes if there are none."""
    if not values:
        return ["–"] * 3
    return [f"{figure:.3g}" for figure in (statistics.median(values), min(values), max(values))]


def median(values):
    """Returns the median of the values that are not None; None if there are none."""
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None
