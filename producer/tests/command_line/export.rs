//! `export`.

use std::io::Read as _;

use crate::desk::{Desk, Provider, input};

const COLUMNS: &str = "job_id,run,custom_id,batch_id,batch,project,tags,metadata,status,model,provider,deployment,\
served_model,finish_reason,output_text,input_tokens,cached_input_tokens,output_tokens,reasoning_tokens,cost_usd,cached,\
attempts,queued_at,started_at,finished_at,queue_ms,ttft_ms,latency_ms,error_class,error_status,error_code,error_message,\
error,request_id,saved_usd,endpoint,simulated\r\n";

/// A batch of three jobs, of which one is named like a formula, all failed once.
fn retried() -> Desk {
    let desk = Desk::new();
    desk.write("in.jsonl", input(0..3).replace("job-1", "=1+1"));
    let bad = Provider::start(&["--fault", "400:1"]);
    desk.run(&["run", "in.jsonl", "-o", "out.jsonl", "--name", "sweep", "--api-base", &bad.url]).ends_with(3);
    let good = Provider::start(&[]);
    desk.run(&["run", "in.jsonl", "-o", "out.jsonl", "--name", "sweep", "--retry-failed", "--api-base", &good.url])
        .ends_with(0);
    desk
}

#[test]
fn a_job_is_one_row_with_every_column_and_no_formula() {
    let desk = retried();
    let said = desk.run(&["export", "sweep", "-o", "rows.csv"]).ends_with(0);
    assert_eq!(said.err, "3 rows of sweep in rows.csv\n");
    let csv = std::fs::read_to_string(desk.path("rows.csv")).unwrap();
    assert!(csv.starts_with(COLUMNS), "{csv}");
    assert!(
        csv.contains(",2,'=1+1,") && !csv.contains(",=") && csv.matches(",succeeded,gpt-4o,").count() == 3,
        "{csv}"
    );
    assert_eq!(
        std::fs::read_dir(desk.path(".")).unwrap().flatten().filter(|entry| entry.path().ends_with(".part")).count(),
        0
    );
    let said = desk.run(&["export", "sweep"]).ends_with(0);
    let line: serde_json::Value = serde_json::from_str(said.out.lines().next().unwrap()).unwrap();
    assert_eq!((&line["batch"], &line["run"], &line["error"]), (&"sweep".into(), &2.into(), &serde_json::Value::Null));
    assert!(line["cost_usd"].is_f64() && line.get("response").is_none(), "{line}");
}

#[test]
fn bodies_come_when_asked_for_and_files_are_packed_by_their_names() {
    let desk = retried();
    desk.run(&["export", "sweep", "--with-bodies", "-o", "rows.jsonl.gz"]).ends_with(0);
    let mut text = String::new();
    let file = std::fs::File::open(desk.path("rows.jsonl.gz")).unwrap();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(line["response"]["object"], "chat.completion");
    desk.run(&["export", "sweep", "--with-bodies", "-o", "rows.jsonl.zst"]).ends_with(0);
    let file = std::fs::File::open(desk.path("rows.jsonl.zst")).unwrap();
    let mut unpacked = String::new();
    ruzstd::decoding::StreamingDecoder::new(file).unwrap().read_to_string(&mut unpacked).unwrap();
    assert_eq!(unpacked, text);
}

#[cfg(not(feature = "parquet"))]
#[test]
fn a_program_without_parquet_says_what_to_do() {
    let desk = Desk::new();
    for arguments in [&["export", "--format", "parquet"][..], &["export", "-o", "rows.parquet"]] {
        desk.run(arguments).fails(
            1,
            "error: this program was built without Parquet\nhint: build it with `--features parquet`\n\
             hint: or export JSON lines, and: duckdb -c \"COPY (FROM 'rows.jsonl') TO 'rows.parquet'\"",
        );
    }
}

#[cfg(feature = "parquet")]
mod parquet {
    use ::parquet::file::reader::{FileReader as _, SerializedFileReader};
    use ::parquet::record::{Field, Row};
    use chrono::{DateTime, SecondsFormat};
    use serde_json::Value;

    use super::*;

