//! Rows of a Parquet file, as the Hugging Face Hub keeps data sets, each as the JSON object that it would be in a file of
//! JSON lines.
//!
//! | Parquet | JSON |
//! |---|---|
//! | an image: a struct of `bytes` and `path`, the Hub's `Image` | `data:image/…;base64,…`, or the path if there are no bytes |
//! | other binary | base64 |
//! | numbers, booleans, strings, lists, structs, null | themselves; NaN and infinity are null |
//! | a map | an object |
//! | decimals, dates, times, timestamps up to microseconds | text |

use std::borrow::Cow;
use std::cell::Cell;
use std::fs::File;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Once;

use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::prelude::*;
use parquet::basic::{Compression, ConvertedType};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::{ReaderIter, TreeBuilder};
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use serde::{Serialize, Serializer};

/// What every Parquet file begins and ends with.
pub(super) const MAGIC: &[u8] = b"PAR1";

/// Values of a column that are held at once: few, as they may be images.
const BATCH: usize = 16;

/// A file that is read row by row. At most a page of each column is in memory.
pub(super) struct Rows {
    path: PathBuf,
    file: SerializedFileReader<File>,
    /// Row groups that were not begun.
    groups: Range<usize>,
    /// What is left of the one that was.
    group: Option<ReaderIter>,
    number: u64,
    line: Vec<u8>,
}

impl Rows {
    /// Reads what the file says of itself.
    pub(super) fn open(path: &Path, file: File) -> Result<Self> {
        let open = || {
            let file = SerializedFileReader::new(file)?;
            check(&file)?;
            Ok(file)
        };
        let file = guarded(open).with_context(|| format!("cannot read {} as Parquet", path.display()))?;
        let groups = 0..file.num_row_groups();
        Ok(Self { path: path.to_owned(), file, groups, group: None, number: 0, line: Vec::new() })
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> u64 {
        self.file.metadata().row_groups().iter().map(|group| group.num_rows() as u64).sum()
    }

    /// The next row, with its number from 1.
    pub(super) fn next_row(&mut self) -> Result<Option<(u64, &[u8])>> {
        let number = self.number + 1;
        let row = guarded(|| self.read());
        let row = row.with_context(|| format!("cannot read row {number} of {}", self.path.display()))?;
        Ok(row.then_some((self.number, &self.line)))
    }

    fn read(&mut self) -> Result<bool> {
        loop {
            if let Some(row) = self.group.as_mut().and_then(Iterator::next) {
                self.line.clear();
                serde_json::to_writer(&mut self.line, &Object(&row?))?;
                self.number += 1;
                return Ok(true);
            }
            let Some(next) = self.groups.next() else { return Ok(false) };
            let schema = self.file.metadata().file_metadata().schema_descr_ptr();
            let rows = TreeBuilder::new().with_batch_size(BATCH);
            self.group = Some(rows.as_iter(schema, self.file.get_row_group(next)?.as_ref())?);
        }
    }
}

/// An error also where the decoder panics, which it does with some damaged files; nothing is printed then.
fn guarded<T>(read: impl FnOnce() -> Result<T>) -> Result<T> {
    thread_local!(static GUARDED: Cell<bool> = const { Cell::new(false) });
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !GUARDED.get() {
                report(panic);
            }
        }));
    });
    GUARDED.set(true);
    let result = panic::catch_unwind(AssertUnwindSafe(read));
    GUARDED.set(false);
    result.unwrap_or_else(|reason| match reason.downcast::<String>() {
        Ok(reason) => Err(anyhow!("it is damaged: {reason}")),
        Err(_) => Err(anyhow!("it is damaged")),
    })
}

