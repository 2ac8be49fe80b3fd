//! A conversation: questions with their images, answers, and what is yet to be asked.

use std::ops::Range;

use anyhow::Result;
use phi3v::processor::Turn;
use phi3v::processor::images::{ImageOptions, Pixels};

/// What was said, and what is attached to the next question.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Conversation {
    /// What the model knows beforehand.
    pub(super) system: Option<String>,
    pub(super) exchanges: Vec<Exchange>,
    /// Images for the next question.
    pub(super) attached: Vec<Image>,
}

/// A question and its answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Exchange {
    pub(super) question: String,
    pub(super) images: Vec<Image>,
    /// None until it is answered.
    pub(super) answer: Option<Answer>,
    /// How often it was answered before.
    pub(super) attempts: u64,
}

/// What the model said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) text: String,
    /// The ids that the model made it of.
    pub(super) tokens: Option<Vec<u32>>,
    /// Whether Ctrl-C ended it.
    pub(super) interrupted: bool,
}

/// An image that is part of a question.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Image {
    /// Where it can be read again.
    pub(super) source: String,
    /// How it was processed.
    pub(super) options: ImageOptions,
    /// How many images the question has.
    pub(super) count: usize,
    /// Its width and height.
    pub(super) size: (u32, u32),
    pub(super) pixels: Pixels,
}

impl Conversation {
    /// Adds a question, with the images that are attached.
    pub(super) fn ask(&mut self, question: String) {
        let images = std::mem::take(&mut self.attached);
        self.exchanges.push(Exchange { question, images, answer: None, attempts: 0 });
    }

    /// Gives the last question its answer.
    pub(super) fn answer(&mut self, answer: Answer) {
        if let Some(last) = self.exchanges.last_mut() {
            last.answer = Some(answer);
        }
    }

    /// Takes the answer from the last question, which is to be answered again.
    pub(super) fn reopen(&mut self) -> Option<Answer> {
        let last = self.exchanges.last_mut()?;
        let answer = last.answer.take();
        last.attempts += u64::from(answer.is_some());
        answer
    }

    /// Ends what [`Conversation::ask`] or [`Conversation::reopen`] began without an answer: there is the former one again,
    /// or the question is no more, and its images are for the next one.
    pub(super) fn give_up(&mut self, former: Option<Answer>) {
        match former {
            Some(answer) => self.answer(answer),
            None => {
                if let Some(exchange) = self.exchanges.pop() {
                    self.attached.splice(0..0, exchange.images);
                }
            }
        }
    }

    /// Takes back images that are attached, or else the last question with all that belongs to it.
    pub(super) fn undo(&mut self) -> Undone {
        if !self.attached.is_empty() {
            return Undone::Images(std::mem::take(&mut self.attached).len());
        }
        self.exchanges.pop().map_or(Undone::Nothing, |exchange| Undone::Question(exchange.question))
    }

    /// Begins anew; the system message stays.
    pub(super) fn clear(&mut self) {
        self.exchanges.clear();
        self.attached.clear();
    }

    /// Times the last question was answered before.
    pub(super) fn attempts(&self) -> u64 {
        self.exchanges.last().map_or(0, |exchange| exchange.attempts)
    }

    /// Images of all questions, in order.
    pub(super) fn images(&self) -> impl Iterator<Item = &Image> {
        self.exchanges.iter().flat_map(|exchange| &exchange.images)
    }

    /// What the model reads. Images are numbered through the conversation; those for which the question has no placeholder
    /// come before its text.
    pub(super) fn turns(&self, place: &Place) -> Result<Vec<Turn>> {
        let mut turns: Vec<Turn> = self.system.iter().map(|text| Turn::new("system", text)).collect();
        let mut first = 0;
        for Exchange { question, images, answer, .. } in &self.exchanges {
            turns.push(Turn::new("user", place(question, first..first + images.len())?));
            first += images.len();
            if let Some(Answer { text, tokens, .. }) = answer {
                turns.push(Turn { ids: tokens.clone(), ..Turn::new("assistant", text) });
            }
        }
        Ok(turns)
    }

