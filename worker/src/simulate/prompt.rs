//! The prompt of a request, in every form that OpenAI's endpoints take: a string, messages, parts, token numbers.
//!
//! Owns the reading only; texts stay borrowed from the body where they hold no escapes and are not in several parts. The
//! messages of Anthropic are read elsewhere, into the same figures.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::image::{self, Flaw};

/// A string where one stands; any other value reads as absent.
#[derive(Debug, Default)]
pub(super) struct Text<'a>(Option<Cow<'a, str>>);

impl<'a> Text<'a> {
    pub(super) fn as_str(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// Returns the text itself.
    pub(super) fn into_inner(self) -> Option<Cow<'a, str>> {
        self.0
    }
}

/// What a prompt came to: its last text and its size.
#[derive(Debug, Default)]
pub(super) struct Prompt<'a> {
    /// The text of the last user message that has one, or of the last item when none has a role.
    pub(super) last: Cow<'a, str>,
    /// Messages, or prompts; one row of token numbers is one prompt.
    pub(super) items: u64,
    pub(super) chars: u64,
    /// Tokens that were sent as numbers.
    pub(super) tokens: u64,
    /// Whether what a function returned stands last, so that the model is to go on from there.
    pub(super) ends_with_result: bool,
    /// What is wrong with one of the images.
    pub(super) image_flaw: Option<Flaw>,
}

/// A message, or a part of one; `content` nests parts.
#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Message<'a> {
    #[serde(default)]
    role: Text<'a>,
    #[serde(default)]
    content: Option<Item<'a>>,
    #[serde(default)]
    text: Text<'a>,
    #[serde(default, rename = "type")]
    kind: Text<'a>,
    /// What a function returned, in the Responses API.
    #[serde(default)]
    output: Option<Item<'a>>,
    /// An address, bare or in an object.
    #[serde(default)]
    image_url: Option<&'a RawValue>,
}

/// The address of an image, as chat completions write it.
#[derive(Debug, Deserialize)]
struct ImageUrl<'a> {
    #[serde(borrow)]
    url: Cow<'a, str>,
}

/// The same, as responses write it.
#[derive(Debug, Deserialize)]
struct ImageText<'a>(#[serde(borrow)] Cow<'a, str>);

/// One item of a prompt, and the list of parts that a message may hold.
#[derive(Debug, Default)]
struct Item<'a> {
    text: Cow<'a, str>,
    chars: u64,
    tokens: u64,
    is_user: bool,
    /// A bare number is a token; a row of them is one prompt.
    is_number: bool,
    /// Whether it is what a function returned.
    is_result: bool,
    image_flaw: Option<Flaw>,
}

impl<'a> Item<'a> {
    fn of_text(text: Cow<'a, str>) -> Self {
        let chars = text.chars().count() as u64;
        Self { text, chars, is_user: true, ..Self::default() }
    }

    fn of_message(message: Message<'a>) -> Self {
        let (role, kind) = (message.role.as_str(), message.kind.as_str().unwrap_or_default());
        let is_result = matches!(role, Some("tool" | "function")) || kind.ends_with("_output");
        let is_user = match role {
            Some(role) => role == "user",
            None => !is_result && !kind.ends_with("_call") && !matches!(kind, "reasoning" | "item_reference"),
        };
        let image_flaw = message.image_url.and_then(image_flaw);
        let body = match (message.content.or(message.output), message.text.0) {
            (Some(content), _) => content,
            (None, Some(text)) => Self::of_text(text),
            (None, None) => Self::default(),
        };
        Self { is_user, is_result, is_number: false, image_flaw: image_flaw.or(body.image_flaw), ..body }
    }

    /// Takes a part of a longer content in.
    fn push(&mut self, part: Self) {
        self.chars += part.chars;
        self.tokens += part.tokens;
        self.image_flaw = self.image_flaw.or(part.image_flaw);
        if self.text.is_empty() {
            self.text = part.text;
        } else if !part.text.is_empty() {
            self.text.to_mut().push_str(&part.text);
        }
    }
}

