//! One tracked action: its parts, a builder, a zero-copy view and the check of foreign bytes.
//!
//! - [`EventBuilder`] makes a record of borrowed [`EventParts`]; the gateway calls it.
//! - [`EnrichedParts`] is what enrichment adds; [`EventBuilder::build_enriched`] makes an event of
//!   another and that, [`EventView`] reads it back.
//! - [`EventView`] reads a record where it lies. Every accessor borrows from the record.
//! - [`verify`] lets bytes from outside in. What passes is a [`Record`](crate::Record) and can be read by everyone
//!   without a further check; no bytes make it panic or read out of bounds.
//! - [`Property`] is one typed value of `properties`, found through the index that is stored
//!   beside the text.
//!
//! Knows the layout of `schema/event.fbs` and nothing of where the fields come from.

mod build;
mod enriched;
mod fields;
mod flags;
mod kind;
mod property;
mod verify;
mod view;

pub use build::{EventBuilder, EventParts, HEADERS_MAX};
pub use enriched::{
    CampaignParts, DeviceParts, EnrichedParts, GeoOrigin, GeoParts, PageParts, ProfileParts,
    RawPlace, SessionParts,
};
pub use fields::{Fields, JSON_DEPTH_MAX, NotAnObject};
pub use flags::EventFlags;
pub use kind::EventKind;
pub use property::{JsonNumber, JsonText, Property, PropertySpan, ValueKind};
pub use verify::{EventError, verify};
pub(crate) use verify::{first_line, limits};
pub use view::EventView;
