//! The providers that are built in: what each speaks, where it is, and which variables name its key.
//!
//! Names, addresses and variables are LiteLLM's: version 1.109 (`litellm_core_utils/get_llm_provider_logic.py`, `llms/`), read
//! 2026-11-23. An endpoint without a path gets the provider's own, as its clients do.

use super::near::nearest;

/// Which API a deployment speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Dialect {
    /// OpenAI's, and that of every compatible server.
    #[default]
    OpenAi,
    /// OpenAI's as Azure serves it.
    Azure,
    /// Anthropic's Messages.
    Anthropic,
}

/// A provider that is built in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Provider {
    /// What stands before the slash of a model's name.
    pub(super) name: &'static str,
    pub(super) dialect: Dialect,
    /// Its own endpoint; none where everybody has another.
    pub(super) api_base: Option<&'static str>,
    /// Variables that name another endpoint, the first that is set winning.
    pub(super) base_variables: &'static [&'static str],
    /// Variables that hold its key, the first that is set winning.
    pub(super) key_variables: &'static [&'static str],
    /// Whether its own endpoint takes no call without a key.
    pub(super) needs_key: bool,
}

/// Variables whose values go as a bearer token, where the dialect has a header of its own for keys.
const TOKENS: [&str; 2] = ["AZURE_AD_TOKEN", "ANTHROPIC_AUTH_TOKEN"];

/// Tells whether the value of a variable goes as a bearer token.
pub(super) fn is_token(variable: &str) -> bool {
    TOKENS.iter().any(|token| variable.strip_suffix("_FILE").unwrap_or(variable) == *token)
}

macro_rules! providers {
    ($($name:literal $dialect:ident $base:expr, [$($base_variable:literal)*], [$($key:literal)*], $needs_key:literal;)*) => {
        /// All of them, OpenAI first.
        pub(super) static PROVIDERS: &[Provider] = &[$(Provider {
            name: $name,
            dialect: Dialect::$dialect,
            api_base: $base,
            base_variables: &[$($base_variable),*],
            key_variables: &[$($key),*],
            needs_key: $needs_key,
        }),*];
    };
}

providers! {
    "openai" OpenAi Some("https://api.openai.com/v1"), ["OPENAI_BASE_URL" "OPENAI_API_BASE"], ["OPENAI_API_KEY"], true;
    "azure" Azure None, ["AZURE_API_BASE" "AZURE_OPENAI_ENDPOINT"], ["AZURE_API_KEY" "AZURE_OPENAI_API_KEY" "AZURE_AD_TOKEN"], true;
    "anthropic" Anthropic Some("https://api.anthropic.com"), ["ANTHROPIC_API_BASE" "ANTHROPIC_BASE_URL"], ["ANTHROPIC_API_KEY" "ANTHROPIC_AUTH_TOKEN"], true;
    "cerebras" OpenAi Some("https://api.cerebras.ai/v1"), ["CEREBRAS_API_BASE"], ["CEREBRAS_API_KEY"], true;
    "deepinfra" OpenAi Some("https://api.deepinfra.com/v1/openai"), ["DEEPINFRA_API_BASE"], ["DEEPINFRA_API_KEY"], true;
    "deepseek" OpenAi Some("https://api.deepseek.com/v1"), ["DEEPSEEK_API_BASE"], ["DEEPSEEK_API_KEY"], true;
    "fireworks_ai" OpenAi Some("https://api.fireworks.ai/inference/v1"), ["FIREWORKS_API_BASE"], ["FIREWORKS_API_KEY" "FIREWORKS_AI_API_KEY"], true;
    "gemini" OpenAi Some("https://generativelanguage.googleapis.com/v1beta/openai"), [], ["GEMINI_API_KEY" "GOOGLE_API_KEY"], true;
    "groq" OpenAi Some("https://api.groq.com/openai/v1"), ["GROQ_API_BASE"], ["GROQ_API_KEY"], true;
    "hosted_vllm" OpenAi None, ["HOSTED_VLLM_API_BASE"], ["HOSTED_VLLM_API_KEY"], false;
    "litellm_proxy" OpenAi None, ["LITELLM_PROXY_API_BASE"], ["LITELLM_PROXY_API_KEY"], false;
    "llamafile" OpenAi Some("http://127.0.0.1:8080/v1"), ["LLAMAFILE_API_BASE"], ["LLAMAFILE_API_KEY"], false;
    "lm_studio" OpenAi Some("http://127.0.0.1:1234/v1"), ["LM_STUDIO_API_BASE"], ["LM_STUDIO_API_KEY"], false;
    "mistral" OpenAi Some("https://api.mistral.ai/v1"), ["MISTRAL_API_BASE"], ["MISTRAL_API_KEY"], true;
    "moonshot" OpenAi Some("https://api.moonshot.ai/v1"), ["MOONSHOT_API_BASE"], ["MOONSHOT_API_KEY"], true;
    "nvidia_nim" OpenAi Some("https://integrate.api.nvidia.com/v1"), ["NVIDIA_NIM_API_BASE"], ["NVIDIA_NIM_API_KEY"], true;
    "ollama" OpenAi Some("http://127.0.0.1:11434/v1"), ["OLLAMA_API_BASE"], ["OLLAMA_API_KEY"], false;
    "ollama_chat" OpenAi Some("http://127.0.0.1:11434/v1"), ["OLLAMA_API_BASE"], ["OLLAMA_API_KEY"], false;
    "openrouter" OpenAi Some("https://openrouter.ai/api/v1"), ["OPENROUTER_API_BASE"], ["OPENROUTER_API_KEY"], true;
    "sambanova" OpenAi Some("https://api.sambanova.ai/v1"), ["SAMBANOVA_API_BASE"], ["SAMBANOVA_API_KEY"], true;
    "together_ai" OpenAi Some("https://api.together.ai/v1"), ["TOGETHER_AI_API_BASE"], ["TOGETHER_API_KEY" "TOGETHER_AI_API_KEY" "TOGETHERAI_API_KEY"], true;
    "xai" OpenAi Some("https://api.x.ai/v1"), ["XAI_API_BASE"], ["XAI_API_KEY"], true;
}

