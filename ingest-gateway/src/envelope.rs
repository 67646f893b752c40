//! What the fields of an event mean: from a scanned event to the parts of a record.
//!
//! Fields are named as Segment's and RudderStack's SDKs name them. `null` and `""` mean absent.
//! A field that has no place of its own, or whose type does not fit its place, goes into `extra`
//! as it was sent, in the order sent, so that nothing is lost; a write key goes nowhere.
//!
//! Decided here
//! - Context: the batch's is put under the event's own, key by key at the top level.
//! - Sent time: the batch's wins over the event's, which then goes into `extra`.
//! - Addresses: the peer's and the client's are those of the request, whoever sent it. What the
//!   sender says of its user, `context.ip`, stays in the context. Which of them is the user's is a
//!   question for readers.
//! - Page fields come from `context.page`, or for page calls from `properties`.
//! - Traits of an identify call without `traits` are those of its context.
//! - `context.protocols.event_version` picks the schema's version if it is a whole number.
//!
//! Sees only text that the scan passed. Called by `intake`.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::HashMap;

use tracklog_protocol::TimeMicros;
use tracklog_protocol::event::{self as record, EventFlags, EventKind, EventParts, PropertySpan};
use tracklog_protocol::rejected::RejectedParts;
use tracklog_registry::Verdict;

use crate::event_time::{self, SentTime};
use crate::intake::{Door, RequestFacts, Validate};
use crate::privacy::{self, PlainIds, key_text};
use crate::rejection::{Code, Rejection};
use crate::scan::{FieldText, Member, Members, Scanned, ScannedEvent, ValueKind, string_text};
use crate::source::{IpRule, Required, SourceRules, UnknownEvents, UserIdRule};

/// The longest id or name, in bytes.
const ID_BYTES_MAX: usize = 512;

/// What lies beside the events of a batch, as JSON tokens. Nothing for other shapes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Root<'a> {
    pub(crate) write_key: Option<&'a str>,
    context: Option<&'a str>,
    integrations: Option<&'a str>,
    sent_at: Option<Value<'a>>,
    timestamp: Option<Value<'a>>,
}

impl<'a> Root<'a> {
    pub(crate) fn of(scanned: &Scanned<'a>) -> Self {
        let mut root = Self::default();
        for field in scanned.root() {
            let value = Value::of(&field);
            match (&*key_text(field.key), field.field.kind) {
                ("writeKey", ValueKind::String) if !value.is_absent() => {
                    root.write_key = Some(field.value);
                }
                ("context", ValueKind::Object) => root.context = Some(field.value),
                ("integrations", ValueKind::Object) => root.integrations = Some(field.value),
                ("sentAt", _) if !value.is_absent() => root.sent_at = Some(value),
                ("timestamp", _) if !value.is_absent() => root.timestamp = Some(value),
                _ => {}
            }
        }
        root
    }

    /// The same, out of what [`to_text`](Self::to_text) made of it.
    pub(crate) fn of_text(text: &'a str) -> Self {
        let mut root = Self::default();
        for member in Members::of(text) {
            let value = Value::of_member(&member);
            match (member.key, member.kind) {
                ("context", ValueKind::Object) => root.context = Some(member.value),
                ("integrations", ValueKind::Object) => root.integrations = Some(member.value),
                ("sentAt", _) => root.sent_at = Some(value),
                ("timestamp", _) => root.timestamp = Some(value),
                _ => {}
            }
        }
        root
    }

    /// What it says of events, as an object; nothing where it says nothing.
    fn to_text(self) -> Option<String> {
        let mut text = String::new();
        let token = |value: Option<Value<'a>>| value.map(|value| value.token);
        for (key, token) in [
            ("context", self.context),
            ("integrations", self.integrations),
            ("sentAt", token(self.sent_at)),
            ("timestamp", token(self.timestamp)),
        ] {
            token.into_iter().for_each(|token| privacy::push_member(&mut text, key, token));
        }
        (!text.is_empty()).then(|| {
            privacy::close_object(&mut text);
            text
        })
    }

    /// Bytes that it may add to each event.
    pub(crate) fn merged_bytes(&self) -> usize {
        self.context.map_or(0, str::len) + self.integrations.map_or(0, str::len)
    }
}

/// A JSON value as its token.
#[derive(Clone, Copy, Debug)]
struct Value<'a> {
    token: &'a str,
    kind: ValueKind,
}

impl<'a> Value<'a> {
    const fn of(field: &FieldText<'a>) -> Self {
        Self { token: field.value, kind: field.field.kind }
    }

    const fn of_member(member: &Member<'a>) -> Self {
        Self { token: member.value, kind: member.kind }
    }

    /// `null` and `""` say nothing.
    fn is_absent(&self) -> bool {
        self.kind == ValueKind::Null || self.token == "\"\""
    }

    fn is_object(&self) -> bool {
        self.kind == ValueKind::Object
    }

