// Runs a browser SDK, unmodified, in Debian's chromium, on a page of another origin than the node,
// and prints one JSON object: what the browser sent and the node took.
//
//   node browser.mjs segment|rudderstack|rudderstack-beacon URL WRITE_KEY COUNT
//
// Between browser and node stands a small proxy that answers the first event request with 503, as
// a node that drains would. The SDK must send it again across origins, whose preflight the node
// itself answers. Beacons are sent as the page is left; they have no second try, so none is refused.
// Exit status 0 only when the node took every event.
import { createServer, request as httpRequest } from 'node:http';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import { eventsOf, print, withinDeadline } from './events.mjs';

const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
const CHROMIUM_FLAGS = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
];
// A visitor paces events; a loop does not. These many fill one of Segment's batches, which is then
// sent at once; RudderStack's queue would let go of its oldest event beyond 100.
const IN_FLIGHT_MAX = 10;
const here = path.dirname(fileURLToPath(import.meta.url));
const SDK_FOLDERS = {
  segment: 'node_modules/@segment/analytics-next/dist/umd',
  rudderstack: 'node_modules/@rudderstack/analytics-js/dist/npm/modern/bundled/esm',
};

const [what = '', url, writeKey, countText] = process.argv.slice(2);
const [sdk, how] = what.split('-');
const count = Number(countText);
if (!(sdk in SDK_FOLDERS) || !url || !writeKey || !Number.isInteger(count) || count < 1) {
  console.error('usage: node browser.mjs segment|rudderstack|rudderstack-beacon URL WRITE_KEY COUNT');
  process.exit(1);
}
const beacon = how === 'beacon';

// The origin of the page: the page, its SDK and what it sends, nothing else.
const pages = createServer(async ({ url: asked }, response) => {
  const { pathname } = new URL(asked, 'http://page');
  const name = path.basename(pathname);
  const files = {
    '/': `page-${sdk}.html`,
    '/events.mjs': 'events.mjs',
    [`/${sdk}/${name}`]: path.join(SDK_FOLDERS[sdk], name),
  };
  const type = /\.m?js$/.test(name) ? 'text/javascript' : 'text/html';
  try {
    const bytes = await readFile(path.join(here, files[pathname]));
    response.writeHead(200, { 'Content-Type': `${type}; charset=utf-8` }).end(bytes);
  } catch {
    response.writeHead(404).end();
  }
});

// The origin of the node, as the browser sees it.
const traffic = { refused: [], requests: {}, retryHeaders: [], elsewhere: [], taken: new Map() };
let onTaken = () => {};

const proxy = createServer(async (incoming, answer) => {
  const chunks = [];
  for await (const chunk of incoming) chunks.push(chunk);
  const body = Buffer.concat(chunks);
  const events = isEventRequest(incoming) ? eventsOf(body.toString('utf8')) : [];
  if (events.length > 0) {
    const { pathname } = new URL(incoming.url, 'http://node');
    traffic.requests[pathname] = (traffic.requests[pathname] ?? 0) + 1;
    traffic.retryHeaders.push(...Object.keys(incoming.headers).filter(isRetryHeader));
    if (traffic.refused.length === 0 && !beacon) {
      traffic.refused = events.map((event) => event.messageId);
      refuse(incoming, answer);
      return;
    }
  }
  forward(incoming, body, answer, (status) => {
    if (events.length === 0) return;
    if (status !== 200) console.error(`${incoming.url}: status ${status}`);
    else for (const event of events) traffic.taken.set(event.messageId, event);
    onTaken();
  });
});

const isEventRequest = ({ method, url: asked }) =>
  method === 'POST' && /^\/(beacon\/)?v1\/(?!m\b)/.test(asked);
const isRetryHeader = (name) => name === 'x-retry-count' || name.startsWith('rsa-');

function refuse(incoming, answer) {
  const text = '{"success":false,"code":"unavailable","message":"draining"}';
  answer.writeHead(503, {
    'Content-Type': 'application/json',
    'Access-Control-Allow-Origin': incoming.headers.origin ?? '*',
    'Access-Control-Allow-Credentials': 'true',
    'Retry-After': '1',
    Vary: 'Origin',
  }).end(text);
}

function forward(incoming, body, answer, onStatus) {
  const { method, url: asked, headers } = incoming;
  const onward = httpRequest(new URL(asked, url), { method, headers }, (reply) => {
    answer.writeHead(reply.statusCode, reply.rawHeaders);
    reply.pipe(answer);
    reply.on('end', () => onStatus(reply.statusCode));
  });
  onward.on('error', (error) => {
    console.error(`${method} ${asked}: ${error.message}`);
    answer.destroy();
  });
  onward.end(body);
}

const listen = (server) =>
  new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server.address().port)));

// Resolves when the node has taken that many events, all in all.
const takenAre = (events) =>
  new Promise((resolve) => {
    onTaken = () => traffic.taken.size >= events && resolve();
    onTaken();
  });

withinDeadline(() => `${traffic.taken.size} events were taken: ${JSON.stringify(traffic)}`);
const pageOrigin = `http://localhost:${await listen(pages)}`;
const nodeOrigin = `http://127.0.0.1:${await listen(proxy)}`;
const browser = await chromium.launch({ executablePath: CHROMIUM, args: CHROMIUM_FLAGS });
try {
  const page = await browser.newPage();
  page.on('console', (message) => console.error(`page: ${message.text()}`));
  page.on('pageerror', (error) => console.error(`page: ${error}`));
  page.on('request', (request) => {
    const { origin } = new URL(request.url());
    if (origin.startsWith('http') && origin !== pageOrigin && origin !== nodeOrigin) {
      traffic.elsewhere.push(request.url());
    }
  });
  const query = new URLSearchParams({ key: writeKey, node: nodeOrigin });
  if (beacon) query.set('beacon', '');
  await page.goto(`${pageOrigin}/?${query}`);
  const send = (from, until) =>
    page.evaluate(([from, until]) => window.send(from, until), [from, until]);
  if (beacon) {
    await send(0, count);
    if (traffic.taken.size > 0) throw new Error('the SDK did not wait for the page to be left');
    await page.goto('about:blank');
    await takenAre(count);
  } else {
    for (let from = 0; from < count; from += IN_FLIGHT_MAX) {
      const until = Math.min(from + IN_FLIGHT_MAX, count);
      await send(from, until);
      await takenAre(until);
    }
  }
} finally {
  await browser.close();
}

const { taken: events, ...rest } = traffic;
await print({ ...rest, events: [...events.values()] });
process.exit(0);
