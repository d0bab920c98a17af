//! CSV (RFC 4180) for spreadsheets: what came from outside cannot become a formula there.
//!
//! A text that a spreadsheet would take for a formula gets an apostrophe in front
//! (<https://owasp.org/www-community/attacks/CSV_Injection>, read 2026-11). Numbers stay numbers, negative ones too.

/// One cell of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell<'a> {
    /// A text, whoever wrote it.
    Text(&'a str),
    /// A number as it is to be read.
    Number(String),
    /// Nothing is known.
    Empty,
}

/// Writes one record, its newline included.
pub fn record<'a>(cells: impl IntoIterator<Item = Cell<'a>>) -> String {
    let cells: Vec<String> = cells.into_iter().map(cell).collect();
    format!("{}\n", cells.join(","))
}

fn cell(cell: Cell<'_>) -> String {
    let text = match cell {
        Cell::Empty => return String::new(),
        Cell::Number(number) => return number,
        Cell::Text(text) if may_be_formula(text) => format!("'{text}"),
        Cell::Text(text) => text.to_owned(),
    };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

/// Tells whether a spreadsheet would take a text for a formula, also one that is typed wide; a plain number is none.
pub fn may_be_formula(text: &str) -> bool {
    text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']) && !is_number(text)
}

/// Tells whether a text is a plain number, such as `-5` or `+1.5e-6`.
fn is_number(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_digit() || matches!(c, '.' | '+' | '-' | 'e' | 'E');
    text.chars().all(is_part) && text.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_becomes_a_formula() {
        for (text, written) in [
            ("gpt-4o", "gpt-4o"),
            ("", ""),
            ("=1+1", "'=1+1"),
            ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
            ("-2+3", "'-2+3"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\t=1", "'\t=1"),
            ("＝1+1", "'＝1+1"),
            ("\r=1", "\"'\r=1\""),
            ("=HYPERLINK(\"http://x\",\"y\")", "\"'=HYPERLINK(\"\"http://x\"\",\"\"y\"\")\""),
            ("a,\"b\"", "\"a,\"\"b\"\"\""),
            ("two\nlines", "\"two\nlines\""),
            ("-5", "-5"),
            ("+1.5e-6", "+1.5e-6"),
            ("-", "'-"),
            ("-inf", "'-inf"),
        ] {
            assert_eq!(record([Cell::Text(text)]), format!("{written}\n"), "{text:?}");
        }
    }

    #[test]
    fn numbers_stay_numbers_and_what_is_unknown_is_empty() {
        let cells = [Cell::Text("a"), Cell::Number("-0.000000000001".to_owned()), Cell::Empty, Cell::Text("b")];
        assert_eq!(record(cells), "a,-0.000000000001,,b\n");
    }
}