    /// The text of a string that says something.
    fn text(&self) -> Option<Cow<'a, str>> {
        (self.kind == ValueKind::String && !self.is_absent()).then(|| string_text(self.token))
    }

    /// An id: a string, or a number that keeps its digits.
    fn id(&self, pointer: &'static str) -> Result<Option<Cow<'a, str>>, Rejection> {
        if self.is_absent() {
            return Ok(None);
        }
        let id = match self.kind {
            ValueKind::String => string_text(self.token),
            ValueKind::Number => Cow::Borrowed(self.token),
            _ => {
                return Err(Rejection::at(
                    Code::InvalidId,
                    pointer,
                    "an id is a string or a number",
                ));
            }
        };
        checked(id, pointer).map(Some)
    }

    fn name(&self, pointer: &'static str) -> Result<Option<Cow<'a, str>>, Rejection> {
        match self.kind {
            _ if self.is_absent() => Ok(None),
            ValueKind::String => checked(string_text(self.token), pointer).map(Some),
            _ => Err(Rejection::at(Code::InvalidId, pointer, "a name is a string")),
        }
    }
}

/// An id or a name is stored whole or refused: cut, it would be another's.
fn checked<'a>(id: Cow<'a, str>, pointer: &'static str) -> Result<Cow<'a, str>, Rejection> {
    if id.len() > ID_BYTES_MAX {
        return Err(Rejection::at(Code::InvalidId, pointer, "longer than 512 bytes"));
    }
    if id.contains('\0') {
        return Err(Rejection::at(Code::InvalidId, pointer, "it has a NUL in it"));
    }
    Ok(id)
}

/// The fields that have a place of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
enum Slot {
    Type,
    MessageId,
    Event,
    Name,
    AnonymousId,
    UserId,
    PreviousId,
    GroupId,
    SessionId,
    Category,
    Channel,
    Timestamp,
    OriginalTimestamp,
    SentAt,
    Properties,
    Traits,
    Context,
    Integrations,
    WriteKey,
}

const SLOTS: usize = Slot::WriteKey as usize + 1;

impl Slot {
    fn of(key: &str) -> Option<Self> {
        Some(match key {
            "type" => Self::Type,
            "messageId" => Self::MessageId,
            "event" => Self::Event,
            "name" => Self::Name,
            "anonymousId" => Self::AnonymousId,
            "userId" => Self::UserId,
            "previousId" => Self::PreviousId,
            "groupId" => Self::GroupId,
            "sessionId" => Self::SessionId,
            "category" => Self::Category,
            "channel" => Self::Channel,
            "timestamp" => Self::Timestamp,
            "originalTimestamp" => Self::OriginalTimestamp,
            "sentAt" => Self::SentAt,
            "properties" => Self::Properties,
            "traits" => Self::Traits,
            "context" => Self::Context,
            "integrations" => Self::Integrations,
            "writeKey" => Self::WriteKey,
            _ => return None,
        })
    }

    fn of_field(field: &FieldText<'_>) -> Option<Self> {
        if field.field.key_escaped { Self::of(&key_text(field.key)) } else { Self::of(field.key) }
    }
}

/// The fields of one event by their places.
struct Fields<'a> {
    slots: [Option<FieldText<'a>>; SLOTS],
    has_unknown: bool,
    /// A bit for each slot whose field goes into `extra` after all.
    misplaced: u32,
}

impl<'a> Fields<'a> {
    fn of(event: &ScannedEvent<'a>) -> Self {
        let mut fields = Self { slots: [None; SLOTS], has_unknown: false, misplaced: 0 };
        for field in event.fields() {
            match Slot::of_field(&field) {
                // With a duplicate key, which only a flawed event has, the first counts.
                Some(slot) => {
                    fields.slots[slot as usize].get_or_insert(field);
                }
                None => fields.has_unknown = true,
            }
        }
        fields
    }

    fn field(&self, slot: Slot) -> Option<&FieldText<'a>> {
        self.slots[slot as usize].as_ref()
    }

    /// The slot's value, if it says something.
    fn value(&self, slot: Slot) -> Option<Value<'a>> {
        self.field(slot).map(Value::of).filter(|value| !value.is_absent())
    }

    fn id(&self, slot: Slot, pointer: &'static str) -> Result<Option<Cow<'a, str>>, Rejection> {
        self.value(slot).map_or(Ok(None), |value| value.id(pointer))
    }

    /// The slot's value, if it has the kind that its place takes; else it goes into `extra`.
    fn of_kind(&mut self, slot: Slot, kind: ValueKind) -> Option<FieldText<'a>> {
        let field = *self.field(slot)?;
        if field.field.kind == kind {
            return Some(field);
        }
        if field.field.kind != ValueKind::Null && field.value != "\"\"" {
            self.misplace(slot);
        }
        None
    }

    /// The text of a field that is a string; of another type it goes into `extra`.
    fn text(&mut self, slot: Slot) -> Option<Cow<'a, str>> {
        Value::of(&self.of_kind(slot, ValueKind::String)?).text()
    }

    fn misplace(&mut self, slot: Slot) {
        self.misplaced |= 1 << slot as usize;
    }

    /// The text of every field without a place.
    fn extra(&self, event: &ScannedEvent<'a>) -> Option<String> {
        if !self.has_unknown && self.misplaced == 0 {
            return None;
        }
        let mut text = String::new();
        for field in event.fields() {
            let is_extra = match Slot::of_field(&field) {
                Some(slot) => self.misplaced & (1 << slot as usize) != 0,
                None => true,
            };
            if is_extra {
                privacy::push_member(&mut text, field.key, field.value);
            }
        }
        (!text.is_empty()).then(|| {
            privacy::close_object(&mut text);
            text
        })
    }
}

