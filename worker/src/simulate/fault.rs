//! What can go wrong with a call, and when.
//!
//! Owns the text form of faults, in rules (`429:0.02:retry-after=1.5`) and in scripts (`simulate:500,429,ok`), and the
//! choice of a fault for a call. It does not carry faults out: see `serve`, `delivery` and `compose`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::error::Error;
use super::stats::Name;
use super::{duration, random::Random};

/// Starts a script inside a request.
const SCRIPT: &str = "simulate:";

/// Starts the last option of a rule, which runs to its end: names of models may hold colons.
const MODEL: &str = ":model=";

/// Pause between two bytes of a dripping body, and between two signs of life, when the rule names none.
const EVERY: Duration = Duration::from_millis(20);

/// Time for a token of a slow answer, when the rule names none.
const SLOW: Duration = Duration::from_millis(20);

/// Pieces of output that arrive before a stream is cut, breaks or stalls, when the rule names no number.
const AFTER: u32 = 2;

/// Signs of life before an answer, when the rule names no number.
const SIGNS: u32 = 3;

/// The status that an error stands for that comes after status 200, when the rule names none.
const LATE_STATUS: u16 = 500;

/// What happens to a call instead of a plain answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Fault {
    /// An error body in the shape of the dialect.
    Status(StatusFault),
    /// The call is accepted and never answered.
    Timeout,
    /// The connection is reset (TCP RST) before the first byte of an answer.
    Reset,
    /// The connection is closed before the first byte of an answer.
    Close,
    /// The headers promise the whole body, half of it is sent, then the connection closes.
    Truncate,
    /// An HTML page, as a proxy or a captive portal sends it.
    Html { status: u16 },
    /// The answer comes byte by byte.
    Drip { every: Duration },
    /// Status 200 and no body at all.
    Empty,
    /// The answer starts well.
    Late(LateFault),
    /// The model answers otherwise than it was asked to.
    Twist(Twist),
}

/// An error answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StatusFault {
    /// From 400 to 599.
    pub(super) status: u16,
    /// The provider's error code, where the usual one for the status is not wanted.
    pub(super) code: Option<String>,
    /// The wait that the headers ask for.
    pub(super) retry_after: Option<Duration>,
}

/// Something that happens on the way of an answer, after its headers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LateFault {
    pub(super) mishap: Mishap,
    /// Pieces of output that a stream carries before; 0 is before its first event.
    pub(super) after: u32,
    /// Time for each token of a stream; `None` is the simulator's own.
    pub(super) token: Option<Duration>,
}

/// What happens on the way of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Mishap {
    /// It ends too early.
    Cut { how: Ending },
    /// An error follows; a whole body is nothing but the error.
    Error(StatusFault),
    /// Nothing comes for a while, or ever again.
    Stall { resumes_after: Option<Duration> },
    /// Signs of life come before it; without a count they never end.
    KeepAlive { count: Option<u32>, every: Duration },
    /// Only its speed.
    Slow,
}

/// How an answer ends too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The connection closes within the body.
    Close,
    /// The body ends by the rules of HTTP, and its content is not whole.
    End,
    /// TCP RST.
    Reset,
}

/// What the model is made to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Twist {
    /// It will not answer.
    Refusal,
    /// A filter ends the answer half way.
    ContentFilter,
    /// The answer is cut as by a maximum of tokens; half of it without a number.
    Length { tokens: Option<u64> },
    /// It calls a function although it need not, where it has one.
    ToolCall,
    /// JSON that does not fit its schema.
    BadJson,
    /// Text that is no JSON where JSON is asked for.
    NoJson,
    /// The last user message.
    Echo,
}

