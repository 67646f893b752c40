//! Whether a case came out as its file says.

use serde_json::Value;
use tracklog_protocol::TimeMicros;
use tracklog_protocol::line::format_time;

use super::client::Answer;
use super::rig::Rig;

/// What there is to see after a case.
pub(super) struct Outcome<'a> {
    answers: &'a [Answer],
    /// The last answer's body, where it is JSON.
    body: Value,
    raw: Vec<String>,
    rejected: Vec<Value>,
    now: TimeMicros,
    wrong: Vec<String>,
}

impl<'a> Outcome<'a> {
    /// After `answers` to requests that were sent at `now`.
    pub(super) async fn of(rig: &Rig, answers: &'a [Answer], now: TimeMicros) -> Self {
        let last = answers.last().expect("every case has an answer");
        let body = serde_json::from_slice(&last.body).unwrap_or(Value::Null);
        let (raw, rejected) = (rig.raw_text().await, rig.rejected().await);
        Self { answers, body, raw, rejected, now, wrong: Vec::new() }
    }

    /// What is not as `expect` says, in words.
    pub(super) fn wrongs(mut self, expect: &Value) -> Vec<String> {
        for (field, asked) in expect.as_object().unwrap() {
            match field.as_str() {
                "status" => self.status(asked),
                "statuses" => self.statuses(asked),
                "error" => self.error(asked),
                "told" => {
                    let is_told = self.body["rejected"][0]["code"].is_string();
                    self.check(is_told, "nothing is told of the bad event");
                }
                "verdicts" => self.check(self.verdicts() == list(asked), "other verdicts"),
                "not_verdicts" => {
                    let verdicts = self.verdicts();
                    let none = !verdicts.iter().any(|verdict| list(asked).contains(verdict));
                    self.check(none && !verdicts.is_empty(), "other verdicts");
                }
                "stored" => list(asked).iter().for_each(|asked| self.stored(asked)),
                "absent" => list(asked).iter().for_each(|asked| {
                    self.check(self.matching(asked).is_empty(), format!("{asked} is stored"));
                }),
                "rejected" => list(asked).iter().for_each(|asked| self.is_rejected(asked)),
                "rejected_count" => {
                    let count = self.rejected.len() as u64;
                    self.check(*asked == count, format!("{count} are rejected"));
                }
                "headers_are" => self.headers_are(asked),
                "headers_hold" => self.headers_hold(asked),
                "same_source" => self.same_source(asked),
                "time_gap" => self.time_gap(asked),
                "offset_order" => self.offset_order(asked),
                // Answers are read until the connection ends: it did, or the test hangs and fails.
                "closes" => assert_eq!(*asked, true),
                unknown => panic!("an expectation that nobody looks at: {unknown}"),
            }
        }
        self.wrong
    }

    fn check(&mut self, holds: bool, wrong: impl Into<String>) {
        if !holds {
            let said: String = self.body.to_string().chars().take(300).collect();
            self.wrong.push(format!("{}; the answer is {said}", wrong.into()));
        }
    }

    fn status(&mut self, allowed: &Value) {
        let status = self.answers[0].status;
        self.check(list(allowed).contains(&status.into()), format!("status {status}"));
    }

    fn statuses(&mut self, allowed: &Value) {
        let statuses: Vec<_> = self.answers.iter().map(|answer| answer.status).collect();
        let allowed = list(allowed);
        let each = allowed.iter().zip(&statuses);
        let fits = allowed.len() == statuses.len()
            && each.into_iter().all(|(allowed, status)| list(allowed).contains(&(*status).into()));
        self.check(fits, format!("statuses {statuses:?}"));
    }

    fn error(&mut self, asked: &Value) {
        let has_words = self.body["code"].is_string() && self.body["message"].is_string();
        self.check(has_words, "no code or no message");
        for (field, value) in asked.as_object().unwrap() {
            self.check(self.body[field] == *value, format!("{field} is not {value}"));
        }
    }

    fn verdicts(&self) -> Vec<Value> {
        let results = list(&self.body["results"]);
        results.iter().map(|result| result["status"].clone()).collect()
    }

    /// The lines of `raw` that have all of these fields.
    fn matching(&self, fields: &Value) -> Vec<String> {
        let fits = |text: &&String| {
            let line = parsed(text);
            fields.as_object().unwrap().iter().all(|(field, value)| line[field] == *value)
        };
        self.raw.iter().filter(fits).cloned().collect()
    }

    fn the(&self, id: &Value) -> Value {
        let lines = self.matching(&serde_json::json!({ "messageId": id }));
        lines.first().map_or(Value::Null, |line| parsed(line))
    }

    fn stored(&mut self, asked: &Value) {
        let lines = self.matching(&asked["match"]);
        let count = lines.len() as u64;
        self.check(asked["count"] == count, format!("{} is stored {count} times", asked["match"]));
        for line in &lines {
            for (field, value) in asked.as_object().unwrap() {
                self.stored_field(line, field, value, asked);
            }
        }
    }

