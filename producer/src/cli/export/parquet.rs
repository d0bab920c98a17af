//! Rows as Parquet: typed columns, in row groups of bounded size.
//!
//! Owns the schema, and of the rows those of the row group that is not written yet. A file without its end, which is written last, is
//! not taken for a whole one by any reader. <https://parquet.apache.org/docs/file-format/>, read 2026-11.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{Compression, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, FixedLenByteArray, FixedLenByteArrayType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::{ColumnDescPtr, ColumnPath, SchemaDescriptor, Type};
use serde::de::IgnoredAny;

use super::Table;
use super::place::Place;
use super::row::{self, Cell, Cells};
use crate::cli::fault::Fault;

/// The largest row groups: all of one is in memory until it is written.
const LARGEST: Bound = Bound { rows: 65_536, bytes: 64 * 1024 * 1024 };

/// The columns, in the order of [`row::COLUMNS`]. A cost has the digits of the view's, so that no picodollar is lost.
const SCHEMA: &str = "message result {
    required binary job_id (STRING);
    required int64 run;
    required binary custom_id (STRING);
    required binary batch_id (STRING);
    required binary batch (STRING);
    optional binary project (STRING);
    required binary tags (JSON);
    optional binary metadata (JSON);
    required binary status (STRING);
    required binary model (STRING);
    optional binary provider (STRING);
    optional binary deployment (STRING);
    optional binary served_model (STRING);
    optional binary finish_reason (STRING);
    optional binary output_text (STRING);
    optional binary response (JSON);
    optional int64 input_tokens;
    optional int64 cached_input_tokens;
    optional int64 output_tokens;
    optional int64 reasoning_tokens;
    optional fixed_len_byte_array(9) cost_usd (DECIMAL(20,12));
    required boolean cached;
    required int64 attempts;
    optional int64 queued_at (TIMESTAMP(MICROS,true));
    optional int64 started_at (TIMESTAMP(MICROS,true));
    required int64 finished_at (TIMESTAMP(MICROS,true));
    optional int64 queue_ms;
    optional int64 ttft_ms;
    optional int64 latency_ms;
    optional binary error_class (STRING);
    optional int64 error_status;
    optional binary error_code (STRING);
    optional binary error_message (STRING);
    optional binary error (JSON);
    optional binary request_id (STRING);
    optional fixed_len_byte_array(9) saved_usd (DECIMAL(20,12));
    required binary endpoint (STRING);
    required boolean simulated;
}";

/// Columns whose texts hardly come twice, so that a dictionary of them is of no use.
const DISTINCT: [&str; 5] = ["job_id", "custom_id", "output_text", "response", "request_id"];

/// When a row group is full.
#[derive(Debug, Clone, Copy)]
struct Bound {
    rows: usize,
    /// What its values take in memory; the last row may go beyond it.
    bytes: usize,
}

/// A file of row groups, and the one that is being filled.
pub(super) struct Groups {
    place: Place,
    file: SerializedFileWriter<File>,
    with_bodies: bool,
    columns: Vec<Column>,
    bound: Bound,
    /// Rows that are not written yet, and what they take in memory.
    rows: usize,
    bytes: usize,
}

impl Groups {
    /// Begins a file.
    pub(super) fn open(path: &Path, with_bodies: bool) -> Result<Self, Fault> {
        Self::bounded(path, with_bodies, LARGEST)
    }

    fn bounded(path: &Path, with_bodies: bool, bound: Bound) -> Result<Self, Fault> {
        let (place, file) = Place::open(path)?;
        let opened = schema(with_bodies).and_then(|schema| {
            let columns = SchemaDescriptor::new(Arc::clone(&schema)).columns().iter().map(Column::of).collect();
            Ok((columns, SerializedFileWriter::new(file, schema, Arc::new(properties()))?))
        });
        let (columns, file) = opened.map_err(|error| failed(&place, &error))?;
        Ok(Self { place, file, with_bodies, columns, bound, rows: 0, bytes: 0 })
    }

    fn write_group(&mut self) -> Result<(), Fault> {
        write_group(&mut self.file, &mut self.columns).map_err(|error| failed(&self.place, &error))?;
        (self.rows, self.bytes) = (0, 0);
        Ok(())
    }
}

