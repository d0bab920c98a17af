//! Reads `gristmill.yaml`: which keys there may be, and where each value stands. Gives values no meaning.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::near::nearest;
use super::{Env, Error, OPTIONS};

/// The sections in LiteLLM's shape, beside our own options at the top.
const SECTIONS: &[&str] =
    &["model_list", "router_settings", "litellm_settings", "general_settings", "environment_variables"];

/// Keys of `model_list[]`.
const ENTRY: &[&str] = &["model_name", "litellm_params", "model_info"];

/// Keys of `model_list[].litellm_params` that are used.
const PARAMS_USED: &[&str] = &[
    "model",
    "custom_llm_provider",
    "api_base",
    "base_url",
    "api_key",
    "timeout",
    "connect_timeout",
    "first_byte_timeout",
    "idle_timeout",
    "max_parallel_requests",
    "num_retries",
    "max_retries",
    "api_version",
    "azure_ad_token",
    "drop_params",
    "extra_headers",
    "headers",
    "max_completion_tokens",
    "max_tokens",
    "itpm",
    "otpm",
    "organization",
    "project",
    "rpd",
    "rpm",
    "stream",
    "tpd",
    "tpm",
];

/// Further keys of `litellm_params` in LiteLLM 1.109 (`types/router.py`) and request parameters that people set there.
const PARAMS_KNOWN: &[&str] = &[
    "additional_drop_params",
    "allowed_openai_params",
    "budget_duration",
    "cache_creation_input_token_cost",
    "cache_read_input_token_cost",
    "configurable_clientside_auth_params",
    "daily_reset_time",
    "default_api_key_rpm_limit",
    "default_api_key_tpm_limit",
    "extra_body",
    "fallbacks",
    "input_cost_per_second",
    "input_cost_per_token",
    "litellm_credential_name",
    "max_budget",
    "max_file_size_mb",
    "merge_reasoning_content_in_choices",
    "metadata",
    "mock_response",
    "model_info",
    "order",
    "output_cost_per_second",
    "output_cost_per_token",
    "reasoning_effort",
    "region_name",
    "seed",
    "service_tier",
    "stream_timeout",
    "tag_regex",
    "tags",
    "temperature",
    "timeout_by_service_tier",
    "top_p",
    "use_in_pass_through",
    "use_litellm_proxy",
    "weight",
];

/// Providers' own parameters in `litellm_params` begin so.
const PARAM_PREFIXES: &[&str] =
    &["aws_", "azure_", "vertex_", "watsonx_", "input_cost_per_", "output_cost_per_", "s3_", "gcs_"];

/// Keys of `router_settings` and `litellm_settings` that are used; the rest of these sections is LiteLLM's own.
const ROUTER_USED: &[&str] = &["num_retries", "timeout"];
const ROUTER_KNOWN: &[&str] = &[
    "allowed_fails",
    "allowed_fails_policy",
    "cache_responses",
    "caching_groups",
    "content_policy_fallbacks",
    "context_window_fallbacks",
    "cooldown_time",
    "default_fallbacks",
    "default_max_parallel_requests",
    "default_priority",
    "disable_cooldowns",
    "enable_mid_stream_fallback_continuation",
    "enable_pre_call_checks",
    "enable_tag_filtering",
    "enable_weighted_failover",
    "fallbacks",
    "max_fallbacks",
    "model_group_alias",
    "model_group_retry_policy",
    "optional_pre_call_checks",
    "polling_interval",
    "provider_budget_config",
    "redis_host",
    "redis_password",
    "redis_port",
    "redis_url",
    "retry_after",
    "retry_policy",
    "routing_strategy",
    "routing_strategy_args",
    "stream_timeout",
    "tag_filtering_match_any",
];
const LITELLM_USED: &[&str] = &["drop_params", "num_retries", "request_timeout"];

/// A parsed configuration file, its keys checked. Has no `Debug`: it holds keys.
#[derive(Default)]
pub(super) struct File {
    name: String,
    root: Map<String, Value>,
}

impl File {
    /// Parses a file's text. `name` is what messages call the file. Keys that are known and not used end in `unused`.
    pub(super) fn parse(name: &str, text: &str, unused: &mut BTreeSet<String>) -> Result<Self, Error> {
        let syntax = |reason: String| Error::Syntax { file: name.to_owned(), reason };
        // The library's message can hold lines of the file, and with them keys: only its short form is shown.
        let root: Value = serde_saphyr::from_str(text)
            .map_err(|error| syntax(error.without_snippet().to_string().replace('\n', " ")))?;
        let root = match root {
            Value::Object(root) => root,
            Value::Null => Map::new(),
            _ => return Err(syntax("the top level must be `option: value` lines".to_owned())),
        };
        let file = Self { name: name.to_owned(), root };
        file.check_keys(unused)?;
        Ok(file)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the entries of `model_list`, or `None` where the file has none.
    pub(super) fn model_list(&self) -> Result<Option<Vec<Section<'_>>>, Error> {
        let Some(list) = self.root.get("model_list").filter(|list| !list.is_null()) else { return Ok(None) };
        let not_a = |place: &str, what: &str| Error::Invalid {
            origin: format!("{place} in {}", self.name),
            problem: format!("must be {what}"),
        };
        let list = list.as_array().ok_or_else(|| not_a("model_list", "a list of models"))?;
        let mut entries = Vec::new();
        for (index, entry) in list.iter().enumerate() {
            let place = format!("model_list[{index}]");
            let keys =
                entry.as_object().ok_or_else(|| not_a(&place, "a mapping with model_name and litellm_params"))?;
            entries.push(Section { file: &self.name, place, keys: Some(keys) });
        }
        Ok(Some(entries))
    }