impl Fault {
    /// Reads a fault without its rate: a name, then options.
    fn parse<'a>(name: &str, options: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let late = |mishap| Self::Late(LateFault { mishap, after: AFTER, token: None });
        let mut fault = match name {
            "timeout" => Self::Timeout,
            "reset" => Self::Reset,
            "close" => Self::Close,
            "truncate" => Self::Truncate,
            "html" => Self::Html { status: 502 },
            "drip" => Self::Drip { every: EVERY },
            "empty" => Self::Empty,
            "cut" => late(Mishap::Cut { how: Ending::Close }),
            "error" => late(Mishap::Error(StatusFault { status: LATE_STATUS, code: None, retry_after: None })),
            "stall" => late(Mishap::Stall { resumes_after: None }),
            "keep_alive" => late(Mishap::KeepAlive { count: Some(SIGNS), every: EVERY }),
            "slow" => Self::Late(LateFault { mishap: Mishap::Slow, after: 0, token: Some(SLOW) }),
            "refusal" => Self::Twist(Twist::Refusal),
            "content_filter" => Self::Twist(Twist::ContentFilter),
            "length" => Self::Twist(Twist::Length { tokens: None }),
            "tool_call" => Self::Twist(Twist::ToolCall),
            "bad_json" => Self::Twist(Twist::BadJson),
            "no_json" => Self::Twist(Twist::NoJson),
            "echo" => Self::Twist(Twist::Echo),
            _ => {
                let Some(status) = error_status(name) else {
                    return Err(format!(
                        "`{name}` is no fault: use a status from 400 to 599, timeout, reset, close, truncate, html, \
                         drip, empty, cut, error, stall, keep_alive, slow, refusal, content_filter, length, tool_call, \
                         bad_json, no_json or echo"
                    ));
                };
                Self::Status(StatusFault { status, code: None, retry_after: None })
            }
        };
        for option in options {
            let Some((key, value)) = option.split_once('=') else {
                return Err(format!("`{option}` is neither a rate nor an option (key=value)"));
            };
            fault.set(name, key, value)?;
        }
        Ok(fault)
    }

    fn set(&mut self, name: &str, key: &str, value: &str) -> Result<(), String> {
        let wrong = || format!("`{value}` is no value for {key}");
        match (self, key) {
            (Self::Status(fault), "retry-after") => {
                let seconds = value.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
                fault.retry_after = Some(seconds.map_or_else(|| duration::parse(value), Ok)?);
            }
            (
                Self::Status(StatusFault { code, .. })
                | Self::Late(LateFault { mishap: Mishap::Error(StatusFault { code, .. }), .. }),
                "code",
            ) => *code = Some(parse_code(value).ok_or_else(wrong)?),
            (Self::Html { status }, "status") => {
                *status = value.parse().ok().filter(|s| (200..600).contains(s)).ok_or_else(wrong)?;
            }
            (Self::Late(LateFault { mishap: Mishap::Error(fault), .. }), "status") => {
                fault.status = error_status(value).ok_or_else(wrong)?;
            }
            (Self::Drip { every } | Self::Late(LateFault { mishap: Mishap::KeepAlive { every, .. }, .. }), "every") => {
                *every = duration::parse(value)?;
            }
            (Self::Late(LateFault { mishap: Mishap::KeepAlive { count, .. }, .. }), "count") => {
                *count = if value == "endless" { None } else { Some(value.parse().map_err(|_| wrong())?) };
            }
            (
                Self::Late(LateFault {
                    mishap: Mishap::Cut { .. } | Mishap::Error(_) | Mishap::Stall { .. },
                    after,
                    ..
                }),
                "after",
            ) => *after = value.parse().map_err(|_| wrong())?,
            (Self::Late(LateFault { mishap: Mishap::Cut { how }, .. }), "how") => {
                *how = Ending::parse(value).ok_or_else(wrong)?;
            }
            (Self::Late(LateFault { mishap: Mishap::Stall { resumes_after }, .. }), "for") => {
                *resumes_after = Some(duration::parse(value)?);
            }
            (Self::Late(LateFault { token, .. }), "token") => *token = Some(duration::parse(value)?),
            (Self::Twist(Twist::Length { tokens }), "tokens") => *tokens = Some(value.parse().map_err(|_| wrong())?),
            _ => return Err(format!("{name} has no option `{key}`")),
        }
        Ok(())
    }

    /// Returns the fault's name in rules, scripts and the call log; an error status has none.
    pub(super) fn name(&self) -> Option<Name> {
        Some(match self {
            Self::Status(_) => return None,
            Self::Timeout => Name::Timeout,
            Self::Reset => Name::Reset,
            Self::Close => Name::Close,
            Self::Truncate => Name::Truncate,
            Self::Html { .. } => Name::Html,
            Self::Drip { .. } => Name::Drip,
            Self::Empty => Name::Empty,
            Self::Late(fault) => match fault.mishap {
                Mishap::Cut { .. } => Name::Cut,
                Mishap::Error(_) => Name::Error,
                Mishap::Stall { .. } => Name::Stall,
                Mishap::KeepAlive { .. } => Name::KeepAlive,
                Mishap::Slow => Name::Slow,
            },
            Self::Twist(twist) => match twist {
                Twist::Refusal => Name::Refusal,
                Twist::ContentFilter => Name::ContentFilter,
                Twist::Length { .. } => Name::Length,
                Twist::ToolCall => Name::ToolCall,
                Twist::BadJson => Name::BadJson,
                Twist::NoJson => Name::NoJson,
                Twist::Echo => Name::Echo,
            },
        })
    }
}

