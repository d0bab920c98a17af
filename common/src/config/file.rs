//! Reads the configuration file: checks its keys, and says where each value stands. Gives values no meaning.
//!
//! Our own file, `gristmill.yaml`, is taken at its word: an unknown key is refused. Any other name is taken for a
//! configuration of LiteLLM's, which loads as it is: what is not known of its sections is named in the warning.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value};

use crate::price::is_rate;

use super::near::nearest;
use super::options::Parse;
use super::{DEFAULT_FILE, Env, Error, OPTIONS, keys, policy};

/// A parsed configuration file, its keys checked. Has no `Debug`: it holds keys.
#[derive(Default)]
pub(super) struct File {
    name: String,
    root: Map<String, Value>,
    /// Whether it is `gristmill.yaml`.
    is_own: bool,
}

/// Which unknown keys of a mapping are refused; the others are named as not used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refuse {
    All,
    /// Those that are nearly a known one.
    Near,
    None,
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
        let is_own = Path::new(name).file_name().is_some_and(|name| name == DEFAULT_FILE);
        let file = Self { name: name.to_owned(), root, is_own };
        file.check_keys(unused)?;
        Ok(file)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Tells whether it is not our own file, but one of LiteLLM's or of any other name.
    pub(super) fn is_foreign(&self) -> bool {
        !self.is_own && !self.root.is_empty()
    }

    /// Returns the variables that `environment_variables` sets, which `env` resolves; one that refers to nothing is left out.
    pub(super) fn variables(&self, env: &Env) -> Result<Vec<(String, String)>, Error> {
        let section = self.top("environment_variables");
        let mut variables = Vec::new();
        for name in section.names() {
            match section.text(name, env) {
                Ok(value) => variables.extend(value.map(|value| (name.to_owned(), value))),
                Err(Error::MissingVariable { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(variables)
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

    /// Returns a section at the top; an empty one where it is missing.
    pub(super) fn top(&self, section: &str) -> Section<'_> {
        let keys =
            if section.is_empty() { Some(&self.root) } else { self.root.get(section).and_then(Value::as_object) };
        Section { file: &self.name, place: section.to_owned(), keys }
    }

    fn check_keys(&self, unused: &mut BTreeSet<String>) -> Result<(), Error> {
        let strict = if self.is_own { Refuse::All } else { Refuse::None };
        let free = if self.is_own { Refuse::Near } else { Refuse::None };
        let has_list = self.root.contains_key("model_list");
        let at_top = if !self.is_own && has_list { Refuse::Near } else { Refuse::All };

        let options: Vec<&str> = OPTIONS.iter().map(|option| option.name).collect();
        self.top("").check(&[&options, keys::SECTIONS], keys::SECTIONS_KNOWN, at_top, unused)?;
        for section in keys::SECTIONS.iter().filter(|section| **section != "model_list") {
            self.top("").must_be_mapping(section)?;
        }
        let router = self.top("router_settings");
        router.check(&[keys::ROUTER_USED], keys::ROUTER_KNOWN, strict, unused)?;
        for (key, policy_keys) in
            [("retry_policy", policy::RETRY_KEYS), ("allowed_fails_policy", policy::ALLOWED_FAILS_KEYS)]
        {
            router.must_be_mapping(key)?;
            router.section(key).check(&[policy_keys], &[], strict, unused)?;
        }
        for key in ["model_group_retry_policy", "model_group_alias"] {
            router.must_be_mapping(key)?;
        }
        let group_policies = router.section("model_group_retry_policy");
        for group in group_policies.names() {
            group_policies.must_be_mapping(group)?;
            group_policies.section(group).check(&[policy::RETRY_KEYS], &[], strict, unused)?;
        }
        for key in self.top("litellm_settings").names().filter(|key| !keys::LITELLM_USED.contains(key)) {
            unused.insert(format!("litellm_settings.{key}"));
        }
        if self.root.contains_key("general_settings") {
            unused.insert("general_settings".to_owned());
        }
        for entry in self.model_list()?.unwrap_or_default() {
            entry.check(&[keys::ENTRY], &[], strict, unused)?;
            entry.must_be_mapping("litellm_params")?;
            entry.must_be_mapping("model_info")?;
            let params = entry.section("litellm_params");
            for key in ["extra_body", "extra_headers", "headers"] {
                params.must_be_mapping(key)?;
            }
            params.check(&[keys::PARAMS_USED, keys::BODY], keys::PARAMS_KNOWN, strict, unused)?;
            let body = params.section("extra_body");
            unused.extend(body.names().filter(|key| keys::NOT_IN_BODY.contains(key)).map(|key| body.shape(key)));
            entry.section("model_info").check(&[keys::INFO_USED], keys::INFO_KNOWN, free, unused)?;
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

    /// Returns its own path and the file's name, for messages.
    pub(super) fn here(&self) -> String {
        format!("{} in {}", self.place, self.file)
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

    /// Returns the value at a key, `os.environ/NAME` resolved.
    pub(super) fn get<T: Parse>(&self, key: &str, env: &Env) -> Result<Option<T>, Error> {
        let Some(text) = self.text(key, env)? else { return Ok(None) };
        T::parse(&text).map(Some).map_err(|problem| Error::Invalid { origin: self.origin(key), problem })
    }

    /// Returns what stands at a key, as it is written.
    pub(super) fn value(&self, key: &str) -> Option<&'a Value> {
        self.keys.and_then(|keys| keys.get(key)).filter(|value| !value.is_null())
    }

    /// Returns what stands at a key with every `os.environ/NAME` in it resolved; such a number or truth value counts as one.
    pub(super) fn resolved(&self, key: &str, env: &Env) -> Result<Option<Value>, Error> {
        let Some(value) = self.value(key) else { return Ok(None) };
        resolve(value, env).map(Some).map_err(|variable| Error::MissingVariable { place: self.origin(key), variable })
    }

    /// Returns the texts of a list; one text counts as a list of it.
    pub(super) fn texts(&self, key: &str, env: &Env) -> Result<Vec<String>, Error> {
        let wrong = || Error::Invalid { origin: self.origin(key), problem: "must be a list of names".to_owned() };
        match self.resolved(key, env)? {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(|item| text_of(item).ok_or_else(wrong)).collect(),
            Some(one) => Ok(vec![text_of(&one).ok_or_else(wrong)?]),
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

    /// Returns the path of a key for all entries of `model_list` alike.
    fn shape(&self, key: &str) -> String {
        let path = self.path(key);
        match path.split_once('[').and_then(|(list, rest)| Some((list, rest.split_once(']')?.1))) {
            Some((list, rest)) => format!("{list}[]{rest}"),
            None => path,
        }
    }

    /// Refuses keys that are neither used nor known, as far as `refuse` goes, and notes all that are not used.
    fn check(
        &self,
        used: &[&[&str]],
        known: &[&str],
        refuse: Refuse,
        unused: &mut BTreeSet<String>,
    ) -> Result<(), Error> {
        let used: Vec<&str> = used.concat();
        let has_prefix = self.place.ends_with(".litellm_params") || self.place.ends_with(".model_info");
        let is_price = |key: &str| has_prefix && is_rate(key);
        for key in self.names().filter(|key| !used.contains(key) && !is_price(key)) {
            let is_known =
                known.contains(&key) || has_prefix && keys::PARAM_PREFIXES.iter().any(|prefix| key.starts_with(prefix));
            let near = nearest(key, used.iter().chain(known).copied());
            let hint = match (refuse, near) {
                _ if is_known => None,
                (Refuse::All | Refuse::Near, Some(near)) => Some(format!("did you mean `{near}`?")),
                (Refuse::All, None) => Some(format!("known here: {}", used.join(", "))),
                (Refuse::Near, None) | (Refuse::None, _) => None,
            };
            if let Some(hint) = hint {
                return Err(Error::UnknownKey { file: self.file.to_owned(), key: self.path(key), hint });
            }
            unused.insert(self.shape(key));
        }
        Ok(())
    }
}

/// Returns a scalar as text.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Replaces every `os.environ/NAME`; the error is the variable that is not set.
fn resolve(value: &Value, env: &Env) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) => match text.strip_prefix("os.environ/") {
            None => value.clone(),
            Some(variable) => {
                let text = env.get(variable).ok_or_else(|| variable.to_owned())?;
                let scalar =
                    serde_json::from_str(text).ok().filter(|value: &Value| value.is_number() || value.is_boolean());
                scalar.unwrap_or_else(|| text.into())
            }
        },
        Value::Array(list) => list.iter().map(|item| resolve(item, env)).collect::<Result<_, _>>()?,
        Value::Object(keys) => {
            let keys = keys.iter().map(|(key, value)| Ok((key.clone(), resolve(value, env)?)));
            Value::Object(keys.collect::<Result<_, String>>()?)
        }
        scalar => scalar.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(File, Vec<String>), Error> {
        parse_as("gristmill.yaml", text)
    }

    fn parse_as(name: &str, text: &str) -> Result<(File, Vec<String>), Error> {
        let mut unused = BTreeSet::new();
        let file = File::parse(name, text, &mut unused)?;
        Ok((file, unused.into_iter().collect()))
    }

    #[test]
    fn unknown_keys_are_refused_with_the_near_name() {
        for (text, wanted) in [
            ("concurency: 4", "unknown key `concurency`; did you mean `concurrency`?"),
            ("modellist: []", "unknown key `modellist`; did you mean `model_list`?"),
            (
                "router_settings: {retry_policy: {TimeoutErrorRetry: 1}}",
                "unknown key `router_settings.retry_policy.TimeoutErrorRetry`; did you mean `TimeoutErrorRetries`?",
            ),
            (
                "model_list: [{model_name: a, model_info: {limit_acount: b}}]",
                "unknown key `model_list[0].model_info.limit_acount`; did you mean `limit_account`?",
            ),
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
             router_settings: {routing_strategy_args: {ttl: 10}, num_retries: 2}\n\
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
                "router_settings.routing_strategy_args",
            ]
        );
    }

    #[test]
    fn a_file_of_litellms_loads_as_it_is() {
        let text = "model_list: [{model_name: a, rpm: 3, litellm_params: {model: a, zzz: 1}, model_info: {team: b}}]\n\
                    router_settings: {num_retry: 1, retry_policy: {Zzz: 1}}\nguardrails: []\nzzz: 1\n";
        let (file, unused) = parse_as("etc/litellm.yaml", text).unwrap();
        assert!(file.is_foreign());
        assert_eq!(
            unused,
            [
                "guardrails",
                "model_list[].litellm_params.zzz",
                "model_list[].model_info.team",
                "model_list[].rpm",
                "router_settings.num_retry",
                "router_settings.retry_policy.Zzz",
                "zzz",
            ]
        );
        // What is nearly an option of ours was meant to be one.
        let near = parse_as("etc/litellm.yaml", &format!("{text}concurency: 1\n")).err().unwrap().to_string();
        assert!(near.ends_with("did you mean `concurrency`?"), "{near}");
        // A key of our own file's sections is refused, though the path differs.
        assert!(parse_as("etc/gristmill.yaml", text).is_err());
    }

    #[test]
    fn free_words_about_a_model_are_named_and_not_refused() {
        let (_, unused) = parse("model_list: [{model_name: a, model_info: {team: b, mode: chat}}]").unwrap();
        assert_eq!(unused, ["model_list[].model_info.mode", "model_list[].model_info.team"]);
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
