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
    /// Any other path that takes a JSON object and answers with one.
    Other,
}

impl Api {
    /// The APIs whose paths are known.
    pub(super) const KNOWN: [(Self, &str); 4] = [
        (Self::Chat, "chat/completions"),
        (Self::Responses, "responses"),
        (Self::Embeddings, "embeddings"),
        (Self::Completions, "completions"),
    ];
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
    let is_plain = |segment: &str| {
        !segment.is_empty()
            && !segment.starts_with('.')
            && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':'))
    };
    if !path.split('/').all(is_plain) {
        return None;
    }
    let prefix = match base.path().trim_end_matches('/') {
        "" => "/v1",
        prefix => prefix,
    };
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
