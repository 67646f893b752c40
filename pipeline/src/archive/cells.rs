//! What a column holds: each sort of value, as Arrow builds, keeps and reads it.
//!
//! A [`Cell`] says how one value of an event's part goes into a column and comes out again, bit by
//! bit the same. The macro `columns` puts cells together: one struct of builders and one of arrays
//! for each struct of parts, so that a field is named once and written and read alike.
//!
//! Numbers have a sign in the files, since readers exist that know no others: what is wider keeps
//! its bits.

use std::marker::PhantomData;
use std::sync::Arc;

use arrow_array::builder::{
    BooleanBuilder, Float64Builder, Int32Builder, Int64Builder, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow_array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, StringArray, StructArray,
    TimestampMicrosecondArray,
};
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType, Field, TimeUnit};
use tracklog_protocol::event::{EventFlags, EventKind, GeoOrigin};
use tracklog_protocol::{Offset, TimeMicros};

use super::columns::ColumnError;

/// The zone of every time.
const UTC: &str = "UTC";

/// A column's cell, as a field of an event's parts has it.
pub(super) trait Cell {
    type Value<'a>;
    type Builder: Default;
    type Array: Array + Clone + 'static;
    /// Whether a row may have none.
    const NULLABLE: bool;

    fn data_type() -> DataType;
    fn append(builder: &mut Self::Builder, value: Self::Value<'_>);
    fn finish(builder: &mut Self::Builder) -> ArrayRef;
    /// The value of a row; `None` when it is none that the field can hold.
    fn read(array: &Self::Array, row: usize) -> Option<Self::Value<'_>>;
}

/// A sort of value, and what it is stored as.
pub(super) trait Stored {
    type Value<'a>;
    type Builder: Default;
    type Array: Array + Clone + 'static;

    fn data_type() -> DataType;
    fn append(builder: &mut Self::Builder, value: Option<Self::Value<'_>>);
    fn finish(builder: &mut Self::Builder) -> ArrayRef;
    /// The value of a row that has one; `None` when it is none of this sort.
    fn value(array: &Self::Array, row: usize) -> Option<Self::Value<'_>>;
}

/// A value that is always there.
pub(super) struct One<S>(PhantomData<S>);

/// A value that may be absent.
pub(super) struct Maybe<S>(PhantomData<S>);

impl<S: Stored> Cell for One<S> {
    type Value<'a> = S::Value<'a>;
    type Builder = S::Builder;
    type Array = S::Array;
    const NULLABLE: bool = false;

    fn data_type() -> DataType {
        S::data_type()
    }

    #[inline]
    fn append(builder: &mut S::Builder, value: S::Value<'_>) {
        S::append(builder, Some(value));
    }

    fn finish(builder: &mut S::Builder) -> ArrayRef {
        S::finish(builder)
    }

    #[inline]
    fn read(array: &S::Array, row: usize) -> Option<S::Value<'_>> {
        if array.is_null(row) { None } else { S::value(array, row) }
    }
}

impl<S: Stored> Cell for Maybe<S> {
    type Value<'a> = Option<S::Value<'a>>;
    type Builder = S::Builder;
    type Array = S::Array;
    const NULLABLE: bool = true;

    fn data_type() -> DataType {
        S::data_type()
    }

    #[inline]
    fn append(builder: &mut S::Builder, value: Option<S::Value<'_>>) {
        S::append(builder, value);
    }

    fn finish(builder: &mut S::Builder) -> ArrayRef {
        S::finish(builder)
    }

    #[inline]
    fn read(array: &S::Array, row: usize) -> Option<Option<S::Value<'_>>> {
        if array.is_null(row) { Some(None) } else { S::value(array, row).map(Some) }
    }
}

