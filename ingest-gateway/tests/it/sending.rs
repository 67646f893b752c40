//! Sends bodies through the intake as a request would, and shows what became of each event.
#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

use std::net::IpAddr;

use serde_json::Value;
use tracklog_ingest_gateway::intake::{Door, Intake, NoSchemas, RequestFacts, Validate};
use tracklog_ingest_gateway::scan::{ScanLimits, Unreadable};
use tracklog_ingest_gateway::source::SourceRules;
use tracklog_protocol::event::{EventKind, EventView};
use tracklog_protocol::line::{LinePlace, write_line};
use tracklog_protocol::{Offset, Records, TimeMicros};

pub(crate) const TRACK: Door = Door::Single(EventKind::Track);

/// 2026-11-25T09:00:00Z, when everything is received.
pub(crate) const RECEIVED: TimeMicros = TimeMicros(1_795_597_200_000_000);

/// A request's rules and facts, to be changed by the test.
pub(crate) struct Sending {
    pub(crate) source: SourceRules,
    pub(crate) limits: ScanLimits,
    pub(crate) peer: Option<IpAddr>,
    pub(crate) client: Option<IpAddr>,
    pub(crate) user_agent: Option<&'static str>,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    pub(crate) schemas: Box<dyn Validate>,
}

impl Default for Sending {
    fn default() -> Self {
        Self {
            source: SourceRules::named("shop"),
            limits: ScanLimits::default(),
            peer: Some("192.0.2.7".parse().unwrap()),
            client: Some("203.0.113.9".parse().unwrap()),
            user_agent: None,
            headers: Vec::new(),
            schemas: Box::new(NoSchemas),
        }
    }
}

impl Sending {
    pub(crate) fn send(&self, door: Door, body: impl AsRef<[u8]>) -> Result<Seen, Unreadable> {
        let mut intake = Intake::new();
        let submission = intake.scan(body.as_ref(), door, &self.limits)?;
        let request = RequestFacts {
            received: RECEIVED,
            peer: self.peer,
            client: self.client,
            user_agent: self.user_agent,
            headers: &self.headers,
        };
        let mut made = 0;
        let mut random = |id: &mut [u8; 16]| {
            made += 1;
            id.fill(made);
        };
        let judged = submission.judge(&self.source, &request, &*self.schemas, &mut random)?;
        let mut seen = Seen { records: Records::new(), keys: Vec::new() };
        for judgement in judged.iter() {
            seen.records.push(judgement.record);
            seen.keys.push(String::from_utf8_lossy(judgement.key).into_owned());
        }
        assert_eq!(judged.len(), seen.records.len());
        Ok(seen)
    }

    /// The one event of a body that is accepted, as its JSON line.
    pub(crate) fn stored(&self, door: Door, body: impl AsRef<[u8]>) -> Value {
        let seen = self.send(door, body).unwrap();
        assert_eq!(seen.records.len(), 1);
        assert_eq!(seen.code(0), None, "{}", seen.line(0));
        seen.line(0)
    }

    /// Code and pointer of the one event of a body that is rejected.
    pub(crate) fn rejected(&self, door: Door, body: impl AsRef<[u8]>) -> (String, Option<String>) {
        let seen = self.send(door, body).unwrap();
        assert_eq!(seen.records.len(), 1);
        let line = seen.line(0);
        let code = seen.code(0).unwrap_or_else(|| panic!("stored: {line}"));
        (code, line["pointer"].as_str().map(str::to_owned))
    }
}

/// What became of a body.
pub(crate) struct Seen {
    pub(crate) records: Records,
    pub(crate) keys: Vec<String>,
}

impl Seen {
    pub(crate) fn line(&self, index: usize) -> Value {
        serde_json::from_str(&self.line_text(index)).unwrap()
    }

    pub(crate) fn line_text(&self, index: usize) -> String {
        let record = self.records.get(index).unwrap();
        let (topic, offset, appended_at) = ("raw", Offset(index as u64), RECEIVED);
        let mut line = Vec::new();
        write_line(&mut line, LinePlace { topic, partition: 0, offset, appended_at }, record);
        String::from_utf8(line).unwrap()
    }

    pub(crate) fn event(&self, index: usize) -> EventView<'_> {
        EventView::of(self.records.get(index).unwrap()).unwrap()
    }

    /// The code of a rejected event; `None` for a stored one.
    pub(crate) fn code(&self, index: usize) -> Option<String> {
        Some(self.line(index)["code"].as_str()?.to_owned())
    }

    /// `stored`, or the code, of each event.
    pub(crate) fn verdicts(&self) -> Vec<String> {
        let verdict = |index| self.code(index).unwrap_or_else(|| "stored".to_owned());
        (0..self.records.len()).map(verdict).collect()
    }
}

/// A good track call with these properties.
pub(crate) fn track(id: &str, properties: &str) -> String {
    format!(
        r#"{{"type":"track","event":"Tried","userId":"u1","messageId":"{id}","properties":{properties}}}"#
    )
}

/// A good track call with more fields: `,"name":value…`.
pub(crate) fn track_with(fields: &str) -> String {
    format!(r#"{{"type":"track","event":"Tried","userId":"u1","messageId":"m1"{fields}}}"#)
}
