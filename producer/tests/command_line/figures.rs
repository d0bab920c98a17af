//! The figures of `report` against SQL over the rows that they are of: every call and every result, not the sums that it reads.

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::Row as _;

use crate::desk::{Desk, Provider};

mod rows;

use rows::{BY, Found, Rows, dollars, is_near, quantile};

/// Batches of several models, one of them without a price: with failures, retries, second runs, hits of the response cache, calls that
/// nobody saw the end of, and jobs that were cancelled.
fn swept() -> Desk {
    let desk = Desk::new();
    let provider = Provider::start(&["--latency", "60ms", "--jitter", "50ms", "--output-tokens", "20"]);
    let model = |group: &str, model: &str| {
        let url = &provider.url;
        format!(
            "  - model_name: {group}\n    litellm_params: {{ model: openai/{model}, api_base: \"{url}\", api_key: x }}\n"
        )
    };
    let models = [("smart", "gpt-4o"), ("smart", "gpt-4.1"), ("quick", "gpt-4o-mini"), ("own", "llama-of-ours")];
    desk.write("gristmill.yaml", "model_list:\n".to_owned() + &models.map(|(group, name)| model(group, name)).concat());
    let line = |id: &str, prompt: &str| format!("{{\"custom_id\":\"{id}\",\"prompt\":\"{prompt}\"}}\n");
    // The last ten ask what others ask, too.
    let mut lines: String = (0..40).map(|job| line(&format!("n{job}"), &format!("number {}", job % 30))).collect();
    for script in ["400", "422", "500,ok", "429,ok", "reset,ok", "timeout", "refusal"] {
        lines += &line(script, &format!("simulate:{script}"));
    }
    desk.write("in.jsonl", &lines);
    desk.write("more.jsonl", (0..5).map(|job| line(&format!("m{job}"), &format!("more {job}"))).collect::<String>());
    let run = |name: &str, input: &str, more: &[&str]| {
        let output = format!("{name}.jsonl");
        let base = ["run", input, "-o", &output, "--name", name, "--set", "temperature=0"];
        let limits = ["--num-retries", "1", "--cache", "on"];
        // Only the calls that are to hang take as long.
        desk.run_with(&[("GRISTMILL_TIMEOUT", "5s")], &[&base[..], &limits, more].concat())
    };
    let models = ["--project", "search", "--model", "smart", "--model", "quick", "--model", "own"];
    run("sweep", "in.jsonl", &models).ends_with(3);
    run("sweep", "in.jsonl", &[&models[..], &["--retry-failed"]].concat()).ends_with(3);
    run("again", "in.jsonl", &["--model", "quick", "--limit", "20"]).ends_with(0);
    let submit = ["submit", "more.jsonl", "--name", "dropped", "--set", "temperature=0", "--model", "smart"];
    desk.run(&submit).ends_with(0);
    desk.run(&["cancel", "dropped"]).ends_with(0);
    run("dropped", "more.jsonl", &["--model", "smart"]).ends_with(3);
    desk
}

