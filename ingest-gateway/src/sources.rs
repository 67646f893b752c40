//! The sources of a running gateway, found by their write keys.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use smallvec::SmallVec;
use tracklog_log::Lane;

use crate::ack::Known;
use crate::answer::Refusal;
use crate::config::Source;
use crate::delivery::text_of;
use crate::intake::{Judged, Judgement};
use crate::metrics::{Metrics, SourceMetrics};
use crate::rejection::Code;
use crate::scan::ScanLimits;
use crate::source::SourceRules;

/// Two sources cannot be told apart, or one cannot be named.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A source has an empty write key: requests without one would be its own.
    #[error("source {name:?} has an empty write key")]
    EmptyKey {
        /// Its name.
        name: String,
    },
    /// Two sources have the same write key.
    #[error("sources {first:?} and {second:?} have the same write key")]
    SameKey {
        /// The name of one.
        first: String,
        /// The name of the other.
        second: String,
    },
    /// A header that a source keeps has no possible name.
    #[error("source {name:?} keeps a header of no possible name: {header:?}")]
    HeaderName {
        /// The source's name.
        name: String,
        /// What stands there.
        header: String,
    },
}

/// The headers that a source keeps with each event.
pub(crate) struct KeptHeaders {
    always: Vec<HeaderName>,
    by_proxy: Vec<HeaderName>,
}

impl KeptHeaders {
    pub(crate) fn of(source: &Source) -> Result<Self, SourceError> {
        let names = |headers: &[String]| -> Result<Vec<HeaderName>, SourceError> {
            let parse = |header: &String| {
                header.parse().map_err(|_| SourceError::HeaderName {
                    name: source.rules.name.clone(),
                    header: header.clone(),
                })
            };
            headers.iter().map(parse).collect()
        };
        Ok(Self { always: names(&source.headers)?, by_proxy: names(&source.proxy_headers)? })
    }

    /// Those of `head`: the allowed ones, and those that only a trusted proxy can vouch for.
    pub(crate) fn kept<'a>(
        &'a self,
        head: &'a HeaderMap,
        from_proxy: bool,
    ) -> SmallVec<[(&'a str, &'a str); 8]> {
        let by_proxy = self.by_proxy.iter().filter(|_| from_proxy);
        let named = self.always.iter().chain(by_proxy);
        named.filter_map(|name| Some((name.as_str(), text_of(head, name)?))).collect()
    }
}

/// A source, with what the gateway keeps beside its rules.
pub(crate) struct KnownSource {
    pub(crate) write_key: String,
    pub(crate) rules: SourceRules,
    pub(crate) lane: Lane,
    pub(crate) body_bytes_max: usize,
    pub(crate) decoded_bytes_max: usize,
    pub(crate) headers: KeptHeaders,
    origins: Vec<String>,
    metrics: SourceMetrics,
}

impl fmt::Debug for KnownSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnownSource").field("name", &self.rules.name).finish_non_exhaustive()
    }
}

impl KnownSource {
    fn new(source: Source, lane: Lane, metrics: &Metrics) -> Result<Self, SourceError> {
        let name = source.rules.name.clone();
        if source.write_key.is_empty() {
            return Err(SourceError::EmptyKey { name });
        }
        Ok(Self {
            headers: KeptHeaders::of(&source)?,
            metrics: metrics.of_source(&source.rules.name),
            write_key: source.write_key,
            rules: source.rules,
            lane,
            body_bytes_max: source.body_bytes_max,
            decoded_bytes_max: source.decoded_bytes_max,
            origins: source.origins,
        })
    }

    /// Whether this source takes a body of these sizes from a page of this origin.
    pub(crate) fn admit(
        &self,
        origin: Option<&HeaderValue>,
        body_bytes: usize,
        decoded_bytes: usize,
    ) -> Result<(), Refusal> {
        self.admit_origin(origin)?;
        if body_bytes > self.body_bytes_max {
            return Err(Refusal::too_large(self.body_bytes_max));
        }
        if decoded_bytes > self.decoded_bytes_max {
            return Err(Refusal::too_large(self.decoded_bytes_max));
        }
        self.metrics.body_bytes(body_bytes);
        Ok(())
    }