/// Declares sorts of values: Arrow's type, and the way there and back.
macro_rules! stored {
    ($(
        $(#[$doc:meta])*
        $name:ident: $value:ty as $builder:ty, $array:ty, $type:expr;
        $to:expr, $from:expr;
    )*) => {$(
        $(#[$doc])*
        pub(super) enum $name {}

        impl Stored for $name {
            type Value<'a> = $value;
            type Builder = $builder;
            type Array = $array;

            fn data_type() -> DataType {
                $type
            }

            #[inline]
            fn append(builder: &mut $builder, value: Option<$value>) {
                builder.append_option(value.map($to));
            }

            fn finish(builder: &mut $builder) -> ArrayRef {
                Arc::new(builder.finish())
            }

            #[inline]
            fn value(array: &$array, row: usize) -> Option<$value> {
                ($from)(array.value(row))
            }
        }
    )*};
}

stored! {
    /// An offset.
    Place: Offset as Int64Builder, Int64Array, DataType::Int64;
    |offset: Offset| offset.0.cast_signed(), |bits: i64| Some(Offset(bits.cast_unsigned()));

    /// A number of 32 bits without a sign.
    Number: u32 as Int64Builder, Int64Array, DataType::Int64;
    i64::from, |number: i64| u32::try_from(number).ok();

    /// A partition's index.
    Index: u32 as Int32Builder, Int32Array, DataType::Int32;
    u32::cast_signed, |bits: i32| Some(bits.cast_unsigned());

    /// Degrees.
    Degrees: f64 as Float64Builder, Float64Array, DataType::Float64;
    |degrees: f64| degrees, Some;

    /// Yes or no.
    Truth: bool as BooleanBuilder, BooleanArray, DataType::Boolean;
    |truth: bool| truth, Some;

    /// The marks of an event, as bits.
    Marks: EventFlags as Int64Builder, Int64Array, DataType::Int64;
    |flags: EventFlags| i64::from(flags.bits()),
    |bits: i64| u32::try_from(bits).ok().map(EventFlags::from_bits);

    /// What the client called, as a word.
    Call: EventKind as StringBuilder, StringArray, DataType::Utf8;
    EventKind::as_str, EventKind::from_name;

    /// Who told a place, as a word.
    Origin: GeoOrigin as StringBuilder, StringArray, DataType::Utf8;
    GeoOrigin::as_str, GeoOrigin::from_name;
}

/// A text.
pub(super) enum Text {}

impl Stored for Text {
    type Value<'a> = &'a str;
    type Builder = StringBuilder;
    type Array = StringArray;

    fn data_type() -> DataType {
        DataType::Utf8
    }

    #[inline]
    fn append(builder: &mut StringBuilder, value: Option<&str>) {
        builder.append_option(value);
    }

    fn finish(builder: &mut StringBuilder) -> ArrayRef {
        Arc::new(builder.finish())
    }

    #[inline]
    fn value(array: &StringArray, row: usize) -> Option<&str> {
        Some(array.value(row))
    }
}

/// A time.
pub(super) enum Time {}

impl Stored for Time {
    type Value<'a> = TimeMicros;
    type Builder = TimestampMicrosecondBuilder;
    type Array = TimestampMicrosecondArray;

    fn data_type() -> DataType {
        DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()))
    }

    #[inline]
    fn append(builder: &mut TimestampMicrosecondBuilder, value: Option<TimeMicros>) {
        builder.append_option(value.map(|time| time.0));
    }

    fn finish(builder: &mut TimestampMicrosecondBuilder) -> ArrayRef {
        Arc::new(builder.finish().with_timezone(UTC))
    }

    #[inline]
    fn value(array: &TimestampMicrosecondArray, row: usize) -> Option<TimeMicros> {
        Some(TimeMicros(array.value(row)))
    }
}

/// The builders of some columns, which take parts of an event.
pub(super) trait Writer: Default {
    type Parts<'a>: Default;

    fn fields() -> Vec<Field>;
    fn append(&mut self, parts: &Self::Parts<'_>);
    fn finish(&mut self) -> Vec<ArrayRef>;
}

/// The arrays of the same columns, which give them back.
pub(super) trait Reader: Sized {
    type Parts<'a>
    where
        Self: 'a;

