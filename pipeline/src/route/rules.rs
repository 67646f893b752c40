//! The file of rules and destinations: what it may say, and where it says something else.
//!
//! ```toml
//! [destinations.orders]
//! type = "topic"                       # exactly once, into a topic of the node
//!
//! [destinations.crm]
//! type = "webhook"                     # at least once, with a stable id
//! url = "https://crm.example.com/hook"
//! secret_file = "crm.secret"
//!
//! [[rules]]
//! name = "paid orders"
//! event = ["Order *", "Refund"]        # patterns of names; all names where it is missing
//! type = "track"
//! source = "web*"
//! where = 'properties.total >= 100 and geo.country == "DE"'
//! to = ["orders", "crm"]
//! priority = "high"                    # a lane of its own
//! sample = 0.25                        # of the events, by their ids
//! drop = ["clientAddress", "context.ip"]
//! ```
//!
//! Sans-io: a text in, [`Rules`] or a [`RulesError`] with a line out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use toml::Spanned;
use tracklog_log::TopicName;
use tracklog_protocol::event::EventKind;

use super::expression::Expression;
use super::field::Field;
use super::pattern::Pattern;
use super::projection::Projection;
use crate::outbound::Target;
use crate::quantity::{Bytes, Span};

/// A file is no larger.
pub const FILE_BYTES_MAX: usize = 1 << 20;
/// A file has no more rules.
pub const RULES_MAX: usize = 10_000;
/// A file has no more destinations: each has groups of its own.
pub const DESTINATIONS_MAX: usize = 64;

/// What a file says.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Where events can go, by name.
    pub destinations: BTreeMap<DestinationName, DestinationSpec>,
    /// The rules, in their order.
    pub(super) rules: Vec<Rule>,
}

/// The name of a destination: what a topic's may be, up to 100 characters, without the endings that
/// its groups' names have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationName(TopicName);

impl DestinationName {
    /// A group's name is made of it and a word before and behind.
    const LEN_MAX: usize = 100;

    /// Checks `name`; `None` when it can be none.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let is_short = name.len() <= Self::LEN_MAX;
        let is_group_s = [".high", ".retry"].iter().any(|end| name.ends_with(end));
        let is_good = |name: &TopicName| is_short && !is_group_s && !name.is_internal();
        TopicName::new(name).ok().filter(is_good).map(Self)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl std::fmt::Display for DestinationName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a destination is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DestinationSpec {
    /// A topic of the node: exactly once, in the order of the source for each key.
    Topic {
        /// Its name.
        topic: TopicName,
        /// Of one that is made.
        partitions: u32,
    },
    /// Somebody's HTTP endpoint.
    Webhook(Box<WebhookSpec>),
    /// Files of JSON lines.
    File(FileSpec),
}

impl DestinationSpec {
    /// What it is called in the file.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Topic { .. } => "topic",
            Self::Webhook(_) => "webhook",
            Self::File(_) => "file",
        }
    }
}

/// An HTTP endpoint, and how it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookSpec {
    /// Where.
    pub target: Target,
    /// Where the secret lies that bodies are signed with; `None`: they are not.
    pub secret_file: Option<PathBuf>,
    /// Headers of every request.
    pub headers: HeaderMap,
    /// Events of one request, at most.
    pub batch_events: usize,
    /// Bytes of one request, at most, but for one event alone.
    pub batch_bytes: usize,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How long an endpoint that fails is tried for, until its events are set aside.
    pub give_up_after: Duration,
}

/// Files of JSON lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSpec {
    /// Their folder.
    pub folder: PathBuf,
    /// A file that has grown so large is finished, and another begun.
    pub roll_bytes: u64,
}

impl FileSpec {
    /// Its folder as seen from `base`, to be compared with others': without `.`, and without `..`
    /// and what that leaves. Links may lead to it elsewhere.
    fn place(&self, base: &Path) -> PathBuf {
        let mut place = PathBuf::new();
        for part in base.join(&self.folder).components() {
            match part {
                Component::CurDir => {}
                Component::ParentDir if place.file_name().is_some() => {
                    place.pop();
                }
                part => place.push(part),
            }
        }
        place
    }
}

/// Which lane a rule's events take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// Served first, by itself.
    High,
    /// All else.
    #[default]
    Normal,
}

impl Lane {
    /// Its name in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
        }
    }
}

/// One rule.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) name: String,
    /// Empty: all.
    pub(super) names: Vec<Pattern>,
    /// Empty: all.
    pub(super) kinds: Vec<EventKind>,
    /// Empty: all.
    pub(super) sources: Vec<Pattern>,
    pub(super) condition: Option<Expression>,
    pub(super) to: Vec<DestinationName>,
    pub(super) lane: Lane,
    pub(super) sample: Option<Sample>,
    pub(super) projection: Option<Projection>,
}

