// What the SDK tests send, and how they read back what an SDK put on the wire. Pages load it too.

// Several times what the slowest of the runs takes on two busy cores.
const DEADLINE_MS = 900_000;
const TOLD_MAX = 2_000;

export const kinds = ['track', 'identify', 'page', 'screen', 'group', 'alias'];

// Values whose text is easily lost on the way: escapes, code points above the BMP, numbers at the
// edges of a double, order of keys, empty containers, null inside.
const delicate = (index) => ({
  z_first: index,
  a_second: `"quoted" \\ / \u0001 \u2028 é 日本 😀 ${index}`,
  price: (index % 1000) / 100 + 0.1,
  tiny: 5e-324,
  huge: 1.7976931348623157e308,
  exact: 9007199254740991,
  exponent: 1e21,
  negative: -0.5,
  on: index % 2 === 0,
  none: null,
  empty: {},
  list: [[], {}, [1, 'two', null, { three: 3 }]],
  nested: { b: { a: [index] } },
});

// The arguments of one call, by the names that the node SDK has for them.
export function payload(kind, index) {
  const who = index % 3 === 0 ? { anonymousId: `anon-${index}` } : { userId: `user-${index % 500}` };
  const properties = delicate(index);
  switch (kind) {
    case 'track':
      return { ...who, event: `Product ${index % 7} Viewed`, properties };
    case 'identify':
      return { ...who, traits: properties };
    case 'page':
    case 'screen':
      return { ...who, category: 'Shop', name: `Shelf ${index % 9}`, properties };
    case 'group':
      return { ...who, groupId: `group-${index % 20}`, traits: properties };
    case 'alias':
      return { userId: `user-${index}`, previousId: `anon-${index}` };
    default:
      throw new Error(`no such kind: ${kind}`);
  }
}

// The events in a request's body, with their open-ended parts as the text that was sent.
export function eventsOf(body) {
  const request = JSON.parse(body);
  // JSON.stringify wrote this body, so writing it again gives each part's text back. Held here,
  // since everything that is compared later rests on it.
  if (JSON.stringify(request) !== body) throw new Error(`not canonical: ${body}`);
  const events = Array.isArray(request.batch) ? request.batch : [request];
  return events.map((event) => ({
    type: event.type,
    messageId: event.messageId,
    event: event.event ?? event.name,
    category: event.category || undefined,
    userId: event.userId || undefined,
    anonymousId: event.anonymousId || undefined,
    groupId: event.groupId || undefined,
    previousId: event.previousId || undefined,
    properties: textOf(event.properties),
    traits: textOf(event.traits),
    context: textOf(event.context),
    integrations: textOf(event.integrations),
  }));
}

const textOf = (part) => (part === undefined ? undefined : JSON.stringify(part));

// Ends the process, saying what `told` says, should it take longer than any healthy run does.
export function withinDeadline(told) {
  const giveUp = () => {
    console.error(`gave up after ${DEADLINE_MS} ms: ${told()}`.slice(0, TOLD_MAX));
    process.exit(1);
  };
  setTimeout(giveUp, DEADLINE_MS).unref();
}

// Resolves when all of it is written; a process that ends earlier would cut it off.
export const print = (summary) =>
  new Promise((resolve) => process.stdout.write(`${JSON.stringify(summary)}\n`, resolve));
