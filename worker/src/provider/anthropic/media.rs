//! Images and documents, from addresses and from base64.
//!
//! Only the head of base64 is decoded, to see what it holds; the data itself is moved. What is taken:
//! <https://platform.claude.com/docs/en/build-with-claude/vision> and `…/pdf-support`, read 2026-08-22.

use std::borrow::Cow;

use memchr::memmem;

use super::json::{Json, Object};
use super::part::Place;
use super::refusal::Refusal;

/// Where a PDF must say that it is one: readers accept its mark anywhere in its first kilobyte.
const HEAD_BYTES: usize = 1024;

/// What data holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Image(&'static str),
    Pdf,
}

/// Makes the block of an address: an image, or whatever a data URL holds.
pub(super) fn of_url(place: Place, url: Cow<'_, str>) -> Result<Object<'_>, Refusal> {
    if has_scheme(&url, "data") {
        return of_data_url(place, url, None);
    }
    if is_web(&url) {
        return Ok(Object::of("image").with("source", Object::of("url").with("url", url)));
    }
    Err(Refusal::bad(
        place,
        "has an image whose url is neither an http:// or https:// address nor a data URL; an image on this machine is written as \
         data:image/png;base64,…",
    ))
}

/// Makes the block of OpenAI's `file`: its data, or the id of a file that Anthropic keeps.
pub(super) fn of_file(place: Place, mut file: Object<'_>) -> Result<Object<'_>, Refusal> {
    let title = file.take("filename").filter(|name| name.as_text().is_some_and(|name| !name.trim().is_empty()));
    let source = match (file.take("file_data"), file.take("file_id")) {
        (Some(Json::Text(data)), _) if has_scheme(&data, "data") => return of_data_url(place, data, title),
        (Some(Json::Text(data)), _) => return of_base64(place, "", data, title),
        (None, Some(Json::Text(url))) if is_web(&url) => Object::of("url").with("url", url),
        (None, Some(Json::Text(id))) => Object::of("file").with("file_id", id),
        _ => return Err(Refusal::bad(place, "is a file with neither file_data nor file_id")),
    };
    Ok(Object::of("document").with("source", source).with_some("title", title))
}

fn of_data_url<'a>(place: Place, url: Cow<'a, str>, title: Option<Json<'a>>) -> Result<Object<'a>, Refusal> {
    let header_and_comma = url.find(',').map(|comma| (url["data:".len()..comma].to_ascii_lowercase(), comma));
    let Some((header, comma)) = header_and_comma.filter(|(header, _)| header.ends_with(";base64")) else {
        return Err(Refusal::bad(place, "has a data URL that is not of the form data:<type>;base64,<data>"));
    };
    let declared = header.split(';').next().unwrap_or_default().trim();
    of_base64(place, declared, behind(url, comma + 1), title)
}

/// Makes the block of base64. What the data is decides; what it is declared as only tells text from what is nothing known.
fn of_base64<'a>(
    place: Place,
    declared: &str,
    data: Cow<'a, str>,
    title: Option<Json<'a>>,
) -> Result<Object<'a>, Refusal> {
    let Some(head) = decode(&data, HEAD_BYTES) else {
        return Err(Refusal::bad(place, "has data that is not base64"));
    };
    let base64 = |media_type: &'static str, data| {
        Object::of("base64").with("media_type", media_type).with("data", Json::Text(data))
    };
    let source = match sniff(&head) {
        Some(Kind::Image(media_type)) => {
            return Ok(Object::of("image").with("source", base64(media_type, data)));
        }
        Some(Kind::Pdf) => base64("application/pdf", data),
        None if declared.starts_with("text/") || declared == "application/json" => {
            let text = decode(&data, usize::MAX).and_then(|bytes| String::from_utf8(bytes).ok());
            let Some(text) = text.filter(|text| !text.trim().is_empty()) else {
                return Err(Refusal::bad(place, format!("is declared as {declared} and is not UTF-8 text, or empty")));
            };
            Object::of("text").with("media_type", "text/plain").with("data", text)
        }
        None => {
            let declared: String = declared.chars().take(60).collect();
            let declared = if declared.is_empty() { "nothing".to_owned() } else { declared };
            let what = format!(
                "has data (declared as {declared}) that is no PNG, JPEG, GIF or WebP image, no PDF and no text, which is all \
                 that Anthropic takes"
            );
            return Err(Refusal::bad(place, what));
        }
    };
    Ok(Object::of("document").with("source", source).with_some("title", title))
}

