//! Two lines of one event: in which fields they differ.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// Where a record lies and since when: no two topics agree on that.
const OWN_PLACE: [&str; 4] = ["topic", "partition", "offset", "appendedAt"];

/// A field that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct FieldDifference {
    /// Its path, with points.
    pub(super) field: String,
    /// What the first topic has; absent where it has nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) a: Option<Value>,
    /// What the second has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) b: Option<Value>,
}

/// Which fields do not count.
pub(super) struct Ignored(Vec<String>);

impl Ignored {
    pub(super) fn new(fields: &[String]) -> Self {
        Self(OWN_PLACE.iter().map(|field| (*field).to_owned()).chain(fields.to_vec()).collect())
    }

    /// Whether `field`, or an object that it lies in, does not count.
    fn holds(&self, field: &str) -> bool {
        self.0.iter().any(|it| {
            field
                .strip_prefix(it.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }
}

/// The fields in which `a` and `b` differ. Numbers are the same only digit by digit; the order of
/// an object's members does not count.
pub(super) fn differences(a: &Value, b: &Value, ignored: &Ignored) -> Vec<FieldDifference> {
    let mut found = Vec::new();
    compare("", Some(a), Some(b), ignored, &mut found);
    found
}

fn compare(
    path: &str,
    a: Option<&Value>,
    b: Option<&Value>,
    ignored: &Ignored,
    found: &mut Vec<FieldDifference>,
) {
    if a == b || ignored.holds(path) {
        return;
    }
    if let (Some(Value::Object(a)), Some(Value::Object(b))) = (a, b) {
        let names: BTreeMap<&String, ()> =
            a.keys().chain(b.keys()).map(|name| (name, ())).collect();
        for name in names.into_keys() {
            let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            compare(&inner, a.get(name), b.get(name), ignored, found);
        }
        return;
    }
    found.push(FieldDifference { field: path.to_owned(), a: a.cloned(), b: b.cloned() });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(a: &Value, b: &Value, ignored: &[&str]) -> Vec<String> {
        let ignored: Vec<_> = ignored.iter().map(|field| (*field).to_owned()).collect();
        let found = differences(a, b, &Ignored::new(&ignored));
        found.into_iter().map(|it| it.field).collect()
    }

    #[test]
    fn fields_that_differ_are_named_by_their_paths() {
        let a = json!({"topic":"a","offset":1,"geo":{"city":"X","country":"DE"},"n":[1],"only":1});
        let b = json!({"topic":"b","offset":2,"geo":{"country":"DE","city":"Y"},"n":[1,2]});
        assert_eq!(fields(&a, &b, &[]), ["geo.city", "n", "only"]);
        assert_eq!(fields(&a, &b, &["geo", "only"]), ["n"]);
        assert_eq!(fields(&a, &b, &["geo.city", "n", "on"]), ["only"]);
        assert!(fields(&a, &a, &[]).is_empty());
    }

    #[test]
    fn numbers_are_compared_digit_by_digit() {
        let number = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(fields(&number(r#"{"p":1.50}"#), &number(r#"{"p":1.5}"#), &[]), ["p"]);
        let large = number(r#"{"p":12345678901234567890123}"#);
        assert!(fields(&large, &large.clone(), &[]).is_empty());
    }
}
