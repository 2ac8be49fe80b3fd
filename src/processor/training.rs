//! Conversations for a model to learn: read as ever, with marks at what it is to write itself.

use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};

use super::template::{ChatTemplate, Message};
use super::writer::Writer;
use super::{Processor, Segment};

/// A text to learn from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainingText {
    /// Its pieces in order.
    pub segments: Vec<Segment>,
    /// Positions whose tokens are to be predicted, in order: each answer with the token that ends it.
    pub supervised: Vec<Range<usize>>,
}

/// Where an answer stands in a rendered conversation.
#[derive(Debug)]
struct Answer {
    /// The text that is to be generated, without what ends it.
    text: Range<usize>,
    /// The end of the text of the token that ends the answer, and its id; none if the template writes no such token.
    stop: Option<(usize, u32)>,
}

impl Processor {
    /// Reads a conversation that ends with an answer. What stands before an answer has the ids that
    /// [`Self::prepare_turns`] gives the conversation up to there, whose earlier answers keep their ids; answers are
    /// tokenized as they go on after it. What the template writes after the last answer's end is left out, and where it
    /// writes no token of `stop_tokens` there, one is put.
    ///
    /// `image_tokens` are the positions that each image takes; tags name images as in [`Self::prepare`].
    pub fn prepare_training(
        &self,
        messages: &[Message],
        image_tokens: &[usize],
        stop_tokens: &[u32],
    ) -> Result<TrainingText> {
        let Some(template) = &self.template else {
            bail!("the checkpoint has no chat template, which messages need; give prompt and completion, or text")
        };
        check_turns(messages)?;
        let stops = self.stops(stop_tokens);
        for message in messages.iter().filter(|message| message.role == "assistant") {
            self.check_answer(&message.content, &stops)?;
        }
        let messages = self.with_images(messages, image_tokens.len())?;
        let text = template.render(&messages, false)?;
        let answers = find(template, &messages, &text, &stops)?;

        let special = self.adds_special_tokens(template, &text);
        // Where a token would belong to an answer and to what follows, a chat would be read anew without the answer's ids.
        // To learn both, here what follows begins by itself.
        let mut writer = Writer::new(self, image_tokens.len(), special).lenient();
        let mut supervised = Vec::new();
        let mut start = 0;
        for answer in &answers {
            writer.text(&text[start..answer.text.start])?;
            let from = positions(writer.segments(), image_tokens);
            let len = writer.generated(&text[answer.text.clone()])?;
            supervised.push(from..from + len);
            start = answer.text.end;
        }
        match answers.last().and_then(|answer| answer.stop) {
            Some((end, _)) => _ = writer.text(&text[start..end])?,
            None => self.end(&mut writer, supervised.last_mut(), stop_tokens)?,
        }
        let segments = writer.finish()?;
        let ids = ids(&segments, image_tokens);
        for (answer, range) in answers.iter().zip(&mut supervised) {
            let Some((_, stop)) = answer.stop else { continue };
            let after = ids[range.end..].iter().position(|&id| id == Some(stop));
            range.end +=
                1 + after.context("the tokenizer does not know the end of an answer in what the template wrote")?;
        }
        Ok(TrainingText { segments, supervised })
    }

    /// Reads a prompt and what is to follow it, as they are, and ends it. The prompt may hold tags of images.
    pub fn prepare_completion(
        &self,
        prompt: &str,
        completion: &str,
        image_tokens: &[usize],
        stop_tokens: &[u32],
    ) -> Result<TrainingText> {
        self.check_answer(completion, &self.stops(stop_tokens))?;
        let mut writer = Writer::new(self, image_tokens.len(), true);
        writer.text(prompt)?;
        let from = positions(writer.segments(), image_tokens);
        let mut supervised = from..from + writer.generated(completion)?;
        self.end(&mut writer, Some(&mut supervised), stop_tokens)?;
        Ok(TrainingText { segments: writer.finish()?, supervised: vec![supervised] })
    }

    /// Reads a text to be learned from its second token on, and ends it if it does not end itself. It may hold tags of
    /// images.
    pub fn prepare_plain(&self, text: &str, image_tokens: &[usize], stop_tokens: &[u32]) -> Result<TrainingText> {
        let mut segments = self.tokenize(text, image_tokens.len(), true)?;
        let last = ids(&segments, image_tokens).last().copied().flatten();
        if !last.is_some_and(|id| stop_tokens.contains(&id)) {
            super::writer::append(&[self.end_token(stop_tokens)?], &mut segments);
        }
        let len = positions(&segments, image_tokens);
        Ok(TrainingText { segments, supervised: std::iter::once(1..len).collect() })
    }

    /// Ids that end answers, with their texts.
    fn stops(&self, stop_tokens: &[u32]) -> Vec<(u32, String)> {
        let text = |&id: &u32| Some((id, self.tokenizer.token(id).filter(|text| !text.is_empty())?));
        stop_tokens.iter().filter_map(text).collect()
    }

