//! An answer on standard output as it comes. What was lost on the way is made good from the row.

use gristmill_producer::{Heard, Listening};
use serde_json::json;

use super::Global;
use super::fault::Fault;
use super::ui;

/// Shows one answer.
#[derive(Debug)]
pub(super) struct Live<'a> {
    listening: Option<Listening>,
    global: &'a Global,
    /// What of the answer stands on standard output.
    shown: String,
    /// Whether that is void: an earlier attempt's, or with a gap in it.
    is_void: bool,
}

impl<'a> Live<'a> {
    pub(super) const fn new(listening: Listening, global: &'a Global) -> Self {
        Self { listening: Some(listening), global, shown: String::new(), is_void: false }
    }

    /// Shows nothing before the whole answer.
    pub(super) const fn silent(global: &'a Global) -> Self {
        Self { listening: None, global, shown: String::new(), is_void: false }
    }

    /// Waits for something to show, and shows it; for ever where nothing more can come. Cancel safe.
    pub(super) async fn show(&mut self) -> Result<(), Fault> {
        let Some(listening) = &mut self.listening else { return std::future::pending().await };
        let Some(heard) = listening.next().await else {
            self.listening = None;
            return Ok(());
        };
        if self.global.json {
            ui::json(&match heard {
                Heard::Reset { attempt } => json!({ "reset": attempt }),
                Heard::Text(text) => json!({ "text": text }),
                Heard::Reasoning(text) => json!({ "reasoning": text }),
                Heard::Gap => json!({ "gap": true }),
            })?;
            return Ok(());
        }
        match heard {
            Heard::Text(text) => {
                ui::out(text.as_bytes())?;
                self.shown.push_str(&text);
            }
            Heard::Reset { attempt } => {
                self.end_line()?;
                if !self.global.quiet {
                    ui::tell(&format!("attempt {attempt} begins anew"));
                }
                self.shown.clear();
                self.is_void = false;
            }
            Heard::Gap => self.is_void = true,
            Heard::Reasoning(_) => {}
        }
        Ok(())
    }

    /// Ends the line of what was shown.
    pub(super) fn end_line(&self) -> Result<bool, Fault> {
        if self.shown.is_empty() { Ok(true) } else { ui::out(b"\n") }
    }

    /// Shows what is missing of the whole answer.
    pub(super) fn complete(&self, text: &str) -> Result<bool, Fault> {
        match text.strip_prefix(self.shown.as_str()) {
            Some(rest) if !self.is_void => ui::line(rest),
            _ => {
                self.end_line()?;
                if !self.global.quiet {
                    ui::tell("parts of the answer were lost on the way; here is all of it");
                }
                ui::line(text)
            }
        }
    }
}
