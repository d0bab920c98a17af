//! What can go wrong with a call, and when.
//!
//! Owns the text form of faults, in rules (`429:0.02:retry-after=1.5`) and in scripts (`simulate:500,429,ok`), and the
//! choice of a fault for a call. It does not carry faults out: see `serve`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::error::Error;
use super::{duration, random::Random};

/// Starts a script inside a request.
const SCRIPT: &str = "simulate:";

/// Pause between two bytes of a dripping body, when the rule names none.
const DRIP_EVERY: Duration = Duration::from_millis(20);

/// What happens to a call instead of a plain answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Fault {
    /// An error body in OpenAI's shape.
    Status(StatusFault),
    /// The call is accepted and never answered.
    Timeout,
    /// The connection is reset (TCP RST) before the first byte of an answer.
    Reset,
    /// The headers promise the whole body, half of it is sent, then the connection closes.
    Truncate,
    /// An HTML page, as a proxy or a captive portal sends it.
    Html { status: u16 },
    /// The answer comes byte by byte.
    Drip { every: Duration },
    /// Status 200 and no body at all.
    Empty,
}

/// An error answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StatusFault {
    /// From 400 to 599.
    pub(super) status: u16,
    /// OpenAI's error code, where the usual one for the status is not wanted.
    pub(super) code: Option<String>,
    /// The wait that the headers ask for.
    pub(super) retry_after: Option<Duration>,
}

impl Fault {
    /// Reads a fault without its rate: a name, then options.
    fn parse<'a>(name: &str, options: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let mut fault = match name {
            "timeout" => Self::Timeout,
            "reset" => Self::Reset,
            "truncate" => Self::Truncate,
            "html" => Self::Html { status: 502 },
            "drip" => Self::Drip { every: DRIP_EVERY },
            "empty" => Self::Empty,
            _ => {
                let status = name.parse().ok().filter(|status| (400..600).contains(status));
                let Some(status) = status else {
                    return Err(format!(
                        "`{name}` is no fault: use a status from 400 to 599, timeout, reset, truncate, html, drip or empty"
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
            (Self::Status(fault), "code") => {
                if value.is_empty() || !value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                    return Err(wrong());
                }
                fault.code = Some(value.to_owned());
            }
            (Self::Html { status }, "status") => {
                *status = value.parse().ok().filter(|s| (200..600).contains(s)).ok_or_else(wrong)?;
            }
            (Self::Drip { every }, "every") => *every = duration::parse(value)?,
            _ => return Err(format!("{name} has no option `{key}`")),
        }
        Ok(())
    }

    /// Returns the fault's name in rules, scripts and the call log.
    fn name(&self) -> &'static str {
        match self {
            Self::Status(_) => "",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Truncate => "truncate",
            Self::Html { .. } => "html",
            Self::Drip { .. } => "drip",
            Self::Empty => "empty",
        }
    }
}

/// A fault and how often it happens: `429:0.02:retry-after=1.5`, `timeout:0.01`, `401`.
///
/// The text is a name, a rate from 0 to 1 (default 1), and options (`key=value`), separated by colons:
///
/// - a status from 400 to 599, with `retry-after=SECONDS` and `code=CODE`;
/// - `timeout` accepts the call and never answers; `reset` sends a TCP RST before any byte;
/// - `truncate` closes after half of the body; `drip` sends a byte every 20 ms (`every=5ms`);
/// - `html` sends an HTML page with status 502 (`status=200`); `empty` sends status 200 without a body.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultRule {
    fault: Fault,
    rate: f64,
}

impl FaultRule {
    /// Returns the share of calls that meet this fault, from 0 to 1.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Picks the fault of one call, if it meets one, by one draw over the summed rates.
    ///
    /// Rates add up: 0.05 and 0.05 make one call in ten fail. What goes beyond 1 never happens.
    pub(super) fn choose(rules: &[Self], random: impl FnOnce() -> Random) -> Option<&Fault> {
        if rules.is_empty() {
            return None;
        }
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
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        let mut rest = rest.split(':').filter(|part| !part.is_empty()).peekable();
        let mut rate = 1.0;
        if let Some(part) = rest.next_if(|part| !part.contains('=')) {
            let number = part.parse().ok().filter(|rate| (0.0..=1.0).contains(rate));
            rate = number.ok_or_else(|| wrong(format!("`{part}` is no rate: use a number from 0 to 1")))?;
        }
        let fault = Fault::parse(name, rest).map_err(wrong)?;
        Ok(Self { fault, rate })
    }
}

