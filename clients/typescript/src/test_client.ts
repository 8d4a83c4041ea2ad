// Runs the example against the binary over Connect, gRPC-Web and gRPC. EVENTS_BIN is the binary to test.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { createInterface } from "node:readline";
import { createTransport, main, type Protocol } from "./example.js";

const expected = (ingest: string, last: string[]) => [
  'created 1 {"lang":"en","length":5}',
  "again true",
  "batch 2,3",
  `ingest ${ingest}`,
  "watched 2 tool.call",
  "watched 3 tool.result",
  ...last,
  "replayed 1 message.in",
  "replayed 2 tool.call",
  "refused InvalidArgument INVALID_FIELD content,spirit_id,event_type,importance_score",
  "duplicate DUPLICATE_EVENT true",
  "stream ended DeadlineExceeded",
];

async function start(directory: string) {
  const binary = process.env.EVENTS_BIN;
  assert(binary, "EVENTS_BIN names the binary");
  const { DATABASE_URL: _, ...environment } = process.env;
  const server = spawn(binary, {
    env: { ...environment, EVENTS_DATA_DIR: `${directory}/data`, EVENTS_LISTEN_ADDR: "127.0.0.1:0" },
    stdio: ["ignore", "pipe", openSync(`${directory}/log`, "w")],
  });
  for await (const line of createInterface(server.stdout!)) {
    const address = line.replace("listening on ", "");
    return { server, baseUrl: `http://${address}` };
  }
  throw new Error(readFileSync(`${directory}/log`, "utf8"));
}

const directory = mkdtempSync("/var/tmp/elephantasm-typescript-");
chmodSync(directory, 0o755); // PostgreSQL's user needs access
const { server, baseUrl } = await start(directory);
try {
  const cases: [Protocol, "1.1" | "2"][] = [
    ["connect", "1.1"],
    ["connect", "2"],
    ["grpc-web", "1.1"],
    ["grpc-web", "2"],
    ["grpc", "2"],
  ];
  for (const [protocol, httpVersion] of cases) {
    const lines: string[] = [];
    await main(createTransport(baseUrl, protocol, httpVersion), (...values) => lines.push(values.join(" ")));
    const isGrpc = protocol === "grpc";
    const pages = isGrpc
      ? ["watched 4 message.out", "page message.out,tool.result", "page tool.call,message.in"]
      : ["page tool.result,tool.call", "page message.in"];
    assert.deepEqual(lines, expected(isGrpc ? "r0 receipt" : "Unimplemented", pages), `${protocol} over HTTP/${httpVersion}`);
    console.log(`${protocol} over HTTP/${httpVersion}: ok`);
  }
} finally {
  server.kill("SIGTERM");
  const [code] = await once(server, "exit");
  rmSync(directory, { recursive: true });
  assert.equal(code, 0, `the server exited with ${code} on SIGTERM`);
}
