//! Rules and destinations as they are told to operators, by a running node.

use serde::{Deserialize, Serialize};
use tracklog_pipeline::route::{RouteTable, Rules, RulesError, Verdict};
use tracklog_protocol::event::{EventBuilder, EventView};
use tracklog_protocol::line::{LinePlace, write_line};
use tracklog_protocol::{Offset, Record};

use crate::clock;
use crate::explain::{Question, Rejected};

/// What routes events now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoutesStatus {
    /// The file that is looked at.
    pub file: String,
    /// The topic that is routed.
    pub from: String,
    /// The number of the rules that hold for what is stored now; absent before the first.
    pub version: Option<u64>,
    /// Since when.
    pub since: Option<String>,
    /// How many rules they are.
    pub rules: usize,
    /// Why the file as it lies there does not hold, if so.
    pub refused: Option<String>,
}

/// A destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DestinationStatus {
    /// Its name.
    pub destination: String,
    /// `topic`, `webhook`, `file`; `live` or `archive`, which get every event without a rule.
    pub r#type: String,
    /// `running`, `paused`, `failing`, or `stopped` where it cannot begin or has ended; `idle` while
    /// nobody watches live figures, `off` where the configuration says so.
    pub state: String,
    /// What fails.
    pub why: Option<String>,
    /// Since when.
    pub since: Option<String>,
    /// Events of the source that it has still to pass; of an archive those of all its topics.
    pub lag: u64,
    /// Events that it took since it began, as the file says now; not counted for topics.
    pub delivered: Option<u64>,
    /// Events that were set aside since then.
    pub undelivered: Option<u64>,
    /// Calls that failed since then.
    pub retried: Option<u64>,
    /// How the last retry of what was set aside went.
    pub retry: Option<String>,
}

/// Where an event goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteExplanation {
    /// Why it would be rejected; then it goes nowhere.
    pub rejected: Option<Rejected>,
    /// What each rule says of it, in order.
    pub rules: Vec<RuleVerdict>,
    /// Where it goes.
    pub destinations: Vec<Delivered>,
}

impl RouteExplanation {
    /// Of an event that is rejected.
    pub(crate) const fn rejected(rejected: Rejected) -> Self {
        Self { rejected: Some(rejected), rules: Vec::new(), destinations: Vec::new() }
    }
}

/// An event, the request that might bring it, and rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteQuestion {
    /// The event and its request.
    pub question: Question,
    /// The text of a file of rules; absent: the rules that hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<String>,
}

/// What a rule says of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleVerdict {
    /// The rule's name.
    pub rule: String,
    /// `taken`, or why not: `other event`, `where`, `not sampled`.
    pub verdict: String,
    /// Its destinations.
    pub to: Vec<String>,
}

/// An event at a destination.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Delivered {
    /// The destination's name.
    pub destination: String,
    /// The rule that sends it there.
    pub rule: String,
    /// By which lane.
    pub lane: String,
    /// The event as it goes there: its JSON line. Where it will lie is not known yet.
    pub event: serde_json::Value,
}

/// What a good file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesSummary {
    /// How many rules there are.
    pub rules: usize,
    /// The names of the destinations.
    pub destinations: Vec<String>,
}

/// Whether the text of a file of rules can be used.
///
/// # Errors
/// [`RulesError`]: where it cannot, and why.
pub fn check(text: &str) -> Result<RulesSummary, RulesError> {
    let rules = Rules::parse(text)?;
    let destinations = rules.destinations.keys().map(ToString::to_string).collect();
    Ok(RulesSummary { rules: rules.rule_count(), destinations })
}

/// Where `record`, an event, goes by the rules in `text`.
///
/// # Errors
/// [`RulesError`] when the text cannot be used.
pub(crate) fn explain(text: &str, record: Record<'_>) -> Result<RouteExplanation, RulesError> {
    let rules = Rules::parse(text)?;
    let table = RouteTable::new(rules);
    let event = EventView::of(record).expect("an event is explained");
    let verdicts = table.explain(&event).map(|(rule, verdict, to)| RuleVerdict {
        rule: rule.to_owned(),
        verdict: shown(verdict).to_owned(),
        to: to.iter().map(ToString::to_string).collect(),
    });
    let mut destinations = Vec::new();
    table.each(&event, |name, taken| {
        let mut builder = EventBuilder::new();
        destinations.push(Delivered {
            destination: name.to_string(),
            rule: taken.rule().to_owned(),
            lane: taken.lane().as_str().to_owned(),
            event: line(taken.projected(&event, record, &mut builder)),
        });
    });
    Ok(RouteExplanation { rejected: None, rules: verdicts.collect(), destinations })
}

/// The line without the place that it does not have.
fn line(record: Record<'_>) -> serde_json::Value {
    let (offset, appended_at) = (Offset::ZERO, clock::now());
    let mut text = Vec::new();
    write_line(&mut text, LinePlace { topic: "", partition: 0, offset, appended_at }, record);
    let mut line: serde_json::Value = serde_json::from_slice(&text).expect("lines are JSON");
    let fields = line.as_object_mut().expect("a line is an object");
    for place in ["topic", "partition", "offset", "appendedAt", "rawPartition", "rawOffset"] {
        fields.remove(place);
    }
    line
}

const fn shown(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::OtherEvent => "other event",
        Verdict::Where => "where",
        Verdict::NotSampled => "not sampled",
        Verdict::Taken => "taken",
    }
}
