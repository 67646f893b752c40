//! A source's privacy rules, applied to JSON text before it is stored.
//!
//! - `user_id = hmac`: a *copy* of a user id is a string that says the same as the event's user or
//!   previous id, wherever it stands; any string or number under a key that names one (`userId`,
//!   `user_id`, `previousId`, `previous_id`); and a number with the id's digits under a key that
//!   ends in `id`. Other numbers stay: a density of 1 is no user 1.
//! - `ip`: the `ip` of a context is cut to its network, or goes. One that is no address goes too.
//!
//! Takes text that the scan passed; what lies around the rewritten tokens stays as it was.

use std::borrow::Cow;
use std::net::IpAddr;

use crate::client_ip;
use crate::scan::{Member, Members, ValueKind, string_text};
use crate::source::{HmacKey, IpRule};

/// What may be stored of `address`.
pub(crate) fn address(rule: IpRule, address: Option<IpAddr>) -> Option<IpAddr> {
    match rule {
        IpRule::Keep => address,
        IpRule::Truncate => address.map(client_ip::truncate),
        IpRule::Drop => None,
    }
}

/// The text of a context whose `ip` is as the rule wants it.
pub(crate) fn rewrite_ip<'a>(rule: IpRule, context: &'a str) -> Cow<'a, str> {
    let has_ip = || Members::of(context).any(|member| is_ip(&member));
    if rule == IpRule::Keep || !has_ip() {
        return Cow::Borrowed(context);
    }
    let mut text = String::with_capacity(context.len());
    for member in Members::of(context) {
        if !is_ip(&member) {
            push_member(&mut text, member.key, member.value);
            continue;
        }
        let stated = (member.kind == ValueKind::String).then(|| string_text(member.value));
        let stated = stated.and_then(|text| client_ip::parse_stated(&text));
        if let Some(network) = address(rule, stated) {
            push_member(&mut text, member.key, &format!("\"{network}\""));
        }
    }
    close_object(&mut text);
    Cow::Owned(text)
}

fn is_ip(member: &Member<'_>) -> bool {
    key_text(member.key) == "ip"
}

/// What a key says.
pub(crate) fn key_text(key: &str) -> Cow<'_, str> {
    crate::scan::unescaped(key)
}

/// Appends a member to the text of an object that is being built, and opens it with the first.
pub(crate) fn push_member(text: &mut String, key: &str, value: &str) {
    text.push(if text.is_empty() { '{' } else { ',' });
    text.push('"');
    text.push_str(key);
    text.push_str("\":");
    text.push_str(value);
}

/// Ends the text of an object that members were pushed to.
pub(crate) fn close_object(text: &mut String) {
    if text.is_empty() {
        text.push('{');
    }
    text.push('}');
}

/// The ids whose copies are looked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlainIds<'a> {
    pub(crate) user: Option<&'a str>,
    pub(crate) previous: Option<&'a str>,
}

/// The object's text with each copy of a user id replaced by its HMAC.
pub(crate) fn rewrite_ids<'a>(key: &HmacKey, ids: PlainIds<'_>, object: &'a str) -> Cow<'a, str> {
    let mut text = String::new();
    let mut copied = 0;
    for scalar in Scalars::of(object) {
        let Some(id) = copy_in(&scalar, ids) else { continue };
        text.push_str(object.get(copied..scalar.at).unwrap_or_default());
        text.push('"');
        text.push_str(&key.hex_of(&id));
        text.push('"');
        copied = scalar.at + scalar.token.len();
    }
    if copied == 0 {
        return Cow::Borrowed(object);
    }
    text.push_str(object.get(copied..).unwrap_or_default());
    Cow::Owned(text)
}

/// The user id that the scalar is a copy of.
fn copy_in<'a>(scalar: &Scalar<'a>, ids: PlainIds<'_>) -> Option<Cow<'a, str>> {
    let is_string = scalar.token.starts_with('"');
    let is_number = scalar.token.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    if !is_string && !is_number {
        return None;
    }
    let text = if is_string { string_text(scalar.token) } else { Cow::Borrowed(scalar.token) };
    let key = scalar.key.map(key_text);
    let key = key.as_deref().unwrap_or_default();
    let names_one = matches!(key, "userId" | "user_id" | "previousId" | "previous_id");
    let is_one = ids.user == Some(&*text) || ids.previous == Some(&*text);
    let ends_in_id = key.to_ascii_lowercase().ends_with("id");
    let is_copy = (names_one && !text.is_empty()) || (is_one && (is_string || ends_in_id));
    is_copy.then_some(text)
}

