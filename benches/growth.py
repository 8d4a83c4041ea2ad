"""Measures how cost scales with the events in the table, concurrency, spirits, content size and session length.

The rounds of a sweep alternate between ascending and descending order, so that a drift in the machine's speed affects
both ends alike; a figure is the median of the rounds.
"""

import argparse
import statistics

from bench import Bench, up_and_down


def by(command, values):
    """Returns a command for each value of its last option, by the value as text."""
    return {f"{value:,}": [*command, value] for value in values}


def sessions(kind, *options):
    """Returns the commands that list sessions of spirits with few and with many of them."""
    command = ["sessions", "--concurrency", 1, "--content-bytes", 10, *options, "--events"]
    return {f"{kind}, of {value}": args for value, args in by(command, [100, 1_000_000]).items()}


SWEEPS = {
    "concurrency": ("CreateEvent by calls in flight", by(["create", "--concurrency"], [1, 4, 16, 64, 256, 1024])),
    "spirits": ("CreateEvent, 64 in flight, by spirits", by(["create", "--spirits"], [1, 10, 100, 1_000, 10_000])),
    "content": (
        "CreateEvent, 64 in flight, by bytes of content",
        by(["create", "--content-bytes"], [100, 1_000, 10_000, 100_000]),
    ),
    "replay": (
        "replay by events of the session",
        by(["replay", "--concurrency", 1, "--events"], [100, 1_000, 10_000, 100_000]),
    ),
    "sessions": (
        "ListSessions of 50, one call at a time, by sessions of the spirit",
        sessions("active within a minute")
        | sessions("active within a year", "--days", 365)
        | sessions("an owner's 50, active within a year", "--owner", "--days", 365),
    ),
    "depth": (
        "ListEvents of 50, 64 in flight, by events before the page",
        by(["list", "--events", 100_000, "--spirits", 1, "--page-depth"], [0, 1_000, 99_000]),
    ),
}
TABLE = [10_000, 1_000_000]
WORKLOADS = {
    "create": ["create"],
    "get": ["get"],
    "list": ["list"],
    "replay": ["replay", "--concurrency", 1],
}


def sweep(seconds, rounds, title, commands):
    print(f"\n| {title} | events/s | p50 ms | p99 ms |\n|---|---|---|---|")
    reports = {label: [] for label in commands}
    with Bench(seconds) as bench:
        for label in up_and_down(list(commands), rounds):
            bench.sql("checkpoint")
            reports[label].append(bench.service(*commands[label]))
    for label, results in reports.items():
        rate, p50, p99 = (statistics.median(getattr(result, name) for result in results) for name in ("events", "p50", "p99"))
        print(f"| {label} | {rate:,.0f} | {p50:.3g} | {p99:.3g} |", flush=True)


def table(seconds, rounds, sizes):
    """Measures servers whose tables differ, all running at the same time: tables of these sizes, and one of the largest
    size without statistics, as after a restore."""
    kinds = [(size, True) for size in sizes] + [(sizes[-1], False)]
    benches = {kind: Bench(seconds) for kind in kinds}
    try:
        for (size, analyze), bench in benches.items():
            bench.fill(size, analyze)
        results = {(kind, name): [] for kind in kinds for name in WORKLOADS}
        for name, command in WORKLOADS.items():
            for kind in up_and_down(kinds, rounds):
                benches[kind].sql("checkpoint")
                results[kind, name].append(benches[kind].service(*command))
    finally:
        for bench in benches.values():
            bench.close()

    def row(kind, base):
        """Returns events a second and CPU seconds of PostgreSQL per 1,000 calls, with their ratios to another row."""
        for name in WORKLOADS:
            for field in ("events", "database_cpu"):
                figure, other = (
                    statistics.median(getattr(result, field) for result in results[each, name]) for each in (kind, base)
                )
                yield f"{figure:,.0f} ({figure / other:.2f})" if field == "events" else f"{figure:.3g}"

    titles = [f"{name} | CPU" for name in WORKLOADS]
    print(f"\n| events in the table | {' | '.join(titles)} |\n|---|{'---|' * 2 * len(WORKLOADS)}")
    for kind in kinds:
        # Without statistics the ratio is to the same size with them.
        base = kinds[0] if kind[1] else kinds[-2]
        size = f"{kind[0]:,}" + ("" if kind[1] else ", never analysed")
        print(f"| {size} | {' | '.join(row(kind, base))} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="length of each measurement")
    parser.add_argument("--only", choices=["table", *SWEEPS], action="append", help="run only these sweeps")
    parser.add_argument("--table-sizes", type=int, nargs="+", default=TABLE, metavar="EVENTS")
    args = parser.parse_args()
    if not args.only or "table" in args.only:
        table(args.seconds, args.rounds, args.table_sizes)
    for name, (title, commands) in SWEEPS.items():
        if not args.only or name in args.only:
            sweep(args.seconds, args.rounds, title, commands)


if __name__ == "__main__":
    main()