    pub(crate) fn admit_origin(&self, origin: Option<&HeaderValue>) -> Result<(), Refusal> {
        let Some(origin) = origin else { return Ok(()) };
        let is_listed = |listed: &String| origin.as_bytes().eq_ignore_ascii_case(listed.as_bytes());
        if self.origins.is_empty() || self.origins.iter().any(is_listed) {
            return Ok(());
        }
        let message = "pages of this origin may not send with this write key";
        Err(Refusal::new(StatusCode::FORBIDDEN, Code::ForbiddenOrigin, message))
    }

    /// Counts events that are durable.
    pub(crate) fn count(&self, judged: &Judged, known: Known) {
        let accepted = (judged.len() - judged.rejected_count()) as u64;
        self.metrics.accepted(accepted - known.duplicates);
        self.metrics.known(known);
        if judged.rejected_count() > 0 {
            self.count_rejected(judged.iter());
        }
    }

    /// Counts rows that are durable.
    pub(crate) fn count_rows<'a>(
        &self,
        rows: impl Iterator<Item = Judgement<'a>> + Clone,
        known: Known,
    ) {
        let accepted = rows.clone().filter(|judgement| judgement.rejected().is_none());
        self.metrics.accepted(accepted.count() as u64 - known.duplicates);
        self.metrics.known(known);
        self.count_rejected(rows);
    }

    fn count_rejected<'a>(&self, judgements: impl Iterator<Item = Judgement<'a>>) {
        let rejected = judgements.filter_map(|judgement| judgement.rejected());
        rejected.for_each(|rejected| self.metrics.rejected(rejected.code()));
    }
}

/// All sources.
#[derive(Debug)]
pub(crate) struct Sources {
    by_key: HashMap<Vec<u8>, Arc<KnownSource>>,
    body_bytes_max: usize,
    decoded_bytes_max: usize,
    scan_limits: ScanLimits,
}

impl Sources {
    pub(crate) fn new(sources: Vec<Source>, metrics: &Metrics) -> Result<Self, SourceError> {
        let mut all = Self {
            by_key: HashMap::with_capacity(sources.len()),
            body_bytes_max: 0,
            decoded_bytes_max: 0,
            scan_limits: ScanLimits { event_bytes_max: 0, depth_max: 0, events_max: 0 },
        };
        for (lane, source) in lanes().zip(sources) {
            all.add(KnownSource::new(source, lane, metrics)?)?;
        }
        Ok(all)
    }

    fn add(&mut self, source: KnownSource) -> Result<(), SourceError> {
        let limits = &source.rules.limits;
        let largest = &mut self.scan_limits;
        largest.event_bytes_max = largest.event_bytes_max.max(limits.event_bytes_max);
        largest.depth_max = largest.depth_max.max(limits.depth_max);
        largest.events_max = largest.events_max.max(limits.events_max);
        self.body_bytes_max = self.body_bytes_max.max(source.body_bytes_max);
        self.decoded_bytes_max = self.decoded_bytes_max.max(source.decoded_bytes_max);
        let second = source.rules.name.clone();
        let key = source.write_key.clone().into_bytes();
        match self.by_key.insert(key, Arc::new(source)) {
            None => Ok(()),
            Some(first) => {
                let first = first.rules.name.clone();
                Err(SourceError::SameKey { first, second })
            }
        }
    }

    pub(crate) fn by_key(&self, key: &[u8]) -> Option<&Arc<KnownSource>> {
        self.by_key.get(key)
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<&Arc<KnownSource>> {
        self.by_key.values().find(|source| source.rules.name == name)
    }

    /// The largest body that any source takes.
    pub(crate) const fn body_bytes_max(&self) -> usize {
        self.body_bytes_max
    }

    /// The same after decompression.
    pub(crate) const fn decoded_bytes_max(&self) -> usize {
        self.decoded_bytes_max
    }

    /// The largest limits of events that any source has.
    pub(crate) const fn scan_limits(&self) -> ScanLimits {
        self.scan_limits
    }
}

/// A lane for each source; beyond the number of lanes some share one.
fn lanes() -> impl Iterator<Item = Lane> {
    (Lane::FIRST_SOURCE.0..=u8::MAX).cycle().map(Lane)
}