/// What is looked up in a context.
#[derive(Clone, Copy, Debug, Default)]
struct ContextFacts<'a> {
    session_id: Option<Value<'a>>,
    locale: Option<Value<'a>>,
    user_agent: Option<Value<'a>>,
    page: Option<Value<'a>>,
    library: Option<Value<'a>>,
    protocols: Option<Value<'a>>,
    traits: Option<Value<'a>>,
}

impl<'a> ContextFacts<'a> {
    fn of(context: &'a str) -> Self {
        let mut facts = Self::default();
        for member in Members::of(context) {
            facts.add(member.key, Value::of_member(&member));
        }
        facts
    }

    /// From the members that the scan recorded.
    fn of_scanned(event: &ScannedEvent<'a>, context: &FieldText<'a>) -> Self {
        let mut facts = Self::default();
        for field in event.inner(context) {
            if let Some(member) = context.within(field) {
                facts.add(member.key, Value::of(&member));
            }
        }
        facts
    }

    fn add(&mut self, key: &str, value: Value<'a>) {
        if value.is_absent() {
            return;
        }
        let place = match &*key_text(key) {
            "sessionId" => &mut self.session_id,
            "locale" => &mut self.locale,
            "userAgent" => &mut self.user_agent,
            "page" => &mut self.page,
            "library" => &mut self.library,
            "protocols" => &mut self.protocols,
            "traits" => &mut self.traits,
            _ => return,
        };
        *place = Some(value);
    }
}

/// Where a page call or a context says which page it was.
#[derive(Clone, Debug, Default)]
struct PageFacts<'a> {
    url: Option<Cow<'a, str>>,
    path: Option<Cow<'a, str>>,
    referrer: Option<Cow<'a, str>>,
    title: Option<Cow<'a, str>>,
}

impl<'a> PageFacts<'a> {
    fn of(object: &'a str) -> Self {
        let mut page = Self::default();
        for member in Members::of(object) {
            let place = match &*key_text(member.key) {
                "url" => &mut page.url,
                "path" => &mut page.path,
                "referrer" => &mut page.referrer,
                "title" => &mut page.title,
                _ => continue,
            };
            *place = Value::of_member(&member).text();
        }
        page
    }
}

/// A time that the client said.
struct SaidTime<'a> {
    time: TimeMicros,
    text: Cow<'a, str>,
    is_bare: bool,
}

impl<'a> SaidTime<'a> {
    /// `None` where the value is no time.
    fn read(value: Value<'a>) -> Option<Self> {
        let (text, is_bare) = as_said(value);
        let time = match value.kind {
            ValueKind::String => event_time::parse_text(&text),
            ValueKind::Number => event_time::parse_number(&text),
            _ => None,
        };
        time.map(|time| Self { time, text, is_bare })
    }

    fn is_local(&self) -> bool {
        !self.is_bare && event_time::is_local(&self.text)
    }
}

/// What a string says, or the bare token of something else.
fn as_said(value: Value<'_>) -> (Cow<'_, str>, bool) {
    if value.kind == ValueKind::String {
        (string_text(value.token), false)
    } else {
        (Cow::Borrowed(value.token), true)
    }
}

/// Memory that is kept from event to event.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    property_index: Vec<PropertySpan>,
}

/// How events are read that come in one way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// What an event is that does not say it.
    kind: Option<EventKind>,
    /// All are calls to merge, which none of our kinds is.
    merges: bool,
    /// Times are declared true.
    times_declared: bool,
    /// A time without a zone is refused, not taken for UTC.
    zones_wanted: bool,
}

impl Manner {
    /// How the rows of a file are: nobody knows any more where a time was local.
    pub(crate) const fn of_rows(zones_wanted: bool) -> Self {
        let kind = Some(EventKind::Track);
        Self { kind, merges: false, times_declared: true, zones_wanted }
    }

    /// What rejected events call it, so that they can be read likewise again.
    const fn name(self) -> &'static str {
        match self {
            Self { merges: true, .. } => "merge",
            Self { zones_wanted: true, .. } => "file",
            Self { kind: Some(_), times_declared: true, .. } => "file_utc",
            Self { kind: Some(kind), .. } => kind.as_str(),
            Self { times_declared: true, .. } => "import",
            Self { .. } => "batch",
        }
    }

    /// The one of that name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "merge" => Door::Merge.into(),
            "file" => Self::of_rows(true),
            "file_utc" => Self::of_rows(false),
            "import" => Door::Import.into(),
            "batch" => Door::Batch.into(),
            kind => Door::Single(EventKind::from_name(kind)?).into(),
        })
    }
}

impl From<Door> for Manner {
    fn from(door: Door) -> Self {
        let kind = match door {
            Door::Single(kind) => Some(kind),
            Door::Merge | Door::Batch | Door::Import | Door::Events => None,
        };
        let (merges, times_declared) = (door == Door::Merge, door == Door::Import);
        Self { kind, merges, times_declared, zones_wanted: false }
    }
}

