//! How calls are spread over deployments, and where they go when one fails: `router_settings`, in LiteLLM's words.
//!
//! Owns the settings and the lookups in them; decides nothing about a call. Names and defaults are LiteLLM's, version 1.109.1
//! (`router_python_core.py`, `router_utils/fallback_event_handlers.py`, read 2026-11-23).

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::failure::ErrorClass;

use super::file::Section;
use super::options::{Layers, Parse};
use super::policy::{self, ALLOWED_FAILS_KEYS, AllowedFailsPolicy, ByClass, RETRY_KEYS, RetryPolicy};
use super::{Error, Layer, Setting, keys, provider};

/// The key of a fallback list that serves every group.
const ANY: &str = "*";

/// Which deployment of a group gets the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Strategy {
    /// By chance, in proportion to the weights.
    #[default]
    Weighted,
    /// The first that can be called, in the order of `model_list`.
    Ordered,
    /// That with the fewest calls in flight.
    LeastBusy,
    /// The one that answered soonest of late.
    LowestLatency,
    /// The cheapest.
    LowestCost,
}

impl Strategy {
    /// Our word for each, and LiteLLM's.
    const NAMES: [(Self, &'static str, &'static [&'static str]); 5] = [
        (Self::Weighted, "weighted", &["simple-shuffle", "usage-based-routing", "usage-based-routing-v2"]),
        (Self::Ordered, "ordered", &[]),
        (Self::LeastBusy, "least-busy", &[]),
        (Self::LowestLatency, "lowest-latency", &["latency-based-routing"]),
        (Self::LowestCost, "lowest-cost", &["cost-based-routing"]),
    ];

    /// Returns our word for it.
    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(strategy, ..)| *strategy == self).map_or("", |(_, name, _)| name)
    }
}

impl Parse for Strategy {
    fn parse(text: &str) -> Result<Self, String> {
        let wanted = text.trim();
        let found = Self::NAMES.iter().find(|(_, name, others)| *name == wanted || others.contains(&wanted));
        found.map(|(strategy, ..)| *strategy).ok_or_else(|| {
            let known: Vec<&str> = Self::NAMES
                .iter()
                .flat_map(|(_, name, others)| std::iter::once(name).chain(*others))
                .copied()
                .collect();
            format!("must be one of {}, not `{text}`", known.join(", "))
        })
    }
}

/// Why a call goes to another group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FallbackKind {
    /// Its own group has failed for good.
    General,
    /// The prompt is longer than the model's window.
    ContextWindow,
    /// The provider's safety system refused.
    ContentPolicy,
}

/// Another name for a model group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// The group whose deployments serve it.
    pub model: Arc<str>,
    /// Whether it is left out where the groups are listed.
    pub hidden: bool,
}

/// Groups to go on with, by the group that failed; under `*` those for every other group.
pub type Fallbacks = BTreeMap<Arc<str>, Vec<Arc<str>>>;

/// How calls are spread over deployments, and where they go when one fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routing {
    /// `routing_strategy`: which deployment of a group gets the next call.
    pub strategy: Strategy,
    /// `fallbacks`: where a call goes when its group has failed for good; [`Routing::fallbacks_of`] applies the defaults.
    pub fallbacks: Fallbacks,
    /// `context_window_fallbacks`: where it goes when the prompt is too long.
    pub context_window_fallbacks: Fallbacks,
    /// `content_policy_fallbacks`: where it goes when the provider's safety system refused.
    pub content_policy_fallbacks: Fallbacks,
    /// `default_fallbacks`: where calls of a group without fallbacks of its own go.
    pub default_fallbacks: Vec<Arc<str>>,
    /// `max_fallbacks`: groups that one run may go through beside its own. Default 5.
    pub max_fallbacks: u32,
    /// `retry_policy`: retries by class of error.
    pub retry_policy: RetryPolicy,
    /// `model_group_retry_policy`: the same for single groups; [`Routing::retries_for`] looks there first.
    pub group_retry_policies: BTreeMap<Arc<str>, RetryPolicy>,
    /// `retry_after`: the least wait before a retry. Default 0.
    pub retry_after: Duration,
    /// `cooldown_time`: how long a deployment is left alone after too many failures. Default 5 s.
    pub cooldown: Duration,
    /// `disable_cooldowns`: whether none is ever left alone.
    pub disable_cooldowns: bool,
    /// `allowed_fails`: failures in a minute that a deployment may have before; `None` where nobody said.
    pub allowed_fails: Option<u32>,
    /// `allowed_fails_policy`: the same by class of error.
    pub allowed_fails_policy: AllowedFailsPolicy,
    /// `model_group_alias`: other names of groups. One that is also in `model_list` counts as an alias, as in LiteLLM.
    pub aliases: BTreeMap<Arc<str>, Alias>,
    /// `enable_pre_call_checks`: whether a prompt is measured before a call; `None` where nobody said.
    pub pre_call_checks: Option<bool>,
    /// `enable_tag_filtering`: whether a request's tags choose among the deployments.
    pub tag_filtering: bool,
    /// `tag_filtering_match_any`: whether one tag in common is enough; else all of the request's are needed. Default true.
    pub match_any_tag: bool,
    /// The settings as they count, for people.
    settings: Vec<Setting>,
    /// The strategy's name as it is written.
    written_strategy: Option<String>,
    /// The groups that something leads to.
    targets: Vec<Lead>,
}

