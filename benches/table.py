"""Compares the service with pgbench on one private PostgreSQL, as a table of ratios.

The two runs of a ratio follow each other directly, so that noise on the machine affects both alike; a row is the
median of the rounds. The targets are printed for comparison and not enforced.
"""

import argparse

from bench import REPLAY_EVENTS, Bench, print_table


def round_of(bench):
    """Measures every row once."""
    row = {}
    bench.sql("checkpoint")
    rate = lambda report: report["calls_per_second"]
    single = {clients: bench.pgbench("create", clients) for clients in (1, 8, 16, 64)}

    before = bench.cpu_seconds()
    create = bench.service("create")
    after = bench.cpu_seconds()
    calls = create["calls"] * (1 + 1 / bench.seconds)  # including the warm-up
    row["cpu server"] = (after[0] - before[0]) / calls * 1000
    row["cpu database"] = (after[1] - before[1]) / calls * 1000
    row["create 64 / pgbench 64"] = rate(create) / single[64]
    row["create 64 / best of pgbench 8, 16"] = rate(create) / max(single[8], single[16])
    wide = bench.service("create", "--concurrency", 256)
    row["create 256 / create 64"] = rate(wide) / rate(create)
    row["p99 256"] = wide["latency_ms"]["p99"]
    row["create 1 / pgbench 1"] = rate(bench.service("create", "--concurrency", 1)) / single[1]
    row["create 64, one spirit / 100 spirits"] = rate(bench.service("create", "--spirits", 1)) / rate(create)
    ingest = bench.service("ingest", "--streams", 4, "--concurrency", 256)
    row["ingest 4 × 64 / pgbench 64"] = rate(ingest) / single[64]

    batch = bench.service("batch", "--concurrency", 4)
    row["batch 1,000 × 4 / pgbench unnest × 4"] = rate(batch) / bench.pgbench("batch", 4, "simple")
    row["get 64 / pgbench 64"] = rate(bench.service("get")) / bench.pgbench("get", 64)
    reads = ("--events", 100_000)
    newest = bench.service("list", *reads)
    row["list 50 / pgbench 64"] = rate(newest) / bench.pgbench("list", 64)
    first = bench.service("list", *reads, "--spirits", 1)
    deep = bench.service("list", *reads, "--spirits", 1, "--page-depth", 99_000)
    row["page at depth 99,000 / first"] = rate(deep) / rate(first)
    base = bench.peak_kib(reset=True)
    replay = bench.service("replay", "--concurrency", 1, "--events", REPLAY_EVENTS)
    row["rss growth"] = (bench.peak_kib() - base) / 1024
    row["replay 10,000 / pgbench"] = rate(replay) / bench.pgbench("replay", 1)
    return row


ROWS = [
    ("create 64 / pgbench 64", "CreateEvent, 64 in flight / pgbench single-row insert, 64 clients", "≥ 2.5"),
    ("create 64 / best of pgbench 8, 16", "the same / the better of pgbench at 8 and 16 clients", "≥ 2.0"),
    ("create 256 / create 64", "CreateEvent, 256 / 64 in flight", "≥ 1.35"),
    ("p99 256", "CreateEvent, 256 in flight, p99 in ms", "≤ 40"),
    ("create 1 / pgbench 1", "CreateEvent, 1 in flight / pgbench, 1 client", "≥ 0.8"),
    ("create 64, one spirit / 100 spirits", "CreateEvent, 64 in flight, one spirit / 100 spirits", "≥ 0.9"),
    ("ingest 4 × 64 / pgbench 64", "IngestEvents, 4 streams × 64 in flight / pgbench single-row insert", "≥ 6"),
    ("batch 1,000 × 4 / pgbench unnest × 4", "BatchCreateEvents, 1,000 × 4 callers / pgbench unnest 1,000 × 4", "≥ 1.2"),
    ("get 64 / pgbench 64", "GetEvent, 64 in flight / pgbench select by id, 64 clients", "≥ 1.3"),
    ("list 50 / pgbench 64", "ListEvents, 50 newest of 100,000 / pgbench same select, 64", "≥ 0.75"),
    ("replay 10,000 / pgbench", "replay of 10,000, one stream / pgbench same select", "≥ 1.0"),
    ("rss growth", "the same, growth of the server's peak memory in MiB", "≤ 30"),
    ("page at depth 99,000 / first", "page at depth 99,000 by token / first page", "≥ 0.9"),
    ("cpu server", "server CPU seconds per 1,000 creates at 64", "≤ 0.05"),
    ("cpu database", "database CPU seconds per 1,000 creates at 64", ""),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="length of each measurement")
    args = parser.parse_args()
    with Bench(args.seconds) as bench:
        bench.fill(100_000)
        bench.pgbench("create", 16)  # creates WAL files, which a long-running server recycles
        rounds = [round_of(bench) for _ in range(args.rounds)]
    print(f"Median, lowest and highest of {args.rounds} rounds with {args.seconds} s per measurement.\n")
    print_table(ROWS, rounds)


if __name__ == "__main__":
    main()