/// Maps the events of one request.
pub(crate) struct Mapping<'r> {
    manner: Manner,
    source: &'r SourceRules,
    request: &'r RequestFacts<'r>,
    root: Root<'r>,
    root_context: Option<Under<'r>>,
    root_integrations: Option<Under<'r>>,
    /// What rejected events keep of the root; made with the first.
    root_text: OnceCell<Option<String>>,
    schemas: &'r dyn Validate,
    /// As they may be stored.
    peer: Option<String>,
    client: Option<String>,
}

impl<'r> Mapping<'r> {
    pub(crate) fn new(
        manner: Manner,
        source: &'r SourceRules,
        request: &'r RequestFacts<'r>,
        root: Root<'r>,
        schemas: &'r dyn Validate,
    ) -> Self {
        let stored = |address| privacy::address(source.ip, address).map(|it| it.to_string());
        Self {
            manner,
            source,
            request,
            root,
            root_context: root.context.and_then(Under::new),
            root_integrations: root.integrations.and_then(Under::new),
            root_text: OnceCell::new(),
            schemas,
            peer: stored(request.peer),
            client: stored(request.client),
        }
    }

    /// Hands the parts of an accepted event to `accept`.
    pub(crate) fn map(
        &self,
        event: &ScannedEvent<'_>,
        buffers: &mut Buffers,
        random: &mut dyn FnMut(&mut [u8; 16]),
        accept: impl FnOnce(&EventParts<'_>),
    ) -> Result<(), Rejection> {
        self.check_bytes(event)?;
        let mut fields = Fields::of(event);
        let kind = self.kind(&fields)?;
        let ids = Ids::of(&fields)?;
        let name = name(&mut fields, kind)?;
        let mut flags = self.standing_flags();

        let own_context = fields.of_kind(Slot::Context, ValueKind::Object);
        let context =
            merged(own_context.map(|it| it.value), self.root_context.as_ref(), &mut flags);
        let facts = match (&context, &own_context) {
            (Some(Cow::Borrowed(_)), Some(own)) => ContextFacts::of_scanned(event, own),
            (Some(text), _) => ContextFacts::of(text),
            (None, _) => ContextFacts::default(),
        };
        let own = fields.of_kind(Slot::Integrations, ValueKind::Object).map(|it| it.value);
        let integrations = merged(own, self.root_integrations.as_ref(), &mut flags);
        let session_id = session_id(&mut fields, &facts)?;
        let times = self.times(&mut fields)?;
        let payload = Payload::of(&mut fields, &facts, kind);

        let has_traits = payload.traits.is_some();
        self.check_required(&fields, session_id.is_some(), has_traits, context.is_some())?;
        let schema_version = self.check_schema(kind, name.as_deref(), &payload, &facts)?;

        let message_id = ids.message.clone().unwrap_or_else(|| {
            flags |= EventFlags::ID_MADE;
            Cow::Owned(made_id(random))
        });
        let origin = Origin::of(&mut fields, &facts);
        let category = fields.text(Slot::Category);
        let page = page(&facts, kind, payload.properties.as_ref());
        let extra = fields.extra(event);
        let stored_ids = self.stored_ids(&ids);
        let stored = self.stored_texts(&ids, context.as_deref(), &payload, extra);
        index_properties(event, payload.properties.as_ref(), &mut buffers.property_index);

        accept(&EventParts {
            message_id: &message_id,
            kind,
            name: name.as_deref(),
            source: Some(&self.source.name),
            anonymous_id: ids.anonymous.as_deref(),
            user_id: stored_ids.user.as_deref(),
            previous_id: stored_ids.previous.as_deref(),
            group_id: ids.group.as_deref(),
            session_id: session_id.as_deref(),
            category: category.as_deref(),
            event_time: times.event_time,
            received_time: self.request.received,
            client_time: times.said.as_ref().map(|said| said.time),
            client_time_text: times.said.as_ref().map(|said| &*said.text),
            sent_time_text: times.sent_text.as_deref(),
            flags: flags | times.flags,
            schema_version,
            peer_address: self.peer.as_deref(),
            client_address: self.client.as_deref(),
            headers: self.request.headers,
            user_agent: origin.user_agent.as_deref().or(self.request.user_agent),
            locale: origin.locale.as_deref(),
            page_url: page.url.as_deref(),
            page_path: page.path.as_deref(),
            page_referrer: page.referrer.as_deref(),
            page_title: page.title.as_deref(),
            library_name: origin.library_name.as_deref(),
            library_version: origin.library_version.as_deref(),
            channel: origin.channel.as_deref(),
            properties: payload.properties.map(|it| it.value),
            property_index: &buffers.property_index,
            traits: stored.traits.as_deref(),
            context: stored.context.as_deref(),
            integrations: integrations.as_deref(),
            extra: stored.extra.as_deref(),
            enriched: None,
        });
        Ok(())
    }
}

/// The ids of an event, as sent.
struct Ids<'a> {
    message: Option<Cow<'a, str>>,
    anonymous: Option<Cow<'a, str>>,
    user: Option<Cow<'a, str>>,
    previous: Option<Cow<'a, str>>,
    group: Option<Cow<'a, str>>,
}