    /// The token that ends answers where nothing else says which: the tokenizer's, if the engine stops at it.
    fn end_token(&self, stop_tokens: &[u32]) -> Result<u32> {
        let eos_token = self.eos_token.filter(|id| stop_tokens.contains(id));
        eos_token.or(stop_tokens.first().copied()).context(
            "the checkpoint names no token that ends answers; config.json or generation_config.json needs an eos_token_id",
        )
    }

    fn end(&self, writer: &mut Writer, range: Option<&mut Range<usize>>, stop_tokens: &[u32]) -> Result<()> {
        writer.token(self.end_token(stop_tokens)?);
        if let Some(range) = range {
            range.end += 1;
        }
        Ok(())
    }

    /// An error unless a model could generate this.
    fn check_answer(&self, answer: &str, stops: &[(u32, String)]) -> Result<()> {
        ensure!(!answer.trim().is_empty(), "an answer is empty: there is nothing to learn");
        if let Some((_, stop)) = stops.iter().find(|(_, stop)| answer.contains(stop.as_str())) {
            bail!("an answer holds {stop}, which ends answers; leave it out, as it is put there anyway");
        }
        if let Some(placeholder) = self.placeholders(answer).first() {
            bail!("an answer holds {placeholder}, but a model cannot write images; show it in a message of the user");
        }
        Ok(())
    }
}

fn check_turns(messages: &[Message]) -> Result<()> {
    let is_answer = |message: &Message| message.role == "assistant";
    match messages.last() {
        Some(last) if is_answer(last) => {}
        Some(last) => {
            bail!("the conversation ends with a message of the {}; an answer to learn is expected", last.role)
        }
        None => bail!("the conversation has no messages; an answer to learn is expected"),
    }
    ensure!(!is_answer(&messages[0]), "the conversation begins with an answer; there is nothing that it answers");
    if let Some(at) = messages.windows(2).position(|pair| pair.iter().all(is_answer)) {
        bail!("messages[{}]: an answer follows an answer; make one of them", at + 1);
    }
    Ok(())
}

/// Where the answers stand in `text`, which the template made of `messages`.
fn find(template: &ChatTemplate, messages: &[Message], text: &str, stops: &[(u32, String)]) -> Result<Vec<Answer>> {
    let answers = messages.iter().enumerate().filter(|(_, message)| message.role == "assistant");
    let find = |(at, message): (usize, &Message)| {
        let before = template.render(&messages[..at], true)?;
        let here = text.strip_prefix(&before).with_context(|| {
            format!(
                "messages[{at}]: the chat template writes what stands before an answer otherwise when it asks for one"
            )
        })?;
        // Up to the next message: what does not depend on what follows.
        let shorter = template.render(&messages[..=at], false)?;
        let here = &here[..common(here, shorter.strip_prefix(&before).unwrap_or_default())];
        find_in(here, &message.content, before.len(), stops)
            .with_context(|| format!("messages[{at}]: the chat template does not write the answer as it is"))
    };
    answers.map(find).collect()
}

/// The answer at the beginning of `here`, which stands at `offset`. White space around it may be the template's.
fn find_in(here: &str, content: &str, offset: usize, stops: &[(u32, String)]) -> Option<Answer> {
    let trimmed = here.trim_start();
    let after = trimmed.strip_prefix(content.trim())?;
    // White space of the answer's own.
    let own = &content[content.trim_end().len()..];
    let after = after.strip_prefix(own).unwrap_or(after);
    let end = here.len() - after.len();
    let found = stops.iter().filter_map(|(id, stop)| Some((after.find(stop.as_str())?, stop.len(), *id)));
    // Where one token's name begins with another's, the tokenizer takes the longer.
    let first = found.min_by_key(|&(at, len, _)| (at, std::cmp::Reverse(len)));
    Some(match first {
        Some((at, len, id)) => Answer { text: offset..offset + end + at, stop: Some((offset + end + at + len, id)) },
        None => Answer { text: offset..offset + end, stop: None },
    })
}

/// Bytes that two texts have in common at their beginning, whole characters.
fn common(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}

/// Positions that segments take.
pub(crate) fn positions(segments: &[Segment], image_tokens: &[usize]) -> usize {
    let len = |segment: &Segment| match segment {
        Segment::Text(ids) => ids.len(),
        Segment::Image(index) => image_tokens[*index],
    };
    segments.iter().map(len).sum()
}

/// The id at each position; none where an image is.
pub(crate) fn ids(segments: &[Segment], image_tokens: &[usize]) -> Vec<Option<u32>> {
    let ids = |segment: &Segment| -> Vec<Option<u32>> {
        match segment {
            Segment::Text(ids) => ids.iter().copied().map(Some).collect(),
            Segment::Image(index) => vec![None; image_tokens[*index]],
        }
    };
    segments.iter().flat_map(ids).collect()
}
