//! Client hints: what a browser says beside an agent string that it keeps vague.
//!
//! - Windows 11 calls itself 10 in the agent: the platform's version is 13 or more there.
//! - Systems and Android's models are frozen in the agent (`Mac OS X 10_15_7`, `Android 10; K`).
//! - Of the version the agent says the first number alone, and some browsers say `Chrome`.
//!
//! A hint is a text as in HTTP's structured fields: `"Android"`, `?1`, `"Chromium";v="130"`. What
//! is no such text says nothing.

use super::said::{Hint, Said};

/// What hints say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hinted {
    pub(super) mobile: Option<bool>,
    pub(super) os: Option<&'static str>,
    pub(super) os_version: Option<String>,
    pub(super) model: Option<String>,
    /// The browser's family as the published rules name it, and its version.
    pub(super) browser: Option<(&'static str, String)>,
    /// A program says that it drives the browser.
    pub(super) headless: bool,
}

/// Brands of browsers, and what the published rules call them. Chromium stands in every list
/// beside them, and so do brands that are made up to keep the list from being taken for granted.
const BRANDS: &[(&str, &str)] = &[
    ("Google Chrome", "Chrome"),
    ("Microsoft Edge", "Edge"),
    ("Opera", "Opera"),
    ("Brave", "Brave"),
    ("Vivaldi", "Vivaldi"),
    ("Yandex", "Yandex Browser"),
    ("YaBrowser", "Yandex Browser"),
    ("Samsung Internet", "Samsung Internet"),
    ("DuckDuckGo", "DuckDuckGo"),
];

impl Hinted {
    pub(super) fn by(said: &Said<'_>) -> Self {
        let text = |hint| said.hint(hint).and_then(quoted).filter(|text| !text.is_empty());
        let platform = text(Hint::Platform).unwrap_or_default();
        let version = text(Hint::PlatformVersion);
        let (os, os_version) = system(&platform, version.as_deref());
        let lists = [Hint::FullVersions, Hint::Brands].map(|hint| said.hint(hint));
        let has = |brand| lists.iter().flatten().any(|list| Brands(list).any(|it| it.0 == brand));
        Self {
            mobile: said.hint(Hint::Mobile).and_then(boolean),
            os,
            os_version,
            model: text(Hint::Model),
            browser: lists.into_iter().flatten().find_map(browser),
            headless: has("HeadlessChrome"),
        }
    }
}

fn browser(list: &str) -> Option<(&'static str, String)> {
    Brands(list).find_map(|(brand, version)| {
        let (_, family) = BRANDS.iter().find(|(known, _)| *known == brand)?;
        Some((*family, version))
    })
}

/// The system's family as the published rules name it, and its version.
fn system(platform: &str, version: Option<&str>) -> (Option<&'static str>, Option<String>) {
    let version = version.filter(|it| it.bytes().all(|it| it.is_ascii_digit() || it == b'.'));
    match platform {
        "Windows" => (Some("Windows"), version.and_then(windows).map(str::to_owned)),
        "macOS" => (Some("Mac OS X"), version.map(str::to_owned)),
        "Android" => (Some("Android"), version.map(without_zeros)),
        "Chrome OS" | "Chromium OS" => (Some("Chrome OS"), version.map(str::to_owned)),
        _ => (None, None),
    }
}

/// The name of the Windows whose platform version this is.
fn windows(version: &str) -> Option<&'static str> {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
    Some(match (numbers.next()??, numbers.next().flatten()) {
        (0, Some(1)) => "7",
        (0, Some(2)) => "8",
        (0, Some(3)) => "8.1",
        (0, _) => return None,
        (1..=12, _) => "10",
        _ => "11",
    })
}

/// Android says `14.0.0` and is called 14.
fn without_zeros(version: &str) -> String {
    let mut version = version;
    while let Some(shorter) = version.strip_suffix(".0") {
        version = shorter;
    }
    version.to_owned()
}

fn boolean(hint: &str) -> Option<bool> {
    match hint.trim() {
        "?1" => Some(true),
        "?0" => Some(false),
        _ => None,
    }
}

fn quoted(hint: &str) -> Option<String> {
    string(hint.trim()).map(|(text, _)| text)
}

/// The string with which `text` begins, and what follows it.
fn string(text: &str) -> Option<(String, &str)> {
    let inner = text.strip_prefix('"')?;
    let mut said = String::new();
    let mut characters = inner.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((said, &inner[at + 1..])),
            '\\' => said.push(characters.next()?.1),
            _ => said.push(character),
        }
    }
    None
}

/// The members of a list of brands with their versions.
struct Brands<'a>(&'a str);

impl Iterator for Brands<'_> {
    type Item = (String, String);

    fn next(&mut self) -> Option<Self::Item> {
        let text = self.0.trim_start_matches([' ', ',']);
        let (brand, rest) = string(text)?;
        let rest = rest.trim_start().strip_prefix(';')?.trim_start().strip_prefix("v=")?;
        let (version, rest) = string(rest)?;
        self.0 = rest;
        Some((brand, version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brands_are_read_up_to_what_is_no_brand() {
        let list = r#""Not;A \"Brand";v="99.0", "Google Chrome" ; v="130.0.6723.70" , junk"#;
        let brands: Vec<_> = Brands(list).collect();
        let expected = [("Not;A \"Brand", "99.0"), ("Google Chrome", "130.0.6723.70")];
        assert_eq!(brands, expected.map(|(brand, version)| (brand.into(), version.into())));
    }

    #[test]
    fn windows_is_told_by_its_platform_version() {
        let versions = ["0.1.0", "0.2", "0.3.0", "1.0.0", "10.0.0", "13.0.0", "15.0.0"];
        let names = ["7", "8", "8.1", "10", "10", "11", "11"].map(Some);
        assert_eq!(versions.map(windows), names);
        assert_eq!(["", "0", "0.0.0", "x", "99999999999"].map(windows), [None; 5]);
    }
}
