//! Conversations to text, by the Jinja template that comes with the checkpoint.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value};
use serde::{Deserialize, Serialize};

use crate::checkpoint::config::TokenizerConfig;

/// Steps a template may take; real ones take a few hundred per message.
const FUEL: u64 = 50_000_000;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Its text; images appear as `<|image_N|>`.
    pub content: String,
}

impl Message {
    /// A message of the given role.
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Self { role: role.to_owned(), content: content.into() }
    }
}

/// A checkpoint's chat template.
pub struct ChatTemplate {
    source: String,
    special_tokens: BTreeMap<&'static str, String>,
}

impl ChatTemplate {
    /// The template for chatting, if the checkpoint has one.
    pub fn of(config: &TokenizerConfig) -> Option<Self> {
        let special_tokens =
            config.special_tokens().into_iter().map(|(name, token)| (name, token.to_owned())).collect();
        Some(Self { source: config.chat_template()?.to_owned(), special_tokens })
    }

    /// The text of a conversation; with `add_generation_prompt`, ready for the assistant's next turn.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let mut variables: BTreeMap<&str, Value> = BTreeMap::from([
            ("messages", minijinja::value::Serde(messages).into()),
            ("add_generation_prompt", add_generation_prompt.into()),
        ]);
        variables.extend(self.special_tokens.iter().map(|(&name, token)| (name, token.as_str().into())));
        // As transformers sets Jinja up, apply_chat_template in utils/chat_template_utils.py.
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.set_fuel(Some(FUEL));
        environment
            .render_str(&self.source, variables)
            .map_err(|e| anyhow!("{e}"))
            .context("the checkpoint's chat template refuses the conversation")
    }

    /// The token that the template names `bos_token`.
    pub fn bos_token(&self) -> Option<&str> {
        self.special_tokens.get("bos_token").map(String::as_str)
    }
}
