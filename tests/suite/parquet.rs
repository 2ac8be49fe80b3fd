//! Rows of Parquet files: those that the Hub's own library writes, odd ones, and damaged ones.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::parquet::column::writer::ColumnWriter;
use ::parquet::data_type::ByteArray;
use ::parquet::file::properties::{WriterProperties, WriterVersion};
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;
use phi3v::rows::RowFile;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{fails, golden, path, phi3v, text};

fn recorded(name: &str) -> PathBuf {
    golden("parquet").join(name)
}

/// All rows, which have to be numbered from 1.
fn rows(path: &Path) -> Result<Vec<Value>, String> {
    let read = || {
        let mut file = RowFile::open(path)?;
        let mut rows = Vec::new();
        while let Some((number, line)) = file.next_row()? {
            rows.push(serde_json::from_slice(line)?);
            assert_eq!(number, rows.len() as u64);
        }
        Ok(rows)
    };
    read().map_err(|error: anyhow::Error| phi3v::one_line(&error))
}

/// A file of a group with these columns, each with its values and its levels of definition and repetition.
fn written(folder: &TempDir, schema: &str, mut groups: Vec<Vec<Column>>, properties: WriterProperties) -> PathBuf {
    let path = folder.path().join("written");
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(File::create(&path).unwrap(), schema, Arc::new(properties)).unwrap();
    for columns in &mut groups {
        let mut group = writer.next_row_group().unwrap();
        for Column { texts, numbers, definition, repetition } in columns.drain(..) {
            let mut column = group.next_column().unwrap().unwrap();
            // A required column has none.
            let [definition, repetition] =
                [&definition, &repetition].map(|levels| Some(&levels[..]).filter(|l| !l.is_empty()));
            match column.untyped() {
                ColumnWriter::ByteArrayColumnWriter(to) => {
                    let texts: Vec<ByteArray> = texts.into_iter().map(ByteArray::from).collect();
                    to.write_batch(&texts, definition, repetition).unwrap()
                }
                ColumnWriter::Int64ColumnWriter(to) => to.write_batch(&numbers, definition, repetition).unwrap(),
                _ => panic!("another type"),
            };
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
    path
}

#[derive(Default)]
struct Column {
    texts: Vec<&'static str>,
    numbers: Vec<i64>,
    definition: Vec<i16>,
    repetition: Vec<i16>,
}

#[test]
fn rows_are_the_json_lines_that_they_stand_for() {
    for (name, lines) in [("pictures-snappy", "pictures"), ("pictures-zstd", "pictures"), ("types", "types")] {
        let expected = rows(&recorded(&format!("{lines}.jsonl"))).unwrap();
        assert!(expected.len() >= 2);
        assert_eq!(rows(&recorded(&format!("{name}.parquet"))).unwrap(), expected, "{name}");
    }
    assert_eq!(rows(&recorded("lz4.parquet")).unwrap(), [json!({"small": -1}), json!({"small": 2})]);
}

#[test]
fn columns_keep_their_order() {
    let mut file = RowFile::open(&recorded("types.parquet")).unwrap();
    let (_, line) = file.next_row().unwrap().unwrap();
    assert!(line.starts_with(br#"{"small":-1,"large":18446744073709551615,"single":0.1,"flag":true,"binary":"AP8=","#));
}

#[test]
fn a_codec_that_is_not_supported_is_named() {
    let error = rows(&recorded("brotli.parquet")).unwrap_err();
    assert!(error.contains("brotli.parquet as Parquet: it is compressed with BROTLI"), "{error}");
}

#[test]
fn a_scan_counts_rows_and_hashes_bytes() {
    for name in ["pictures-snappy.parquet", "pictures-zstd.parquet", "pictures.jsonl"] {
        assert_eq!(RowFile::scan(&recorded(name)).unwrap().rows, 5, "{name}");
    }
    // As sha256sum has them.
    let hash = RowFile::scan(&recorded("types.parquet")).unwrap().sha256;
    assert_eq!(hash, SHA256_OF_TYPES);
}

const SHA256_OF_TYPES: &str = "3276fcea43a368fd7f5a2963b02f7255edcaed87cb2aa34969309cd0845783b6";

#[test]
fn the_name_says_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (lines, parquet) = (folder.path().join("a.parquet"), folder.path().join("a.jsonl"));
    fs::copy(recorded("types.jsonl"), &lines).unwrap();
    fs::copy(recorded("types.parquet"), &parquet).unwrap();
    assert_eq!(rows(&lines).unwrap(), rows(&parquet).unwrap());
}

#[test]
fn files_of_other_writers_are_read() {
    let folder = tempfile::tempdir().unwrap();
    // A bare repeated field, and required ones.
    let schema = "message rows {
        required int64 id;
        repeated int64 bare;
        required group image { required binary bytes; }
    }";
    let group = |first: i64| {
        vec![
            Column { numbers: vec![first, first + 1], ..Column::default() },
            Column { numbers: vec![7, 8], definition: vec![0, 1, 1], repetition: vec![0, 0, 1], ..Column::default() },
            Column { texts: vec!["GIF89a", "x"], ..Column::default() },
        ]
    };
    let version_2 = WriterProperties::builder().set_writer_version(WriterVersion::PARQUET_2_0).build();
    for properties in [WriterProperties::default(), version_2] {
        let path = written(&folder, schema, vec![group(1), group(3)], properties);
        let expected = |id: i64| {
            [
                json!({"id": id, "bare": [], "image": {"bytes": "R0lGODlh"}}),
                json!({"id": id + 1, "bare": [7, 8], "image": {"bytes": "eA=="}}),
            ]
        };
        assert_eq!(rows(&path).unwrap(), [expected(1), expected(3)].concat());
    }
}

#[test]
fn lists_in_an_old_form_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for inner in [
        "binary array (STRING);",
        "group array { required int64 a; }",
        "group x { required int64 a; required int64 b; }",
    ] {
        let schema =
            format!("message rows {{ optional group outer {{ required group old (LIST) {{ repeated {inner} }} }} }}");
        let error = rows(&written(&folder, &schema, Vec::new(), WriterProperties::default())).unwrap_err();
        assert!(error.ends_with(" as Parquet: old is a list in an old form; write it with pyarrow"), "{error}");
    }
}

#[test]
fn an_image_without_a_known_format_is_no_image() {
    let folder = tempfile::tempdir().unwrap();
    let schema = "message rows { required group sound { optional binary path (STRING); optional binary bytes; } }";
    let columns = vec![
        Column { texts: vec!["a.wav"], definition: vec![1], ..Column::default() },
        Column { texts: vec!["RIFF"], definition: vec![1], ..Column::default() },
    ];
    let path = written(&folder, schema, vec![columns], WriterProperties::default());
    assert_eq!(rows(&path).unwrap(), [json!({"sound": "data:application/octet-stream;base64,UklGRg=="})]);
}

#[test]
fn a_file_without_rows_has_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(&folder, "message rows { required int64 id; }", Vec::new(), WriterProperties::default());
    assert_eq!(rows(&path).unwrap(), [] as [Value; 0]);
    assert_eq!(RowFile::scan(&path).unwrap().rows, 0);
}

