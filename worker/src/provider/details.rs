//! Reads what an error body says, whichever of the many shapes it has.

use serde_json::Value;

/// What an error body says.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Details {
    pub(super) message: Option<String>,
    pub(super) code: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) param: Option<String>,
    pub(super) request_id: Option<String>,
    /// Further codes: Anthropic's `error_code`, Azure's `innererror.code`, Google's `reason`.
    more_codes: Vec<String>,
    /// Google's `RetryInfo.retryDelay`.
    pub(super) retry_delay: Option<String>,
    /// Whether a quota of a whole day is exhausted (Google's `quotaId` with `PerDay`).
    pub(super) is_daily_quota: bool,
    /// `metadata.limit_source` of `OpenRouter`.
    pub(super) limit_source: Option<String>,
    /// Whether `OpenRouter` names `metadata.reasons` of a moderation.
    pub(super) is_moderated: bool,
}

impl Details {
    /// Reads a body; what is no JSON says nothing.
    pub(super) fn parse(body: &[u8]) -> Self {
        serde_json::from_slice(body).map(|value| Self::of(&value)).unwrap_or_default()
    }

    /// Reads the error that a body of success holds, at its top or in its first choice.
    pub(super) fn of_answer(body: &[u8]) -> Self {
        let value: Value = serde_json::from_slice(body).unwrap_or_default();
        match value.get("error").filter(|error| !error.is_null()) {
            Some(_) => Self::of(&value),
            None => value.pointer("/choices/0").map(Self::of).unwrap_or_default(),
        }
    }

    /// Reads an error from the JSON of a body: under `error`, `errors[0]`, `detail`, flat, or in an array.
    pub(super) fn of(value: &Value) -> Self {
        let value = value.as_array().and_then(|list| list.first()).unwrap_or(value);
        let error = [value.get("error"), value.get("errors").and_then(|errors| errors.get(0))]
            .into_iter()
            .flatten()
            .find(|error| !error.is_null())
            .unwrap_or(value);
        let mut details = Self { message: message(error).or_else(|| message(value)), ..Self::default() };
        details.request_id = text(value.get("request_id"));
        if !error.is_object() {
            return details;
        }
        details.code = text(error.get("code"));
        // Flat bodies of an envelope of their own say `"object": "error"`; Anthropic says `"type": "error"` above it.
        details.kind = text(error.get("type"))
            .or_else(|| text(error.get("status")).filter(|status| status.parse::<u16>().is_err()));
        details.param = text(error.get("param"));
        details.read_more(error);
        details
    }

    fn read_more(&mut self, error: &Value) {
        let more = [error.pointer("/details/error_code"), error.pointer("/innererror/code"), error.get("status")];
        self.more_codes.extend(more.into_iter().filter_map(text));
        for detail in error.get("details").and_then(Value::as_array).into_iter().flatten() {
            self.more_codes.extend(text(detail.get("reason")));
            if self.retry_delay.is_none() {
                self.retry_delay = text(detail.get("retryDelay"));
            }
            let violations = detail.get("violations").and_then(Value::as_array);
            self.is_daily_quota |= violations
                .into_iter()
                .flatten()
                .filter_map(|violation| violation.get("quotaId")?.as_str())
                .any(|id| id.contains("PerDay"));
        }
        if let Some(metadata) = error.get("metadata") {
            self.limit_source = text(metadata.get("limit_source"));
            self.is_moderated = metadata.get("reasons").is_some_and(|reasons| !reasons.is_null());
        }
    }

    /// Returns the code, then the type, then what else names the error.
    pub(super) fn codes(&self) -> impl Iterator<Item = &str> {
        self.code.iter().chain(&self.kind).chain(&self.more_codes).map(String::as_str)
    }

    pub(super) fn has_code(&self, wanted: &str) -> bool {
        self.codes().any(|code| code == wanted)
    }

    /// Returns the code where it is an HTTP status.
    pub(super) fn numeric_code(&self) -> Option<u16> {
        self.code.as_ref()?.parse().ok().filter(|code| (400..600).contains(code))
    }
}

/// Returns a text or number as text; anything else is none.
fn text<'a>(value: impl Into<Option<&'a Value>>) -> Option<String> {
    match value.into()? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Finds the words for people in an error.
fn message(error: &Value) -> Option<String> {
    if let Value::String(text) = error {
        return Some(text.clone()).filter(|text| !text.trim().is_empty());
    }
    let named = ["message", "detail", "error_message", "msg"]
        .iter()
        .find_map(|key| error.get(*key).filter(|value| !value.is_null()))?;
    match named {
        Value::String(text) => Some(text.clone()).filter(|text| !text.trim().is_empty()),
        Value::Array(list) => {
            let parts: Vec<String> = list.iter().filter_map(validation).collect();
            (!parts.is_empty()).then(|| parts.join("; "))
        }
        Value::Object(_) => message(named),
        _ => None,
    }
}

/// Reads one entry of a list of faults as `FastAPI` writes it: `{"loc": ["body", "messages"], "msg": "Field required"}`.
fn validation(entry: &Value) -> Option<String> {
    let words = message(entry)?;
    let place: Vec<String> =
        entry.get("loc").and_then(Value::as_array).into_iter().flatten().filter_map(text).collect();
    Some(if place.is_empty() { words } else { format!("{}: {words}", place.join(".")) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn messages_are_found_in_every_shape() {
        for (body, wanted) in [
            (json!({"error": {"message": "a", "code": "c"}}), Some("a")),
            (json!({"error": "a"}), Some("a")),
            (json!([{"error": {"message": "a"}}]), Some("a")),
            (json!({"errors": [{"message": "a"}]}), Some("a")),
            (json!({"object": "error", "message": "a"}), Some("a")),
            (json!({"error": null, "message": "a"}), Some("a")),
            (json!({"error": {"code": 3}, "message": "a"}), Some("a")),
            (json!({"detail": "a"}), Some("a")),
            (
                json!({"detail": [{"loc": ["body", "messages", 0], "msg": "Field required"}]}),
                Some("body.messages.0: Field required"),
            ),
            (json!({"message": {"detail": [{"loc": ["body"], "msg": "no"}, {"msg": "nor"}]}}), Some("body: no; nor")),
            (json!({"error": {}}), None),
            (json!([]), None),
            (json!(3), None),
        ] {
            assert_eq!(Details::of(&body).message.as_deref(), wanted, "{body}");
        }
    }

    #[test]
    fn codes_come_as_texts_and_numbers() {
        let details = Details::of(
            &json!({"error": {"code": 429, "type": "t", "param": "p", "innererror": {"code": "i"}}, "request_id": "r"}),
        );
        assert_eq!(details.codes().collect::<Vec<_>>(), ["429", "t", "i"]);
        assert_eq!((details.numeric_code(), details.request_id.as_deref()), (Some(429), Some("r")));
        assert_eq!(Details::parse(b"<html>"), Details::default());
    }
}
