//! JSON fields as servers really write them: numbers as strings, missing lists, text in parts. None of these types refuses a
//! value; what does not fit counts as absent.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Implements the visits that a type ignores.
macro_rules! ignore {
    ($($visit:ident: $type:ty),*) => {
        $(fn $visit<E: serde::de::Error>(self, _: $type) -> Result<Self::Value, E> { Ok(Self::Value::default()) })*
    };
    (seq) => {
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(Self::Value::default())
        }
    };
    (map) => {
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok(Self::Value::default())
        }
    };
    (unit) => {
        fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> { Ok(Self::Value::default()) }
    };
}

fn expecting(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("any value")
}

/// A count: a number, a whole float or a number in quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Count(pub(super) Option<u32>);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Count;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                expecting(f)
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Count, E> {
                Ok(Count(Some(u32::try_from(number).unwrap_or(u32::MAX))))
            }

            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Count, E> {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "saturates, and is not negative"
                )]
                Ok(Count((number.is_finite() && number >= 0.0).then_some(number.round() as u32)))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Count, E> {
                text.trim().parse::<f64>().map_or(Ok(Count(None)), |number| self.visit_f64(number))
            }

            ignore!(visit_i64: i64, visit_bool: bool);
            ignore!(unit);
            ignore!(seq);
            ignore!(map);
        }
        deserializer.deserialize_any(Any)
    }
}

/// A text; or the texts of a list of parts, joined.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Text(pub(super) Option<String>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                expecting(f)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(Some(text.to_owned())))
            }

            fn visit_string<E: serde::de::Error>(self, text: String) -> Result<Text, E> {
                Ok(Text(Some(text)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Text, A::Error> {
                let mut joined: Option<String> = None;
                while let Some(Lenient(part)) = list.next_element::<Lenient<Part>>()? {
                    if let Some(text) = part.text.0 {
                        joined.get_or_insert_default().push_str(&text);
                    }
                }
                Ok(Text(joined))
            }

            ignore!(visit_u64: u64, visit_i64: i64, visit_f64: f64, visit_bool: bool);
            ignore!(unit);
            ignore!(map);
        }
        deserializer.deserialize_any(Any)
    }
}

/// One part of a text; parts of other kinds, such as refusals and images, have none.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Part {
    text: Text,
}

/// Whether a value says anything: not `null`, `false`, `0`, `""`, `[]` or `{}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct IsSet(pub(super) bool);

impl<'de> Deserialize<'de> for IsSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = IsSet;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                expecting(f)
            }

            fn visit_bool<E: serde::de::Error>(self, flag: bool) -> Result<IsSet, E> {
                Ok(IsSet(flag))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<IsSet, E> {
                Ok(IsSet(number != 0))
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<IsSet, E> {
                Ok(IsSet(number != 0))
            }

            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<IsSet, E> {
                Ok(IsSet(number != 0.0))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<IsSet, E> {
                Ok(IsSet(!text.is_empty()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<IsSet, A::Error> {
                let mut set = false;
                while list.next_element::<IgnoredAny>()?.is_some() {
                    set = true;
                }
                Ok(IsSet(set))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<IsSet, A::Error> {
                let mut set = false;
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    set = true;
                }
                Ok(IsSet(set))
            }

            ignore!(unit);
        }
        deserializer.deserialize_any(Any)
    }
}

/// An object; its default where the value is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Lenient<T>(pub(super) T);

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for Any<T> {
            type Value = Lenient<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                expecting(f)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Lenient<T>, A::Error> {
                T::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(Lenient)
            }

            ignore!(visit_u64: u64, visit_i64: i64, visit_f64: f64, visit_bool: bool, visit_str: &str);
            ignore!(unit);
            ignore!(seq);
        }
        deserializer.deserialize_any(Any(PhantomData))
    }
}

/// The first element of a list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct First<T>(pub(super) Option<T>);

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for First<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for Any<T> {
            type Value = First<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                expecting(f)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<First<T>, A::Error> {
                let first = list.next_element::<Lenient<T>>()?;
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(First(first.map(|Lenient(first)| first)))
            }

            ignore!(visit_u64: u64, visit_i64: i64, visit_f64: f64, visit_bool: bool, visit_str: &str);
            ignore!(unit);
            ignore!(map);
        }
        deserializer.deserialize_any(Any(PhantomData))
    }
}

/// Every element of a list; none where it is no list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct All<T>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for All<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for Any<T> {
            type Value = All<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                expecting(f)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<All<T>, A::Error> {
                let mut all = Vec::new();
                while let Some(Lenient(element)) = list.next_element::<Lenient<T>>()? {
                    all.push(element);
                }
                Ok(All(all))
            }

            ignore!(visit_u64: u64, visit_i64: i64, visit_f64: f64, visit_bool: bool, visit_str: &str);
            ignore!(unit);
            ignore!(map);
        }
        deserializer.deserialize_any(Any(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read<T: for<'de> Deserialize<'de>>(value: &serde_json::Value) -> T {
        serde_json::from_str(&value.to_string()).unwrap()
    }

    #[test]
    fn counts_are_read_however_they_are_written() {
        for (value, count) in [
            (json!(7), Some(7)),
            (json!(7.0), Some(7)),
            (json!("7"), Some(7)),
            (json!(5_000_000_000_u64), Some(u32::MAX)),
            (json!(null), None),
            (json!(-1), None),
            (json!("many"), None),
            (json!([1]), None),
            (json!({"a": 1}), None),
            (json!(true), None),
        ] {
            assert_eq!(read::<Count>(&value).0, count, "{value}");
        }
    }

    #[test]
    fn texts_are_read_whole_or_in_parts() {
        for (value, text) in [
            (json!("a"), Some("a")),
            (json!([{"type": "text", "text": "a"}, {"type": "image"}, 3, {"text": "b"}]), Some("ab")),
            (json!([]), None),
            (json!(null), None),
            (json!(3), None),
            (json!({"text": "a"}), None),
        ] {
            assert_eq!(read::<Text>(&value).0.as_deref(), text, "{value}");
        }
    }

    #[test]
    fn empty_values_are_not_set() {
        for value in [json!(null), json!(false), json!(0), json!(0.0), json!(""), json!([]), json!({})] {
            assert!(!read::<IsSet>(&value).0, "{value}");
        }
        for value in [json!(true), json!(-1), json!("x"), json!([0]), json!({"a": 0})] {
            assert!(read::<IsSet>(&value).0, "{value}");
        }
    }

    #[test]
    fn lists_take_anything() {
        assert_eq!(read::<First<Count>>(&json!([])).0, None);
        assert!(read::<All<Part>>(&json!("x")).0.is_empty());
        assert_eq!(read::<All<Part>>(&json!([1, {"text": "a"}])).0.len(), 2);
    }
}