impl Table for Groups {
    fn add(&mut self, cells: Cells) -> Result<(), Fault> {
        let cells = row::COLUMNS.into_iter().zip(cells).filter(|(name, _)| self.with_bodies || *name != row::BODY);
        for (column, (name, cell)) in self.columns.iter_mut().zip(cells) {
            self.bytes += column.add(cell).ok_or_else(|| Fault::new(format!("a value does not fit column {name}")))?;
        }
        self.rows += 1;
        if self.rows >= self.bound.rows || self.bytes >= self.bound.bytes { self.write_group() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<bool, Fault> {
        Ok(true)
    }

    fn finish(mut self: Box<Self>) -> Result<Option<PathBuf>, Fault> {
        if self.rows > 0 {
            self.write_group()?;
        }
        let Self { place, file, .. } = *self;
        file.close().map_err(|error| failed(&place, &error))?;
        place.take().map(Some)
    }
}

/// Tells that a file cannot be written; of an error of the system without what Parquet puts around it.
fn failed(place: &Place, error: &ParquetError) -> Fault {
    match error {
        ParquetError::External(cause) => place.failed(cause.as_ref()),
        error => place.failed(error),
    }
}

fn schema(with_bodies: bool) -> Result<Arc<Type>, ParquetError> {
    let whole = parse_message_type(SCHEMA)?;
    let is_shown = |field: &&Arc<Type>| with_bodies || field.name() != row::BODY;
    let fields = whole.get_fields().iter().filter(is_shown).cloned().collect();
    Type::group_type_builder(whole.name()).with_fields(fields).build().map(Arc::new)
}

fn properties() -> WriterProperties {
    let mut properties = WriterProperties::builder().set_compression(Compression::SNAPPY);
    for name in DISTINCT {
        properties = properties.set_column_dictionary_enabled(ColumnPath::from(name), false);
    }
    properties.build()
}

/// Writes a row group and empties the columns.
fn write_group(file: &mut SerializedFileWriter<File>, columns: &mut [Column]) -> Result<(), ParquetError> {
    let mut group = file.next_row_group()?;
    for column in columns {
        let Some(mut writer) = group.next_column()? else { break };
        column.write(&mut writer)?;
        writer.close()?;
    }
    group.close()?;
    Ok(())
}

/// The values of a column in a row group.
struct Column {
    values: Values,
    /// Of each row 1 where it has a value and 0 where it has none; empty of a column where every row must have one.
    levels: Vec<i16>,
    is_optional: bool,
}

/// Values by how they are stored.
enum Values {
    Bools(Vec<bool>),
    Integers(Vec<i64>),
    Texts(Vec<ByteArray>),
    Decimals(Vec<FixedLenByteArray>),
}

impl Column {
    fn of(column: &ColumnDescPtr) -> Self {
        let values = match column.physical_type() {
            Physical::BOOLEAN => Values::Bools(Vec::new()),
            Physical::FIXED_LEN_BYTE_ARRAY => Values::Decimals(Vec::new()),
            Physical::BYTE_ARRAY => Values::Texts(Vec::new()),
            _ => Values::Integers(Vec::new()),
        };
        Self { values, levels: Vec::new(), is_optional: column.max_def_level() > 0 }
    }

    /// Adds a value and returns what it takes in memory; `None` if the column does not take such a one.
    fn add(&mut self, cell: Cell) -> Option<usize> {
        if self.is_optional {
            self.levels.push(i16::from(cell != Cell::Null));
        }
        match (cell, &mut self.values) {
            (Cell::Null, _) if self.is_optional => return Some(0),
            (Cell::Bool(is_true), Values::Bools(values)) => values.push(is_true),
            (Cell::Integer(number), Values::Integers(values)) => values.push(number),
            (Cell::Time(time), Values::Integers(values)) => values.push(time.timestamp_micros()),
            (Cell::Usd(pico_usd), Values::Decimals(values)) => values.push(decimal(pico_usd)),
            (Cell::Text(text), Values::Texts(values)) => return Some(push(values, text)),
            (Cell::Json(text), Values::Texts(values)) => return Some(push(values, json(text))),
            _ => return None,
        }
        Some(size_of::<i64>())
    }

    /// Writes the values and lets go of them.
    fn write(&mut self, writer: &mut SerializedColumnWriter<'_>) -> Result<(), ParquetError> {
        let levels = std::mem::take(&mut self.levels);
        let levels = self.is_optional.then_some(levels.as_slice());
        match &mut self.values {
            Values::Bools(values) => writer.typed::<BoolType>().write_batch(&std::mem::take(values), levels, None),
            Values::Integers(values) => writer.typed::<Int64Type>().write_batch(&std::mem::take(values), levels, None),
            Values::Texts(values) => writer.typed::<ByteArrayType>().write_batch(&std::mem::take(values), levels, None),
            Values::Decimals(values) => {
                writer.typed::<FixedLenByteArrayType>().write_batch(&std::mem::take(values), levels, None)
            }
        }?;
        Ok(())
    }
}

fn push(values: &mut Vec<ByteArray>, text: String) -> usize {
    let bytes = text.len() + size_of::<ByteArray>();
    values.push(ByteArray::from(text.into_bytes()));
    bytes
}

/// Writes picodollars as a decimal with 12 digits behind the point is stored: big-endian, in 9 bytes.
fn decimal(pico_usd: i64) -> FixedLenByteArray {
    let sign = if pico_usd < 0 { 0xff } else { 0 };
    FixedLenByteArray::from([&[sign], pico_usd.to_be_bytes().as_slice()].concat())
}

/// Makes JSON of what may be none: a provider's body is written as a string then.
fn json(text: String) -> String {
    if serde_json::from_str::<IgnoredAny>(&text).is_ok() { text } else { row::quoted(&text) }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use parquet::file::reader::{FileReader as _, SerializedFileReader};
    use parquet::record::{Field, Row};

    use super::*;

    /// Makes a row whose cells are as the schema wants them; what need not be there is not.
    fn least(name: &str) -> Cells {
        let text = |text: &str| Cell::Text(text.to_owned());
        row::COLUMNS.map(|column| match column {
            "custom_id" => text(name),
            "job_id" | "batch_id" | "batch" | "status" | "model" | "endpoint" => text("x"),
            "tags" => Cell::Json("{}".to_owned()),
            "run" | "attempts" => Cell::Integer(1),
            "cached" | "simulated" => Cell::Bool(false),
            "finished_at" => Cell::Time(DateTime::UNIX_EPOCH),
            _ => Cell::Null,
        })
    }

    fn with(mut cells: Cells, values: &[(&str, Cell)]) -> Cells {
        for (name, value) in values {
            let index = row::COLUMNS.iter().position(|column| column == name).unwrap();
            cells[index] = value.clone();
        }
        cells
    }

    /// Writes rows and reads them back, with the number of rows of each row group.
    fn round_trip(rows: Vec<Cells>, bound: Bound) -> (Vec<Row>, Vec<i64>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rows.parquet");
        let mut groups = Box::new(Groups::bounded(&path, true, bound).unwrap());
        rows.into_iter().for_each(|cells| groups.add(cells).unwrap());
        assert_eq!(groups.finish().unwrap(), Some(path.clone()));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
        let sizes = reader.metadata().row_groups().iter().map(|group| group.num_rows()).collect();
        (reader.get_row_iter(None).unwrap().map(Result::unwrap).collect(), sizes)
    }

    fn field<'a>(row: &'a Row, name: &str) -> &'a Field {
        row.get_column_iter().find(|(own, _)| *own == name).unwrap().1
    }

