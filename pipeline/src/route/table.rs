//! Compiled rules: where an event goes.
//!
//! Which rules can match is found by name, type and source at once, in a cache that holds the
//! answer for each such triple; only those that can are asked about the event's fields. So rules
//! that cannot match cost an event nothing, however many they are.
//!
//! An event goes to a destination once at most: the first rule in the file's order that takes the
//! event and names the destination decides lane and projection. Whether a rule takes an event is a
//! function of the event alone, sampling included: asked again, the answer is the same.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use quick_cache::Equivalent;
use quick_cache::sync::Cache;
use tracklog_protocol::Record;
use tracklog_protocol::event::{EventBuilder, EventKind, EventView};

use super::field::Value;
use super::rules::{DestinationName, Lane, Rule, Rules, Sample};

/// The cache holds so many triples.
const CACHED_TRIPLES: usize = 16_384;

/// Rules that can be asked.
pub struct RouteTable {
    rules: Rules,
    /// For each destination, those of the rules that name it.
    by_destination: BTreeMap<DestinationName, Box<[bool]>>,
    /// The rules whose names are all given literally, by name.
    literal: HashMap<Box<str>, Vec<RuleIndex>, foldhash::fast::RandomState>,
    /// All others.
    patterned: Vec<RuleIndex>,
    candidates: Cache<Triple, Arc<[RuleIndex]>>,
}

type RuleIndex = u16;

/// What rules are found by.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Triple {
    kind: EventKind,
    name: Box<str>,
    source: Box<str>,
}

/// The same, borrowed.
#[derive(Clone, Copy)]
struct TripleOf<'a> {
    kind: EventKind,
    name: &'a str,
    source: &'a str,
}

impl Hash for TripleOf<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.kind, self.name, self.source).hash(state);
    }
}

impl Hash for Triple {
    fn hash<H: Hasher>(&self, state: &mut H) {
        TripleOf { kind: self.kind, name: &self.name, source: &self.source }.hash(state);
    }
}

impl Equivalent<Triple> for TripleOf<'_> {
    fn equivalent(&self, triple: &Triple) -> bool {
        self.kind == triple.kind && *self.name == *triple.name && *self.source == *triple.source
    }
}

/// A rule that takes an event.
#[derive(Clone, Copy, Debug)]
pub struct Taken<'t> {
    rule: &'t Rule,
}

impl<'t> Taken<'t> {
    /// The rule's name.
    #[must_use]
    pub fn rule(&self) -> &'t str {
        &self.rule.name
    }

    /// Which lane the event takes.
    #[must_use]
    pub const fn lane(&self) -> Lane {
        self.rule.lane
    }

    /// What goes on of `event`, whose record is `whole`: that, or what the rule's projection
    /// leaves of it, built in `builder`.
    pub fn projected<'b>(
        &self,
        event: &EventView<'_>,
        whole: Record<'b>,
        builder: &'b mut EventBuilder,
    ) -> Record<'b> {
        match &self.rule.projection {
            Some(projection) => projection.apply(event, builder),
            None => whole,
        }
    }
}

/// What a rule says of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its name, type or source is another.
    OtherEvent,
    /// `where` does not hold.
    Where,
    /// It is not among those sampled.
    NotSampled,
    /// It goes to the rule's destinations, but for those that an earlier rule sent it to.
    Taken,
}

