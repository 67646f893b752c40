//! What kind of place linked to a page.
//!
//! - Internal is what has the page's own site: the last two labels of the host, three where the
//!   last two are known to be shared by many (`co.uk`, `github.io`). Addresses and names without
//!   a dot are sites of their own. That is a rule of thumb: the public list of such suffixes has
//!   ten thousand entries, and is wrong within a year.
//! - A known host is looked up with all of its labels, then with the first left out, and so on:
//!   `mail.google.com` is mail. Brands with a country's suffix are known by rule: `google.co.uk`.
//! - Android's apps give themselves as `android-app://PACKAGE`.

use std::iter;

use super::sites::{APPS, BRANDS, HOSTS, Known, SHARED_SECOND_LABELS, SHARED_SUFFIXES};
use super::url::Url;
use crate::enrich::{Campaign, ReferrerKind};

/// A host has no more labels that are looked at, from its end.
const LABELS_MAX: usize = 8;

/// Writes what `referrer` is, for a page at the host `page`, in lower case.
pub(super) fn classify(referrer: &str, page: Option<&str>, campaign: &mut Campaign) {
    let referrer = Url::split(referrer);
    let Some(host) = referrer.host() else { return };
    let own = site(&host);
    let known = || match referrer.scheme {
        Some("android-app") => app(&host),
        _ => well_known(&host, own),
    };
    let (kind, name) = if page.is_some_and(|page| site(page) == own) {
        (ReferrerKind::Internal, None)
    } else if let Some(Known { kind, name }) = known() {
        (kind, Some(name))
    } else {
        (ReferrerKind::Other, None)
    };
    campaign.referrer_host = Some(host);
    campaign.referrer_kind = Some(kind);
    campaign.referrer_name = name;
}

fn app(package: &str) -> Option<Known> {
    lookup(APPS, package)
}

/// What is known of `host`, of this site.
fn well_known(host: &str, site: &str) -> Option<Known> {
    let host = host.strip_suffix('.').unwrap_or(host);
    suffixes(host).find_map(|suffix| lookup(HOSTS, suffix)).or_else(|| brand(host, site))
}

fn lookup(table: &[(&str, Known)], name: &str) -> Option<Known> {
    let at = table.binary_search_by_key(&name, |(known, _)| known).ok()?;
    Some(table[at].1)
}

/// `host`, then what is left of it without its first label, and so on.
fn suffixes(host: &str) -> impl Iterator<Item = &str> {
    let start = dots(host).nth(LABELS_MAX).map_or(0, |at| at + 1);
    iter::successors(Some(&host[start..]), |host| Some(&host[dot(host)? + 1..]))
}

/// A brand whose site has a country's suffix: `www.google.co.uk`.
fn brand(host: &str, site: &str) -> Option<Known> {
    let (label, suffix) = site.split_once('.')?;
    let country = suffix.rsplit('.').next().filter(|it| it.len() == 2);
    let below = host[..host.len() - site.len()].trim_end_matches('.');
    let fits = |subdomain: &&str| {
        *subdomain == below || subdomain.strip_prefix('*').is_some_and(|it| below.ends_with(it))
    };
    let brand = BRANDS.iter().find(|it| it.label == label && it.subdomains.iter().any(fits));
    brand.filter(|_| country.is_some() || suffix == "com").map(|it| it.known)
}

/// The part of `host` that one owner has, by the rule above.
fn site(host: &str) -> &str {
    let host = host.strip_suffix('.').unwrap_or(host);
    let is_address =
        host.starts_with('[') || host.bytes().all(|it| it.is_ascii_digit() || it == b'.');
    if is_address {
        return host;
    }
    let mut ends = dots(host).map(|at| at + 1);
    let Some(two) = ends.next().and_then(|_| ends.next()) else { return host };
    let Some((second, last)) = host[two..].split_once('.') else { return host };
    let is_shared = SHARED_SUFFIXES.contains(&&host[two..])
        || (last.len() == 2 && SHARED_SECOND_LABELS.contains(&second));
    if is_shared { ends.next().map_or(host, |three| &host[three..]) } else { &host[two..] }
}

/// Where the first dot is. Hosts are short: to look byte by byte costs less than a search that is made
/// for long texts.
fn dot(host: &str) -> Option<usize> {
    host.bytes().position(|it| it == b'.')
}