    /// The images' pixels, in order.
    pub(super) fn pixels(&self) -> Vec<Pixels> {
        self.images().map(|image| image.pixels.clone()).collect()
    }
}

/// Writes placeholders of these images into a question: see [`phi3v::processor::Processor::with_placeholders`].
pub(super) type Place<'a> = dyn Fn(&str, Range<usize>) -> Result<String> + 'a;

/// What [`Conversation::undo`] took back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Undone {
    Nothing,
    Images(usize),
    Question(String),
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use phi3v::processor::images::Layout;

    use super::*;

    fn image(source: &str) -> Image {
        Image {
            source: source.into(),
            options: ImageOptions::default(),
            count: 1,
            size: (336, 336),
            pixels: Pixels { values: Vec::new(), layout: Layout::default() },
        }
    }

    /// As Phi-3-vision has it.
    fn place(question: &str, images: Range<usize>) -> Result<String> {
        let tags = images.map(|index| format!("<|image_{}|>", index + 1)).filter(|tag| !question.contains(tag));
        Ok(tags.chain([question.to_owned()]).collect::<Vec<_>>().join("\n"))
    }

    fn answer(text: &str) -> Answer {
        Answer { text: text.into(), tokens: Some(vec![7]), interrupted: false }
    }

    fn texts(conversation: &Conversation) -> Vec<String> {
        conversation
            .turns(&place)
            .unwrap()
            .into_iter()
            .map(|turn| format!("{}: {}", turn.message.role, turn.message.content))
            .collect()
    }

    fn with_two_images() -> Conversation {
        let mut conversation = Conversation { system: Some("Be brief.".into()), ..Conversation::default() };
        conversation.attached.push(image("a"));
        conversation.ask("one".into());
        conversation.answer(answer("1"));
        conversation.attached.extend([image("b"), image("c")]);
        conversation.ask("is <|image_2|> two?".into());
        conversation
    }

    #[test]
    fn images_are_numbered_through_the_conversation() {
        let conversation = with_two_images();
        let expected =
            ["system: Be brief.", "user: <|image_1|>\none", "assistant: 1", "user: <|image_3|>\nis <|image_2|> two?"];
        assert_eq!(texts(&conversation), expected);
        assert_eq!(conversation.pixels().len(), 3);
        assert_eq!(conversation.turns(&place).unwrap()[2].ids, Some(vec![7]));
    }

    #[test]
    fn what_is_given_up_leaves_no_trace() {
        let mut conversation = with_two_images();
        conversation.attached.push(image("d"));
        conversation.give_up(None);
        let sources: Vec<&str> = conversation.attached.iter().map(|image| image.source.as_str()).collect();
        assert_eq!((conversation.exchanges.len(), sources), (1, vec!["b", "c", "d"]));

        let before = conversation.exchanges[0].answer.clone();
        let former = conversation.reopen();
        assert_eq!((texts(&conversation).len(), conversation.attempts()), (2, 1));
        conversation.give_up(former);
        assert_eq!(conversation.exchanges[0].answer, before);
    }

    #[test]
    fn undo_takes_back_images_and_then_questions() {
        let mut conversation = with_two_images();
        conversation.answer(answer("yes"));
        conversation.attached.push(image("d"));
        assert_eq!(conversation.undo(), Undone::Images(1));
        assert_eq!(conversation.undo(), Undone::Question("is <|image_2|> two?".into()));
        assert_eq!(conversation.pixels().len(), 1);
        assert_eq!(conversation.undo(), Undone::Question("one".into()));
        assert_eq!(conversation.undo(), Undone::Nothing);
        assert_eq!(texts(&conversation), ["system: Be brief."]);
    }
}
