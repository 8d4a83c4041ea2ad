"""Measures writes on databases of a Citus cluster, each with a server of its own: on one that is not distributed, and on
distributed ones, which may differ in the number of shards.

The databases exist and have the schema; docs/operations.md describes how to make and to distribute them. They keep what the loads
store. The servers take turns, in reverse order in every other round; a figure is the median of the rounds.
"""

import argparse
import json
import signal
import statistics
import subprocess

from bench import BIN, up_and_down

LOADS = {
    "CreateEvent, 64 in flight": ["create", "--concurrency", 64],
    "CreateEvent, 512 in flight": ["create", "--concurrency", 512],
    "IngestEvents, 4 × 128 in flight": ["ingest", "--streams", 4, "--concurrency", 512],
    "BatchCreateEvents, 1,000 × 4, one spirit a batch": ["batch", "--concurrency", 4, "--batch-spirits", 1],
}


def start(url, *options):
    """Starts a server; returns it and its address."""
    command = [BIN, "serve", "--listen-addr", "127.0.0.1:0", "--database-url", url, "--log", "warn", *options]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    line = server.stdout.readline()
    if not line:
        raise RuntimeError(f"the server did not start; its code is {server.wait()}")
    return server, line.split()[-1]


def measure(addr, seconds, load):
    """Returns the events stored in a second."""
    command = [BIN, "bench", *load, "--addr", addr, "--json", "--warmup", 1, "--duration", seconds]
    output = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output)["events_per_second"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="length of each measurement; its warm-up is a second")
    parser.add_argument("--plain", metavar="URL", help="a database that is not distributed")
    parser.add_argument("distributed", nargs="*", metavar="NAME=URL", help="a distributed database, and its name in the table")
    args = parser.parse_args()
    databases = [("not distributed", args.plain, [])] if args.plain else []
    for each in args.distributed:
        name, _, url = each.partition("=")
        databases.append((name, url, ["--citus"]))
    servers = {}
    figures = {(name, title): [] for name, _, _ in databases for title in LOADS}
    try:
        for name, url, options in databases:
            servers[name] = start(url, *options)
        for title, load in LOADS.items():
            for name in up_and_down(list(servers), args.rounds):
                figures[name, title].append(measure(servers[name][1], args.seconds, load))
    finally:
        for server, _ in servers.values():
            server.send_signal(signal.SIGTERM)
        for server, _ in servers.values():
            server.wait()
    print(f"| events/s | {' | '.join(servers)} |\n|---|{'---|' * len(servers)}")
    for title in LOADS:
        row = (f"{statistics.median(figures[name, title]):,.0f}" for name in servers)
        print(f"| {title} | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
