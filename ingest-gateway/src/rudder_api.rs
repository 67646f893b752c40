//! RudderStack's pixels: an event in the query of an image.
//!
//! Parameters become fields of the event; a dot in a name leads into an object, so that
//! `properties.price=5` and `context.page.url=…` come out where an SDK would have put them. All
//! values are strings: a query has no other. Whoever shows an image is a browser or a mail program,
//! so that the channel is `web` unless the query says another. The event then goes the way of all
//! others.
//!
//! RudderStack's other routes are Segment's with other paths: see `segment_api`, `settings`.

use std::borrow::Cow;

use http::header::CACHE_CONTROL;
use http::{HeaderValue, Response};

use crate::answer::{Content, answer, push_text};
use crate::auth::parameters;

/// A transparent GIF of one pixel.
const GIF: &[u8] = b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\
    \x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;";

/// Levels of objects that names of parameters may lead into.
const LEVELS_MAX: usize = 8;

/// The answer to a pixel, whatever came of its event.
pub(crate) fn pixel_answer() -> Response<Content> {
    let mut response = answer("image/gif", GIF);
    let fresh = HeaderValue::from_static("no-cache, no-store, must-revalidate");
    response.headers_mut().insert(CACHE_CONTROL, fresh);
    response
}

/// The event that a pixel's query says, as JSON. Where a name leads both to a value and into an
/// object, or comes twice, the first one counts.
#[must_use]
pub fn pixel_event(query: &str) -> Vec<u8> {
    let mut root = Object::default();
    for (name, value) in parameters(query) {
        if name != "writeKey" {
            root.insert(&name, value, 1);
        }
    }
    root.insert("channel", Cow::Borrowed("web"), 1);
    let mut out = Vec::with_capacity(query.len() + 64);
    root.write(&mut out);
    out
}

#[derive(Default)]
struct Object<'a>(Vec<(String, Member<'a>)>);

enum Member<'a> {
    Text(Cow<'a, str>),
    Object(Object<'a>),
}

impl<'a> Object<'a> {
    fn insert(&mut self, name: &str, value: Cow<'a, str>, level: usize) {
        let (head, rest) = match name.split_once('.') {
            Some((head, rest)) if level < LEVELS_MAX && !head.is_empty() && !rest.is_empty() => {
                (head, Some(rest))
            }
            _ => (name, None),
        };
        let at = self.0.iter().position(|(known, _)| known == head);
        match (at.map(|at| &mut self.0[at].1), rest) {
            (Some(Member::Object(inner)), Some(rest)) => inner.insert(rest, value, level + 1),
            (Some(_), _) => {}
            (None, None) => self.0.push((head.to_owned(), Member::Text(value))),
            (None, Some(rest)) => {
                let mut inner = Object::default();
                inner.insert(rest, value, level + 1);
                self.0.push((head.to_owned(), Member::Object(inner)));
            }
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        for (at, (name, member)) in self.0.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            push_text(out, name);
            out.push(b':');
            match member {
                Member::Text(text) => push_text(out, text),
                Member::Object(inner) => inner.write(out),
            }
        }
        out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn event(query: &str) -> Value {
        serde_json::from_slice(&pixel_event(query)).unwrap()
    }

    #[test]
    fn dots_lead_into_objects_and_the_key_is_left_out() {
        let query = "writeKey=k&anonymousId=a&event=Seen+it&properties.price=5\
                     &context.page.url=https%3A%2F%2Fx.example%2F%3Fa&properties.q=%22";
        let expected = json!({
            "anonymousId": "a", "event": "Seen it",
            "properties": {"price": "5", "q": "\""},
            "context": {"page": {"url": "https://x.example/?a"}},
            "channel": "web",
        });
        assert_eq!(event(query), expected);
    }

    #[test]
    fn the_first_of_clashing_names_counts_and_depth_is_bounded() {
        let clashing = event("channel=m&a=1&a=2&a.b=3&c.d=4&c=5");
        assert_eq!(clashing, json!({"channel": "m", "a": "1", "c": {"d": "4"}}));
        let odd = event("channel=m&a..b=1&.=2");
        assert_eq!(odd, json!({"channel": "m", "a": {".b": "1"}, ".": "2"}));
        let deep = event(&format!("{}=1", ["x"; 20].join(".")));
        assert!(deep.pointer(&"/x".repeat(7)).unwrap().is_object());
        assert!(deep.pointer(&"/x".repeat(9)).is_none());
    }

    #[test]
    fn the_pixel_is_an_image_that_is_not_cached() {
        let response = pixel_answer();
        assert_eq!(response.headers()["content-type"], "image/gif");
        assert!(GIF.starts_with(b"GIF89a") && GIF.ends_with(b";"));
        assert_eq!(GIF.len(), 43);
    }
}
