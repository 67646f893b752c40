//! Typed columns for the properties of events that have a registered schema.
//!
//! - A top-level field that some version of the schema declares gets a column `p_FIELD`. Versions
//!   are taken in their order, and columns are only ever added: a version that declares a field
//!   with another type adds `p_FIELD_2`.
//! - A value that does not fit its column's type is null there; the exact JSON beside has it.
//! - Names that differ by case alone get a number too: readers of tables know no case.
//!
//! Of identify and group calls the schema describes the traits. Sans-io.

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::builder::{BooleanBuilder, Float64Builder, Int64Builder, StringBuilder};
use arrow_schema::{DataType, Field};
use serde_json::Value;
use tracklog_protocol::event::{EventKind, EventView, Fields, Property, PropertySpan};

/// What columns of properties begin with: none of the envelope's does.
const PREFIX: &str = "p_";
/// No event gets more typed columns; fields beyond are in the JSON alone.
pub const PROPERTY_COLUMNS_MAX: usize = 256;

/// What a column of properties holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PropertyType {
    /// What a string says.
    Text,
    /// A whole number of 64 bits.
    Integer,
    /// The nearest double.
    Double,
    /// `true` or `false`.
    Truth,
    /// The JSON text of a value of any type.
    Json,
}

impl PropertyType {
    /// What a field's schema lets in.
    fn of(schema: &Value) -> Self {
        let mut types: Vec<&str> = match &schema["type"] {
            Value::String(one) => vec![one],
            Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        types.retain(|name| *name != "null");
        match types[..] {
            ["string"] => Self::Text,
            ["integer"] => Self::Integer,
            ["number"] | ["integer", "number"] | ["number", "integer"] => Self::Double,
            ["boolean"] => Self::Truth,
            _ => Self::Json,
        }
    }

    const fn data_type(self) -> DataType {
        match self {
            Self::Text | Self::Json => DataType::Utf8,
            Self::Integer => DataType::Int64,
            Self::Double => DataType::Float64,
            Self::Truth => DataType::Boolean,
        }
    }
}

/// One typed column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PropertyColumn {
    /// Its name in the file.
    pub column: String,
    /// The property's name.
    pub field: String,
    /// What it holds.
    pub holds: PropertyType,
}

/// The typed columns of an event, in the order in which they came to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PropertyColumns(Arc<[PropertyColumn]>);

impl PropertyColumns {
    /// The columns for events with these versions of a schema, lowest first. What is no JSON
    /// object declares none.
    #[must_use]
    pub fn of_schemas<'s>(versions: impl IntoIterator<Item = &'s [u8]>) -> Self {
        let mut columns: Vec<PropertyColumn> = Vec::new();
        let mut taken = HashSet::new();
        for version in versions {
            let schema: Value = serde_json::from_slice(version).unwrap_or_default();
            let declared = schema["properties"].as_object();
            for (field, schema) in declared.into_iter().flatten() {
                let holds = PropertyType::of(schema);
                let is_known = |it: &PropertyColumn| it.field == *field && it.holds == holds;
                if columns.iter().any(is_known) || columns.len() == PROPERTY_COLUMNS_MAX {
                    continue;
                }
                let column = free_name(field, &mut taken);
                columns.push(PropertyColumn { column, field: field.clone(), holds });
            }
        }
        Self(columns.into())
    }

    /// The columns.
    #[must_use]
    pub fn columns(&self) -> &[PropertyColumn] {
        &self.0
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = Field> + '_ {
        self.0.iter().map(|it| Field::new(&it.column, it.holds.data_type(), true))
    }
}

fn free_name(field: &str, taken: &mut HashSet<String>) -> String {
    let plain = format!("{PREFIX}{field}");
    let numbered = (2_usize..).map(|number| format!("{plain}_{number}"));
    let mut names = std::iter::once(plain.clone()).chain(numbered);
    let is_free = |name: &String| taken.insert(name.to_lowercase());
    names.find(is_free).expect("there are more numbers than columns")
}

/// The builders of typed columns.
pub(super) struct PropertyBuilders {
    columns: PropertyColumns,
    builders: Vec<Builder>,
}

enum Builder {
    Text(StringBuilder),
    Integer(Int64Builder),
    Double(Float64Builder),
    Truth(BooleanBuilder),
    Json(StringBuilder),
}

impl PropertyBuilders {
    pub(super) fn new(columns: &PropertyColumns) -> Self {
        let builders = columns.0.iter().map(|it| Builder::new(it.holds)).collect();
        Self { columns: columns.clone(), builders }
    }

