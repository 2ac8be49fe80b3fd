//! Tokens to text as it grows: whole characters only, and nothing that may yet turn out to be a stop string.

use anyhow::Result;

use crate::processor::Tokenizer;

/// Byte tokens of the longest UTF-8 character.
const LONGEST_CHARACTER: usize = 4;

/// Decodes a growing sequence of tokens.
pub struct Detokenizer<'a> {
    tokenizer: &'a Tokenizer,
    /// The tokens that the next text depends on: those of the last piece given out, then the new ones.
    window: Vec<u32>,
    /// How many of them were given out.
    given: usize,
    /// How many tokens in a row have left a character incomplete.
    incomplete: usize,
}

impl<'a> Detokenizer<'a> {
    /// A decoder at the start of an answer.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, window: Vec::new(), given: 0, incomplete: 0 }
    }

    /// The text that `id` completes; empty while a character is incomplete. Special tokens have no text.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.window.push(id);
        let text = self.pending()?;
        // Not the tokens that wait: the space that an answer begins with is one of them where the decoder strips it.
        self.incomplete = if text.ends_with(char::REPLACEMENT_CHARACTER) { self.incomplete + 1 } else { 0 };
        if text.is_empty() || (1..LONGEST_CHARACTER).contains(&self.incomplete) {
            return Ok(String::new());
        }
        self.incomplete = 0;
        self.window.drain(..self.given);
        self.given = self.window.len();
        Ok(text)
    }

    /// The text of tokens still held back at the end, without the incomplete character.
    pub fn finish(&mut self) -> Result<String> {
        let text = self.pending()?;
        self.given = self.window.len();
        Ok(text.trim_end_matches(char::REPLACEMENT_CHARACTER).to_owned())
    }

    /// Text of the tokens not given out. They are decoded together with those before, as a decoder may treat the start
    /// of a text differently.
    fn pending(&self) -> Result<String> {
        let before = self.tokenizer.decode(&self.window[..self.given], false)?;
        let all = self.tokenizer.decode(&self.window, false)?;
        match all.strip_prefix(&before) {
            Some(text) => Ok(text.to_owned()),
            // A stray byte spoils the characters before it; those were given out and stay.
            None => self.tokenizer.decode(&self.window[self.given..], false),
        }
    }
}

/// Looks for stop strings in a growing text.
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
}

impl StopMatcher {
    /// A matcher for these strings; empty ones never match.
    pub fn new(stops: &[String]) -> Self {
        Self { stops: stops.iter().filter(|stop| !stop.is_empty()).cloned().collect(), held: String::new() }
    }

    /// Adds `text`. Returns what can be given out, and whether a stop string was met: it and all after it are dropped.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            return (self.finish(), true);
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What is still held back at the end.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes of the longest end of `text` that `stop` starts with.
fn overlap(text: &str, stop: &str) -> usize {
    stop.char_indices().map(|(at, _)| at).rev().find(|&at| text.ends_with(&stop[..at])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut matcher = StopMatcher::new(&stops.iter().map(|&stop| stop.to_owned()).collect::<Vec<_>>());
        let mut out = String::new();
        for piece in pieces {
            let (text, stopped) = matcher.push(piece);
            out += &text;
            if stopped {
                return (out, true);
            }
        }
        (out + &matcher.finish(), false)
    }

    #[test]
    fn stops_at_the_first_match_across_pieces() {
        assert_eq!(run(&["END", "\n\n"], &["one E", "N", "D two"]), ("one ".into(), true));
        assert_eq!(run(&["END", "two"], &["one two END"]), ("one ".into(), true));
        assert_eq!(run(&["END"], &["EN", "EN", "x"]), ("ENENx".into(), false));
        assert_eq!(run(&["é!"], &["é", "?é", "!"]), ("é?".into(), true));
        assert_eq!(run(&[""], &["text"]), ("text".into(), false));
    }

    proptest! {
        #[test]
        fn cuts_as_if_the_text_came_whole(text in "[ab]{0,12}", stop in "[ab]{1,4}", cut in 0usize..13) {
            let cut = cut.min(text.len());
            let expected = match text.find(&stop) {
                Some(at) => (text[..at].to_owned(), true),
                None => (text.clone(), false),
            };
            prop_assert_eq!(run(&[&stop], &[&text[..cut], &text[cut..]]), expected);
        }
    }
}
