//! What a failure of the HTTP client means, as a class and a chain of causes without any address.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use gristmill_common::config::Timeouts;
use gristmill_common::failure::{ErrorClass, ErrorRecord};

use super::exchange::timed_out;

/// Reads a failure of the client. The texts of causes may still name a host: the caller redacts.
pub(super) fn failure(error: reqwest::Error, timeouts: &Timeouts) -> ErrorRecord {
    let error = error.without_url();
    if error.is_connect() && error.is_timeout() {
        return connect_timed_out(timeouts.connect);
    }
    let (kind, message) = explain(&error);
    let mut record = ErrorRecord::new(ErrorClass::ApiConnection, message);
    let mut cause = error.source();
    let mut texts = Vec::new();
    while let Some(inner) = cause {
        let text = inner.to_string();
        // Wrappers repeat what they wrap.
        if !texts.contains(&text) {
            texts.push(text);
        }
        cause = inner.source();
    }
    // The outermost says the kind; those below it say why.
    for (index, text) in texts.into_iter().enumerate() {
        record = record.caused_by(if index == 0 { kind } else { "other" }, text);
    }
    if record.causes.is_empty() { record.caused_by(kind, message) } else { record }
}

pub(super) fn connect_timed_out(limit: Duration) -> ErrorRecord {
    timed_out(
        "timeout.connect",
        format!("no connection within connect_timeout ({limit:?}); is the server up and api_base right?"),
    )
}

/// Returns the kind of a failure, as [`gristmill_common::failure::Cause`] lists them, and what to tell people.
fn explain(error: &reqwest::Error) -> (&'static str, &'static str) {
    let io_kind = find::<io::Error>(error).map(io::Error::kind);
    if error.is_connect() {
        if says(error, "dns error") {
            return ("dns", "the host of api_base was not found; is its name right?");
        }
        if is_tls(error) {
            return ("tls", "no TLS connection: the server's certificate or protocol was refused");
        }
        return match io_kind {
            Some(io::ErrorKind::ConnectionRefused) => {
                ("connect", "the connection was refused; is the server up and api_base right?")
            }
            _ => ("connect", "no connection to the server; is it up and api_base right?"),
        };
    }
    let is_reset = matches!(
        io_kind,
        Some(io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe)
    );
    if error.is_body() || error.is_decode() {
        return if is_reset {
            ("reset", "the connection was reset within the answer")
        } else {
            ("body", "the answer broke off before its end")
        };
    }
    if is_reset || find::<hyper::Error>(error).is_some_and(|error| error.is_incomplete_message() || error.is_closed()) {
        return ("reset", "the connection was lost before an answer began");
    }
    if find::<hyper::Error>(error).is_some_and(hyper::Error::is_parse) {
        return ("decode", "the server does not answer in HTTP; is api_base right?");
    }
    ("other", "the call failed before an answer began")
}

/// Looks for an error of a type in the chain, within I/O errors too.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = inner.and_then(|inner| find::<T>(inner)) {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

fn is_tls(error: &reqwest::Error) -> bool {
    find::<rustls::Error>(error).is_some()
}

fn says(error: &dyn StdError, text: &str) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.to_string().contains(text) {
            return true;
        }
        cause = error.source();
    }
    false
}
