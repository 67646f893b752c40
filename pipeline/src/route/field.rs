//! The fields of an event, under the names that they have in its JSON line.
//!
//! - [`Field`] is a path that was read once, and finds its value in any event: `event`, `geo.city`,
//!   `properties.cart.total`, `context."app.name"`, `properties.products.0.sku`.
//! - A first name that the line does not have is refused; below the JSON objects (`properties`,
//!   `traits`, `context`, `integrations`, `extra`, and the traits of `profile`) any name may stand.
//!
//! Reading copies a text only where the client escaped it. Sans-io.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::sync::LazyLock;

use serde_json::value::RawValue;
use tracklog_protocol::TimeMicros;
use tracklog_protocol::event::{
    EnrichedParts, EventParts, EventView, Fields, JsonNumber, JsonText, Property,
};
use tracklog_protocol::line::format_time;

/// A path has no more names than this.
pub(super) const SEGMENTS_MAX: usize = 16;

/// What a field holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'a, str>),
    /// An array's JSON text.
    Array(&'a str),
    /// An object's JSON text, or what the line shows as an object.
    Object,
}

/// A number, exact where it is an integer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    Integer(i128),
    Double(f64),
}

impl Number {
    /// The number that JSON writes as `token`; `None` where no double is near.
    pub(super) fn from_token(token: &str) -> Option<Self> {
        let double = || token.parse().ok().filter(|it: &f64| it.is_finite()).map(Self::Double);
        token.parse().ok().map(Self::Integer).or_else(double)
    }

    fn double(self) -> f64 {
        match self {
            #[expect(clippy::cast_precision_loss, reason = "the nearest double is what is wanted")]
            Self::Integer(number) => number as f64,
            Self::Double(number) => number,
        }
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.partial_cmp(other) == Some(Ordering::Equal)
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Integer(one), Self::Integer(other)) => Some(one.cmp(other)),
            _ => self.double().partial_cmp(&other.double()),
        }
    }
}

impl<'a> Value<'a> {
    fn of_property(property: Property<'a>) -> Self {
        match property {
            Property::Null => Self::Null,
            Property::Bool(value) => Self::Bool(value),
            Property::Number(number) => Self::of_number(number),
            Property::String(text) => Self::of_text(text),
            Property::Array(text) => Self::Array(text),
            Property::Object(_) => Self::Object,
        }
    }

    fn of_number(number: JsonNumber<'a>) -> Self {
        Number::from_token(number.token()).map_or(Self::Null, Self::Number)
    }

    fn of_text(text: JsonText<'a>) -> Self {
        Self::Text(text.text())
    }

    /// The elements of an array, up to where it is none; nothing for all else.
    pub(super) fn elements(&self) -> Vec<Property<'a>> {
        if let Self::Array(text) = self { elements(text) } else { Vec::new() }
    }
}

impl<'a> From<Property<'a>> for Value<'a> {
    fn from(property: Property<'a>) -> Self {
        Self::of_property(property)
    }
}

/// The elements of the array `text`.
fn elements(text: &str) -> Vec<Property<'_>> {
    tokens(text).into_iter().filter_map(Property::of_token).collect()
}

/// Their texts.
pub(super) fn tokens(text: &str) -> Vec<&str> {
    let tokens = serde_json::from_str::<Vec<&RawValue>>(text).unwrap_or_default();
    tokens.into_iter().map(RawValue::get).collect()
}

/// A path that was read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Field {
    place: Place,
    /// As it was written.
    text: Box<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place {
    /// A field of ours, by its index in [`KNOWN`].
    Known(usize),
    /// Below one of the JSON objects, or that object itself.
    Json(Root, Box<[Box<str>]>),
}

/// An object whose names are the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Root {
    Properties,
    Traits,
    Context,
    Integrations,
    Extra,
    ProfileTraits,
    ProfileGroupTraits,
}

impl Root {
    pub(super) const ALL: [Self; 7] = [
        Self::Properties,
        Self::Traits,
        Self::Context,
        Self::Integrations,
        Self::Extra,
        Self::ProfileTraits,
        Self::ProfileGroupTraits,
    ];

    /// Its path in the line.
    pub(super) const fn path(self) -> &'static [&'static str] {
        match self {
            Self::Properties => &["properties"],
            Self::Traits => &["traits"],
            Self::Context => &["context"],
            Self::Integrations => &["integrations"],
            Self::Extra => &["extra"],
            Self::ProfileTraits => &["profile", "traits"],
            Self::ProfileGroupTraits => &["profile", "groupTraits"],
        }
    }

    pub(super) fn text<'a>(self, event: &EventView<'a>) -> Option<&'a str> {
        match self {
            Self::Properties => event.properties(),
            Self::Traits => event.traits(),
            Self::Context => event.context(),
            Self::Integrations => event.integrations(),
            Self::Extra => event.extra(),
            Self::ProfileTraits => event.profile()?.traits,
            Self::ProfileGroupTraits => event.profile()?.group_traits,
        }
    }
}