impl Ending {
    fn parse(text: &str) -> Option<Self> {
        [Self::Close, Self::End, Self::Reset].into_iter().find(|end| end.as_str() == text)
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::End => "end",
            Self::Reset => "reset",
        }
    }
}

fn error_status(text: &str) -> Option<u16> {
    text.parse().ok().filter(|status| (400..600).contains(status))
}

fn parse_code(text: &str) -> Option<String> {
    let is_code = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    is_code.then(|| text.to_owned())
}

/// A fault and how often it happens: `429:0.02:retry-after=1.5`, `timeout:0.01`, `401`.
///
/// The text is a name, a rate from 0 to 1 (default 1), and options (`key=value`), separated by colons. Instead of an
/// answer:
///
/// - a status from 400 to 599, with `retry-after=SECONDS` and `code=CODE`;
/// - `timeout` accepts the call and never answers; `reset` sends a TCP RST before any byte, `close` closes there;
/// - `truncate` closes after half of the body; `drip` sends a byte every 20 ms (`every=5ms`);
/// - `html` sends an HTML page with status 502 (`status=200`); `empty` sends status 200 without a body.
///
/// On the way of an answer; `after` counts the pieces of output that a stream has carried (2 by default, 0 is before its
/// first event), `token=50ms` is the time for each token of it:
///
/// - `cut` ends it early: the connection closes within the body (`how=close`), is reset (`how=reset`), or the body ends
///   properly and only its content is not whole (`how=end`); a body that is no stream ends in its middle;
/// - `error` follows with an error event, which stands for status 500 (`status=529`, `code=CODE`); a body that is no
///   stream is status 200 with the error in it;
/// - `stall` says nothing more until the caller goes, or goes on later (`for=30s`);
/// - `keep_alive` sends signs of life first: comments or pings in a stream, else blank lines, 3 of them (`count=10`,
///   `count=endless`), one every 20 ms (`every=1s`);
/// - `slow` takes 20 ms for a token (`token=50ms`).
///
/// In the answer itself: `refusal`, `content_filter` (cut by it), `length` (cut as by a maximum, `tokens=5`),
/// `tool_call` (a function is called although it need not be), `bad_json` (JSON that does not fit the schema, in the
/// text or in a function's arguments), `no_json` (half of the JSON), `echo` (the last user message).
///
/// Last of all may stand the one model whose calls the rule is for: `503:0.5:model=gpt-4o`. At Azure that is the
/// deployment. The name may hold colons.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultRule {
    fault: Fault,
    rate: f64,
    /// `None` is every model.
    model: Option<String>,
}

impl FaultRule {
    /// Returns the share of calls that meet this fault, from 0 to 1.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Returns the model whose calls can meet this fault; `None` is every model.
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// Picks the fault of one call to a model, if it meets one, by one draw over the summed rates.
    ///
    /// Rates add up: 0.05 and 0.05 make one call in ten fail. What goes beyond 1 never happens.
    pub(super) fn choose<'a>(
        rules: impl IntoIterator<Item = &'a Self>,
        model: &str,
        random: impl FnOnce() -> Random,
    ) -> Option<&'a Fault> {
        let mut rules = rules.into_iter().filter(|rule| rule.model().is_none_or(|wanted| wanted == model)).peekable();
        rules.peek()?;
        let draw = random().unit();
        let mut reached = 0.0;
        for rule in rules {
            reached += rule.rate;
            if draw < reached {
                return Some(&rule.fault);
            }
        }
        None
    }
}