    /// Returns the scalar at a path such as `router_settings.timeout`, as text.
    pub(super) fn text(&self, path: &str, env: &Env) -> Result<Option<String>, Error> {
        let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
        self.top(section).text(key, env)
    }

    fn top(&self, section: &str) -> Section<'_> {
        let keys =
            if section.is_empty() { Some(&self.root) } else { self.root.get(section).and_then(Value::as_object) };
        Section { file: &self.name, place: section.to_owned(), keys }
    }

    fn check_keys(&self, unused: &mut BTreeSet<String>) -> Result<(), Error> {
        let options: Vec<&str> = OPTIONS.iter().map(|option| option.name).collect();
        self.top("").check(&[&options, SECTIONS], &[], unused)?;
        for section in SECTIONS.iter().filter(|section| **section != "model_list") {
            self.top("").must_be_mapping(section)?;
        }
        self.top("router_settings").check(&[ROUTER_USED], ROUTER_KNOWN, unused)?;
        for key in self.top("litellm_settings").names().filter(|key| !LITELLM_USED.contains(key)) {
            unused.insert(format!("litellm_settings.{key}"));
        }
        for section in ["general_settings", "environment_variables"] {
            if self.root.contains_key(section) {
                unused.insert(section.to_owned());
            }
        }
        for entry in self.model_list()?.unwrap_or_default() {
            entry.check(&[ENTRY], &[], unused)?;
            entry.must_be_mapping("litellm_params")?;
            entry.must_be_mapping("model_info")?;
            for key in ["extra_headers", "headers"] {
                entry.section("litellm_params").must_be_mapping(key)?;
            }
            entry.section("litellm_params").check(&[PARAMS_USED], PARAMS_KNOWN, unused)?;
        }
        Ok(())
    }
}

/// One mapping of the file, with its path. Has no `Debug`: it holds keys.
#[derive(Clone)]
pub(super) struct Section<'a> {
    file: &'a str,
    place: String,
    keys: Option<&'a Map<String, Value>>,
}

impl<'a> Section<'a> {
    /// Returns the mapping below a key; an empty one where it is missing.
    pub(super) fn section(&self, key: &str) -> Self {
        let keys = self.keys.and_then(|keys| keys.get(key)).and_then(Value::as_object);
        Self { file: self.file, place: self.path(key), keys }
    }

    /// Returns the path of a key and the file's name, for messages.
    pub(super) fn origin(&self, key: &str) -> String {
        format!("{} in {}", self.path(key), self.file)
    }

