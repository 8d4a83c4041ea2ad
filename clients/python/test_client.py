"""Tests of the real binary with generated Python stubs, and of the commands in README.md and docs/tour.md.

EVENTS_BIN is the binary to test.
"""

import contextlib
import io
import itertools
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

import example
from elephantasm.events.v1 import access_pb2, purges_pb2, sessions_pb2

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests/shared"))
from binary import PATIENCE, ROOT, Server  # noqa: E402


def setUpModule():
    global server, channel
    server = Server()
    channel = grpc.insecure_channel(server.address)


def tearDownModule():
    channel.close()
    code = server.stop()
    example.GENERATED.cleanup()
    assert code == 0, f"the server exited with {code} on SIGTERM"


def command(*arguments: str, **options) -> str:
    return server.command(*arguments, **options)


class ExampleTest(unittest.TestCase):
    def test_the_example_runs_and_prints_the_expected_output(self):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            example.main(server.address)
        text = out.getvalue()
        for expected in (
            "sequence 1 CREATE_OUTCOME_CREATED",
            "sequence 1 CREATE_OUTCOME_DUPLICATE",
            "batch [2, 3]",
            "ingest r0 sequence 4\ningest r1 sequence 5\n",
            "watch, after sequence 3:\n   4 message.out\n   5 message.out\nnewest",
            "newest first, page by page:\n   5 message.out\n   4 message.out\n   3 tool.result\n   2 tool.call\n   1 message.in\n",
            "replay:\n   message.in 'Hello'\n   tool.call '{\"q\": 1}'\n   tool.result ''\n",
            "refused: INVALID_ARGUMENT",
            "spirit_id must be a hyphenated UUID",
            "event_type must have 1 to 100 characters",
            "content",
            "importance_score must be a number from 0.0 to 1.0",
        ):
            self.assertIn(expected, text)


class ClientTest(unittest.TestCase):
    def setUp(self):
        self.events = example.events_pb2_grpc.EventServiceStub(channel)
        spirits = example.spirits_pb2_grpc.SpiritServiceStub(channel)
        self.spirit = spirits.CreateSpirit(example.spirits_pb2.CreateSpiritRequest(name="test")).spirit

    def test_a_duplicate_error_names_the_existing_event(self):
        request = example.events_pb2.CreateEventRequest(
            spirit_id=self.spirit.id, event_type="message.in", content="", dedupe_key="ключ-🔑"
        )
        created = self.events.CreateEvent(request).event
        with self.assertRaises(grpc.RpcError) as raised:
            self.events.CreateEvent(request)
        self.assertEqual(raised.exception.code(), grpc.StatusCode.ALREADY_EXISTS)
        info = example.details(raised.exception)["ErrorInfo"]
        self.assertEqual((info.reason, info.domain), ("DUPLICATE_EVENT", "events.elephantasm"))
        self.assertEqual(
            dict(info.metadata),
            {"dedupe_key": "ключ-🔑", "existing_event_id": created.id, "different": "false"},
        )

    def test_field_presence_meta_and_microseconds_are_preserved(self):
        request = example.events_pb2.CreateEventRequest(
            spirit_id=self.spirit.id, event_type="tool.result", content="", importance_score=0.0
        )
        request.occurred_at.FromJsonString("2026-05-02T08:00:00.123456789Z")
        json_format.ParseDict({"a": [1, 2.5, None, {"b": "ü"}]}, request.meta)
        event = self.events.CreateEvent(request).event
        self.assertTrue(event.HasField("content") and event.HasField("importance_score"))
        self.assertFalse(event.HasField("role"))
        self.assertEqual(event.occurred_at.ToJsonString(), "2026-05-02T08:00:00.123456Z")
        self.assertEqual(json_format.MessageToDict(event.meta), {"a": [1, 2.5, None, {"b": "ü"}]})

    def test_an_exceeded_deadline_is_reported_as_deadline_exceeded(self):
        request = example.events_pb2.GetEventRequest(event_id=self.spirit.id)
        # The reply can be faster than the shortest deadline, and then has the usual code.
        codes = {grpc.StatusCode.NOT_FOUND}
        for _ in range(1000):
            with self.assertRaises(grpc.RpcError) as raised:
                self.events.GetEvent(request, timeout=1e-6)
            codes.add(raised.exception.code())
            if len(codes) > 1:
                break
        self.assertEqual(codes, {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.DEADLINE_EXCEEDED})

    def test_a_watch_receives_the_events_ingested_after_its_headers(self):
        watch = self.events.WatchEvents(example.events_pb2.WatchEventsRequest(spirit_id=self.spirit.id), timeout=PATIENCE)
        watch.initial_metadata()
        create = example.events_pb2.CreateEventRequest(spirit_id=self.spirit.id, event_type="message.in", content="ü")
        bad = example.events_pb2.CreateEventRequest(spirit_id=self.spirit.id, event_type="message.in")
        stream = [example.events_pb2.IngestEventsRequest(request_id=n, create=c) for n, c in (("a", create), ("b", bad), ("c", create))]
        answers = list(self.events.IngestEvents(iter(stream), timeout=PATIENCE))
        self.assertEqual([(a.request_id, a.WhichOneof("result")) for a in answers], [("a", "receipt"), ("b", "error"), ("c", "receipt")])
        self.assertEqual(answers[1].error.code, grpc.StatusCode.INVALID_ARGUMENT.value[0])
        received = []
        while len(received) < 2:
            item = next(watch)
            if item.HasField("event"):
                received.append((item.event.id, item.sequence))
        self.assertEqual(received, [(a.receipt.event_id, a.receipt.sequence) for a in answers if a.HasField("receipt")])
        watch.cancel()

    def test_health_reports_serving_for_every_service(self):
        health = health_pb2_grpc.HealthStub(channel)
        names = ("Event", "Session", "Spirit", "Access")
        for service in ("", *(f"elephantasm.events.v1.{name}Service" for name in names)):
            reply = health.Check(health_pb2.HealthCheckRequest(service=service))
            self.assertEqual(reply.status, health_pb2.HealthCheckResponse.SERVING)


