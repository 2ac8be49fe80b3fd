//! What a line says: a command, or a question.

use anyhow::{Result, bail};

/// A command with the text after its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Image,
    System,
    Clear,
    Undo,
    Regenerate,
    Save,
    Load,
    Set,
    Stats,
    Help,
    Exit,
}

/// A command as users know it.
pub(super) struct Description {
    command: Command,
    pub(super) name: &'static str,
    /// What may follow; empty for nothing.
    pub(super) argument: &'static str,
    help: &'static str,
}

pub(super) const COMMANDS: [Description; 12] = [
    describe(Command::Image, "/image", "IMAGE…", "attach images to the next question: files or addresses"),
    describe(Command::System, "/system", "TEXT", "set the system message, from now on; without TEXT show it"),
    describe(Command::Clear, "/clear", "", "begin anew; the system message and the settings stay"),
    describe(Command::Undo, "/undo", "", "take back attached images, or the last question with its answer and images"),
    describe(Command::Regenerate, "/regenerate", "", "answer the last question again, with another seed when sampling"),
    describe(Command::Save, "/save", "FILE", "write the conversation into a file"),
    describe(Command::Load, "/load", "FILE", "go on with a conversation from a file, in place of this one"),
    describe(Command::Set, "/set", "NAME VALUE", "change a setting; without NAME show all"),
    describe(Command::Stats, "/stats", "", "what the last answer and the session took"),
    describe(Command::Help, "/help", "", "this list"),
    describe(Command::Exit, "/exit", "", "leave; so do /quit and Ctrl-D"),
    describe(Command::Exit, "/quit", "", ""),
];

const fn describe(command: Command, name: &'static str, argument: &'static str, help: &'static str) -> Description {
    Description { command, name, argument, help }
}

/// The list of commands, and what else a line can be.
pub(super) fn help() -> String {
    let mut lines: Vec<String> = COMMANDS
        .iter()
        .filter(|command| !command.help.is_empty())
        .map(|Description { name, argument, help, .. }| format!("{:22} {help}", format!("{name} {argument}")))
        .collect();
    lines.extend(
        [
            "A line that ends with \\ goes on in the next one; \"\"\" begins and ends a question of several lines.",
            "A file that is dropped on the terminal is attached. A question that begins with / is written with //.",
            "Ctrl-C stops an answer, Ctrl-D leaves, Tab completes.",
        ]
        .map(str::to_owned),
    );
    lines.join("\n")
}

/// What a line says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    Command(Command, &'a str),
    Question(&'a str),
}

impl<'a> Line<'a> {
    /// Reads a line that is not empty.
    pub(super) fn parse(line: &'a str) -> Result<Self> {
        if let Some(question) = line.strip_prefix("//") {
            return Ok(Line::Question(&line[line.len() - question.len() - 1..]));
        }
        if !line.starts_with('/') {
            return Ok(Line::Question(line));
        }
        let (name, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let argument = argument.trim();
        match COMMANDS.iter().find(|command| command.name == name) {
            None => bail!("{}", unknown(name)),
            Some(Description { argument: "", .. }) if !argument.is_empty() => {
                bail!("{name} takes nothing, and {argument:?} follows it");
            }
            Some(Description { command, .. }) => Ok(Line::Command(*command, argument)),
        }
    }
}

fn unknown(name: &str) -> String {
    let near = nearest(name, COMMANDS.iter().map(|command| command.name));
    let advice = near.map_or_else(|| "/help lists them".to_owned(), |near| format!("did you mean {near}?"));
    format!("{name} is no command; {advice} (a question that begins with / is written with //)")
}

/// The name that was probably meant.
pub(super) fn nearest<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let similarity = |known: &str| match known.starts_with(name) && name.len() > 1 {
        true => 1.0,
        false => strsim::jaro_winkler(name, known),
    };
    let best = names.map(|known| (similarity(known), known)).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > 0.8).then_some(best.1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn refused(line: &str) -> String {
        Line::parse(line).unwrap_err().to_string()
    }

    #[test]
    fn lines_are_commands_or_questions() {
        assert_eq!(Line::parse("/system  Be brief. ").unwrap(), Line::Command(Command::System, "Be brief."));
        assert_eq!(Line::parse("/quit").unwrap(), Line::Command(Command::Exit, ""));
        assert_eq!(Line::parse("//help me").unwrap(), Line::Question("/help me"));
        assert_eq!(Line::parse("what is /help?").unwrap(), Line::Question("what is /help?"));
    }

    #[test]
    fn unknown_commands_name_the_nearest() {
        assert!(refused("/regen").contains("/regen is no command; did you mean /regenerate?"), "{}", refused("/regen"));
        assert!(refused("/imgae a.png").contains("did you mean /image?"));
        assert!(refused("/Undo").contains("did you mean /undo?"));
        assert!(refused("/xyzzy").contains("/help lists them ("));
        assert!(refused("/undo 2").contains("/undo takes nothing, and \"2\" follows it"));
    }
}