impl RouteTable {
    /// Compiles `rules`.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        let destinations = rules.destinations.keys();
        let named = |name: &DestinationName| -> Box<[bool]> {
            rules.rules.iter().map(|rule| rule.to.contains(name)).collect()
        };
        let by_destination = destinations.map(|name| (name.clone(), named(name))).collect();
        let mut literal: HashMap<_, Vec<_>, _> = HashMap::default();
        let mut patterned = Vec::new();
        for (index, rule) in rules.rules.iter().enumerate() {
            let index = RuleIndex::try_from(index).expect("a file has few rules");
            let literals: Option<Vec<_>> = rule.names.iter().map(|name| name.literal()).collect();
            match literals.filter(|it| !it.is_empty()) {
                Some(names) => names.into_iter().for_each(|name| {
                    let rules = literal.entry(name.into()).or_default();
                    if rules.last() != Some(&index) {
                        rules.push(index);
                    }
                }),
                None => patterned.push(index),
            }
        }
        let candidates = Cache::new(CACHED_TRIPLES);
        Self { rules, by_destination, literal, patterned, candidates }
    }

    /// What it was compiled from.
    #[must_use]
    pub const fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Whether some rule sends events to `destination` on `lane`.
    #[must_use]
    pub fn serves(&self, destination: &DestinationName, lane: Lane) -> bool {
        let Some(named) = self.by_destination.get(destination) else { return false };
        self.rules.rules.iter().zip(named).any(|(rule, named)| *named && rule.lane == lane)
    }

    /// Which rule sends `event` to `destination`, if one does.
    #[must_use]
    pub fn taken(&self, event: &EventView<'_>, destination: &DestinationName) -> Option<Taken<'_>> {
        let named = self.by_destination.get(destination)?;
        let candidates = self.candidates(event);
        let of_destination = candidates.iter().map(|index| usize::from(*index));
        let mut rules =
            of_destination.filter(|it| named[*it]).map(|index| &self.rules.rules[index]);
        rules
            .find(|rule| rule.verdict_on_fields(event) == Verdict::Taken)
            .map(|rule| Taken { rule })
    }

    /// Calls `to` for each destination that `event` goes to, in the order of the rules.
    pub fn each(&self, event: &EventView<'_>, mut to: impl FnMut(&DestinationName, Taken<'_>)) {
        let mut seen: Vec<&DestinationName> = Vec::new();
        for index in self.candidates(event).iter() {
            let rule = &self.rules.rules[usize::from(*index)];
            if rule.to.iter().all(|name| seen.contains(&name)) {
                continue;
            }
            if rule.verdict_on_fields(event) != Verdict::Taken {
                continue;
            }
            for name in &rule.to {
                if !seen.contains(&name) {
                    seen.push(name);
                    to(name, Taken { rule });
                }
            }
        }
    }

    /// What each rule says of `event`, in order: its name, the verdict, its destinations.
    pub fn explain(
        &self,
        event: &EventView<'_>,
    ) -> impl Iterator<Item = (&str, Verdict, &[DestinationName])> {
        self.rules.rules.iter().map(|rule| (rule.name.as_str(), rule.verdict(event), &rule.to[..]))
    }

    /// The rules that can match by name, type and source, in order.
    fn candidates(&self, event: &EventView<'_>) -> Arc<[RuleIndex]> {
        let name = event.name().unwrap_or_default();
        let source = event.source().unwrap_or_default();
        let triple = TripleOf { kind: event.kind(), name, source };
        if let Some(known) = self.candidates.get(&triple) {
            return known;
        }
        let found: Arc<[_]> = self.find(event).into();
        let TripleOf { kind, name, source } = triple;
        let triple = Triple { kind, name: name.into(), source: source.into() };
        self.candidates.insert(triple, Arc::clone(&found));
        found
    }

    fn find(&self, event: &EventView<'_>) -> Vec<RuleIndex> {
        let literal = event.name().and_then(|name| self.literal.get(name));
        let mut found: Vec<_> =
            literal.into_iter().flatten().chain(&self.patterned).copied().collect();
        found.retain(|index| self.rules.rules[usize::from(*index)].is_about(event));
        found.sort_unstable();
        found
    }
}

impl Rule {
    fn verdict(&self, event: &EventView<'_>) -> Verdict {
        if self.is_about(event) { self.verdict_on_fields(event) } else { Verdict::OtherEvent }
    }

    fn is_about(&self, event: &EventView<'_>) -> bool {
        let fits = |patterns: &[super::pattern::Pattern], text: Option<&str>| {
            let fits = |text| patterns.iter().any(|pattern| pattern.fits(text));
            patterns.is_empty() || text.is_some_and(fits)
        };
        let is_kind = self.kinds.is_empty() || self.kinds.contains(&event.kind());
        is_kind && fits(&self.names, event.name()) && fits(&self.sources, event.source())
    }

    fn verdict_on_fields(&self, event: &EventView<'_>) -> Verdict {
        if self.condition.as_ref().is_some_and(|condition| !condition.holds(event)) {
            return Verdict::Where;
        }
        if self.sample.as_ref().is_some_and(|sample| !sample.takes(event)) {
            return Verdict::NotSampled;
        }
        Verdict::Taken
    }
}

impl Sample {
    /// By a hash of the field, so that what shares it is taken or left together. Events that lack
    /// the field are one such set.
    fn takes(&self, event: &EventView<'_>) -> bool {
        let hash = match self.by.value(event) {
            Some(Value::Text(text)) => xxhash_rust::xxh3::xxh3_64(text.as_bytes()),
            Some(other) => xxhash_rust::xxh3::xxh3_64(format!("{other:?}").as_bytes()),
            None => xxhash_rust::xxh3::xxh3_64(b""),
        };
        // Partitions go by the same hash of the same ids: mixed, it says nothing of the partition.
        u128::from(mixed(hash)) < self.below
    }
}

/// The last steps of `SplitMix64` (Steele, Lea, Flood: Fast splittable pseudorandom number
/// generators, 2014): each bit of the result hangs on all bits.
const fn mixed(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

impl fmt::Debug for RouteTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RouteTable({} rules)", self.rules.rule_count())
    }
}
