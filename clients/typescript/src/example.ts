// Makes the main calls of the service: node dist/example.js [http://host:port] [connect|grpc-web|grpc]
//
// Needs a running server (script/server), and `npm install && npm run build` in this directory.

import { pathToFileURL } from "node:url";
import { Code, ConnectError, createClient, type Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { EventService, OnDuplicate } from "./gen/elephantasm/events/v1/events_pb.js";
import { SpiritService } from "./gen/elephantasm/events/v1/spirits_pb.js";
import { BadRequestSchema, ErrorInfoSchema } from "./gen/google/rpc/error_details_pb.js";

export type Protocol = "connect" | "grpc-web" | "grpc";

export function createTransport(baseUrl: string, protocol: Protocol, httpVersion: "1.1" | "2"): Transport {
  switch (protocol) {
    case "connect":
      return createConnectTransport({ baseUrl, httpVersion, useHttpGet: true });
    case "grpc-web":
      return createGrpcWebTransport({ baseUrl, httpVersion });
    case "grpc":
      return createGrpcTransport({ baseUrl });
  }
}

export async function main(transport: Transport, print: (...values: unknown[]) => void): Promise<void> {
  const events = createClient(EventService, transport);
  const { spirit } = await createClient(SpiritService, transport).createSpirit({ name: "Ada" });
  const spiritId = spirit!.id;

  const hello = {
    spiritId,
    sessionId: "s1",
    eventType: "message.in",
    role: "user",
    content: "Hello",
    meta: { lang: "en", length: 5 },
    dedupeKey: "hello-1",
  };
  const created = await events.createEvent(hello);
  print("created", created.event!.sequence, JSON.stringify(created.event!.meta));
  const again = await events.createEvent({ ...hello, onDuplicate: OnDuplicate.RETURN_EXISTING });
  print("again", again.event!.id === created.event!.id);

  const results = ["tool.call", "tool.result"].map((eventType) => ({ spiritId, sessionId: "s1", eventType, content: "" }));
  const batch = await events.batchCreateEvents({ requests: results });
  print("batch", batch.results.map((item) => (item.result.case === "created" ? item.result.value.event!.sequence : 0n)).join());

  // A stream of requests needs gRPC.
  try {
    const answers = (async function* () {
      yield { requestId: "r0", create: { spiritId, sessionId: "s1", eventType: "message.out", content: "42" } };
    })();
    for await (const answer of events.ingestEvents(answers)) {
      print("ingest", answer.requestId, answer.result.case);
    }
  } catch (error) {
    print("ingest", Code[ConnectError.from(error).code]);
  }

  const abort = new AbortController();
  const watch = events.watchEvents({ spiritId, start: { case: "afterSequence", value: 1n } }, { signal: abort.signal });
  for await (const item of watch) {
    if (item.item.case === "caughtUp") {
      break; // new events would follow; afterSequence = item.sequence resumes here
    }
    if (item.item.case === "event") {
      print("watched", item.sequence, item.item.value.eventType);
    }
  }
  abort.abort();

  let pageToken = "";
  do {
    const page = await events.listEvents({ spiritId, pageSize: 2, pageToken });
    print("page", page.events.map((event) => event.eventType).join());
    pageToken = page.nextPageToken;
  } while (pageToken !== "");

  for await (const item of events.streamSessionEvents({ spiritId, sessionId: "s1", limit: 2 })) {
    if (item.item.case === "event") {
      print("replayed", item.item.value.sequence, item.item.value.eventType);
    }
  }

  try {
    await events.createEvent({ spiritId: "ada", importanceScore: 7 });
  } catch (error) {
    const refused = ConnectError.from(error);
    const [info] = refused.findDetails(ErrorInfoSchema);
    const [bad] = refused.findDetails(BadRequestSchema);
    print("refused", Code[refused.code], info?.reason, bad?.fieldViolations.map((violation) => violation.field).join());
  }
  try {
    await events.createEvent(hello);
  } catch (error) {
    const [info] = ConnectError.from(error).findDetails(ErrorInfoSchema);
    print("duplicate", info?.reason, info?.metadata["existing_event_id"] === created.event!.id);
  }
  try {
    const endless = events.watchEvents({ spiritId, start: { case: "afterSequence", value: 1n } }, { timeoutMs: 300 });
    for await (const _ of endless);
  } catch (error) {
    print("stream ended", Code[ConnectError.from(error).code]);
  }
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [baseUrl = "http://localhost:50051", protocol = "connect"] = process.argv.slice(2);
  const httpVersion = protocol === "grpc" ? "2" : "1.1";
  await main(createTransport(baseUrl, protocol as Protocol, httpVersion), console.log);
}
