use std::collections::BTreeSet;

use crate::metrics::{FAMILIES, Family, Kind};

/// The page that people read.
const DOCS: &str = include_str!("../../../docs/metrics.md");

#[test]
fn names_say_what_they_are_and_labels_are_of_closed_sets() {
    const LABELS: [&str; 18] = [
        "account",
        "action",
        "change",
        "class",
        "deployment",
        "dimension",
        "group",
        "http_status",
        "kind",
        "model",
        "outcome",
        "priority",
        "provider",
        "source",
        "status",
        "to",
        "verdict",
        "version",
    ];

    let mut names = BTreeSet::new();
    for family in FAMILIES {
        let name = family.name;
        assert!(names.insert(name), "{name} is there twice");
        assert!(name.starts_with("gristmill_") || name.starts_with("process_"), "{name}");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        assert_eq!(name.ends_with("_total"), family.kind == Kind::Counter, "{name}");
        assert!(family.help.ends_with('.') && !family.help.contains("  "), "{name}: {}", family.help);
        for label in family.labels {
            assert!(LABELS.contains(label), "{name} has the label {label}");
        }
    }
}

#[test]
fn the_documented_table_is_the_one_of_the_program() {
    let row = |family: &Family| {
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, kind, unit) = (family.name, family.kind.as_str(), family.unit);
        format!("| `{name}` | {kind} | {} | {unit} | {} |", labels.join(", "), family.help)
    };
    let expected: Vec<String> = FAMILIES.iter().map(row).collect();
    let documented: Vec<&str> =
        DOCS.lines().filter(|line| line.starts_with("| `gristmill_") || line.starts_with("| `process_")).collect();
    assert_eq!(documented, expected, "the table of docs/metrics.md is:\n{}", expected.join("\n"));
}

#[test]
fn what_the_page_asks_for_is_there() {
    let words = DOCS.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
    let mut seen = 0;
    for word in words.filter(|word| word.starts_with("gristmill_")) {
        let name = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix)).unwrap_or(word);
        assert!(FAMILIES.iter().any(|family| family.name == name), "{word}");
        seen += 1;
    }
    assert!(seen > FAMILIES.len(), "{seen}");
}
