//! The address of an API path below an endpoint.

use reqwest::Url;

/// What an API path asks for; it decides how the answer is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Api {
    /// `chat/completions`.
    Chat,
    /// `responses`.
    Responses,
    /// `embeddings`.
    Embeddings,
    /// `completions`, the old one.
    Completions,
    /// `messages`, Anthropic's.
    Messages,
    /// Any other path that takes a JSON object and answers with one.
    Other,
}

impl Api {
    /// The APIs whose paths are known.
    pub(super) const KNOWN: [(Self, &str); 5] = [
        (Self::Chat, "chat/completions"),
        (Self::Responses, "responses"),
        (Self::Embeddings, "embeddings"),
        (Self::Completions, "completions"),
        (Self::Messages, "messages"),
    ];

    /// Finds the API of a path below the version.
    pub(super) fn of(path: &str) -> Self {
        Self::KNOWN.iter().find(|(_, known)| *known == path).map_or(Self::Other, |(api, _)| *api)
    }

    /// Tells whether its answers can come as a stream.
    pub(super) const fn streams(self) -> bool {
        matches!(self, Self::Chat | Self::Responses | Self::Completions | Self::Messages)
    }
}

/// Returns a path as it stands below the version, without slashes at its ends: `/v1/responses` becomes `responses`.
pub(super) fn path_below_version(endpoint: &str) -> &str {
    let path = endpoint.trim_matches('/');
    if path == "v1" { "" } else { path.strip_prefix("v1/").unwrap_or(path) }
}

/// Puts a path below an endpoint. `None` for a path that is no plain path, since it comes with the job, and the key with us.
///
/// An endpoint with a path is taken as it is, version included, as OpenAI's own clients do; a bare host gets `/v1`.
pub(super) fn join(base: &Url, path: &str) -> Option<Url> {
    let prefix = match base.path().trim_end_matches('/') {
        "" => "/v1",
        prefix => prefix,
    };
    below(base, prefix, path)
}

/// Finds Azure's address of a path; `None` as with [`join`].
///
/// With a version of the API the deployment stands in the path, without one in the body, below `/openai/v1`. An endpoint that
/// names a deployment, or `/openai/v1`, is taken as it is. <https://learn.microsoft.com/azure/ai-services/openai/reference>,
/// read 2026-11.
pub(super) fn join_azure(base: &Url, api: Api, path: &str, deployment: &str, version: Option<&str>) -> Option<Url> {
    let prefix = base.path().trim_end_matches('/');
    let root = prefix.strip_suffix("/openai").unwrap_or(prefix);
    let version = version.filter(|version| !matches!(*version, "v1" | "latest" | "preview"));
    let mut url = match version {
        _ if prefix.ends_with("/openai/v1") => below(base, prefix, path),
        None => below(base, &format!("{root}/openai/v1"), path),
        _ if prefix.contains("/deployments/") => below(base, prefix, path),
        Some(_) if matches!(api, Api::Chat | Api::Completions | Api::Embeddings) => {
            below(base, &format!("{root}/openai/deployments"), &format!("{deployment}/{path}"))
        }
        Some(_) => below(base, &format!("{root}/openai"), path),
    }?;
    if let Some(version) = version.filter(|_| !prefix.ends_with("/openai/v1")) {
        url.query_pairs_mut().append_pair("api-version", version);
    }
    Some(url)
}

/// Finds Anthropic's address of a path; `None` as with [`join`]. The endpoint may end with the version, or with `/v1/messages`.
pub(super) fn join_anthropic(base: &Url, path: &str) -> Option<Url> {
    let prefix = base.path().trim_end_matches('/');
    let prefix = prefix.strip_suffix("/messages").unwrap_or(prefix);
    let prefix = prefix.strip_suffix("/v1").unwrap_or(prefix);
    below(base, &format!("{prefix}/v1"), path)
}

