//! Pages and campaigns of whole events.

use proptest::prelude::*;
use tracklog_protocol::event::EventParts;

use super::*;
use crate::enrich::ReferrerKind;
use crate::state::StateOptions;
use crate::state::rig::Rig;

fn enriched(event: EventParts<'_>) -> Enrichment {
    Rig::new(StateOptions::default()).run(&[event], &[&Page], true).remove(0)
}

fn campaign_of(url: &str) -> Campaign {
    let event = EventParts { page_url: Some(url), ..EventParts::default() };
    enriched(event).campaign.unwrap_or_default()
}

#[test]
fn a_link_out_of_a_mail_names_its_campaign() {
    let campaign = campaign_of(
        "https://shop.example/p?utm_source=News Letter&utm_term=a%20b+c&utm_source=second#utm_medium=x",
    );
    let expected = Campaign {
        source: Some("News Letter".into()),
        term: Some("a b c".into()),
        ..Campaign::default()
    };
    assert_eq!(campaign, expected, "the first value counts, the fragment is not read");
}

#[test]
fn a_click_id_stands_beside_the_campaign() {
    let campaign = campaign_of("https://shop.example/?gclid=Cj0K&utm_campaign=spring&utm_id=9");
    assert_eq!((campaign.name.as_deref(), campaign.id.as_deref()), (Some("spring"), Some("9")));
    assert_eq!(campaign.click_id.as_deref(), Some("Cj0K"));
    assert_eq!(campaign.click_id_kind, Some("gclid"));
}

#[test]
fn the_context_names_the_campaign_where_the_url_does_not() {
    let context = r#"{"x": [1], "campaign": {"name": "sp\u00fcring", "source": "app", "medium": 7,
        "term": "", "content": "c", "extra": {"source": "no"}}}"#;
    let event = EventParts {
        context: Some(context),
        page_url: Some("https://shop.example/?fbclid=1"),
        ..EventParts::default()
    };
    let campaign = enriched(event).campaign.unwrap();
    let expected = Campaign {
        name: Some("spüring".into()),
        source: Some("app".into()),
        content: Some("c".into()),
        click_id: Some("1".into()),
        click_id_kind: Some("fbclid"),
        ..Campaign::default()
    };
    assert_eq!(campaign, expected);
    let named = EventParts { page_url: Some("https://shop.example/?utm_medium=mail"), ..event };
    let campaign = enriched(named).campaign.unwrap();
    assert_eq!((campaign.medium.as_deref(), campaign.source), (Some("mail"), None));
}

#[test]
fn a_campaign_deeper_in_the_context_or_of_another_type_is_none() {
    for context in [r#"{"app": {"campaign": {"name": "x"}}}"#, r#"{"campaign": "x"}"#, "{}"] {
        let event = EventParts { context: Some(context), ..EventParts::default() };
        assert_eq!(enriched(event), Enrichment::default(), "{context}");
    }
}

#[test]
fn the_page_keeps_its_parts_as_sent() {
    let url = "https://Shop.example:443/a%2Fb/c d?q=%-&r#top";
    let event = EventParts { page_url: Some(url), ..EventParts::default() };
    let expected = PageParts {
        scheme: Some("https".into()),
        host: Some("shop.example".into()),
        path: Some("/a%2Fb/c d".into()),
        query: Some("q=%-&r".into()),
        fragment: Some("top".into()),
    };
    assert_eq!(enriched(event).page, Some(expected));
}

#[test]
fn without_a_url_the_path_is_what_was_sent() {
    let event = EventParts { page_path: Some("/p"), ..EventParts::default() };
    assert_eq!(enriched(event).page.unwrap().path.as_deref(), Some("/p"));
    let event = EventParts { page_url: Some("https://a.example"), ..event };
    assert_eq!(enriched(event).page.unwrap().path, None);
}

#[test]
fn a_referrer_is_classified_against_the_page() {
    let event = EventParts {
        page_url: Some("https://shop.example/p"),
        page_referrer: Some("http://www.shop-a.example/category/20%-off now/"),
        ..EventParts::default()
    };
    let campaign = enriched(event).campaign.unwrap();
    assert_eq!(campaign.referrer_host.as_deref(), Some("www.shop-a.example"));
    assert_eq!(campaign.referrer_kind, Some(ReferrerKind::Other));
}

#[test]
fn an_event_of_no_page_is_a_miss() {
    let event =
        EventParts { page_referrer: Some(""), page_url: Some(" "), ..EventParts::default() };
    assert_eq!(enriched(event), Enrichment::default());
}

proptest! {
    #[test]
    fn no_text_breaks_it(
        url in "\\PC{0,80}|(https?://|[a-z.]{1,5}|[#?&=%:/\\\\@\\[\\]]|utm_|source|gclid|ü|%4){0,24}",
        referrer in "\\PC{0,80}|(android-app://|https://|google|yahoo|\\.|mail|co|uk|com|:1|/){0,16}",
        context in "\\PC{0,40}|\\{\"campaign\": ?(\\{\"name\":|\"x|\\{|\\}|\"|\\\\){0,6}",
    ) {
        let event = EventParts {
            page_url: Some(&url),
            page_referrer: Some(&referrer),
            ..EventParts::default()
        };
        enriched(event);
        campaign::add_context(&context, &mut Campaign::default());
    }
}
