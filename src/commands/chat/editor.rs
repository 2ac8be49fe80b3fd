//! What the user enters: lines typed in a terminal, with history and completion, or lines of a pipe.

use std::borrow::Cow;
use std::io::{BufRead, IsTerminal};

use anyhow::Result;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::config::Behavior;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::Validator;
use rustyline::{Config, Context, Editor, Helper};

use super::command::COMMANDS;
use super::history::History;
use super::settings;

/// Begins and ends a question of several lines.
const FENCE: &str = "\"\"\"";

/// What was entered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// A command or a question.
    Line(String),
    /// A question between fences.
    Block(String),
    /// Nothing: Ctrl-C was pressed.
    Interrupted,
    /// Nothing that could be understood, and why.
    Unusable(&'static str),
    /// There is no more.
    End,
}

/// Where entries come from.
pub(super) enum Input {
    Terminal(Box<Terminal>),
    Pipe,
}

/// A terminal that lines are edited in.
pub(super) struct Terminal {
    editor: Editor<Completion, MemHistory>,
    history: Option<History>,
}

impl Input {
    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// Begins to edit lines, with what is known from earlier.
    pub(super) fn terminal(color: bool, history: Option<(History, Vec<String>)>) -> Result<Self> {
        // Answers that go elsewhere do not take the prompt with them.
        let behavior = if std::io::stdout().is_terminal() { Behavior::Stdio } else { Behavior::PreferTerm };
        let config = Config::builder()
            .behavior(behavior)
            .completion_type(rustyline::CompletionType::List)
            .color_mode(if color { rustyline::ColorMode::Enabled } else { rustyline::ColorMode::Disabled })
            .build();
        let memory = MemHistory::with_config(&config);
        let mut editor = Editor::with_history(config, memory)?;
        editor.set_helper(Some(Completion { files: FilenameCompleter::new() }));
        let (history, lines) = history.unzip();
        for line in lines.into_iter().flatten() {
            editor.add_history_entry(line)?;
        }
        Ok(Self::Terminal(Box::new(Terminal { editor, history })))
    }

    /// Waits for the next entry.
    pub(super) fn next(&mut self) -> Result<Entry> {
        let entry = match self.line("> ")? {
            Raw::Text(first) => join(first, || self.line(". "))?,
            Raw::Interrupted => Entry::Interrupted,
            Raw::Unusable(why) => Entry::Unusable(why),
            Raw::End => Entry::End,
        };
        Ok(entry)
    }

    /// Keeps an entry for this session and later ones.
    pub(super) fn remember(&mut self, entry: &Entry) -> Result<()> {
        let Self::Terminal(terminal) = self else { return Ok(()) };
        let text = match entry {
            Entry::Line(text) if text.trim().is_empty() => return Ok(()),
            Entry::Line(text) => text.clone(),
            Entry::Block(text) => format!("{FENCE}\n{text}\n{FENCE}"),
            _ => return Ok(()),
        };
        let new = terminal.editor.add_history_entry(text.as_str())?;
        match &terminal.history {
            Some(history) if new => history.add(&text).inspect_err(|_| terminal.history = None),
            _ => Ok(()),
        }
    }

    fn line(&mut self, prompt: &str) -> Result<Raw> {
        match self {
            Self::Terminal(terminal) => match terminal.editor.readline(prompt) {
                Ok(text) => Ok(Raw::Text(text)),
                Err(ReadlineError::Interrupted) => Ok(Raw::Interrupted),
                Err(ReadlineError::Eof) => Ok(Raw::End),
                Err(error) => Err(error.into()),
            },
            Self::Pipe => {
                let mut bytes = Vec::new();
                if std::io::stdin().lock().read_until(b'\n', &mut bytes)? == 0 {
                    return Ok(Raw::End);
                }
                let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                let text = String::from_utf8(line.to_vec());
                Ok(text.map_or(Raw::Unusable("a line on stdin is not UTF-8; it is left out"), Raw::Text))
            }
        }
    }
}