    /// Returns the scalar at a key as it is written, `os.environ/NAME` not resolved.
    pub(super) fn raw(&self, key: &str) -> Result<Option<String>, Error> {
        let problem = match self.keys.and_then(|keys| keys.get(key)) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) => return Ok(Some(text.clone()).filter(|text| !text.is_empty())),
            Some(Value::Number(number)) => return Ok(Some(number.to_string())),
            Some(Value::Bool(flag)) => return Ok(Some(flag.to_string())),
            Some(Value::Array(_)) => "must be one value, not a list",
            Some(Value::Object(_)) => "must be one value, not a mapping",
        };
        Err(Error::Invalid { origin: self.origin(key), problem: problem.to_owned() })
    }

    /// Returns the scalar at a key, `os.environ/NAME` resolved.
    pub(super) fn text(&self, key: &str, env: &Env) -> Result<Option<String>, Error> {
        let Some(text) = self.raw(key)? else { return Ok(None) };
        let Some(variable) = text.strip_prefix("os.environ/") else { return Ok(Some(text)) };
        match env.get(variable) {
            Some(value) => Ok(Some(value.to_owned())),
            None => Err(Error::MissingVariable { place: self.origin(key), variable: variable.to_owned() }),
        }
    }

    fn must_be_mapping(&self, key: &str) -> Result<(), Error> {
        match self.keys.and_then(|keys| keys.get(key)) {
            None | Some(Value::Null | Value::Object(_)) => Ok(()),
            Some(_) => Err(Error::Invalid {
                origin: self.origin(key),
                problem: "must be a mapping, with its keys indented below it".to_owned(),
            }),
        }
    }

    /// Returns its keys.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.keys.into_iter().flatten().map(|(key, _)| key.as_str())
    }

    fn path(&self, key: &str) -> String {
        if self.place.is_empty() { key.to_owned() } else { format!("{}.{key}", self.place) }
    }

    /// Refuses keys that are neither used nor known, and notes those that are known and not used.
    fn check(&self, used: &[&[&str]], known: &[&str], unused: &mut BTreeSet<String>) -> Result<(), Error> {
        let is_param = self.place.ends_with(".litellm_params");
        for key in self.names() {
            if used.iter().any(|keys| keys.contains(&key)) {
                continue;
            }
            if known.contains(&key) || is_param && PARAM_PREFIXES.iter().any(|prefix| key.starts_with(prefix)) {
                let place = self.place.split('[').next().unwrap_or_default();
                unused.insert(if is_param { format!("{place}[].litellm_params.{key}") } else { self.path(key) });
                continue;
            }
            let all = used.iter().flat_map(|keys| keys.iter()).chain(known).copied();
            let hint = match nearest(key, all) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!(
                    "known here: {}",
                    used.iter().flat_map(|keys| keys.iter()).copied().collect::<Vec<_>>().join(", ")
                ),
            };
            return Err(Error::UnknownKey { file: self.file.to_owned(), key: self.path(key), hint });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(File, Vec<String>), Error> {
        let mut unused = BTreeSet::new();
        let file = File::parse("gristmill.yaml", text, &mut unused)?;
        Ok((file, unused.into_iter().collect()))
    }

    #[test]
    fn unknown_keys_are_refused_with_the_near_name() {
        for (text, wanted) in [
            ("concurency: 4", "unknown key `concurency`; did you mean `concurrency`?"),
            ("modellist: []", "unknown key `modellist`; did you mean `model_list`?"),
            ("router_settings: {num_retry: 1}", "unknown key `router_settings.num_retry`; did you mean `num_retries`?"),
            ("model_list: [{model_nam: a}]", "unknown key `model_list[0].model_nam`; did you mean `model_name`?"),
            (
                "model_list: [{model_name: a}, {model_name: b, litellm_params: {apibase: x}}]",
                "unknown key `model_list[1].litellm_params.apibase`; did you mean `api_base`?",
            ),
        ] {
            assert_eq!(parse(text).err().unwrap().to_string(), format!("gristmill.yaml: {wanted}"), "{text}");
        }
    }

    #[test]
    fn a_key_that_is_near_to_none_is_refused_with_all_of_them() {
        let error = parse("zzz: 1").err().unwrap().to_string();
        assert!(
            error.contains("known here: database_url, amqp_url, prefix") && error.contains("model_list"),
            "{error}"
        );
    }

    #[test]
    fn keys_of_litellm_that_are_not_used_are_listed_once() {
        let (_, unused) = parse(
            "model_list:\n- {model_name: a, litellm_params: {model: a, mock_response: x, aws_region_name: x}}\n\
             - {model_name: b, litellm_params: {model: b, mock_response: y}}\n\
             router_settings: {routing_strategy: simple-shuffle, num_retries: 2}\n\
             litellm_settings: {set_verbose: true}\ngeneral_settings: {master_key: sk-canary}\n",
        )
        .unwrap();
        assert_eq!(
            unused,
            [
                "general_settings",
                "litellm_settings.set_verbose",
                "model_list[].litellm_params.aws_region_name",
                "model_list[].litellm_params.mock_response",
                "router_settings.routing_strategy",
            ]
        );
    }

    #[test]
    fn what_is_no_yaml_is_told_by_line_and_never_shown() {
        for text in [
            "a: [1, 2\nb: sk-canary",
            "api_key: \"sk-canary\n",
            "- sk-canary",
            "sk-canary",
            "a: 'sk-canary' x\n",
            "prefix: a\nprefix: sk-canary",
        ] {
            let error = parse(text).err().unwrap();
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("canary") && !error.to_string().contains('\n'), "{text:?}: {shown}");
        }
        assert!(parse("").is_ok());
    }

    #[test]
    fn scalars_are_read_as_text_and_variables_resolved() {
        let (file, _) = parse("concurrency: 4\ntimeout: 1.5\nprefix: os.environ/P\nmodel: [a]").unwrap();
        let env = Env::from_iter([("P", "x")]);
        assert_eq!(file.text("concurrency", &env).unwrap().as_deref(), Some("4"));
        assert_eq!(file.text("timeout", &env).unwrap().as_deref(), Some("1.5"));
        assert_eq!(file.text("prefix", &env).unwrap().as_deref(), Some("x"));
        assert_eq!(file.text("router_settings.timeout", &env).unwrap(), None);
        assert!(
            file.text("model", &env).unwrap_err().to_string().contains("model in gristmill.yaml must be one value")
        );
        let error = file.text("prefix", &Env::default()).unwrap_err().to_string();
        assert!(error.contains("prefix in gristmill.yaml refers to the environment variable P"), "{error}");
    }
}
