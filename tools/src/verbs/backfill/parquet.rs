//! Parquet files: rows as events, digit by digit.
//!
//! Columns go where those of a CSV do, and have the file's own types.
//! - Numbers and decimals are numbers with all their digits. What JSON has no number for (NaN,
//!   infinity) costs its row.
//! - Bytes that are UTF-8 are text, whether the file says so or not; others cost their row.
//! - Times are RFC 3339 to the microsecond, with a zone where the file says that they are in UTC.
//!   Those of old Spark and Impala files (INT96) are in UTC.
//! - Lists, structs and maps with text keys become arrays and objects; null is null, and nothing
//!   else is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::cast::AsArray as _;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type,
    Decimal256Type, DecimalType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, Schema, TimeUnit};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use parquet::basic::Type as PhysicalType;
use tracklog_protocol::TimeMicros;
use tracklog_protocol::line::format_time;

use super::columns::{Members, event_of, fields_of, push_text};
use super::rows::{RowBuffer, Rows};

/// Rows that are in memory at once.
const BATCH_ROWS: usize = 1_024;

/// Reads a file's rows as events.
pub(super) struct ParquetRows {
    reader: ParquetRecordBatchReader,
    event: Members,
    batch: Option<RecordBatch>,
    /// The next row of the batch.
    at: usize,
    next_row: u64,
    rows: u64,
    file_bytes: u64,
    bytes_read: Arc<AtomicU64>,
}

impl ParquetRows {
    /// Reads the file's own description. `others` are columns that are not what they are called;
    /// `bytes_read` tells about how far it is.
    pub(super) fn new(
        file: File,
        others: &BTreeMap<String, Option<String>>,
        bytes_read: Arc<AtomicU64>,
    ) -> Result<Self, String> {
        let file_bytes = file.metadata().map_err(|error| error.to_string())?.len();
        let failed = |error: parquet::errors::ParquetError| error.to_string();
        // What some writers keep of their own schema may name types that are not the file's.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let metadata = ArrowReaderMetadata::load(&file, options.clone()).map_err(failed)?;
        let schema = with_old_times(&metadata);
        let metadata =
            ArrowReaderMetadata::load(&file, options.with_schema(schema)).map_err(failed)?;
        let fields = metadata.schema().fields();
        let names: Vec<_> = fields.iter().map(|field| field.name().clone()).collect();
        let event = event_of(&names, &fields_of(&names, others)?)?;
        let rows = u64::try_from(metadata.metadata().file_metadata().num_rows());
        let rows = rows.unwrap_or_default().max(1);
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata);
        let reader = reader.with_batch_size(BATCH_ROWS).build().map_err(failed)?;
        let (batch, at, next_row) = (None, 0, 1);
        Ok(Self { reader, event, batch, at, next_row, rows, file_bytes, bytes_read })
    }
}

