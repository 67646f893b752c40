//! The parts of an event's page URL, and where the visit came from.
//!
//! Page: the parts of the page's URL, split as `url.rs` tells; without a URL, the path that was
//! sent beside it.
//!
//! Campaign
//! - `utm_*` and click ids of the page's query, as `campaign.rs` tells; the fragment is not read.
//!   Where the query has no `utm_*`, what the SDK says in `context.campaign`.
//! - The host of the page's referrer, and what kind of place that is: `referrer.rs`.
//!
//! Neither URL has to be valid: what people link to is not ours to refuse. Of each the first
//! [`URL_BYTES_MAX`] bytes are read, of a campaign's value [`VALUE_BYTES_MAX`] are kept.

mod campaign;
mod referrer;
mod sites;
mod url;

use std::sync::Arc;

use tracklog_protocol::event::EventView;

use self::url::Url;
use super::{Campaign, Enricher, Enrichment, Input, Looked, LookupFailure, PageParts, present};
use crate::state::StateBatch;

/// Of a URL, this much is read.
pub const URL_BYTES_MAX: usize = 8 << 10;
/// Of a value of a campaign, this much is kept.
pub const VALUE_BYTES_MAX: usize = 1 << 10;

/// Reads the URLs of pages and referrers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Page;

impl Enricher for Page {
    fn name(&self) -> &'static str {
        "page"
    }

    fn version(&self) -> Arc<str> {
        "1".into()
    }

    fn inputs(&self, event: &EventView<'_>, _found: &Enrichment) -> Vec<Input> {
        let path = event.page_path().filter(|_| event.page_url().is_none());
        present([
            ("page.url", event.page_url()),
            ("page.path", path),
            ("page.referrer", event.page_referrer()),
            ("context.campaign", event.context().and_then(campaign::said_in)),
        ])
    }

    fn enrich(
        &self,
        event: &EventView<'_>,
        _state: &mut StateBatch<'_>,
        found: &mut Enrichment,
    ) -> Result<Looked, LookupFailure> {
        let url = event.page_url().map(Url::split).unwrap_or_default();
        let path = url.path.or_else(|| event.page_path().filter(|_| event.page_url().is_none()));
        let parts = parts(&Url { path, ..url });
        let campaign = campaign(event, &url, parts.host.as_deref());
        found.page = (parts != PageParts::default()).then_some(parts);
        found.campaign = (campaign != Campaign::default()).then_some(campaign);
        let found_nothing = found.page.is_none() && found.campaign.is_none();
        Ok(if found_nothing { Looked::Miss } else { Looked::Hit })
    }
}

fn parts(url: &Url<'_>) -> PageParts {
    PageParts {
        scheme: url.scheme.map(str::to_owned),
        host: url.host(),
        path: url.path.map(str::to_owned),
        query: url.query.map(str::to_owned),
        fragment: url.fragment.map(str::to_owned),
    }
}

fn campaign(event: &EventView<'_>, url: &Url<'_>, host: Option<&str>) -> Campaign {
    let mut campaign = campaign::of_query(url.query.unwrap_or_default());
    if !campaign::is_named(&campaign) {
        campaign::add_context(event.context().unwrap_or_default(), &mut campaign);
    }
    if let Some(referrer) = event.page_referrer() {
        referrer::classify(referrer, host, &mut campaign);
    }
    campaign
}

#[cfg(test)]
mod tests;
