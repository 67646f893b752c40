//! A made-up shop: visitors who look around, some of whom buy, and clients that get things wrong.
//!
//! Sans-io and deterministic by seed: the caller brings the time.

use serde_json::{Value, json};
use tracklog_protocol::TimeMicros;
use tracklog_protocol::line::format_time;

use super::places;
use crate::random::Random;

/// The example schemas, by event.
pub(super) const SCHEMAS: [(&str, &str); 2] = [
    ("product.viewed", include_str!("schemas/product.viewed.json")),
    ("checkout.started", include_str!("schemas/checkout.started.json")),
];

/// Visitors in the shop at a time.
const VISITORS: usize = 64;
/// One of so many events is malformed.
const MALFORMED_ONE_OF: u64 = 25;
/// One of so many requests is no JSON at all.
const UNREADABLE_ONE_OF: u64 = 400;

const PRODUCTS: [(&str, &str, u32); 8] = [
    ("Enamel mug", "kitchen", 1_490),
    ("Linen shirt", "clothing", 5_900),
    ("Desk lamp", "home", 7_900),
    ("Trail shoes", "sports", 12_900),
    ("Espresso beans", "food", 1_650),
    ("Notebook, dotted", "stationery", 990),
    ("Wool blanket", "home", 8_400),
    ("Pocket knife", "outdoor", 3_200),
];

const AGENTS: [&str; 3] = [
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) \
     Version/18.0 Safari/605.1.15",
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 (KHTML, like Gecko) \
     Chrome/140.0.0.0 Mobile Safari/537.36",
];

/// What a client sends.
#[derive(Clone, Debug)]
pub(super) struct Submission {
    pub(super) path: &'static str,
    pub(super) body: String,
    pub(super) user_agent: &'static str,
    /// Of the visitor.
    pub(super) address: String,
    pub(super) events: u64,
}

/// The shop, one client's share of it.
pub(super) struct Shop {
    random: Random,
    visitors: Vec<Visitor>,
    messages: u64,
    salt: u64,
}

#[derive(Clone)]
struct Visitor {
    anonymous_id: String,
    user_id: Option<String>,
    session_id: u64,
    agent: &'static str,
    cart: Vec<usize>,
    stage: Stage,
}

#[derive(Clone, Copy)]
enum Stage {
    Arrives,
    Looks,
    Signs,
    ChecksOut,
    Buys,
}

impl Shop {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let visitors = (0..VISITORS).map(|_| Visitor::new(&mut random)).collect();
        let salt = random.next();
        Self { random, visitors, messages: 0, salt }
    }

    /// What the next client sends: an event alone, a browser's batch, or a server's array.
    pub(super) fn next(&mut self, now: TimeMicros) -> Submission {
        let at = self.random.below(VISITORS as u64) as usize;
        let (user_agent, address) = (self.visitors[at].agent, places::address(at as u64));
        if self.random.below(UNREADABLE_ONE_OF) == 0 {
            let body = "{\"event\": \"product.viewed\", \"properties\": {".to_owned();
            return Submission { path: "/v1/track", body, user_agent, address, events: 1 };
        }
        let (path, count) = match self.random.below(4) {
            0 => ("/v1/track", 1),
            1 => ("/v1/events", 1 + self.random.below(10)),
            _ => ("/v1/batch", 2 + self.random.below(12)),
        };
        let mut events: Vec<_> = (0..count).map(|n| self.event(at, now, n)).collect();
        let sent_at = format_time(now);
        let body = match path {
            "/v1/track" => {
                let mut event = events.pop().unwrap_or_default();
                event["sentAt"] = sent_at.into();
                event
            }
            "/v1/events" => Value::Array(events),
            _ => json!({ "batch": events, "sentAt": sent_at }),
        };
        Submission { path, body: body.to_string(), user_agent, address, events: count }
    }

    /// The next event of visitor `at`; `n`th of its batch, so that they are some moments apart.
    fn event(&mut self, at: usize, now: TimeMicros, n: u64) -> Value {
        self.messages += 1;
        let message_id = format!("demo-{:016x}-{}", self.salt, self.messages);
        let visitor = &mut self.visitors[at];
        let mut event = visitor.step(&mut self.random);
        let age = 40_000 * (12 - i64::try_from(n.min(12)).unwrap_or(0));
        event["messageId"] = message_id.into();
        event["anonymousId"] = visitor.anonymous_id.clone().into();
        if let Some(user) = &visitor.user_id {
            event["userId"] = user.clone().into();
        }
        event["timestamp"] = format_time(TimeMicros(now.0 - age)).into();
        event["context"] = json!({
            "library": { "name": "demo-shop", "version": "1.0.0" },
            "locale": "en-GB",
            "sessionId": visitor.session_id,
            "page": { "path": "/shop", "url": "https://shop.example/shop", "title": "Shop" },
        });
        if self.random.below(MALFORMED_ONE_OF) == 0 {
            spoil(&mut event, self.random.below(6));
        }
        if visitor.has_left() {
            *visitor = Visitor::new(&mut self.random);
        }
        event
    }
}

