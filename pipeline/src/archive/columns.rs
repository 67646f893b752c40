//! Events as rows of typed columns, and rows as events again.
//!
//! Promises
//! - What a row gives back is the event that was put in, field by field; so its line of JSON is the
//!   same, byte by byte, and so is its record where that has the index of its properties.
//! - Every file has all columns of the envelope, in one order. New ones come at the end.
//! - Columns bear the names of the fields in lines of JSON, in snake case. `name` is the event's
//!   name, since `event` is a key of the folder. What enrichment found out are structs.
//!
//! [`Rows`] takes events and gives record batches; [`RowReader`] reads one. Sans-io.

use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{Array, ArrayRef, ListArray, RecordBatch, StringArray, StructArray};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef};
use tracklog_protocol::event::{
    CampaignParts, DeviceParts, EnrichedParts, EventBuilder, EventParts, EventView,
    Fields as JsonFields, GeoParts, PageParts, ProfileParts, PropertySpan, RawPlace, SessionParts,
};
use tracklog_protocol::{Offset, Record, TimeMicros};

use super::cells::{
    Call, Cell, Degrees, Index, Lookup, Marks, Maybe, Number, One, Origin, Place, Reader,
    StructReader, StructWriter, Text, Time, Truth, Writer, array_of, columns,
};
use super::properties::{PropertyBuilders, PropertyColumns};

/// The partition's column, by which rows are sorted first.
pub(super) const PARTITION: &str = "partition";
/// The offset's column, by which they are sorted then.
pub(super) const OFFSET: &str = "offset";
/// When the event happened.
pub(super) const TIMESTAMP: &str = "timestamp";
/// When the log took it.
pub(super) const APPENDED_AT: &str = "appended_at";
/// The event's name.
pub(super) const NAME: &str = "name";

/// A row cannot be read as an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ColumnError {
    /// The file has no such column, or one of another type.
    #[error("there is no column {column} of the type it should have")]
    Column {
        /// Its name.
        column: &'static str,
    },
    /// A value is missing or none that the column may hold.
    #[error("row {row} has no good value in {column}")]
    Value {
        /// The column.
        column: &'static str,
        /// The row in the stretch read.
        row: usize,
    },
}

/// Where an event lies, and since when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowPlace {
    /// The partition's index.
    pub partition: u32,
    /// The offset in it.
    pub offset: Offset,
    /// When the log took it.
    pub appended_at: TimeMicros,
}

columns! {
    PlaceWriter, PlaceReader of ['a] RowPlace {
        partition: One<Index> = "partition",
        offset: One<Place> = "offset",
        appended_at: One<Time> = "appended_at",
    }
}