impl fmt::Display for FaultRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.rate;
        match &self.fault {
            Fault::Status(StatusFault { status, code, retry_after }) => {
                write!(f, "{status}:{rate}")?;
                if let Some(code) = code {
                    write!(f, ":code={code}")?;
                }
                if let Some(wait) = retry_after {
                    write!(f, ":retry-after={}", wait.as_secs_f64())?;
                }
                Ok(())
            }
            Fault::Html { status } => write!(f, "html:{rate}:status={status}"),
            Fault::Drip { every } => {
                write!(f, "drip:{rate}:every={}ms", every.as_secs_f64() * 1_000.0)
            }
            plain => write!(f, "{}:{rate}", plain.name()),
        }
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
mod tests {
    use super::*;
    use crate::simulate::random::Purpose;

    fn status(status: u16) -> Fault {
        Fault::Status(StatusFault { status, code: None, retry_after: None })
    }

    #[test]
    fn rules_are_read_and_written() {
        let table = [
            ("429:0.02", "429:0.02"),
            ("429:0.02:retry-after=1.5", "429:0.02:retry-after=1.5"),
            ("429:1:retry-after=250ms:code=slow_down", "429:1:code=slow_down:retry-after=0.25"),
            ("401", "401:1"),
            ("503:retry-after=4", "503:1:retry-after=4"),
            ("529:0", "529:0"),
            ("timeout:0.01", "timeout:0.01"),
            ("reset", "reset:1"),
            ("truncate:1", "truncate:1"),
            ("html:0.5", "html:0.5:status=502"),
            ("html:0.5:status=200", "html:0.5:status=200"),
            ("drip", "drip:1:every=20ms"),
            ("drip:1:every=5ms", "drip:1:every=5ms"),
            ("empty:1", "empty:1"),
        ];
        for (text, written) in table {
            let rule: FaultRule = text.parse().unwrap();
            assert_eq!(rule.to_string(), written);
            assert_eq!(written.parse::<FaultRule>().unwrap(), rule);
        }
    }

    #[test]
    fn a_wrong_rule_says_what_is_wrong() {
        let table = [
            ("", "`` is no fault: use a status from 400 to 599, timeout, reset, truncate, html, drip or empty"),
            ("200:1", "`200` is no fault: use a status from 400 to 599, timeout, reset, truncate, html, drip or empty"),
            ("429:2", "`2` is no rate: use a number from 0 to 1"),
            ("429:x", "`x` is no rate: use a number from 0 to 1"),
            ("429:0.1:0.2", "`0.2` is neither a rate nor an option (key=value)"),
            ("reset:1:every=5ms", "reset has no option `every`"),
            ("429:1:code=a b", "`a b` is no value for code"),
            ("429:1:retry-after=soon", "`soon` is not a duration: write it like 200ms, 1.5s or 2m"),
        ];
        for (text, reason) in table {
            let error = text.parse::<FaultRule>().unwrap_err();
            assert_eq!(error.to_string(), format!("fault rule `{text}` cannot be read: {reason}"));
        }
    }

    #[test]
    fn rates_add_up_in_one_draw() {
        let rules: Vec<FaultRule> = ["429:0.1", "500:0.2", "reset:0"].map(|text| text.parse().unwrap()).into();
        let (mut limited, mut failed, mut fine) = (0, 0, 0);
        for marker in 0..10_000 {
            match FaultRule::choose(&rules, || Random::new(3, marker, 1, Purpose::Fault)) {
                Some(fault) if *fault == status(429) => limited += 1,
                Some(fault) if *fault == status(500) => failed += 1,
                Some(fault) => panic!("{fault:?} has rate 0"),
                None => fine += 1,
            }
        }
        assert!((900..1_100).contains(&limited), "{limited}");
        assert!((1_850..2_150).contains(&failed), "{failed}");
        assert_eq!(limited + failed + fine, 10_000);
    }

    #[test]
    fn scripts_are_found_in_running_text() {
        let table = [
            ("Please simulate:500,429,ok. Thanks", Some("500,429,ok")),
            ("simulate:429:retry-after=0.2,ok", Some("429:retry-after=0.2,ok")),
            ("\"simulate:reset\"", Some("reset")),
            ("simulate: a coin", None),
            ("simulate:", None),
            ("no script", None),
        ];
        for (text, script) in table {
            assert_eq!(find_script(text), script, "{text}");
        }
    }

    #[test]
    fn the_last_scripted_outcome_repeats() {
        let script = "500,429:retry-after=0.2,ok";
        let limited = StatusFault { status: 429, code: None, retry_after: Some(Duration::from_millis(200)) };
        assert_eq!(scripted(script, 1), Ok(Some(status(500))));
        assert_eq!(scripted(script, 2), Ok(Some(Fault::Status(limited))));
        assert_eq!(scripted(script, 3), Ok(None));
        assert_eq!(scripted(script, 99), Ok(None));
        assert_eq!(scripted("ok,reset", 7), Ok(Some(Fault::Reset)));
        assert!(scripted("ok,rset", 1).is_err());
        assert!(scripted("500:0.5", 1).is_err());
    }
}
