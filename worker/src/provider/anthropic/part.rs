//! The parts of a message's content.

use std::borrow::Cow;
use std::fmt;

use super::json::{Json, Object};
use super::media;
use super::refusal::Refusal;

/// Where in the request a part stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) message: usize,
    pub(super) part: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "messages[{}].content", self.message)?;
        match self.part {
            Some(part) => write!(f, "[{part}]"),
            None => Ok(()),
        }
    }
}

/// Makes the blocks of a content; texts without a word in them are left out, since Anthropic refuses them.
pub(super) fn blocks(message: usize, content: Option<Json<'_>>) -> Result<Vec<Json<'_>>, Refusal> {
    match content {
        None => Ok(Vec::new()),
        Some(Json::Text(text)) => Ok(text_block(text).map(Json::Object).into_iter().collect()),
        Some(Json::List(parts)) => {
            let mut blocks = Vec::with_capacity(parts.len());
            for (part, value) in parts.into_iter().enumerate() {
                blocks.extend(block(Place { message, part: Some(part) }, value)?.map(Json::Object));
            }
            Ok(blocks)
        }
        Some(other) => {
            let what = format!("is {}, where a text or a list of parts belongs", other.kind());
            Err(Refusal::bad(Place { message, part: None }, what))
        }
    }
}

/// Makes the block of a text, unless it says nothing.
pub(super) fn text_block(text: Cow<'_, str>) -> Option<Object<'_>> {
    (!text.trim().is_empty()).then(|| Object::of("text").with("text", text))
}

fn block(place: Place, part: Json<'_>) -> Result<Option<Object<'_>>, Refusal> {
    let Json::Object(mut part) = part else {
        return Err(Refusal::bad(place, format!("is {}, where a part with a type belongs", part.kind())));
    };
    let kind = part.text("type").unwrap_or_default().to_owned();
    // Anthropic's own blocks stay as they are.
    if matches!(kind.as_str(), "image" | "document" | "search_result" | "thinking" | "redacted_thinking") {
        return Ok(Some(part));
    }
    let value = part.take(&kind);
    let block = match (kind.as_str(), value) {
        ("text" | "refusal", Some(Json::Text(text))) => text_block(text),
        ("image_url", Some(Json::Text(url))) => Some(media::of_url(place, url)?),
        ("image_url", Some(Json::Object(mut image))) => {
            let Some(Json::Text(url)) = image.take("url") else {
                return Err(Refusal::bad(place, "is an image without a url"));
            };
            Some(media::of_url(place, url)?)
        }
        ("file", Some(Json::Object(file))) => Some(media::of_file(place, file)?),
        ("input_audio", _) => {
            return Err(Refusal::unsupported(place, "is audio, which Anthropic does not take"));
        }
        ("text" | "refusal" | "image_url" | "file", _) => {
            return Err(Refusal::bad(place, format!("is of type {kind}, and has nothing of it under `{kind}`")));
        }
        _ => {
            let shown: String = kind.chars().take(60).collect();
            let what = format!("is of type `{}`, which is none of text, image_url and file", shown.escape_debug());
            return Err(Refusal::bad(place, what));
        }
    };
    Ok(block.map(|block| block.with_some("cache_control", part.take("cache_control"))))
}
