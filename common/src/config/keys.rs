//! The keys that a configuration file may have, and which of them are used.
//!
//! LiteLLM's are those of version 1.109.1 (`types/router.py`, `proxy/proxy_server.py`, `router_python_core.py`, read
//! 2026-11-23). A key that is known and not used is named in one warning.

/// The sections in LiteLLM's shape that are read, beside our own options at the top.
pub(super) const SECTIONS: &[&str] =
    &["model_list", "router_settings", "litellm_settings", "general_settings", "environment_variables"];

/// Further sections of LiteLLM's proxy; nothing of them is used.
pub(super) const SECTIONS_KNOWN: &[&str] = &[
    "agent_list",
    "agents",
    "assistant_settings",
    "callback_settings",
    "classifier_plugin",
    "credential_list",
    "default_vertex_config",
    "files_settings",
    "finetune_settings",
    "guardrails",
    "include",
    "mcp_aliases",
    "mcp_servers",
    "mcp_tools",
    "pass_through_endpoints",
    "policies",
    "policy_attachments",
    "prompts",
    "sandbox_tools",
    "search_tools",
    "vector_store_registry",
    "worker_registry",
];

/// Keys of `model_list[]`.
pub(super) const ENTRY: &[&str] = &["model_name", "litellm_params", "model_info"];

/// Keys of `model_list[].litellm_params` that are used, beside every price of [`crate::price::is_rate`].
pub(super) const PARAMS_USED: &[&str] = &[
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
    "allowed_fails",
    "api_version",
    "azure_ad_token",
    "cache_creation_input_token_cost",
    "cache_read_input_token_cost",
    "cooldown_time",
    "drop_params",
    "extra_body",
    "extra_headers",
    "headers",
    "input_cost_per_token",
    "itpm",
    "order",
    "organization",
    "otpm",
    "output_cost_per_token",
    "project",
    "rpd",
    "rpm",
    "stream",
    "tags",
    "tpd",
    "tpm",
    "weight",
];

/// Parameters of a request that `litellm_params` can set for all requests of a deployment that do not: OpenAI's
/// (<https://platform.openai.com/docs/api-reference/chat/create>, read 2026-11-23) and what LiteLLM adds for others.
pub(super) const BODY: &[&str] = &[
    "audio",
    "dimensions",
    "encoding_format",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "modalities",
    "n",
    "parallel_tool_calls",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "reasoning",
    "reasoning_effort",
    "response_format",
    "safety_identifier",
    "seed",
    "service_tier",
    "stop",
    "store",
    "temperature",
    "thinking",
    "tool_choice",
    "tools",
    "top_k",
    "top_logprobs",
    "top_p",
    "user",
    "verbosity",
    "web_search_options",
];

/// What `extra_body` cannot set for all requests: it says what a request is, or how its answer comes.
pub(super) const NOT_IN_BODY: &[&str] = &["input", "messages", "model", "prompt", "stream", "stream_options"];

/// Further keys of `litellm_params` in LiteLLM.
pub(super) const PARAMS_KNOWN: &[&str] = &[
    "additional_drop_params",
    "allowed_openai_params",
    "budget_duration",
    "configurable_clientside_auth_params",
    "daily_reset_time",
    "default_api_key_rpm_limit",
    "default_api_key_tpm_limit",
    "fallbacks",
    "input_cost_per_second",
    "keepalive_seconds",
    "litellm_credential_name",
    "max_budget",
    "max_file_size_mb",
    "merge_reasoning_content_in_choices",
    "metadata",
    "mock_response",
    "model_info",
    "output_cost_per_second",
    "region_name",
    "responses_api_version",
    "stream_options",
    "stream_timeout",
    "stream_timeout_by_service_tier",
    "tag_regex",
    "timeout_by_service_tier",
    "use_chat_completions_api",
    "use_in_pass_through",
    "use_litellm_proxy",
    "vector_store_id",
];

/// Providers' own parameters in `litellm_params` begin so.
pub(super) const PARAM_PREFIXES: &[&str] = &[
    "auto_router_",
    "aws_",
    "azure_",
    "complexity_router_",
    "gcs_",
    "input_cost_per_",
    "output_cost_per_",
    "s3_",
    "vertex_",
    "watsonx_",
];

/// Keys of `model_list[].model_info` that are used, beside every price; `limit_account` is our own.
pub(super) const INFO_USED: &[&str] = &[
    "id",
    "allowed_fails",
    "base_model",
    "cache_creation_input_token_cost",
    "cache_read_input_token_cost",
    "cooldown_time",
    "input_cost_per_token",
    "limit_account",
    "max_input_tokens",
    "output_cost_per_token",
];

/// Further keys of `model_info` in LiteLLM; people add more of their own.
pub(super) const INFO_KNOWN: &[&str] =
    &["access_windows", "allowed_fails_policy", "max_output_tokens", "max_tokens", "mode", "tier"];

/// Keys of `router_settings` that are used; the rest of the section is LiteLLM's own.
pub(super) const ROUTER_USED: &[&str] = &[
    "num_retries",
    "timeout",
    "allowed_fails",
    "allowed_fails_policy",
    "content_policy_fallbacks",
    "context_window_fallbacks",
    "cooldown_time",
    "default_fallbacks",
    "default_max_parallel_requests",
    "disable_cooldowns",
    "enable_pre_call_checks",
    "enable_tag_filtering",
    "fallbacks",
    "max_fallbacks",
    "model_group_alias",
    "model_group_retry_policy",
    "retry_after",
    "retry_policy",
    "routing_strategy",
    "tag_filtering_match_any",
];

pub(super) const ROUTER_KNOWN: &[&str] = &[
    "alerting_config",
    "background_health_check_model_groups",
    "cache_kwargs",
    "cache_responses",
    "caching_groups",
    "client_ttl",
    "debug_level",
    "default_litellm_params",
    "default_priority",
    "deployment_affinity_ttl_seconds",
    "enable_health_check_routing",
    "enable_mid_stream_fallback_continuation",
    "enable_weighted_failover",
    "fallback_on_unsupported_params",
    "health_check_ignore_transient_errors",
    "health_check_staleness_threshold",
    "ignore_invalid_deployments",
    "model_group_affinity_config",
    "optional_pre_call_checks",
    "plugins",
    "polling_interval",
    "provider_budget_config",
    "redis_db",
    "redis_host",
    "redis_password",
    "redis_port",
    "redis_url",
    "router_general_settings",
    "routing_groups",
    "routing_strategy_args",
    "session_affinity_repin_on_failover",
    "set_verbose",
    "stream_timeout",
    "tag_routing_prefix",
    "weights",
];

/// Keys of `litellm_settings` that are used; those of [`ROUTER_USED`] among them count where `router_settings` lacks them.
pub(super) const LITELLM_USED: &[&str] = &[
    "drop_params",
    "num_retries",
    "request_timeout",
    "allowed_fails",
    "content_policy_fallbacks",
    "context_window_fallbacks",
    "default_fallbacks",
    "fallbacks",
    "max_fallbacks",
];