/// Reads bytes that are no good file; what is wrong has to be one line that names the file.
fn damaged(folder: &TempDir, bytes: &[u8], how: &str) -> Option<String> {
    let path = folder.path().join("damaged");
    fs::write(&path, bytes).unwrap();
    let error = rows(&path).err()?;
    assert!(error.contains(path.to_str().unwrap()) && error.lines().count() == 1, "{how}: {error}");
    Some(error)
}

#[test]
fn a_truncated_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["pictures-zstd.parquet", "types.parquet"] {
        let bytes = fs::read(recorded(name)).unwrap();
        // The end of the file says where everything is.
        for length in (4..bytes.len() - 100).step_by(61).chain(bytes.len() - 100..bytes.len()) {
            assert!(damaged(&folder, &bytes[..length], name).is_some(), "{name} of {length} bytes");
        }
    }
}

#[test]
fn a_flipped_bit_is_an_error_or_another_value() {
    let folder = tempfile::tempdir().unwrap();
    let mut errors = 0;
    for name in ["pictures-snappy.parquet", "pictures-zstd.parquet", "types.parquet"] {
        let mut bytes = fs::read(recorded(name)).unwrap();
        // After the mark by which such a file is known.
        for at in (4..bytes.len()).step_by(41) {
            let bit = 1 << (at % 8);
            bytes[at] ^= bit;
            errors += usize::from(damaged(&folder, &bytes, &format!("{name}, byte {at}")).is_some());
            bytes[at] ^= bit;
        }
    }
    assert!(errors > 50, "{errors}");
}

#[test]
fn what_the_decoder_panics_at_is_one_line_too() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = fs::read(recorded("pictures-zstd.parquet")).unwrap();
    let panics = |at: &usize| {
        let mut bytes = bytes.clone();
        bytes[*at] ^= 1 << (at % 8);
        damaged(&folder, &bytes, "").is_some_and(|error| error.contains("it is damaged: range"))
    };
    assert!((4..bytes.len()).any(|at| panics(&at)));
    let (model, input) = (golden("phi3v-tiny"), folder.path().join("damaged"));
    fails(1, &["generate", "-m", path(&model), "-q", "--input", path(&input), "--output", "-"], "it is damaged: range");
}

#[test]
fn generate_answers_the_rows_of_a_parquet_file() {
    let folder = tempfile::tempdir().unwrap();
    let schema = "message rows { required binary prompt (STRING); required int64 max_tokens; }";
    let columns = vec![
        Column { texts: vec!["Hello", "Hello again"], ..Column::default() },
        Column { numbers: vec![2, 3], ..Column::default() },
    ];
    let input = written(&folder, schema, vec![columns], WriterProperties::default());
    let lines = folder.path().join("rows.jsonl");
    let prompts = [json!({"prompt": "Hello", "max_tokens": 2}), json!({"prompt": "Hello again", "max_tokens": 3})];
    fs::write(&lines, prompts.map(|row| row.to_string()).join("\n")).unwrap();
    let answers = |input: &Path| {
        let model = golden("phi3v-tiny");
        let args = ["generate", "-m", path(&model), "--dtype", "float32", "--input", path(input), "--output", "-"];
        let output = phi3v(&args).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).to_owned()
    };
    let answered = answers(&input);
    assert_eq!(answered.lines().count(), 2);
    assert_eq!(answered, answers(&lines));
}