/// Checks all numbers of a report's JSON.
async fn is_told(report: &Value, rows: &mut Rows) {
    let all = rows.all().await;
    all.equals("totals", &report["totals"]);
    for (name, of_call, of_run) in BY {
        let found = rows.by(of_call, of_run).await;
        let told = report["by"][name].as_array().unwrap();
        let names: Vec<&str> = told.iter().map(|part| part["name"].as_str().unwrap()).collect();
        assert_eq!(names, found.keys().collect::<Vec<_>>(), "by {name}");
        for part in told {
            let of = part["name"].as_str().unwrap();
            found[of].equals(&format!("{name} {of}"), part);
        }
    }
    assert_eq!(report["by"].as_object().unwrap().len(), BY.len());

    let length_s = report["series"]["seconds"].as_i64().unwrap();
    let mut times = rows.by_time(length_s).await;
    let points = report["series"]["points"].as_array().unwrap();
    let at_s = |time: &Value| time.as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap().timestamp();
    for point in points {
        let found = times.remove(&at_s(&point["at"])).unwrap_or_default();
        for (name, value) in point.as_object().unwrap().iter().filter(|(name, _)| *name != "at") {
            assert_eq!(value.as_i64(), Some(found.count(name)), "{} {name}", point["at"]);
        }
    }
    assert!(times.is_empty(), "times that the report does not have: {times:?}");
    let span = &report["span"];
    assert_eq!(span["from"], points[0]["at"]);
    assert_eq!(at_s(&span["to"]), at_s(&points[points.len() - 1]["at"]) + length_s);
    assert_eq!(span["seconds"], points.len() as i64 * length_s);

    let seconds = span["seconds"].as_f64().unwrap();
    let tokens = all.count("input_tokens") + all.count("output_tokens");
    let rates = [
        ("ended_per_s", all.ended() as f64 / seconds),
        ("calls_per_s", all.count("calls") as f64 / seconds),
        ("tokens_per_s", tokens as f64 / seconds),
        ("failed_calls", all.count("failed_calls") as f64),
        ("failed_calls_share", all.count("failed_calls") as f64 / all.count("calls") as f64),
        ("succeeded_share", all.count("succeeded") as f64 / all.ended() as f64),
    ];
    for (name, found) in rates {
        let told = report["rates"][name].as_f64().filter(|rate| (rate - found).abs() < 1e-9);
        assert!(told.is_some() || found.is_nan() && report["rates"][name].is_null(), "{name}: {found}");
    }
    assert_eq!(report["rates"].as_object().unwrap().len(), rates.len());

    let mut answered = all.latency_ms.len();
    for bucket in report["latency"].as_array().unwrap() {
        let (from, to) = (bucket["from_ms"].as_i64().unwrap(), bucket["to_ms"].as_i64().unwrap());
        let found = all.latency_ms.iter().filter(|ms| (from..to).contains(ms)).count();
        assert_eq!(bucket["calls"], found, "{from} to {to} ms");
        assert!(to - from <= (from / 16).max(1), "{from} to {to} ms");
        answered -= found;
    }
    assert_eq!(answered, 0, "calls in no bucket");
    are_classes(report, rows).await;
}

async fn are_classes(report: &Value, rows: &mut Rows) {
    let mut found = rows.by("coalesce(a.error_class, '')", "coalesce(r.error_class, '')").await;
    found.remove("");
    let jobs = rows.failed_jobs().await;
    for class in report["errors"].as_array().unwrap() {
        let name = class["class"].as_str().unwrap();
        let found = found.remove(name).unwrap_or_default();
        assert_eq!((&class["calls"], &class["runs"]), (&found.count("calls").into(), &found.ended().into()), "{name}");
        let (count, messages) = jobs.get(name).cloned().unwrap_or_default();
        assert_eq!(class["jobs"], count, "{name}");
        assert_eq!(class["example"].as_str().is_some(), count > 0, "{name}");
        assert!(class["example"].as_str().is_none_or(|example| messages.contains(example)), "{name}: {class}");
    }
    assert!(found.is_empty(), "classes that the report does not have: {found:?}");
}

/// The parts of a page that have numbers.
struct Page {
    /// The value and the note of each card.
    cards: BTreeMap<String, (String, String)>,
    /// The rows of the table under each heading, a cell by the name of its column; the first column's is empty.
    tables: BTreeMap<String, Vec<BTreeMap<String, String>>>,
}

impl Page {
    fn read(text: &str) -> Self {
        let mut page = Self { cards: BTreeMap::new(), tables: BTreeMap::new() };
        for card in elements(&elements(text, "dl")[0], "div") {
            let value = elements(&card, "dd").remove(0);
            let note = elements(&value, "small").remove(0);
            let value = value.split("<small>").next().unwrap().to_owned();
            page.cards.insert(elements(&card, "dt").remove(0), (value, note));
        }
        for section in elements(text, "section") {
            let Some(table) = elements(&section, "table").pop() else { continue };
            let names = elements(&elements(&table, "thead")[0], "th");
            let row = |row: &String| {
                let cells = [elements(row, "th"), elements(row, "td")].concat();
                let names = names.iter().enumerate().map(|(index, name)| if index == 0 { "" } else { name.as_str() });
                names.map(str::to_owned).zip(cells).collect()
            };
            let rows = elements(&elements(&table, "tbody")[0], "tr").iter().map(row).collect();
            page.tables.insert(elements(&section, "h2").remove(0), rows);
        }
        page
    }