    /// Takes its columns out of those that there are.
    fn of(column: &Lookup<'_>) -> Result<Self, ColumnError>;
    fn read(&self, row: usize) -> Result<Self::Parts<'_>, ColumnError>;
}

/// Finds a column by its name.
pub(super) type Lookup<'a> = dyn Fn(&str) -> Option<ArrayRef> + 'a;

/// The column `name`, as what it must be.
pub(super) fn array_of<A: Array + Clone + 'static>(
    column: &Lookup<'_>,
    name: &'static str,
) -> Result<A, ColumnError> {
    let found = column(name);
    let array = found.as_ref().and_then(|array| array.as_any().downcast_ref::<A>());
    array.cloned().ok_or(ColumnError::Column { column: name })
}

/// Declares the columns of a struct of parts: `$writer` has a builder and `$reader` an array for
/// each field.
macro_rules! columns {
    ($writer:ident, $reader:ident of [$life:lifetime] $parts:ty {
        $($field:ident: $cell:ty = $name:literal,)*
    }) => {
        #[derive(Default)]
        struct $writer {
            $($field: <$cell as Cell>::Builder,)*
        }

        impl Writer for $writer {
            type Parts<$life> = $parts;

            fn fields() -> Vec<Field> {
                vec![$(
                    Field::new($name, <$cell as Cell>::data_type(), <$cell as Cell>::NULLABLE),
                )*]
            }

            #[inline]
            fn append(&mut self, parts: &Self::Parts<'_>) {
                $(<$cell as Cell>::append(&mut self.$field, parts.$field);)*
            }

            fn finish(&mut self) -> Vec<ArrayRef> {
                vec![$(<$cell as Cell>::finish(&mut self.$field),)*]
            }
        }

        struct $reader {
            $($field: <$cell as Cell>::Array,)*
        }

        impl Reader for $reader {
            type Parts<$life> = $parts;

            fn of(column: &Lookup<'_>) -> Result<Self, ColumnError> {
                Ok(Self { $($field: array_of(column, $name)?,)* })
            }

            #[inline]
            fn read(&self, row: usize) -> Result<Self::Parts<'_>, ColumnError> {
                let mut parts = Self::Parts::default();
                $(
                    let value = <$cell as Cell>::read(&self.$field, row);
                    parts.$field = value.ok_or(ColumnError::Value { column: $name, row })?;
                )*
                Ok(parts)
            }
        }
    };
}
pub(super) use columns;

/// Columns that are a struct in one column, which a row may be without.
#[derive(Default)]
pub(super) struct StructWriter<W> {
    inner: W,
    is_there: Vec<bool>,
}

impl<W: Writer> StructWriter<W> {
    pub(super) fn field(name: &str) -> Field {
        Field::new(name, DataType::Struct(W::fields().into()), true)
    }

    #[inline]
    pub(super) fn append(&mut self, parts: Option<&W::Parts<'_>>) {
        self.is_there.push(parts.is_some());
        match parts {
            Some(parts) => self.inner.append(parts),
            None => self.inner.append(&W::Parts::default()),
        }
    }

    pub(super) fn finish(&mut self) -> ArrayRef {
        let nulls = NullBuffer::from(std::mem::take(&mut self.is_there));
        let columns = self.inner.finish();
        Arc::new(StructArray::new(W::fields().into(), columns, Some(nulls)))
    }
}

/// The arrays of a [`StructWriter`].
pub(super) struct StructReader<R> {
    inner: R,
    array: StructArray,
}

impl<R: Reader> StructReader<R> {
    pub(super) fn of(column: &Lookup<'_>, name: &'static str) -> Result<Self, ColumnError> {
        let array: StructArray = array_of(column, name)?;
        let inner = R::of(&|field| array.column_by_name(field).cloned())?;
        Ok(Self { inner, array })
    }

    #[inline]
    pub(super) fn read(&self, row: usize) -> Result<Option<R::Parts<'_>>, ColumnError> {
        if self.array.is_null(row) { Ok(None) } else { self.inner.read(row).map(Some) }
    }
}
