"""Runs a server on a new private PostgreSQL, and pgbench on the same PostgreSQL, and measures both."""

import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import tempfile

BIN = os.environ["EVENTS_BIN"]
SPIRITS = 100
CONTENT = "x" * 300
TICKS = os.sysconf("SC_CLK_TCK")
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


class Bench:
    """A running server with a new private PostgreSQL, and pgbench on the same PostgreSQL."""

    def __init__(self, seconds, *serve):
        self.seconds = seconds
        self.events = 1
        self.runs = 0
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="elephantasm-bench-"))
        self.dir.chmod(0o755)
        data = self.dir / "data"
        command = [BIN, "serve", "--listen-addr", "127.0.0.1:0", "--data-dir", data, "--log", "warn", *serve]
        self.server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.addr = self.server.stdout.readline().split()[-1]
        self.postmaster = int((data / "pgdata" / "postmaster.pid").read_text().split()[0])
        socket = (data / "pgdata" / "postmaster.pid").read_text().splitlines()[4]
        self.env = os.environ | {
            "PGHOST": socket,
            "PGUSER": "elephantasm",
            "PGDATABASE": "events",
            "PGPASSWORD": (data / "password").read_text().strip(),
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

    def fill(self, events):
        """Inserts the events that pgbench reads, with the same fields and sizes as those of `elephantasm-events bench`."""
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
        self.sql("vacuum analyze events")
        self.events = events

    def pgbench(self, script, clients, mode="prepared"):
        """Runs pgbench; returns the transactions per second."""
        self.runs += 1
        command = [self.pgbench_bin, "-n", "-M", mode, "-f", self.dir / f"{script}.sql"]
        command += ["-c", clients, "-j", min(clients, 2), "-T", self.seconds]
        command += ["-D", "n=0", "-D", f"run={self.runs}", "-D", f"events={self.events}"]
        command = [str(part) for part in command]
        output = subprocess.run(command, env=self.env, check=True, capture_output=True, text=True).stdout
        line = next(line for line in output.splitlines() if line.startswith("tps"))
        return float(line.split()[2])

    def service(self, workload, *args):
        """Runs `elephantasm-events bench`; returns its report."""
        command = self.command(workload, *args)
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    def command(self, workload, *args):
        command = [BIN, "bench", workload, "--addr", self.addr, "--json", "--warmup", 1]
        command += ["--duration", self.seconds, *args]
        return [str(part) for part in command]

    def cpu_seconds(self):
        """Returns the CPU seconds of the server, and of PostgreSQL including its exited backends."""

        def times(pid):
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return sum(map(int, fields[11:13])) / TICKS, sum(map(int, fields[13:15])) / TICKS, int(fields[1])

        own, ended, _ = times(self.postmaster)
        database = own + ended
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                own, _, parent = times(entry.name)
            except OSError:
                continue
            if parent == self.postmaster:
                database += own
        return times(self.server.pid)[0], database

    def peak_kib(self, reset=False):
        """Returns the peak resident memory of the server in KiB; `reset` starts a new measurement."""
        if reset:
            pathlib.Path(f"/proc/{self.server.pid}/clear_refs").write_text("5")
        status = pathlib.Path(f"/proc/{self.server.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def print_table(rows, rounds):
    """Prints the median, lowest and highest figure of each row; a row is a key, a title and a target."""
    print("| row | median | lowest | highest | target |\n|---|---|---|---|---|")
    for key, title, target in rows:
        values = [figures[key] for figures in rounds]
        shown = [f"{figure:.3g}" for figure in (statistics.median(values), min(values), max(values))]
        print(f"| {title} | {' | '.join(shown)} | {target} |")
