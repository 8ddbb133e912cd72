//! Metrics as tables for other programs: CSV, JSON and Parquet.

use crate::failure::{Exit, Failure, Result};
use parquet::basic::{Compression, Repetition, Type as PhysicalType, ZstdLevel};
use parquet::data_type::{DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{Type, TypePtr};
use serde_json::{Map, Value};
use std::io::Write;
use std::sync::Arc;

/// Format of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportFormat {
    /// Comma-separated values with a heading; non-finite values are `NaN`, `Infinity` and `-Infinity`, missing ones are empty.
    Csv,
    /// Apache Parquet, zstd-compressed.
    Parquet,
    /// An array of objects; non-finite values are strings.
    Json,
}

/// Values of a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Counts.
    Integers(Vec<u64>),
    /// Measurements; `None` where there is none.
    Numbers(Vec<Option<f64>>),
}

/// A table of columns of equal length.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Columns {
    columns: Vec<(String, Values)>,
    rows: usize,
}

impl Columns {
    /// A table with `rows` rows and no columns yet.
    pub fn new(rows: usize) -> Self {
        Self { columns: Vec::new(), rows }
    }

    /// Adds a column.
    ///
    /// # Panics
    /// If its length is not the table's.
    pub fn push(&mut self, name: impl Into<String>, values: Values) {
        let len = match &values {
            Values::Integers(values) => values.len(),
            Values::Numbers(values) => values.len(),
        };
        assert_eq!(len, self.rows, "columns of a table have equal lengths");
        self.columns.push((name.into(), values));
    }

    /// Writes the table.
    pub fn write(&self, format: ExportFormat, to: &mut (impl Write + Send)) -> Result {
        match format {
            ExportFormat::Csv => self.csv(to).map_err(|error| failed(&error)),
            ExportFormat::Json => self.json(to).map_err(|error| failed(&error)),
            ExportFormat::Parquet => self.parquet(to).map_err(|error| failed(&error)),
        }
    }

    fn csv(&self, to: &mut impl Write) -> std::io::Result<()> {
        let names: Vec<String> = self.columns.iter().map(|(name, _)| quoted(name)).collect();
        writeln!(to, "{}", names.join(","))?;
        for row in 0..self.rows {
            let cells: Vec<String> = self.columns.iter().map(|(_, values)| values.text(row)).collect();
            writeln!(to, "{}", cells.join(","))?;
        }
        to.flush()
    }

    fn json(&self, to: &mut impl Write) -> std::io::Result<()> {
        write!(to, "[")?;
        for row in 0..self.rows {
            let object: Map<String, Value> = self.columns.iter().map(|(name, values)| (name.clone(), values.json(row))).collect();
            write!(to, "{}", if row == 0 { "\n" } else { ",\n" })?;
            serde_json::to_writer(&mut *to, &object)?;
        }
        writeln!(to, "\n]")?;
        to.flush()
    }

    fn parquet(&self, to: &mut (impl Write + Send)) -> Result<(), ParquetError> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .build();
        let mut file = SerializedFileWriter::new(to, self.schema()?, Arc::new(properties))?;
        let mut group = file.next_row_group()?;
        for (_, values) in &self.columns {
            let Some(mut column) = group.next_column()? else {
                return Err(ParquetError::General("the schema has fewer columns than the table".into()));
            };
            match values {
                Values::Integers(values) => {
                    let values: Vec<i64> = values.iter().map(|&value| value.cast_signed()).collect();
                    column.typed::<Int64Type>().write_batch(&values, None, None)?;
                }
                Values::Numbers(values) => {
                    let levels: Vec<i16> = values.iter().map(|value| i16::from(value.is_some())).collect();
                    let present: Vec<f64> = values.iter().copied().flatten().collect();
                    column.typed::<DoubleType>().write_batch(&present, Some(&levels), None)?;
                }
            }
            column.close()?;
        }
        group.close()?;
        file.close()?;
        Ok(())
    }

    fn schema(&self) -> Result<TypePtr, ParquetError> {
        let fields = self.columns.iter().map(|(name, values)| {
            let (physical, repetition) = match values {
                Values::Integers(_) => (PhysicalType::INT64, Repetition::REQUIRED),
                Values::Numbers(_) => (PhysicalType::DOUBLE, Repetition::OPTIONAL),
            };
            let field = Type::primitive_type_builder(name, physical).with_repetition(repetition).build()?;
            Ok(Arc::new(field))
        });
        let fields = fields.collect::<Result<Vec<_>, ParquetError>>()?;
        Ok(Arc::new(Type::group_type_builder("metrics").with_fields(fields).build()?))
    }
}

