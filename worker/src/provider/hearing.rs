//! Hears a stream: puts it together, and shows its output to whoever waits for it, without the key in it.

use serde_json::Value;

use super::address::Api;
use super::exchange::Heard;
use super::redact::Redactor;
use super::speech::Plan;
use super::stream::{Assembled, Assembler, Event, Step};
use super::{Delta, Tokens};

/// How a stream went, beside its exchange.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) assembled: Assembled,
    /// What the provider says went wrong, as JSON.
    pub(super) failed: Option<Value>,
    /// The event that was no JSON, or told too much.
    pub(super) unreadable: Option<String>,
}

/// Puts a stream together as it is heard.
#[derive(Debug)]
pub(super) struct Hearing<'a> {
    assembler: Assembler,
    shown: Option<Shown<'a>>,
    pub(super) failed: Option<Value>,
    pub(super) unreadable: Option<String>,
}

/// Shows output without the key in it.
///
/// What may be the beginning of a key is held back until what follows says that it is none.
#[derive(Debug)]
struct Shown<'a> {
    tokens: &'a dyn Tokens,
    redactor: &'a Redactor,
    text: String,
    reasoning: String,
}

impl Shown<'_> {
    fn take(&mut self, delta: Delta<'_>) {
        let (tokens, redactor) = (self.tokens, self.redactor);
        match delta {
            Delta::Text(text) => {
                if let Some(text) = redactor.as_it_comes(&mut self.text, text) {
                    tokens.take(Delta::Text(&text));
                }
            }
            Delta::Reasoning(text) => {
                if let Some(text) = redactor.as_it_comes(&mut self.reasoning, text) {
                    tokens.take(Delta::Reasoning(&text));
                }
            }
        }
    }

    /// Shows what was held back.
    fn end(self) {
        for held in [Delta::Reasoning(&self.reasoning), Delta::Text(&self.text)] {
            if !matches!(held, Delta::Text("") | Delta::Reasoning("")) {
                self.tokens.take(held);
            }
        }
    }
}

impl<'a> Hearing<'a> {
    pub(super) fn new(plan: &Plan, tokens: Option<&'a dyn Tokens>, redactor: &'a Redactor) -> Self {
        let api = if plan.translation.is_some() { Api::Messages } else { plan.api };
        let shown = tokens.map(|tokens| Shown { tokens, redactor, text: String::new(), reasoning: String::new() });
        Self { assembler: Assembler::of(api, plan.choices), shown, failed: None, unreadable: None }
    }

    pub(super) fn hear(&mut self, event: Event<'_>) -> Heard {
        let Self { assembler, shown, .. } = self;
        let mut has_output = false;
        let step = assembler.event(event, &mut |delta| {
            // Streams begin with a delta that says who speaks, and nothing else.
            if matches!(delta, Delta::Text("") | Delta::Reasoning("")) {
                return;
            }
            has_output = true;
            if let Some(shown) = shown {
                shown.take(delta);
            }
        });
        match step {
            // A tool call is output that nobody is shown.
            Step::More if has_output || assembler.began() => Heard::Output,
            Step::More => Heard::Alive,
            Step::End => Heard::End,
            Step::Failed(why) => {
                self.failed = Some(why);
                Heard::End
            }
            // It was cut, as the answer was.
            Step::Unreadable if event.is_unended => Heard::End,
            Step::Unreadable => {
                self.unreadable = Some(event.data.to_owned());
                Heard::End
            }
        }
    }

    #[cfg(test)]
    pub(super) fn ends(&mut self, event: Event<'_>) -> bool {
        self.hear(event) == Heard::End
    }

    pub(super) fn finish(self) -> Stream {
        if let Some(shown) = self.shown {
            shown.end();
        }
        Stream { assembled: self.assembler.finish(), failed: self.failed, unreadable: self.unreadable }
    }
}
