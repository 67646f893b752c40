//! From a place in an event to a JSON pointer (RFC 6901). Runs only for events that are refused.

use super::string;

enum Step {
    /// The key of an object, as sent; `None` until it is read.
    Key(Option<(usize, usize)>),
    Index(usize),
}

/// The pointer to what lies at byte `at` of `event`, whose grammar held up to there. `None` for
/// the event itself.
pub(super) fn to(event: &[u8], at: usize) -> Option<String> {
    let path = path_to(event, at);
    (!path.is_empty()).then(|| spell(event, &path))
}

fn path_to(event: &[u8], target: usize) -> Vec<Step> {
    let mut path = Vec::new();
    let mut key_is_next = false;
    let mut at = 0;
    while at < target {
        match event.get(at) {
            None => break,
            Some(b'{') => {
                path.push(Step::Key(None));
                key_is_next = true;
            }
            Some(b'[') => {
                path.push(Step::Index(0));
                key_is_next = false;
            }
            Some(b'}' | b']') => {
                path.pop();
            }
            Some(b',') => match path.last_mut() {
                Some(Step::Index(index)) => *index += 1,
                _ => key_is_next = true,
            },
            Some(b':') => key_is_next = false,
            Some(b'"') => {
                let end = string::end(event, at);
                if key_is_next && let Some(Step::Key(key)) = path.last_mut() {
                    *key = Some((at + 1, end));
                }
                at = end;
            }
            Some(_) => {}
        }
        at += 1;
    }
    // The target may be a key itself.
    if key_is_next
        && at == target
        && event.get(at) == Some(&b'"')
        && let Some(Step::Key(key)) = path.last_mut()
    {
        *key = Some((at + 1, string::end(event, at)));
    }
    path
}

fn spell(event: &[u8], path: &[Step]) -> String {
    let mut pointer = String::new();
    for step in path {
        pointer.push('/');
        match step {
            Step::Index(index) => pointer.push_str(&index.to_string()),
            Step::Key(key) => {
                let (start, end) = key.unwrap_or_default();
                let mut name = Vec::new();
                string::unescape(event.get(start..end).unwrap_or_default(), &mut name);
                let name = String::from_utf8_lossy(&name);
                pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
            }
        }
    }
    pointer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pointer_leads_to_the_place() {
        let event = br#"{"a":1,"b/c":{"~":[1,{"x":[]},"here"],"k":2,"k":3}}"#;
        let text = str::from_utf8(event).unwrap();
        assert_eq!(to(event, 0), None);
        assert_eq!(to(event, text.find("here").unwrap()).unwrap(), "/b~1c/~0/2");
        assert_eq!(to(event, text.find(r#""x""#).unwrap()).unwrap(), "/b~1c/~0/1/x");
        assert_eq!(to(event, text.rfind(r#""k""#).unwrap()).unwrap(), "/b~1c/k");
        assert_eq!(to(event, text.find("1").unwrap()).unwrap(), "/a");
    }
}