class StubsTest(unittest.TestCase):
    def test_the_stubs_are_found_though_another_package_has_their_name(self):
        with tempfile.TemporaryDirectory() as other:
            os.mkdir(f"{other}/elephantasm")
            pathlib.Path(f"{other}/elephantasm/__init__.py").write_text("raise ImportError('another package')")
            environment = os.environ | {"PYTHONPATH": os.pathsep.join([example.GENERATED.name, other, *sys.path])}
            lines = "from elephantasm.events.v1 import events_pb2_grpc"
            subprocess.run([sys.executable, "-c", lines], env=environment, check=True)


class ServiceConfigTest(unittest.TestCase):
    CONFIG = (ROOT / "clients/service-config.json").read_text()

    def test_the_service_config_retries_exactly_the_reads_and_the_creates_of_events(self):
        modules = (access_pb2, example.events_pb2, purges_pb2, sessions_pb2, example.spirits_pb2)
        services = [service for module in modules for service in module.DESCRIPTOR.services_by_name.values()]
        reads = descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
        expected = {
            (service.full_name, method.name)
            for service in services
            for method in service.methods
            if method.GetOptions().idempotency_level == reads or method.name in ("CreateEvent", "BatchCreateEvents")
        }
        [config] = json.loads(self.CONFIG)["methodConfig"]
        self.assertEqual({(name["service"], name["method"]) for name in config["name"]}, expected)

    def test_with_the_service_config_calls_succeed_while_the_database_restarts(self):
        spirits = example.spirits_pb2_grpc.SpiritServiceStub(channel)
        spirit = spirits.CreateSpirit(example.spirits_pb2.CreateSpiritRequest(name="test")).spirit
        read = example.spirits_pb2.GetSpiritRequest(spirit_id=spirit.id)
        create = example.events_pb2.CreateEventRequest(
            spirit_id=spirit.id,
            event_type="message.in",
            content="",
            dedupe_key="key",
            on_duplicate=example.events_pb2.ON_DUPLICATE_RETURN_EXISTING,
        )
        with grpc.insecure_channel(server.address, options=[("grpc.service_config", self.CONFIG)]) as retrying:
            events = example.events_pb2_grpc.EventServiceStub(retrying)
            events.CreateEvent(create)  # connects
            server.kill_postgres()
            with self.assertRaises(grpc.RpcError) as raised:
                for _ in range(100_000):  # until PostgreSQL is gone
                    spirits.GetSpirit(read)
            self.assertEqual(raised.exception.code(), grpc.StatusCode.UNAVAILABLE)
            self.assertEqual(dict(raised.exception.trailing_metadata())["grpc-retry-pushback-ms"], "1000")
            reply = None
            calls = itertools.count(1)
            deadline = time.monotonic() + PATIENCE
            while reply is None:  # a busy machine may take longer than the five attempts of a call
                metadata = [("x-request-id", f"call-{next(calls)}-retried")]
                with contextlib.suppress(grpc.RpcError):
                    reply = events.CreateEvent(create, metadata=metadata, timeout=PATIENCE)
                self.assertLess(time.monotonic(), deadline)
            self.assertEqual(reply.event.sequence, 1)
        attempts = [line for line in server.log().splitlines() if "call-1-retried" in line]
        self.assertGreaterEqual(len(attempts), 2, attempts)


class ReadmeTest(unittest.TestCase):
    def test_the_python_lines_store_replay_and_follow(self):
        lines = fenced((ROOT / "README.md").read_text(), "python")[0]
        lines = lines.replace("localhost:50051", server.address)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen([sys.executable, "-c", lines], env=environment, stdout=subprocess.PIPE, text=True)
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        try:
            for expected in (
                "replayed 1 user Hello",
                "replayed 2 assistant Hi!",
                "followed 1 event",
                "followed 2 event",
                "followed 2 caught_up",
            ):
                self.assertEqual(process.stdout.readline(), f"{expected}\n")
        finally:
            watchdog.cancel()
            process.kill()
            process.communicate()


