"""Compares two binaries of the service: compare BINARY_A BINARY_B.

Each runs a server on a PostgreSQL of its own. The two runs of a load follow each other, A before B in one round and B
before A in the next; a figure is the median of the rounds, a ratio that of the rounds' ratios B / A, with the lowest
and the highest. The client is B's in both cases. `compare A A` shows which differences are noise.
"""

import argparse
import statistics

import loads
from bench import Bench


def measure(benches, every, rounds):
    """Returns the results of A and of B, in lists by load."""
    results = {name: ([], []) for name in every}
    for number in range(rounds):
        for name, load in every.items():
            for bench in benches:
                bench.sql("checkpoint")
            for side in (0, 1) if number % 2 == 0 else (1, 0):
                results[name][side].append(load(benches[side]))
    return results


def print_results(results):
    fields = [("rate", "calls/s"), ("server_cpu", "CPU of the server"), ("database_cpu", "CPU of PostgreSQL")]
    titles = [f"{title} A | B | B / A | lowest–highest" for _, title in fields]
    print(f"| load | {' | '.join(titles)} |\n|---|{'---|' * 4 * len(fields)}")
    for name, (a, b) in results.items():
        cells = []
        for field, _ in fields:
            pairs = [(getattr(first, field), getattr(second, field)) for first, second in zip(a, b)]
            ratios = [second / max(first, 1e-9) for first, second in pairs]
            cells += [show(statistics.median(side)) for side in zip(*pairs)]
            cells += [f"{statistics.median(ratios):.3f}", f"{min(ratios):.2f}–{max(ratios):.2f}"]
        print(f"| {name} | {' | '.join(cells)} |")


def show(figure):
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binaries", nargs=2, metavar="BINARY")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=4, help="length of each measurement; its warm-up is a second")
    parser.add_argument("--only", action="append", metavar="TEXT", help="run only loads with this in the name")
    args = parser.parse_args()
    a, b = args.binaries
    with Bench(args.seconds, server=a, client=b) as first, Bench(args.seconds, server=b, client=b) as second:
        every = loads.service(second)
        if args.only:
            every = {name: load for name, load in every.items() if any(text in name for text in args.only)}
        for bench in (first, second):
            bench.service("ingest")  # creates WAL files, which a long-running server recycles
        results = measure((first, second), every, args.rounds)
    print(f"{args.rounds} rounds with {args.seconds} s per measurement; CPU in seconds per 1,000 calls.\n")
    print_results(results)


if __name__ == "__main__":
    main()
