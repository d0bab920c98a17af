//! Which API a request speaks to, and what it asks of it: read from the path, the query and the headers.

use http::HeaderMap;

use super::dialect::{Dialect, anthropic, azure, openai};

/// What a call asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Chat,
    Completions,
    Embeddings,
    Responses,
    Messages,
    CountTokens,
}

impl Operation {
    /// Returns the path as the vendors' batch formats name it, whatever the path was.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
            Self::CountTokens => "/v1/messages/count_tokens",
        }
    }

    /// Returns the field that holds the prompt.
    pub(super) const fn prompt_field(self) -> &'static str {
        match self {
            Self::Chat | Self::Messages | Self::CountTokens => "messages",
            Self::Completions => "prompt",
            Self::Embeddings | Self::Responses => "input",
        }
    }

    /// Tells whether the answer can come as a stream.
    pub(super) const fn can_stream(self) -> bool {
        !matches!(self, Self::Embeddings | Self::CountTokens)
    }

    /// Tells whether the rate limits count it; counting tokens has limits of its own at Anthropic.
    pub(super) const fn is_metered(self) -> bool {
        !matches!(self, Self::CountTokens)
    }
}

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// What costs money at a real provider.
    Call(Operation),
    /// The list of models.
    Models,
    /// Nothing of an API.
    Other,
}

/// Where a request goes.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) dialect: &'static dyn Dialect,
    pub(super) target: Target,
    /// The deployment that an Azure path names.
    pub(super) deployment: Option<String>,
    /// Azure's `api-version`, or Anthropic's `anthropic-version`.
    pub(super) version: Option<String>,
    /// Whether it is a path of Azure that must name its version.
    pub(super) needs_version: bool,
}

impl Route {
    /// Reads where a request goes.
    pub(super) fn of(path: &str, query: Option<&str>, headers: &HeaderMap) -> Self {
        if let Some(rest) = path.strip_prefix("/openai/") {
            return Self::azure(rest, query);
        }
        let version = headers.get("anthropic-version").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let is_below = path.strip_prefix("/anthropic");
        let rest = is_below.unwrap_or(path);
        let rest = rest.strip_prefix("/v1").unwrap_or(rest);
        let target = match rest {
            "/messages" => Target::Call(Operation::Messages),
            "/messages/count_tokens" => Target::Call(Operation::CountTokens),
            "/models" => Target::Models,
            _ => Target::Other,
        };
        let openai = openai_target(rest.strip_prefix('/').unwrap_or_default());
        let is_anthropic = match target {
            Target::Call(_) => true,
            _ => is_below.is_some() || (version.is_some() && !matches!(openai, Target::Call(_))),
        };
        if is_anthropic {
            return Self { dialect: &anthropic::Anthropic, target, deployment: None, version, needs_version: false };
        }
        Self { dialect: &openai::OpenAi, target: openai, deployment: None, version: None, needs_version: false }
    }

    /// Reads a path below `/openai/`.
    fn azure(rest: &str, query: Option<&str>) -> Self {
        let version = query.into_iter().flat_map(|query| query.split('&'));
        let version = version.filter_map(|pair| pair.strip_prefix("api-version=")).next_back();
        let (deployment, rest, needs_version) = if let Some(rest) = rest.strip_prefix("v1/") {
            (None, rest, false)
        } else if let Some((deployment, rest)) = rest.strip_prefix("deployments/").and_then(|rest| rest.split_once('/'))
        {
            (Some(deployment.to_owned()), rest, true)
        } else {
            (None, rest, true)
        };
        let version = version.filter(|version| !version.is_empty()).map(str::to_owned);
        Self { dialect: &azure::Azure, target: openai_target(rest), deployment, version, needs_version }
    }

    /// Returns what is called, where something is.
    pub(super) fn operation(&self) -> Option<Operation> {
        if let Target::Call(operation) = self.target { Some(operation) } else { None }
    }
}

/// Finds what stands at a path of OpenAI, without `/v1/`.
fn openai_target(rest: &str) -> Target {
    match rest {
        "chat/completions" => Target::Call(Operation::Chat),
        "completions" => Target::Call(Operation::Completions),
        "embeddings" => Target::Call(Operation::Embeddings),
        "responses" => Target::Call(Operation::Responses),
        "models" => Target::Models,
        _ => Target::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_their_dialect() {
        let chat = Target::Call(Operation::Chat);
        let table = [
            ("/v1/chat/completions", None, "openai", chat),
            ("/chat/completions", None, "openai", chat),
            ("/v1/responses", None, "openai", Target::Call(Operation::Responses)),
            ("/v1/models", None, "openai", Target::Models),
            ("/v1/images", None, "openai", Target::Other),
            ("/", None, "openai", Target::Other),
            ("/openai/deployments/d/chat/completions", Some("api-version=2024-10-21"), "azure", chat),
            (
                "/openai/deployments/d/embeddings",
                Some("a=b&api-version=x"),
                "azure",
                Target::Call(Operation::Embeddings),
            ),
            ("/openai/v1/chat/completions", None, "azure", chat),
            ("/openai/responses", Some("api-version=x"), "azure", Target::Call(Operation::Responses)),
            ("/openai/deployments/d", None, "azure", Target::Other),
            ("/v1/messages", None, "anthropic", Target::Call(Operation::Messages)),
            ("/messages", None, "anthropic", Target::Call(Operation::Messages)),
            ("/anthropic/v1/messages", None, "anthropic", Target::Call(Operation::Messages)),
            ("/v1/messages/count_tokens", None, "anthropic", Target::Call(Operation::CountTokens)),
            ("/anthropic/v1/models", None, "anthropic", Target::Models),
            ("/anthropic/v1/chat/completions", None, "anthropic", Target::Other),
        ];
        for (path, query, dialect, target) in table {
            let route = Route::of(path, query, &HeaderMap::new());
            assert_eq!((route.dialect.name(), route.target), (dialect, target), "{path}");
        }
    }

    #[test]
    fn a_version_of_anthropic_tells_whose_models_are_meant() {
        let mut headers = HeaderMap::new();
        headers.insert("anthropic-version", http::HeaderValue::from_static("2023-06-01"));
        assert_eq!(Route::of("/v1/models", None, &headers).dialect.name(), "anthropic");
        assert_eq!(Route::of("/v1/chat/completions", None, &headers).dialect.name(), "openai");
        assert_eq!(Route::of("/v1/messages", None, &headers).version.as_deref(), Some("2023-06-01"));
    }

    #[test]
    fn a_deployment_and_its_version_are_read() {
        let route =
            Route::of("/openai/deployments/prod-4o/completions", Some("api-version=2024-10-21"), &HeaderMap::new());
        assert_eq!((route.deployment.as_deref(), route.version.as_deref()), (Some("prod-4o"), Some("2024-10-21")));
        assert!(route.needs_version);
        assert!(!Route::of("/openai/v1/completions", None, &HeaderMap::new()).needs_version);
    }
}
