use gristmill_common::price::Prices;
use gristmill_common::store::UsageScope;

use super::*;

fn part(name: &str, sums: Sums) -> Part {
    Part { names: vec![name.to_owned()], sums }
}

fn known(cost_pico_usd: i64) -> Sums {
    Sums { calls: 10, input_tokens: 12_000, output_tokens: 500, cost_pico_usd, succeeded: 10, ..Sums::default() }
}

fn parts() -> Vec<Part> {
    vec![
        part("", Sums { cancelled: 7, ..Sums::default() }),
        part("=gpt", Sums { cached: 2, saved_pico_usd: 5_000_000_000, ..known(30_000_000_000) }),
        part("free", Sums { input_tokens: 5, ..known(0) }),
        part("mine", Sums { unpriced: 10, ..known(0) }),
        part(
            "o3",
            Sums { unseen: 1, bound_pico_usd: 9_000_000_000, cached_input_tokens: 3_000, ..known(90_000_000_000) },
        ),
    ]
}

fn scope() -> Scope {
    Scope { usage: UsageScope { project: Some("web".to_owned()), ..UsageScope::default() }, batch: None }
}

#[test]
fn what_is_known_of_a_cost_is_never_mixed_with_nothing() {
    let sums =
        |cost_pico_usd, calls, unpriced, unseen| Sums { cost_pico_usd, calls, unpriced, unseen, ..Sums::default() };
    for (sums, shown) in [
        (sums(0, 0, 0, 0), "$0.00"),
        (sums(0, 5, 0, 0), "$0.00"),
        (sums(0, 5, 5, 0), "unknown"),
        (sums(0, 5, 1, 0), "unknown"),
        (sums(0, 5, 0, 5), "unknown"),
        (sums(0, 5, 0, 1), "≥$0.00"),
        (sums(7_000_000_000, 5, 1, 1), "≥$0.00700"),
        (sums(2_500_000_000_000, 5, 0, 0), "$2.50"),
        (sums(-1_000_000_000_000, 0, 0, 0), "-$1.00"),
    ] {
        assert_eq!(Known::of(&sums).shown(), shown, "{sums:?}");
    }
}

#[test]
fn people_read_a_table_with_the_dearest_first() {
    let by = [By::Model];
    assert_eq!(
        Sheet::new(&by, parts(), LostCalls::default(), &[]).text(&scope()),
        "project web\n\n\
         MODEL  CALLS  TOKENS IN  CACHED    OUT      COST   SHARE     SAVED  UNPRICED  UNSEEN\n\
         o3        10     12,000   3,000    500  ≥$0.0900   75.0%     $0.00         0       1\n\
         =gpt      10     12,000       0    500   $0.0300   25.0%  $0.00500         0       0\n\
         mine      10     12,000       0    500   unknown       -     $0.00        10       0\n\
         free      10          5       0    500     $0.00    0.0%     $0.00         0       0\n\
         total     40     36,005   3,000  2,000   ≥$0.120  100.0%  $0.00500        10       1\n\n\
         unpriced: 10 calls told what they used, and no price of theirs is known. Set one (`gristmill price\n\
         --help`), then `gristmill costs recompute`.\n\n\
         unseen: nobody saw how 1 call ended; at most $0.00900 more, as far as their prices are known.\n"
    );
}

#[test]
fn what_was_lost_with_workers_is_said_beside_the_sums() {
    let lost =
        |most, without_bound| LostCalls { workers: 2, runs: 90, most, bound_pico_usd: 31_000_000_000, without_bound };
    let by = [By::Model];
    let text = |lost| Sheet::new(&by, parts(), lost, &[]).text(&scope()).replace('\n', " ");
    assert!(!text(LostCalls::default()).contains("lost:"));
    for (lost, end) in [
        (lost(64, 0), "no line above has: at most $0.0310 in all."),
        (lost(64, 3), "no line above has: at most $0.0310, and that of 3 more is not known."),
        (lost(64, 64), "no line above has: what these may have cost is not known."),
    ] {
        let text = text(lost);
        assert!(text.contains("lost: 2 workers died while holding 90 runs; at most 64 calls of theirs"), "{text}");
        assert!(text.contains(end), "{text}");
    }
    let json = Sheet::new(&by, parts(), lost(64, 3), &[]).json(&scope());
    assert_eq!((&json["lost"]["calls_at_most"], &json["lost"]["bound_usd"]), (&64.into(), &"0.031000000000".into()));
}

#[test]
fn programs_read_exact_picodollars_and_twelve_digits() {
    let by = [By::Model];
    let json = Sheet::new(&by, parts(), LostCalls::default(), &[]).json(&scope());
    assert_eq!(json["lines"].as_array().unwrap().len(), 4);
    let first = &json["lines"][0];
    assert_eq!((&first["names"]["model"], &first["cost_is"]), (&"o3".into(), &"at_least".into()));
    assert_eq!((&first["cost_pico_usd"], &first["cost_usd"]), (&90_000_000_000_i64.into(), &"0.090000000000".into()));
    assert_eq!(&first["unseen_bound_usd"], "0.009000000000");
    let unknown = &json["lines"][2];
    assert_eq!((&unknown["cost_is"], &unknown["cost_pico_usd"]), (&"unknown".into(), &Value::Null));
    assert_eq!((&json["total"]["calls"], &json["scope"]["project"]), (&40.into(), &"web".into()));
}

#[test]
fn spreadsheets_read_no_formula_and_nothing_for_what_is_unknown() {
    let by = [By::Model];
    let text = Sheet::new(&by, parts(), LostCalls::default(), &[]).csv();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "model,calls,input_tokens,cached_input_tokens,cache_write_tokens,output_tokens,reasoning_tokens,unpriced_calls,\
         unseen_calls,cached_results,cost_usd,cost_is,saved_usd,unseen_bound_usd"
    );
    assert_eq!(lines[2], "'=gpt,10,12000,0,0,500,0,0,0,2,0.030000000000,exact,0.005000000000,0.000000000000");
    assert_eq!(lines[3], "mine,10,12000,0,0,500,0,10,0,0,,unknown,0.000000000000,0.000000000000");
    assert_eq!(lines.len(), 5);
}

#[test]
fn the_same_tokens_are_billed_at_the_other_models_plain_rates() {
    let other = Other { name: "gpt-4o-mini".to_owned(), price: Prices::shipped().at_key("gpt-4o-mini").unwrap() };
    let (by, others) = ([By::Day], [other]);
    let sheet = Sheet::new(&by, parts(), LostCalls::default(), &others);
    let json = sheet.json(&scope());
    // Days stay in their order: 12,000 of input at 0.15 and 500 of output at 0.60 dollars a million.
    let compared = &json["lines"][0]["compare"]["gpt-4o-mini"];
    assert_eq!(compared["cost_usd"], "0.002100000000");
    assert!((compared["ratio"].as_f64().unwrap() - 0.07).abs() < 1e-9, "{compared}");
    assert_eq!(json["lines"][2]["compare"]["gpt-4o-mini"]["ratio"], Value::Null, "a part is not known");
    assert!(sheet.text(&scope()).contains("$0.00210 (0.07×)"), "{}", sheet.text(&scope()));
    // 3,000 of them cached, at 0.075 dollars a million.
    assert_eq!(json["lines"][3]["compare"]["gpt-4o-mini"]["cost_usd"], "0.001875000000");
}