impl Values {
    /// A cell as CSV.
    fn text(&self, row: usize) -> String {
        match self {
            Self::Integers(values) => values[row].to_string(),
            Self::Numbers(values) => values[row].map_or(String::new(), number),
        }
    }

    fn json(&self, row: usize) -> Value {
        match self {
            Self::Integers(values) => values[row].into(),
            Self::Numbers(values) => values[row].map_or(Value::Null, json_number),
        }
    }
}

/// The shortest text that reads back as the same number.
pub fn number(value: f64) -> String {
    match value {
        _ if value.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        _ => format!("{value:?}"),
    }
}

/// JSON has no non-finite numbers: they are strings, as in the records.
pub fn json_number(value: f64) -> Value {
    serde_json::Number::from_f64(value).map_or_else(|| Value::String(number(value)), Value::Number)
}

/// A heading that CSV readers take as one cell.
fn quoted(name: &str) -> String {
    if name.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", name.replace('"', "\"\""))
    } else {
        name.to_owned()
    }
}

fn failed(error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Failed, "cannot write the metrics").caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::RowAccessor;

    fn table() -> Columns {
        let mut columns = Columns::new(3);
        columns.push("step", Values::Integers(vec![1, 2, 3]));
        columns.push("loss.main", Values::Numbers(vec![Some(8.25), Some(f64::NAN), Some(1e-10)]));
        columns.push("loss, \"validation\"", Values::Numbers(vec![None, Some(f64::NEG_INFINITY), None]));
        columns
    }

    fn written(format: ExportFormat) -> Vec<u8> {
        let mut bytes = Vec::new();
        table().write(format, &mut bytes).unwrap();
        bytes
    }

    /// The reader wants a file.
    fn parquet_file(bytes: &[u8]) -> std::fs::File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn csv() {
        assert_eq!(
            String::from_utf8(written(ExportFormat::Csv)).unwrap(),
            "step,loss.main,\"loss, \"\"validation\"\"\"\n1,8.25,\n2,NaN,-Infinity\n3,1e-10,\n"
        );
    }

    #[test]
    fn json() {
        let value: Value = serde_json::from_slice(&written(ExportFormat::Json)).unwrap();
        assert_eq!(value[0]["loss.main"], 8.25);
        assert_eq!(value[0]["loss, \"validation\""], Value::Null);
        assert_eq!(value[1]["loss.main"], "NaN");
        assert_eq!(value[1]["loss, \"validation\""], "-Infinity");
        assert_eq!(value.as_array().unwrap().len(), 3);
        let mut empty = Vec::new();
        Columns::new(0).write(ExportFormat::Json, &mut empty).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&empty).unwrap(), Value::Array(Vec::new()));
    }

    #[test]
    fn parquet_reads_back() {
        let file = SerializedFileReader::new(parquet_file(&written(ExportFormat::Parquet))).unwrap();
        let rows: Vec<_> = file.get_row_iter(None).unwrap().map(Result::unwrap).collect();
        assert_eq!(rows.len(), 3);
        assert_eq!((rows[2].get_long(0).unwrap(), rows[2].get_double(1).unwrap()), (3, 1e-10));
        assert!(rows[1].get_double(1).unwrap().is_nan());
        assert!(rows[0].get_double(2).is_err(), "missing values are null");
        assert_eq!(rows[1].get_double(2).unwrap(), f64::NEG_INFINITY);
    }
}
