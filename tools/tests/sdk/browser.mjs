// Runs a browser SDK, unmodified, in Debian's chromium, on a page of another origin than the node,
// and prints one JSON object: what the browser sent and the node took.
//
//   node browser.mjs segment|rudderstack URL WRITE_KEY
//
// Between browser and node stands a small proxy that answers the first event request with 503, as
// a node that drains would. The SDK must send it again across origins, whose preflight the node
// itself answers. Exit status 0 only when every event was taken and the refused one came again.
import { createServer, request as httpRequest } from 'node:http';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import { eventsOf } from './events.mjs';

const DEADLINE_MS = 60_000;
const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
const CHROMIUM_FLAGS = [
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
];
const here = path.dirname(fileURLToPath(import.meta.url));
const SDK_FOLDERS = {
  segment: 'node_modules/@segment/analytics-next/dist/umd',
  rudderstack: 'node_modules/@rudderstack/analytics-js/dist/npm/modern/bundled/esm',
};

const [sdk, url, writeKey] = process.argv.slice(2);
if (!(sdk in SDK_FOLDERS) || !url || !writeKey) {
  console.error('usage: node browser.mjs segment|rudderstack URL WRITE_KEY');
  process.exit(1);
}

// The origin of the page: the page and its SDK, nothing else.
const pages = createServer(async ({ url: asked }, response) => {
  const { pathname } = new URL(asked, 'http://page');
  const name = path.basename(pathname);
  const file = pathname.startsWith(`/${sdk}/`)
    ? path.join(here, SDK_FOLDERS[sdk], name)
    : path.join(here, `page-${sdk}.html`);
  const type = /\.m?js$/.test(name) ? 'text/javascript' : 'text/html';
  try {
    const bytes = await readFile(file);
    response.writeHead(200, { 'Content-Type': `${type}; charset=utf-8` }).end(bytes);
  } catch {
    response.writeHead(404).end();
  }
});

// The origin of the node, as the browser sees it.
const traffic = { refused: null, requests: 0, retryHeaders: [], statuses: [], taken: new Map() };
let onTaken = () => {};

const proxy = createServer(async (incoming, answer) => {
  const chunks = [];
  for await (const chunk of incoming) chunks.push(chunk);
  const body = Buffer.concat(chunks);
  const events = isEventRequest(incoming) ? eventsOf(body.toString('utf8')) : null;
  if (events) {
    traffic.requests += 1;
    traffic.retryHeaders.push(...Object.keys(incoming.headers).filter(isRetryHeader));
    if (traffic.refused === null) {
      traffic.refused = events.map((event) => event.messageId);
      refuse(incoming, answer);
      return;
    }
  }
  forward(incoming, body, answer, (status) => {
    traffic.statuses.push(status);
    if (events && status === 200) {
      for (const event of events) traffic.taken.set(event.messageId, event);
      onTaken();
    }
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

const pagePort = await listen(pages);
const nodePort = await listen(proxy);
const profile = await mkdtemp(path.join(tmpdir(), 'tracklog-sdk-'));
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: CHROMIUM,
  args: CHROMIUM_FLAGS,
});
try {
  const page = await browser.newPage();
  page.on('console', (message) => console.error(`page: ${message.text()}`));
  page.on('pageerror', (error) => console.error(`page: ${error}`));
  const query = new URLSearchParams({ key: writeKey, node: `http://127.0.0.1:${nodePort}` });
  await page.goto(`http://localhost:${pagePort}/?${query}`);
  await page.waitForFunction('window.expectedEvents > 0', null, { timeout: DEADLINE_MS });
  const expected = await page.evaluate('window.expectedEvents');
  await allTaken(expected);
} finally {
  await browser.close();
  await rm(profile, { recursive: true, force: true });
}

// Resolves when the node has taken that many events and the refused ones are among them.
function allTaken(expected) {
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`gave up: ${report()}`)), DEADLINE_MS);
    onTaken = () => {
      const again = traffic.refused?.every((id) => traffic.taken.has(id));
      if (traffic.taken.size < expected || !again) return;
      clearTimeout(late);
      resolve();
    };
    onTaken();
  });
}

function report() {
  const { taken, ...rest } = traffic;
  return JSON.stringify({ ...rest, events: [...taken.values()] });
}

await new Promise((resolve) => process.stdout.write(`${report()}\n`, resolve));
process.exit(0);
