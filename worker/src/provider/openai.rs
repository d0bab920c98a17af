//! Any endpoint that speaks OpenAI's API.

use std::sync::Arc;

use async_trait::async_trait;
use gristmill_common::clock::Clock;
use gristmill_common::config::Deployment;
use gristmill_common::failure::{ErrorClass, ErrorRecord};
use gristmill_common::outcome::Usage;

use super::{Call, Error, Http, Provider, Reply};

/// One deployment of an OpenAI-compatible endpoint.
#[derive(Debug)]
pub(super) struct OpenAi {}

impl OpenAi {
    pub(super) fn new(_deployment: &Deployment, _http: &Http, _clock: Arc<dyn Clock>) -> Result<Self, Error> {
        Ok(Self {})
    }
}

#[async_trait]
impl Provider for OpenAi {
    async fn call(&self, _call: Call<'_>) -> Reply {
        Reply {
            sent: false,
            http_status: None,
            ttft_ms: None,
            latency_ms: 0,
            request_id: None,
            usage: Usage::default(),
            served_model: None,
            service_tier: None,
            outcome: Err(Box::new(ErrorRecord::new(ErrorClass::Api, "not connected yet"))),
        }
    }
}