columns! {
    EnvelopeWriter, EnvelopeReader of ['a] EventParts<'a> {
        message_id: One<Text> = "message_id",
        kind: One<Call> = "type",
        name: Maybe<Text> = "name",
        source: Maybe<Text> = "source",
        anonymous_id: Maybe<Text> = "anonymous_id",
        user_id: Maybe<Text> = "user_id",
        previous_id: Maybe<Text> = "previous_id",
        group_id: Maybe<Text> = "group_id",
        session_id: Maybe<Text> = "session_id",
        event_time: One<Time> = "timestamp",
        client_time: Maybe<Time> = "original_timestamp",
        client_time_text: Maybe<Text> = "original_timestamp_text",
        sent_time_text: Maybe<Text> = "sent_at",
        received_time: One<Time> = "received_at",
        category: Maybe<Text> = "category",
        channel: Maybe<Text> = "channel",
        locale: Maybe<Text> = "locale",
        user_agent: Maybe<Text> = "user_agent",
        client_address: Maybe<Text> = "client_address",
        peer_address: Maybe<Text> = "peer_address",
        library_name: Maybe<Text> = "library_name",
        library_version: Maybe<Text> = "library_version",
        page_url: Maybe<Text> = "page_url",
        page_path: Maybe<Text> = "page_path",
        page_referrer: Maybe<Text> = "page_referrer",
        page_title: Maybe<Text> = "page_title",
        schema_version: Maybe<Number> = "schema_version",
        flags: One<Marks> = "flags",
        properties: Maybe<Text> = "properties",
        traits: Maybe<Text> = "traits",
        context: Maybe<Text> = "context",
        integrations: Maybe<Text> = "integrations",
        extra: Maybe<Text> = "extra",
    }
}

columns! {
    FoundWriter, FoundReader of ['a] EnrichedParts<'a> {
        resolved_user_id: Maybe<Text> = "resolved_user_id",
        enriched_by: Maybe<Text> = "enriched_by",
        failures: Maybe<Text> = "enrich_failures",
        state_offset: Maybe<Place> = "state_offset",
    }
}

/// Which record an event was made from: both or none.
#[derive(Default)]
struct MadeFrom {
    partition: Option<u32>,
    offset: Option<Offset>,
}

columns! {
    MadeFromWriter, MadeFromReader of ['a] MadeFrom {
        partition: Maybe<Index> = "raw_partition",
        offset: Maybe<Place> = "raw_offset",
    }
}

columns! {
    SessionWriter, SessionReader of ['a] SessionParts<'a> {
        id: Maybe<Text> = "id",
        number: One<Number> = "number",
        started: One<Time> = "started",
        first_event: One<Truth> = "first_event",
        landing_page: Maybe<Text> = "landing_page",
        previous_ended: Maybe<Time> = "previous_ended",
    }
}

columns! {
    DeviceWriter, DeviceReader of ['a] DeviceParts<'a> {
        browser: Maybe<Text> = "browser",
        browser_version: Maybe<Text> = "browser_version",
        os: Maybe<Text> = "os",
        os_version: Maybe<Text> = "os_version",
        brand: Maybe<Text> = "brand",
        model: Maybe<Text> = "model",
        class: Maybe<Text> = "class",
        bot: One<Truth> = "bot",
    }
}

columns! {
    GeoWriter, GeoReader of ['a] GeoParts<'a> {
        country: Maybe<Text> = "country",
        region: Maybe<Text> = "region",
        city: Maybe<Text> = "city",
        postal_code: Maybe<Text> = "postal_code",
        time_zone: Maybe<Text> = "time_zone",
        latitude: Maybe<Degrees> = "latitude",
        longitude: Maybe<Degrees> = "longitude",
        accuracy_km: One<Number> = "accuracy_km",
        as_number: One<Number> = "as_number",
        as_name: Maybe<Text> = "as_name",
        origin: One<Origin> = "origin",
    }
}

columns! {
    CampaignWriter, CampaignReader of ['a] CampaignParts<'a> {
        source: Maybe<Text> = "source",
        medium: Maybe<Text> = "medium",
        name: Maybe<Text> = "name",
        term: Maybe<Text> = "term",
        content: Maybe<Text> = "content",
        id: Maybe<Text> = "id",
        click_id: Maybe<Text> = "click_id",
        click_id_kind: Maybe<Text> = "click_id_kind",
        referrer_host: Maybe<Text> = "referrer_host",
        referrer_kind: Maybe<Text> = "referrer_kind",
        referrer_name: Maybe<Text> = "referrer_name",
    }
}

columns! {
    PagePartsWriter, PagePartsReader of ['a] PageParts<'a> {
        scheme: Maybe<Text> = "scheme",
        host: Maybe<Text> = "host",
        path: Maybe<Text> = "path",
        query: Maybe<Text> = "query",
        fragment: Maybe<Text> = "fragment",
    }
}

columns! {
    ProfileWriter, ProfileReader of ['a] ProfileParts<'a> {
        version: One<Place> = "version",
        traits: Maybe<Text> = "traits",
        group_traits: Maybe<Text> = "group_traits",
    }
}

/// The kept request headers: a list of name and value.
#[derive(Default)]
struct HeadersWriter {
    names: StringBuilder,
    values: StringBuilder,
    ends: Vec<i32>,
}

const HEADERS: &str = "headers";

impl HeadersWriter {
    fn pair() -> Fields {
        let text = |name| Field::new(name, DataType::Utf8, false);
        Fields::from(vec![text("name"), text("value")])
    }

    fn item() -> Arc<Field> {
        Arc::new(Field::new_list_field(DataType::Struct(Self::pair()), false))
    }

    fn field() -> Field {
        Field::new(HEADERS, DataType::List(Self::item()), true)
    }

    #[inline]
    fn append<'h>(&mut self, headers: impl Iterator<Item = (&'h str, &'h str)>) {
        let mut end = self.ends.last().copied().unwrap_or(0);
        for (name, value) in headers {
            self.names.append_value(name);
            self.values.append_value(value);
            end += 1;
        }
        self.ends.push(end);
    }

    fn finish(&mut self) -> ArrayRef {
        let ends = std::mem::take(&mut self.ends);
        let lengths = || std::iter::once(0).chain(ends.iter().copied());
        let is_there: NullBuffer = lengths().zip(&ends).map(|(from, to)| from < *to).collect();
        let offsets = OffsetBuffer::new(lengths().collect());
        let pairs: Vec<ArrayRef> =
            vec![Arc::new(self.names.finish()), Arc::new(self.values.finish())];
        let pairs = StructArray::new(Self::pair(), pairs, None);
        Arc::new(ListArray::new(Self::item(), offsets, Arc::new(pairs), Some(is_there)))
    }
}

/// The headers of a batch, and where each row's are.
struct HeadersReader {
    lists: ListArray,
    names: StringArray,
    values: StringArray,
}

impl HeadersReader {
    fn of(column: &Lookup<'_>) -> Result<Self, ColumnError> {
        let lists: ListArray = array_of(column, HEADERS)?;
        let pairs = lists.values().as_any().downcast_ref::<StructArray>().cloned();
        let pairs = pairs.ok_or(ColumnError::Column { column: HEADERS })?;
        let of_pair = |name: &str| pairs.column_by_name(name).cloned();
        let names = array_of(&of_pair, "name")?;
        let values = array_of(&of_pair, "value")?;
        Ok(Self { lists, names, values })
    }

    fn read<'a>(&'a self, row: usize, headers: &mut Vec<(&'a str, &'a str)>) {
        headers.clear();
        let offsets = self.lists.value_offsets();
        for pair in offsets[row]..offsets[row + 1] {
            let pair = usize::try_from(pair).expect("offsets of a list are not negative");
            headers.push((self.names.value(pair), self.values.value(pair)));
        }
    }
}

/// Rows in the making: events in, a record batch out.
pub struct Rows {
    place: PlaceWriter,
    envelope: EnvelopeWriter,
    headers: HeadersWriter,
    found: FoundWriter,
    made_from: MadeFromWriter,
    session: StructWriter<SessionWriter>,
    device: StructWriter<DeviceWriter>,
    geo: StructWriter<GeoWriter>,
    campaign: StructWriter<CampaignWriter>,
    page_parts: StructWriter<PagePartsWriter>,
    profile: StructWriter<ProfileWriter>,
    properties: PropertyBuilders,
    schema: SchemaRef,
    count: usize,
}

impl Rows {
    /// No rows yet; `properties` are the typed columns besides the envelope's.
    #[must_use]
    pub fn new(properties: &PropertyColumns) -> Self {
        let mut fields = envelope_fields();
        fields.extend(properties.fields());
        Self {
            place: PlaceWriter::default(),
            envelope: EnvelopeWriter::default(),
            headers: HeadersWriter::default(),
            found: FoundWriter::default(),
            made_from: MadeFromWriter::default(),
            session: StructWriter::default(),
            device: StructWriter::default(),
            geo: StructWriter::default(),
            campaign: StructWriter::default(),
            page_parts: StructWriter::default(),
            profile: StructWriter::default(),
            properties: PropertyBuilders::new(properties),
            schema: Arc::new(Schema::new(fields)),
            count: 0,
        }
    }

    /// Its columns.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// How many there are since the last [`finish`](Self::finish).
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Adds the row of `event`.
    pub fn append(&mut self, place: RowPlace, event: &EventView<'_>) {
        self.place.append(&place);
        self.envelope.append(&EventParts::of(event));
        self.headers.append(event.headers());
        let found = event.enriched();
        self.found.append(&found);
        self.made_from.append(&MadeFrom {
            partition: found.made_from.map(|place| place.partition),
            offset: found.made_from.map(|place| place.offset),
        });
        self.session.append(found.session.as_ref());
        self.device.append(found.device.as_ref());
        self.geo.append(found.geo.as_ref());
        self.campaign.append(found.campaign.as_ref());
        self.page_parts.append(found.page.as_ref());
        self.profile.append(found.profile.as_ref());
        self.properties.append(event);
        self.count += 1;
    }

    /// The rows added since the last call.
    pub fn finish(&mut self) -> RecordBatch {
        self.count = 0;
        let mut columns = self.place.finish();
        columns.extend(self.envelope.finish());
        columns.push(self.headers.finish());
        columns.extend(self.found.finish());
        columns.extend(self.made_from.finish());
        columns.extend([
            self.session.finish(),
            self.device.finish(),
            self.geo.finish(),
            self.campaign.finish(),
            self.page_parts.finish(),
            self.profile.finish(),
        ]);
        columns.extend(self.properties.finish());
        RecordBatch::try_new(self.schema(), columns).expect("each row has a value in each column")
    }
}

/// The columns that every file has, in the order of [`Rows::finish`].
fn envelope_fields() -> Vec<Field> {
    let mut fields = PlaceWriter::fields();
    fields.extend(EnvelopeWriter::fields());
    fields.push(HeadersWriter::field());
    fields.extend(FoundWriter::fields());
    fields.extend(MadeFromWriter::fields());
    fields.extend([
        StructWriter::<SessionWriter>::field("session"),
        StructWriter::<DeviceWriter>::field("device"),
        StructWriter::<GeoWriter>::field("geo"),
        StructWriter::<CampaignWriter>::field("campaign"),
        StructWriter::<PagePartsWriter>::field("page_parts"),
        StructWriter::<ProfileWriter>::field("profile"),
    ]);
    fields
}

/// How many columns every file has, before those of properties.
pub(super) fn envelope_columns() -> usize {
    envelope_fields().len()
}

/// A record batch whose rows are read as events.
pub struct RowReader {
    place: PlaceReader,
    envelope: EnvelopeReader,
    headers: HeadersReader,
    found: FoundReader,
    made_from: MadeFromReader,
    session: StructReader<SessionReader>,
    device: StructReader<DeviceReader>,
    geo: StructReader<GeoReader>,
    campaign: StructReader<CampaignReader>,
    page_parts: StructReader<PagePartsReader>,
    profile: StructReader<ProfileReader>,
    count: usize,
}

impl RowReader {
    /// Takes the columns out of `batch`.
    ///
    /// # Errors
    /// [`ColumnError::Column`] when one is not there.
    pub fn new(batch: &RecordBatch) -> Result<Self, ColumnError> {
        let column: &Lookup<'_> = &|name| batch.column_by_name(name).cloned();
        Ok(Self {
            place: PlaceReader::of(column)?,
            envelope: EnvelopeReader::of(column)?,
            headers: HeadersReader::of(column)?,
            found: FoundReader::of(column)?,
            made_from: MadeFromReader::of(column)?,
            session: StructReader::of(column, "session")?,
            device: StructReader::of(column, "device")?,
            geo: StructReader::of(column, "geo")?,
            campaign: StructReader::of(column, "campaign")?,
            page_parts: StructReader::of(column, "page_parts")?,
            profile: StructReader::of(column, "profile")?,
            count: batch.num_rows(),
        })
    }

    /// How many rows there are.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Where the event of `row` lies.
    ///
    /// # Errors
    /// [`ColumnError::Value`] when the row does not say it.
    pub fn place(&self, row: usize) -> Result<RowPlace, ColumnError> {
        self.place.read(row)
    }

    /// The event of `row`, built anew.
    ///
    /// # Errors
    /// [`ColumnError::Value`] when a column holds what no event has.
    pub fn event<'b>(
        &self,
        row: usize,
        builder: &'b mut EventBuilder,
    ) -> Result<Record<'b>, ColumnError> {
        let made_from = self.made_from.read(row)?;
        let enriched = EnrichedParts {
            session: self.session.read(row)?,
            device: self.device.read(row)?,
            geo: self.geo.read(row)?,
            campaign: self.campaign.read(row)?,
            page: self.page_parts.read(row)?,
            profile: self.profile.read(row)?,
            made_from: made_from
                .offset
                .map(|offset| RawPlace { partition: made_from.partition.unwrap_or(0), offset }),
            ..self.found.read(row)?
        };
        let mut headers = Vec::new();
        self.headers.read(row, &mut headers);
        let envelope = self.envelope.read(row)?;
        let index = property_index(envelope.properties);
        let parts = EventParts {
            headers: &headers,
            property_index: &index,
            enriched: Some(&enriched),
            ..envelope
        };
        Ok(builder.build(&parts))
    }
}

/// The index that the intake stores beside the text; none where the text is no object.
fn property_index(properties: Option<&str>) -> Vec<PropertySpan> {
    let spans = properties.map(|text| JsonFields::of(text).collect::<Result<Vec<_>, _>>());
    spans.and_then(Result::ok).unwrap_or_default()
}