impl Visitor {
    fn new(random: &mut Random) -> Self {
        Self {
            anonymous_id: format!("anon-{:016x}", random.next()),
            user_id: None,
            session_id: 1_700_000_000_000 + random.below(100_000_000_000),
            agent: AGENTS[random.below(AGENTS.len() as u64) as usize],
            cart: Vec::new(),
            stage: Stage::Arrives,
        }
    }

    fn has_left(&self) -> bool {
        matches!(self.stage, Stage::Arrives) && !self.cart.is_empty()
    }

    /// What the visitor does now, and what comes next.
    fn step(&mut self, random: &mut Random) -> Value {
        match self.stage {
            Stage::Arrives => {
                self.stage = Stage::Looks;
                json!({ "type": "page", "name": "Home",
                        "properties": { "path": "/", "referrer": "https://search.example/" } })
            }
            Stage::Looks => {
                let product = random.below(PRODUCTS.len() as u64) as usize;
                self.cart.push(product);
                if self.cart.len() > 2 && random.below(3) == 0 {
                    self.stage = if random.below(2) == 0 { Stage::Signs } else { Stage::Arrives };
                }
                json!({ "type": "track", "event": "product.viewed", "properties": view(product) })
            }
            Stage::Signs => {
                self.stage = Stage::ChecksOut;
                let user = format!("user-{}", random.below(10_000));
                let plan = if random.below(5) == 0 { "gold" } else { "standard" };
                self.user_id = Some(user);
                json!({ "type": "identify", "traits": { "plan": plan, "newsletter": true } })
            }
            Stage::ChecksOut => {
                self.stage = Stage::Buys;
                json!({ "type": "track", "event": "checkout.started", "properties": self.order() })
            }
            Stage::Buys => {
                self.stage = Stage::Arrives;
                json!({ "type": "track", "event": "Order Completed", "properties": self.order() })
            }
        }
    }

    fn order(&self) -> Value {
        let total: u32 = self.cart.iter().map(|product| PRODUCTS[*product].2).sum();
        let items: Vec<_> = self.cart.iter().map(|product| view(*product)).collect();
        json!({ "total": f64::from(total) / 100.0, "currency": "EUR", "items": items })
    }
}

fn view(product: usize) -> Value {
    let (name, category, cents) = PRODUCTS[product];
    json!({ "product_id": format!("p-{product}"), "name": name, "category": category,
            "price": f64::from(cents) / 100.0, "currency": "EUR" })
}

/// The mistakes that clients make.
fn spoil(event: &mut Value, how: u64) {
    match how {
        0 => event["properties"]["price"] = "12,50 €".into(),
        1 => event["properties"] = json!({}),
        2 => {
            event["anonymousId"] = Value::Null;
            event["userId"] = "".into();
        }
        3 => event["timestamp"] = "yesterday, about noon".into(),
        4 => event["type"] = "purchase".into(),
        _ => {
            event["type"] = "track".into();
            event["event"] = "".into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_is_the_same_shop() {
        let bodies = |seed| {
            let mut shop = Shop::new(seed);
            (0..200).map(|_| shop.next(TimeMicros(1)).body).collect::<Vec<_>>()
        };
        assert_eq!(bodies(7), bodies(7));
        assert_ne!(bodies(7), bodies(8));
    }

    #[test]
    fn message_ids_are_never_given_twice_and_most_bodies_are_json() {
        let mut shop = Shop::new(3);
        let mut ids = std::collections::HashSet::new();
        let mut unreadable = 0;
        for _ in 0..2_000 {
            let submission = shop.next(TimeMicros(1_767_323_045_000_000));
            let Ok(body) = serde_json::from_str::<Value>(&submission.body) else {
                unreadable += 1;
                continue;
            };
            let events = match &body {
                Value::Array(events) => events.clone(),
                body => body["batch"].as_array().cloned().unwrap_or_else(|| vec![body.clone()]),
            };
            assert_eq!(events.len() as u64, submission.events);
            for event in events {
                assert!(ids.insert(event["messageId"].as_str().unwrap().to_owned()));
            }
        }
        assert!((1..40).contains(&unreadable), "{unreadable}");
    }
}
