//! Speculative decoding (Leviathan et al. 2023): guess tokens cheaply, check them together, keep those that the model would
//! have chosen. Tokens are chosen by the model's own logits with the answer's own random numbers, so a guess decides on the
//! time it takes and on nothing else.

use anyhow::{Result, ensure};

use super::answer::Answer;
use super::sequence::Sequence;
use crate::models::Model;
use crate::processor::{Prompt, Segment, Tokenizer};

/// The most tokens that are guessed at once.
pub const MOST: usize = 32;

/// Where guesses come from.
pub enum Speculation {
    /// There are none.
    None,
    /// From the prompt and the answer: what followed the last words when they were said before (prompt lookup decoding,
    /// Saxena 2023). Up to so many tokens.
    Lookup(usize),
    /// From a smaller model with the same vocabulary, which sees no images. So many tokens.
    Draft(Model, usize),
}

impl Speculation {
    /// Guesses by a smaller model, whose tokenizer must be the same.
    pub fn draft(model: Model, its: &Tokenizer, tokenizer: &Tokenizer, num_draft_tokens: usize) -> Result<Self> {
        ensure!(
            its.has_vocabulary_of(tokenizer),
            "the draft model has another vocabulary; take one of the same family"
        );
        Ok(Self::Draft(model, num_draft_tokens.min(MOST)))
    }

    /// Guesses for one request.
    pub(super) fn proposer(&self, prompt: &Prompt) -> Result<Proposer<'_>> {
        Ok(match self {
            Self::None => Proposer::None,
            Self::Lookup(most) => Proposer::Lookup(Lookup { most: *most.min(&MOST), next: 4 }),
            Self::Draft(model, most) => {
                let text = |segment: &&Segment| matches!(segment, Segment::Text(_));
                let segments: Vec<Segment> = prompt.segments.iter().filter(text).cloned().collect();
                let prompt = Prompt { text: String::new(), segments, images: Vec::new() };
                if prompt.is_empty() || prompt.len() + 1 >= model.text.max_position_embeddings() {
                    return Ok(Proposer::None);
                }
                let sequence = Sequence::new(model, &prompt)?;
                Proposer::Draft(Draft { prompt_len: prompt.len(), sequence, most: *most })
            }
        })
    }
}

/// Guesses for one request.
pub(super) enum Proposer<'e> {
    None,
    Lookup(Lookup),
    Draft(Draft<'e>),
}

impl Proposer<'_> {
    /// Up to `most` tokens that may follow.
    pub(super) fn propose(&mut self, answer: &Answer, most: usize) -> Result<Vec<u32>> {
        match self {
            Self::None => Ok(Vec::new()),
            Self::Lookup(lookup) => Ok(lookup.propose(answer, most)),
            Self::Draft(draft) => draft.propose(answer, most),
        }
    }

    /// So many guesses were right.
    pub(super) fn learn(&mut self, proposed: usize, accepted: usize) {
        if let Self::Lookup(lookup) = self
            && proposed > 0
        {
            lookup.next = if accepted == proposed { 2 * proposed } else { accepted + 1 }.clamp(2, lookup.most.max(2));
        }
    }
}

/// The longest run of last tokens that is looked for, and the shortest.
const LONGEST: usize = 4;
const SHORTEST: usize = 2;

pub(super) struct Lookup {
    most: usize,
    /// Guesses for the next time: more where they were right.
    next: usize,
}

impl Lookup {
    fn propose(&self, answer: &Answer, most: usize) -> Vec<u32> {
        let said: Vec<u32> = answer.prompt().iter().chain(&answer.generation.tokens).copied().collect();
        let most = most.min(self.next).min(self.most);
        (SHORTEST..=LONGEST).rev().find_map(|len| continuation(&said, len, most)).unwrap_or_default()
    }
}

/// What followed the last `len` tokens when they were said before, the last time that they were.
fn continuation(said: &[u32], len: usize, most: usize) -> Option<Vec<u32>> {
    let (before, last) = said.split_at_checked(said.len().checked_sub(len)?)?;
    let at = (0..before.len()).rev().find(|&at| said[at..at + len] == *last)?;
    let follows = &said[at + len..];
    // Where the repetition overlaps itself, it goes on as it began.
    (most > 0).then(|| follows.iter().cycle().take(most).copied().collect())
}

pub(super) struct Draft<'e> {
    prompt_len: usize,
    sequence: Sequence<'e>,
    most: usize,
}

/// Positions of a draft's prompt per step.
const STEP: usize = 512;

impl Draft<'_> {
    fn propose(&mut self, answer: &Answer, most: usize) -> Result<Vec<u32>> {
        let sequence = &mut self.sequence;
        let room = sequence.model().text.max_position_embeddings().saturating_sub(self.prompt_len + 1);
        let generated = &answer.generation.tokens;
        let most = most.min(self.most).min(room.saturating_sub(generated.len()));
        // Up to where the guesses of last time were right; what follows is dropped.
        let same = sequence.last_tokens(self.prompt_len).iter().zip(generated).take_while(|(a, b)| a == b).count();
        sequence.truncate(self.prompt_len + same);
        generated[same..].iter().for_each(|&token| {
            sequence.push(token);
        });
        let mut sampler = answer.sampler();
        let mut tokens = generated.clone();
        while tokens.len() < generated.len() + most {
            let mut logits = sequence.next_logits(STEP)?;
            let token = sampler.sample(&mut logits, answer.prompt(), &tokens);
            tokens.push(token);
            sequence.push(token);
        }
        Ok(tokens.split_off(generated.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_before_is_said_again() {
        assert_eq!(continuation(&[1, 2, 3, 4, 9, 1, 2], 2, 3), Some(vec![3, 4, 9]));
        assert_eq!(continuation(&[1, 2, 3, 1, 2, 4, 1, 2], 2, 1), Some(vec![4]));
        assert_eq!(continuation(&[7, 8, 7, 8], 2, 5), Some(vec![7, 8, 7, 8, 7]));
        assert_eq!(continuation(&[5, 5, 5], 2, 2), Some(vec![5, 5]));
        assert_eq!(continuation(&[1, 2, 3], 2, 2), None);
        assert_eq!(continuation(&[1], 2, 2), None);
    }
}
