"""Measures how cost scales with the events in the table, concurrency, spirits, content size and session length.

The rounds of a sweep alternate between ascending and descending order, so that a drift in the machine's speed affects
both ends alike; a figure is the median of the rounds.
"""

import argparse
import statistics

from bench import Bench

SWEEPS = {
    "concurrency": ("CreateEvent by calls in flight", ["create", "--concurrency"], [1, 4, 16, 64, 256, 1024]),
    "spirits": ("CreateEvent, 64 in flight, by spirits", ["create", "--spirits"], [1, 10, 100, 1_000, 10_000]),
    "content": ("CreateEvent, 64 in flight, by bytes of content", ["create", "--content-bytes"], [100, 1_000, 10_000, 100_000]),
    "replay": ("replay by events of the session", ["replay", "--concurrency", 1, "--events"], [100, 1_000, 10_000, 100_000]),
}
TABLE = [10_000, 100_000, 1_000_000]
WORKLOADS = {
    "create": ["create"],
    "get": ["get"],
    "list": ["list"],
    "replay": ["replay", "--concurrency", 1],
}


def up_and_down(values, rounds):
    """Yields every value once per round, in reverse order in every other round."""
    for number in range(rounds):
        yield from values if number % 2 == 0 else reversed(values)


def sweep(seconds, rounds, title, command, values):
    print(f"\n| {title} | events/s | p50 ms | p99 ms |\n|---|---|---|---|")
    reports = {value: [] for value in values}
    with Bench(seconds) as bench:
        for value in up_and_down(values, rounds):
            bench.sql("checkpoint")
            reports[value].append(bench.service(*command, value))
    for value in values:
        rate = statistics.median(report["events_per_second"] for report in reports[value])
        p50, p99 = (
            statistics.median(report["latency_ms"][name] for report in reports[value]) for name in ("p50", "p99")
        )
        print(f"| {value:,} | {rate:,.0f} | {p50:.3g} | {p99:.3g} |", flush=True)


def table(seconds, rounds, sizes):
    """Measures servers whose tables differ in size, all running at the same time."""
    print(f"\n| events in the table | {' | '.join(WORKLOADS)} |\n|---|{'---|' * len(WORKLOADS)}")
    benches = {size: Bench(seconds) for size in sizes}
    try:
        for size, bench in benches.items():
            bench.fill(size)
        rates = {(size, name): [] for size in sizes for name in WORKLOADS}
        for name, command in WORKLOADS.items():
            for size in up_and_down(sizes, rounds):
                benches[size].sql("checkpoint")
                rates[size, name].append(benches[size].service(*command)["events_per_second"])
    finally:
        for bench in benches.values():
            bench.close()
    for size in sizes:
        medians = [statistics.median(rates[size, name]) for name in WORKLOADS]
        first = [statistics.median(rates[sizes[0], name]) for name in WORKLOADS]
        cells = [f"{rate:,.0f} ({rate / base:.2f})" for rate, base in zip(medians, first)]
        print(f"| {size:,} | {' | '.join(cells)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="length of each measurement")
    parser.add_argument("--only", choices=["table", *SWEEPS], action="append", help="run only these sweeps")
    parser.add_argument("--table-sizes", type=int, nargs="+", default=TABLE, metavar="EVENTS")
    args = parser.parse_args()
    if not args.only or "table" in args.only:
        table(args.seconds, args.rounds, args.table_sizes)
    for name, (title, command, values) in SWEEPS.items():
        if not args.only or name in args.only:
            sweep(args.seconds, args.rounds, title, command, values)


if __name__ == "__main__":
    main()