/// A path that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FieldError(pub String);

impl Field {
    /// Reads a path.
    ///
    /// # Errors
    /// [`FieldError`], for people.
    pub fn parse(text: &str) -> Result<Self, FieldError> {
        let names = segments(text)?;
        let place = Self::place(&names).ok_or_else(|| FieldError(unknown(text, &names)))?;
        Ok(Self { place, text: text.into() })
    }

    fn place(names: &[String]) -> Option<Place> {
        let whole: Vec<_> = names.iter().map(String::as_str).collect();
        if let Some(index) = KNOWN.iter().position(|known| known.path == whole) {
            return Some(Place::Known(index));
        }
        let root = Root::ALL.into_iter().find(|root| whole.starts_with(root.path()))?;
        let below = names[root.path().len()..].iter().map(|name| name.as_str().into());
        Some(Place::Json(root, below.collect()))
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The value in `event`; `None` where it has none.
    pub(super) fn value<'a>(&self, event: &EventView<'a>) -> Option<Value<'a>> {
        match &self.place {
            Place::Known(index) => (KNOWN[*index].read)(event),
            Place::Json(root, names) => json_value(*root, names, event),
        }
    }

    /// Its names.
    pub(super) fn names(&self) -> Vec<&str> {
        match &self.place {
            Place::Known(index) => KNOWN[*index].path.to_vec(),
            Place::Json(root, names) => {
                root.path().iter().copied().chain(names.iter().map(|name| &**name)).collect()
            }
        }
    }

    /// Whether an event can do without it.
    pub(super) fn can_be_dropped(&self) -> bool {
        match self.place {
            Place::Known(index) => KNOWN[index].clear.is_some(),
            Place::Json(..) => true,
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn unknown(text: &str, names: &[String]) -> String {
    let first = &names[0];
    let mut below = KNOWN.iter().filter(|known| known.path.len() > 1 && known.path[0] == first);
    if below.next().is_some() {
        let of_first = KNOWN.iter().filter(|known| known.path[0] == first);
        let names: Vec<_> = of_first.filter_map(|known| known.path.get(1)).copied().collect();
        return format!("{text:?} is no field of an event; {first} has {}", names.join(", "));
    }
    format!(
        "{text:?} is no field of an event: the names are those of its JSON line, and what the \
         client sent lies below properties, traits, context, integrations and extra"
    )
}

/// The names of a path: bare ones, or in quotes with the escapes of JSON.
fn segments(text: &str) -> Result<Vec<String>, FieldError> {
    let wrong = |what: &str| FieldError(format!("{text:?} is no path: {what}"));
    let (mut names, mut rest) = (Vec::new(), text);
    loop {
        let (name, behind) = if rest.starts_with('"') {
            quoted(rest).ok_or_else(|| wrong("a quote is not closed"))?
        } else {
            let end = rest.find('.').unwrap_or(rest.len());
            (rest[..end].to_owned(), &rest[end..])
        };
        if name.is_empty() {
            return Err(wrong("a name is empty"));
        }
        names.push(name);
        if names.len() > SEGMENTS_MAX {
            return Err(wrong("it has more than 16 names"));
        }
        if behind.is_empty() {
            return Ok(names);
        }
        rest = behind.strip_prefix('.').ok_or_else(|| wrong("a dot is missing"))?;
    }
}

/// The string that `text` begins with, and what is behind it.
pub(super) fn quoted(text: &str) -> Option<(String, &str)> {
    let mut strings = serde_json::Deserializer::from_str(text).into_iter::<String>();
    let string = strings.next()?.ok()?;
    Some((string, &text[strings.byte_offset()..]))
}

fn json_value<'a>(root: Root, names: &[Box<str>], event: &EventView<'a>) -> Option<Value<'a>> {
    let Some((first, below)) = names.split_first() else {
        return root.text(event).map(|_| Value::Object);
    };
    let mut found = match root {
        // The event has an index of these.
        Root::Properties => event.property(first)?,
        _ => member(root.text(event)?, first)?,
    };
    for name in below {
        found = match found {
            Property::Object(text) => member(text, name)?,
            Property::Array(text) => {
                let index: usize = name.parse().ok()?;
                elements(text).into_iter().nth(index)?
            }
            _ => return None,
        };
    }
    Some(found.into())
}

