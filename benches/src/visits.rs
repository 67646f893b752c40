//! Events of a shop as they come to lie in one partition of a log, with ids as random as they are:
//! JSON of some 780 bytes an event, and the parts that the gateway finds in it.
//!
//! A visitor has a random id, one of 5,000 agents, an address, a language, a screen, and a clock that is
//! off; of five, two are known users. He looks at products, a few of which are much in demand, and is
//! replaced by a new one after twelve events on average. Message ids are those of the browser's SDK.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use bytes::Bytes;
use tracklog_protocol::batch::{BatchBuilder, Stamp};
use tracklog_protocol::event::{EventBuilder, EventFlags, EventKind, EventParts, Fields};
use tracklog_protocol::line::format_time;
use tracklog_protocol::{Offset, PartitionId, PayloadKind, TimeMicros, TopicId};

use crate::traffic;

/// Who comes to the partition that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crowd {
    /// So many visits at a time: a visitor's events lie near one another.
    Visits(usize),
    /// Nobody comes twice.
    Strangers,
}

/// Batches of events as they lie in a partition, and what they came from.
#[derive(Clone, Debug)]
pub struct Batches {
    /// One batch each.
    pub batches: Vec<Bytes>,
    /// How many events there are.
    pub events: usize,
    /// What their JSON had, as sent, an event a line.
    pub json_bytes: usize,
}

/// When the first of them came.
const BEGAN: TimeMicros = TimeMicros(1_767_323_045_678_901);
/// Events of one partition are so far apart on average.
const GAP_MICROS: u64 = 80_000;
/// At most so many are in a batch.
const BATCH_EVENTS: u64 = 16;
const PRODUCTS: u64 = 4_000;
const USERS: u64 = 2_000_000;
/// One of so many events is a visitor's last.
const EVENTS_A_VISIT: u64 = 12;

/// `events` events, from a seed.
///
/// # Panics
/// Never: the events are good ones.
#[must_use]
pub fn batches(events: usize, crowd: Crowd, seed: u64) -> Batches {
    let mut shop = Shop::new(crowd, seed);
    let mut all = Batches { batches: Vec::new(), events, json_bytes: 0 };
    let (mut offset, mut now) = (0, BEGAN);
    while offset < events {
        let count = 1 + shop.random.below(BATCH_EVENTS) as usize;
        let count = count.min(events - offset);
        let mut batch = BatchBuilder::new(PayloadKind::Event);
        for _ in 0..count {
            now = TimeMicros(now.0 + 1 + shop.random.below(2 * GAP_MICROS) as i64);
            all.json_bytes += shop.send(now, &mut batch);
        }
        let stamp = Stamp {
            partition: PartitionId::new(TopicId(7), 3),
            base_offset: Offset(offset as u64),
            append_time: TimeMicros(now.0 + shop.random.below(900) as i64),
        };
        all.batches.push(batch.finish().stamped(&stamp).bytes().clone());
        offset += count;
    }
    all
}

/// Numbers that look random, the same for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Small numbers are more likely.
    fn popular(&mut self, bound: u64) -> u64 {
        let bound = self.below(bound) + 1;
        self.below(bound)
    }

    fn of<'a>(&mut self, these: &[&'a str]) -> &'a str {
        these[self.below(these.len() as u64) as usize]
    }

    fn uuid(&mut self) -> String {
        let (high, low) = (self.next(), self.next());
        format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            high >> 32,
            high >> 16 & 0xffff,
            high & 0xfff,
            low >> 48 & 0x3fff | 0x8000,
            low & 0xffff_ffff_ffff
        )
    }
}

struct Visitor {
    anonymous_id: String,
    user_id: Option<String>,
    agent: String,
    address: String,
    locale: &'static str,
    time_zone: &'static str,
    screen: (u32, u32),
    /// His clock − ours.
    skew_millis: i64,
    referrer: String,
}

struct Shop {
    random: Random,
    crowd: Crowd,
    visitors: Vec<Visitor>,
    builder: EventBuilder,
}

impl Shop {
    fn new(crowd: Crowd, seed: u64) -> Self {
        let mut random = Random(seed);
        let at_a_time = match crowd {
            Crowd::Visits(visits) => visits,
            Crowd::Strangers => 1,
        };
        let visitors = (0..at_a_time).map(|_| Visitor::new(&mut random)).collect();
        Self { random, crowd, visitors, builder: EventBuilder::new() }
    }