/// The schema, with the times of old files to the microsecond: nanoseconds reach from 1677 to 2262.
fn with_old_times(metadata: &ArrowReaderMetadata) -> Arc<Schema> {
    let file = metadata.parquet_schema();
    let is_old = |name: &str| {
        let columns = file.columns().iter();
        columns.into_iter().any(|column| {
            column.physical_type() == PhysicalType::INT96 && column.path().parts() == [name]
        })
    };
    let fields = metadata.schema().fields().iter().map(|field| {
        if is_old(field.name()) {
            let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
            Arc::new(field.as_ref().clone().with_data_type(time))
        } else {
            Arc::clone(field)
        }
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

impl Rows for ParquetRows {
    fn next(&mut self, row: &mut RowBuffer) -> io::Result<bool> {
        loop {
            if let Some(batch) = self.batch.as_ref().filter(|batch| self.at < batch.num_rows()) {
                row.begin(self.next_row);
                let (at, columns) = (self.at, batch.columns());
                let mut write = |column: usize, out: &mut Vec<u8>| {
                    let name = || batch.schema_ref().field(column).name().clone();
                    write_value(&columns[column], at, out)
                        .map_err(|why| format!("column {}: {why}", name()))
                };
                if let Err(why) = self.event.write(&mut row.bytes, &|_| true, &mut write) {
                    row.bytes.clear();
                    row.refused = Some(why);
                }
                row.bound(row.bytes.len() as u64);
                self.at += 1;
                self.next_row += 1;
                return Ok(true);
            }
            let read =
                u128::from(self.file_bytes) * u128::from(self.next_row) / u128::from(self.rows);
            let read = u64::try_from(read).unwrap_or(u64::MAX);
            self.bytes_read.store(read, Ordering::Relaxed);
            match self.reader.next() {
                None => return Ok(false),
                Some(batch) => self.batch = Some(batch.map_err(io::Error::other)?),
            }
            self.at = 0;
        }
    }

    fn next_number(&self) -> u64 {
        self.next_row
    }
}

/// Writes a value as JSON.
fn write_value(array: &ArrayRef, at: usize, out: &mut Vec<u8>) -> Result<(), String> {
    if array.is_null(at) {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    match array.data_type() {
        DataType::Null => out.extend_from_slice(b"null"),
        DataType::Boolean => {
            let word: &[u8] = if array.as_boolean().value(at) { b"true" } else { b"false" };
            out.extend_from_slice(word);
        }
        DataType::Int8 => push_integer::<Int8Type>(array, at, out),
        DataType::Int16 => push_integer::<Int16Type>(array, at, out),
        DataType::Int32 => push_integer::<Int32Type>(array, at, out),
        DataType::Int64 => push_integer::<Int64Type>(array, at, out),
        DataType::UInt8 => push_integer::<UInt8Type>(array, at, out),
        DataType::UInt16 => push_integer::<UInt16Type>(array, at, out),
        DataType::UInt32 => push_integer::<UInt32Type>(array, at, out),
        DataType::UInt64 => push_integer::<UInt64Type>(array, at, out),
        DataType::Float32 => push_float(array.as_primitive::<Float32Type>().value(at), out)?,
        DataType::Float64 => push_float(array.as_primitive::<Float64Type>().value(at), out)?,
        DataType::Decimal32(..) => push_decimal::<Decimal32Type>(array, at, out),
        DataType::Decimal64(..) => push_decimal::<Decimal64Type>(array, at, out),
        DataType::Decimal128(..) => push_decimal::<Decimal128Type>(array, at, out),
        DataType::Decimal256(..) => push_decimal::<Decimal256Type>(array, at, out),
        DataType::Utf8 => push_text(out, array.as_string::<i32>().value(at)),
        DataType::LargeUtf8 => push_text(out, array.as_string::<i64>().value(at)),
        DataType::Utf8View => push_text(out, array.as_string_view().value(at)),
        DataType::Binary => push_bytes(array.as_binary::<i32>().value(at), out)?,
        DataType::LargeBinary => push_bytes(array.as_binary::<i64>().value(at), out)?,
        DataType::BinaryView => push_bytes(array.as_binary_view().value(at), out)?,
        DataType::FixedSizeBinary(_) => {
            push_bytes(array.as_fixed_size_binary().value(at), out)?;
        }
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => {
            push_text(out, &time_text(array, at)?);
        }
        DataType::List(_) => write_list(&array.as_list::<i32>().value(at), out)?,
        DataType::LargeList(_) => write_list(&array.as_list::<i64>().value(at), out)?,
        DataType::FixedSizeList(..) => write_list(&array.as_fixed_size_list().value(at), out)?,
        DataType::Struct(_) => write_struct(array, at, out)?,
        DataType::Map(..) => write_map(array, at, out)?,
        other => return Err(format!("{other} is not read")),
    }
    Ok(())
}

fn push_integer<T: ArrowPrimitiveType<Native: std::fmt::Display>>(
    array: &ArrayRef,
    at: usize,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(array.as_primitive::<T>().value(at).to_string().as_bytes());
}

fn push_float(
    value: impl Into<f64> + serde::Serialize + Copy,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    if !value.into().is_finite() {
        return Err("it is no finite number".to_owned());
    }
    serde_json::to_writer(out, &value).map_err(|error| error.to_string())
}

fn push_decimal<T: DecimalType>(array: &ArrayRef, at: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(array.as_primitive::<T>().value_as_string(at).as_bytes());
}

fn push_bytes(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let text = str::from_utf8(bytes).map_err(|_| "its bytes are no text".to_owned())?;
    push_text(out, text);
    Ok(())
}

/// A date, or a time to the microsecond.
fn time_text(array: &ArrayRef, at: usize) -> Result<String, String> {
    const DAY_MICROS: i64 = 86_400_000_000;
    let micros = match array.data_type() {
        DataType::Date32 => {
            i64::from(array.as_primitive::<Date32Type>().value(at)).checked_mul(DAY_MICROS)
        }
        DataType::Date64 => array.as_primitive::<Date64Type>().value(at).checked_mul(1_000),
        DataType::Timestamp(TimeUnit::Second, _) => {
            array.as_primitive::<TimestampSecondType>().value(at).checked_mul(1_000_000)
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            array.as_primitive::<TimestampMillisecondType>().value(at).checked_mul(1_000)
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Some(array.as_primitive::<TimestampMicrosecondType>().value(at))
        }
        _ => Some(array.as_primitive::<TimestampNanosecondType>().value(at).div_euclid(1_000)),
    };
    let micros = micros.ok_or("it lies too far from our time")?;
    let mut text = format_time(TimeMicros(micros));
    match array.data_type() {
        DataType::Date32 | DataType::Date64 => {
            text.truncate(text.find('T').unwrap_or(text.len()));
        }
        DataType::Timestamp(_, None) => {
            text.pop();
        }
        _ => {}
    }
    Ok(text)
}

fn write_list(values: &ArrayRef, out: &mut Vec<u8>) -> Result<(), String> {
    out.push(b'[');
    for at in 0..values.len() {
        if at > 0 {
            out.push(b',');
        }
        write_value(values, at, out)?;
    }
    out.push(b']');
    Ok(())
}

fn write_struct(array: &ArrayRef, at: usize, out: &mut Vec<u8>) -> Result<(), String> {
    let array = array.as_struct();
    out.push(b'{');
    for (index, (name, values)) in array.column_names().iter().zip(array.columns()).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        push_text(out, name);
        out.push(b':');
        write_value(values, at, out)?;
    }
    out.push(b'}');
    Ok(())
}

fn write_map(array: &ArrayRef, at: usize, out: &mut Vec<u8>) -> Result<(), String> {
    let entries = array.as_map().value(at);
    let [keys, values] = entries.columns() else { return Err("it is no map".to_owned()) };
    out.push(b'{');
    for entry in 0..entries.len() {
        if entry > 0 {
            out.push(b',');
        }
        let begins = out.len();
        write_value(keys, entry, out)?;
        if out.get(begins) != Some(&b'"') {
            return Err("a map's keys are no texts".to_owned());
        }
        out.push(b':');
        write_value(values, entry, out)?;
    }
    out.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Seek as _;

    use arrow_array::builder::{Int64Builder, ListBuilder};
    use arrow_array::{
        BinaryArray, Decimal128Array, Float64Array, StringArray, TimestampMicrosecondArray,
    };
    use parquet::arrow::ArrowWriter;
    use parquet::data_type::{Int96, Int96Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::*;

    /// Numbers and events, or reasons.
    fn rows(mut file: File) -> Vec<(u64, String)> {
        file.rewind().unwrap();
        let mut rows = ParquetRows::new(file, &BTreeMap::new(), Arc::default()).unwrap();
        let (mut row, mut found) = (RowBuffer::default(), Vec::new());
        while rows.next(&mut row).unwrap() {
            let event = || String::from_utf8(row.bytes.clone()).unwrap();
            found.push((row.number, row.refused.clone().unwrap_or_else(event)));
        }
        found
    }

    fn written(columns: Vec<(&str, ArrayRef)>) -> File {
        let file = tempfile::tempfile().unwrap();
        let batch = RecordBatch::try_from_iter_with_nullable(
            columns.into_iter().map(|(name, column)| (name, column, true)),
        );
        let batch = batch.unwrap();
        let mut writer =
            ArrowWriter::try_new(file.try_clone().unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        file
    }

    #[test]
    fn decimals_lists_and_bytes_keep_what_they_are() {
        let decimals = [
            Some(12_345_678_901_234_567_890_123_456_789_000_000_001_i128),
            Some(100_000_000),
            None,
        ];
        let decimals = Decimal128Array::from(decimals.to_vec());
        let decimals = decimals.with_precision_and_scale(38, 9).unwrap();
        let mut lists = ListBuilder::new(Int64Builder::new());
        lists.append_value([Some(1), None, Some(3)]);
        lists.append_value([]);
        lists.append_null();
        let bytes: [Option<&[u8]>; 3] = [Some(b"text"), Some(b"\xff\x00"), None];
        let found = rows(written(vec![
            ("d", Arc::new(decimals)),
            ("l", Arc::new(lists.finish())),
            ("raw", Arc::new(BinaryArray::from(bytes.to_vec()))),
        ]));
        let first = r#"{"properties":{"d":12345678901234567890123456789.000000001,"l":[1,null,3],"raw":"text"}}"#;
        let third = r#"{"properties":{"d":null,"l":null,"raw":null}}"#;
        let wanted = [(1, first), (2, "column raw: its bytes are no text"), (3, third)];
        assert_eq!(found, wanted.map(|(row, text)| (row, text.to_owned())));
    }

    #[test]
    fn times_have_a_zone_where_the_file_says_so() {
        let micros = || TimestampMicrosecondArray::from(vec![1_735_689_600_123_456]);
        let found = rows(written(vec![
            ("timestamp", Arc::new(micros().with_timezone("UTC"))),
            ("userId", Arc::new(StringArray::from(vec!["007"]))),
            ("properties.local", Arc::new(micros())),
            ("nan", Arc::new(Float64Array::from(vec![0.1]))),
        ]));
        let wanted = r#"{"timestamp":"2025-01-01T00:00:00.123456Z","userId":"007","properties":{"local":"2025-01-01T00:00:00.123456","nan":0.1}}"#;
        assert_eq!(found, [(1, wanted.to_owned())]);
        let nan = rows(written(vec![("nan", Arc::new(Float64Array::from(vec![f64::NAN])))]));
        assert_eq!(nan[0].1, "column nan: it is no finite number");
    }

    /// Nanoseconds of the day, and the day by the count of Julius Scaliger.
    fn old_time(day: i64, nanos: u64) -> Int96 {
        let julian = u32::try_from(day + 2_440_588).unwrap();
        let mut time = Int96::new();
        let low = u32::try_from(nanos & 0xffff_ffff).unwrap();
        time.set_data(low, u32::try_from(nanos >> 32).unwrap(), julian);
        time
    }

    #[test]
    fn times_of_old_files_are_in_utc_however_far_they_are() {
        let file = tempfile::tempfile().unwrap();
        let schema = parse_message_type("message m { OPTIONAL INT96 timestamp; }").unwrap();
        let properties = Arc::new(WriterProperties::default());
        let mut writer =
            SerializedFileWriter::new(file.try_clone().unwrap(), Arc::new(schema), properties);
        let writer_mut = writer.as_mut().unwrap();
        let mut group = writer_mut.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let hour = 3_600_000_000_000;
        let times = [
            old_time(19_723, 20 * hour + 2_096_123_456_789),
            old_time(-56_160, 8 * hour + 3_368_000_000_000),
            old_time(2_932_896, 3 * hour),
        ];
        let written = column.typed::<Int96Type>().write_batch(&times, Some(&[1, 1, 1, 0]), None);
        assert_eq!(written.unwrap(), 3);
        column.close().unwrap();
        group.close().unwrap();
        writer.unwrap().close().unwrap();
        let wanted = [
            r#"{"timestamp":"2024-01-01T20:34:56.123456Z"}"#,
            r#"{"timestamp":"1816-03-29T08:56:08.000000Z"}"#,
            r#"{"timestamp":"9999-12-31T03:00:00.000000Z"}"#,
            r#"{"timestamp":null}"#,
        ];
        let found: Vec<_> = rows(file).into_iter().map(|(_, event)| event).collect();
        assert_eq!(found, wanted);
    }
}