impl<'a> Ids<'a> {
    fn of(fields: &Fields<'a>) -> Result<Self, Rejection> {
        let ids = Self {
            message: fields.id(Slot::MessageId, "/messageId")?,
            anonymous: fields.id(Slot::AnonymousId, "/anonymousId")?,
            user: fields.id(Slot::UserId, "/userId")?,
            previous: fields.id(Slot::PreviousId, "/previousId")?,
            group: fields.id(Slot::GroupId, "/groupId")?,
        };
        if ids.anonymous.is_none() && ids.user.is_none() {
            let message = "an event needs a userId or an anonymousId";
            return Err(Rejection::new(Code::MissingId, message));
        }
        Ok(ids)
    }
}

/// When an event happened, and what was said of it.
struct Times<'a> {
    event_time: TimeMicros,
    said: Option<SaidTime<'a>>,
    sent_text: Option<Cow<'a, str>>,
    flags: EventFlags,
}

const CONTEXT_TRAITS: &str = "/context/traits";

/// What a schema can ask about.
struct Payload<'a> {
    properties: Option<FieldText<'a>>,
    traits: Option<&'a str>,
    traits_pointer: &'static str,
}

impl<'a> Payload<'a> {
    fn of<'e: 'a>(fields: &mut Fields<'e>, context: &ContextFacts<'a>, kind: EventKind) -> Self {
        let properties = fields.of_kind(Slot::Properties, ValueKind::Object);
        let own = fields.of_kind(Slot::Traits, ValueKind::Object).map(|it| it.value);
        let in_context = context.traits.filter(|it| it.is_object() && kind == EventKind::Identify);
        let (traits, traits_pointer) = match (own, in_context) {
            (None, Some(traits)) => (Some(traits.token), CONTEXT_TRAITS),
            (own, _) => (own, "/traits"),
        };
        Self { properties, traits, traits_pointer }
    }

    /// The object that the event's schema describes, and where it is. An absent one is empty.
    fn under_schema(&self, kind: EventKind) -> (&'static str, &'a str) {
        let (pointer, text) = match kind {
            EventKind::Identify | EventKind::Group => (self.traits_pointer, self.traits),
            _ => ("/properties", self.properties.map(|it| it.value)),
        };
        (pointer, text.unwrap_or("{}"))
    }
}

/// What sent the event.
struct Origin<'a> {
    channel: Option<Cow<'a, str>>,
    library_name: Option<Cow<'a, str>>,
    library_version: Option<Cow<'a, str>>,
    locale: Option<Cow<'a, str>>,
    user_agent: Option<Cow<'a, str>>,
}

impl<'a> Origin<'a> {
    fn of<'e: 'a>(fields: &mut Fields<'e>, context: &ContextFacts<'a>) -> Self {
        let library = context.library.filter(Value::is_object);
        let library = |key| Value::of_member(&Members::find(library?.token, key)?).text();
        Self {
            channel: fields.text(Slot::Channel),
            library_name: library("name"),
            library_version: library("version"),
            locale: context.locale.and_then(|it| it.text()),
            user_agent: context.user_agent.and_then(|it| it.text()),
        }
    }
}

/// JSON texts as they are stored, after the source's privacy rules.
struct StoredTexts<'a> {
    traits: Option<Cow<'a, str>>,
    context: Option<Cow<'a, str>>,
    extra: Option<Cow<'a, str>>,
}

/// The ids that name a user, as they are stored.
struct StoredIds<'a> {
    user: Option<Cow<'a, str>>,
    previous: Option<Cow<'a, str>>,
}

impl<'r> Mapping<'r> {
    /// What the scan found, and what of it this source allows.
    fn check_bytes(&self, event: &ScannedEvent<'_>) -> Result<(), Rejection> {
        if let Some(flaw) = event.flaw() {
            let pointer = event.flaw_pointer().map(Cow::Owned);
            return Err(Rejection { code: flaw.code, pointer, message: flaw.what.into() });
        }
        let limits = &self.source.limits;
        if event.bytes().len() > limits.event_bytes_max as usize {
            return Err(Rejection::new(Code::TooLarge, "the event is too large"));
        }
        if event.depth() > limits.depth_max {
            return Err(Rejection::new(Code::TooDeep, "nested too deep"));
        }
        Ok(())
    }

    fn kind(&self, fields: &Fields<'_>) -> Result<EventKind, Rejection> {
        let unknown = |message| Err(Rejection::at(Code::UnknownKind, "/type", message));
        let said = fields.value(Slot::Type);
        match (self.manner.kind, said) {
            _ if self.manner.merges => unknown("merge calls are not supported"),
            (Some(kind), None) => Ok(kind),
            (None, None) => unknown("the event has no type"),
            (_, Some(said)) => match said.text().and_then(|name| EventKind::from_name(&name)) {
                Some(kind) => Ok(kind),
                None => unknown("the type is none of track, identify, page, screen, group, alias"),
            },
        }
    }

