//! Conversations in which answers keep the ids that the model generated. The same text can be tokenized in several ways,
//! and the tokenizer's is often not the model's: with other ids, nothing that was computed after them could be used again.
//! So what is read is what the template writes, tokenized as ever, but for the answers, which are the model's own ids.

use std::ops::Range;

use super::template::{ChatTemplate, Message};

/// A message, with its ids where a model generated it.
#[derive(Debug, Clone)]
pub struct Turn {
    /// The message.
    pub message: Message,
    /// Ids to read in place of its content.
    pub ids: Option<Vec<u32>>,
}

impl Turn {
    /// A message that the tokenizer makes ids of.
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Self { message: Message::new(role, content), ids: None }
    }
}

/// A part of a prompt's text whose ids are known.
pub(super) struct Known<'a> {
    pub(super) range: Range<usize>,
    pub(super) ids: &'a [u32],
}

/// Where messages with known ids stand in `text`, which the template made of `turns`. None of them are found if the
/// template does more with messages than to write them down, whole or trimmed.
pub(super) fn find<'a>(template: &ChatTemplate, turns: &'a [Turn], text: &str) -> Vec<Known<'a>> {
    let known = |turn: &'a Turn| turn.ids.as_deref().filter(|ids| !ids.is_empty());
    if !turns.iter().any(|turn| known(turn).is_some()) {
        return Vec::new();
    }
    let mark = |at: usize| format!("\u{F8FF}message {at}\u{F8FF}");
    let marked = turns.iter().enumerate().map(|(at, turn)| match known(turn) {
        Some(_) => Message::new(&turn.message.role, mark(at)),
        None => turn.message.clone(),
    });
    let Ok(marked) = template.render(&marked.collect::<Vec<_>>(), true) else { return Vec::new() };

    let mut found = Vec::new();
    let mut rest = marked.as_str();
    let mut start = 0;
    for (at, turn) in turns.iter().enumerate() {
        let Some(ids) = known(turn) else { continue };
        let Some((before, after)) = rest.split_once(&mark(at)) else { return Vec::new() };
        let content = turn.message.content.as_str();
        let here = text[start..].strip_prefix(before);
        let written = here.and_then(|here| [content, content.trim()].into_iter().find(|text| here.starts_with(text)));
        let Some(written) = written else { return Vec::new() };
        let from = start + before.len();
        (start, rest) = (from + written.len(), after);
        found.push(Known { range: from..start, ids });
    }
    if &text[start..] == rest { found } else { Vec::new() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::checkpoint::config::TokenizerConfig;

    /// The parts of the rendered text that are found.
    fn found(template: &str, turns: &[Turn]) -> Vec<String> {
        let config: TokenizerConfig = serde_json::from_value(serde_json::json!({ "chat_template": template })).unwrap();
        let template = ChatTemplate::of(&config).unwrap();
        let messages: Vec<Message> = turns.iter().map(|turn| turn.message.clone()).collect();
        let text = template.render(&messages, true).unwrap();
        find(&template, turns, &text)
            .into_iter()
            .map(|known| format!("{}:{}", known.range.start, &text[known.range.clone()]))
            .collect()
    }

    fn conversation(answer: &str) -> [Turn; 3] {
        let answer = Turn { ids: Some(vec![1]), ..Turn::new("assistant", answer) };
        [Turn::new("user", "a"), answer, Turn::new("user", "yes")]
    }

    #[test]
    fn finds_answers_where_the_template_writes_them() {
        let plain = "{% for m in messages %}<{{ m['content'] }}>{% endfor %}";
        assert_eq!(found(plain, &conversation("yes")), ["4:yes"]);
        assert_eq!(found(plain, &conversation("a")), ["4:a"]);
        let trims = "{% for m in messages %}<{{ m['content'] | trim }}>{% endfor %}";
        assert_eq!(found(trims, &conversation(" yes\n")), ["4:yes"]);
        let none: [&str; 0] = [];
        let changes = "{% for m in messages %}<{{ m['content'] | upper }}>{% endfor %}";
        assert_eq!(found(changes, &conversation("yes")), none);
        let drops = "{% for m in messages if m['role'] == 'user' %}<{{ m['content'] }}>{% endfor %}";
        assert_eq!(found(drops, &conversation("yes")), none);
    }
}
