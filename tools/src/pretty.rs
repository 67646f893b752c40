//! Lines of records for people: one line each, the most telling fields, no control characters.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::terminal::printable;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    topic: String,
    partition: u32,
    offset: u64,
    appended_at: String,
    r#type: Option<String>,
    event: Option<String>,
    source: Option<String>,
    user_id: Option<String>,
    anonymous_id: Option<String>,
    code: Option<String>,
    pointer: Option<String>,
    message: Option<String>,
    key: Option<String>,
    value: Option<String>,
    deleted: Option<bool>,
    #[serde(borrow)]
    properties: Option<&'a RawValue>,
    #[serde(borrow)]
    traits: Option<&'a RawValue>,
}

/// How lines are shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pretty {
    /// Whether colours are understood.
    pub(crate) colours: bool,
}

impl Pretty {
    /// Lines of JSON, one or more, as lines for people.
    pub(crate) fn lines(self, json: &[u8]) -> String {
        let lines = json.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| self.line(line)).collect()
    }

    fn line(self, json: &[u8]) -> String {
        let Ok(shown) = serde_json::from_slice::<Shown<'_>>(json) else {
            return format!("{}\n", printable(&String::from_utf8_lossy(json)));
        };
        let time = shown.appended_at.get(..23).unwrap_or(&shown.appended_at).replace('T', " ");
        let place = format!("{}/{}@{}", shown.topic, shown.partition, shown.offset);
        let kind = shown.code.as_deref().or(shown.r#type.as_deref()).unwrap_or_default();
        let colour = if shown.code.is_some() { RED } else { GREEN };
        // As wide as the longest kind, and as the longest code.
        let width = if shown.code.is_some() { 13 } else { 8 };
        let line = format!(
            "{}  {place:<18}  {}  {}",
            self.coloured(DIM, &time),
            self.coloured(colour, &format!("{:<width$}", printable(kind))),
            printable(&details(&shown)),
        );
        format!("{}\n", line.trim_end())
    }

    fn coloured(self, colour: &str, text: &str) -> String {
        if self.colours { format!("{colour}{text}{RESET}") } else { text.to_owned() }
    }
}

const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const RESET: &str = "\x1b[0m";

fn details(shown: &Shown<'_>) -> String {
    let mut parts = Vec::new();
    let mut add = |prefix: &str, text: Option<&str>| {
        parts.extend(text.map(|text| format!("{prefix}{text}")));
    };
    add("", shown.event.as_deref());
    add("user ", shown.user_id.as_deref());
    if shown.user_id.is_none() {
        add("anonymous ", shown.anonymous_id.as_deref());
    }
    add("from ", shown.source.as_deref().filter(|source| *source != "default"));
    add("", shown.pointer.as_deref());
    add("", shown.message.as_deref());
    add("", shown.key.as_deref());
    add("= ", shown.value.as_deref());
    add("", shown.deleted.map(|_| "deleted"));
    add("", shown.properties.map(RawValue::get));
    add("traits ", shown.traits.map(RawValue::get));
    parts.join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Pretty = Pretty { colours: false };

    #[test]
    fn an_event_is_one_line() {
        let json = br#"{"topic":"raw","partition":3,"offset":7,"messageId":"m","type":"track","event":"Order (new)","source":"shop","userId":"7","timestamp":"2026-01-02T03:04:05.678901Z","appendedAt":"2026-01-02T03:04:06.678901Z","properties":{"total": 12.50}}
"#;
        let wanted = "2026-01-02 03:04:06.678  raw/3@7             track     Order (new)  \
                      user 7  from shop  {\"total\": 12.50}\n";
        assert_eq!(PLAIN.lines(json), wanted);
    }

    #[test]
    fn a_rejected_event_says_why() {
        let json = br#"{"topic":"rejected","partition":0,"offset":1,"appendedAt":"2026-01-02T03:04:06.678901Z","code":"schema","pointer":"/properties/price","message":"is no number"}"#;
        let line = PLAIN.lines(json);
        assert!(line.contains("schema") && line.ends_with("/properties/price  is no number\n"));
    }

    #[test]
    fn names_cannot_move_the_cursor() {
        let json = br#"{"topic":"raw","partition":0,"offset":1,"appendedAt":"t","event":"a\u001b[2Jb\nc"}"#;
        let line = PLAIN.lines(json);
        assert_eq!(line.lines().count(), 1);
        assert!(line.contains("a\\u{1b}[2Jb\\u{a}c"), "{line:?}");
        assert_eq!(PLAIN.lines(b"no json \x1b[2J"), "no json \\u{1b}[2J\n");
    }
}