/// A string, number or word that is a value.
struct Scalar<'a> {
    /// The key it stands under; none in an array.
    key: Option<&'a str>,
    token: &'a str,
    at: usize,
}

/// All scalars of scanned text, at any depth, in order.
struct Scalars<'a> {
    text: &'a str,
    at: usize,
    key: Option<&'a str>,
}

impl<'a> Scalars<'a> {
    const fn of(text: &'a str) -> Self {
        Self { text, at: 0, key: None }
    }
}

impl<'a> Iterator for Scalars<'a> {
    type Item = Scalar<'a>;

    fn next(&mut self) -> Option<Scalar<'a>> {
        let bytes = self.text.as_bytes();
        loop {
            let at = self.at;
            match bytes.get(at)? {
                b'{' | b'[' | b'}' | b']' => {
                    self.key = None;
                    self.at += 1;
                }
                b',' | b':' | b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                b'"' => {
                    self.at = crate::scan::string_end(bytes, at) + 1;
                    let token = self.text.get(at..self.at)?;
                    let rest = bytes.get(self.at..)?;
                    let next = rest.iter().find(|byte| !byte.is_ascii_whitespace());
                    if next != Some(&b':') {
                        return Some(Scalar { key: self.key.take(), token, at });
                    }
                    self.key = token.get(1..token.len() - 1);
                }
                _ => {
                    let rest = bytes.get(at..)?;
                    let end = rest
                        .iter()
                        .position(|&byte| matches!(byte, b',' | b'}' | b']') || byte <= b' ');
                    self.at = at + end.unwrap_or(rest.len());
                    let token = self.text.get(at..self.at)?;
                    return Some(Scalar { key: self.key.take(), token, at });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(object: &str) -> String {
        let key = HmacKey::new(b"key");
        let ids = PlainIds { user: Some("7"), previous: Some("old é") };
        let seven = key.hex_of("7");
        let old = key.hex_of("old é");
        let other = key.hex_of("8");
        rewrite_ids(&key, ids, object)
            .replace(&seven, "SEVEN")
            .replace(&old, "OLD")
            .replace(&other, "OTHER")
    }

    #[test]
    fn copies_of_ids_are_found_at_any_depth_and_nothing_else_changes() {
        for (object, expected) in [
            (r#"{"a": 1, "b":"x"}"#, r#"{"a": 1, "b":"x"}"#),
            (r#"{"userId":"7"}"#, r#"{"userId":"SEVEN"}"#),
            (r#"{"userId" : 7 , "n":7}"#, r#"{"userId" : "SEVEN" , "n":7}"#),
            (r#"{"user_id":"8"}"#, r#"{"user_id":"OTHER"}"#),
            (r#"{"traits":{"id":7,"density":7}}"#, r#"{"traits":{"id":"SEVEN","density":7}}"#),
            (r#"{"all":[1,"7",["old \u00e9"],7]}"#, r#"{"all":[1,"SEVEN",["OLD"],7]}"#),
            (r#"{"us\u0065rId":"8","userId":""}"#, r#"{"us\u0065rId":"OTHER","userId":""}"#),
            (
                r#"{"7":"a","userId":null,"previousId":true}"#,
                r#"{"7":"a","userId":null,"previousId":true}"#,
            ),
            (
                r#"{"userId":["8"],"x":{"userId":{"y":"8"}}}"#,
                r#"{"userId":["8"],"x":{"userId":{"y":"8"}}}"#,
            ),
        ] {
            assert_eq!(rewritten(object), expected);
        }
    }

    #[test]
    fn the_context_s_address_is_cut_or_goes() {
        let context = r#"{"a":1, "ip" : "203.0.113.9","b":{"ip":"1.2.3.4"}}"#;
        assert_eq!(rewrite_ip(IpRule::Keep, context), context);
        let cut = r#"{"a":1,"ip":"203.0.113.0","b":{"ip":"1.2.3.4"}}"#;
        assert_eq!(rewrite_ip(IpRule::Truncate, context), cut);
        assert_eq!(rewrite_ip(IpRule::Drop, context), r#"{"a":1,"b":{"ip":"1.2.3.4"}}"#);
        assert_eq!(rewrite_ip(IpRule::Truncate, r#"{"ip":"home"}"#), "{}");
        assert_eq!(rewrite_ip(IpRule::Drop, r#"{"\u0069p":"1.1.1.1"}"#), "{}");
    }
}