    fn standing_flags(&self) -> EventFlags {
        let user_id = match self.source.user_id {
            UserIdRule::Plain => EventFlags::NONE,
            UserIdRule::Hmac(_) => EventFlags::USER_ID_HASHED,
        };
        user_id
            | match self.source.ip {
                IpRule::Keep => EventFlags::NONE,
                IpRule::Truncate => EventFlags::ADDRESS_TRUNCATED,
                IpRule::Drop => EventFlags::ADDRESS_DROPPED,
            }
    }

    /// When the event happened, by what the client said and when we received it.
    fn times<'a>(&self, fields: &mut Fields<'a>) -> Result<Times<'a>, Rejection>
    where
        'r: 'a,
    {
        let mut standing = EventFlags::NONE;
        let said = self.said_time(fields)?;
        if said.as_ref().is_some_and(|said| said.is_bare) {
            standing |= EventFlags::CLIENT_TIME_BARE;
        }
        let (sent, sent_text) = self.sent_time(fields, &mut standing);
        let said_time = said.as_ref().map(|said| said.time);
        let is_declared = self.manner.times_declared;
        let (event_time, flags) =
            event_time::corrected(said_time, sent, self.request.received, is_declared);
        Ok(Times { event_time, said, sent_text, flags: flags | standing })
    }

    /// The client's time of the event: `timestamp`, else `originalTimestamp`, else the batch's.
    fn said_time<'a>(&self, fields: &mut Fields<'a>) -> Result<Option<SaidTime<'a>>, Rejection>
    where
        'r: 'a,
    {
        if let Some(said) = fields.value(Slot::Timestamp) {
            fields.misplace_if_sent(Slot::OriginalTimestamp);
            return self.time_at("/timestamp", said).map(Some);
        }
        if let Some(said) = fields.value(Slot::OriginalTimestamp) {
            return self.time_at("/originalTimestamp", said).map(Some);
        }
        Ok(self.root.timestamp.and_then(SaidTime::read))
    }

    fn time_at<'a>(
        &self,
        pointer: &'static str,
        said: Value<'a>,
    ) -> Result<SaidTime<'a>, Rejection> {
        let refuse = |message| Err(Rejection::at(Code::InvalidTime, pointer, message));
        match SaidTime::read(said) {
            None => refuse("not a time: RFC 3339, or an epoch in seconds or milliseconds"),
            Some(time) if self.manner.zones_wanted && time.is_local() => {
                refuse("a local time, and nothing says of which zone")
            }
            Some(time) => Ok(time),
        }
    }

    /// What the client said of when it sent: the batch's word, else the event's.
    fn sent_time<'a>(
        &self,
        fields: &mut Fields<'a>,
        flags: &mut EventFlags,
    ) -> (SentTime, Option<Cow<'a, str>>)
    where
        'r: 'a,
    {
        if self.root.sent_at.is_some() {
            fields.misplace_if_sent(Slot::SentAt);
        }
        let Some(said) = self.root.sent_at.or_else(|| fields.value(Slot::SentAt)) else {
            return (SentTime::Absent, None);
        };
        let sent = match SaidTime::read(said) {
            Some(said) => SentTime::At(said.time),
            None => SentTime::Unusable,
        };
        let (text, is_bare) = as_said(said);
        if is_bare {
            *flags |= EventFlags::SENT_TIME_BARE;
        }
        (sent, Some(text))
    }

    fn check_required(
        &self,
        fields: &Fields<'_>,
        has_session: bool,
        has_traits: bool,
        has_context: bool,
    ) -> Result<(), Rejection> {
        let says = |slot| fields.value(slot).is_some();
        for field in &self.source.require {
            let is_there = match field {
                Required::MessageId => says(Slot::MessageId),
                Required::AnonymousId => says(Slot::AnonymousId),
                Required::UserId => says(Slot::UserId),
                Required::GroupId => says(Slot::GroupId),
                Required::Session => has_session,
                Required::Timestamp => {
                    says(Slot::Timestamp)
                        || says(Slot::OriginalTimestamp)
                        || self.root.timestamp.is_some()
                }
                Required::SentAt => says(Slot::SentAt) || self.root.sent_at.is_some(),
                Required::Properties => says(Slot::Properties),
                Required::Traits => has_traits,
                Required::Context => has_context,
            };
            if !is_there {
                let message = "this source requires the field";
                return Err(Rejection::at(Code::MissingField, field.pointer(), message));
            }
        }
        Ok(())
    }

    /// Holds the payload against the event's schema, and answers the schema's version.
    fn check_schema(
        &self,
        kind: EventKind,
        name: Option<&str>,
        payload: &Payload<'_>,
        context: &ContextFacts<'_>,
    ) -> Result<Option<u32>, Rejection> {
        let schema = name.unwrap_or_else(|| kind.nameless());
        let (pointer, text) = payload.under_schema(kind);
        match self.schemas.validate(schema, schema_version(context), text) {
            Verdict::Valid { version } => Ok(Some(version)),
            Verdict::Invalid { violation, .. } => {
                let place = format!("{pointer}{}", violation.pointer);
                Err(Rejection::at(Code::Schema, place, violation.message))
            }
            Verdict::UnknownVersion => Err(Rejection::at(
                Code::Schema,
                "/context/protocols/event_version",
                "the event's schema has no such version",
            )),
            Verdict::UnknownEvent => match self.source.unknown_events {
                UnknownEvents::Accept => Ok(None),
                UnknownEvents::Reject => {
                    let message = "this source takes events with a schema only";
                    Err(Rejection::new(Code::UnknownEvent, message))
                }
            },
        }
    }

    fn stored_ids<'a>(&self, ids: &Ids<'a>) -> StoredIds<'a> {
        let stored = |id: &Option<Cow<'a, str>>| match &self.source.user_id {
            UserIdRule::Plain => id.clone(),
            UserIdRule::Hmac(key) => id.as_deref().map(|id| Cow::Owned(key.hex_of(id))),
        };
        StoredIds { user: stored(&ids.user), previous: stored(&ids.previous) }
    }

    fn stored_texts<'a>(
        &self,
        ids: &Ids<'_>,
        context: Option<&'a str>,
        payload: &Payload<'a>,
        extra: Option<String>,
    ) -> StoredTexts<'a> {
        let plain = PlainIds { user: ids.user.as_deref(), previous: ids.previous.as_deref() };
        let without_ids = |text| self.without_ids(Cow::Borrowed(text), plain);
        StoredTexts {
            // Traits out of the context are a part of it, and its rules hold.
            traits: payload.traits.map(|text| match payload.traits_pointer {
                CONTEXT_TRAITS => without_ids(text),
                _ => Cow::Borrowed(text),
            }),
            context: context.map(|text| {
                replaced(without_ids(text), |text| privacy::rewrite_ip(self.source.ip, text))
            }),
            extra: extra.map(|text| self.without_ids(Cow::Owned(text), plain)),
        }
    }

    /// The object's text without plain user ids, where the source wants none.
    fn without_ids<'a>(&self, object: Cow<'a, str>, plain: PlainIds<'_>) -> Cow<'a, str> {
        match &self.source.user_id {
            UserIdRule::Plain => object,
            UserIdRule::Hmac(key) => {
                replaced(object, |text| privacy::rewrite_ids(key, plain, text))
            }
        }
    }

    /// Hands the parts of a rejected event to `reject`, with its partition key. The event may be
    /// flawed: what can be read of it is.
    pub(crate) fn refuse(
        &self,
        event: &ScannedEvent<'_>,
        rejection: &Rejection,
        reject: impl FnOnce(&RejectedParts<'_>, &[u8]),
    ) {
        let fields = Fields::of(event);
        let id = |slot| fields.id(slot, "").ok().flatten();
        let word = |slot| fields.value(slot)?.name("").ok().flatten();
        let (anonymous, user) = (id(Slot::AnonymousId), id(Slot::UserId));
        let user = match &self.source.user_id {
            UserIdRule::Plain => user,
            UserIdRule::Hmac(key) => user.map(|id| Cow::Owned(key.hex_of(&id))),
        };
        let key = anonymous.or(user);
        let (message_id, kind) = (id(Slot::MessageId), word(Slot::Type));
        let name = word(Slot::Event).or_else(|| word(Slot::Name));
        let parts = RejectedParts {
            message_id: message_id.as_deref(),
            kind: kind.as_deref(),
            name: name.as_deref(),
            ..self.refused(event.bytes(), rejection)
        };
        reject(&parts, key.as_deref().map_or_else(|| event.bytes(), str::as_bytes));
    }

    /// What a rejected record says of `bytes` that nobody could read.
    pub(crate) fn refused<'a>(
        &'a self,
        bytes: &'a [u8],
        rejection: &'a Rejection,
    ) -> RejectedParts<'a> {
        RejectedParts {
            code: rejection.code.as_str(),
            message: &rejection.message,
            pointer: rejection.pointer.as_deref(),
            source: Some(&self.source.name),
            received_time: self.request.received,
            body: bytes,
            body_withheld: !self.source.keeps_rejected_bytes(),
            peer_address: self.peer.as_deref(),
            client_address: self.client.as_deref(),
            headers: self.request.headers,
            user_agent: self.request.user_agent,
            read_as: Some(self.manner.name()),
            beside: self.root_text.get_or_init(|| self.root.to_text()).as_deref(),
            ..RejectedParts::default()
        }
    }
}