/// Looks at the image behind `image_url`.
fn image_flaw(value: &RawValue) -> Option<Flaw> {
    let json = value.get();
    let url = serde_json::from_str(json).map(|ImageUrl { url }| url);
    let url = url.or_else(|_| serde_json::from_str::<ImageText<'_>>(json).map(|text| text.0));
    url.ok().and_then(|url| image::look_at_url(&url).err())
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Some(Cow::Borrowed(text))))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Some(Cow::Owned(text.to_owned()))))
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Text(None))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Text(None))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
                Ok(Text(None))
            }

            fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
                Ok(Text(None))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                Ok(Text(None))
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Self::Value, S::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Text(None))
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Text(None))
            }
        }
        deserializer.deserialize_any(TextVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Item<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemVisitor;
        impl<'de> Visitor<'de> for ItemVisitor {
            type Value = Item<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a message, or an array of parts or tokens")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Item::of_text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Item::of_text(Cow::Owned(text.to_owned())))
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Item::default())
            }

            fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
                Ok(Item { tokens: 1, is_user: true, is_number: true, ..Item::default() })
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Self::Value, S::Error> {
                let mut whole = Item { is_user: true, ..Item::default() };
                while let Some(part) = seq.next_element::<Item<'de>>()? {
                    whole.push(part);
                }
                Ok(whole)
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Self::Value, M::Error> {
                Message::deserialize(MapAccessDeserializer::new(map)).map(Item::of_message)
            }
        }
        deserializer.deserialize_any(ItemVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Prompt<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PromptVisitor;
        impl<'de> Visitor<'de> for PromptVisitor {
            type Value = Prompt<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                let Item { text: last, chars, .. } = Item::of_text(Cow::Borrowed(text));
                Ok(Prompt { last, items: 1, chars, ..Prompt::default() })
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                let Item { text: last, chars, .. } = Item::of_text(Cow::Owned(text.to_owned()));
                Ok(Prompt { last, items: 1, chars, ..Prompt::default() })
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Self::Value, S::Error> {
                let mut prompt = Prompt::default();
                let mut only_numbers = true;
                while let Some(item) = seq.next_element::<Item<'de>>()? {
                    only_numbers &= item.is_number;
                    prompt.items += 1;
                    prompt.chars += item.chars;
                    prompt.tokens += item.tokens;
                    prompt.ends_with_result = item.is_result;
                    prompt.image_flaw = prompt.image_flaw.or(item.image_flaw);
                    if item.is_user && !item.text.is_empty() {
                        prompt.last = item.text;
                    }
                }
                if only_numbers {
                    prompt.items = prompt.items.min(1);
                }
                Ok(prompt)
            }
        }
        deserializer.deserialize_any(PromptVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Prompt<'_> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn every_form_of_a_prompt_is_read() {
        let table = [
            (r#""hello""#, "hello", 1, 5, 0),
            (r#"["one","three"]"#, "three", 2, 8, 0),
            ("[1,2,3]", "", 1, 0, 3),
            ("[[1,2],[3]]", "", 2, 0, 3),
            (r#"[{"role":"system","content":"be"},{"role":"user","content":"hi"}]"#, "hi", 2, 4, 0),
            (r#"[{"role":"user","content":"first"},{"role":"assistant","content":"no"}]"#, "first", 2, 7, 0),
            (r#"[{"role":"user","content":"a\"b"}]"#, "a\"b", 1, 3, 0),
            (r#"[{"role":"user","content":"\u00e9t\u00e9"}]"#, "\u{e9}t\u{e9}", 1, 3, 0),
            (r#"[{"role":"assistant","content":null,"tool_calls":[{"id":"x"}]}]"#, "", 1, 0, 0),
            ("[]", "", 0, 0, 0),
        ];
        for (json, last, items, chars, tokens) in table {
            let prompt = read(json);
            assert_eq!(
                (prompt.last.as_ref(), prompt.items, prompt.chars, prompt.tokens),
                (last, items, chars, tokens),
                "{json}"
            );
        }
    }

    #[test]
    fn parts_are_joined_and_images_are_skipped() {
        let prompt = read(
            r#"[{"role":"user","content":[
                {"type":"text","text":"look "},
                {"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}},
                {"type":"input_text","text":"here"}
            ]}]"#,
        );
        assert_eq!((prompt.last.as_ref(), prompt.items, prompt.chars), ("look here", 1, 9));
    }

    #[test]
    fn the_result_of_a_function_is_no_user_message() {
        let table = [
            (r#"[{"role":"user","content":"ask"},{"role":"tool","tool_call_id":"x","content":"42"}]"#, true, 5),
            (r#"[{"role":"user","content":"ask"},{"type":"function_call","name":"f"}]"#, false, 3),
            (r#"[{"role":"user","content":"ask"},{"type":"function_call_output","output":"42"}]"#, true, 5),
            (r#"[{"role":"tool","content":"42"},{"role":"user","content":"ask"}]"#, false, 5),
        ];
        for (json, ends_with_result, chars) in table {
            let prompt = read(json);
            assert_eq!((prompt.last.as_ref(), prompt.ends_with_result), ("ask", ends_with_result), "{json}");
            assert_eq!(prompt.chars, chars, "{json}");
        }
    }

    #[test]
    fn an_image_that_is_none_is_noticed() {
        let table = [
            (r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgo="}}"#, None),
            (r#"{"type":"image_url","image_url":{"url":"data:image\/png;base64,SGVsbG8="}}"#, Some(Flaw::Content)),
            (r#"{"type":"input_image","image_url":"data:image/bmp;base64,Qk0="}"#, Some(Flaw::MediaType)),
            (r#"{"type":"image_url","image_url":{"url":"https://example.com/a.png","detail":"low"}}"#, None),
            (r#"{"type":"image_url","image_url":7}"#, None),
        ];
        for (part, flaw) in table {
            let json = format!(r#"[{{"role":"user","content":[{{"type":"text","text":"look"}},{part}]}}]"#);
            assert_eq!(read(&json).image_flaw, flaw, "{part}");
        }
    }

    #[test]
    fn a_plain_prompt_is_borrowed() {
        assert!(matches!(read(r#"[{"role":"user","content":"hi"}]"#).last, Cow::Borrowed("hi")));
    }

    #[test]
    fn a_value_that_is_no_string_reads_as_absent() {
        for json in ["null", "true", "-1", "1", "1.5", "[1,[2]]", r#"{"a":{"b":1}}"#] {
            assert_eq!(serde_json::from_str::<Text<'_>>(json).unwrap().as_str(), None, "{json}");
        }
    }
}
