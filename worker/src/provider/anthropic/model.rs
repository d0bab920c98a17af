//! What each of Anthropic's models can do, as far as a request must know.
//!
//! Facts from LiteLLM 1.109.1's `model_prices_and_context_window_backup.json` (the `supports_*` members,
//! `max_output_tokens` and `thinking_always_on`), read 2026-11-23, and from Anthropic's pages
//! <https://platform.claude.com/docs/en/build-with-claude/thinking-troubleshooting>, `…/effort`, `…/structured-outputs`,
//! `…/mid-conversation-system-messages` and <https://platform.claude.com/docs/en/about-claude/models/migration-guide>, read
//! 2026-08-22. Where the two differ, what both take is chosen.

/// How a model is asked to think.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Thinking {
    /// It cannot.
    None,
    /// With a budget of tokens.
    Budget,
    /// As it sees fit, steered by an effort.
    Adaptive,
}

/// Whether a model thinks where nothing is said of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unasked {
    No,
    /// It does, and can be told not to.
    Yes,
    /// It does, and refuses to be told not to.
    Always,
}

/// What a model can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) thinking: Thinking,
    pub(super) unasked: Unasked,
    /// Takes the effort `xhigh`.
    pub(super) xhigh: bool,
    /// Takes `temperature`, `top_p` and `top_k`.
    pub(super) sampling: bool,
    /// Takes `temperature` beside `top_p`.
    pub(super) both_samplers: bool,
    /// Can be forced to call a tool.
    pub(super) forced_tools: bool,
    /// Takes messages of the role `system` behind the first turn.
    pub(super) mid_system: bool,
    /// Takes `output_config.format` and strict tools.
    pub(super) schema: bool,
    /// Tokens of output that it gives at most.
    pub(super) most_output: u32,
}

impl Model {
    /// Finds a model by its name, whatever stands before `claude-` and however its date is written.
    ///
    /// A name that is not in the table is taken for a newer model that can do everything; what it cannot, the provider says.
    pub(super) fn of(name: &str) -> Self {
        let name = name.to_ascii_lowercase().replace('.', "-");
        let Some(start) = name.find("claude-") else { return UNKNOWN };
        let name = &name[start + "claude-".len()..];
        TABLE.iter().find(|(known, _)| is_version_of(name, known)).map_or(UNKNOWN, |(_, model)| *model)
    }
}

/// Tells whether a name is a known one with a date, `latest` or the like behind it, and not a further minor version.
fn is_version_of(name: &str, known: &str) -> bool {
    let Some(rest) = name.strip_prefix(known) else { return false };
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    match rest.strip_prefix('-') {
        Some(rest) => !matches!(digits(rest), 1 | 2),
        None => rest.is_empty() || rest.starts_with(['@', ':']),
    }
}

/// Returns the tokens of output that a model gives at most.
pub(in crate::provider) fn max_output_tokens(name: &str) -> u32 {
    Model::of(name).most_output
}

const UNKNOWN: Model = Model { sampling: true, both_samplers: true, most_output: 64_000, ..ADAPTIVE };

/// From Claude 4.7 on.
const ADAPTIVE: Model = Model {
    thinking: Thinking::Adaptive,
    unasked: Unasked::No,
    xhigh: true,
    sampling: false,
    both_samplers: false,
    forced_tools: true,
    mid_system: false,
    schema: true,
    most_output: 128_000,
};
const ALWAYS: Model = Model { unasked: Unasked::Always, mid_system: true, ..ADAPTIVE };
const NEVER_FORCED: Model = Model { forced_tools: false, ..ALWAYS };
const CLAUDE_4_6: Model = Model { xhigh: false, sampling: true, ..ADAPTIVE };
const CLAUDE_4_5: Model = Model { thinking: Thinking::Budget, most_output: 64_000, ..CLAUDE_4_6 };
const CLAUDE_4_1: Model = Model { schema: false, most_output: 32_000, ..CLAUDE_4_5 };
const CLAUDE_4: Model = Model { both_samplers: true, ..CLAUDE_4_1 };
const SONNET_4: Model = Model { most_output: 64_000, ..CLAUDE_4 };
const CLAUDE_3_5: Model = Model { most_output: 8_192, ..CLAUDE_3 };
const CLAUDE_3: Model = Model { thinking: Thinking::None, most_output: 4_096, ..CLAUDE_4 };

/// Names behind `claude-`.
const TABLE: &[(&str, Model)] = &[
    ("fable-5", ALWAYS),
    ("fable-5-1", NEVER_FORCED),
    ("mythos-5", ALWAYS),
    ("mythos-5-1", NEVER_FORCED),
    ("mythos-preview", Model { mid_system: false, xhigh: false, ..ALWAYS }),
    ("opus-5-5", NEVER_FORCED),
    ("sonnet-5-5", NEVER_FORCED),
    ("haiku-5-5", Model { unasked: Unasked::Yes, mid_system: true, ..ADAPTIVE }),
    ("opus-5", Model { unasked: Unasked::Yes, mid_system: true, ..ADAPTIVE }),
    // LiteLLM's map says that it takes system messages behind the first turn, Anthropic's page that it does not.
    ("sonnet-5", Model { unasked: Unasked::Yes, ..ADAPTIVE }),
    ("opus-4-8", Model { mid_system: true, ..ADAPTIVE }),
    ("opus-4-7", ADAPTIVE),
    ("opus-4-6", CLAUDE_4_6),
    ("sonnet-4-6", CLAUDE_4_6),
    ("opus-4-5", CLAUDE_4_5),
    ("sonnet-4-5", CLAUDE_4_5),
    ("haiku-4-5", CLAUDE_4_5),
    ("opus-4-1", CLAUDE_4_1),
    ("opus-4", CLAUDE_4),
    ("opus-4-0", CLAUDE_4),
    ("4-opus", CLAUDE_4),
    ("sonnet-4", SONNET_4),
    ("sonnet-4-0", SONNET_4),
    ("4-sonnet", SONNET_4),
    ("3-7-sonnet", SONNET_4),
    ("3-5-sonnet", CLAUDE_3_5),
    ("3-5-haiku", CLAUDE_3_5),
    ("3-opus", CLAUDE_3),
    ("3-sonnet", CLAUDE_3),
    ("3-haiku", CLAUDE_3),
    ("2", CLAUDE_3),
    ("2-0", CLAUDE_3),
    ("2-1", CLAUDE_3),
    ("instant", CLAUDE_3),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_however_they_are_written() {
        for (name, model) in [
            ("claude-opus-5-5", NEVER_FORCED),
            ("claude-opus-5-5-20261003", NEVER_FORCED),
            ("claude-opus-4-5-20251101", CLAUDE_4_5),
            ("Claude-Opus-4.5", CLAUDE_4_5),
            ("anthropic/claude-sonnet-4", SONNET_4),
            ("claude-sonnet-4-20250514", SONNET_4),
            ("claude-sonnet-4@20250514", SONNET_4),
            ("anthropic.claude-3-5-sonnet-20240620-v1:0", CLAUDE_3_5),
            ("claude-3-7-sonnet-latest", SONNET_4),
            ("claude-2.1", CLAUDE_3),
            ("claude-mythos-5-1", NEVER_FORCED),
            ("claude-mythos-5", ALWAYS),
            // Newer than the table, or none of Anthropic's names.
            ("claude-opus-5-6", UNKNOWN),
            ("claude-opus-7", UNKNOWN),
            ("claude-opus-50", UNKNOWN),
            ("my-alias", UNKNOWN),
            ("", UNKNOWN),
        ] {
            assert_eq!(Model::of(name), model, "{name}");
        }
    }
}
