"""Compares the service with its peers on one machine, and with PostgreSQL itself, as a table of ratios.

In each round every load of the service runs before and after its peers, so that a drift of the machine's speed affects
both sides alike. A figure is the median of the rounds. The column A/A is the rate of the second run of the same load
divided by that of the first, lowest and highest: a difference within it is noise. The targets are printed for
comparison and not enforced.
"""

import argparse
import collections
import statistics

import loads
from bench import Bench, median, spread


def p99(results):
    return median(result.p99 for result in results)


def p99_to_p50(results):
    return median(result.p99 / result.p50 for result in results)


def server_cpu(results):
    return median(result.server_cpu for result in results)


def database_cpu(results):
    return median(result.database_cpu for result in results)


def memory(results):
    return max(result.memory for result in results)


# Load of the service, the peer whose rate divides its rate (or the figure to show instead), title, target.
ROWS = [
    ("create 64", "pgbench insert 64", "CreateEvent, 64 in flight / pgbench single-row insert, 64 clients", "≥ 2.5"),
    ("create 64", "pgbench insert 16", "the same / pgbench, 16 clients", ""),
    ("create 64", "service by hand 64", "the same / the same service by hand", "≥ 2.5"),
    ("create 64", "UmaDB 64", "the same / UmaDB append, 64 in flight", "≥ 0.75"),
    ("create 64", server_cpu, "the same, CPU seconds of the server per 1,000 calls", ""),
    ("create 64", database_cpu, "the same, CPU seconds of PostgreSQL per 1,000 calls", ""),
    ("create 64, one spirit", "create 64", "CreateEvent, 64 in flight, one spirit / 100 spirits", "≥ 0.9"),
    ("create 256", "create 64", "CreateEvent, 256 / 64 in flight", ""),
    ("create 256", "UmaDB 256", "CreateEvent / UmaDB append, 256 in flight", "≥ 0.6"),
    ("create 256", p99, "CreateEvent, 256 in flight, p99 in ms", "≤ 40"),
    ("create 256", p99_to_p50, "the same, p99 / p50", "≤ 2.5"),
    ("create 1", "pgbench insert 1", "CreateEvent, 1 in flight / pgbench, 1 client", "≥ 0.55"),
    ("create 1", "UmaDB 1", "the same / UmaDB append, 1 in flight", "≥ 1.0"),
    ("ingest 4 × 64", "pgbench insert 64", "IngestEvents, 4 streams × 64 in flight / pgbench single-row insert", "≥ 6"),
    ("ingest 4 × 64", "COPY by one client", "the same / COPY of the same rows by one client", "≥ 0.6"),
    ("batch 1,000 × 4, one spirit a batch", "pgbench unnest 1,000 × 4",
     "BatchCreateEvents, 1,000 × 4 callers, one spirit a batch / pgbench unnest 1,000 × 4", "≥ 1.3"),
    ("batch 1,000 × 4", "pgbench unnest 1,000 × 4", "the same, all spirits in each batch", "≥ 1.1"),
    ("get 64", "pgbench select by id 64", "GetEvent, 64 in flight / pgbench select by id, 64 clients", "≥ 1.3"),
    ("list 50, 64", "pgbench select 50, 64", "ListEvents, 50 newest of 1,000, 64 in flight / pgbench same select", "≥ 0.7"),
    ("replay of 10,000", "pgbench select of 10,000", "replay of 10,000, one stream / pgbench same select", "≥ 0.9"),
    ("replay of 10,000", memory, "the same, growth of the server's peak memory in MiB", "≤ 30"),
]


def round_of(bench, ours, peers):
    """Runs every load; returns a list of results by name, of which the service's loads have two."""
    results = collections.defaultdict(list)
    bench.sql("checkpoint")
    for name in ours:
        results[name].append(ours[name](bench))
        for load, peer, *_ in ROWS:
            if load == name and peer in peers and peer not in results:
                results[peer].append(peers[peer](bench))
        results[name].append(ours[name](bench))
    return results


def rate(results):
    return statistics.mean(result.rate for result in results)


def print_rows(rows, rounds):
    print("| row | median | lowest | highest | A/A | target |\n|---|---|---|---|---|---|")
    for load, peer, title, target in rows:
        if callable(peer):
            figures = [peer(results[load]) for results in rounds if load in results]
        else:
            figures = [rate(results[load]) / rate(results[peer]) for results in rounds if {load, peer} <= results.keys()]
        again = [results[load][1].rate / results[load][0].rate for results in rounds if load in results]
        noise = f"{min(again):.2f}–{max(again):.2f}" if again else "–"
        print(f"| {title} | {' | '.join(spread(figures))} | {noise} | {target} |")


def print_loads(rounds):
    print("\nCPU in seconds per 1,000 calls; a call of COPY is a row.\n")
    print("| load | calls/s | p50 ms | p99 ms | CPU of the server | CPU of PostgreSQL |\n|---|---|---|---|---|---|")
    for name in dict.fromkeys(name for results in rounds for name in results):
        every = [result for results in rounds for result in results[name]]
        figures = [median(getattr(result, field) for result in every) for field in ("p50", "p99", "server_cpu", "database_cpu")]
        cells = ["–" if figure is None else f"{figure:.3g}" for figure in figures]
        print(f"| {name} | {median(result.rate for result in every):,.0f} | {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="length of each measurement; its warm-up is a second")
    parser.add_argument("--only", action="append", metavar="TEXT", help="run only the service's loads with this in the name")
    args = parser.parse_args()
    with Bench(args.seconds) as bench, loads.Peers(bench) as peers:
        ours, rows = loads.service(bench), ROWS
        if args.only:
            ours = {name: load for name, load in ours.items() if any(text in name for text in args.only)}
            rows = [row for row in rows if row[0] in ours]
        bench.fill(100_000)
        bench.pgbench("create", 16)  # creates WAL files, which a long-running server recycles
        rounds = [round_of(bench, ours, peers.loads) for _ in range(args.rounds)]
    print(f"{args.rounds} rounds with {args.seconds} s per measurement.\n")
    print_rows(rows, rounds)
    print_loads(rounds)


if __name__ == "__main__":
    main()
