"""Measures what each index and constraint of events costs an insert, and what the reads cost that an index serves.

Each variant is a database of its own with the same events. The server's insert runs in one PostgreSQL session, in
flushes of 32 and of 1,000 events over 100 spirits; CPU is that session's alone. Rounds are short and many, and alternate
between ascending and descending order of the variants. CPU is the median of the rounds, with the lowest in parentheses.
"""

import argparse
import pathlib
import statistics
import subprocess

from bench import CONTENT, SPIRIT_ID, SPIRITS, Bench

NO_TYPE = "drop index ix_events_occurred_at; create index ix_spirit on events (spirit_id, occurred_at, sequence)"
# Statements that turn the schema into a variant.
VARIANTS = {
    "as it is": "",
    "an index for each of spirit and event type": (
        f"{NO_TYPE}; create index ix_type on events (spirit_id, event_type, occurred_at, sequence)"
    ),
    "no index serves event types": NO_TYPE,
    "BRIN (event_type) serves event types": f"{NO_TYPE}; create index ix_brin on events using brin (event_type)",
    "as it is, and (spirit_id, session_id, sequence)": (
        "create index ix_session on events (spirit_id, session_id, sequence) where session_id is not null"
    ),
    "as it is, and a foreign key": "alter table events add foreign key (spirit_id) references spirits (id)",
}
# Parameters: number of a flush, events a flush. One event in 10,000 is an error.
INSERT = f"""
create function store(flush bigint, size int) returns void language plpgsql as $$
begin
    update spirits set last_sequence = last_sequence + 1
    where id in (select {SPIRIT_ID % f"(flush * size + n) % {SPIRITS} + 1"} from generate_series(1, size) as n);
    insert into events (id, spirit_id, sequence, event_type, content, occurred_at, session_id, role, dedupe_key)
    select
        (lpad(to_hex(1750000000000 + flush * size), 12, '0') || '7' || lpad(to_hex(n), 3, '0') || '8000' ||
            lpad(to_hex(flush * size + n), 12, '0'))::uuid,
        {SPIRIT_ID % f"(flush * size + n) % {SPIRITS} + 1"},
        flush * size + n,
        case when (flush * size + n) % 10000 = 0 then 'error'
            else (array['message.in', 'message.out', 'tool.call', 'tool.result'])[n % 4 + 1] end,
        '{CONTENT}',
        timestamptz '2025-01-01Z' + (flush * size + n) * interval '1 ms',
        'session ' || (flush * size + n) / 2000,
        'user',
        'key-' || (flush * size + n)
    from generate_series(1, size) as n;
end
$$
"""
SETTINGS = "set enable_seqscan = off; set plan_cache_mode = force_generic_plan"
RARE = f"""
select * from events
where spirit_id = {SPIRIT_ID % 1} and event_type = 'error' and occurred_at < 'infinity'
and coalesce(not is_deleted, false)
order by occurred_at desc, sequence desc
limit 50
"""


class Session:
    """A database and a session in it."""

    def __init__(self, bench, name, change, events):
        bench.sql(f"create database {name}")
        self.process = subprocess.Popen(
            [bench.psql, "-qAtX", "-v", "ON_ERROR_STOP=1"], env=bench.env | {"PGDATABASE": name},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        schema = subprocess.run([bench.psql.with_name("pg_dump"), "-s"], env=bench.env, check=True, capture_output=True, text=True)
        self.run(schema.stdout, "set search_path = public", change or "select 1", SETTINGS, INSERT)
        spirit = SPIRIT_ID % "n"
        self.run(f"insert into spirits (id, name, name_folded) select {spirit}, '', '' from generate_series(1, {SPIRITS}) n")
        self.flush = 0
        self.store(events // 1_000, 1_000)
        self.run("vacuum analyze events")
        self.pid = int(self.run("checkpoint", "select pg_backend_pid()")[-1])

    def run(self, *statements):
        """Runs statements; returns the lines of their results."""
        self.process.stdin.write("".join(f"{statement};\n" for statement in statements) + "\\echo end\n")
        self.process.stdin.flush()
        lines = []
        for line in self.process.stdout:
            if line == "end\n":
                return lines
            lines.append(line.rstrip())
        raise RuntimeError(f"psql ended: {statements}")

    def store(self, flushes, size):
        """Stores events in flushes of this size, each committed."""
        # Numbers of events grow, whatever the size.
        first = self.flush // size + 1
        self.run(*(f"select store({number}, {size})" for number in range(first, first + flushes)))
        self.flush = (first + flushes) * size

    def cost(self, flushes, size):
        """Returns the CPU of the session in µs, and the bytes of WAL, for an event."""
        before, start = self.cpu_nanos(), self.wal()
        self.store(flushes, size)
        events = flushes * size
        return (self.cpu_nanos() - before) / events / 1e3, (self.wal() - start) / events

    def cpu_nanos(self):
        return int(pathlib.Path(f"/proc/{self.pid}/schedstat").read_text().split()[0])

    def wal(self):
        return int(self.run("select pg_current_wal_insert_lsn() - '0/0'")[-1])

    def index_bytes(self):
        return int(self.run("select pg_indexes_size('events') / count(*) from events")[-1])

    def rare_type_ms(self):
        """Returns the milliseconds of a page of a rare event type."""
        lines = self.run(*(["explain (analyze, timing off) " + RARE.strip()] * 3))
        return min(float(line.split()[2]) for line in lines if line.startswith("Execution Time"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--events", type=int, default=200_000, help="events in each table before the measurement")
    parser.add_argument("--measured", type=int, default=8_000, help="events of a measurement")
    args = parser.parse_args()
    with Bench(1) as bench:
        sessions = {}
        for number, (name, change) in enumerate(VARIANTS.items()):
            sessions[name] = Session(bench, f"variant_{number}", change, args.events)
        costs = {(name, size): [] for name in VARIANTS for size in (32, 1_000)}
        for number in range(args.rounds):
            for name in VARIANTS if number % 2 == 0 else reversed(VARIANTS):
                for size in (32, 1_000):
                    costs[name, size].append(sessions[name].cost(args.measured // size, size))
        print("| indexes | CPU µs an event, 32 a flush | 1,000 a flush | WAL bytes an event | index bytes | rare type, ms |")
        print("|---|---|---|---|---|---|")
        for name, session in sessions.items():
            few, many = costs[name, 32], costs[name, 1_000]
            cpus = [[cpu for cpu, _ in figures] for figures in (few, many)]
            cells = [f"{statistics.median(cpu):.1f} ({min(cpu):.1f})" for cpu in cpus]
            cells += [f"{statistics.median(wal for _, wal in few):,.0f}", f"{session.index_bytes():,}"]
            print(f"| {name} | {' | '.join(cells)} | {session.rare_type_ms():.2f} |", flush=True)


if __name__ == "__main__":
    main()