impl FromStr for FaultRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |reason| Error::Rule { rule: text.to_owned(), reason };
        let (rule, model) = match text.split_once(MODEL) {
            Some((_, "")) => return Err(wrong("`model` names none".to_owned())),
            Some((rule, model)) => (rule, Some(model.to_owned())),
            None => (text, None),
        };
        let (name, rest) = rule.split_once(':').unwrap_or((rule, ""));
        let mut rest = rest.split(':').filter(|part| !part.is_empty()).peekable();
        let mut rate = 1.0;
        if let Some(part) = rest.next_if(|part| !part.contains('=')) {
            let number = part.parse().ok().filter(|rate| (0.0..=1.0).contains(rate));
            rate = number.ok_or_else(|| wrong(format!("`{part}` is no rate: use a number from 0 to 1")))?;
        }
        let fault = Fault::parse(name, rest).map_err(wrong)?;
        Ok(Self { fault, rate, model })
    }
}

impl fmt::Display for FaultRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.fault, self.fault.name()) {
            (Fault::Status(StatusFault { status, .. }), _) => write!(f, "{status}:{}", self.rate)?,
            (_, Some(name)) => write!(f, "{}:{}", name.as_str(), self.rate)?,
            (_, None) => {}
        }
        let ms = |duration: &Duration| duration.as_secs_f64() * 1_000.0;
        match &self.fault {
            Fault::Status(fault) => {
                if let Some(code) = &fault.code {
                    write!(f, ":code={code}")?;
                }
                if let Some(wait) = fault.retry_after {
                    write!(f, ":retry-after={}", wait.as_secs_f64())?;
                }
            }
            Fault::Html { status } => write!(f, ":status={status}")?,
            Fault::Drip { every } => write!(f, ":every={}ms", ms(every))?,
            Fault::Twist(Twist::Length { tokens: Some(tokens) }) => write!(f, ":tokens={tokens}")?,
            Fault::Late(fault) => {
                let after = fault.after;
                match &fault.mishap {
                    Mishap::Cut { how } => write!(f, ":after={after}:how={}", how.as_str())?,
                    Mishap::Error(error) => {
                        write!(f, ":after={after}:status={}", error.status)?;
                        if let Some(code) = &error.code {
                            write!(f, ":code={code}")?;
                        }
                    }
                    Mishap::Stall { resumes_after: None } => write!(f, ":after={after}")?,
                    Mishap::Stall { resumes_after: Some(pause) } => write!(f, ":after={after}:for={}ms", ms(pause))?,
                    Mishap::KeepAlive { count: None, every } => write!(f, ":count=endless:every={}ms", ms(every))?,
                    Mishap::KeepAlive { count: Some(n), every } => write!(f, ":count={n}:every={}ms", ms(every))?,
                    Mishap::Slow => {}
                }
                if let Some(token) = &fault.token {
                    write!(f, ":token={}ms", ms(token))?;
                }
            }
            _ => {}
        }
        self.model().map_or(Ok(()), |model| write!(f, "{MODEL}{model}"))
    }
}

/// Finds the script in a text that a request carries: what follows `simulate:`.
pub(super) fn find_script(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once(SCRIPT)?;
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || ",:=._-".contains(c))).unwrap_or(rest.len());
    let script = rest[..end].trim_end_matches(['.', ',', ':']);
    (!script.is_empty()).then_some(script)
}

/// Returns what a script wants for the `turn`-th call (from 1); `None` is a plain answer.
///
/// The last outcome repeats. An outcome that cannot be read fails every turn, so that a typing error shows at once.
pub(super) fn scripted(script: &str, turn: u32) -> Result<Option<Fault>, String> {
    let mut wanted = None;
    for (before, outcome) in (0_u32..).zip(script.split(',')) {
        let mut parts = outcome.split(':');
        let fault = match parts.next() {
            Some("ok") => None,
            name => Some(Fault::parse(name.unwrap_or_default(), parts)?),
        };
        if before < turn.max(1) {
            wanted = fault;
        }
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests;
