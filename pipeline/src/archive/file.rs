//! Parquet files: rows of events in one immutable file, and back.
//!
//! Promises
//! - Rows are sorted by partition, then offset, and the file says so.
//! - The same rows with the same columns are the same bytes.
//! - Bytes are looked into only when their digest is the one that was written: no damage gets
//!   into a decoder.
//! - Reading a stretch of a partition costs about that stretch: pages are short, and found by the
//!   page index.
//!
//! zstd, level 1: higher levels took twice the time for a few percent. Sans-io: bytes in and out.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::BooleanArray;
use arrow_array::cast::AsArray as _;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_select::filter::filter_record_batch;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::schema::types::ColumnPath;
use tracklog_protocol::event::{EventBuilder, EventView};
use tracklog_protocol::{Offset, Record, TimeMicros};

use super::columns::{
    APPENDED_AT, ColumnError, NAME, OFFSET, PARTITION, RowPlace, RowReader, Rows, TIMESTAMP,
    envelope_columns,
};
use super::manifest::{FilePartition, OffsetRange, sha256};
use super::properties::PropertyColumns;

/// Rows that are turned into columns at once.
const BATCH_ROWS: usize = 4096;
/// Rows of a page: what must be decoded to get at one of them.
const PAGE_ROWS: usize = 4096;
/// Rows of a row group.
const ROW_GROUP_ROWS: usize = 1 << 20;
/// Rows that are read at once.
const READ_ROWS: usize = 1024;
/// Times and numbers that rise or are near each other.
const RISING: [&str; 6] =
    [OFFSET, APPENDED_AT, TIMESTAMP, "received_at", "original_timestamp", "raw_offset"];
/// Texts of which no two are the same.
const UNIQUE: [&str; 3] = ["message_id", "original_timestamp_text", "sent_at"];
/// What readers choose pages by.
const SEARCHED: [&str; 6] = [PARTITION, OFFSET, APPENDED_AT, TIMESTAMP, NAME, "type"];

