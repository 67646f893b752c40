// Sends events of all six kinds through @segment/analytics-node, unmodified, with only `host`
// changed, and prints one JSON object: what left the process, as the SDK itself wrote it.
//
//   node analytics-node.mjs URL WRITE_KEY COUNT
//
// Exit status 0 only when the SDK reports every event delivered.
import { Analytics } from '@segment/analytics-node';
import { eventsOf, kinds, payload, print, withinDeadline } from './events.mjs';

const [url, writeKey, countText] = process.argv.slice(2);
const count = Number(countText);
if (!url || !writeKey || !Number.isInteger(count) || count < 1) {
  console.error('usage: node analytics-node.mjs URL WRITE_KEY COUNT');
  process.exit(1);
}

// An application paces itself; a loop does not. This keeps some 40 requests in flight.
const IN_FLIGHT_MAX = 600;
// The SDK's own default.
const BATCH_EVENTS = 15;

const analytics = new Analytics({ writeKey, host: url });
const sent = new Map();
const requests = {};
let failures = 0;
analytics.on('http_request', ({ url: asked, body }) => {
  const { pathname } = new URL(asked);
  requests[pathname] = (requests[pathname] ?? 0) + 1;
  for (const event of eventsOf(body)) sent.set(event.messageId, event);
});
analytics.on('error', (error) => {
  failures += 1;
  console.error('the SDK gave up on an event:', error.reason ?? error);
});

let inFlight = 0;
let limit = IN_FLIGHT_MAX;
let resume = () => {};
const delivered = () => {
  inFlight -= 1;
  if (inFlight < limit) resume();
};
const below = async (events) => {
  limit = events;
  if (inFlight >= events) await new Promise((resolve) => (resume = resolve));
};

withinDeadline(() => `${sent.size} events were sent, ${inFlight} of them not delivered`);
for (let index = 0; index < count; index += 1) {
  const kind = kinds[index % kinds.length];
  await below(IN_FLIGHT_MAX);
  inFlight += 1;
  analytics[kind](payload(kind, index), delivered);
}
// The SDK flushes its last, partly filled batch at once only when nothing else is under way.
await below((count % BATCH_EVENTS) + 1);
await new Promise((resolve) => setImmediate(resolve));
await analytics.closeAndFlush();

await print({ requests, events: [...sent.values()] });
process.exit(failures === 0 && sent.size === count ? 0 : 1);