/// Prefixes that LiteLLM 1.109 (`types/utils.py`, `LlmProviders`) knows and that are not built in, the common ones: their names
/// are told from models such as `meta-llama/Llama-3.1-8B`.
const NOT_BUILT_IN: &str = "ai21 anyscale azure_ai azure_text baseten bedrock bedrock_converse cloudflare codestral cohere \
    cohere_chat dashscope databricks friendliai github github_copilot huggingface hyperbolic jina_ai moonshot_ai nebius \
    novita nscale perplexity replicate sagemaker sagemaker_chat snowflake text-completion-openai triton \
    vercel_ai_gateway vertex_ai volcengine voyage watsonx xinference";

/// Names of LiteLLM's for any compatible endpoint.
const COMPATIBLE: [&str; 3] = ["custom_openai", "openai_like", "vllm"];

/// Returns OpenAI.
pub(super) fn openai() -> &'static Provider {
    &PROVIDERS[0]
}

/// Finds a provider by its name.
pub(super) fn find(name: &str) -> Option<&'static Provider> {
    if COMPATIBLE.contains(&name) {
        return Some(openai());
    }
    PROVIDERS.iter().find(|provider| provider.name == name)
}

/// Splits a LiteLLM model name into provider and model; the error is a provider that is not built in.
pub(super) fn split(name: &str) -> (Result<&'static Provider, String>, String) {
    match name.split_once('/') {
        Some((prefix, model)) if !model.is_empty() => match find(prefix) {
            Some(provider) => (Ok(provider), model.to_owned()),
            None if NOT_BUILT_IN.split_whitespace().any(|other| other == prefix) => {
                (Err(prefix.to_owned()), name.to_owned())
            }
            // `meta-llama/Llama-3.1-8B` is a name, not a provider.
            None => (Ok(openai()), name.to_owned()),
        },
        _ => (Ok(openai()), name.to_owned()),
    }
}

/// Says which providers there are, the near one first where a name is nearly one.
pub(super) fn known(name: &str) -> String {
    let names: Vec<&str> = PROVIDERS.iter().map(|provider| provider.name).collect();
    let near = nearest(name, names.iter().copied()).map_or_else(String::new, |near| format!("did you mean {near}? "));
    format!("{near}built in are {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::Endpoint;
    use super::super::options::Parse as _;
    use super::*;

    #[test]
    fn names_are_split_at_providers_and_not_at_folders() {
        for (name, provider, model) in [
            ("gpt-4o", Ok("openai"), "gpt-4o"),
            ("openai/gpt-4o", Ok("openai"), "gpt-4o"),
            ("azure/my-deployment", Ok("azure"), "my-deployment"),
            ("anthropic/claude-opus-5-5", Ok("anthropic"), "claude-opus-5-5"),
            ("openrouter/anthropic/claude-opus-5-5", Ok("openrouter"), "anthropic/claude-opus-5-5"),
            ("groq/llama-3.3-70b-versatile", Ok("groq"), "llama-3.3-70b-versatile"),
            ("custom_openai/x", Ok("openai"), "x"),
            ("meta-llama/Llama-3.1-8B", Ok("openai"), "meta-llama/Llama-3.1-8B"),
            ("bedrock/claude", Err("bedrock"), "bedrock/claude"),
            ("azure/", Ok("openai"), "azure/"),
        ] {
            let (found, rest) = split(name);
            let found = found.as_ref().map(|provider| provider.name).map_err(String::as_str);
            assert_eq!((found, rest.as_str()), (provider, model), "{name}");
        }
    }

    #[test]
    fn every_endpoint_is_an_address_and_every_name_stands_once() {
        for (at, provider) in PROVIDERS.iter().enumerate() {
            if let Some(base) = provider.api_base {
                assert!(Endpoint::parse(base).is_ok(), "{}", provider.name);
            } else {
                assert!(!provider.base_variables.is_empty(), "{}", provider.name);
            }
            assert!(!PROVIDERS[..at].iter().any(|other| other.name == provider.name));
            assert!(!NOT_BUILT_IN.split_whitespace().any(|other| other == provider.name), "{}", provider.name);
        }
    }

    #[test]
    fn the_documentation_lists_all_of_them_with_their_variables() {
        let page = include_str!("../../../docs/providers.md");
        for provider in PROVIDERS {
            let row = page.lines().find(|line| line.starts_with(&format!("| `{}/` |", provider.name)));
            let row = row.unwrap_or_else(|| panic!("{} is missing", provider.name));
            let names = provider.base_variables.iter().chain(provider.key_variables);
            for name in names.chain(&provider.api_base) {
                assert!(row.contains(&format!("`{name}`")), "{name} is missing in {row}");
            }
        }
    }

    #[test]
    fn the_near_name_comes_first() {
        assert!(known("antropic").starts_with("did you mean anthropic? built in are openai, azure"));
    }
}
