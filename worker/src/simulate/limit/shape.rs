//! How limits are enforced: providers agree on the figures, not on the clock.

use std::str::FromStr;
use std::time::Duration;

use crate::simulate::duration;
use crate::simulate::error::Error;

/// The worth of a full bucket when nothing else is said.
const BURST: Duration = Duration::from_secs(1);

/// The longer one of the two windows in which Azure looks at requests.
const SUB_WINDOW: Duration = Duration::from_secs(10);

/// How limits are enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitShape {
    /// Buckets that fill evenly and hold what flows in during `burst`; that of a day holds a whole day.
    ///
    /// So Anthropic describes its own (<https://platform.claude.com/docs/en/api/rate-limits>, read 2026-11-23).
    Bucket {
        /// One second by default.
        burst: Duration,
    },
    /// Windows of a minute, or of a day, from the start of the simulator; each begins with the whole quota.
    Window,
    /// Requests by windows shorter than a minute, each with its share; everything else by the minute.
    ///
    /// Azure looks at 1 or 10 seconds
    /// (<https://learn.microsoft.com/en-us/azure/ai-services/openai/how-to/quota>, read 2026-11-23).
    Azure {
        /// 1 or 10 seconds.
        sub_window: Duration,
    },
}

impl Default for LimitShape {
    fn default() -> Self {
        Self::Bucket { burst: BURST }
    }
}

impl FromStr for LimitShape {
    type Err = Error;

    /// Reads `bucket`, `bucket:5s`, `window`, `azure` or `azure:1s`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |reason| Error::Setting { what: "shape of limits", text: text.to_owned(), reason };
        let (name, time) = match text.split_once(':') {
            None => (text, None),
            Some((name, time)) => (name, Some(duration::parse(time).map_err(wrong)?)),
        };
        match (name, time) {
            ("bucket", burst) => Ok(Self::Bucket { burst: burst.unwrap_or(BURST) }),
            ("window", None) => Ok(Self::Window),
            ("azure", time) => match time.unwrap_or(SUB_WINDOW) {
                sub_window if [1, 10].contains(&sub_window.as_secs()) && sub_window.subsec_nanos() == 0 => {
                    Ok(Self::Azure { sub_window })
                }
                _ => Err(wrong("its windows are 1s or 10s".to_owned())),
            },
            _ => Err(wrong("use bucket, window, azure or azure:1s".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read() {
        let table = [
            ("bucket", LimitShape::default()),
            ("bucket:2.5s", LimitShape::Bucket { burst: Duration::from_millis(2_500) }),
            ("window", LimitShape::Window),
            ("azure", LimitShape::Azure { sub_window: Duration::from_secs(10) }),
            ("azure:1s", LimitShape::Azure { sub_window: Duration::from_secs(1) }),
        ];
        for (text, shape) in table {
            assert_eq!(text.parse::<LimitShape>().unwrap(), shape, "{text}");
        }
        for text in ["", "sliding", "window:1s", "azure:5s", "bucket:5"] {
            let error = text.parse::<LimitShape>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("shape of limits `{text}` cannot be read: ")), "{error}");
        }
    }
}
