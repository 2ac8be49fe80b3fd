//! How questions are answered.

use std::io::Write;
use std::ops::Range;

use anyhow::{Result, anyhow, ensure};
use phi3v::engine::text::Detokenizer;
use phi3v::engine::{FinishReason, Request};
use phi3v::processor::{Processor, Tokenizer};

use super::Chat;
use super::conversation::Answer;
use crate::commands::session::Session;
use crate::commands::stream::stream;

impl Chat {
    /// Answers the last question; without an answer all is as before it, with the `former` answer if there is one.
    pub(super) fn answer(&mut self, former: Option<Answer>, session: &Session) -> Result<()> {
        match self.generate(session) {
            Ok(Some(answer)) => self.conversation.answer(answer),
            Ok(None) if former.is_some() => {
                self.conversation.give_up(former);
                self.ui.note("interrupted; the answer is the one before");
            }
            Ok(None) => {
                self.conversation.give_up(None);
                self.ui.note("interrupted; the question is taken back");
            }
            Err(error) => {
                self.conversation.give_up(former);
                return Err(error);
            }
        }
        Ok(())
    }

    pub(super) fn regenerate(&mut self, session: &Session) -> Result<()> {
        ensure!(!self.conversation.exchanges.is_empty(), "there is no question to answer again");
        if self.settings.sampling.temperature == 0.0 {
            self.ui.note("the temperature is 0, so the answer is the same; /set temperature 0.7 varies it");
        }
        let former = self.conversation.reopen();
        self.answer(former, session)
    }

    /// Answers of other models, and those that were changed in the file, are made of text.
    pub(super) fn keep_own_tokens(&mut self, processor: &Processor) {
        for answer in self.conversation.exchanges.iter_mut().filter_map(|exchange| exchange.answer.as_mut()) {
            let ids = answer.tokens.take().unwrap_or_default();
            answer.tokens = own_ids(&processor.tokenizer, &answer.text, &ids);
        }
    }

    /// The answer to the last question, written as it comes. None if Ctrl-C came before it began.
    fn generate(&mut self, session: &Session) -> Result<Option<Answer>> {
        let engine = &session.engine;
        let processor = engine.processor();
        let place = |text: &str, images: Range<usize>| processor.with_placeholders(text, images);
        let prompt = processor.prepare_turns(&self.conversation.turns(&place)?, self.conversation.pixels())?;
        self.ui.verbose(format!("prompt: {:?}", prompt.text));
        let mut sampling = self.settings.sampling.clone();
        sampling.seed = sampling.seed.wrapping_add(self.conversation.attempts());
        let max_tokens = self.settings.max_tokens;
        let request = Request { sampling, stop: self.stop.clone(), ..Request::new(prompt, max_tokens) };
        let room = engine.check(&request).and_then(|()| session.check_room(&request.prompt));
        room.map_err(|error| anyhow!("{error:#} (/undo or /clear makes room; the question is taken back)"))?;

        // Most questions are read at once.
        let generation = stream(engine, request, true, None, &self.ui)?;
        if generation.tokens.is_empty() {
            return Ok(None);
        }
        writeln!(std::io::stdout())?;
        self.statistics.add(&generation, std::mem::take(&mut self.image_time));
        self.ui.verbose(self.statistics.last());
        match generation.finish_reason {
            FinishReason::Interrupted => self.ui.note("interrupted; the conversation goes on from here"),
            FinishReason::Length if generation.tokens.len() < max_tokens => {
                self.ui.note("the model's context is full; /undo or /clear makes room");
            }
            FinishReason::Length => {
                self.ui.note(format!("ended after max-tokens, {max_tokens}; /set max-tokens allows more"));
            }
            FinishReason::Stop | FinishReason::EarlyStop => {}
        }
        let tokens = own_ids(&engine.processor().tokenizer, &generation.text, &generation.tokens);
        let interrupted = generation.finish_reason == FinishReason::Interrupted;
        Ok(Some(Answer { text: generation.text, tokens, interrupted }))
    }
}

/// The generated ids that an answer consists of, without what ended it; none if its text ends within one of them, or they
/// are of another text or another model. They are what the model reads in later turns: its own words as it chose them,
/// special tokens and stray bytes included.
fn own_ids(tokenizer: &Tokenizer, text: &str, generated: &[u32]) -> Option<Vec<u32>> {
    let mut detokenizer = Detokenizer::new(tokenizer);
    let mut made = String::new();
    for (at, &id) in generated.iter().enumerate() {
        made += &detokenizer.push(id).ok()?;
        if !made.is_empty() && made == text {
            return Some(generated[..=at].to_vec());
        }
    }
    made += &detokenizer.finish().ok()?;
    (!made.is_empty() && made == text).then(|| generated.to_vec())
}
