//! JSON as it is counted: texts are borrowed from the body where they have no escapes, numbers are only counted.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

/// A text of a body.
#[derive(Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// A value.
#[derive(Debug)]
pub(crate) enum Node<'a> {
    Text(Text<'a>),
    /// A list's values without its numbers, and how many these are: token ids come by the hundred thousand.
    List(Vec<Self>, u64),
    Fields(Vec<(Text<'a>, Self)>),
    Number,
    /// `null`, `true` or `false`.
    Word,
}

impl Node<'_> {
    /// Returns the text of a field.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.field(name)? {
            Node::Text(text) => Some(&text.0),
            _ => None,
        }
    }

    /// Returns a field; the last one of its name, as most readers take it.
    pub(crate) fn field(&self, name: &str) -> Option<&Self> {
        let Node::Fields(fields) = self else { return None };
        fields.iter().rev().find(|(key, _)| key.0 == name).map(|(_, value)| value)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Node<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Node<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Node::Text(Text(Cow::Borrowed(text))))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Node::Text(Text(Cow::Owned(text.to_owned()))))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Node::Number)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Node::Number)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Node::Number)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Node::Word)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Node::Word)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let (mut others, mut numbers) = (Vec::new(), 0);
        while let Some(item) = list.next_element()? {
            match item {
                Node::Number => numbers += 1,
                other => others.push(other),
            }
        }
        Ok(Node::List(others, numbers))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Node::Fields(fields))
    }
}