/// A file cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Its bytes are not those that were written.
    #[error("its digest is {is}, and its manifest says {should}")]
    Digest {
        /// Of the bytes read.
        is: String,
        /// Of the bytes written.
        should: String,
    },
    /// It is no Parquet file, or a damaged one.
    #[error("it cannot be read: {0}")]
    Parquet(#[from] ParquetError),
    /// A column is not what it should be.
    #[error(transparent)]
    Column(#[from] ColumnError),
    /// Rows are not sorted by partition and offset.
    #[error("row {row} is out of order")]
    Order {
        /// The row.
        row: usize,
    },
}

/// A file in memory, with what its manifest says of it.
#[derive(Clone, Debug)]
pub struct WrittenFile {
    /// All of it.
    pub bytes: Bytes,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
    /// How many rows.
    pub rows: u64,
    /// What the events take in the log.
    pub event_bytes: u64,
    /// The first and the last place.
    pub ends: (RowPlace, RowPlace),
    /// By partition, rising.
    pub partitions: Vec<FilePartition>,
    /// The least and the greatest event time.
    pub event_times: (TimeMicros, TimeMicros),
    /// The least and the greatest append time.
    pub append_times: (TimeMicros, TimeMicros),
}

/// Writes one file, row after row.
pub struct FileWriter {
    rows: Rows,
    parquet: ArrowWriter<Vec<u8>>,
    facts: Option<WrittenFile>,
}

impl FileWriter {
    /// A file without rows yet; with these typed columns of properties.
    ///
    /// # Panics
    /// Never: the columns are all of types that Parquet has.
    #[must_use]
    pub fn new(properties: &PropertyColumns) -> Self {
        let rows = Rows::new(properties);
        let options = writer_options();
        let parquet = ArrowWriter::try_new_with_options(Vec::new(), rows.schema(), options);
        let parquet = parquet.expect("Parquet has a type for each of our columns");
        Self { rows, parquet, facts: None }
    }

    /// Adds `event`, whose place is above all before.
    ///
    /// # Panics
    /// When the place is not above the last one's.
    pub fn push(&mut self, place: RowPlace, event: &EventView<'_>, event_bytes: usize) {
        self.rows.append(place, event);
        match &mut self.facts {
            Some(facts) => facts.widen(place, event.event_time(), event_bytes),
            facts => *facts = Some(WrittenFile::of(place, event.event_time(), event_bytes)),
        }
        if self.rows.count() == BATCH_ROWS {
            self.write_rows();
        }
    }

    fn write_rows(&mut self) {
        let batch = self.rows.finish();
        self.parquet.write(&batch).expect("rows have the file's columns, and memory takes all");
    }

    /// The file.
    ///
    /// # Panics
    /// When nothing was pushed.
    #[must_use]
    pub fn finish(mut self) -> WrittenFile {
        if self.rows.count() > 0 {
            self.write_rows();
        }
        let mut facts = self.facts.expect("a file has at least one row");
        let bytes = self.parquet.into_inner().expect("memory takes all");
        facts.sha256 = sha256(&bytes);
        facts.bytes = bytes.into();
        facts
    }
}

impl WrittenFile {
    fn of(place: RowPlace, event_time: TimeMicros, event_bytes: usize) -> Self {
        let offset = place.offset.0;
        let partition =
            FilePartition { partition: place.partition, first: offset, last: offset, rows: 1 };
        Self {
            bytes: Bytes::new(),
            sha256: String::new(),
            rows: 1,
            event_bytes: event_bytes as u64,
            ends: (place, place),
            partitions: vec![partition],
            event_times: (event_time, event_time),
            append_times: (place.appended_at, place.appended_at),
        }
    }

    fn widen(&mut self, place: RowPlace, event_time: TimeMicros, event_bytes: usize) {
        let key = |place: RowPlace| (place.partition, place.offset);
        assert!(key(place) > key(self.ends.1), "rows come by partition, then offset");
        self.rows += 1;
        self.event_bytes += event_bytes as u64;
        self.ends.1 = place;
        let (partition, offset) = (place.partition, place.offset.0);
        match self.partitions.last_mut().filter(|it| it.partition == partition) {
            Some(known) => {
                known.last = offset;
                known.rows += 1;
            }
            None => {
                let new = FilePartition { partition, first: offset, last: offset, rows: 1 };
                self.partitions.push(new);
            }
        }
        let wider = |(least, greatest): (TimeMicros, TimeMicros), time: TimeMicros| {
            (least.min(time), greatest.max(time))
        };
        self.event_times = wider(self.event_times, event_time);
        self.append_times = wider(self.append_times, place.appended_at);
    }
}

/// Arrow's own description of the columns is left out: Parquet's says all, and readers need no other.
fn writer_options() -> ArrowWriterOptions {
    ArrowWriterOptions::new().with_properties(writer_properties()).with_skip_arrow_metadata(true)
}

fn writer_properties() -> WriterProperties {
    let level = ZstdLevel::try_new(1).expect("1 is a level of zstd");
    let mut properties = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_created_by(concat!("tracklog ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(level))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_write_batch_size(BATCH_ROWS)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_sorting_columns(Some(sorting()));
    for column in RISING.map(ColumnPath::from) {
        properties = properties
            .set_column_dictionary_enabled(column.clone(), false)
            .set_column_encoding(column, Encoding::DELTA_BINARY_PACKED);
    }
    for column in UNIQUE.map(ColumnPath::from) {
        properties = properties.set_column_dictionary_enabled(column, false);
    }
    for column in SEARCHED.map(ColumnPath::from) {
        properties = properties.set_column_statistics_enabled(column, EnabledStatistics::Page);
    }
    properties.build()
}

/// Partition and offset are the first two columns.
fn sorting() -> Vec<SortingColumn> {
    let rising = |column_idx| SortingColumn { column_idx, descending: false, nulls_first: false };
    vec![rising(0), rising(1)]
}

/// A file in memory, open to be read.
#[derive(Clone)]
pub struct OpenFile {
    bytes: Bytes,
    metadata: ArrowReaderMetadata,
    /// By row.
    keys: Arc<[(u32, u64)]>,
}

impl OpenFile {
    /// Checks the digest, and reads the footer and where each row lies.
    ///
    /// # Errors
    /// [`FileError`] when it is not the file that was written.
    pub fn open(bytes: Bytes, should: &str) -> Result<Self, FileError> {
        let is = sha256(&bytes);
        if is != should {
            return Err(FileError::Digest { is, should: should.to_owned() });
        }
        let options = ArrowReaderOptions::new()
            .with_skip_arrow_metadata(true)
            .with_offset_index_policy(PageIndexPolicy::Optional);
        let metadata = ArrowReaderMetadata::load(&bytes, options)?;
        let mut file = Self { bytes, metadata, keys: Arc::default() };
        file.keys = file.read_keys()?.into();
        Ok(file)
    }

    fn read_keys(&self) -> Result<Vec<(u32, u64)>, FileError> {
        let mut keys: Vec<(u32, u64)> = Vec::new();
        for batch in self.reader(0..2, None)? {
            let batch = batch.map_err(ParquetError::from)?;
            let missing = |column| ColumnError::Column { column };
            let partitions = batch.column_by_name(PARTITION);
            let partitions = partitions.and_then(|it| it.as_primitive_opt::<Int32Type>());
            let partitions = partitions.ok_or_else(|| missing(PARTITION))?;
            let offsets = batch.column_by_name(OFFSET);
            let offsets = offsets.and_then(|it| it.as_primitive_opt::<Int64Type>());
            let offsets = offsets.ok_or_else(|| missing(OFFSET))?;
            for (partition, offset) in partitions.values().iter().zip(offsets.values()) {
                let key = (partition.cast_unsigned(), offset.cast_unsigned());
                if keys.last().is_some_and(|last| *last >= key) {
                    return Err(FileError::Order { row: keys.len() });
                }
                keys.push(key);
            }
        }
        Ok(keys)
    }

    fn reader(
        &self,
        columns: Range<usize>,
        selection: Option<RowSelection>,
    ) -> Result<ParquetRecordBatchReader, FileError> {
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(
            self.bytes.clone(),
            self.metadata.clone(),
        );
        let roots = builder.parquet_schema().root_schema().get_fields().len();
        let mask =
            ProjectionMask::roots(builder.parquet_schema(), columns.start..columns.end.min(roots));
        let builder = builder.with_projection(mask).with_batch_size(READ_ROWS);
        Ok(match selection {
            Some(selection) => builder.with_row_selection(selection).build()?,
            None => builder.build()?,
        })
    }

    /// How many rows there are.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.keys.len()
    }

    /// What it takes in memory, about.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.bytes.len()
            + self.keys.len() * size_of::<(u32, u64)>()
            + self.metadata.metadata().memory_size()
    }

    /// What it has of each partition.
    #[must_use]
    pub fn partitions(&self) -> Vec<FilePartition> {
        let chunks = self.keys.chunk_by(|a, b| a.0 == b.0);
        let of_chunk = |keys: &[(u32, u64)]| FilePartition {
            partition: keys[0].0,
            first: keys[0].1,
            last: keys[keys.len() - 1].1,
            rows: keys.len() as u64,
        };
        chunks.map(of_chunk).collect()
    }

    /// The rows of a range of offsets.
    #[must_use]
    pub fn rows_of(&self, range: OffsetRange) -> Range<usize> {
        let at = |offset| self.keys.partition_point(|key| *key < (range.partition, offset));
        at(range.from)..at(range.to).max(at(range.from))
    }

    /// The offset of a row.
    #[must_use]
    pub fn offset(&self, row: usize) -> Offset {
        Offset(self.keys[row].1)
    }

    /// Gives each event of `rows` to `sink`, in order.
    ///
    /// # Errors
    /// [`FileError`] when they can't be read.
    pub fn read(
        &self,
        rows: Range<usize>,
        mut sink: impl FnMut(RowPlace, Record<'_>),
    ) -> Result<(), FileError> {
        if rows.is_empty() {
            return Ok(());
        }
        let selection = RowSelection::from_consecutive_ranges(std::iter::once(rows), self.rows());
        let mut builder = EventBuilder::new();
        for batch in self.reader(0..envelope_columns(), Some(selection))? {
            let reader = RowReader::new(&batch.map_err(ParquetError::from)?)?;
            for row in 0..reader.count() {
                let place = reader.place(row)?;
                sink(place, reader.event(row, &mut builder)?);
            }
        }
        Ok(())
    }
}

impl OpenFile {
    /// The file of those rows that `keep` says, with all their columns; `None` when it keeps none.
    ///
    /// # Errors
    /// [`FileError`] when they can't be read.
    pub fn filtered(
        &self,
        mut keep: impl FnMut(&EventView<'_>) -> bool,
    ) -> Result<Option<(Bytes, u64)>, FileError> {
        let mut kept = 0;
        let mut parquet: Option<ArrowWriter<Vec<u8>>> = None;
        let mut builder = EventBuilder::new();
        for batch in self.reader(0..usize::MAX, None)? {
            let batch = batch.map_err(ParquetError::from)?;
            let rows = RowReader::new(&batch)?;
            let mut is_kept = Vec::with_capacity(rows.count());
            for row in 0..rows.count() {
                let record = rows.event(row, &mut builder)?;
                is_kept.push(keep(&EventView::of(record).expect("rows are events")));
            }
            let batch = filter_record_batch(&batch, &BooleanArray::from(is_kept));
            let batch = batch.map_err(ParquetError::from)?;
            if batch.num_rows() == 0 {
                continue;
            }
            kept += batch.num_rows() as u64;
            if parquet.is_none() {
                let options = writer_options();
                let writer =
                    ArrowWriter::try_new_with_options(Vec::new(), batch.schema(), options)?;
                parquet = Some(writer);
            }
            parquet.as_mut().expect("it was just made").write(&batch)?;
        }
        Ok(match parquet {
            Some(parquet) => Some((parquet.into_inner()?.into(), kept)),
            None => None,
        })
    }

    /// Its bytes, as they are in the archive.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }
}

impl std::fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpenFile({} rows, {} bytes)", self.rows(), self.bytes.len())
    }
}
