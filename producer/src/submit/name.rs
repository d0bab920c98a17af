//! What a batch may be called: whatever every command can name it by again.

use gristmill_common::id::BatchId;

use crate::error::{Error, Result};

/// Longest name, in characters.
const LONGEST: usize = 200;

/// Refuses a name by which the batch could not be addressed.
///
/// # Errors
///
/// [`Error::Name`], which says what is allowed.
pub(super) fn check(name: &str) -> Result<()> {
    let problem = if name.is_empty() {
        "is empty"
    } else if name.chars().count() > LONGEST {
        "is too long"
    } else if name.starts_with('@') {
        "begins with @, as @last does"
    } else if name.starts_with('-') {
        "begins with -, as an option does"
    } else if name.contains('/') {
        "has a / in it"
    } else if name.contains(char::is_control) {
        "has a control character in it"
    } else if name.trim() != name {
        "begins or ends with a blank"
    } else if name.parse::<BatchId>().is_ok() {
        "has the form of a batch's id"
    } else {
        return Ok(());
    };
    Err(Error::Name { name: name.chars().take(LONGEST).collect(), problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_if_every_command_can_address_it() {
        let id = "0196b3a0-1111-7222-8333-444455556666";
        let long = "x".repeat(LONGEST);
        for name in ["sweep-7", "a b", "Prüfung №1", "v1.2@host", "beef", "last", &long] {
            assert!(check(name).is_ok(), "{name}");
        }
        let too_long = "é".repeat(LONGEST + 1);
        for name in
            ["", "@last", "@x", "--json", "a/b", "a\nb", "\u{7f}", " a", "a\t", id, &id.replace('-', ""), &too_long]
        {
            assert!(matches!(check(name), Err(Error::Name { .. })), "{name:?}");
        }
    }

    #[test]
    fn the_refusal_says_what_is_allowed() {
        assert_eq!(
            check("a/b\u{1b}").unwrap_err().to_string(),
            r#"the batch name "a/b\u{1b}" has a / in it; a name has 1 to 200 characters, no / and no control characters, does not begin with @ or -, nor begin or end with a blank, and is no batch id"#
        );
    }
}
