//! A conversation: questions with their pictures, answers, and what is yet to be asked.

use phi3v::processor::{Tiles, Turn};

/// What was said, and what is attached to the next question.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Conversation {
    /// What the model knows beforehand.
    pub(super) system: Option<String>,
    pub(super) exchanges: Vec<Exchange>,
    /// Pictures for the next question.
    pub(super) attached: Vec<Picture>,
}

/// A question and its answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Exchange {
    pub(super) question: String,
    pub(super) pictures: Vec<Picture>,
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

/// A picture that is part of a question.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Picture {
    /// Where it can be read again.
    pub(super) source: String,
    /// The most tiles; none for the checkpoint's own number.
    pub(super) num_crops: Option<u32>,
    pub(super) tiles: Tiles,
}

impl Conversation {
    /// Adds a question, with the pictures that are attached.
    pub(super) fn ask(&mut self, question: String) {
        let pictures = std::mem::take(&mut self.attached);
        self.exchanges.push(Exchange { question, pictures, answer: None, attempts: 0 });
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
    /// or the question is no more, and its pictures are for the next one.
    pub(super) fn give_up(&mut self, former: Option<Answer>) {
        match former {
            Some(answer) => self.answer(answer),
            None => {
                if let Some(exchange) = self.exchanges.pop() {
                    self.attached.splice(0..0, exchange.pictures);
                }
            }
        }
    }

    /// Takes back pictures that are attached, or else the last question with all that belongs to it.
    pub(super) fn undo(&mut self) -> Undone {
        if !self.attached.is_empty() {
            return Undone::Pictures(std::mem::take(&mut self.attached).len());
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

    /// Pictures of all questions, in order.
    pub(super) fn pictures(&self) -> impl Iterator<Item = &Picture> {
        self.exchanges.iter().flat_map(|exchange| &exchange.pictures)
    }

    /// What the model reads. Pictures are numbered through the conversation; those that the question does not name by tag
    /// come before its text, each on a line of its own.
    pub(super) fn turns(&self) -> Vec<Turn> {
        let mut turns: Vec<Turn> = self.system.iter().map(|text| Turn::new("system", text)).collect();
        let mut number = 0;
        for Exchange { question, pictures, answer, .. } in &self.exchanges {
            let mut text = String::new();
            for _ in pictures {
                number += 1;
                let tag = format!("<|image_{number}|>");
                if !question.contains(&tag) {
                    text += &tag;
                    text.push('\n');
                }
            }
            turns.push(Turn::new("user", text + question));
            if let Some(Answer { text, tokens, .. }) = answer {
                turns.push(Turn { ids: tokens.clone(), ..Turn::new("assistant", text) });
            }
        }
        turns
    }

    /// The pictures' tiles, in order.
    pub(super) fn tiles(&self) -> Vec<Tiles> {
        self.pictures().map(|picture| picture.tiles.clone()).collect()
    }
}

/// What [`Conversation::undo`] took back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Undone {
    Nothing,
    Pictures(usize),
    Question(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(source: &str) -> Picture {
        Picture {
            source: source.into(),
            num_crops: None,
            tiles: Tiles { pixels: Vec::new(), rows: 1, cols: 1, line: 12 },
        }
    }

    fn answer(text: &str) -> Answer {
        Answer { text: text.into(), tokens: Some(vec![7]), interrupted: false }
    }

    fn texts(conversation: &Conversation) -> Vec<String> {
        conversation
            .turns()
            .into_iter()
            .map(|turn| format!("{}: {}", turn.message.role, turn.message.content))
            .collect()
    }

    fn with_two_pictures() -> Conversation {
        let mut conversation = Conversation { system: Some("Be brief.".into()), ..Conversation::default() };
        conversation.attached.push(picture("a"));
        conversation.ask("one".into());
        conversation.answer(answer("1"));
        conversation.attached.extend([picture("b"), picture("c")]);
        conversation.ask("is <|image_2|> two?".into());
        conversation
    }

    #[test]
    fn pictures_are_numbered_through_the_conversation() {
        let conversation = with_two_pictures();
        let expected =
            ["system: Be brief.", "user: <|image_1|>\none", "assistant: 1", "user: <|image_3|>\nis <|image_2|> two?"];
        assert_eq!(texts(&conversation), expected);
        assert_eq!(conversation.tiles().len(), 3);
        assert_eq!(conversation.turns()[2].ids, Some(vec![7]));
    }

    #[test]
    fn what_is_given_up_leaves_no_trace() {
        let mut conversation = with_two_pictures();
        conversation.attached.push(picture("d"));
        conversation.give_up(None);
        let sources: Vec<&str> = conversation.attached.iter().map(|picture| picture.source.as_str()).collect();
        assert_eq!((conversation.exchanges.len(), sources), (1, vec!["b", "c", "d"]));

        let before = conversation.exchanges[0].answer.clone();
        let former = conversation.reopen();
        assert_eq!((texts(&conversation).len(), conversation.attempts()), (2, 1));
        conversation.give_up(former);
        assert_eq!(conversation.exchanges[0].answer, before);
    }

    #[test]
    fn undo_takes_back_pictures_and_then_questions() {
        let mut conversation = with_two_pictures();
        conversation.answer(answer("yes"));
        conversation.attached.push(picture("d"));
        assert_eq!(conversation.undo(), Undone::Pictures(1));
        assert_eq!(conversation.undo(), Undone::Question("is <|image_2|> two?".into()));
        assert_eq!(conversation.tiles().len(), 1);
        assert_eq!(conversation.undo(), Undone::Question("one".into()));
        assert_eq!(conversation.undo(), Undone::Nothing);
        assert_eq!(texts(&conversation), ["system: Be brief."]);
    }
}
