//! HTTPS in, validated events out.
//!
//! What decides about bytes is sans-io, and a half of this crate on its own:
//!
//! | module | what it decides |
//! |---|---|
//! | [`scan`] | where the events of a body lie, and whether their text is good |
//! | `envelope` | what the fields of an event mean |
//! | [`event_time`] | what a client's times say, and when an event happened |
//! | [`client_ip`] | who is behind the trusted proxies |
//! | `privacy`, [`source`] | what a source may send, and what of it may be stored |
//! | [`rejection`] | the codes of refusals |
//! | [`intake`] | all of it together: a body, or rows of a file, in; records and verdicts out |
//!
//! The way of one request through it:
//!
//! ```
//! use tracklog_ingest_gateway::intake::{Door, Intake, NoSchemas, RequestFacts};
//! use tracklog_ingest_gateway::scan::ScanLimits;
//! use tracklog_ingest_gateway::source::SourceRules;
//! use tracklog_protocol::TimeMicros;
//! use tracklog_protocol::event::EventKind;
//!
//! // One for each worker, or from a pool.
//! let mut intake = Intake::new();
//! let body = br#"{"event":"Signed Up","userId":"7","writeKey":"tl_k"}"#;
//!
//! // 1. Before the source is known. An error is the whole body's: 400, or 413 for `too_many` and
//! //    `too_large`, with `error.flaw.code` and the error as the message.
//! let submission = intake.scan(body, Door::Single(EventKind::Track), &ScanLimits::default())?;
//! assert_eq!(submission.root_write_key().as_deref(), Some("tl_k"));
//!
//! // 2. With the source's rules. One record an event, in order.
//! let source = SourceRules::named("shop");
//! let request = RequestFacts {
//!     received: TimeMicros(1_732_500_000_000_000),
//!     peer: None,
//!     client: None,
//!     user_agent: None,
//!     headers: &[],
//! };
//! let judged = submission.judge(&source, &request, &NoSchemas, &mut |id| id.fill(0))?;
//! for judgement in judged.iter() {
//!     match judgement.rejected() {
//!         None => assert!(judgement.partition(16) < 16),
//!         Some(rejected) => panic!("{}: {}", rejected.code(), rejected.message()),
//!     }
//! }
//!
//! // 3. Once the records are durable and the answer is written, the memory goes back.
//! intake.recycle(judged);
//! # Ok::<(), tracklog_ingest_gateway::scan::Unreadable>(())
//! ```
//!
//! The other half serves it over HTTP/1.1 and HTTP/2, plain and TLS. Start at [`Gateway::start`];
//! further routes come in by a [`Door`].
//!
//! | module | what it does |
//! |---|---|
//! | `http` | sockets, connections, their limits, the drain |
//! | `delivery` | one request of events, from its head to the ack |
//! | `row_desk` | rows of files, by the same rules |
//! | `ack` | appends, and what their outcomes mean to the client |
//! | `segment_api`, `events_api`, `rudder_api`, `registry_api`, `settings`, `home` | what each route takes and answers |
//! | `route`, `auth`, `cors`, `encoding`, `sources` | which path, who, from which page, how coded |
//! | [`trial`] | what an event would be taken for, without taking it |
//! | `tls`, [`config`], `metrics`, `answer` | certificates, settings, counters, bodies of answers |

#![forbid(unsafe_code)]

mod ack;
mod answer;
mod auth;
pub mod client_ip;
pub mod config;
mod cors;
mod delivery;
mod door;
mod encoding;
mod envelope;
pub mod event_time;
mod events_api;
mod home;
mod http;
pub mod intake;
mod metrics;
mod privacy;
mod registry_api;
pub mod rejection;
mod route;
mod row_desk;
mod rudder_api;
pub mod scan;
mod segment_api;
mod settings;
pub mod source;
mod sources;
mod tls;
pub mod trial;

pub use ack::Topics;
pub use answer::{Content, ContentError};
pub use auth::AdminToken;
pub use config::{GatewayConfig, Source};
pub use door::{Access, Door, NoDoor};
pub use http::{Backing, Bound, Gateway, Listen, Running, StartError};
pub use metrics::Metrics;
pub use row_desk::{JudgedRows, RowDesk, UnknownSource};
pub use sources::SourceError;
pub use tls::{TlsError, TlsFiles};

#[doc(hidden)]
pub mod fuzzing {
    //! For the fuzz targets alone: what they reach and nobody else does.
    pub use crate::rudder_api::pixel_event;
}
