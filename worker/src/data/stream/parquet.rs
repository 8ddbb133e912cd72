//! A text column of a Parquet file, row group by row group.

use crate::data::input::SourceFile;
use crate::error::{Error, Result};
use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::reader::{FileReader, SerializedFileReader};
use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Rows decoded at a time.
const ROWS: usize = 64;

pub(super) struct ParquetColumn {
    file: SerializedFileReader<File>,
    path: PathBuf,
    column: usize,
    next_group: usize,
    groups: usize,
    reader: Option<ColumnReaderImpl<ByteArrayType>>,
    values: VecDeque<ByteArray>,
    /// Rows of the last batch that were null: documents without text.
    nulls: usize,
    bytes_per_group: u64,
    consumed: Arc<AtomicU64>,
}

impl ParquetColumn {
    pub(super) fn open(source: &SourceFile, field: &str, consumed: Arc<AtomicU64>) -> Result<Self> {
        let path = source.path.as_path();
        let file = File::open(path).map_err(Error::io("open", path))?;
        let file = SerializedFileReader::new(file).map_err(|error| unreadable(path, &error))?;
        let schema = file.metadata().file_metadata().schema_descr_ptr();
        let names: Vec<String> = schema.columns().iter().map(|column| column.path().string()).collect();
        let wrong = |problem: String| Error::Data {
            place: path.display().to_string(),
            problem,
            cure: format!("set `textField` to a text column; the file has {}", names.join(", ")),
        };
        let column = names
            .iter()
            .position(|name| name == field)
            .ok_or_else(|| wrong(format!("it has no column `{field}`")))?;
        let description = schema.column(column);
        if description.physical_type() != Type::BYTE_ARRAY || description.max_rep_level() > 0 {
            return Err(wrong(format!("its column `{field}` is not text")));
        }
        let groups = file.num_row_groups();
        Ok(Self {
            file,
            path: path.to_path_buf(),
            column,
            next_group: 0,
            groups,
            reader: None,
            values: VecDeque::new(),
            nulls: 0,
            bytes_per_group: source.bytes / groups.max(1) as u64,
            consumed,
        })
    }

    /// The next text, empty for a null; none at the end.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            if let Some(value) = self.values.pop_front() {
                return Ok(Some(value.data().to_vec()));
            }
            if self.nulls > 0 {
                self.nulls -= 1;
                return Ok(Some(Vec::new()));
            }
            if let Some(reader) = &mut self.reader {
                let (mut values, mut definitions) = (Vec::with_capacity(ROWS), Vec::with_capacity(ROWS));
                let read = reader.read_records(ROWS, Some(&mut definitions), None, &mut values);
                let (rows, texts, _) = read.map_err(|error| unreadable(&self.path, &error))?;
                if rows == 0 {
                    self.reader = None;
                    self.consumed.fetch_add(self.bytes_per_group, Ordering::Relaxed);
                }
                self.nulls = rows - texts;
                self.values = values.into();
            } else if self.next_group < self.groups {
                self.reader = Some(self.open_group(self.next_group)?);
                self.next_group += 1;
            } else {
                return Ok(None);
            }
        }
    }

    fn open_group(&self, group: usize) -> Result<ColumnReaderImpl<ByteArrayType>> {
        let group = self.file.get_row_group(group).map_err(|error| unreadable(&self.path, &error))?;
        match group.get_column_reader(self.column) {
            Ok(ColumnReader::ByteArrayColumnReader(reader)) => Ok(reader),
            Ok(_) => Err(unreadable(&self.path, "the column's type changes between row groups")),
            Err(error) => Err(unreadable(&self.path, &error)),
        }
    }
}

fn unreadable(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::Data {
        place: path.display().to_string(),
        problem: format!("it is not a readable Parquet file ({error})"),
        cure: "the file is damaged, incomplete or of another format: download or write it again, or leave it out with `exclude`".into(),
    }
}
