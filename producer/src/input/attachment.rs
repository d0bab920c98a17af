//! Files that a request names, such as `"image_url": {"url": "file:photo.png"}`: found, looked at, and put in as base64.
//!
//! Owns the places where such names may stand, what is taken in each, and the making of the body that is sent; every other
//! byte of it stays. Each pass over the input looks at a file's size and first bytes; the whole of it is read when the job is
//! made, in pieces, for one line at a time. A file that changes in between ends the reading; no wrong body is made.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use gristmill_common::splice::{self, Member, Members};
use serde_json::value::RawValue;

use super::line::{CHAT, MESSAGES, RESPONSES};
use super::media::{HEAD_BYTES, Media, Takes};
use crate::submit::MAX_BODY_BYTES;

/// Largest file that is put into a request, in bytes.
pub const MAX_FILE_BYTES: u64 = 20 * 1024 * 1024;

/// How a string that names a file begins.
const SCHEME: &str = "file:";
/// What a body that names a file holds: what has no such text is not looked at.
const MARK: &str = "\"file:";
/// How deep parts within parts are looked at: a tool's result holds images, a document's contents too.
const MOST_DEPTH: usize = 4;
/// Bytes of a file that are encoded at once; a multiple of three, so that the pieces join.
const PIECE_BYTES: usize = 48 * 1024;

/// What goes where in a body.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Attachments {
    edits: Vec<Edit>,
}

/// New text for a part of the body; an empty part inserts.
#[derive(Debug, PartialEq)]
struct Edit {
    place: Range<usize>,
    before: String,
    file: Option<Attachment>,
    after: String,
}

/// A file as it was when it was looked at.
#[derive(Debug, Clone, PartialEq)]
struct Attachment {
    path: PathBuf,
    bytes: usize,
    media: Media,
}

/// Why a file could not be put in that could be a moment ago.
#[derive(Debug)]
pub(super) struct Gone {
    pub(super) path: PathBuf,
    /// What the system says; `None` where it is another file now.
    pub(super) source: Option<io::Error>,
}

/// Puts the files that a request names into its body: paths are relative to `directory`. Blocks.
///
/// Nothing is looked for, nor copied, where the body does not hold the text `"file:`.
///
/// # Errors
///
/// A reason for people, which names the file.
pub fn inline(body: &Bytes, endpoint: &str, directory: &Path) -> Result<Bytes, String> {
    let text = std::str::from_utf8(body).map_err(|error| error.to_string())?;
    let attachments = Attachments::find(text, endpoint, directory)?;
    attachments.put_into(body).map_err(|Gone { path, source }| match source {
        Some(error) => unreadable(&path, &error),
        None => format!("{} changed while it was read", path.display()),
    })
}

impl Attachments {
    /// Looks for the files that a body names, and at each; the body must have been parsed.
    pub(super) fn find(body: &str, endpoint: &str, directory: &Path) -> Result<Self, String> {
        let list = match endpoint {
            _ if !body.contains(MARK) => return Ok(Self::default()),
            CHAT | MESSAGES => "messages",
            RESPONSES => "input",
            _ => return Ok(Self::default()),
        };
        let mut finder = Finder { text: body, directory, edits: Vec::new() };
        for (key, place) in finder.members(0..body.len()) {
            if key == list {
                finder.turns(place)?;
            }
        }
        let found = Self { edits: finder.edits };
        let length = found.length(body.len());
        if length > MAX_BODY_BYTES && !found.edits.is_empty() {
            return Err(format!("its body has {length} bytes with the files, at most {MAX_BODY_BYTES} are taken"));
        }
        Ok(found)
    }

    /// Returns how long a body of so many bytes becomes.
    fn length(&self, body_bytes: usize) -> usize {
        self.edits.iter().fold(body_bytes, |length, Edit { place, before, file, after }| {
            let encoded = file.as_ref().map_or(0, |file| file.bytes.div_ceil(3) * 4);
            // What is cut out is a part of the body.
            (length - place.len()).saturating_add(before.len() + encoded + after.len())
        })
    }