/// Where the dots are, the last one first.
fn dots(host: &str) -> impl Iterator<Item = usize> {
    let bytes = host.bytes().enumerate().rev();
    bytes.filter(|(_, it)| *it == b'.').map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(
        referrer: &str,
        page: &str,
    ) -> (Option<String>, Option<&'static str>, Option<&'static str>) {
        let mut campaign = Campaign::default();
        classify(referrer, Url::split(page).host().as_deref(), &mut campaign);
        let kind = campaign.referrer_kind.map(ReferrerKind::as_str);
        (campaign.referrer_host, kind, campaign.referrer_name)
    }

    fn kind(referrer: &str) -> (&'static str, &'static str) {
        let (_, kind, name) = seen(referrer, "https://shop.example/p");
        (kind.unwrap_or_default(), name.unwrap_or_default())
    }

    #[test]
    fn well_known_places_are_told_by_their_hosts() {
        for (referrer, expected) in [
            ("https://www.google.com/", ("search", "Google")),
            ("https://google.co.uk/search?q=a", ("search", "Google")),
            ("https://WWW.Google.com.br", ("search", "Google")),
            ("https://images.google.de", ("search", "Google")),
            ("https://r.search.yahoo.com/x", ("search", "Yahoo")),
            ("https://search.yahoo.co.jp/search", ("search", "Yahoo")),
            ("https://cn.bing.com", ("search", "Bing")),
            ("https://duckduckgo.com./", ("search", "DuckDuckGo")),
            ("https://yandex.com.tr/search", ("search", "Yandex")),
            ("https://ya.ru", ("search", "Yandex")),
            ("https://search.brave.com/", ("search", "Brave Search")),
            ("https://lm.facebook.com/l.php", ("social", "Facebook")),
            ("https://t.co/abc", ("social", "X")),
            ("http://lnkd.in/x", ("social", "LinkedIn")),
            ("https://old.reddit.com/r/rust", ("social", "Reddit")),
            ("https://www.pinterest.co.uk/", ("social", "Pinterest")),
            ("https://de.pinterest.com/", ("social", "Pinterest")),
            ("https://mail.google.com/", ("mail", "Gmail")),
            ("https://outlook.live.com/", ("mail", "Outlook")),
            ("https://de-mg42.mail.yahoo.com/", ("mail", "Yahoo Mail")),
            ("https://mail.yandex.ru/", ("mail", "Yandex Mail")),
            ("https://docs.google.com/", ("other", "")),
            ("https://news.yahoo.com/", ("other", "")),
            ("https://google.evil.example/", ("other", "")),
            ("https://notgoogle.com/", ("other", "")),
            ("https://google.shop/", ("other", "")),
            ("https://t.com/", ("other", "")),
        ] {
            assert_eq!(kind(referrer), expected, "{referrer}");
        }
    }

    #[test]
    fn apps_are_told_by_their_packages() {
        let search = "android-app://com.google.android.googlequicksearchbox/https/www.google.com";
        assert_eq!(kind(search), ("search", "Google"));
        assert_eq!(kind("android-app://com.google.android.gm/"), ("mail", "Gmail"));
        assert_eq!(kind("android-app://com.facebook.katana"), ("social", "Facebook"));
        assert_eq!(kind("android-app://org.example.shop"), ("other", ""));
        assert_eq!(kind("https://com.facebook.katana/"), ("other", ""), "a host is no package");
    }

    #[test]
    fn the_same_site_is_internal() {
        for (referrer, page) in [
            ("https://www.shop.example/", "https://shop.example/p"),
            ("https://a.shop.example/", "//b.SHOP.example."),
            ("https://www.shop.co.uk", "https://shop.co.uk"),
            ("https://www.google.com", "https://mail.google.com"),
            ("http://localhost:1", "http://localhost:2"),
            ("http://10.0.0.1", "http://10.0.0.1"),
        ] {
            assert_eq!(seen(referrer, page).1, Some("internal"), "{referrer} {page}");
        }
        for (referrer, page) in [
            ("https://other.co.uk", "https://shop.co.uk"),
            ("https://a.github.io", "https://b.github.io"),
            ("http://10.0.0.1", "http://11.0.0.1"),
            ("https://shop-a.example/", "https://shop.example/"),
            ("https://shop.example/", ""),
        ] {
            assert_eq!(seen(referrer, page).1, Some("other"), "{referrer} {page}");
        }
    }

    #[test]
    fn the_host_is_in_lower_case_and_keeps_its_www() {
        let referrer = "http://WWW.Shop-A.example:80/category/20%-off now/";
        assert_eq!(seen(referrer, "").0.as_deref(), Some("www.shop-a.example"));
    }

    #[test]
    fn what_has_no_host_is_no_place() {
        for referrer in ["", "-", "about:blank", "$direct", "/p", "https://", "data:text/html,x"] {
            assert_eq!(seen(referrer, ""), (None, None, None), "{referrer}");
        }
    }

    #[test]
    fn a_host_of_many_labels_is_looked_at_from_its_end() {
        assert_eq!(kind(&format!("https://{}bing.com", "a.".repeat(2000))), ("search", "Bing"));
        assert_eq!(kind(&format!("https://{}", ".".repeat(3000))).1, "");
    }
}
