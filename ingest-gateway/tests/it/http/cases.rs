//! Inputs from the field, each with the outcome that its sender would call right.
//! The file `cases/http.ndjson` says what each field of a case means by its name.

use std::time::Duration;

use base64::Engine as _;
use serde_json::Value;
use tokio::time::timeout;

use super::client::{Answer, Ask, Client, basic};
use super::rig::{KEY, Rig};

const CASES: &str = include_str!("../../cases/http.ndjson");

/// What a case asks for and this file does not know must not pass unseen.
const KNOWN: [&str; 13] = [
    "status",
    "statuses",
    "error",
    "told",
    "verdicts",
    "not_verdicts",
    "stored",
    "absent",
    "rejected",
    "headers_are",
    "headers_hold",
    "same_source",
    "closes",
];

#[tokio::test]
async fn every_case_from_the_field_comes_out_right() {
    let mut failures = Vec::new();
    let cases: Vec<Value> = CASES.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(cases.len() >= 28);
    for case in &cases {
        let name = format!("{} ({})", case["id"], case["title"]);
        // A gateway for each: what one leaves behind hides nothing from the next.
        let rig = Rig::new().await;
        let (answers, closed) = run(&rig, &case["request"]).await;
        let mut wrong = wrongs(&rig, &case["expect"], &answers, closed).await;
        failures.extend(wrong.drain(..).map(|wrong| format!("{name}: {wrong}")));
        rig.still_serves().await;
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

async fn run(rig: &Rig, request: &Value) -> (Vec<Answer>, bool) {
    if request["steps"].is_array() {
        return run_steps(rig, request["steps"].as_array().unwrap()).await;
    }
    let mut ask = Ask::new(request["method"].as_str().unwrap(), request["path"].as_str().unwrap());
    let body = body(request);
    if !body.is_empty() {
        ask = Ask::post(request["path"].as_str().unwrap(), body);
    }
    for (name, value) in request["headers"].as_object().into_iter().flatten() {
        ask = ask.header(name, &filled(value.as_str().unwrap()));
    }
    if request["auth"] != "none" {
        ask = ask.key(KEY);
    }
    (vec![rig.ask(ask).await], true)
}

async fn run_steps(rig: &Rig, steps: &[Value]) -> (Vec<Answer>, bool) {
    let mut client = Client::connect(rig.http()).await;
    for step in steps {
        if let Some(text) = step["send"].as_str() {
            client.write(filled(text)).await;
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
    (answers, true)
}

fn body(request: &Value) -> Vec<u8> {
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
    filled(request["body"].as_str().unwrap_or_default()).into_bytes()
}

fn filled(text: &str) -> String {
    text.replace("{{key}}", KEY)
        .replace("{{auth}}", &basic(KEY))
        .replace("{{now}}", "2026-11-25T09:00:00.000Z")
}

fn base64(text: &str) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

/// What is not as expected, in words.
async fn wrongs(rig: &Rig, expect: &Value, answers: &[Answer], closed: bool) -> Vec<String> {
    let (raw, rejected) = (rig.raw().await, rig.rejected().await);
    let mut wrong = Vec::new();
    let mut check = |holds: bool, what: String| {
        if !holds {
            wrong.push(what);
        }
    };
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    let answer = answers.last().expect("an answer");
    let body = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
    let verdicts = || {
        let results = body["results"].as_array().cloned().unwrap_or_default();
        results.iter().map(|result| result["status"].clone()).collect::<Vec<_>>()
    };
    let of = |lines: &[Value], id: &Value| lines.iter().filter(|it| it["messageId"] == *id).count();
    for (field, asked) in expect.as_object().unwrap() {
        assert!(KNOWN.contains(&field.as_str()), "an expectation that is not looked at: {field}");
        let list = asked.as_array().cloned().unwrap_or_default();
        match field.as_str() {
            "status" => check(list.contains(&statuses[0].into()), format!("status {statuses:?}")),
            "statuses" => {
                let fits = list.len() == statuses.len()
                    && list.iter().zip(&statuses).all(|(allowed, status)| {
                        allowed.as_array().unwrap().contains(&(*status).into())
                    });
                check(fits, format!("statuses {statuses:?}"));
            }
            "error" => check(
                body["code"].is_string() && body["message"].is_string(),
                format!("no error: {body}"),
            ),
            "told" => check(body["rejected"][0]["code"].is_string(), format!("not told: {body}")),
            "verdicts" => check(verdicts() == list, format!("verdicts {body}")),
            "not_verdicts" => check(
                !verdicts().iter().any(|verdict| list.contains(verdict)),
                format!("verdicts {body}"),
            ),
            "stored" => {
                for asked in &list {
                    let id = &asked["match"]["messageId"];
                    check(of(&raw, id) as u64 == asked["count"], format!("stored {id}: {raw:?}"));
                    if let Some(text) = asked["properties_text"].as_str() {
                        let text: Value = serde_json::from_str(text).unwrap();
                        check(raw[0]["properties"] == text, format!("properties {raw:?}"));
                    }
                }
            }
            "absent" => {
                for asked in &list {
                    let id = &asked["messageId"];
                    check(of(&raw, id) == 0, format!("{id} is stored"));
                }
            }
            "rejected" => {
                for asked in &list {
                    let id = asked["id"].as_str().unwrap();
                    let found = rejected.iter().any(|line| {
                        let body = line["body"].as_str().unwrap_or_default();
                        let has_words = line["code"].is_string() && line["message"].is_string();
                        has_words && (line["messageId"] == *id || body.contains(id))
                    });
                    check(found, format!("{id} is not in rejected: {rejected:?}"));
                }
            }
            "headers_are" => {
                for (name, value) in asked.as_object().unwrap() {
                    let is = answer.header(name);
                    check(is.as_deref() == value.as_str(), format!("{name}: {is:?}"));
                }
            }
            "headers_hold" => {
                for (name, values) in asked.as_object().unwrap() {
                    let is = answer.header(name).unwrap_or_default().to_ascii_lowercase();
                    let held: Vec<_> = is.split(',').map(str::trim).collect();
                    for value in values.as_array().unwrap() {
                        let holds = held.contains(&value.as_str().unwrap());
                        check(holds, format!("{name} lacks {value}: {is}"));
                    }
                }
            }
            "same_source" => {
                let sources: Vec<_> = raw.iter().map(|line| &line["source"]).collect();
                check(sources.iter().all(|it| **it == "shop"), format!("sources {sources:?}"));
            }
            "closes" => check(closed, "the connection stays open".to_owned()),
            _ => unreachable!("looked at above"),
        }
    }
    wrong
}