    /// Makes the body; the same bytes, uncopied, where it names no file.
    pub(super) fn put_into(mut self, body: &Bytes) -> Result<Bytes, Gone> {
        if self.edits.is_empty() {
            return Ok(body.clone());
        }
        // It was text when the files were found in it.
        let text = std::str::from_utf8(body).unwrap_or_default();
        let mut out = String::with_capacity(self.length(text.len()));
        self.edits.sort_by_key(|edit| edit.place.start);
        let mut from = 0;
        for Edit { place, before, file, after } in self.edits {
            out.push_str(&text[from..place.start]);
            out.push_str(&before);
            if let Some(file) = file {
                file.encode(&mut out).map_err(|source| Gone { path: file.path, source })?;
            }
            out.push_str(&after);
            from = place.end;
        }
        out.push_str(&text[from..]);
        Ok(out.into())
    }
}

impl Attachment {
    /// Looks at a file without reading the whole of it.
    fn look(path: PathBuf, takes: Takes) -> Result<Self, String> {
        let shown = path.display();
        let failed = |error: io::Error| unreadable(&path, &error);
        // What is no regular file is not opened: opening a pipe waits for a writer.
        let metadata = std::fs::metadata(&path).map_err(failed)?;
        if metadata.is_dir() {
            return Err(format!("{shown} is a directory"));
        }
        if !metadata.is_file() {
            return Err(format!("{shown} is no regular file"));
        }
        let bytes = size(&metadata)
            .ok_or_else(|| format!("{shown} has {} bytes, at most {MAX_FILE_BYTES} are taken", metadata.len()))?;
        let mut head = Vec::with_capacity(HEAD_BYTES);
        File::open(&path).and_then(|file| file.take(HEAD_BYTES as u64).read_to_end(&mut head)).map_err(failed)?;
        match Media::of(&head) {
            Some(media) if takes.media().contains(&media) => Ok(Self { path, bytes, media }),
            Some(Media::Pdf) if takes == Takes::Image => {
                Err(format!("{shown} is PDF, not {}; give it as a file part", takes.list()))
            }
            Some(media) => Err(format!("{shown} is {}, not {}", media.name(), takes.list())),
            None if bytes == 0 => Err(format!("{shown} is empty")),
            None => Err(format!("{shown} is not {}", takes.list())),
        }
    }

    /// Adds the file to a text; the error is `None` where it is not what it was.
    fn encode(&self, out: &mut String) -> Result<(), Option<io::Error>> {
        // One byte more tells a file that grew.
        let mut file = File::open(&self.path)?.take(self.bytes as u64 + 1);
        let mut piece = Vec::with_capacity(PIECE_BYTES.min(self.bytes + 1));
        let mut bytes = 0;
        loop {
            piece.clear();
            let read = file.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece)?;
            if bytes == 0 && Media::of(&piece) != Some(self.media) {
                return Err(None);
            }
            bytes += read;
            STANDARD.encode_string(&piece, out);
            if read < PIECE_BYTES {
                return if bytes == self.bytes { Ok(()) } else { Err(None) };
            }
        }
    }
}

fn size(metadata: &Metadata) -> Option<usize> {
    usize::try_from(metadata.len()).ok().filter(|_| metadata.len() <= MAX_FILE_BYTES)
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    format!("reading {} failed: {error}", path.display())
}

/// Walks what may name files.
struct Finder<'a> {
    text: &'a str,
    directory: &'a Path,
    edits: Vec<Edit>,
}

impl<'a> Finder<'a> {
    /// Looks at messages, or at the items of a response's input.
    fn turns(&mut self, list: Range<usize>) -> Result<(), String> {
        for turn in self.elements(list) {
            for (key, place) in self.members(turn) {
                // The output of a function that was called holds parts as a message does.
                if key == "content" || key == "output" {
                    self.parts(place, 0)?;
                }
            }
        }
        Ok(())
    }

