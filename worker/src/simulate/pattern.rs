//! Texts that match a regular expression, for string schemas with a `pattern`.
//!
//! Owns the common subset: literals, classes, escapes, groups, alternatives and quantifiers. What looks around, refers
//! back or names properties of characters is not followed.

use std::iter::Peekable;
use std::str::Chars;

use super::random::Random;

/// Groups within groups that are followed.
const MAX_DEPTH: usize = 16;

/// What an open-ended quantifier adds to its minimum, at most.
const MAX_EXTRA: usize = 3;

/// Repetitions of one thing, whatever the pattern says.
const MAX_REPEATS: usize = 1_000;

/// A part of a pattern.
#[derive(Debug)]
enum Node {
    /// One of these characters; never empty.
    OneOf(Vec<char>),
    /// One of these sequences.
    Choice(Vec<Vec<Node>>),
    Repeat(Box<Node>, usize, usize),
}

/// Makes a text that matches; `None` when the pattern is not one, or uses what is not followed.
pub(super) fn text(pattern: &str, random: &mut Random) -> Option<String> {
    let mut chars = pattern.chars().peekable();
    let whole = alternatives(&mut chars, 0)?;
    if chars.next().is_some() {
        return None;
    }
    let mut text = String::new();
    write(&Node::Choice(whole), random, &mut text);
    Some(text)
}

fn write(node: &Node, random: &mut Random, text: &mut String) {
    match node {
        Node::OneOf(chars) => text.push(chars[random.below(chars.len())]),
        Node::Choice(sequences) => {
            for node in &sequences[random.below(sequences.len())] {
                write(node, random, text);
            }
        }
        Node::Repeat(node, min, max) => {
            let extra = (max - min).min(MAX_EXTRA);
            for _ in 0..min + random.below(extra + 1) {
                write(node, random, text);
            }
        }
    }
}

/// Reads up to the end of the group.
fn alternatives(chars: &mut Peekable<Chars<'_>>, depth: usize) -> Option<Vec<Vec<Node>>> {
    if depth > MAX_DEPTH {
        return None;
    }
    let mut sequences = vec![Vec::new()];
    while let Some(&c) = chars.peek() {
        if c == ')' {
            break;
        }
        chars.next();
        let sequence = sequences.last_mut()?;
        match c {
            '|' => sequences.push(Vec::new()),
            '^' | '$' => {}
            _ => {
                let node = match c {
                    '(' => group(chars, depth)?,
                    '[' => Node::OneOf(class(chars)?),
                    '.' => Node::OneOf(('a'..='z').collect()),
                    '\\' => Node::OneOf(escape(chars.next()?)?),
                    '*' | '+' | '?' | '{' => return None,
                    literal => Node::OneOf(vec![literal]),
                };
                sequence.push(quantified(node, chars)?);
            }
        }
    }
    Some(sequences)
}

/// Reads a group after its opening bracket.
fn group(chars: &mut Peekable<Chars<'_>>, depth: usize) -> Option<Node> {
    if chars.next_if_eq(&'?').is_some() {
        chars.next_if_eq(&':')?;
    }
    let sequences = alternatives(chars, depth + 1)?;
    chars.next_if_eq(&')')?;
    Some(Node::Choice(sequences))
}

/// Reads a quantifier, where one stands.
fn quantified(node: Node, chars: &mut Peekable<Chars<'_>>) -> Option<Node> {
    let (min, max) = match chars.peek() {
        Some('?') => (0, 1),
        Some('*') => (0, usize::MAX),
        Some('+') => (1, usize::MAX),
        Some('{') => {
            chars.next();
            let bounds: String = std::iter::from_fn(|| chars.next_if(|c| *c != '}')).collect();
            match bounds.split_once(',') {
                None => (bounds.parse().ok()?, bounds.parse().ok()?),
                Some((min, "")) => (min.parse().ok()?, usize::MAX),
                Some((min, max)) => (min.parse().ok()?, max.parse().ok()?),
            }
        }
        _ => return Some(node),
    };
    chars.next()?;
    chars.next_if_eq(&'?');
    (min <= max && min <= MAX_REPEATS).then(|| Node::Repeat(Box::new(node), min, max))
}

/// Reads a class after its opening bracket.
fn class(chars: &mut Peekable<Chars<'_>>) -> Option<Vec<char>> {
    let is_negated = chars.next_if_eq(&'^').is_some();
    let mut members = Vec::new();
    let mut is_first = true;
    loop {
        let first = match chars.next()? {
            ']' if !is_first => break,
            '\\' => {
                let escaped = escape(chars.next()?)?;
                let [only] = escaped[..] else {
                    members.extend(escaped);
                    is_first = false;
                    continue;
                };
                only
            }
            c => c,
        };
        is_first = false;
        let mut ahead = chars.clone();
        if ahead.next() == Some('-') && ahead.peek().is_some_and(|c| *c != ']') {
            chars.next();
            let last = match chars.next()? {
                '\\' => *escape(chars.next()?)?.first()?,
                c => c,
            };
            members.extend((first..=last).take(128));
        } else {
            members.push(first);
        }
    }
    if is_negated {
        members = (' '..='~').filter(|c| !members.contains(c)).collect();
    }
    (!members.is_empty()).then_some(members)
}

/// Returns what an escaped character stands for.
fn escape(c: char) -> Option<Vec<char>> {
    Some(match c {
        'd' => ('0'..='9').collect(),
        'w' => ('a'..='z').chain('A'..='Z').chain('0'..='9').chain(['_']).collect(),
        's' => vec![' '],
        'D' | 'S' => vec!['x'],
        'W' => vec!['-'],
        't' => vec!['\t'],
        'n' => vec!['\n'],
        'r' => vec!['\r'],
        c if c.is_ascii_alphanumeric() => return None,
        c => vec![c],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_the_form_of_the_pattern() {
        let is = |text: &str, wanted: fn(char) -> bool| text.chars().all(wanted);
        for seed in 0..50 {
            let make = |pattern: &str| text(pattern, &mut Random::from_seed(seed)).unwrap();
            let code = make("^[A-Z]{2}-\\d{3,5}$");
            assert!((6..=8).contains(&code.len()), "{code}");
            assert!(is(&code[..2], |c| c.is_ascii_uppercase()) && is(&code[3..], |c| c.is_ascii_digit()), "{code}");
            assert!(["red", "green"].contains(&make("^(?:red|green)$").as_str()));
            assert!(!make("[^a-y ]+").contains(|c: char| ('a'..='y').contains(&c)));
            assert!(make("\\w+@mill\\.org").ends_with("@mill.org"));
            assert!(["[", "]", "-"].contains(&make("[][-]").as_str()));
            assert_eq!(make("a{3}(b(c)?){0}"), "aaa");
        }
    }

    #[test]
    fn what_is_not_followed_is_not_guessed() {
        for pattern in ["(?=a)b", "(?<name>a)", "(a)\\1", "\\p{L}", "(a", "a)", "[a", "*a", "a{2,1}", "a{x}", "a\\"] {
            assert_eq!(text(pattern, &mut Random::from_seed(1)), None, "{pattern}");
        }
    }
}
