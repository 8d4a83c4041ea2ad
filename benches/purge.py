"""Measures creates and reads beside a purge of many events: by a call, and by retention.

Each round measures a load alone, then beside a purge that lasts longer than the load, so both are of the same minute; a
figure is the median of the rounds. Then the purge is timed to its end, and what it took of the server's memory is read.
"""

import argparse
import subprocess
import time

from bench import BIN, Bench, print_table

SPIRIT = "00000000-0000-7000-8000-000000000500"


def fill(bench, events):
    """Stores events of a spirit of their own, in 1,000 sessions, created two hours ago."""
    bench.sql(
        "insert into spirits (id, name, name_folded, last_sequence, activity_epoch)"
        f" values ('{SPIRIT}', 'purged', 'purged', {events}, 1)"
        " on conflict (id) do update set last_sequence = excluded.last_sequence + spirits.last_sequence"
    )
    bench.sql(
        "insert into events (id, spirit_id, sequence, event_type, content, occurred_at, created_at, session_id, role, dedupe_key)"
        f" select gen_random_uuid(), '{SPIRIT}', (select last_sequence from spirits where id = '{SPIRIT}') - {events} + n,"
        " 'message.in', repeat('x', 300), now(), now() - interval '2 hours', 's' || n % 1000, 'user', gen_random_uuid()::text"
        f" from generate_series(1, {events}) as n"
    )
    bench.sql(f"insert into sessions (spirit_id, session_id) select '{SPIRIT}', 's' || n from generate_series(0, 999) as n"
              " on conflict do nothing")
    bench.sql("vacuum analyze events")


def left(bench):
    return int(bench.sql(f"select count(*) from events where spirit_id = '{SPIRIT}'"))


def by_call(bench):
    """Starts a purge; returns a function that waits for its end."""
    command = [BIN, "purge", SPIRIT, "--all", "--yes", "--addr", bench.addr]
    purge = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def wait():
        if purge.wait() != 0:
            raise RuntimeError("the purge failed")

    return wait


def by_retention(bench):
    """Sets a retention of an hour; returns a function that waits until retention has purged everything."""
    command = [BIN, "retention", "set", SPIRIT, "--max-age", "1h", "--addr", bench.addr]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def wait():
        while left(bench) > 0:
            time.sleep(0.5)

    return wait


def round_of(bench, start, events):
    """Measures creates and reads alone and beside a purge."""
    row = {}
    for load in ["create", "get"]:
        bench.sql(f"update spirits set retention_max_age = null where id = '{SPIRIT}'")
        fill(bench, events)
        bench.sql("checkpoint")
        alone = bench.service(load)
        began, wait = time.monotonic(), start(bench)
        beside = bench.service(load)
        if left(bench) == 0:
            raise RuntimeError("the purge ended before the load: use more --events")
        wait()
        row[f"{load} rate"] = beside.rate / alone.rate
        row[f"{load} p99"] = beside.p99 / alone.p99
        row["seconds"] = time.monotonic() - began
    return row


ROWS = [
    ("create rate", "creates, 64 in flight, beside a purge / alone", "≥ 0.8"),
    ("create p99", "their p99, beside / alone", "≤ 2"),
    ("get rate", "GetEvent, 64 in flight, beside a purge / alone", "≥ 0.8"),
    ("get p99", "their p99, beside / alone", "≤ 2"),
    ("seconds", "duration of the purge in s", ""),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=10, help="length of each measurement")
    parser.add_argument("--events", type=int, default=1_000_000, help="events of a purge")
    args = parser.parse_args()
    for title, start in [("by a call", by_call), ("by retention", by_retention)]:
        with Bench(args.seconds, "--retention-interval", "1s") as bench:
            bench.sql(f"insert into spirits (id, name, name_folded, activity_epoch) values ('{SPIRIT}', 'purged', 'purged', 1)")
            rounds = [round_of(bench, start, args.events) for _ in range(args.rounds)]
            memory = bench.peak_kib() / 1024
        print(f"\nA purge of {args.events:,} events {title}; peak memory of the server {memory:.0f} MiB\n")
        print_table(ROWS, rounds)


if __name__ == "__main__":
    main()