class TourTest(unittest.TestCase):
    """Runs the commands of the tour with a substitute for grpcurl; tests/cli/tour.rs runs them with grpcurl itself."""

    def test_every_command_of_the_tour_works(self):
        commands = shell_commands("\n\n".join(fenced((ROOT / "docs/tour.md").read_text(), "sh")))
        grpcurl = Grpcurl(channel)
        for _ in range(2):
            out = command("import", str(ROOT / "examples/garden.jsonl"), "--spirit", "Fern")
        self.assertIn("created 0, duplicates 12", out)
        self.assertIn("Shall I order nettle feed", command("replay", "--spirit", "Fern", "--session", "tomatoes"))
        replies = [grpcurl.run(words) for words in commands if words[0] == "grpcurl"]
        self.assertEqual(len(replies), 15, "the tour changed: adapt the expectations of this test")
        services, described, spirit, created, again, batch, ingest, page, *rest = replies
        replay, sessions, count, follow, watch, deleted, refused = rest
        self.assertIn("elephantasm.events.v1.EventService", services)
        self.assertIn("expected_last_sequence", described)
        self.assertEqual(spirit[0]["spirit"]["name"], "Ada")
        self.assertEqual(created[0]["outcome"], "CREATE_OUTCOME_CREATED")
        self.assertEqual(again, grpc.StatusCode.ALREADY_EXISTS)
        self.assertEqual(len(batch[0]["results"]), 2)
        self.assertEqual([(a["requestId"], a["receipt"]["sequence"]) for a in ingest], [("1", "4"), ("2", "5")])
        self.assertEqual([e["eventType"] for e in page[0]["events"]], ["message.in", "tool.result"])
        self.assertEqual([i["event"]["sequence"] for i in replay], ["1", "2", "3"])
        self.assertEqual([s["eventCount"] for s in sessions[0]["sessions"]], ["3"])
        self.assertEqual(count[0], {"count": "5"})
        self.assertEqual([i["event"]["sequence"] for i in follow[:3]], ["1", "2", "3"])
        self.assertIn("caughtUp", follow[3])
        self.assertEqual([i["sequence"] for i in watch], ["4", "5", "5"])
        self.assertIn("caughtUp", watch[2])
        self.assertEqual(deleted[0]["deletedCount"], "1")
        self.assertEqual(refused, grpc.StatusCode.INVALID_ARGUMENT)


def fenced(page: str, language: str) -> list[str]:
    """Returns the fenced blocks of a page in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.M | re.S)


def shell_commands(text: str) -> list[list[str]]:
    """Returns the commands of the tour as words. SPIRIT=$(…) is replaced by the command inside it; Grpcurl keeps the id
    and replaces $SPIRIT in later commands."""
    text = text.replace("\\\n", " ")
    text = re.sub(r"SPIRIT=\$\((.*?) \| sed .*\)$", r"\1", text, flags=re.M)
    found, words = [], []
    for word in shlex.split(text):
        if word in ("grpcurl", "elephantasm-events") and words:
            found.append(words)
            words = []
        words.append(word)
    return found + [words]


def json_values(text: str) -> list:
    """Returns the consecutive JSON values of a text."""
    values, decoder = [], json.JSONDecoder()
    while text := text.strip():
        value, end = decoder.raw_decode(text)
        values.append(value)
        text = text[end:]
    return values


class Grpcurl:
    """A substitute for grpcurl that supports the options in the tour, based on server reflection and JSON."""

    def __init__(self, channel):
        self.channel = channel
        self.database = ProtoReflectionDescriptorDatabase(channel)
        self.pool = descriptor_pool.DescriptorPool(self.database)
        self.spirit = ""

    def run(self, words):
        arguments = iter(words[1:])
        data, rest, seconds = None, [], PATIENCE
        for word in arguments:
            if word == "-d":
                data = next(arguments)
            elif word == "-max-time":
                seconds = float(next(arguments))
            elif word != "-plaintext":
                rest.append(word)
        if rest[1] == "list":
            return self.database.get_services()
        if rest[1] == "describe":
            return [field.name for field in self.pool.FindMessageTypeByName(rest[2]).fields]
        service, name = rest[1].split("/")
        return self.call(service, name, data.replace("$SPIRIT", self.spirit), seconds)

    def call(self, service, name, data, seconds):
        method = self.pool.FindServiceByName(service).FindMethodByName(name)
        message = message_factory.GetMessageClass(method.input_type)
        requests = [json_format.ParseDict(value, message()) for value in json_values(data)]
        reply = message_factory.GetMessageClass(method.output_type)
        # A bidirectional stream can make every kind of call.
        make = self.channel.stream_stream(
            f"/{service}/{name}", request_serializer=lambda m: m.SerializeToString(), response_deserializer=reply.FromString
        )
        replies = []
        try:
            for received in make(iter(requests), timeout=seconds):
                replies.append(received)
        except grpc.RpcError as error:
            if not (replies and error.code() == grpc.StatusCode.DEADLINE_EXCEEDED):
                return error.code()
        found = [json.loads(json_format.MessageToJson(r, descriptor_pool=self.pool)) for r in replies]
        if name == "CreateSpirit":
            self.spirit = found[0]["spirit"]["id"]
        return found


if __name__ == "__main__":
    unittest.main()