    pub(super) fn append(&mut self, event: &EventView<'_>) {
        if self.builders.is_empty() {
            return;
        }
        let mut values = vec![None; self.builders.len()];
        match event.kind() {
            EventKind::Identify | EventKind::Group => {
                let spans = event.traits().into_iter().flat_map(Fields::of).map_while(Result::ok);
                self.find(event.traits(), spans, &mut values);
            }
            _ => self.find(event.properties(), event.property_index(), &mut values),
        }
        for (builder, value) in self.builders.iter_mut().zip(values) {
            builder.append(value);
        }
    }

    fn find<'a>(
        &self,
        text: Option<&'a str>,
        spans: impl Iterator<Item = PropertySpan>,
        values: &mut [Option<Found<'a>>],
    ) {
        let Some(text) = text else { return };
        for span in spans {
            let Some(name) = span.name(text) else { continue };
            for (value, column) in values.iter_mut().zip(self.columns.columns()) {
                if column.field == *name {
                    *value =
                        span.value(text).map(|value| Found { value, token: token(&span, text) });
                }
            }
        }
    }

    pub(super) fn finish(&mut self) -> Vec<ArrayRef> {
        self.builders.iter_mut().map(Builder::finish).collect()
    }
}

/// A property as it stands in the text.
#[derive(Clone, Copy)]
struct Found<'a> {
    value: Property<'a>,
    token: &'a str,
}

fn token<'a>(span: &PropertySpan, text: &'a str) -> &'a str {
    let from = span.value_at as usize;
    text.get(from..from + span.value_len as usize).unwrap_or_default()
}

impl Builder {
    fn new(holds: PropertyType) -> Self {
        match holds {
            PropertyType::Text => Self::Text(StringBuilder::new()),
            PropertyType::Integer => Self::Integer(Int64Builder::new()),
            PropertyType::Double => Self::Double(Float64Builder::new()),
            PropertyType::Truth => Self::Truth(BooleanBuilder::new()),
            PropertyType::Json => Self::Json(StringBuilder::new()),
        }
    }

    fn append(&mut self, found: Option<Found<'_>>) {
        let number = found.and_then(|found| match found.value {
            Property::Number(number) => Some(number),
            _ => None,
        });
        match self {
            Self::Text(builder) => match found.map(|found| found.value) {
                Some(Property::String(text)) => builder.append_value(text.text()),
                _ => builder.append_null(),
            },
            Self::Integer(builder) => {
                builder.append_option(number.and_then(|number| number.as_i64()));
            }
            Self::Double(builder) => {
                builder.append_option(number.and_then(|number| number.as_f64()));
            }
            Self::Truth(builder) => builder.append_option(match found.map(|found| found.value) {
                Some(Property::Bool(value)) => Some(value),
                _ => None,
            }),
            Self::Json(builder) => builder.append_option(found.map(|found| found.token)),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Text(builder) | Self::Json(builder) => Arc::new(builder.finish()),
            Self::Integer(builder) => Arc::new(builder.finish()),
            Self::Double(builder) => Arc::new(builder.finish()),
            Self::Truth(builder) => Arc::new(builder.finish()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(versions: &[&str]) -> Vec<(String, PropertyType)> {
        let columns = PropertyColumns::of_schemas(versions.iter().map(|text| text.as_bytes()));
        columns.columns().iter().map(|it| (it.column.clone(), it.holds)).collect()
    }

    #[test]
    fn each_declared_field_has_a_column_of_its_type() {
        let schema = r#"{"properties":{"a":{"type":"string"},"b":{"type":["integer","null"]},
            "c":{"type":["integer","number"]},"d":{"type":"boolean"},"e":{"type":"array"},"f":{}}}"#;
        let all = columns(&[schema]).into_iter().map(|(_, holds)| holds).collect::<Vec<_>>();
        use PropertyType::{Double, Integer, Json, Text, Truth};
        assert_eq!(all, [Text, Integer, Double, Truth, Json, Json]);
    }

    #[test]
    fn later_versions_only_add_columns() {
        let first = r#"{"properties":{"price":{"type":"integer"},"Name":{"type":"string"}}}"#;
        let second = r#"{"properties":{"price":{"type":"number"},"name":{"type":"string"},
            "Name":{"type":"string"}}}"#;
        let before = columns(&[first]);
        let after = columns(&[first, second]);
        assert_eq!(after[..before.len()], before);
        let added: Vec<_> = after[before.len()..].iter().map(|(name, _)| &**name).collect();
        assert_eq!(added, ["p_name_2", "p_price_2"]);
    }

    #[test]
    fn what_is_no_schema_declares_nothing() {
        assert!(columns(&["true", "{", r#"{"properties":[]}"#]).is_empty());
    }
}
