"""Makes the main calls of the service: python3 example.py [host:port]

Needs the packages of requirements.txt and a running server (script/server).
"""

import sys

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

import stubs

GENERATED = stubs.generate()
from elephantasm.events.v1 import events_pb2, events_pb2_grpc, spirits_pb2, spirits_pb2_grpc  # noqa: E402


def details(error: grpc.RpcError) -> dict:
    """Returns the google.rpc messages in an error's details, by type name."""
    found = {}
    for packed in rpc_status.from_call(error).details:
        message = getattr(error_details_pb2, packed.TypeName().rsplit(".", 1)[-1])()
        packed.Unpack(message)
        found[type(message).__name__] = message
    return found


def main(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        spirits = spirits_pb2_grpc.SpiritServiceStub(channel)
        events = events_pb2_grpc.EventServiceStub(channel)

        spirit = spirits.CreateSpirit(spirits_pb2.CreateSpiritRequest(name="Ada")).spirit
        print("spirit", spirit.id)

        hello = events_pb2.CreateEventRequest(
            spirit_id=spirit.id,
            session_id="s1",
            event_type="message.in",
            role="user",
            content="Hello",
            dedupe_key="hello-1",
            on_duplicate=events_pb2.ON_DUPLICATE_RETURN_EXISTING,
        )
        for _ in range(2):  # the second call returns the event of the first
            reply = events.CreateEvent(hello)
            outcome = events_pb2.CreateOutcome.Name(reply.outcome)
            print("event", reply.event.id, "sequence", reply.event.sequence, outcome)

        call = events_pb2.CreateEventRequest(
            spirit_id=spirit.id, session_id="s1", event_type="tool.call", content='{"q": 1}'
        )
        result = events_pb2.CreateEventRequest(
            spirit_id=spirit.id, session_id="s1", event_type="tool.result", content=""
        )
        result.meta["exit_code"] = 0
        batch = events.BatchCreateEvents(events_pb2.BatchCreateEventsRequest(requests=[call, result]))
        print("batch", [item.created.event.sequence for item in batch.results])

        answers = (
            events_pb2.CreateEventRequest(spirit_id=spirit.id, session_id="s1", event_type="message.out", content=text)
            for text in ("The answer", "is 42.")
        )
        stream = (events_pb2.IngestEventsRequest(request_id=f"r{n}", create=create) for n, create in enumerate(answers))
        for answer in events.IngestEvents(stream):  # in request order, each after its event is committed
            print("ingest", answer.request_id, "sequence", answer.receipt.sequence)

        print("watch, after sequence 3:")
        watch = events.WatchEvents(events_pb2.WatchEventsRequest(spirit_id=spirit.id, after_sequence=3))
        for item in watch:
            if item.HasField("caught_up"):
                break  # new events would follow; after_sequence=item.sequence resumes here
            print("  ", item.event.sequence, item.event.event_type)
        watch.cancel()

        print("newest first, page by page:")
        request = events_pb2.ListEventsRequest(spirit_id=spirit.id, page_size=2)
        while True:
            page = events.ListEvents(request)
            for event in page.events:
                print("  ", event.sequence, event.event_type)
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token

        print("replay:")
        replay = events_pb2.StreamSessionEventsRequest(spirit_id=spirit.id, session_id="s1")
        for item in events.StreamSessionEvents(replay):
            print("  ", item.event.event_type, repr(item.event.content))

        try:
            events.CreateEvent(events_pb2.CreateEventRequest(spirit_id="ada", importance_score=7))
        except grpc.RpcError as error:
            print("refused:", error.code().name)
            for violation in details(error)["BadRequest"].field_violations:
                print("  ", violation.field, violation.description)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "localhost:50051")
