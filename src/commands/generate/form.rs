//! Answers of a given form: a grammar, one of several, or with a phrase in them.

use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, Result};
use phi3v::engine::Engine;
use phi3v::engine::choose::Choice;
use phi3v::engine::constrain::Grammar;
use phi3v::engine::phrase::{Phrased, Phrases};
use phi3v::processor::Prompt;

use crate::commands::generate::FormArgs;
use crate::interrupt;

/// The grammar that the arguments ask for.
pub(super) fn grammar(args: &FormArgs) -> Result<Option<Grammar>> {
    let read = |name: &str, path: &Path| -> Result<String> {
        if path.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).with_context(|| format!("cannot read {name} from stdin"))?;
            return Ok(text);
        }
        std::fs::read_to_string(path).with_context(|| format!("{name}: cannot read {}", path.display()))
    };
    let FormArgs { json_schema, regex, grammar, .. } = args;
    Ok(match (json_schema, regex, grammar) {
        (Some(path), _, _) => Some(Grammar::JsonSchema(read("--json-schema", path)?)),
        (_, Some(regex), _) => Some(Grammar::Regex(regex.clone())),
        (_, _, Some(path)) => Some(Grammar::Lark(read("--grammar", path)?)),
        (None, None, None) => None,
    })
}

/// How often stdin is asked for.
pub(super) fn readers(args: &FormArgs) -> usize {
    [&args.json_schema, &args.grammar].into_iter().flatten().filter(|path| path.as_os_str() == "-").count()
}

/// What came of choosing and of phrases.
pub(super) struct Formed {
    pub(super) text: String,
    pub(super) phrased: Option<Phrased>,
    pub(super) choice: Option<Choice>,
}

/// Lets the model come to the phrases, and then choose; nothing if Ctrl-C came first.
pub(super) fn run(engine: &Engine, prompt: Prompt, args: &FormArgs) -> Result<Option<Formed>> {
    interrupt::listen()?;
    let mut formed = Formed { text: String::new(), phrased: None, choice: None };
    let mut prompt = prompt;
    if !args.constrain.is_empty() {
        let phrases = Phrases { texts: args.constrain.clone(), within: args.within, beams: args.beams };
        let phrased = engine.constrain(&prompt, &phrases, &mut || {
            if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let Some(phrased) = phrased else { return Ok(None) };
        prompt = prompt.followed_by(&phrased.tokens);
        prompt.text += &phrased.text;
        formed.text.clone_from(&phrased.text);
        formed.phrased = Some(phrased);
    }
    if !args.choose.is_empty() {
        let choice = engine.choose(&prompt, &args.choose)?;
        if !formed.text.is_empty() {
            formed.text.push(' ');
        }
        formed.text += &choice.options[choice.best].text;
        formed.choice = Some(choice);
    }
    Ok(Some(formed))
}