    /// Returns the rows under a heading; none where a sentence says that there is nothing.
    fn table(&self, heading: &str) -> &[BTreeMap<String, String>] {
        self.tables.iter().find(|(name, _)| name.starts_with(heading)).map_or(&[], |(_, rows)| rows)
    }
}

/// Returns what stands in each element of a name, none of which is in another one.
fn elements(text: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}"), format!("</{name}>"));
    let inside = |piece: &str| {
        let (attributes, rest) = piece.split_once('>')?;
        // Of another element whose name begins so.
        (attributes.is_empty() || attributes.starts_with(' ')).then(|| rest.split(&close).next().unwrap().to_owned())
    };
    text.split(&open).skip(1).filter_map(inside).collect()
}

/// Reads a number with its commas.
fn number(text: &str) -> i64 {
    text.replace(',', "").parse().unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

/// Reads the number at the beginning of a note.
fn first_number(text: &str) -> i64 {
    number(text.split(' ').next().unwrap())
}

/// Checks dollars that are shown with three digits or to the cent.
fn is_cost(what: &str, shown: &str, pico_usd: Option<i64>) {
    let Some(pico_usd) = pico_usd else { return assert_eq!(shown, "unknown", "{what}") };
    let (told, truth): (f64, f64) = (shown.strip_prefix('$').unwrap().parse().unwrap(), dollars(pico_usd));
    assert!((told - truth).abs() <= truth * 0.005 + 1e-12, "{what}: {shown} for {truth}");
}

/// Checks a percentile as people read it.
fn is_duration(what: &str, shown: &str, truth_ms: Option<i64>) {
    if shown == "–" {
        return assert_eq!(truth_ms, None, "{what}");
    }
    let (amount, unit) = shown.split_once(' ').unwrap();
    let (unit_ms, decimals) = match unit {
        "ms" => (1.0, 1.0),
        "s" => (1_000.0, 0.1),
        other => panic!("{what}: {other}"),
    };
    is_near(what, Some(amount.parse::<f64>().unwrap() * unit_ms), truth_ms, unit_ms * decimals / 2.0);
}

/// Checks all numbers of a report's page.
async fn is_shown(page: &Page, rows: &mut Rows) {
    let all = rows.all().await;
    are_cards(page, &all);
    for (heading, by) in [
        ("Cost by model", "model"),
        ("By provider", "provider"),
        ("By deployment", "deployment"),
        ("By model at the provider", "provider_model"),
        ("By project", "project"),
        ("By day", "day"),
    ] {
        let (_, of_call, of_run) = BY.into_iter().find(|(name, ..)| *name == by).unwrap();
        let found = rows.by(of_call, of_run).await;
        let table = page.table(heading);
        assert_eq!(table.len(), found.len(), "{heading}");
        for row in table {
            let name = Some(row[""].as_str()).filter(|name| *name != "(none)").unwrap_or_default();
            let found = &found[name];
            let at = format!("{heading} {name}");
            is_cost(&at, &row["Cost"], found.cost_pico_usd());
            is_duration(&at, &row["p95"], quantile(&found.latency_ms, 95));
            for (column, wanted) in [
                ("Calls of unknown cost", found.count("unpriced") + found.count("unseen")),
                ("Calls", found.count("calls")),
                ("Succeeded", found.count("succeeded")),
                ("Did not", found.ended() - found.count("succeeded")),
                ("Tokens in", found.count("input_tokens")),
                ("Tokens out", found.count("output_tokens")),
            ] {
                assert_eq!(number(&row[column]), wanted, "{at}: {column}");
            }
            assert_eq!(row.len(), 9, "{at}: a column that nothing checks");
        }
    }
    for (name, durations_ms) in
        [("whole call", &all.latency_ms), ("first byte", &all.ttft_ms), ("wait before it", &all.queue_ms)]
    {
        let Some(row) = page.table("Latency").iter().find(|row| row[""] == name) else {
            assert_eq!(all.latency_ms.len(), 0, "no row {name}");
            continue;
        };
        assert_eq!(number(&row["Count"]), durations_ms.len() as i64, "{name}");
        for (column, percent) in [("p50", 50), ("p95", 95), ("p99", 99), ("most", 100)] {
            is_duration(&format!("{name} {column}"), &row[column], quantile(durations_ms, percent));
        }
    }
    let found = rows.by("coalesce(a.error_class, '')", "coalesce(r.error_class, '')").await;
    let jobs = rows.failed_jobs().await;
    let classes = page.table("Errors by class");
    assert_eq!(classes.len(), found.keys().filter(|class| !class.is_empty()).count());
    for row in classes {
        let (name, found) = (&row[""], &found[&row[""]]);
        let shown = ["Calls", "Runs", "Jobs"].map(|column| number(&row[column]));
        let failed = jobs.get(name).map_or(0, |(count, _)| *count);
        assert_eq!(shown, [found.count("calls"), found.ended(), failed], "{name}");
    }
    are_times(page, rows).await;
}

fn are_cards(page: &Page, all: &Found) {
    let did_not = all.ended() - all.count("succeeded");
    for (card, (value, note)) in &page.cards {
        match card.as_str() {
            "Runs that ended" => {
                let share = 100.0 * all.count("succeeded") as f64 / all.ended() as f64;
                assert_eq!((number(value), note), (all.ended(), &format!("{share:.1} % succeeded")));
            }
            "Did not succeed" => {
                let parts = ["failed", "cancelled", "expired"].map(|name| (all.count(name), name));
                let parts = parts.iter().filter(|(count, _)| *count > 0).map(|(count, name)| format!("{count} {name}"));
                let parts = parts.collect::<Vec<_>>().join(", ");
                assert_eq!((number(value), note.as_str()), (did_not, if did_not == 0 { "none" } else { &parts }));
            }
            "Calls" => assert_eq!((number(value), first_number(note)), (all.count("calls"), all.count("repeated"))),
            "Cost" => {
                is_cost(card, value, all.cost_pico_usd());
                let unknown = if note == "of all calls" { 0 } else { first_number(note) };
                assert_eq!(unknown, all.count("unpriced") + all.count("unseen"));
            }
            "Tokens in" => {
                let wanted = (all.count("input_tokens"), all.count("cached_input_tokens"));
                assert_eq!((number(value), first_number(note)), wanted);
            }
            "Tokens out" => {
                let wanted = (all.count("output_tokens"), all.count("reasoning_tokens"));
                assert_eq!((number(value), first_number(note)), wanted);
            }
            "Median latency" => {
                is_duration(card, value, quantile(&all.latency_ms, 50));
                if let Some(p95) = note.strip_prefix("95 % within ") {
                    is_duration(note, p95, quantile(&all.latency_ms, 95));
                }
            }
            // The series, which is checked, says between which times.
            "Time" => {}
            "From the response cache" => {
                assert_eq!(number(value), all.count("cached"));
                is_cost(card, note.strip_suffix(" saved").unwrap(), Some(all.count("saved_pico_usd")));
            }
            "Calls nobody saw the end of" => {
                assert_eq!(number(value), all.count("unseen"));
                let bound = note.strip_prefix("at most ").and_then(|note| note.strip_suffix(" more")).unwrap();
                is_cost(card, bound, Some(all.count("unseen_bound_pico_usd")));
            }
            other => panic!("nothing checks the card {other}"),
        }
    }
    assert!(page.cards.len() >= 8, "{:?}", page.cards);
    assert_eq!(page.cards.contains_key("From the response cache"), all.count("cached") > 0);
    assert_eq!(page.cards.contains_key("Calls nobody saw the end of"), all.count("unseen") > 0);
}

/// Checks the tables by time, whose columns are those that have anything.
async fn are_times(page: &Page, rows: &mut Rows) {
    // Sums of the last hour are of ten seconds, and the runs of this test take no 20 minutes.
    let times = rows.by_time(10).await;
    for (heading, columns) in [
        ("Progress", &["succeeded", "failed", "cancelled", "expired"][..]),
        ("Calls and errors", &["answered", "with an error"]),
    ] {
        let mut shown = BTreeMap::new();
        for row in page.table(heading) {
            let at =
                chrono::NaiveDateTime::parse_from_str(&row[""], "%Y-%m-%d %H:%M:%S").unwrap().and_utc().timestamp();
            shown.insert(at, row);
        }
        for (at, found) in &times {
            for column in columns {
                let wanted = match *column {
                    "answered" => found.count("calls") - found.count("failed_calls"),
                    "with an error" => found.count("failed_calls"),
                    status => found.count(status),
                };
                let told = shown.get(at).and_then(|row| row.get(*column)).map_or(0, |cell| number(cell));
                assert_eq!(told, wanted, "{heading} at {at}: {column}");
            }
        }
        let cells = shown.iter().filter(|(at, _)| !times.contains_key(at)).flat_map(|(_, row)| row.iter());
        assert!(cells.filter(|(name, _)| !name.is_empty()).all(|(_, cell)| cell == "0"), "{heading}");
    }
}

#[tokio::test]
async fn every_figure_of_a_report_equals_sql_over_the_rows() {
    let desk = swept();
    let mut rows = Rows::of(&desk, "true").await;
    let all = rows.all().await;
    for name in [
        "repeated",
        "uncounted",
        "unseen",
        "unpriced",
        "cost_pico_usd",
        "failed",
        "cancelled",
        "cached",
        "saved_pico_usd",
    ] {
        assert!(all.count(name) > 0, "the sweep has no {name}: {all:?}");
    }
    for (scope, of) in [
        (&["--since", "1h"][..], "true"),
        (&["--project", "search"], "b.project = 'search'"),
        (&["sweep"], "b.name = 'sweep'"),
        (&["again"], "b.name = 'again'"),
        (&["dropped"], "b.name = 'dropped'"),
    ] {
        rows.scope = of;
        desk.run(&[&["report", "-o", "report.json"], scope].concat()).ends_with(0);
        desk.run(&[&["report", "-o", "report.html"], scope].concat()).ends_with(0);
        let report = serde_json::from_str(&std::fs::read_to_string(desk.path("report.json")).unwrap()).unwrap();
        is_told(&report, &mut rows).await;
        let page = std::fs::read_to_string(desk.path("report.html")).unwrap();
        is_shown(&Page::read(&page), &mut rows).await;
        for batch in report["batches"].as_array().unwrap() {
            let name = batch["name"].as_str().unwrap();
            are_counters(batch, &mut rows).await;
            assert!(of == "true" || of.contains("project") || of.ends_with(&format!("'{name}'")), "{name} for {of}");
        }
    }
}

/// Checks the counters of a batch, which are of the latest run of each job and of all calls.
async fn are_counters(batch: &Value, rows: &mut Rows) {
    let name = batch["name"].as_str().unwrap();
    let sql = format!(
        "SELECT r.status, count(*) FROM result r JOIN batch b ON b.batch_id = r.batch_id WHERE b.name = '{name}' \
         AND r.run = (SELECT max(n.run) FROM result n WHERE n.job_id = r.job_id) GROUP BY 1"
    );
    let latest: BTreeMap<String, i64> = rows.read(sql).await.iter().map(|row| (row.get(0), row.get(1))).collect();
    for status in ["succeeded", "failed", "cancelled", "expired"] {
        assert_eq!(batch[status], latest.get(status).copied().unwrap_or(0), "{name}: {status}");
    }
    let found = rows.by("b.name", "b.name").await.remove(name).unwrap();
    for figure in ["calls", "input_tokens", "output_tokens", "saved_pico_usd"] {
        assert_eq!(batch[figure], found.count(figure), "{name}: {figure}");
    }
    assert_eq!(batch["cost_pico_usd"].as_i64().unwrap_or(0), found.count("cost_pico_usd"), "{name}");
}