/// What would only show at a page, or not at all.
fn check(file: &SerializedFileReader<File>) -> Result<()> {
    check_lists(file.metadata().file_metadata().schema())?;
    for group in file.metadata().row_groups() {
        ensure!(group.num_rows() >= 0 && group.num_columns() > 0, "a row group has no columns");
        for column in group.columns() {
            if let codec @ (Compression::BROTLI(_) | Compression::LZO) = column.compression() {
                bail!("it is compressed with {codec:?}, which is not supported; write it with zstd or snappy");
            }
        }
    }
    Ok(())
}

/// Lists of two levels, which writers before Parquet 2.4 made, come out of the decoder as lists of lists.
fn check_lists(kind: &Type) -> Result<()> {
    if kind.is_primitive() {
        return Ok(());
    }
    for inner in kind.get_fields() {
        if kind.get_basic_info().converted_type() == ConvertedType::LIST {
            let three_levels = inner.is_group() && inner.get_fields().len() == 1;
            let old_name = inner.name() == "array" || inner.name().ends_with("_tuple");
            ensure!(three_levels && !old_name, "{} is a list in an old form; write it with pyarrow", kind.name());
        }
        check_lists(inner)?;
    }
    Ok(())
}

struct Object<'a>(&'a Row);

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.get_column_iter().map(|(name, field)| (name, Value(field))))
    }
}

struct Value<'a>(&'a Field);

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Field::Null => serializer.serialize_unit(),
            Field::Bool(value) => serializer.serialize_bool(*value),
            Field::Byte(value) => serializer.serialize_i8(*value),
            Field::Short(value) => serializer.serialize_i16(*value),
            Field::Int(value) => serializer.serialize_i32(*value),
            Field::Long(value) => serializer.serialize_i64(*value),
            Field::UByte(value) => serializer.serialize_u8(*value),
            Field::UShort(value) => serializer.serialize_u16(*value),
            Field::UInt(value) => serializer.serialize_u32(*value),
            Field::ULong(value) => serializer.serialize_u64(*value),
            Field::Float16(value) => serializer.serialize_f32(value.to_f32()),
            Field::Float(value) => serializer.serialize_f32(*value),
            Field::Double(value) => serializer.serialize_f64(*value),
            Field::Str(text) => serializer.serialize_str(text),
            Field::Bytes(bytes) => serializer.serialize_str(&BASE64_STANDARD.encode(bytes.data())),
            Field::Group(row) => match image(row) {
                Some(image) => image.serialize(serializer),
                None => Object(row).serialize(serializer),
            },
            Field::ListInternal(list) => serializer.collect_seq(list.elements().iter().map(Value)),
            Field::MapInternal(map) => serializer.collect_map(map.entries().iter().map(|(key, field)| match key {
                Field::Str(key) => (Cow::from(key), Value(field)),
                key => (Cow::from(key.to_string()), Value(field)),
            })),
            Field::Decimal(_)
            | Field::Date(_)
            | Field::TimeMillis(_)
            | Field::TimeMicros(_)
            | Field::TimestampMillis(_)
            | Field::TimestampMicros(_) => serializer.collect_str(self.0),
        }
    }
}

/// An image as the Hub keeps it, for [`crate::processor::images::ImageSource`]; `Some(None)` where there is none.
fn image(row: &Row) -> Option<Option<Cow<'_, str>>> {
    let fields: Vec<_> = row.get_column_iter().map(|(name, field)| (name.as_str(), field)).collect();
    let ([("bytes", bytes), ("path", path)] | [("path", path), ("bytes", bytes)]) = fields[..] else { return None };
    match (bytes, path) {
        (Field::Bytes(bytes), Field::Str(_) | Field::Null) => {
            let kind = image::guess_format(bytes.data()).map_or("application/octet-stream", |kind| kind.to_mime_type());
            Some(Some(format!("data:{kind};base64,{}", BASE64_STANDARD.encode(bytes.data())).into()))
        }
        (Field::Null, Field::Str(path)) => Some(Some(path.into())),
        (Field::Null, Field::Null) => Some(None),
        _ => None,
    }
}
