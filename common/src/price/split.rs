//! Which tokens of a call are billed at which rate.

use super::Usage;

/// The parts of a prompt, each billed once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Prompt {
    pub(super) text: u64,
    pub(super) cached: u64,
    pub(super) cached_audio: u64,
    pub(super) audio: u64,
    pub(super) image: u64,
    pub(super) video: u64,
    /// Writes to the cache that are kept for minutes, or for a time that nobody said.
    pub(super) written: u64,
    pub(super) written_1h: u64,
    pub(super) written_12h: u64,
}

impl Prompt {
    pub(super) fn of(usage: &Usage) -> Self {
        let (all, hit, write) = (usage.prompt_tokens, usage.cached_tokens, usage.cache_write_tokens);
        let media = [usage.prompt_audio_tokens, usage.prompt_image_tokens, usage.prompt_video_tokens];
        let [mut audio, mut image, mut video] = media;
        let mut text = usage.prompt_text_tokens;
        let parts = media.into_iter().chain([text, hit, write]).fold(0, u64::saturating_add);
        if (hit > 0 || write > 0) && parts > all {
            // The parts have what was cached in them as well, which is billed once.
            let mut rest = all.saturating_sub(hit).saturating_sub(write);
            for part in [&mut audio, &mut image, &mut video] {
                *part = (*part).min(rest);
                rest -= *part;
            }
            text = rest;
        } else if text == 0 {
            text = media.into_iter().chain([hit, write]).fold(all, u64::saturating_sub);
        }
        Self { text, audio, image, video, ..Self::cache(usage) }
    }

    /// Takes text for all that was neither read from a cache nor written to one.
    pub(super) fn of_text(usage: &Usage) -> Self {
        let text = usage.prompt_tokens.saturating_sub(usage.cached_tokens).saturating_sub(usage.cache_write_tokens);
        Self { text, ..Self::cache(usage) }
    }

    /// Returns what was read from the cache and written to it, as [`Prompt::writes`] tells.
    fn cache(usage: &Usage) -> Self {
        let cached_audio = usage.cached_audio_tokens.min(usage.cached_tokens);
        Self { cached: usage.cached_tokens - cached_audio, cached_audio, ..Self::writes(usage) }
    }

    /// Returns what was written to the cache, by the time that it is kept.
    pub(super) fn writes(usage: &Usage) -> Self {
        let minutes = usage.cache_write_5m_tokens.saturating_add(usage.cache_write_30m_tokens);
        let (hour, half_day) = (usage.cache_write_1h_tokens, usage.cache_write_12h_tokens);
        let told = minutes.saturating_add(hour).saturating_add(half_day);
        let untold = usage.cache_write_tokens.saturating_sub(told);
        Self { written: minutes.saturating_add(untold), written_1h: hour, written_12h: half_day, ..Self::default() }
    }
}

/// The parts of a completion, each billed once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Completion {
    pub(super) text: u64,
    pub(super) reasoning: u64,
    pub(super) audio: u64,
    pub(super) image: u64,
}

impl Completion {
    pub(super) fn of(usage: &Usage) -> Self {
        let all = usage.completion_tokens;
        let (reasoning, audio, image) =
            (usage.reasoning_tokens, usage.completion_audio_tokens, usage.completion_image_tokens);
        let apart = reasoning.saturating_add(audio).saturating_add(image);
        // Some count reasoning as text, too.
        let excess = usage.completion_text_tokens.saturating_add(apart).saturating_sub(all);
        let text = usage.completion_text_tokens.saturating_sub(reasoning.min(excess));
        let text = if text == 0 { all.saturating_sub(apart) } else { text };
        Self { text, reasoning, audio, image }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cached_is_billed_once() {
        let usage = |text, audio, cached, write| Usage {
            prompt_tokens: 100,
            prompt_text_tokens: text,
            prompt_audio_tokens: audio,
            cached_tokens: cached,
            cache_write_tokens: write,
            ..Usage::default()
        };
        for (usage, text, audio) in [
            (usage(0, 0, 0, 0), 100, 0),
            (usage(0, 0, 40, 10), 50, 0),
            // Text with the cached tokens in it.
            (usage(100, 0, 40, 0), 60, 0),
            (usage(50, 50, 60, 0), 0, 40),
            // Text without them.
            (usage(60, 0, 40, 0), 60, 0),
            // Parts that do not add up are trusted where nothing is cached.
            (usage(70, 20, 0, 0), 70, 20),
            (usage(0, 20, 0, 0), 80, 20),
            // More cached than there was.
            (usage(0, 0, 150, 0), 0, 0),
        ] {
            let prompt = Prompt::of(&usage);
            assert_eq!((prompt.text, prompt.audio), (text, audio), "{usage:?}");
        }
    }

    #[test]
    fn writes_whose_time_nobody_said_are_kept_for_minutes() {
        let usage = Usage { cache_write_tokens: 100, cache_write_1h_tokens: 30, ..Usage::default() };
        let Prompt { written, written_1h, written_12h, .. } = Prompt::writes(&usage);
        assert_eq!((written, written_1h, written_12h), (70, 30, 0));
    }

    #[test]
    fn reasoning_that_text_has_in_it_is_billed_once() {
        for (text, reasoning, audio, wanted) in
            [(0, 0, 0, 100), (100, 60, 0, 40), (40, 60, 0, 40), (0, 60, 10, 30), (0, 100, 0, 0), (90, 30, 0, 70)]
        {
            let usage = Usage {
                completion_tokens: 100,
                completion_text_tokens: text,
                reasoning_tokens: reasoning,
                completion_audio_tokens: audio,
                ..Usage::default()
            };
            assert_eq!(Completion::of(&usage).text, wanted, "{usage:?}");
        }
    }
}
