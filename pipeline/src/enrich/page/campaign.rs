//! The campaign that a query names.
//!
//! - The first value that is not empty counts. Names are compared without case, and an `amp;`
//!   before one, a leftover of HTML, is not a part of it.
//! - `%XX` and `+` are decoded. What is no such code stands for itself, and what is no UTF-8 then
//!   becomes U+FFFD.
//! - Of several click ids the first in the query counts.

use tracklog_protocol::event::Property;

use super::VALUE_BYTES_MAX;
use crate::enrich::Campaign;
use crate::enrich::text::{cut, decode, members};

/// The parameters by which advertisers know a click, as they write them.
const CLICK_IDS: [&str; 14] = [
    "gclid",
    "gbraid",
    "wbraid",
    "dclid",
    "fbclid",
    "msclkid",
    "ttclid",
    "twclid",
    "li_fat_id",
    "igshid",
    "ScCid",
    "rdt_cid",
    "epik",
    "yclid",
];

/// The campaign that `query` names.
pub(super) fn of_query(query: &str) -> Campaign {
    let mut campaign = Campaign::default();
    for parameter in query.split('&') {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if !value.is_empty() {
            take(&decode(name.strip_prefix("amp;").unwrap_or(name)), value, &mut campaign);
        }
    }
    campaign
}

/// Whether a campaign's own parameters were there; click ids are the advertiser's.
pub(super) fn is_named(campaign: &Campaign) -> bool {
    let Campaign { source, medium, name, term, content, id, .. } = campaign;
    [source, medium, name, term, content, id].into_iter().any(Option::is_some)
}

fn take(name: &str, value: &str, campaign: &mut Campaign) {
    let is_utm = name.get(..4).is_some_and(|it| it.eq_ignore_ascii_case("utm_"));
    if is_utm {
        if let Some(place) = place(&name[4..], campaign) {
            keep(place, &decode(value));
        }
    } else if campaign.click_id.is_none()
        && let Some(kind) = CLICK_IDS.iter().find(|it| it.eq_ignore_ascii_case(name))
    {
        keep(&mut campaign.click_id, &decode(value));
        campaign.click_id_kind = campaign.click_id.is_some().then_some(*kind);
    }
}

/// Where the value of `utm_` and this name goes.
fn place<'a>(name: &str, campaign: &'a mut Campaign) -> Option<&'a mut Option<String>> {
    Some(match name.to_ascii_lowercase().as_str() {
        "source" => &mut campaign.source,
        "medium" => &mut campaign.medium,
        "campaign" => &mut campaign.name,
        "term" => &mut campaign.term,
        "content" => &mut campaign.content,
        "id" => &mut campaign.id,
        _ => return None,
    })
}

fn keep(place: &mut Option<String>, value: &str) {
    let value = cut(value.trim(), VALUE_BYTES_MAX);
    if place.is_none() && !value.is_empty() {
        *place = Some(value.to_owned());
    }
}

/// Adds what an SDK says in the object `campaign` of its context.
pub(super) fn add_context(context: &str, campaign: &mut Campaign) {
    for (name, value) in members(said_in(context).unwrap_or_default()) {
        // Segment's specification calls `utm_campaign` the campaign's name.
        let name = if name == "name" { "campaign".into() } else { name };
        if let (Property::String(value), Some(place)) = (value, place(&name, campaign)) {
            keep(place, &value.text());
        }
    }
}

/// The JSON object `campaign` of `context`.
pub(super) fn said_in(context: &str) -> Option<&str> {
    // Most contexts have none, and looking for a word is cheaper than walking an object. A name
    // that is written with escapes is not found; no SDK writes it so.
    if !context.contains("\"campaign\"") {
        return None;
    }
    match members(context).find_map(|(name, value)| (name == "campaign").then_some(value)) {
        Some(Property::Object(said)) => Some(said),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_without_case_and_leftovers_of_html() {
        let campaign =
            of_query("UTM_Source=a&amp;utm_medium=b&utm%5Fid=7&utm_nonsense=x&utm_=y&utm_ü=z");
        assert_eq!(campaign.source.as_deref(), Some("a"));
        assert_eq!(campaign.medium.as_deref(), Some("b"));
        assert_eq!(campaign.id.as_deref(), Some("7"));
    }

    #[test]
    fn the_first_value_that_is_not_empty_counts() {
        let campaign = of_query("utm_source=&utm_source&utm_source=+&utm_source=a&utm_source=b");
        assert_eq!(campaign.source.as_deref(), Some("a"));
    }

    #[test]
    fn of_several_click_ids_the_first_counts() {
        let campaign = of_query("fbclid=&sccid=1&gclid=2");
        assert_eq!(campaign.click_id.as_deref(), Some("1"));
        assert_eq!(campaign.click_id_kind, Some("ScCid"));
        assert!(!is_named(&campaign));
    }

    #[test]
    fn a_long_value_is_cut() {
        let campaign = of_query(&format!("utm_term={}", "ü".repeat(VALUE_BYTES_MAX)));
        assert_eq!(campaign.term.unwrap().len(), VALUE_BYTES_MAX);
    }
}