    fn parts(&mut self, list: Range<usize>, depth: usize) -> Result<(), String> {
        if depth >= MOST_DEPTH || !self.text[list.clone()].contains(MARK) {
            return Ok(());
        }
        for part in self.elements(list) {
            self.part(&part, depth)?;
        }
        Ok(())
    }

    /// Looks at one part. Of a repeated key the first value counts, so that no place is changed twice.
    fn part(&mut self, part: &Range<usize>, depth: usize) -> Result<(), String> {
        let members = self.members(part.clone());
        if let Some(place) = member(&members, "image_url") {
            // An object in chats, a string in responses; some write the string in chats, too.
            let place = if self.text[place.clone()].starts_with('{') {
                member(&self.members(place), "url")
            } else {
                Some(place)
            };
            place.map_or(Ok(None), |place| self.data_url(place, Takes::Image))?;
        }
        if let Some(object) = member(&members, "file") {
            self.file(&object)?;
        }
        self.file(part)?;
        if let Some(object) = member(&members, "input_audio") {
            self.audio(&object)?;
        }
        let takes = match self.kind(&members) {
            Some("\"image\"") => Some(Takes::Image),
            Some("\"document\"") => Some(Takes::Document),
            _ => None,
        };
        if let (Some(object), Some(takes)) = (member(&members, "source"), takes) {
            self.source(object, takes, depth)?;
        }
        if let Some(list) = member(&members, "content") {
            self.parts(list, depth + 1)?;
        }
        Ok(())
    }

    /// Takes a string in whose place a data URL may stand; returns the file.
    fn data_url(&mut self, place: Range<usize>, takes: Takes) -> Result<Option<Attachment>, String> {
        let Some(file) = self.named(&place, takes)? else { return Ok(None) };
        let before = format!("\"data:{};base64,", file.media.mime());
        self.edits.push(Edit { place, before, file: Some(file.clone()), after: "\"".to_owned() });
        Ok(Some(file))
    }

    /// Takes an object with `file_data`, which needs a `filename` beside it.
    fn file(&mut self, object: &Range<usize>) -> Result<(), String> {
        let members = self.members(object.clone());
        let address = member(&members, "file_url").map_or(Ok(None), |place| self.reference(&place))?;
        if let Some(reference) = address {
            return Err(format!("{reference} stands in file_url, which takes addresses; write it into file_data"));
        }
        let Some(place) = member(&members, "file_data") else { return Ok(()) };
        if let Some(Attachment { path, .. }) = self.data_url(place, Takes::Any)?
            && member(&members, "filename").is_none()
        {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            self.set(object, &members, "filename", &name);
        }
        Ok(())
    }

    /// Takes an object with `data` and `format`.
    fn audio(&mut self, object: &Range<usize>) -> Result<(), String> {
        let members = self.members(object.clone());
        if let Some(file) = self.data(&members, Takes::Audio)? {
            self.set(object, &members, "format", file.media.audio_format());
        }
        Ok(())
    }