/// The member `name` of the object `text`.
fn member<'a>(text: &'a str, name: &str) -> Option<Property<'a>> {
    let mut spans = Fields::of(text).map_while(Result::ok);
    let span = spans.find(|span| span.name(text).is_some_and(|it| it == name))?;
    span.value(text)
}

/// A field of the line that is not in the client's objects.
pub(super) struct Known {
    /// Its name, or those of its object and itself.
    pub(super) path: &'static [&'static str],
    pub(super) read: for<'a> fn(&EventView<'a>) -> Option<Value<'a>>,
    /// Takes it out of what an event is built from.
    pub(super) clear: Option<Clear>,
}

/// Takes something out of what an event is built from.
pub(super) type Clear = for<'a> fn(&mut EventParts<'a>, &mut EnrichedParts<'a>);

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Known({})", self.path.join("."))
    }
}

/// What a field of ours is as a value.
trait Shown {
    fn shown<'a>(self) -> Option<Value<'a>>
    where
        Self: 'a;
}

impl Shown for Option<&str> {
    fn shown<'a>(self) -> Option<Value<'a>>
    where
        Self: 'a,
    {
        self.map(|text| Value::Text(Cow::Borrowed(text)))
    }
}

impl Shown for &str {
    fn shown<'a>(self) -> Option<Value<'a>>
    where
        Self: 'a,
    {
        Some(self).shown()
    }
}

impl Shown for bool {
    fn shown<'a>(self) -> Option<Value<'a>> {
        Some(Value::Bool(self))
    }
}

impl Shown for u64 {
    fn shown<'a>(self) -> Option<Value<'a>> {
        Some(Value::Number(Number::Integer(self.into())))
    }
}

impl Shown for u32 {
    fn shown<'a>(self) -> Option<Value<'a>> {
        u64::from(self).shown()
    }
}

impl Shown for Option<f64> {
    fn shown<'a>(self) -> Option<Value<'a>> {
        let finite = self.filter(|number| number.is_finite());
        finite.map(|number| Value::Number(Number::Double(number)))
    }
}

impl Shown for TimeMicros {
    fn shown<'a>(self) -> Option<Value<'a>> {
        Some(Value::Text(Cow::Owned(format_time(self))))
    }
}

impl Shown for Option<TimeMicros> {
    fn shown<'a>(self) -> Option<Value<'a>> {
        self?.shown()
    }
}

/// Numbers whose 0 stands for not known, as in the line.
fn known(number: u32) -> Option<Value<'static>> {
    Some(number).filter(|number| *number != 0)?.shown()
}

/// A text of the event itself.
macro_rules! own {
    ($($name:literal)+, $field:ident) => {
        Known {
            path: &[$($name),+],
            read: |event| event.$field().shown(),
            clear: Some(|parts, _| parts.$field = None),
        }
    };
}

/// What every event has, and keeps.
macro_rules! kept {
    ($($name:literal)+, |$event:ident| $read:expr) => {
        Known { path: &[$($name),+], read: |$event| $read, clear: None }
    };
}

/// An object that enrichment found out, and the fields in it. Those that are no `Option` go with
/// the object only.
macro_rules! found {
    (
        $object:literal, $view:ident in $table:ident,
        { $($name:literal: $field:ident),* }, { $($fixed:literal: |$it:ident| $read:expr),* }
    ) => {
        vec![
            Known {
                path: &[$object],
                read: |event| event.$view().map(|_| Value::Object),
                clear: Some(|_, enriched| enriched.$table = None),
            },
            $(Known {
                path: &[$object, $name],
                read: |event| event.$view()?.$field.shown(),
                clear: Some(|_, enriched| {
                    if let Some(it) = &mut enriched.$table {
                        it.$field = None;
                    }
                }),
            },)*
            $(Known {
                path: &[$object, $fixed],
                read: |event| {
                    let $it = event.$view()?;
                    $read
                },
                clear: None,
            },)*
        ]
    };
}

pub(super) static KNOWN: LazyLock<Vec<Known>> = LazyLock::new(|| {
    let mut known = of_the_client();
    known.extend(of_the_request());
    known.extend(of_enrichment());
    known
});

