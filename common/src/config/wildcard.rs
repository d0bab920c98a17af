//! Model groups with `*` in their names, such as `openai/*`: which names they take, and which model each is.

/// Tells whether the name of a model group is a pattern, which stands for many groups.
pub fn is_pattern(group: &str) -> bool {
    group.contains('*')
}

/// Returns what stands for each `*` of a pattern in a name, or `None` where the name is not of its form.
///
/// Every `*` stands for one character at least, and an earlier one for as many as it can.
pub(super) fn captures<'a>(pattern: &str, name: &'a str) -> Option<Vec<&'a str>> {
    let Some((before, after)) = pattern.split_once('*') else {
        return (pattern == name).then(Vec::new);
    };
    let rest = name.strip_prefix(before)?;
    let ends = rest.char_indices().map(|(at, c)| at + c.len_utf8()).rev();
    ends.into_iter().find_map(|end| {
        let mut found = vec![&rest[..end]];
        found.extend(captures(after, &rest[end..])?);
        Some(found)
    })
}

/// Puts what a pattern took into the model's name; a model without `*` stays as it is, and one with too few is `name`.
pub(super) fn fill(model: &str, captures: &[&str], name: &str) -> String {
    let wildcards = model.matches('*').count();
    if wildcards > 0 && captures.len() > wildcards {
        return name.to_owned();
    }
    captures.iter().fold(model.to_owned(), |model, capture| model.replacen('*', capture, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_by_patterns_and_filled_into_models() {
        for (pattern, model, name, filled) in [
            ("openai/*", "openai/*", "openai/gpt-4o", Some("openai/gpt-4o")),
            ("fast/*", "groq/*", "fast/llama-3.3", Some("groq/llama-3.3")),
            ("*", "*", "anthropic/claude-opus-5-5", Some("anthropic/claude-opus-5-5")),
            ("*", "openai/*", "gpt-4o", Some("openai/gpt-4o")),
            ("any-*", "openai/gpt-4o", "any-thing", Some("openai/gpt-4o")),
            ("a::*::b::*", "openai/a::*::b::*", "a::1::b::2", Some("openai/a::1::b::2")),
            ("*-*", "openai/*", "x-y", Some("x-y")),
            ("*llama3*", "bedrock/meta.llama3*", "my-llama3-70b", Some("my-llama3-70b")),
            ("ö*ü", "m/*", "öäü", Some("m/ä")),
            ("openai/*", "openai/*", "openai/", None),
            ("openai/*", "openai/*", "azure/gpt-4o", None),
            ("*-mini", "openai/*", "gpt-4o", None),
            ("gpt-4o", "openai/gpt-4o", "gpt-4o-mini", None),
        ] {
            let found = captures(pattern, name).map(|captures| fill(model, &captures, name));
            assert_eq!(found.as_deref(), filled, "{pattern} {name}");
        }
    }
}
