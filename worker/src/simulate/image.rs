//! Images inside requests: whether they are what they say they are.
//!
//! Only the type and the first bytes are looked at; nothing is decoded and no address is fetched.

/// What is wrong with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    /// The media type is not one of the four that models read.
    MediaType,
    /// The bytes do not begin like an image of that type.
    Content,
}

/// How the four formats begin, in base64: the longest prefix that does not depend on what follows.
const FORMATS: [(&str, &str); 4] =
    [("image/png", "iVBORw0KG"), ("image/jpeg", "/9j/"), ("image/gif", "R0lGOD"), ("image/webp", "UklGR")];

/// Looks at an image in base64.
pub(super) fn look(media_type: &str, base64: &str) -> Result<(), Flaw> {
    let Some((_, start)) = FORMATS.iter().find(|(name, _)| *name == media_type) else {
        return Err(Flaw::MediaType);
    };
    if base64.starts_with(start) { Ok(()) } else { Err(Flaw::Content) }
}

/// Looks at the address of an image; only data URLs can be judged.
pub(super) fn look_at_url(url: &str) -> Result<(), Flaw> {
    let Some(rest) = url.strip_prefix("data:") else {
        return Ok(());
    };
    let (media_type, data) = rest.split_once(";base64,").ok_or(Flaw::MediaType)?;
    // Written by many, meant by all.
    let media_type = if media_type == "image/jpg" { "image/jpeg" } else { media_type };
    look(media_type, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_known_by_how_it_begins() {
        let table = [
            ("https://example.com/mill.png", Ok(())),
            ("data:image/png;base64,iVBORw0KGgoAAAANSUhEUg==", Ok(())),
            ("data:image/jpg;base64,/9j/4AAQ", Ok(())),
            ("data:image/webp;base64,UklGRhoAAABXRUJQ", Ok(())),
            ("data:image/gif;base64,R0lGODlhAQABAAAAACw=", Ok(())),
            ("data:image/png;base64,/9j/4AAQ", Err(Flaw::Content)),
            ("data:image/png;base64,SGVsbG8=", Err(Flaw::Content)),
            ("data:image/bmp;base64,Qk0=", Err(Flaw::MediaType)),
            ("data:text/plain,hello", Err(Flaw::MediaType)),
        ];
        for (url, verdict) in table {
            assert_eq!(look_at_url(url), verdict, "{url}");
        }
    }
}
