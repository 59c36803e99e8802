// Print a text as it is made.
import { connect } from "@nats-io/transport-node";

const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" });
const request = JSON.stringify({ prompt: process.argv[2] ?? "Say hi", timeout_seconds: 120 });
const stream = await nc.requestMany("ai.v1.req.text.default", request, { strategy: "sentinel", maxWait: 130_000 });
let end;
for await (const message of stream) {
  if (message.data.length === 0) break; // the sentinel
  const event = message.json();
  if (event.type === "response") process.stdout.write(event.data);
  if (event.type === "done" || event.type === "error") end = event;
}
await nc.close();
process.stdout.write("\n");
if (end?.type !== "done") {
  console.error(end?.data.message ?? "the answer was cut");
  process.exit(1);
}