    #[test]
    fn the_columns_are_those_of_the_other_formats() {
        let names = |with_bodies| {
            let schema = schema(with_bodies).unwrap();
            schema.get_fields().iter().map(|field| field.name().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(true), row::COLUMNS);
        assert_eq!(names(false), row::COLUMNS.into_iter().filter(|name| *name != row::BODY).collect::<Vec<_>>());
    }

    #[test]
    fn values_come_back_as_they_were() {
        let text = |text: &str| Cell::Text(text.to_owned());
        let full = [
            ("project", text("=1+1")),
            ("output_text", text("two\nlines, \"quoted\" \u{0} ü")),
            ("response", Cell::Json("{\n\"a\": 1e2}".to_owned())),
            ("error", Cell::Json("<html>".to_owned())),
            ("input_tokens", Cell::Integer(i64::from(u32::MAX))),
            ("queued_at", Cell::Time(DateTime::from_timestamp_millis(1_795_473_000_123).unwrap())),
            ("cached", Cell::Bool(true)),
        ];
        let (rows, _) = round_trip(vec![with(least("a"), &full), least("b")], LARGEST);
        for (name, wanted) in [
            ("custom_id", Field::Str("a".to_owned())),
            ("project", Field::Str("=1+1".to_owned())),
            ("output_text", Field::Str("two\nlines, \"quoted\" \u{0} ü".to_owned())),
            ("response", Field::Str("{\n\"a\": 1e2}".to_owned())),
            ("error", Field::Str("\"<html>\"".to_owned())),
            ("input_tokens", Field::Long(4_294_967_295)),
            ("queued_at", Field::TimestampMicros(1_795_473_000_123_000)),
            ("cached", Field::Bool(true)),
            ("run", Field::Long(1)),
            ("cost_usd", Field::Null),
        ] {
            assert_eq!(field(&rows[0], name), &wanted, "{name}");
        }
        for name in ["project", "output_text", "response", "input_tokens", "cost_usd", "queued_at", "error"] {
            assert_eq!(field(&rows[1], name), &Field::Null, "{name}");
        }
    }

    #[test]
    fn costs_keep_every_picodollar() {
        let costs = [0, 1, -1, 2_100_000_000, i64::MAX, i64::MIN];
        let rows = costs.map(|pico_usd| with(least("a"), &[("cost_usd", Cell::Usd(pico_usd))])).to_vec();
        let (rows, _) = round_trip(rows, LARGEST);
        let read = rows.iter().map(|row| match field(row, "cost_usd") {
            Field::Decimal(cost) => {
                assert_eq!((cost.precision(), cost.scale()), (20, 12));
                cost.data()
                    .iter()
                    .fold(if cost.data()[0] < 128 { 0 } else { -1 }, |sum, byte| sum << 8 | i128::from(*byte))
            }
            other => panic!("{other:?}"),
        });
        assert_eq!(read.collect::<Vec<_>>(), costs.map(i128::from));
    }

    #[test]
    fn row_groups_are_bounded_by_rows_and_by_bytes() {
        let rows = |count: usize| (0..count).map(|number| least(&number.to_string())).collect::<Vec<_>>();
        let few = Bound { rows: 3, ..LARGEST };
        for (count, wanted) in [(0, vec![]), (1, vec![1]), (3, vec![3]), (7, vec![3, 3, 1])] {
            let (read, sizes) = round_trip(rows(count), few);
            assert_eq!((read.len(), sizes), (count, wanted));
            let names = read.iter().map(|row| field(row, "custom_id").to_string());
            assert!(names.eq((0..count).map(|number| format!("\"{number}\""))), "in order");
        }
        let body = format!("\"{}\"", "0123456789".repeat(10_000));
        let large = |name: &str| with(least(name), &[("response", Cell::Json(body.clone()))]);
        let mut mixed = vec![large("a"), large("b"), large("c")];
        mixed.extend(rows(4));
        let (read, sizes) = round_trip(mixed, Bound { bytes: 150_000, ..LARGEST });
        assert_eq!(sizes, [2, 5], "a body is 100 kB");
        assert_eq!(field(&read[1], "response"), &Field::Str(body));
    }

    #[test]
    fn what_is_not_finished_leaves_the_former_file_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rows.parquet");
        std::fs::write(&path, "former").unwrap();
        let mut groups = Groups::bounded(&path, false, Bound { rows: 1, ..LARGEST }).unwrap();
        groups.add(least("a")).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
        drop(groups);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "former");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(Groups::open(&directory.path().join("no/rows.parquet"), true).is_err());
    }
}
