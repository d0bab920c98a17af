//! What a file is, told by its first bytes and never by its name. Pure.

/// Bytes that suffice to tell.
pub(super) const HEAD_BYTES: usize = 16;

/// A kind of file that some API takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Media {
    Png,
    Jpeg,
    Gif,
    Webp,
    Pdf,
    Wav,
    Mp3,
}

impl Media {
    /// Tells what begins like this.
    ///
    /// Signatures: PNG (ISO/IEC 15948 section 5.2), JPEG (ITU-T T.81 annex B), GIF (version 89a, section 17), RIFF with its
    /// form type (WebP: RFC 9649 section 2.4), PDF (ISO 32000-1 section 7.5.2), ID3 (version 2, section 3.1) and the header of
    /// a frame of MPEG audio (ISO/IEC 11172-3 section 2.4.1.3).
    pub(super) fn of(head: &[u8]) -> Option<Self> {
        match head {
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Self::Png),
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Self::Gif),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Self::Webp),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..] => Some(Self::Wav),
            [b'%', b'P', b'D', b'F', b'-', ..] => Some(Self::Pdf),
            [b'I', b'D', b'3', version, ..] if *version < 0xff => Some(Self::Mp3),
            [0xff, second, third, ..] if is_layer_3(*second, *third) => Some(Self::Mp3),
            _ => None,
        }
    }

    /// Returns its name for people.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::Gif => "GIF",
            Self::Webp => "WebP",
            Self::Pdf => "PDF",
            Self::Wav => "WAV",
            Self::Mp3 => "MP3",
        }
    }

    /// Returns its type in a data URL.
    pub(super) const fn mime(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Gif => "image/gif",
            Self::Webp => "image/webp",
            Self::Pdf => "application/pdf",
            Self::Wav => "audio/wav",
            Self::Mp3 => "audio/mpeg",
        }
    }

    /// Returns what OpenAI's `input_audio` calls it.
    pub(super) const fn audio_format(self) -> &'static str {
        match self {
            Self::Mp3 => "mp3",
            _ => "wav",
        }
    }
}

/// Tells whether a byte of ones and these two begin a frame of MPEG audio, layer 3.
const fn is_layer_3(second: u8, third: u8) -> bool {
    let (sync, version, layer) = (second >> 5, (second >> 3) & 3, (second >> 1) & 3);
    let (bit_rate, sample_rate) = (third >> 4, (third >> 2) & 3);
    // Version 1, bit rate 15 and sample rate 3 mean nothing.
    sync == 7 && version != 1 && layer == 1 && bit_rate != 15 && sample_rate != 3
}

/// What may stand in a place of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    Image,
    Document,
    Audio,
    Any,
}

impl Takes {
    /// Returns what is taken.
    pub(super) const fn media(self) -> &'static [Media] {
        use Media::{Gif, Jpeg, Mp3, Pdf, Png, Wav, Webp};

        match self {
            Self::Image => &[Png, Jpeg, Gif, Webp],
            Self::Document => &[Pdf],
            Self::Audio => &[Wav, Mp3],
            Self::Any => &[Png, Jpeg, Gif, Webp, Pdf, Wav, Mp3],
        }
    }

    /// Lists what is taken for people.
    pub(super) fn list(self) -> String {
        let names: Vec<&str> = self.media().iter().map(|media| media.name()).collect();
        match names.split_last() {
            Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
            _ => names.concat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_by_their_first_bytes() {
        for (head, media) in [
            (&b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"[..], Some(Media::Png)),
            (b"\xff\xd8\xff\xe0\0\x10JFIF", Some(Media::Jpeg)),
            (b"\xff\xd8\xff\xdb", Some(Media::Jpeg)),
            (b"GIF87a", Some(Media::Gif)),
            (b"GIF89a\x01\0", Some(Media::Gif)),
            (b"RIFF\x24\0\0\0WEBPVP8 ", Some(Media::Webp)),
            (b"RIFF\x24\0\0\0WAVEfmt ", Some(Media::Wav)),
            (b"%PDF-1.7\n", Some(Media::Pdf)),
            (b"ID3\x04\0\0", Some(Media::Mp3)),
            (b"\xff\xfb\x90\x64", Some(Media::Mp3)),
            (b"\xff\xf3\x40\xc0", Some(Media::Mp3)),
            // AAC in ADTS frames, and UTF-16.
            (b"\xff\xf1\x50\x80", None),
            (b"\xff\xfe{\0", None),
            (b"RIFF\x24\0\0\0AVI LIST", None),
            (b"RIFF", None),
            (b"BM\x36\0", None),
            (b"<svg xmlns", None),
            (b"\x89PNG", None),
            (b"hello", None),
            (b"", None),
        ] {
            assert_eq!(Media::of(head), media, "{head:?}");
        }
    }

    #[test]
    fn what_is_taken_is_listed() {
        assert_eq!(Takes::Image.list(), "PNG, JPEG, GIF or WebP");
        assert_eq!(Takes::Document.list(), "PDF");
        assert_eq!(Takes::Audio.list(), "WAV or MP3");
    }
}