fn is_web(url: &str) -> bool {
    has_scheme(url, "https") || has_scheme(url, "http")
}

fn has_scheme(url: &str, scheme: &str) -> bool {
    let head = url.as_bytes().get(..scheme.len());
    head.is_some_and(|head| head.eq_ignore_ascii_case(scheme.as_bytes()))
        && url.as_bytes().get(scheme.len()) == Some(&b':')
}

/// Returns what stands behind a place, without copying it anew.
fn behind(text: Cow<'_, str>, place: usize) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[place..]),
        Cow::Owned(mut text) => {
            text.drain(..place);
            Cow::Owned(text)
        }
    }
}

/// Knows data by its first bytes: <https://en.wikipedia.org/wiki/List_of_file_signatures>, read 2026-11.
fn sniff(head: &[u8]) -> Option<Kind> {
    if head.starts_with(b"\x89PNG\r\n\x1a\n") {
        return Some(Kind::Image("image/png"));
    }
    if head.starts_with(b"\xff\xd8\xff") {
        return Some(Kind::Image("image/jpeg"));
    }
    if head.starts_with(b"GIF87a") || head.starts_with(b"GIF89a") {
        return Some(Kind::Image("image/gif"));
    }
    if head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WEBP") {
        return Some(Kind::Image("image/webp"));
    }
    memmem::find(head, b"%PDF-").map(|_| Kind::Pdf)
}

/// Decodes base64 of either alphabet, up to so many bytes; `None` for what is none. Blanks are passed over.
fn decode(text: &str, limit: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(limit.min(text.len() / 4 * 3 + 3));
    let (mut held, mut bits) = (0_u32, 0_u32);
    for byte in text.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            b' ' | b'\t' | b'\r' | b'\n' => continue,
            b'=' => break,
            _ => return None,
        };
        held = ((held << 6) | u32::from(value)) & 0xffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits).to_be_bytes()[3]);
            if bytes.len() >= limit {
                break;
            }
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_decoded() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("TWFu", b"Man"),
            ("TWE=", b"Ma"),
            ("TQ==", b"M"),
            ("TQ", b"M"),
            ("TW\nFu", b"Man"),
            ("_-8=", b"\xff\xef"),
        ] {
            assert_eq!(decode(text, usize::MAX).as_deref(), Some(bytes), "{text}");
        }
        assert_eq!(decode("TWFu", 2).as_deref(), Some(&b"Ma"[..]));
        assert_eq!(decode("T!Fu", 9), None);
    }

    #[test]
    fn data_is_known_by_its_first_bytes() {
        for (head, kind) in [
            (&b"\x89PNG\r\n\x1a\n\0\0"[..], Some(Kind::Image("image/png"))),
            (b"\xff\xd8\xff\xe0", Some(Kind::Image("image/jpeg"))),
            (b"GIF89a\x01", Some(Kind::Image("image/gif"))),
            (b"RIFF\0\0\0\0WEBPVP8 ", Some(Kind::Image("image/webp"))),
            (b"RIFF\0\0\0\0WAVE", None),
            (b"%PDF-1.7", Some(Kind::Pdf)),
            (b"\n\n%PDF-1.4", Some(Kind::Pdf)),
            (b"BM", None),
            (b"", None),
        ] {
            assert_eq!(sniff(head), kind, "{head:?}");
        }
    }

    #[test]
    fn data_is_moved_and_not_copied() {
        let url = "data:image/png;base64,iVBORw0KGgo=";
        let place = Place { message: 0, part: None };
        let block = of_url(place, url.into()).unwrap();
        let data = block.get("source").and_then(Json::as_object).and_then(|source| source.get("data"));
        assert!(matches!(data, Some(Json::Text(Cow::Borrowed("iVBORw0KGgo=")))));
    }
}
