//! Where calls can go, for people.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::quota::Limits;

/// Where calls for a model group can go, for people: nothing of it is secret. No `Debug`: an endpoint is nothing for a log.
#[expect(missing_debug_implementations, reason = "its endpoint is nothing for a log")]
#[derive(Clone, PartialEq, Serialize)]
pub struct Route {
    /// The model group; `None` for every group that is asked for.
    pub model: Option<Arc<str>>,
    /// The deployment's name; `None` where it is the group's.
    pub deployment: Option<Arc<str>>,
    /// The provider kind.
    pub provider: String,
    /// The model's name at the provider; `None` where it is the group's.
    pub provider_model: Option<String>,
    /// The endpoint's scheme, host and port.
    pub endpoint: String,
    /// Where the key comes from; `None` where none is sent.
    pub key: Option<String>,
    /// Why it cannot be called, if it cannot.
    pub problem: Option<String>,
    /// The account that its limits are counted in.
    pub account: Option<Arc<str>>,
    /// The limits of the account, over all workers.
    pub limits: Limits,
    /// Its share of the group's work.
    pub weight: u32,
    /// Its place in the group, the lowest first.
    pub order: u32,
    /// What a request's tags can choose it by.
    pub tags: Vec<Arc<str>>,
    /// Parameters that a request gets where it does not set them, as they are written.
    pub defaults: Map<String, Value>,
    /// The names of the headers that every call sends; their values are not shown.
    pub headers: Vec<Arc<str>>,
    /// The entry that it comes from, and the file; `None` where there is no `model_list`.
    pub origin: Option<String>,
}

/// Says limits as people write them, such as `480 rpm, 100000 tpm`; empty where there are none.
pub(super) fn describe(limits: &Limits) -> String {
    let all = [
        (limits.rpm, "rpm"),
        (limits.tpm, "tpm"),
        (limits.itpm, "itpm"),
        (limits.otpm, "otpm"),
        (limits.rpd, "rpd"),
        (limits.tpd, "tpd"),
        (limits.max_parallel_requests, "at once"),
    ];
    let set = all.iter().filter_map(|(limit, unit)| Some(format!("{} {unit}", (*limit)?)));
    set.collect::<Vec<_>>().join(", ")
}

impl Route {
    /// Says the limits as people write them, such as `480 rpm, 100000 tpm`; empty where there are none.
    pub fn limits(&self) -> String {
        describe(&self.limits)
    }
}