/// Which share of the events a rule takes.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// Hashes below are taken; of 2^64.
    pub(super) below: u128,
    /// What is hashed.
    pub(super) by: Field,
}

/// A file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct RulesError {
    /// From 1.
    pub line: usize,
    /// What is wrong, for people.
    pub what: String,
}

impl Rules {
    /// Reads a file's text.
    ///
    /// # Errors
    /// [`RulesError`]: the first thing in it that cannot be.
    pub fn parse(text: &str) -> Result<Self, RulesError> {
        let wrong = |(at, what): Wrong| RulesError { line: line_of(text, at), what };
        if text.len() > FILE_BYTES_MAX {
            return Err(wrong((0, format!("the file is larger than {FILE_BYTES_MAX} bytes"))));
        }
        let file: FileText = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            wrong((at, error.message().to_owned()))
        })?;
        Self::check(file).map_err(wrong)
    }

    /// A folder that two destinations have, as one of them names it, where names begin at `base`.
    #[must_use]
    pub fn shared_folder(&self, base: &Path) -> Option<&Path> {
        let mut places = BTreeSet::new();
        let files = self.destinations.values().filter_map(|spec| match spec {
            DestinationSpec::File(spec) => Some(spec),
            _ => None,
        });
        files.into_iter().find(|it| !places.insert(it.place(base))).map(|it| &*it.folder)
    }

    fn check(file: FileText) -> Result<Self, Wrong> {
        let mut checked = Self::default();
        for (name, destination) in file.destinations {
            if checked.destinations.len() == DESTINATIONS_MAX {
                let what = format!("more than {DESTINATIONS_MAX} destinations");
                return Err((name.span().start, what));
            }
            let at = name.span().start;
            let name = destination_name(&name)?;
            let spec = destination.into_inner().check(&name, at)?;
            checked.destinations.insert(name, spec);
            if let Some(folder) = checked.shared_folder(Path::new("")) {
                let what = format!("another destination has the folder {}", folder.display());
                return Err((at, what));
            }
        }
        let mut names = BTreeSet::new();
        for rule in file.rules {
            let at = rule.span().start;
            let rule = rule.into_inner().check(&checked.destinations)?;
            if !names.insert(rule.name.clone()) {
                return Err((at, format!("there are two rules {:?}", rule.name)));
            }
            if checked.rules.len() == RULES_MAX {
                return Err((at, format!("more than {RULES_MAX} rules")));
            }
            checked.rules.push(rule);
        }
        Ok(checked)
    }

    /// How many rules there are.
    #[must_use]
    pub fn rule_count(&self) -> usize {
        self.rules.len()
    }
}

/// Where in the text, and what.
type Wrong = (usize, String);

