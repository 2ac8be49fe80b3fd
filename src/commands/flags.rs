//! Settings in messages of the library as the flags that they have here.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::LazyLock;

use clap::CommandFactory;
use regex::{Captures, Regex};

use super::Cli;

/// The message with every setting that it names in backticks, such as `max_tokens`, as a flag: `--max-tokens`.
pub(crate) fn named(message: &str) -> Cow<'_, str> {
    static SETTING: LazyLock<Regex> = LazyLock::new(|| Regex::new("`([a-z][a-z0-9_]*)`").expect("a valid expression"));
    static FLAGS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
        let mut flags = BTreeSet::new();
        collect(&Cli::command(), &mut flags);
        flags
    });
    SETTING.replace_all(message, |found: &Captures| {
        let flag = found[1].replace('_', "-");
        if FLAGS.contains(&flag) { format!("--{flag}") } else { found[0].to_owned() }
    })
}

fn collect(command: &clap::Command, flags: &mut BTreeSet<String>) {
    flags.extend(command.get_arguments().filter_map(|argument| argument.get_long()).map(str::to_owned));
    command.get_subcommands().for_each(|command| collect(command, flags));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_become_flags() {
        assert_eq!(named("`max_tokens` is 0; `rank` too"), "--max-tokens is 0; --rank too");
        assert_eq!(named("`no_such_setting` `x y`"), "`no_such_setting` `x y`");
    }
}
