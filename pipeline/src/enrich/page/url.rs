//! Splitting what is meant as a URL, whatever is in it.
//!
//! - A scheme is what stands before `://`, or before a `:` that no port follows: `about:blank`.
//! - The authority ends at `/`, `?`, `#` or, as browsers have it, at `\`. Who logs in and the port
//!   are left out of the host; an address of IPv6 keeps its brackets.
//! - Without a scheme, what stands before the first `/` is the host if it looks like one: it has a
//!   dot and no space, and is no file's name; or it is `localhost`.
//! - Nothing is decoded, and an empty part is none.

use super::URL_BYTES_MAX;
use crate::enrich::text::cut;

/// The parts of a URL, as they lie in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Url<'a> {
    pub(super) scheme: Option<&'a str>,
    /// The host as sent; [`Url::host`] is it in lower case.
    pub(super) raw_host: Option<&'a str>,
    pub(super) path: Option<&'a str>,
    pub(super) query: Option<&'a str>,
    pub(super) fragment: Option<&'a str>,
}

/// Files that pages are made of, which a name without a scheme may be.
const FILES: [&str; 6] = ["asp", "aspx", "htm", "html", "jsp", "php"];

impl<'a> Url<'a> {
    pub(super) fn split(text: &'a str) -> Self {
        let text = cut(text, URL_BYTES_MAX).trim_matches(|it: char| it <= ' ');
        let (text, fragment) = split_at_mark(text, '#');
        let (text, query) = split_at_mark(text, '?');
        let (scheme, rest) = split_scheme(text);
        let (authority, path) = split_authority(scheme, rest);
        Self {
            scheme,
            raw_host: authority.map(host_of).filter(|it| !it.is_empty()),
            path: Some(path).filter(|it| !it.is_empty()),
            query,
            fragment,
        }
    }

    /// The host in lower case, without its port.
    pub(super) fn host(&self) -> Option<String> {
        self.raw_host.map(str::to_lowercase)
    }
}

/// What stands before the first `mark`, and what behind it.
fn split_at_mark(text: &str, mark: char) -> (&str, Option<&str>) {
    match text.split_once(mark) {
        Some((before, behind)) => (before, Some(behind).filter(|it| !it.is_empty())),
        None => (text, None),
    }
}

fn split_scheme(text: &str) -> (Option<&str>, &str) {
    let Some((scheme, rest)) = text.split_once(':') else { return (None, text) };
    let mut bytes = scheme.bytes();
    let is_scheme = bytes.next().is_some_and(|it| it.is_ascii_alphabetic())
        && bytes.all(|it| it.is_ascii_alphanumeric() || matches!(it, b'+' | b'-' | b'.'));
    let is_host = || scheme.contains('.') || rest.starts_with(|it: char| it.is_ascii_digit());
    if is_scheme && (rest.starts_with("//") || !is_host()) {
        (Some(scheme), rest)
    } else {
        (None, text)
    }
}

fn split_authority<'a>(scheme: Option<&str>, text: &'a str) -> (Option<&'a str>, &'a str) {
    let (authority, is_marked) = match text.strip_prefix("//") {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let end = authority.find(['/', '\\']).unwrap_or(authority.len());
    let (authority, path) = authority.split_at(end);
    if is_marked || (scheme.is_none() && looks_like_host(host_of(authority))) {
        (Some(authority), path)
    } else {
        (None, text)
    }
}

fn looks_like_host(text: &str) -> bool {
    let Some((before, last)) = text.rsplit_once('.') else { return text == "localhost" };
    let is_file = FILES.iter().any(|file| last.eq_ignore_ascii_case(file));
    !before.is_empty() && !last.is_empty() && !is_file && !text.contains([' ', '%', '@'])
}

/// The host in an authority: without who logs in, and without the port.
fn host_of(authority: &str) -> &str {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|it| it.is_ascii_digit()) => host,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> [&str; 5] {
        let Url { scheme, raw_host, path, query, fragment } = Url::split(text);
        [scheme, raw_host, path, query, fragment].map(Option::unwrap_or_default)
    }

    #[test]
    fn a_url_falls_into_its_parts() {
        let split = parts("https://user:pw@Shop.example:8443/p/1?a=b&c=d?e#f?g#h");
        assert_eq!(split, ["https", "Shop.example", "/p/1", "a=b&c=d?e", "f?g#h"]);
        assert_eq!(parts("http://[2001:db8::1]:80/"), ["http", "[2001:db8::1]", "/", "", ""]);
        assert_eq!(parts("http://[2001:db8::1]"), ["http", "[2001:db8::1]", "", "", ""]);
        assert_eq!(parts("  //shop.example\n"), ["", "shop.example", "", "", ""]);
    }

    #[test]
    fn what_no_parser_takes_is_split_all_the_same() {
        let percent = parts("http://www.shop-a.example/category/20%-off now/");
        assert_eq!(percent, ["http", "www.shop-a.example", "/category/20%-off now/", "", ""]);
        assert_eq!(
            parts("https://müller.example/ü?ö=%ff"),
            ["https", "müller.example", "/ü", "ö=%ff", ""]
        );
        assert_eq!(parts("http://a b/c"), ["http", "a b", "/c", "", ""]);
        assert_eq!(parts("https:///p"), ["https", "", "/p", "", ""]);
        assert_eq!(parts("https://h\\p"), ["https", "h", "\\p", "", ""]);
        assert_eq!(parts("http://h:x/"), ["http", "h:x", "/", "", ""]);
    }

    #[test]
    fn without_a_scheme_a_host_is_what_looks_like_one() {
        assert_eq!(parts("shop.example:8080/p?q"), ["", "shop.example", "/p", "q", ""]);
        assert_eq!(parts("localhost:8080/p"), ["", "localhost", "/p", "", ""]);
        assert_eq!(parts("/p/a.b?q#f"), ["", "", "/p/a.b", "q", "f"]);
        assert_eq!(parts("index.html"), ["", "", "index.html", "", ""]);
        assert_eq!(parts("two words.here"), ["", "", "two words.here", "", ""]);
        assert_eq!(parts("about:blank"), ["about", "", "blank", "", ""]);
        assert_eq!(parts("?q"), ["", "", "", "q", ""]);
        assert_eq!(parts(""), [""; 5]);
    }
}
