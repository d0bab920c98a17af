//! `report`.

use crate::desk::{Desk, Provider, input};

/// A batch of which some calls and jobs fail.
fn mixed() -> Desk {
    let desk = Desk::new();
    desk.write("in.jsonl", input(0..60));
    let provider = Provider::start(&["--fault", "500:0.1", "--fault", "400:0.2"]);
    let variables = [("GRISTMILL_RETRY_BASE", "10ms")];
    let arguments = ["run", "in.jsonl", "-o", "out.jsonl", "--name", "sweep", "--project", "<i>p</i>", "--api-base"];
    desk.run_with(&variables, &[&arguments[..], &[&provider.url]].concat()).ends_with(3);
    desk
}

#[test]
fn the_numbers_are_those_of_the_rows() {
    let desk = mixed();
    let json = desk.run(&["report", "sweep", "--json"]).ends_with(0).json();
    let results: Vec<_> = desk.lines("out.jsonl").into_iter().chain(desk.lines("out.errors.jsonl")).collect();
    let sum = |name: &str| -> u64 { results.iter().filter_map(|line| line["gristmill"][name].as_u64()).sum() };
    let totals = &json["totals"];
    assert_eq!(json["version"], 1);
    assert_eq!(totals["succeeded"], desk.lines("out.jsonl").len());
    assert_eq!(totals["failed"], desk.lines("out.errors.jsonl").len());
    assert_eq!(totals["calls"], sum("attempts"));
    assert_eq!(
        (&totals["input_tokens"], &totals["output_tokens"]),
        (&sum("input_tokens").into(), &sum("output_tokens").into())
    );
    let cost: f64 = results.iter().filter_map(|line| line["gristmill"]["cost_usd"].as_f64()).sum();
    assert!((totals["cost_usd"].as_f64().unwrap() - cost).abs() < 1e-9, "{totals}");
    // Every way to take it apart adds up to the whole.
    for (by, parts) in json["by"].as_object().unwrap() {
        let sum: u64 = parts.as_array().unwrap().iter().map(|part| part["calls"].as_u64().unwrap()).sum();
        assert_eq!(totals["calls"], sum, "{by}");
    }
    let points = json["series"]["points"].as_array().unwrap();
    let of_points = |name: &str| points.iter().map(|point| point[name].as_i64().unwrap()).sum::<i64>();
    for name in ["calls", "succeeded", "failed", "input_tokens", "output_tokens", "cost_pico_usd"] {
        assert_eq!(totals[name], of_points(name), "{name}");
    }
    let errors = json["errors"].as_array().unwrap();
    let failed = errors.iter().map(|class| class["calls"].as_i64().unwrap()).sum::<i64>();
    assert_eq!((of_points("failed_calls"), json["rates"]["failed_calls"].as_i64()), (failed, Some(failed)));
    let bad = errors.iter().find(|class| class["class"] == "BadRequestError").unwrap();
    assert!(bad["jobs"].as_u64() > Some(0) && !bad["example"].as_str().unwrap().is_empty(), "{bad}");
    let answered: u64 =
        json["latency"].as_array().unwrap().iter().map(|bucket| bucket["calls"].as_u64().unwrap()).sum();
    assert_eq!(totals["latency_ms"]["count"], answered);
    assert_eq!(json["workers"].as_array().unwrap().len(), 1);
}

#[test]
fn a_page_stands_alone_and_shows_text_as_text() {
    let desk = mixed();
    let said = desk.run(&["report", "-o", "page.html"]).ends_with(0);
    assert_eq!(said.out, "report of batch sweep in page.html\n");
    let page = std::fs::read_to_string(desk.path("page.html")).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
    for word in ["<script", "<i>", "http://", "https://", "href=", "src="] {
        assert!(!page.contains(word), "{word}");
    }
    assert!(page.contains("project &lt;i&gt;p&lt;/i&gt;") && page.matches("<svg").count() == 5, "{page}");
    let project = desk.run(&["report", "--project", "<i>p</i>", "--since", "1h", "--json"]).ends_with(0).json();
    assert_eq!(
        (&project["totals"]["failed"], &project["batches"][0]["name"]),
        (&project["batches"][0]["failed"], &"sweep".into())
    );
    let none = desk.run(&["report", "--project", "other", "--json"]).ends_with(0).json();
    assert_eq!((&none["totals"]["calls"], &none["span"]["from"]), (&0.into(), &serde_json::Value::Null));
}

#[test]
fn where_a_report_goes_must_be_said() {
    let desk = Desk::new();
    desk.run(&["report"]).fails(1, "error: -o says where to\nhint: gristmill report -o report.html, or -o report.json");
    assert!(desk.run(&["report", "-o", "a.pdf"]).ends_with(1).err.starts_with("error: a.pdf ends in neither"));
}
