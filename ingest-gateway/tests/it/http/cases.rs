//! Inputs from the field, each with the outcome that its sender would call right.
//! The files in `tests/cases` say what each field of a case means by its name; `{{now-90}}` is the
//! time of sending, 90 seconds before.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use serde_json::Value;
use tokio::time::timeout;
use tracklog_protocol::TimeMicros;
use tracklog_protocol::line::format_time;

use super::client::{Answer, Ask, Client, basic};
use super::outcome::Outcome;
use super::rig::{KEY, Rig};

#[tokio::test]
async fn every_request_from_the_field_comes_out_right() {
    run_all(include_str!("../../cases/http.ndjson"), 28).await;
}

#[tokio::test]
async fn every_event_from_the_field_comes_out_right() {
    run_all(include_str!("../../cases/event.ndjson"), 100).await;
}

async fn run_all(cases: &str, count_min: usize) {
    let mut failures = Vec::new();
    let mut count = 0;
    for line in cases.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        // A gateway for each: what one leaves behind hides nothing from the next.
        let rig = Rig::new().await;
        let now = now();
        let answers = Sender { now }.run(&rig, &case["request"]).await;
        let wrongs = Outcome::of(&rig, &answers, now).await.wrongs(&case["expect"]);
        let name = format!("{} ({})", case["id"], case["title"]);
        failures.extend(wrongs.into_iter().map(|wrong| format!("{name}: {wrong}")));
        rig.still_serves().await;
        count += 1;
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(count >= count_min, "the file holds {count} cases");
}

fn now() -> TimeMicros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    TimeMicros(i64::try_from(since.as_micros()).unwrap())
}

/// Sends what a case says, at a time.
struct Sender {
    now: TimeMicros,
}

impl Sender {
    async fn run(&self, rig: &Rig, request: &Value) -> Vec<Answer> {
        if let Some(steps) = request["steps"].as_array() {
            return self.run_steps(rig, steps).await;
        }
        let path = request["path"].as_str().unwrap();
        let body = self.body(request);
        let mut ask = match request["method"].as_str().unwrap() {
            "POST" => Ask::post(path, body),
            method => Ask::new(method, path),
        };
        for (name, value) in request["headers"].as_object().into_iter().flatten() {
            ask = ask.header(name, &self.filled(value.as_str().unwrap()));
        }
        if request["auth"] != "none" {
            ask = ask.key(KEY);
        }
        vec![rig.ask(ask).await]
    }

    /// Writes the steps, then reads all answers until the server closes.
    async fn run_steps(&self, rig: &Rig, steps: &[Value]) -> Vec<Answer> {
        let mut client = Client::connect(rig.http()).await;
        for step in steps {
            if let Some(text) = step["send"].as_str() {
                client.write(self.filled(text)).await;
            } else if let Some(text) = step["send_base64"].as_str() {
                client.write(base64(text)).await;
            } else {
                let seconds = step["wait_interim_s"].as_u64().expect("a step that is known");
                let interim = timeout(Duration::from_secs(seconds), client.answer()).await;
                assert_eq!(interim.unwrap().unwrap().status, 100);
            }
        }
        let mut answers = Vec::new();
        while let Some(answer) = client.answer().await {
            answers.push(answer);
        }
        answers
    }

    fn body(&self, request: &Value) -> Vec<u8> {
        if let Some(text) = request["body_base64"].as_str() {
            return base64(text);
        }
        if let Some(parts) = request["body_parts"].as_array() {
            let part = |part: &Value| {
                let times = usize::try_from(part[1].as_u64().unwrap()).unwrap();
                part[0].as_str().unwrap().repeat(times)
            };
            return parts.iter().map(part).collect::<String>().into_bytes();
        }
        self.filled(request["body"].as_str().unwrap_or_default()).into_bytes()
    }

    fn filled(&self, text: &str) -> String {
        let mut out = text.replace("{{key}}", KEY).replace("{{auth}}", &basic(KEY));
        while let Some(from) = out.find("{{now") {
            let to = from + out[from..].find("}}").expect("a closed mark");
            let shift = self.shift(&out[from + "{{now".len()..to]);
            out.replace_range(from..to + "}}".len(), &format_time(shift));
        }
        out
    }

    /// The time that lies so many seconds, `+10` or `-2.5`, from now.
    fn shift(&self, seconds: &str) -> TimeMicros {
        if seconds.is_empty() {
            return self.now;
        }
        let (whole, part) = seconds.split_once('.').unwrap_or((seconds, "0"));
        let part = format!("{}{part:0<6}", &seconds[..1]);
        let micros = whole.parse::<i64>().unwrap() * 1_000_000 + part.parse::<i64>().unwrap();
        TimeMicros(self.now.0 + micros)
    }
}

fn base64(text: &str) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}
