"""Measures the delivery latency of watches and the cost of watchers for writers.

The two runs of a ratio follow each other directly in every round; a figure is the median of the rounds.
"""

import argparse
import subprocess
import time

from bench import Bench, print_table


def ratio(first, second):
    return first.rate / second.rate


def round_of(quiet, notifying):
    """Measures every row once; `notifying` sends NOTIFY on new events, `quiet` does not."""
    row = {}
    for name, rate, watchers, spirits in [("low", 50, 1, 1), ("wide", 1_000, 100, 10)]:
        report = notifying.service("watch", "--rate", rate, "--watchers", watchers, "--spirits", spirits)
        row[f"{name} p50"], row[f"{name} p99"] = report.p50, report.p99
    alone = notifying.service("create")
    row["idle watchers"] = ratio(notifying.service("create", "--idle-watchers", 100), alone)
    row["notify"] = ratio(notifying.service("create"), quiet.service("create"))
    return row


def idle_streams(bench, streams):
    """Returns the growth of the server's peak memory in MiB and its CPU cores in use, with idle streams and one event a
    second."""
    before = bench.peak_kib(reset=True)
    command = bench.command("watch", "--watchers", streams, "--spirits", streams // 5, "--rate", 1)
    samples = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as load:
        while load.poll() is None:
            samples.append((time.monotonic(), bench.cpu_seconds()[0]))
            time.sleep(0.2)
    if load.returncode != 0:
        raise RuntimeError("a watcher missed events")
    # Every stream is open when the measured seconds begin.
    last = [sample for sample in samples if sample[0] > samples[-1][0] - bench.seconds]
    (begin, used), (end, used_by_end) = last[0], last[-1]
    return (bench.peak_kib() - before) / 1024, (used_by_end - used) / (end - begin)


ROWS = [
    ("low p50", "delivery after the create's reply, 50 events/s, one watcher, p50 in ms", "well under 5"),
    ("low p99", "the same, p99 in ms", ""),
    ("wide p50", "the same, 1,000 events/s, 100 watchers of 10 spirits, p50 in ms", ""),
    ("wide p99", "the same, p99 in ms", ""),
    ("idle watchers", "CreateEvent, 64 in flight, with 100 idle watchers / with none", "≥ 0.95"),
    ("notify", "CreateEvent, 64 in flight, with NOTIFY / without", ""),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="length of each measurement")
    parser.add_argument("--streams", type=int, default=5_000, help="number of idle streams")
    args = parser.parse_args()
    with Bench(args.seconds, "--notify", "false") as quiet, Bench(args.seconds) as notifying:
        rounds = [round_of(quiet, notifying) for _ in range(args.rounds)]
        mib, cores = idle_streams(quiet, args.streams)
    print_table(ROWS, rounds)
    print(f"| {args.streams:,} idle streams: memory in MiB | {mib:.3g} | | | ≤ 100 |")
    print(f"| {args.streams:,} idle streams: cores in use | {cores:.2g} | | | near 0 |")


if __name__ == "__main__":
    main()