impl Fields<'_> {
    fn misplace_if_sent(&mut self, slot: Slot) {
        if self.value(slot).is_some() {
            self.misplace(slot);
        }
    }
}

/// The name of a track call's event, of a page or of a screen; the other of the two fields, and
/// both of other calls, go into `extra`.
fn name<'a>(fields: &mut Fields<'a>, kind: EventKind) -> Result<Option<Cow<'a, str>>, Rejection> {
    let (place, pointer) = match kind {
        EventKind::Track => (Some(Slot::Event), "/event"),
        EventKind::Page | EventKind::Screen => (Some(Slot::Name), "/name"),
        EventKind::Identify | EventKind::Group | EventKind::Alias => (None, ""),
    };
    for slot in [Slot::Event, Slot::Name] {
        if place != Some(slot) {
            fields.misplace_if_sent(slot);
        }
    }
    let said = place.and_then(|slot| fields.value(slot));
    let name = said.map_or(Ok(None), |value| value.name(pointer))?;
    if name.is_none() && kind == EventKind::Track {
        let message = "a track call needs the name of its event";
        return Err(Rejection::at(Code::MissingName, pointer, message));
    }
    Ok(name)
}

/// The context's session id, else the event's; then the other goes into `extra`.
fn session_id<'a>(
    fields: &mut Fields<'_>,
    context: &ContextFacts<'a>,
) -> Result<Option<Cow<'a, str>>, Rejection> {
    match context.session_id {
        Some(value) => {
            fields.misplace_if_sent(Slot::SessionId);
            value.id("/context/sessionId")
        }
        None => Ok(fields.id(Slot::SessionId, "/sessionId")?.map(|id| Cow::Owned(id.into_owned()))),
    }
}