fn of_the_client() -> Vec<Known> {
    vec![
        kept!("messageId", |event| event.message_id().shown()),
        kept!("type", |event| event.kind().as_str().shown()),
        kept!("event", |event| event.name().shown()),
        kept!("source", |event| event.source().shown()),
        own!("anonymousId", anonymous_id),
        own!("userId", user_id),
        own!("previousId", previous_id),
        own!("groupId", group_id),
        own!("sessionId", session_id),
        kept!("timestamp", |event| event.event_time().shown()),
        Known {
            path: &["originalTimestamp"],
            read: |event| event.client_time().shown(),
            clear: Some(|parts, _| (parts.client_time, parts.client_time_text) = (None, None)),
        },
        own!("sentAt", sent_time_text),
        own!("category", category),
        own!("channel", channel),
        own!("locale", locale),
        Known {
            path: &["library"],
            read: |event| {
                let texts = [event.library_name(), event.library_version()];
                texts.into_iter().flatten().next().map(|_| Value::Object)
            },
            clear: Some(|parts, _| {
                parts.library_name = None;
                parts.library_version = None;
            }),
        },
        own!("library" "name", library_name),
        own!("library" "version", library_version),
        Known {
            path: &["page"],
            read: |event| {
                let texts = [event.page_url(), event.page_path(), event.page_referrer()];
                texts
                    .into_iter()
                    .chain([event.page_title()])
                    .flatten()
                    .next()
                    .map(|_| Value::Object)
            },
            clear: Some(|parts, _| {
                parts.page_url = None;
                parts.page_path = None;
                parts.page_referrer = None;
                parts.page_title = None;
            }),
        },
        own!("page" "url", page_url),
        own!("page" "path", page_path),
        own!("page" "referrer", page_referrer),
        own!("page" "title", page_title),
    ]
}

fn of_the_request() -> Vec<Known> {
    vec![
        kept!("receivedAt", |event| event.received_time().shown()),
        own!("userAgent", user_agent),
        own!("clientAddress", client_address),
        own!("peerAddress", peer_address),
        Known {
            path: &["headers"],
            read: |event| event.headers().next().map(|_| Value::Object),
            clear: Some(|parts, _| parts.headers = &[]),
        },
        kept!("schemaVersion", |event| event.schema_version()?.shown()),
    ]
}

fn of_enrichment() -> Vec<Known> {
    let mut known = vec![
        Known {
            path: &["resolvedUserId"],
            read: |event| event.resolved_user_id().shown(),
            clear: Some(|_, enriched| enriched.resolved_user_id = None),
        },
        Known {
            path: &["enrichedBy"],
            read: |event| event.enriched_by().shown(),
            clear: Some(|_, enriched| enriched.enriched_by = None),
        },
        Known {
            path: &["enrichFailures"],
            read: |event| event.enrich_failures().map(|_| Value::Object),
            clear: Some(|_, enriched| enriched.failures = None),
        },
        kept!("stateOffset", |event| event.state_offset()?.0.shown()),
        kept!("rawPartition", |event| event.made_from()?.partition.shown()),
        kept!("rawOffset", |event| event.made_from()?.offset.0.shown()),
        Known {
            path: &["profile"],
            read: |event| event.profile().map(|_| Value::Object),
            clear: Some(|_, enriched| enriched.profile = None),
        },
        kept!("profile" "version", |event| event.profile()?.version.0.shown()),
    ];
    known.extend(of_the_visit());
    known.extend(of_the_device());
    known
}

fn of_the_visit() -> Vec<Known> {
    let mut known = found!("session", session in session,
        {"id": id, "landingPage": landing_page, "previousEnded": previous_ended},
        {
            "number": |it| it.number.shown(),
            "started": |it| it.started.shown(),
            "firstEvent": |it| it.first_event.shown()
        }
    );
    known.extend(found!("campaign", campaign in campaign,
        {
            "source": source, "medium": medium, "name": name, "term": term, "content": content,
            "id": id, "clickId": click_id, "clickIdKind": click_id_kind,
            "referrerHost": referrer_host, "referrerKind": referrer_kind,
            "referrerName": referrer_name
        },
        {}
    ));
    known.extend(found!("pageParts", page_parts in page,
        {"scheme": scheme, "host": host, "path": path, "query": query, "fragment": fragment},
        {}
    ));
    known
}

fn of_the_device() -> Vec<Known> {
    let mut found = found!("device", device in device,
        {
            "browser": browser, "browserVersion": browser_version, "os": os,
            "osVersion": os_version, "brand": brand, "model": model, "class": class
        },
        {"bot": |it| it.bot.shown()}
    );
    found.extend(found!("geo", geo in geo,
        {
            "country": country, "region": region, "city": city, "postalCode": postal_code,
            "timeZone": time_zone, "latitude": latitude, "longitude": longitude, "asName": as_name
        },
        {
            "accuracyKm": |it| known(it.accuracy_km),
            "asNumber": |it| known(it.as_number),
            "origin": |it| it.origin.as_str().shown()
        }
    ));
    found
}
