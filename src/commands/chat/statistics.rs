//! What answers took.

use std::time::Duration;

use phi3v::engine::Generation;
use phi3v::memory;

use crate::commands::text::rate;

/// Counts and times of one answer, or of several.
#[derive(Debug, Clone, Default)]
struct Figures {
    prompt_tokens: usize,
    cached_tokens: usize,
    tokens: usize,
    /// Tokens that came out of prefills.
    first_tokens: usize,
    images: Duration,
    encoder: Duration,
    prefill: Duration,
    decode: Duration,
}

/// What the last answer and the session took.
#[derive(Debug, Default)]
pub(super) struct Statistics {
    load: Duration,
    last: Option<Figures>,
    session: Figures,
    answers: usize,
}

impl Statistics {
    pub(super) fn new(load: Duration) -> Self {
        Self { load, ..Self::default() }
    }

    /// Counts an answer, for which images were read in `images`.
    pub(super) fn add(&mut self, generation: &Generation, images: Duration) {
        let figures = Figures {
            prompt_tokens: generation.prompt_tokens,
            cached_tokens: generation.cached_tokens,
            tokens: generation.tokens.len(),
            first_tokens: generation.tokens.len().min(1),
            images,
            encoder: generation.encoder_time,
            prefill: generation.prefill_time,
            decode: generation.decode_time,
        };
        self.session.add(&figures);
        self.last = Some(figures);
        self.answers += 1;
    }

    pub(super) fn answers(&self) -> usize {
        self.answers
    }

    /// Of the last answer.
    pub(super) fn last(&self) -> String {
        self.last.as_ref().map_or_else(|| "there is no answer yet".into(), |last| last.describe("last answer"))
    }

    /// Of the last answer and the session.
    pub(super) fn all(&self) -> String {
        let count = super::count(self.answers, "answer");
        format!(
            "{}\n{}\nloading      {:.2} s\nmemory       {:.2} GB peak",
            self.last(),
            self.session.describe(&count),
            self.load.as_secs_f64(),
            memory::peak() as f64 / 1e9
        )
    }
}

impl Figures {
    fn add(&mut self, other: &Self) {
        self.prompt_tokens += other.prompt_tokens;
        self.cached_tokens += other.cached_tokens;
        self.tokens += other.tokens;
        self.first_tokens += other.first_tokens;
        self.images += other.images;
        self.encoder += other.encoder;
        self.prefill += other.prefill;
        self.decode += other.decode;
    }

    fn describe(&self, title: &str) -> String {
        let seconds = |time: &Duration| time.as_secs_f64();
        let read = self.prompt_tokens - self.cached_tokens;
        format!(
            "{title:12} prompt {} tokens, {} of them from the cache, {read} read at {:.1} tokens/s; \
             answer {} tokens at {:.1} tokens/s\n\
             {:12} images {:.2} s, encoder {:.2} s, prefill {:.2} s, decode {:.2} s",
            self.prompt_tokens,
            self.cached_tokens,
            rate(read, self.prefill),
            self.tokens,
            rate(self.tokens - self.first_tokens, self.decode),
            "",
            seconds(&self.images),
            seconds(&self.encoder),
            seconds(&self.prefill),
            seconds(&self.decode)
        )
    }
}