fn line_of(text: &str, at: usize) -> usize {
    let before = text.as_bytes().get(..at).unwrap_or_default();
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

fn destination_name(name: &Spanned<String>) -> Result<DestinationName, Wrong> {
    DestinationName::new(name.get_ref()).ok_or_else(|| {
        let what = "is no destination's name: a-z, 0-9, '.', '_' and '-', up to 100, no '_' first, \
                    no .high or .retry last";
        (name.span().start, format!("{:?} {what}", name.get_ref()))
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    #[serde(default)]
    destinations: BTreeMap<Spanned<String>, Spanned<DestinationText>>,
    #[serde(default)]
    rules: Vec<Spanned<RuleText>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DestinationText {
    r#type: Spanned<String>,
    topic: Option<Spanned<String>>,
    partitions: Option<Spanned<u32>>,
    url: Option<Spanned<String>>,
    secret_file: Option<Spanned<PathBuf>>,
    headers: Option<Spanned<BTreeMap<String, String>>>,
    batch_events: Option<Spanned<usize>>,
    batch_bytes: Option<Spanned<Bytes>>,
    timeout: Option<Spanned<Span>>,
    give_up_after: Option<Spanned<Span>>,
    folder: Option<Spanned<PathBuf>>,
    roll_bytes: Option<Spanned<Bytes>>,
}

/// A new topic's partitions, where the file does not say.
const PARTITIONS: u32 = 16;
const PARTITIONS_MAX: u32 = 100_000;
const BATCH_EVENTS: usize = 100;
const BATCH_EVENTS_MAX: usize = 10_000;
const BATCH_BYTES: usize = 512 << 10;
const BATCH_BYTES_MAX: usize = 16 << 20;
const TIMEOUT: Duration = Duration::from_secs(10);
const TIMEOUT_MAX: Duration = Duration::from_secs(300);
const GIVE_UP_AFTER: Duration = Duration::from_secs(24 * 3_600);
const ROLL_BYTES: u64 = 256 << 20;

impl DestinationText {
    fn check(self, name: &DestinationName, at: usize) -> Result<DestinationSpec, Wrong> {
        let kind = self.r#type.get_ref().as_str();
        self.refuse_what_is_for_others(kind)?;
        match kind {
            "topic" => self.topic(name),
            "webhook" => self.webhook(at).map(Box::new).map(DestinationSpec::Webhook),
            "file" => self.file(at).map(DestinationSpec::File),
            _ => {
                let what = "is no type of destination: topic, webhook and file are";
                Err((self.r#type.span().start, format!("{kind:?} {what}")))
            }
        }
    }

    fn refuse_what_is_for_others(&self, kind: &str) -> Result<(), Wrong> {
        fn at<T>(key: &Option<Spanned<T>>) -> Option<usize> {
            key.as_ref().map(|key| key.span().start)
        }
        let keys = [
            ("topic", "topic", at(&self.topic)),
            ("topic", "partitions", at(&self.partitions)),
            ("webhook", "url", at(&self.url)),
            ("webhook", "secret_file", at(&self.secret_file)),
            ("webhook", "headers", at(&self.headers)),
            ("webhook", "batch_events", at(&self.batch_events)),
            ("webhook", "batch_bytes", at(&self.batch_bytes)),
            ("webhook", "timeout", at(&self.timeout)),
            ("webhook", "give_up_after", at(&self.give_up_after)),
            ("file", "folder", at(&self.folder)),
            ("file", "roll_bytes", at(&self.roll_bytes)),
        ];
        let foreign = keys.iter().find(|(of, _, at)| *of != kind && at.is_some());
        match foreign {
            Some((of, key, Some(at))) => {
                Err((*at, format!("`{key}` is for destinations of type {of}, not {kind}")))
            }
            _ => Ok(()),
        }
    }

    fn topic(self, name: &DestinationName) -> Result<DestinationSpec, Wrong> {
        let (text, at) = match self.topic {
            Some(topic) => (topic.get_ref().clone(), topic.span().start),
            None => (name.as_str().to_owned(), self.r#type.span().start),
        };
        let own = ["raw", "enriched", "rejected", "undelivered"];
        let topic = TopicName::new(&text).map_err(|error| (at, error.to_string()))?;
        if topic.is_internal() || own.contains(&topic.as_str()) {
            return Err((at, format!("{topic} is a topic of the node's own: name another")));
        }
        let partitions = self.partitions.map_or(PARTITIONS, Spanned::into_inner);
        within(at, partitions, 1, PARTITIONS_MAX)?;
        Ok(DestinationSpec::Topic { topic, partitions })
    }

    fn webhook(self, at: usize) -> Result<WebhookSpec, Wrong> {
        let url = self.url.ok_or_else(|| (at, "a webhook needs an `url`".to_owned()))?;
        let target = url.get_ref().parse::<Target>();
        let target = target.map_err(|error| (url.span().start, error.to_string()))?;
        let bytes = self
            .batch_bytes
            .map(|it| within(it.span().start, it.get_ref().to_usize(), 1, BATCH_BYTES_MAX));
        let events =
            self.batch_events.map(|it| within(it.span().start, *it.get_ref(), 1, BATCH_EVENTS_MAX));
        let timeout = self.timeout.map(|it| {
            within(it.span().start, it.get_ref().0, Duration::from_millis(1), TIMEOUT_MAX)
        });
        let give_up_after = self.give_up_after.map_or(GIVE_UP_AFTER, |it| it.into_inner().0);
        Ok(WebhookSpec {
            target,
            secret_file: self.secret_file.map(Spanned::into_inner),
            headers: self.headers.map(headers).transpose()?.unwrap_or_default(),
            batch_events: events.transpose()?.unwrap_or(BATCH_EVENTS),
            batch_bytes: bytes.transpose()?.unwrap_or(BATCH_BYTES),
            timeout: timeout.transpose()?.unwrap_or(TIMEOUT),
            give_up_after,
        })
    }

    fn file(self, at: usize) -> Result<FileSpec, Wrong> {
        let folder = self.folder.ok_or_else(|| (at, "files need a `folder`".to_owned()))?;
        let roll_bytes = self.roll_bytes.map_or(ROLL_BYTES, |bytes| bytes.into_inner().0);
        Ok(FileSpec { folder: folder.into_inner(), roll_bytes })
    }
}

fn headers(texts: Spanned<BTreeMap<String, String>>) -> Result<HeaderMap, Wrong> {
    let at = texts.span().start;
    let header = |(name, value): (String, String)| {
        let parsed = (name.parse::<HeaderName>(), value.parse::<HeaderValue>());
        let (Ok(name), Ok(value)) = parsed else {
            return Err((at, format!("{name:?} is no header that can be sent")));
        };
        Ok((name, value))
    };
    texts.into_inner().into_iter().map(header).collect()
}

fn within<T: PartialOrd + Copy + std::fmt::Debug>(
    at: usize,
    value: T,
    min: T,
    max: T,
) -> Result<T, Wrong> {
    if !(min..=max).contains(&value) {
        return Err((at, format!("{value:?} is not from {min:?} to {max:?}")));
    }
    Ok(value)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    name: Spanned<String>,
    #[serde(default)]
    event: OneOrMany,
    #[serde(default)]
    r#type: OneOrMany,
    #[serde(default)]
    source: OneOrMany,
    r#where: Option<Spanned<String>>,
    to: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    priority: Lane,
    sample: Option<Spanned<f64>>,
    sample_by: Option<Spanned<String>>,
    keep: Option<Vec<Spanned<String>>>,
    drop: Option<Vec<Spanned<String>>>,
}

/// One text, or a list of them.
#[derive(Default, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    #[default]
    Nothing,
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::Nothing => Vec::new(),
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

impl RuleText {
    fn check(
        self,
        destinations: &BTreeMap<DestinationName, DestinationSpec>,
    ) -> Result<Rule, Wrong> {
        let at = self.name.span().start;
        let patterns = |texts: OneOrMany| -> Vec<_> {
            texts.into_vec().iter().map(|text| Pattern::new(text)).collect()
        };
        let kind = |text: String| {
            let known = EventKind::from_name(&text);
            known.ok_or_else(|| (at, format!("{text:?} is no type of event, like track or page")))
        };
        let sample = sample(self.sample, self.sample_by)?;
        Ok(Rule {
            name: self.name.into_inner(),
            names: patterns(self.event),
            kinds: self.r#type.into_vec().into_iter().map(kind).collect::<Result<_, _>>()?,
            sources: patterns(self.source),
            condition: self.r#where.map(condition).transpose()?,
            to: to(self.to, destinations)?,
            lane: self.priority,
            sample,
            projection: projection(self.keep, self.drop)?,
        })
    }
}

fn condition(text: Spanned<String>) -> Result<Expression, Wrong> {
    let of = |error| (text.span().start, format!("`where`, {error}"));
    Expression::parse(text.get_ref()).map_err(of)
}

fn to(
    names: Spanned<Vec<Spanned<String>>>,
    destinations: &BTreeMap<DestinationName, DestinationSpec>,
) -> Result<Vec<DestinationName>, Wrong> {
    if names.get_ref().is_empty() {
        return Err((names.span().start, "a rule needs a destination in `to`".to_owned()));
    }
    let known = |name: Spanned<String>| {
        let found = DestinationName::new(name.get_ref());
        let found = found.filter(|it| destinations.contains_key(it));
        found.ok_or_else(|| (name.span().start, no_destination(name.get_ref())))
    };
    names.into_inner().into_iter().map(known).collect()
}

fn no_destination(name: &str) -> String {
    match name {
        "archive" => "the archive takes every event by itself: it needs no rule".to_owned(),
        "live" => "live figures count every event by themselves: they need no rule".to_owned(),
        _ => format!("there is no [destinations.{name}]"),
    }
}

fn sample(
    share: Option<Spanned<f64>>,
    by: Option<Spanned<String>>,
) -> Result<Option<Sample>, Wrong> {
    let Some(share) = share else {
        return match by {
            Some(by) => Err((by.span().start, "`sample_by` needs `sample`".to_owned())),
            None => Ok(None),
        };
    };
    let at = share.span().start;
    let share = within(at, share.into_inner(), 0.0, 1.0)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 0 to 2^64, which 128 bits hold"
    )]
    let below = (share * 2_f64.powi(64)) as u128;
    let by = match by {
        Some(by) => field(by)?,
        None => Field::parse("messageId").expect("every event has one"),
    };
    Ok(Some(Sample { below, by }))
}

fn field(text: Spanned<String>) -> Result<Field, Wrong> {
    Field::parse(text.get_ref()).map_err(|error| (text.span().start, error.to_string()))
}

fn projection(
    keep: Option<Vec<Spanned<String>>>,
    drop: Option<Vec<Spanned<String>>>,
) -> Result<Option<Projection>, Wrong> {
    let of = |fields: Vec<Spanned<String>>| -> Result<Vec<(usize, Field)>, Wrong> {
        fields.into_iter().map(|text| Ok((text.span().start, field(text)?))).collect()
    };
    let (keep, drop) = (keep.map(of).transpose()?, drop.map(of).transpose()?.unwrap_or_default());
    if keep.is_none() && drop.is_empty() {
        return Ok(None);
    }
    for (at, field) in &drop {
        if !Projection::can_drop(field) {
            return Err((*at, format!("every event has {field}: it cannot be dropped")));
        }
    }
    let fields = |fields: Vec<(usize, Field)>| fields.into_iter().map(|it| it.1).collect();
    Ok(Some(Projection::new(keep.map(fields), fields(drop))))
}