/// A group that a fallback or an alias leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lead {
    /// Where it stands.
    pub(super) origin: String,
    pub(super) group: Arc<str>,
    /// Whether an alias leads there; that of an alias is none.
    pub(super) is_alias: bool,
}

impl Default for Routing {
    fn default() -> Self {
        Self {
            strategy: Strategy::default(),
            fallbacks: Fallbacks::new(),
            context_window_fallbacks: Fallbacks::new(),
            content_policy_fallbacks: Fallbacks::new(),
            default_fallbacks: Vec::new(),
            max_fallbacks: 5,
            retry_policy: RetryPolicy::default(),
            group_retry_policies: BTreeMap::new(),
            retry_after: Duration::ZERO,
            cooldown: Duration::from_secs(5),
            disable_cooldowns: false,
            allowed_fails: None,
            allowed_fails_policy: AllowedFailsPolicy::default(),
            aliases: BTreeMap::new(),
            pre_call_checks: None,
            tag_filtering: false,
            match_any_tag: true,
            settings: Vec::new(),
            written_strategy: None,
            targets: Vec::new(),
        }
    }
}

impl Routing {
    pub(super) fn read(layers: &Layers<'_>) -> Result<Self, Error> {
        let mut reader = Reader { layers, settings: Vec::new(), targets: Vec::new() };
        let default = Self::default();
        let mut routing = Self {
            strategy: reader.scalar("routing_strategy", default.strategy, |strategy| strategy.as_str().to_owned())?,
            fallbacks: reader.fallbacks("fallbacks")?,
            context_window_fallbacks: reader.fallbacks("context_window_fallbacks")?,
            content_policy_fallbacks: reader.fallbacks("content_policy_fallbacks")?,
            default_fallbacks: reader.default_fallbacks()?,
            max_fallbacks: reader.scalar("max_fallbacks", default.max_fallbacks, u32::to_string)?,
            retry_policy: reader.policy("retry_policy", RETRY_KEYS)?,
            group_retry_policies: reader.group_policies()?,
            retry_after: reader.scalar("retry_after", default.retry_after, seconds)?,
            cooldown: reader.scalar("cooldown_time", default.cooldown, seconds)?,
            disable_cooldowns: reader.scalar("disable_cooldowns", default.disable_cooldowns, bool::to_string)?,
            allowed_fails: reader.optional("allowed_fails", u32::to_string)?,
            allowed_fails_policy: reader.policy("allowed_fails_policy", ALLOWED_FAILS_KEYS)?,
            aliases: reader.aliases()?,
            pre_call_checks: reader.optional("enable_pre_call_checks", bool::to_string)?,
            tag_filtering: reader.scalar("enable_tag_filtering", default.tag_filtering, bool::to_string)?,
            match_any_tag: reader.scalar("tag_filtering_match_any", default.match_any_tag, bool::to_string)?,
            written_strategy: layers.file.top("router_settings").text("routing_strategy", layers.variables)?,
            settings: Vec::new(),
            targets: Vec::new(),
        };
        // It was read among the lists; it is the same as the one of its own, which comes first.
        let any = routing.fallbacks.remove(ANY).unwrap_or_default();
        if routing.default_fallbacks.is_empty() {
            routing.default_fallbacks = any;
        }
        (routing.settings, routing.targets) = (reader.settings, reader.targets);
        Ok(routing)
    }

    /// Returns the groups that a call of `group` goes on with, in order.
    ///
    /// Where there is no list for the kind at all, the general one counts. `*` and `default_fallbacks` count for groups that
    /// have none of their own; as in LiteLLM, `openai/gpt-4o` has those of `gpt-4o` if it has no others.
    pub fn fallbacks_of(&self, group: &str, kind: FallbackKind) -> &[Arc<str>] {
        let lists = match kind {
            FallbackKind::ContextWindow if !self.context_window_fallbacks.is_empty() => &self.context_window_fallbacks,
            FallbackKind::ContentPolicy if !self.content_policy_fallbacks.is_empty() => &self.content_policy_fallbacks,
            _ => {
                return own_fallbacks(&self.fallbacks, group).unwrap_or(&self.default_fallbacks);
            }
        };
        own_fallbacks(lists, group).or_else(|| lists.get(ANY).map(Vec::as_slice)).unwrap_or_default()
    }