fn below(base: &Url, prefix: &str, path: &str) -> Option<Url> {
    let is_plain = |segment: &str| {
        !segment.is_empty()
            && !segment.starts_with('.')
            && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':'))
    };
    if !path.split('/').all(is_plain) {
        return None;
    }
    let mut url = base.clone();
    url.set_path(&format!("{prefix}/{path}"));
    Some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_stands_once_however_it_is_written() {
        for (base, endpoint, wanted) in [
            ("https://api.openai.com/v1", "/v1/chat/completions", "https://api.openai.com/v1/chat/completions"),
            ("https://api.openai.com/v1/", "chat/completions", "https://api.openai.com/v1/chat/completions"),
            ("https://api.openai.com", "/v1/embeddings", "https://api.openai.com/v1/embeddings"),
            ("http://localhost:8000", "/chat/completions/", "http://localhost:8000/v1/chat/completions"),
            ("https://openrouter.ai/api/v1", "/v1/responses", "https://openrouter.ai/api/v1/responses"),
            (
                "https://generativelanguage.googleapis.com/v1beta/openai/",
                "/v1/chat/completions",
                "https://generativelanguage.googleapis.com/v1beta/openai/chat/completions",
            ),
        ] {
            let url = join(&base.parse().unwrap(), path_below_version(endpoint)).unwrap();
            assert_eq!(url.as_str(), wanted, "{base} {endpoint}");
        }
    }

    #[test]
    fn azure_has_the_deployment_in_the_path_or_in_the_body() {
        for (base, path, version, wanted) in [
            (
                "https://r.openai.azure.com",
                "chat/completions",
                Some("2024-10-21"),
                "/openai/deployments/d/chat/completions?api-version=2024-10-21",
            ),
            (
                "https://r.openai.azure.com/openai/",
                "embeddings",
                Some("2024-10-21"),
                "/openai/deployments/d/embeddings?api-version=2024-10-21",
            ),
            (
                "https://r.openai.azure.com/",
                "responses",
                Some("2025-04-01-preview"),
                "/openai/responses?api-version=2025-04-01-preview",
            ),
            ("https://r.openai.azure.com", "chat/completions", None, "/openai/v1/chat/completions"),
            ("https://r.openai.azure.com", "chat/completions", Some("v1"), "/openai/v1/chat/completions"),
            ("https://r.services.ai.azure.com/openai/v1/", "responses", Some("2024-10-21"), "/openai/v1/responses"),
            (
                "https://r.openai.azure.com/openai/deployments/x",
                "chat/completions",
                Some("2024-10-21"),
                "/openai/deployments/x/chat/completions?api-version=2024-10-21",
            ),
        ] {
            let url = join_azure(&base.parse().unwrap(), Api::of(path), path, "d", version).unwrap();
            let shown = format!("{}{}", url.path(), url.query().map_or_else(String::new, |query| format!("?{query}")));
            assert_eq!(shown, wanted, "{base} {path}");
        }
    }

    #[test]
    fn anthropics_version_stands_once() {
        for (base, wanted) in [
            ("https://api.anthropic.com", "https://api.anthropic.com/v1/messages"),
            ("https://api.anthropic.com/v1/", "https://api.anthropic.com/v1/messages"),
            ("https://h.example/anthropic", "https://h.example/anthropic/v1/messages"),
            ("https://h.example/anthropic/v1/messages", "https://h.example/anthropic/v1/messages"),
        ] {
            assert_eq!(join_anthropic(&base.parse().unwrap(), "messages").unwrap().as_str(), wanted);
        }
    }

    #[test]
    fn a_job_cannot_lead_the_key_elsewhere() {
        let base: Url = "https://api.openai.com/v1".parse().unwrap();
        for endpoint in [
            "",
            "/",
            "/v1/",
            "https://evil.example/v1",
            "/v1/../admin",
            "/v1/./x",
            "/a?b",
            "/a#b",
            "/a b",
            "/a%2e",
            "@evil.example",
            "/a\\b",
            "/a\nb",
        ] {
            assert_eq!(join(&base, path_below_version(endpoint)), None, "{endpoint}");
        }
        let odd = join(&base, path_below_version("//evil.example/v1/x")).unwrap();
        assert_eq!(odd.host_str(), Some("api.openai.com"));
    }
}
