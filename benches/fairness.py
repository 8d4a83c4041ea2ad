"""Measures what the calls of one API key are left while another key floods the service with counts that read a million
events each.

Each round measures every load alone, then beside the counts, so both are of the same minute; a figure is the median of
the rounds. A load ends with an error if one of its calls fails.
"""

import argparse
import collections
import http.client
import json
import os
import subprocess
import threading

from bench import BIN, Bench, print_table

SPIRIT = "00000000-0000-7000-8000-000000000600"
TAGS = 20
# Every event contains the list, so each is compared with all of its elements.
LIST = [n % TAGS for n in range(4_000)]
COUNT = "/elephantasm.events.v1.EventService/CountEvents"


def fill(bench, events):
    bench.sql(f"insert into spirits (id, name, name_folded, last_sequence) values ('{SPIRIT}', 'counted', 'counted', {events})")
    bench.sql(
        "insert into events (id, spirit_id, sequence, event_type, content, occurred_at, session_id, role, meta)"
        f" select gen_random_uuid(), '{SPIRIT}', n, 'message.in', 'x', now(), 's', 'user', '{{\"tags\": {list(range(TAGS))}}}'"
        f" from generate_series(1, {events}) as n"
    )
    bench.sql("vacuum analyze events")


def create_key(bench, name, role):
    command = [BIN, "key", "create", "--name", name, "--role", role, "--data-dir", bench.dir / "data", "--log", "warn"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


class Flood:
    """Threads that send one count after the other, each on a connection of its own."""

    def __init__(self, bench, key, calls):
        self.over = threading.Event()
        self.replies = collections.Counter()
        self.threads = [threading.Thread(target=self.send, args=(bench.addr, key)) for _ in range(calls)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()

    def send(self, addr, key):
        request = json.dumps({"spiritId": SPIRIT, "filter": {"metaContains": {"tags": LIST}}})
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json", "connect-timeout-ms": "5000"}
        while not self.over.is_set():
            connection = http.client.HTTPConnection(addr, timeout=60)
            connection.request("POST", COUNT, request, headers)
            reply = connection.getresponse()
            body = json.loads(reply.read())
            self.replies[body.get("code", "ok")] += 1
            connection.close()


LOADS = {"get": "GetEvent", "list": "ListEvents of 50", "edit": "UpdateEvent", "create": "CreateEvent"}
ROWS = [
    row
    for load, title in LOADS.items()
    for row in [
        (f"{load} rate", f"{title}, 16 in flight, beside the counts / alone", ""),
        (f"{load} p99", "its p99 beside the counts, in ms", ""),
    ]
]


def round_of(bench, key, calls, replies):
    row = {}
    for load in LOADS:
        arguments = ["--concurrency", 16]
        alone = bench.service(load, *arguments)
        with Flood(bench, key, calls) as flood:
            beside = bench.service(load, *arguments)
        replies.update(flood.replies)
        row[f"{load} rate"], row[f"{load} p99"] = beside.rate / alone.rate, beside.p99
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=10, help="length of each measurement")
    parser.add_argument("--events", type=int, default=1_000_000, help="events that a count reads")
    parser.add_argument("--calls", type=int, default=40, help="counts at a time")
    args = parser.parse_args()
    replies = collections.Counter()
    # The calls that end with their deadline would each be a warning.
    with Bench(args.seconds, log="error") as bench:
        fill(bench, args.events)
        greedy = create_key(bench, "greedy", "reader")
        os.environ["EVENTS_API_KEY"] = create_key(bench, "other", "admin")
        rounds = [round_of(bench, greedy, args.calls, replies) for _ in range(args.rounds)]
    print(f"\n{args.calls} counts at a time over {args.events:,} events, by another key; their replies: {dict(replies)}\n")
    print_table(ROWS, rounds)


if __name__ == "__main__":
    main()