    /// Sends an event that comes at `now`, and tells how long its JSON was.
    fn send(&mut self, now: TimeMicros, batch: &mut BatchBuilder) -> usize {
        let random = &mut self.random;
        let at = random.below(self.visitors.len() as u64) as usize;
        let visitor = &mut self.visitors[at];
        if self.crowd == Crowd::Strangers || random.below(EVENTS_A_VISIT) == 0 {
            *visitor = Visitor::new(random);
        }
        let travelled = 20 + random.popular(200) as i64;
        let sent = TimeMicros((now.0 / 1_000 + visitor.skew_millis - travelled) * 1_000);
        let said = TimeMicros(sent.0 - 1_000 * random.popular(400) as i64);
        let event = Event::of(visitor, random, said);
        let index = Fields::of(&event.properties).collect::<Result<Vec<_>, _>>();
        let index = index.expect("the properties are an object");
        let (said_text, sent_text) = (to_millis(said), to_millis(sent));
        let parts = EventParts {
            event_time: TimeMicros(now.0 - (sent.0 - said.0)),
            received_time: now,
            client_time: Some(said),
            client_time_text: Some(&said_text),
            sent_time_text: Some(&sent_text),
            property_index: &index,
            ..event.parts(visitor)
        };
        batch.push(self.builder.build(&parts));
        event.json(&parts).len()
    }
}

/// What differs from event to event.
struct Event {
    kind: EventKind,
    name: &'static str,
    message_id: String,
    properties: String,
    path: String,
    url: String,
    title: String,
    context: String,
}

