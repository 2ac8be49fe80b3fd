//! Answers of a given form: which tokens may come next, by llguidance.

mod vocabulary;

use anyhow::{Context, Result, anyhow, bail, ensure};
use llguidance::Matcher;
use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::toktrie::SimpleVob;
use serde::Serialize;
use serde_json::{Value, json};

pub use vocabulary::Vocabulary;

/// Bounds what reading a hostile grammar may take: seconds, and some of the stack.
const LONGEST_GRAMMAR: usize = 256 << 10;

/// Characters; llguidance quotes what it complains about.
const LONGEST_COMPLAINT: usize = 300;

/// Tokens; more are found by asking again.
const MOST_FORCED: usize = 64;

/// How llguidance says that no token can come next.
const NOTHING: &str = "NoExtensionBias";

const STUCK: &str = "no token of the model can come next";

/// A rule for the form of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grammar {
    /// A JSON schema; `{}` for any JSON. Blanks are allowed after commas and colons only, one each, unless the schema's
    /// `x-guidance` says otherwise.
    JsonSchema(String),
    /// A regular expression that the whole answer matches.
    Regex(String),
    /// A grammar in llguidance's variant of Lark.
    Lark(String),
}

impl Grammar {
    fn name(&self) -> &'static str {
        match self {
            Self::JsonSchema(_) => "JSON schema",
            Self::Regex(_) => "regular expression",
            Self::Lark(_) => "Lark grammar",
        }
    }

    /// For llguidance; `spaced` puts a space before.
    fn compile(&self, spaced: bool) -> Result<TopLevelGrammar> {
        let (Self::JsonSchema(text) | Self::Regex(text) | Self::Lark(text)) = self;
        ensure!(
            text.len() <= LONGEST_GRAMMAR,
            "it has {} bytes; {LONGEST_GRAMMAR} are the most that is read",
            text.len()
        );
        let mut grammar = match self {
            Self::JsonSchema(text) => GrammarWithLexer::from_json_schema(schema(text)?),
            Self::Regex(text) => {
                check_regex(text)?;
                GrammarWithLexer::from_regex(text)
            }
            Self::Lark(text) => GrammarWithLexer::from_lark(text.clone()),
        };
        grammar.name = Some("answer".to_owned());
        let before = spaced.then(|| GrammarWithLexer::from_lark(r#"start: " " @answer"#.to_owned()));
        Ok(TopLevelGrammar { grammars: before.into_iter().chain([grammar]).collect(), max_tokens: None })
    }
}

/// llguidance would read over some mistakes, and tell of others by their place in a grammar of its own.
fn check_regex(text: &str) -> Result<()> {
    let (what, at) = match regex_syntax::parse(text) {
        Ok(_) => return Ok(()),
        Err(regex_syntax::Error::Parse(error)) => (error.kind().to_string(), error.span().start),
        Err(regex_syntax::Error::Translate(error)) => (error.kind().to_string(), error.span().start),
        Err(error) => bail!("{}", complaint(&error.into())),
    };
    bail!("line {}, column {}: {what}", at.line, at.column)
}

fn schema(text: &str) -> Result<Value> {
    let value = serde_json::from_str(text).context("it is not valid JSON")?;
    let mut fields = match value {
        Value::Object(fields) => fields,
        Value::Bool(true) => serde_json::Map::new(),
        _ => bail!("it is {value}; an object is expected"),
    };
    // Models at a loss write blanks without end.
    let mut options = json!({ "whitespace_flexible": false, "item_separator": ", ?", "key_separator": ": ?" });
    match (fields.remove("x-guidance"), options.as_object_mut()) {
        (Some(Value::Object(own)), Some(options)) => options.extend(own),
        (Some(other), _) => bail!("its x-guidance is {other}; an object is expected"),
        (None, _) => {}
    }
    fields.insert("x-guidance".to_owned(), options);
    Ok(fields.into())
}

/// Where an answer stands in its grammar. Clones go their own ways, so tokens may be tried.
#[derive(Clone)]
pub struct Constraint {
    vocabulary: Vocabulary,
    matcher: Matcher,
    /// Before the first token only: the grammar after a space, for tokenizers that drop the one an answer begins with.
    spaced: Option<Matcher>,
    complete: bool,
    /// A stop token was accepted.
    ended: bool,
}

impl Constraint {
    fn new(vocabulary: Vocabulary, mut matcher: Matcher, spaced: Option<Matcher>) -> Result<Self> {
        // The grammar after a space would always allow that.
        let begins = matcher.compute_mask_or_eos().map_err(|error| match complaint(&error).as_str() {
            NOTHING => anyhow!("no answer satisfies it"),
            other => anyhow!("{other}"),
        })?;
        ensure!(!begins.and_is_zero(&vocabulary.inner.text), "no token of the model can begin an answer");
        let complete = matcher.is_accepting()?;
        Ok(Self { vocabulary, matcher, spaced, complete, ended: false })
    }

    /// Sets the logits of tokens that the grammar does not allow next to -inf; where the answer may end, it may with any
    /// stop token. An error if there is no token to go on with.
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<()> {
        let size = self.vocabulary.inner.size;
        ensure!(logits.len() == size, "{} logits are given for a grammar over {size} tokens", logits.len());
        let allowed = self.allowed()?;
        let mut stops = Vec::new();
        if allowed.is_allowed(self.vocabulary.inner.end()) {
            let tokens = self.vocabulary.inner.stop_tokens.iter().map(|&id| id as usize);
            stops.extend(tokens.filter_map(|id| Some((id, *logits.get(id)?))));
        }
        ensure!(
            !stops.is_empty() || allowed.first_bit_set().is_some_and(|id| id < size),
            "the grammar cannot be followed: {STUCK}"
        );
        allowed.iter_unset_entries(|id| {
            if let Some(logit) = logits.get_mut(id) {
                *logit = f32::NEG_INFINITY;
            }
        });
        for (id, logit) in stops {
            logits[id] = logit;
        }
        Ok(())
    }

    /// Tokens that may come next, and the end.
    fn allowed(&mut self) -> Result<SimpleVob> {
        let vocabulary = &self.vocabulary.inner;
        let mut allowed = self.matcher.compute_mask_or_eos();
        match &mut self.spaced {
            None => {
                if let Ok(allowed) = &mut allowed {
                    allowed.and(&vocabulary.text);
                }
            }
            Some(spaced) => {
                if let Ok(allowed) = &mut allowed {
                    allowed.and(&vocabulary.first);
                }
                // Where one of the two has come to nothing, the other counts.
                if let Ok(mut others) = spaced.compute_mask() {
                    others.and(&vocabulary.first_spaced);
                    match &mut allowed {
                        Ok(allowed) => allowed.or(&others),
                        Err(_) => allowed = Ok(others),
                    }
                }
            }
        }
        allowed
            .map_err(|error| anyhow!("the grammar cannot be followed: {}", complaint(&error).replace(NOTHING, STUCK)))
    }

    /// Follows the chosen token, a stop token included. After an error the constraint is of no use.
    pub fn accept(&mut self, token: u32) -> Result<()> {
        let vocabulary = &self.vocabulary.inner;
        let refused = || anyhow!("token {token} does not follow the grammar");
        ensure!(!self.ended, "token {token} comes after the end of the answer");
        if vocabulary.stop_tokens.contains(&token) {
            ensure!(self.complete, "token {token} ends an answer that is not complete");
            self.ended = true;
            return Ok(());
        }
        ensure!((token as usize) < vocabulary.size && vocabulary.text.is_allowed(token), refused());
        if let Some(spaced) = self.spaced.take()
            && vocabulary.first_spaced.is_allowed(token)
        {
            self.matcher = spaced;
        }
        self.matcher.consume_token(token).map_err(|error| refused().context(complaint(&error)))?;
        self.complete = self.matcher.is_accepting()?;
        Ok(())
    }

    /// Whether the answer so far is a whole one.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether nothing can follow, so that the answer ends here whatever the model would say.
    pub fn is_finished(&self) -> bool {
        self.ended || (self.complete && self.matcher.is_stopped())
    }

    /// The next tokens, as long as [`Self::mask`] would leave just one each time; often none.
    pub fn forced(&mut self) -> Vec<u32> {
        let mut tokens = Vec::new();
        // With or without a space in front is the model's choice.
        if self.spaced.is_some() || self.is_finished() {
            return tokens;
        }
        // One by one: how bytes are cut into tokens may depend on those before.
        let mut ahead = self.matcher.clone();
        while tokens.len() < MOST_FORCED
            && let Some(&token) = ahead.compute_ff_tokens().first()
            && self.vocabulary.inner.text.is_allowed(token)
            && ahead.consume_token(token).is_ok()
        {
            tokens.push(token);
        }
        tokens
    }
}

/// What llguidance says, in one line: without its state and the passages of the grammar.
fn complaint(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let text = text.split("\n<").next().unwrap_or_default();
    let lines = text.lines().map(str::trim);
    let passage = |line: &&str| line.split_once(" | ").is_some_and(|(number, _)| number.parse::<usize>().is_ok());
    let lines = lines.take_while(|line| !passage(line)).filter(|line| !line.trim_matches('^').is_empty());
    let line = lines.collect::<Vec<_>>().join(" ");
    let line = line.strip_prefix("at 1(8): ").unwrap_or(&line);
    match line.char_indices().nth(LONGEST_COMPLAINT) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.to_owned(),
    }
}
