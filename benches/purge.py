"""Measures creates and reads beside a purge of many events: by a call, and by retention.

Each round measures a load alone, then beside a purge that lasts longer than the load, so both are of the same minute; a
figure is the median of the rounds. Then the purge is timed to its end, and what it took of the server's memory is read.
"""

import argparse
import subprocess
import time

from bench import BIN, EVENT_ID, Bench, print_table

SPIRIT = "00000000-0000-7000-8000-000000000500"
LOADS = ["create", "get"]


def fill(bench, events):
    """Stores events of a spirit of their own, in sessions of 100, created two hours ago. As those that the service
    creates, their ids increase."""
    before = int(bench.sql(f"update spirits set last_sequence = last_sequence + {events} where id = '{SPIRIT}'"
                           f" returning last_sequence - {events}"))
    bench.sql(
        "insert into events (id, spirit_id, sequence, event_type, content, occurred_at, created_at, session_id, role, dedupe_key)"
        f" select {EVENT_ID % 'n'}, '{SPIRIT}', n,"
        " 'message.in', repeat('x', 300), now(), now() - interval '2 hours', 's' || n / 100, 'user', gen_random_uuid()::text"
        f" from generate_series({before} + 1, {before} + {events}) as n"
    )
    bench.sql(
        f"insert into sessions (spirit_id, session_id) select '{SPIRIT}', 's' || n"
        f" from generate_series({before} / 100, ({before} + {events}) / 100) as n on conflict do nothing"
    )
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
    """Measures creates and reads alone and beside one purge."""
    bench.sql(f"update spirits set retention_max_age = null where id = '{SPIRIT}'")
    fill(bench, events)
    bench.sql("checkpoint")
    alone = {load: bench.service(load) for load in LOADS}
    began, wait = time.monotonic(), start(bench)
    beside = {load: bench.service(load) for load in LOADS}
    if left(bench) == 0:
        raise RuntimeError("the purge ended before the loads: use more --events")
    wait()
    row = {"events per second": events / (time.monotonic() - began)}
    for load in LOADS:
        row[f"{load} rate"] = beside[load].rate / alone[load].rate
        row[f"{load} p99"] = beside[load].p99 / alone[load].p99
    return row


ROWS = [
    ("create rate", "creates, 64 in flight, beside a purge / alone", "≥ 0.8"),
    ("create p99", "their p99, beside / alone", "≤ 2"),
    ("get rate", "GetEvent, 64 in flight, beside a purge / alone", "≥ 0.8"),
    ("get p99", "their p99, beside / alone", "≤ 2"),
    ("events per second", "events purged per second", ""),
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