impl Event {
    fn of(visitor: &Visitor, random: &mut Random, said: TimeMicros) -> Self {
        let product = Product::of(random.popular(PRODUCTS));
        let (kind, name, path, title) = match random.below(20) {
            0..=4 => (EventKind::Page, "Category", None, product.category.to_owned()),
            5..=16 => (EventKind::Track, "product.viewed", Some(product.path()), product.name()),
            17 | 18 => (EventKind::Track, "product.added", Some(product.path()), product.name()),
            _ => {
                let (path, title) = ("/checkout/done".to_owned(), "Thank you".to_owned());
                (EventKind::Track, "Order Completed", Some(path), title)
            }
        };
        let path = path.unwrap_or_else(|| format!("/c/{title}"));
        let properties = match name {
            "Category" => {
                let page = 1 + random.popular(9);
                format!(r#"{{"path":"{path}","category":"{title}","page":{page}}}"#)
            }
            "product.viewed" => format!("{{{}}}", product.fields()),
            "product.added" => {
                let quantity = 1 + random.popular(4);
                format!(r#"{{{},"quantity":{quantity}}}"#, product.fields())
            }
            _ => {
                let other = Product::of(random.popular(PRODUCTS));
                format!(
                    concat!(
                        r#"{{"order_id":"{}","total":{}.90,"currency":"EUR","#,
                        r#""products":[{{{}}},{{{}}}]}}"#
                    ),
                    random.uuid(),
                    product.cents() + other.cents(),
                    product.fields(),
                    other.fields()
                )
            }
        };
        let message_id = format!("ajs-next-{}-{}", said.0 / 1_000, random.uuid());
        let url = format!("https://shop.example{path}");
        let context = visitor.context(&path, &url, &title);
        Self { kind, name, message_id, properties, path, url, title, context }
    }

    /// All but times and the index.
    fn parts<'a>(&'a self, visitor: &'a Visitor) -> EventParts<'a> {
        let referrer = visitor.referrer.as_str();
        EventParts {
            message_id: &self.message_id,
            kind: self.kind,
            name: Some(self.name),
            source: Some("shop"),
            anonymous_id: Some(&visitor.anonymous_id),
            user_id: visitor.user_id.as_deref(),
            flags: EventFlags::SKEW_CORRECTED,
            peer_address: Some("10.0.0.1"),
            client_address: Some(&visitor.address),
            user_agent: Some(&visitor.agent),
            locale: Some(visitor.locale),
            page_url: Some(&self.url),
            page_path: Some(&self.path),
            page_referrer: Some(referrer).filter(|referrer| !referrer.is_empty()),
            page_title: Some(&self.title),
            library_name: Some("analytics.js"),
            library_version: Some("npm:next-1.84.3"),
            properties: Some(&self.properties),
            context: Some(&self.context),
            integrations: Some("{}"),
            ..EventParts::default()
        }
    }

    /// What was sent.
    fn json(&self, parts: &EventParts<'_>) -> String {
        let said = parts.client_time_text.unwrap_or_default();
        let sent = parts.sent_time_text.unwrap_or_default();
        let mut json = format!(
            r#"{{"messageId":"{}","anonymousId":"{}","#,
            self.message_id,
            parts.anonymous_id.unwrap_or_default()
        );
        if let Some(user) = parts.user_id {
            write!(json, r#""userId":"{user}","#).expect("memory");
        }
        let (kind, key) = match self.kind {
            EventKind::Page => ("page", "name"),
            _ => ("track", "event"),
        };
        write!(
            json,
            r#""type":"{kind}","{key}":"{}","properties":{},"#,
            self.name, self.properties
        )
        .expect("memory");
        write!(json, r#""context":{},"integrations":{{}},"#, self.context).expect("memory");
        write!(json, r#""timestamp":"{said}","sentAt":"{sent}"}}"#).expect("memory");
        json
    }
}

impl Visitor {
    fn new(random: &mut Random) -> Self {
        let agent = random.below(traffic::AGENTS as u64) as usize;
        let skew_millis = match random.below(5) {
            0 => random.below(240_000) as i64 - 120_000,
            _ => random.below(2_000) as i64 - 1_000,
        };
        let address = Ipv4Addr::from_bits(0x2000_0000 + random.below(1 << 29) as u32).to_string();
        Self {
            anonymous_id: random.uuid(),
            user_id: (random.below(5) < 2).then(|| format!("user-{}", random.below(USERS))),
            agent: traffic::agent(agent),
            address,
            locale: random.of(&["de-DE", "de-DE", "de-DE", "en-GB", "fr-FR", "en-US"]),
            time_zone: random.of(&["Europe/Berlin", "Europe/Berlin", "Europe/London"]),
            screen: [(1920, 1080), (390, 844), (360, 800), (1440, 900)][random.below(4) as usize],
            skew_millis,
            referrer: match random.below(3) {
                0 => String::new(),
                1 => "https://www.google.com/".to_owned(),
                _ => format!("https://search.example/q?{}", random.of(&WORDS)),
            },
        }
    }

    fn context(&self, path: &str, url: &str, title: &str) -> String {
        format!(
            concat!(
                r#"{{"library":{{"name":"analytics.js","version":"npm:next-1.84.3"}},"#,
                r#""page":{{"path":"{path}","referrer":"{referrer}","title":"{title}","#,
                r#""url":"{url}"}},"userAgent":"{agent}","#,
                r#""screen":{{"width":{width},"height":{height}}},"#,
                r#""locale":"{locale}","timezone":"{zone}"}}"#
            ),
            path = path,
            referrer = self.referrer,
            title = title,
            url = url,
            agent = self.agent,
            width = self.screen.0,
            height = self.screen.1,
            locale = self.locale,
            zone = self.time_zone,
        )
    }
}

/// As a browser writes it.
fn to_millis(time: TimeMicros) -> String {
    let micros = format_time(time);
    format!("{}Z", &micros[..micros.len() - 4])
}

const WORDS: [&str; 24] = [
    "enamel", "linen", "oak", "trail", "wool", "pocket", "dotted", "desk", "copper", "canvas",
    "felt", "walnut", "mug", "shirt", "lamp", "shoes", "beans", "notebook", "blanket", "knife",
    "bag", "chair", "kettle", "scarf",
];
const CATEGORIES: [&str; 8] =
    ["kitchen", "clothing", "home", "sports", "food", "stationery", "outdoor", "travel"];

/// One of the shop's products: all of it follows from its number.
struct Product {
    number: u64,
    mixed: u64,
    category: &'static str,
}

impl Product {
    fn of(number: u64) -> Self {
        let mixed = Random(number).next();
        Self { number, mixed, category: CATEGORIES[(mixed % 8) as usize] }
    }

    fn name(&self) -> String {
        let word = |shift: u32| WORDS[(self.mixed >> shift) as usize % WORDS.len()];
        format!("{} {} {}", word(8), word(16), word(24))
    }

    fn cents(&self) -> u64 {
        5 + self.mixed % 190
    }

    fn path(&self) -> String {
        format!("/p/{}", 10_000 + self.number)
    }

    fn fields(&self) -> String {
        format!(
            concat!(
                r#""product_id":"p-{id}","name":"{name}","category":"{category}","price":{price}.90,"#,
                r#""currency":"EUR""#
            ),
            id = 10_000 + self.number,
            name = self.name(),
            category = self.category,
            price = self.cents(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_the_size_that_the_figures_name() {
        for crowd in [Crowd::Visits(120), Crowd::Strangers] {
            let all = batches(2_000, crowd, 1);
            let mean = all.json_bytes / all.events;
            assert!((770..800).contains(&mean), "{mean} bytes");
        }
    }
}