    /// Takes the source of one of Anthropic's blocks: an address, base64 with its type, or parts.
    fn source(&mut self, object: Range<usize>, takes: Takes, depth: usize) -> Result<(), String> {
        let members = self.members(object.clone());
        match self.kind(&members) {
            Some("\"base64\"") => {
                if let Some(file) = self.data(&members, takes)? {
                    self.set(&object, &members, "media_type", file.media.mime());
                }
            }
            Some("\"url\"") => {
                let Some(url) = member(&members, "url") else { return Ok(()) };
                let Some(file) = self.named(&url, takes)? else { return Ok(()) };
                let mut after = "\"".to_owned();
                for (key, place) in members.iter().filter(|(key, _)| key != "type" && key != "url") {
                    after.push_str(&format!(",{}:{}", splice::quoted(key), &self.text[place.clone()]));
                }
                after.push('}');
                let mime = file.media.mime();
                let before = format!("{{\"type\":\"base64\",\"media_type\":\"{mime}\",\"data\":\"");
                self.edits.push(Edit { place: object, before, file: Some(file), after });
            }
            Some("\"content\"") => {
                if let Some(parts) = member(&members, "content") {
                    self.parts(parts, depth + 1)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes the member `data`, base64 without an address; returns the file.
    fn data(&mut self, members: &[Member<'a>], takes: Takes) -> Result<Option<Attachment>, String> {
        let Some(place) = member(members, "data") else { return Ok(None) };
        let Some(file) = self.named(&place, takes)? else { return Ok(None) };
        let quote = || "\"".to_owned();
        self.edits.push(Edit { place, before: quote(), file: Some(file.clone()), after: quote() });
        Ok(Some(file))
    }

    /// Sets a member of an object that has others.
    fn set(&mut self, object: &Range<usize>, members: &[Member<'a>], key: &str, value: &str) {
        let value = splice::quoted(value);
        let (place, text) = match member(members, key) {
            Some(place) if self.text[place.clone()] == value => return,
            Some(place) => (place, value),
            None => (object.start + 1..object.start + 1, format!("{}:{value},", splice::quoted(key))),
        };
        self.edits.push(Edit { place, before: text, file: None, after: String::new() });
    }

    /// Looks at the file that a string names, if it names one.
    fn named(&self, place: &Range<usize>, takes: Takes) -> Result<Option<Attachment>, String> {
        let Some(reference) = self.reference(place)? else { return Ok(None) };
        Attachment::look(resolved(&reference, self.directory)?, takes).map(Some)
    }

    fn reference(&self, place: &Range<usize>) -> Result<Option<String>, String> {
        let raw = &self.text[place.clone()];
        if !raw.starts_with(MARK) {
            return Ok(None);
        }
        serde_json::from_str(raw).map(Some).map_err(|_| "the name of a file is no valid string".to_owned())
    }

    fn kind(&self, members: &[Member<'a>]) -> Option<&'a str> {
        member(members, "type").map(|place| &self.text[place])
    }

    /// Returns an object's members with their places in the body; of anything else, none.
    fn members(&self, place: Range<usize>) -> Vec<Member<'a>> {
        let mut found = Vec::new();
        if let Ok(mut members) = Members::new(&self.text[place.clone()]) {
            while let Ok(Some((key, value))) = members.next_member() {
                found.push((key, place.start + value.start..place.start + value.end));
            }
        }
        found
    }

    /// Returns the places of an array's elements; of anything else, none.
    fn elements(&self, place: Range<usize>) -> Vec<Range<usize>> {
        let elements: Vec<&RawValue> = serde_json::from_str(&self.text[place]).unwrap_or_default();
        let start = |element: &str| element.as_ptr().addr() - self.text.as_ptr().addr();
        elements.into_iter().map(RawValue::get).map(|element| start(element)..start(element) + element.len()).collect()
    }
}

fn member(members: &[Member<'_>], key: &str) -> Option<Range<usize>> {
    members.iter().find(|(name, _)| name == key).map(|(_, place)| place.clone())
}

/// Returns the path that `file:photo.png`, `file:/whole/path.png` or `file:///whole/path.png` means.
///
/// Only what begins with `file://` is an address, in which `%20` stands for a blank.
fn resolved(reference: &str, directory: &Path) -> Result<PathBuf, String> {
    let path = reference.strip_prefix(SCHEME).unwrap_or(reference);
    if path.is_empty() {
        return Err(format!("{reference} names no file"));
    }
    if !path.starts_with("//") {
        return Ok(directory.join(path));
    }
    let url = url::Url::parse(reference).ok();
    url.and_then(|url| url.to_file_path().ok()).ok_or_else(|| {
        let short = path.trim_start_matches('/');
        format!("{reference} is on another machine; write file:{short}, or file:///{short} for a whole path")
    })
}