fn page<'a>(
    context: &ContextFacts<'a>,
    kind: EventKind,
    properties: Option<&FieldText<'a>>,
) -> PageFacts<'a> {
    match (context.page, properties) {
        (Some(page), _) => PageFacts::of(page.token),
        (None, Some(properties)) if kind == EventKind::Page => PageFacts::of(properties.value),
        _ => PageFacts::default(),
    }
}

fn schema_version(context: &ContextFacts<'_>) -> Option<u32> {
    let version = Members::find(context.protocols?.token, "event_version")?;
    let token = version.value;
    let digits = token.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(token);
    let is_whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // One too large for any version is still one that the client asks for.
    is_whole.then(|| digits.parse().unwrap_or(u32::MAX))
}

fn index_properties(
    event: &ScannedEvent<'_>,
    properties: Option<&FieldText<'_>>,
    index: &mut Vec<PropertySpan>,
) {
    index.clear();
    let Some(properties) = properties else { return };
    let base = properties.field.value.start;
    index.extend(event.inner(properties).iter().map(|field| PropertySpan {
        name_at: field.key.start - base,
        name_len: field.key.len(),
        value_at: field.value.start - base,
        value_len: field.value.len(),
        kind: stored_kind(field.kind),
        name_escaped: field.key_escaped,
    }));
}

const fn stored_kind(kind: ValueKind) -> record::ValueKind {
    match kind {
        ValueKind::Null => record::ValueKind::Null,
        ValueKind::False | ValueKind::True => record::ValueKind::Bool,
        ValueKind::Number => record::ValueKind::Number,
        ValueKind::String => record::ValueKind::String,
        ValueKind::Array => record::ValueKind::Array,
        ValueKind::Object => record::ValueKind::Object,
    }
}

/// A message id out of random bytes: a UUID, version 4.
pub(crate) fn made_id(random: &mut dyn FnMut(&mut [u8; 16])) -> String {
    let mut bytes = [0; 16];
    random(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut id = String::with_capacity(36);
    for (at, byte) in bytes.into_iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            id.push('-');
        }
        let nibbles = [byte >> 4, byte & 15].map(|nibble| char::from_digit(nibble.into(), 16));
        id.extend(nibbles.into_iter().flatten());
    }
    id
}

/// What a batch puts under an object of each of its events.
struct Under<'a> {
    text: &'a str,
    members: Vec<Member<'a>>,
    by_key: HashMap<Cow<'a, str>, usize>,
}

impl<'a> Under<'a> {
    fn new(text: &'a str) -> Option<Self> {
        let members: Vec<_> = Members::of(text).collect();
        let keys = members.iter().enumerate().map(|(at, member)| (key_text(member.key), at));
        let by_key: HashMap<_, _> = keys.collect();
        (!by_key.is_empty()).then_some(Self { text, members, by_key })
    }
}

/// The event's own object over the batch's, key by key.
fn merged<'a>(
    own: Option<&'a str>,
    under: Option<&Under<'a>>,
    flags: &mut EventFlags,
) -> Option<Cow<'a, str>> {
    let Some(under) = under else {
        return own.map(Cow::Borrowed);
    };
    let Some(own) = own else {
        *flags |= EventFlags::ROOT_MERGED;
        return Some(Cow::Owned(under.text.to_owned()));
    };
    let mut is_covered = vec![false; under.members.len()];
    let mut text = String::with_capacity(own.len() + under.text.len());
    for member in Members::of(own) {
        if let Some(&at) = under.by_key.get(&key_text(member.key)) {
            is_covered[at] = true;
        }
        privacy::push_member(&mut text, member.key, member.value);
    }
    if is_covered.iter().all(|covered| *covered) {
        return Some(Cow::Borrowed(own));
    }
    *flags |= EventFlags::ROOT_MERGED;
    for (member, _) in under.members.iter().zip(is_covered).filter(|(_, covered)| !covered) {
        privacy::push_member(&mut text, member.key, member.value);
    }
    privacy::close_object(&mut text);
    Some(Cow::Owned(text))
}

/// The text after `change`, which may leave it as it is.
fn replaced<'a>(text: Cow<'a, str>, change: impl FnOnce(&str) -> Cow<'_, str>) -> Cow<'a, str> {
    let changed = match change(&text) {
        Cow::Owned(changed) => Some(changed),
        Cow::Borrowed(_) => None,
    };
    changed.map_or(text, Cow::Owned)
}
