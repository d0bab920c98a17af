//! Which of OpenAI's vocabularies a model reads its text with.

/// A vocabulary of OpenAI's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// `o200k_base`: gpt-4o and later.
    O200k,
    /// `cl100k_base`: gpt-4, gpt-3.5 and the embeddings.
    Cl100k,
}

/// Names of models, each the whole of a model's name or its first words, or what it begins with if that ends with a dot; the
/// first that fits counts. gpt-oss reads text as
/// `o200k_base` does, with further control tokens.
///
/// Source: <https://github.com/openai/tiktoken/blob/main/tiktoken/model.py>, read 2026-11.
const NAMES: [(&str, Family); 25] = [
    ("chatgpt-4o", Family::O200k),
    ("gpt-4o", Family::O200k),
    ("gpt-4.1", Family::O200k),
    ("gpt-4.5", Family::O200k),
    ("gpt-5", Family::O200k),
    ("gpt-5.", Family::O200k),
    ("gpt-oss", Family::O200k),
    ("o1", Family::O200k),
    ("o3", Family::O200k),
    ("o4", Family::O200k),
    // Not in that table yet: what learns from answers corrects it if it should be wrong.
    ("gpt-6", Family::O200k),
    ("gpt-6.", Family::O200k),
    // As people call deployments at Azure.
    ("gpt4o", Family::O200k),
    ("gpt-41", Family::O200k),
    ("gpt41", Family::O200k),
    ("gpt5", Family::O200k),
    ("gpt-4", Family::Cl100k),
    ("gpt-3.5", Family::Cl100k),
    ("gpt-35", Family::Cl100k),
    ("gpt4", Family::Cl100k),
    ("gpt35", Family::Cl100k),
    ("text-embedding-3", Family::Cl100k),
    ("text-embedding-ada-002", Family::Cl100k),
    ("davinci-002", Family::Cl100k),
    ("babbage-002", Family::Cl100k),
];

impl Family {
    /// Returns the vocabulary of a provider's model, if it is one of OpenAI's.
    ///
    /// Azure's deployments are called as their owners like: one whose name has a model's name among its words is taken for it.
    pub fn of(provider: &str, model: &str) -> Option<Self> {
        if !cfg!(feature = "exact") || provider == "anthropic" {
            return None;
        }
        find(provider, model, &NAMES)
    }
}

/// Returns what stands beside the first name that fits a model.
pub(crate) fn find<T: Copy>(provider: &str, model: &str, names: &[(&str, T)]) -> Option<T> {
    let model = model.to_ascii_lowercase();
    let anywhere = provider.starts_with("azure");
    // Routers put the maker before the name: `openai/gpt-4o`.
    let name = model.rsplit('/').next().unwrap_or(&model);
    let name = name.strip_prefix("ft:").unwrap_or(name);
    names.iter().find(|(known, _)| fits(name, known, anywhere)).map(|(_, found)| *found)
}

/// Tells whether a name begins with the words of another one, or has them anywhere.
fn fits(name: &str, known: &str, anywhere: bool) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '.';
    name.match_indices(known).any(|(at, _)| {
        let starts = at == 0 || (anywhere && !name[..at].ends_with(is_word));
        starts && (known.ends_with('.') || !name[at + known.len()..].starts_with(is_word))
    })
}

#[cfg(all(test, feature = "exact"))]
mod tests {
    use super::*;

    #[test]
    fn models_are_known_by_their_names() {
        let (new, old) = (Some(Family::O200k), Some(Family::Cl100k));
        for (provider, model, wanted) in [
            ("openai", "gpt-4o", new),
            ("openai", "gpt-4o-mini-2024-07-18", new),
            ("openai", "chatgpt-4o-latest", new),
            ("openai", "gpt-4.1-nano", new),
            ("openai", "gpt-5", new),
            ("openai", "gpt-5.2-mini", new),
            ("openai", "o1", new),
            ("openai", "o3-pro", new),
            ("openai", "o4-mini", new),
            ("openai", "ft:gpt-4o-mini:acme::abc", new),
            ("openrouter", "openai/gpt-4o", new),
            ("groq", "openai/gpt-oss-120b", new),
            ("openai", "gpt-4", old),
            ("openai", "gpt-4-1106-preview", old),
            ("openai", "gpt-4-turbo", old),
            ("openai", "gpt-3.5-turbo", old),
            ("openai", "ft:gpt-3.5-turbo:acme", old),
            ("openai", "text-embedding-3-small", old),
            ("openai", "text-embedding-ada-002", old),
            ("azure", "gpt-35-turbo", old),
            ("azure", "Prod-GPT-4o-west", new),
            ("azure", "team_gpt4o", new),
            ("azure", "contoso-o3-mini", new),
            ("azure", "contoso-gpt-4", old),
            ("azure", "my-text-embedding-3-large", old),
            ("azure", "my-deployment", None),
            ("azure", "foo1", None),
            ("openai", "text-davinci-003", None),
            ("openai", "my-gpt-4o", None),
            ("anthropic", "claude-sonnet-4-5", None),
            ("groq", "llama-3.3-70b-versatile", None),
            ("mistral", "open-mistral-7b", None),
            ("openai", "", None),
        ] {
            assert_eq!(Family::of(provider, model), wanted, "{provider} {model}");
        }
    }
}