    fn stored_field(&mut self, text: &str, field: &str, asked: &Value, all: &Value) {
        let line = parsed(text);
        match field {
            "match" | "count" | "within_s" => {}
            "properties" | "traits" | "context" => {
                let is = sonic_rs::get(text, [field]).map(|it| tokens(it.as_raw_str()));
                let is = is.unwrap_or_default();
                let same = is == tokens(asked.as_str().unwrap());
                self.check(same && !text.contains('\n'), format!("{field}: {is}"));
            }
            "fields" => {
                for (field, value) in asked.as_object().unwrap() {
                    self.check(line[field] == *value, format!("{field}: {}", line[field]));
                }
            }
            "has" | "lacks" => {
                for name in list(asked) {
                    let is_there = line.get(name.as_str().unwrap()).is_some();
                    self.check(is_there == (field == "has"), format!("{field} not {name}"));
                }
            }
            "time" => {
                self.check(line["timestamp"] == *asked, format!("{}", line["timestamp"]));
            }
            "ago_s" => {
                let wanted = self.now.0 - asked.as_i64().unwrap() * 1_000_000;
                let within = all["within_s"].as_i64().unwrap() * 1_000_000;
                let [from, to] = [-within, within].map(|by| format_time(TimeMicros(wanted + by)));
                // Times of one form are in the order of their letters.
                let is = line["timestamp"].as_str().unwrap();
                self.check(*from <= *is && *is <= *to, format!("{is} is not in {from} … {to}"));
            }
            unknown => panic!("an expectation that nobody looks at: {unknown}"),
        }
    }

    fn is_rejected(&mut self, asked: &Value) {
        let id = asked["id"].as_str().unwrap();
        let found = self.rejected.iter().any(|line| {
            let bytes = line["body"].as_str().unwrap_or_default();
            let is_it = line["messageId"] == *id || bytes.contains(id);
            let is_as = |field: &str| asked.get(field).is_none_or(|asked| line[field] == *asked);
            let has_words = line["code"].is_string() && line["message"].is_string();
            is_it && has_words && is_as("code") && is_as("pointer")
        });
        let wrong = format!("{asked} is not in rejected: {:?}", self.rejected);
        self.check(found, wrong);
    }

    fn header(&self, name: &str) -> String {
        self.answers.last().and_then(|answer| answer.header(name)).unwrap_or_default()
    }

    fn headers_are(&mut self, asked: &Value) {
        for (name, value) in asked.as_object().unwrap() {
            let is = self.header(name);
            self.check(is == value.as_str().unwrap(), format!("{name}: {is}"));
        }
    }

    fn headers_hold(&mut self, asked: &Value) {
        for (name, values) in asked.as_object().unwrap() {
            let is = self.header(name).to_ascii_lowercase();
            let held: Vec<_> = is.split(',').map(str::trim).collect();
            for value in list(values) {
                let holds = held.contains(&value.as_str().unwrap());
                self.check(holds, format!("{name} lacks {value}: {is}"));
            }
        }
    }

    fn same_source(&mut self, ids: &Value) {
        let sources: Vec<_> = list(ids).iter().map(|id| self.the(id)["source"].clone()).collect();
        let same = sources.iter().all(|source| *source == "shop");
        self.check(same && !sources.is_empty(), format!("sources {sources:?}"));
    }

    fn time_gap(&mut self, asked: &Value) {
        let [from, to] = ["from", "to"].map(|end| {
            let line = self.the(&asked[end]);
            micros_of_hour(line["timestamp"].as_str().unwrap())
        });
        let gap = (to - from).rem_euclid(3_600_000_000);
        self.check(asked["micros"] == gap, format!("{gap} µs lie between"));
    }

    fn offset_order(&mut self, ids: &Value) {
        let places: Vec<_> = list(ids)
            .iter()
            .map(|id| self.the(id))
            .map(|line| (line["partition"].as_u64(), line["offset"].as_u64()))
            .collect();
        let rise = places.windows(2).all(|two| two[0].0 == two[1].0 && two[0].1 < two[1].1);
        self.check(rise && places[0].1.is_some(), format!("places {places:?}"));
    }
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn parsed(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

/// JSON without the white space between its tokens, which are as they were.
fn tokens(json: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    let is_token = |letter: &char| {
        let outside = !in_string;
        in_string ^= *letter == '"' && !escaped;
        escaped = in_string && *letter == '\\' && !escaped;
        !(outside && matches!(letter, ' ' | '\t' | '\r' | '\n'))
    };
    json.chars().filter(is_token).collect()
}

/// Microseconds since the full hour of a time as lines have it: `…T08:58:25.000000Z`.
fn micros_of_hour(time: &str) -> i64 {
    let number = |range: std::ops::Range<usize>| time[range].parse::<i64>().unwrap();
    number(14..16) * 60_000_000 + number(17..19) * 1_000_000 + number(20..26)
}

#[test]
fn tokens_are_told_from_white_space() {
    assert_eq!(tokens("{ \"a \\\" \\\\\" :\n[1,\t2 ] }"), "{\"a \\\" \\\\\":[1,2]}");
    assert_eq!(micros_of_hour("2026-11-25T08:58:25.000001Z"), 3_505_000_001);
}