    /// Returns the retries after an error of a class in a group; `None` where no policy says.
    pub fn retries_for(&self, group: &str, class: &ErrorClass) -> Option<u16> {
        let own = self.group_retry_policies.get(group).and_then(|policy| policy.retries_for(class));
        own.or_else(|| self.retry_policy.retries_for(class))
    }

    /// Returns the retries after an error of a class in a group where a policy names the class: a default is not looked at.
    pub fn named_retries_for(&self, group: &str, class: &ErrorClass) -> Option<u16> {
        let own = self.group_retry_policies.get(group).and_then(|policy| policy.named_for(class));
        own.or_else(|| self.retry_policy.named_for(class))
    }

    /// Returns the settings as they count, and where each comes from; nothing of them is secret.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// Returns what a group is an alias of, or itself.
    pub fn aliased<'a>(&'a self, group: &'a str) -> &'a str {
        self.aliases.get(group).map_or(group, |alias| &*alias.model)
    }

    /// Returns the strategy's name as it is written.
    pub(super) fn written_strategy(&self) -> Option<&str> {
        self.written_strategy.as_deref()
    }

    /// Returns the groups that fallbacks and aliases lead to.
    pub(super) fn targets(&self) -> &[Lead] {
        &self.targets
    }

    /// Returns the groups that lists and policies are kept for.
    pub(super) fn sources(&self) -> impl Iterator<Item = &Arc<str>> {
        let lists = [&self.fallbacks, &self.context_window_fallbacks, &self.content_policy_fallbacks];
        let groups = lists.into_iter().flat_map(BTreeMap::keys).filter(|group| &***group != ANY);
        groups.chain(self.group_retry_policies.keys())
    }
}

fn own_fallbacks<'a>(lists: &'a Fallbacks, group: &str) -> Option<&'a [Arc<str>]> {
    let stripped = || {
        let (prefix, model) = group.split_once('/')?;
        provider::find(prefix).and_then(|_| lists.get(model))
    };
    lists.get(group).or_else(stripped).map(Vec::as_slice)
}

fn seconds(duration: &Duration) -> String {
    duration.as_secs_f64().to_string()
}

/// Reads settings, and notes each for people.
struct Reader<'a> {
    layers: &'a Layers<'a>,
    settings: Vec<Setting>,
    targets: Vec<Lead>,
}

