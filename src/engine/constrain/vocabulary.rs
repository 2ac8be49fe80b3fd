//! A tokenizer as llguidance wants it: a trie of the tokens' bytes, and a way to cut bytes into tokens.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{SimpleVob, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use llguidance::{Matcher, ParserFactory};

use super::{Constraint, Grammar, complaint};
use crate::processor::Tokenizer;

/// Longer tokens are not used: the trie has no more levels.
const LONGEST_TOKEN: usize = 1000;

/// More bytes than any tokenizer has; the trie has room for four million nodes.
const MOST_BYTES: usize = 4_000_000;

/// For reading a grammar: more than any of the longest kind took. Only what is used takes memory.
const STACK: usize = 256 << 20;

/// How long reading a grammar may take; those meant well take milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// The tokenizer's vocabulary as the grammar engine wants it. Made once for an engine, as it takes some time; clones share it.
#[derive(Clone)]
pub struct Vocabulary {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    factory: ParserFactory,
    /// Rows of logits.
    pub(super) size: usize,
    pub(super) stop_tokens: Vec<u32>,
    /// Tokens that have a text, and the end.
    pub(super) text: SimpleVob,
    /// Of these, the ones that may begin an answer and mean the same there as elsewhere, the end included.
    pub(super) first: SimpleVob,
    /// Those that lose a leading space when they begin an answer.
    pub(super) first_spaced: SimpleVob,
}

impl Vocabulary {
    /// The vocabulary of a model with `vocab_size` logits, whose answers end with any of `stop_tokens`.
    pub fn new(tokenizer: &Tokenizer, vocab_size: usize, stop_tokens: &[u32]) -> Result<Self> {
        let within = tokenizer.token_bytes(false)?;
        let first = tokenizer.token_bytes(true)?;
        let total: usize = within.iter().map(Vec::len).sum();
        ensure!(
            total < MOST_BYTES && vocab_size < MOST_BYTES,
            "the tokenizer's vocabulary is too large: {total} bytes"
        );

        // The end is a token of its own after the last: stop tokens have no text, and there may be several or none.
        let end = vocab_size as TokenId;
        let mut words = vec![Vec::new(); vocab_size];
        words.push(b"\xff<end>".to_vec());
        let none = SimpleVob::alloc(words.len());
        let mut inner = [none.clone(), none.clone(), none];
        let [text, first_plain, first_spaced] = &mut inner;
        text.allow_token(end);
        first_plain.allow_token(end);
        for (id, (within, first)) in (0..end).zip(within.into_iter().zip(first)) {
            let usable = !within.is_empty() && within.len() <= LONGEST_TOKEN && !within.contains(&0xff);
            if !usable || stop_tokens.contains(&id) {
                continue;
            }
            text.allow_token(id);
            if within == first {
                first_plain.allow_token(id);
            } else if within.strip_prefix(b" ") == Some(first.as_slice()) {
                first_spaced.allow_token(id);
            }
            words[id as usize] = within;
        }

        let trie = TokTrie::from(&TokRxInfo::new(end + 1, end), &words);
        let spaced = first_spaced.num_set() > 0;
        let environment: TokEnv = Arc::new(Environment::new(tokenizer, trie, spaced)?);
        let mut factory = ParserFactory::new_simple(&environment)?;
        // Nothing but the result: no warnings on stderr, no state in errors.
        factory.quiet();
        let limits = factory.limits_mut();
        limits.verbose_errors = false;
        // Below the defaults, which let a hostile grammar take half a gigabyte.
        limits.initial_lexer_fuel = 300_000;
        limits.max_lexer_states = 50_000;
        let [text, first, first_spaced] = inner;
        let stop_tokens = stop_tokens.to_vec();
        Ok(Self { inner: Arc::new(Inner { factory, size: vocab_size, stop_tokens, text, first, first_spaced }) })
    }

    /// A checked grammar, ready for a request.
    pub fn constraint(&self, grammar: &Grammar) -> Result<Constraint> {
        let (vocabulary, grammar_again) = (self.clone(), grammar.clone());
        let made = on_a_deep_stack(move || {
            let matcher = |spaced| vocabulary.inner.matcher(grammar_again.compile(spaced)?);
            let drops_space = vocabulary.inner.first_spaced.num_set() > 0;
            let (plain, spaced) = (matcher(false)?, drops_space.then(|| matcher(true)).transpose()?);
            Constraint::new(vocabulary, plain, spaced)
        });
        made.map_err(|error| anyhow!("the {} cannot be used: {}", grammar.name(), complaint(&error)))
    }
}

impl Inner {
    /// The id that stands for the end of an answer.
    pub(super) fn end(&self) -> TokenId {
        self.size as TokenId
    }

    fn matcher(&self, grammar: TopLevelGrammar) -> Result<Matcher> {
        let mut matcher = Matcher::new(self.factory.create_parser(grammar));
        // Finds out whether the answer may be anything but empty.
        matcher.consume_tokens(&[])?;
        Ok(matcher)
    }
}

/// Does `work` where references may lead through each other thousands of times, each deeper into the stack; and stops
/// waiting for it when it takes too long.
fn on_a_deep_stack<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let (sender, receiver) = mpsc::channel();
    // Nobody may be waiting any more.
    let work = move || drop(sender.send(work()));
    thread::Builder::new().stack_size(STACK).spawn(work).context("no thread can be started")?;
    receiver.recv_timeout(PATIENCE).map_err(|error| match error {
        RecvTimeoutError::Timeout => anyhow!("it is too complex: {} seconds were not enough", PATIENCE.as_secs()),
        RecvTimeoutError::Disconnected => anyhow!("llguidance panicked on it"),
    })?
}

/// Cuts bytes into the tokens that the model knows for them amid a text.
struct Environment {
    tokenizer: Tokenizer,
    trie: TokTrie,
    /// Put before a text so that none of its words is the first; merges with nothing.
    before: &'static str,
    before_ids: Vec<u32>,
}

impl Environment {
    fn new(tokenizer: &Tokenizer, trie: TokTrie, spaced: bool) -> Result<Self> {
        let before = if spaced { "\n" } else { "" };
        Ok(Self { before, before_ids: tokenizer.encode(before, false)?, tokenizer: tokenizer.clone(), trie })
    }

    /// The tokenizer's own cut, if it means the same bytes: normalizers and names of special tokens may change them.
    fn encode(&self, text: &str) -> Option<Vec<u32>> {
        let ids = self.tokenizer.encode(&format!("{}{text}", self.before), false).ok()?;
        let ids = ids.strip_prefix(self.before_ids.as_slice())?;
        let known = ids.iter().all(|&id| (id as usize) < self.trie.vocab_size());
        (known && self.trie.decode_raw(ids) == text.as_bytes()).then(|| ids.to_vec())
    }
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        let character = |c: char| {
            let text = c.to_string();
            self.encode(&text).unwrap_or_else(|| self.trie.greedy_tokenize(text.as_bytes()))
        };
        let encode = |text: &str| self.encode(text).unwrap_or_else(|| text.chars().flat_map(character).collect());
        self.trie.tokenize_with_greedy_fallback(bytes, encode)
    }
}