    /// Reads a file: the names of its columns, and its rows.
    fn read(desk: &Desk, name: &str) -> (Vec<String>, Vec<Row>) {
        let reader = SerializedFileReader::new(std::fs::File::open(desk.path(name)).unwrap()).unwrap();
        let fields = reader.metadata().file_metadata().schema().get_fields();
        let names = fields.iter().map(|field| field.name().to_owned()).collect();
        (names, reader.get_row_iter(None).unwrap().map(Result::unwrap).collect())
    }

    /// Writes a value as the JSON lines have it.
    fn json(name: &str, field: &Field) -> Value {
        match field {
            Field::Null => Value::Null,
            Field::Bool(is_true) => (*is_true).into(),
            Field::Long(number) => (*number).into(),
            Field::TimestampMicros(at) => {
                DateTime::from_timestamp_micros(*at).unwrap().to_rfc3339_opts(SecondsFormat::Millis, true).into()
            }
            Field::Decimal(cost) => {
                let pico_usd = cost.data().iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
                let text = format!("{}.{:012}", pico_usd / 1_000_000_000_000, pico_usd % 1_000_000_000_000);
                serde_json::from_str(text.trim_end_matches('0').trim_end_matches('.')).unwrap()
            }
            Field::Str(text) if matches!(name, "tags" | "metadata" | "response" | "error") => {
                serde_json::from_str(text).unwrap()
            }
            Field::Str(text) => text.as_str().into(),
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn rows_are_those_of_the_json_lines_with_types() {
        let desk = Desk::new();
        let tagged = input(0..300).replace("\"custom_id\":\"job-1\"", "\"custom_id\":\"=1+1\"");
        desk.write("in.jsonl", tagged);
        let provider = Provider::start(&["--fault", "400:0.2", "--output-tokens", "2000"]);
        let run = ["run", "in.jsonl", "-o", "out.jsonl", "--name", "sweep", "--tag", "team=a,b"];
        desk.run(&[&run[..], &["--api-base", &provider.url]].concat()).ends_with(3);
        for bodies in [&["--with-bodies"][..], &[]] {
            let said = desk.run(&[&["export", "sweep", "-o", "rows.parquet"], bodies].concat()).ends_with(0);
            assert_eq!(said.err, "300 rows of sweep in rows.parquet\n");
            desk.run(&[&["export", "sweep", "-o", "rows.jsonl"], bodies].concat()).ends_with(0);
            let (names, rows) = read(&desk, "rows.parquet");
            let lines = desk.lines("rows.jsonl");
            let of_line = lines[0].as_object().unwrap();
            assert_eq!((names.len(), names.iter().all(|name| of_line.contains_key(name))), (of_line.len(), true));
            assert_eq!(rows.len(), lines.len());
            for (row, line) in rows.iter().zip(&lines) {
                for (name, field) in row.get_column_iter() {
                    assert_eq!(json(name, field), line[name], "{name}");
                }
            }
            assert!(
                lines.iter().any(|line| line["custom_id"] == "=1+1")
                    && lines.iter().any(|line| line["error"].is_object())
            );
        }
        let left = std::fs::read_dir(desk.path(".")).unwrap().flatten();
        assert!(left.into_iter().all(|entry| !entry.file_name().to_string_lossy().ends_with(".part")));
    }

    #[test]
    fn a_batch_without_results_is_a_table_without_rows() {
        let desk = Desk::with_jobs();
        desk.run(&["submit", "in.jsonl", "--name", "new", "--model", "m"]).ends_with(0);
        let said = desk.run(&["export", "new", "--format", "parquet", "-o", "rows"]).ends_with(0);
        assert_eq!(said.err, "0 rows of new in rows\n");
        let (names, rows) = read(&desk, "rows");
        assert_eq!((names.len(), rows.len()), (37, 0));
    }

    #[test]
    fn parquet_goes_into_a_file_that_is_not_packed() {
        let desk = Desk::new();
        let nowhere = "error: Parquet is written into a file\nhint: gristmill export -o rows.parquet";
        desk.run(&["export", "--format", "parquet"]).fails(1, nowhere);
        desk.run(&["export", "--format", "parquet", "-o", "-"]).fails(1, nowhere);
        desk.run(&["export", "-o", "rows.parquet.gz"])
            .fails(1, "error: Parquet is packed in itself\nhint: give a file that ends in .parquet");
    }
}