impl<'a> Reader<'a> {
    /// Finds the section that has a key.
    fn find(&self, key: &str) -> Option<Section<'a>> {
        let router = self.layers.file.top("router_settings");
        let litellm = || {
            let section = self.layers.file.top("litellm_settings");
            keys::LITELLM_USED.contains(&key).then_some(section).filter(|section| section.value(key).is_some())
        };
        if router.value(key).is_some() { Some(router) } else { litellm() }
    }

    fn note(&mut self, name: &'static str, value: Option<String>, section: Option<&Section<'_>>) {
        let layer = if section.is_some() { Layer::File } else { Layer::Default };
        let origin = section.map(|section| section.origin(name));
        self.settings.push(Setting { name, value, layer, origin });
    }

    fn optional<T: Parse>(&mut self, name: &'static str, show: fn(&T) -> String) -> Result<Option<T>, Error> {
        let section = self.find(name);
        let value = section.as_ref().map(|section| section.get(name, self.layers.variables)).transpose()?.flatten();
        self.note(name, value.as_ref().map(show), section.as_ref().filter(|_| value.is_some()));
        Ok(value)
    }

    fn scalar<T: Parse>(&mut self, name: &'static str, default: T, show: fn(&T) -> String) -> Result<T, Error> {
        let value = self.optional(name, show)?;
        if value.is_none()
            && let Some(setting) = self.settings.last_mut()
        {
            setting.value = Some(show(&default));
        }
        Ok(value.unwrap_or(default))
    }

    /// Reads a list of one-key mappings, as LiteLLM has it; names alone in the list are for every group.
    fn fallbacks(&mut self, name: &'static str) -> Result<Fallbacks, Error> {
        let section = self.find(name);
        let mut fallbacks = Fallbacks::new();
        if let Some(section) = &section {
            let wrong = || Error::Invalid {
                origin: section.origin(name),
                problem: "must be a list such as [{gpt-4o: [gpt-4o-mini, claude]}]".to_owned(),
            };
            let lists = match section.resolved(name, self.layers.variables)? {
                Some(Value::Array(lists)) => lists,
                Some(mapping @ Value::Object(_)) => vec![mapping],
                _ => return Err(wrong()),
            };
            for list in lists {
                match list {
                    Value::Object(groups) => {
                        for (group, targets) in groups {
                            let targets = names(&targets).ok_or_else(wrong)?;
                            fallbacks.insert(group.into(), targets);
                        }
                    }
                    name => fallbacks.entry(ANY.into()).or_default().extend(names(&name).ok_or_else(wrong)?),
                }
            }
            self.lead_to(fallbacks.values().flatten(), &section.origin(name));
        }
        let shown = (!fallbacks.is_empty()).then(|| json(&fallbacks));
        self.note(name, shown, section.as_ref());
        Ok(fallbacks)
    }

    fn lead_to<'g>(&mut self, groups: impl Iterator<Item = &'g Arc<str>>, origin: &str) {
        let lead = |group: &Arc<str>| Lead { origin: origin.to_owned(), group: Arc::clone(group), is_alias: false };
        self.targets.extend(groups.map(lead));
    }

    fn default_fallbacks(&mut self) -> Result<Vec<Arc<str>>, Error> {
        const NAME: &str = "default_fallbacks";
        let section = self.find(NAME);
        let groups: Vec<Arc<str>> = match &section {
            Some(section) => section.texts(NAME, self.layers.variables)?.into_iter().map(Into::into).collect(),
            None => Vec::new(),
        };
        if let Some(section) = &section {
            self.lead_to(groups.iter(), &section.origin(NAME));
        }
        let shown = (!groups.is_empty()).then(|| json(&groups));
        self.note(NAME, shown, section.as_ref());
        Ok(groups)
    }

    fn policy<T: Parse + Default>(&mut self, name: &'static str, policy_keys: &[&str]) -> Result<ByClass<T>, Error> {
        let Some(section) = self.find(name) else {
            self.note(name, None, None);
            return Ok(ByClass::default());
        };
        let numbers = policy::read(&section.section(name), policy_keys, self.layers.variables)?;
        self.note(name, section.resolved(name, self.layers.variables)?.map(|value| value.to_string()), Some(&section));
        Ok(numbers)
    }

    fn group_policies(&mut self) -> Result<BTreeMap<Arc<str>, RetryPolicy>, Error> {
        const NAME: &str = "model_group_retry_policy";
        let mut policies = BTreeMap::new();
        let Some(section) = self.find(NAME) else {
            self.note(NAME, None, None);
            return Ok(policies);
        };
        let groups = section.section(NAME);
        for group in groups.names() {
            let numbers = policy::read(&groups.section(group), RETRY_KEYS, self.layers.variables)?;
            policies.insert(Arc::from(group), numbers);
        }
        self.note(NAME, section.resolved(NAME, self.layers.variables)?.map(|value| value.to_string()), Some(&section));
        Ok(policies)
    }

    /// Reads aliases, each a name or a mapping with `model` and `hidden`.
    fn aliases(&mut self) -> Result<BTreeMap<Arc<str>, Alias>, Error> {
        const NAME: &str = "model_group_alias";
        let section = self.find(NAME);
        let mut aliases = BTreeMap::new();
        if let Some(section) = section.as_ref().map(|section| section.section(NAME)) {
            for name in section.names() {
                let item = section.section(name);
                let is_mapping = section.value(name).is_some_and(Value::is_object);
                let (place, key) = if is_mapping { (&item, "model") } else { (&section, name) };
                let model = place.text(key, self.layers.variables)?.ok_or_else(|| Error::Invalid {
                    origin: place.origin(key),
                    problem: "must name a model of model_list".to_owned(),
                })?;
                let hidden = item.get("hidden", self.layers.variables)?.unwrap_or(false);
                let model: Arc<str> = model.into();
                self.targets.push(Lead { origin: place.origin(key), group: Arc::clone(&model), is_alias: true });
                aliases.insert(Arc::from(name), Alias { model, hidden });
            }
        }
        let shown: BTreeMap<&str, &str> = aliases.iter().map(|(name, alias)| (&**name, &*alias.model)).collect();
        self.note(NAME, (!shown.is_empty()).then(|| json(&shown)), section.as_ref());
        Ok(aliases)
    }
}

/// Reads names of groups: a list, or one; of a mapping, as LiteLLM also takes, its `model`.
fn names(value: &Value) -> Option<Vec<Arc<str>>> {
    let one = |value: &Value| match value {
        Value::String(name) => Some(Arc::from(name.as_str())),
        Value::Object(target) => Some(Arc::from(target.get("model")?.as_str()?)),
        _ => None,
    };
    match value {
        Value::Array(list) => list.iter().map(one).collect(),
        value => Some(vec![one(value)?]),
    }
}

/// Shows a value that has no other form.
fn json<T: serde::Serialize + Debug>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| format!("{value:?}"))
}
