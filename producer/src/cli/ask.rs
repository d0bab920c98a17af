//! What `call` asks: a request made of a prompt and options, or read whole. Pure but for standard input
//! and the files that a request names.

use std::io::Read as _;
use std::path::Path;

use bytes::Bytes;
use gristmill_producer::MAX_BODY_BYTES;
use gristmill_producer::input::{CHAT, inline};
use serde_json::{Map, Value, json};

use super::fault::Fault;

/// One prompt and how it is to be answered.
#[derive(Debug, clap::Args)]
pub(super) struct Ask {
    /// The prompt; `-` reads it from standard input, with --json as a whole chat completions request
    #[arg(value_name = "PROMPT")]
    prompt: String,
    /// Ask this model [default: `model` of the request or the configuration, else the only one that there is]
    #[arg(long, value_name = "MODEL", value_parser = super::when::model)]
    pub(super) model: Option<String>,
    /// A system message before the prompt
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Tokens of the answer at most
    #[arg(long, value_name = "N")]
    max_tokens: Option<u32>,
    /// How far the answer may stray, from 0 to 2
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    temperature: Option<f64>,
}

/// A request's JSON text, and the model that it names.
#[derive(Debug, PartialEq)]
pub(super) struct Request {
    pub(super) body: Bytes,
    pub(super) model: Option<String>,
}

impl Ask {
    /// Makes the request; reads standard input where it is asked to.
    pub(super) async fn request(&self, json: bool) -> Result<Request, Fault> {
        if self.prompt != "-" {
            return self.compose(&self.prompt);
        }
        // Standard input may never end: the reading is left behind when the process ends.
        let reading = tokio::task::spawn_blocking(read_standard_input);
        let text = reading.await.map_err(|error| Fault::of(&error))??;
        if json { self.whole(text) } else { self.compose(text.trim_end_matches(['\r', '\n'])) }
    }

    fn compose(&self, prompt: &str) -> Result<Request, Fault> {
        if prompt.trim().is_empty() {
            return Err(Fault::new("the prompt is empty").hint("gristmill call \"What is a mill?\""));
        }
        let system = self.system.iter().map(|text| json!({ "role": "system", "content": text }));
        let messages: Vec<Value> = system.chain([json!({ "role": "user", "content": prompt })]).collect();
        let mut body = Map::from_iter([("messages".to_owned(), Value::from(messages))]);
        if let Some(tokens) = self.max_tokens {
            body.insert("max_tokens".to_owned(), tokens.into());
        }
        if let Some(temperature) = self.temperature {
            body.insert("temperature".to_owned(), temperature.into());
        }
        Ok(Request { body: Value::from(body).to_string().into(), model: None })
    }

    fn whole(&self, text: String) -> Result<Request, Fault> {
        let given = [
            ("--system", self.system.is_some()),
            ("--max-tokens", self.max_tokens.is_some()),
            ("--temperature", self.temperature.is_some()),
        ];
        if let Some((option, _)) = given.iter().find(|(_, given)| *given) {
            return Err(Fault::new(format!("{option} does not go with --json -: put it into the request")));
        }
        let wrong = |problem: String| {
            Fault::new(format!("standard input is no chat completions request: {problem}"))
                .hint(r#"it looks like {"model":"…","messages":[{"role":"user","content":"…"}]}"#)
        };
        let body: Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let messages = body.as_object().ok_or_else(|| wrong("it is not an object".to_owned()))?.get("messages");
        if messages.and_then(Value::as_array).is_none_or(Vec::is_empty) {
            return Err(wrong("it has no messages".to_owned()));
        }
        let model = body.get("model").and_then(Value::as_str).filter(|name| !name.trim().is_empty());
        let model = model.map(str::to_owned);
        let body = inline(&text.into(), CHAT, Path::new(""))
            .map_err(|reason| Fault::new(format!("the request cannot be sent: {reason}")))?;
        Ok(Request { model, body })
    }
}

fn read_standard_input() -> Result<String, Fault> {
    let mut text = String::new();
    std::io::stdin()
        .take(MAX_BODY_BYTES as u64 + 1)
        .read_to_string(&mut text)
        .map_err(|error| Fault::new("reading standard input failed").because(&error))?;
    if text.len() > MAX_BODY_BYTES {
        return Err(Fault::new(format!("standard input is longer than {MAX_BODY_BYTES} bytes, more are not taken")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(prompt: &str) -> Ask {
        Ask { prompt: prompt.into(), model: None, system: None, max_tokens: None, temperature: None }
    }

    #[test]
    fn a_prompt_becomes_a_request_with_what_was_asked_for_and_nothing_else() {
        let plain = ask("hi").compose("hi").unwrap();
        assert_eq!(plain.body, r#"{"messages":[{"content":"hi","role":"user"}]}"#);
        let full = Ask { system: Some("Be brief.".into()), max_tokens: Some(9), temperature: Some(0.0), ..ask("hi") };
        let body: Value = serde_json::from_slice(&full.compose("hi").unwrap().body).unwrap();
        assert_eq!(body["messages"][0], json!({ "role": "system", "content": "Be brief." }));
        assert_eq!((&body["max_tokens"], &body["temperature"]), (&json!(9), &json!(0.0)));
        assert!(ask(" ").compose(" ").is_err());
    }

    #[test]
    fn a_whole_request_is_taken_byte_for_byte() {
        let text = r#"{ "model":"m", "messages":[{"role":"user","content":"hi"}], "seed":1e2 }"#;
        let request = ask("-").whole(text.into()).unwrap();
        assert_eq!(request, Request { body: text.into(), model: Some("m".into()) });
    }

    #[test]
    fn a_file_that_a_whole_request_names_is_put_in() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("photo.png");
        let text = serde_json::json!({
            "messages": [{ "content": [{ "image_url": { "url": format!("file:{}", path.display()) } }] }]
        })
        .to_string();
        let fault = ask("-").whole(text.clone()).unwrap_err().to_string();
        assert!(fault.starts_with("error: the request cannot be sent: reading /"), "{fault}");
        std::fs::write(path, b"GIF89a").unwrap();
        let body: Value = serde_json::from_slice(&ask("-").whole(text).unwrap().body).unwrap();
        assert_eq!(body["messages"][0]["content"][0]["image_url"]["url"], "data:image/gif;base64,R0lGODlh");
    }

    #[test]
    fn what_is_no_request_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "EOF while parsing"),
            ("[]", "it is not an object"),
            (r#"{"model":"m"}"#, "it has no messages"),
            (r#"{"messages":[]}"#, "it has no messages"),
        ] {
            let fault = ask("-").whole(text.into()).unwrap_err().to_string();
            assert!(fault.contains(reason), "{fault}");
        }
        let both = Ask { temperature: Some(1.0), ..ask("-") };
        let fault = both.whole(r#"{"messages":[{}]}"#.into()).unwrap_err().to_string();
        assert!(fault.contains("--temperature does not go with --json -"), "{fault}");
    }
}