/// A line as it comes; of a terminal also a paste of several lines.
enum Raw {
    Text(String),
    Interrupted,
    Unusable(&'static str),
    End,
}

/// Puts lines together that belong together.
fn join(first: String, mut more: impl FnMut() -> Result<Raw>) -> Result<Entry> {
    if let Some(begun) = first.trim_start().strip_prefix(FENCE) {
        let mut text = begun.to_owned();
        loop {
            if let Some(text) = text.trim_end().strip_suffix(FENCE) {
                let text = text.strip_prefix('\n').unwrap_or(text);
                return Ok(Entry::Block(text.strip_suffix('\n').unwrap_or(text).to_owned()));
            }
            match more()? {
                Raw::Text(line) => text = text + "\n" + &line,
                Raw::Interrupted => return Ok(Entry::Interrupted),
                Raw::Unusable(why) => return Ok(Entry::Unusable(why)),
                Raw::End => return Ok(Entry::Unusable("a question that began with \"\"\" has no \"\"\" at its end")),
            }
        }
    }
    let mut text = first;
    while let Some(line) = text.strip_suffix('\\') {
        match more()? {
            Raw::Text(next) => text = format!("{line}\n{next}"),
            Raw::Interrupted => return Ok(Entry::Interrupted),
            Raw::Unusable(why) => return Ok(Entry::Unusable(why)),
            Raw::End => text = line.to_owned(),
        }
    }
    Ok(Entry::Line(text))
}

/// What Tab writes.
struct Completion {
    files: FilenameCompleter,
}

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..at];
        let pair = |name: &str, after: &str| Pair { display: name.to_owned(), replacement: format!("{name}{after}") };
        let Some((command, argument)) = typed.split_once(' ') else {
            let commands = COMMANDS.iter().filter(|command| command.name.starts_with(typed) && typed.starts_with('/'));
            let commands =
                commands.map(|command| pair(command.name, if command.argument.is_empty() { "" } else { " " }));
            let commands: Vec<Pair> = commands.collect();
            return if commands.is_empty() { self.files.complete_path(line, at) } else { Ok((0, commands)) };
        };
        match command {
            "/set" if !argument.contains(' ') => {
                let names = settings::NAMES.iter().filter(|name| name.starts_with(argument));
                Ok((at - argument.len(), names.map(|name| pair(name, " ")).collect()))
            }
            "/image" | "/save" | "/load" => self.files.complete_path(line, at),
            _ => Ok((at, Vec::new())),
        }
    }
}

impl Highlighter for Completion {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        // Bold and blue; not asked for where there are no colours.
        Cow::Owned(format!("\x1b[1;34m{prompt}\x1b[0m"))
    }
}

impl Hinter for Completion {
    type Hint = String;
}

impl Validator for Completion {}

impl Helper for Completion {}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn joined(lines: &[&str]) -> Entry {
        let mut lines = lines.iter().map(|line| (*line).to_owned());
        let first = lines.next().unwrap();
        join(first, || Ok(lines.next().map_or(Raw::End, Raw::Text))).unwrap()
    }

    #[test]
    fn lines_that_belong_together_are_joined() {
        let line = |text: &str| Entry::Line(text.into());
        let block = |text: &str| Entry::Block(text.into());
        assert_eq!(joined(&["one", "two"]), line("one"));
        assert_eq!(joined(&["one\\", "two\\", "three", "four"]), line("one\ntwo\nthree"));
        assert_eq!(joined(&["one\\"]), line("one"));
        assert_eq!(joined(&["pasted\\\nlines"]), line("pasted\\\nlines"));
        assert_eq!(joined(&["\"\"\"", "one\\", "", "/two", "\"\"\"", "three"]), block("one\\\n\n/two"));
        assert_eq!(joined(&["\"\"\"one", "two\"\"\""]), block("one\ntwo"));
        assert_eq!(joined(&["\"\"\"one\"\"\""]), block("one"));
        assert!(matches!(joined(&["\"\"\"one", "two"]), Entry::Unusable(_)));
    }

    #[test]
    fn tab_completes_commands_settings_and_files() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a cat.png"), "").unwrap();
        let completion = Completion { files: FilenameCompleter::new() };
        let history = MemHistory::new();
        let complete = |line: &str| -> Vec<String> {
            let (start, pairs) = completion.complete(line, line.len(), &Context::new(&history)).unwrap();
            pairs.into_iter().map(|pair| format!("{}{}", &line[..start], pair.replacement)).collect()
        };
        assert_eq!(complete("/im"), ["/image "]);
        assert_eq!(complete("/s"), ["/system ", "/save ", "/set ", "/stats"]);
        assert_eq!(complete("/set top"), ["/set top-k ", "/set top-p "]);
        let path = folder.path().display().to_string();
        assert_eq!(complete(&format!("/image {path}/a")), [format!("/image {path}/a\\ cat.png")]);
        assert_eq!(complete(&format!("{path}/a")), [format!("{path}/a\\ cat.png")]);
        assert!(complete("What is /im").is_empty());
    }
}
