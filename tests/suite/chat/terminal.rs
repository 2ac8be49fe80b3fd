//! A session in a terminal of its own.

use std::path::Path;

use rexpect::process::WaitStatus;
use rexpect::session::{PtySession, spawn_command};
use tempfile::TempDir;

use super::{photo, say_to, tiny};
use crate::common::{json_file, path, phi3v};

/// Patience for machines with much else to do.
const MILLISECONDS: u64 = 120_000;
/// What the editor writes when it begins to read a line, and when it ends.
const READS: &str = "\x1b[?2004h";
const READ: &str = "\x1b[?2004l";

const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const UP: &str = "\x1b[A";

struct Terminal {
    session: PtySession,
}

impl Terminal {
    /// A chat in this folder, ready for the first line.
    fn start(folder: &TempDir, args: &[&str]) -> Self {
        Self::start_with(folder, args, &[])
    }

    fn start_with(folder: &TempDir, args: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = phi3v(&["chat", "-m", &tiny(), "--dtype", "float32"]);
        command.args(args).current_dir(folder.path());
        command.env("TERM", "xterm").env_remove("NO_COLOR").env_remove("COLORTERM").env_remove("TERM_PROGRAM");
        command.env("XDG_STATE_HOME", folder.path().join("state")).env("HOME", folder.path());
        command.envs(variables.iter().copied());
        let mut terminal = Self { session: spawn_command(command, Some(MILLISECONDS)).unwrap() };
        terminal.sees(READS);
        terminal
    }

    fn types(&mut self, keys: &str) {
        self.session.send(keys).unwrap();
        self.session.flush().unwrap();
    }

    /// What came before `expected`.
    fn sees(&mut self, expected: &str) -> String {
        let before = self.session.exp_string(expected).unwrap();
        // Every byte comes as a character.
        String::from_utf8(before.chars().map(|c| c as u8).collect()).unwrap()
    }

    /// Enters a line and waits for the next; what was written meanwhile.
    fn enters(&mut self, line: &str) -> String {
        self.types(&format!("{line}\r"));
        self.sees(READ);
        self.sees(READS)
    }

    fn leaves(mut self, keys: &str) {
        self.types(keys);
        self.session.exp_eof().unwrap();
        let status = self.session.process().wait().unwrap();
        assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
    }
}

fn folder_with_a_image() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(photo(), folder.path().join("cat.png")).unwrap();
    folder
}

#[test]
fn a_question_is_answered_in_a_terminal() {
    let folder = folder_with_a_image();
    let expected = say_to(&tiny(), &[], "Hello there\n").answers;
    let mut terminal = Terminal::start(&folder, &["-n", "8"]);
    let answer = terminal.enters("Hello there");
    assert!(answer.contains(&expected[0]), "{answer:?}");
    // Grey notes, and an image of half blocks.
    let attached = terminal.enters("/image cat.png");
    assert!(attached.contains("\x1b[2mimage 1: cat.png") && attached.contains('▄'), "{attached:?}");
    let hint = {
        terminal.types(CTRL_C);
        terminal.sees(READ);
        terminal.sees(READS)
    };
    assert!(hint.contains("Ctrl-D or /exit leaves"), "{hint:?}");
    terminal.leaves(CTRL_D);

    let by_flag = Terminal::start(&folder, &["-n", "8", "--no-color"]);
    let by_variable = Terminal::start_with(&folder, &["-n", "8"], &[("NO_COLOR", "1")]);
    for mut plain in [by_flag, by_variable] {
        let attached = plain.enters("/image cat.png");
        assert!(
            !attached.contains("\x1b[2m") && !attached.contains("\x1b[38") && !attached.contains('▄'),
            "{attached:?}"
        );
        plain.leaves("/quit\r");
    }
}

#[test]
fn ctrl_c_stops_an_answer_and_keeps_the_session() {
    let folder = folder_with_a_image();
    let mut terminal = Terminal::start(&folder, &["-n", "100000"]);
    for attempt in 0..2 {
        terminal.types("Hello there\r");
        terminal.sees(READ);
        terminal.session.exp_regex("[a-z]{3}").unwrap();
        terminal.types(CTRL_C);
        let rest = terminal.sees(READS);
        assert!(rest.contains("interrupted; the conversation goes on"), "{attempt}: {rest:?}");
    }
    terminal.enters("/save talk.json");
    let saved = json_file(&folder.path().join("talk.json"));
    assert_eq!(saved["messages"].as_array().unwrap().len(), 4);
    assert_eq!(saved["messages"][1]["interrupted"], true);
    assert!(!saved["messages"][1]["content"].as_str().unwrap().is_empty());

    assert!(terminal.enters("/undo").contains("taken back: Hello there"));
    terminal.enters("/set max-tokens 8");
    let next = terminal.enters("And now?");
    assert!(next.contains("ended after max-tokens"), "{next:?}");
    terminal.leaves(CTRL_D);

    let mut resumed = Terminal::start(&folder, &["-n", "8"]);
    let loaded = resumed.enters("/load talk.json");
    assert!(loaded.contains("talk.json: 2 questions with answers"), "{loaded:?}");
    assert!(resumed.enters("/undo").contains("taken back: Hello there"));
    let answer = next.lines().map(|line| line.trim_end_matches(['\r', '\x1b'])).find(|line| line.len() > 8);
    let again = resumed.enters("And now?");
    assert!(again.contains(answer.unwrap()), "{again:?} {next:?}");
    resumed.leaves(CTRL_D);
}

#[test]
fn tab_completes_commands_and_files() {
    let folder = folder_with_a_image();
    let mut terminal = Terminal::start(&folder, &["-n", "8", "--no-color"]);
    terminal.types("/im\t");
    terminal.sees("/image ");
    terminal.types("ca\t");
    terminal.sees("cat.png");
    let attached = terminal.enters("");
    assert!(attached.contains("image 1: cat.png, 2 × 2 tiles, 757 tokens"), "{attached:?}");
    terminal.leaves(CTRL_D);
}

#[test]
fn what_was_typed_is_known_in_the_next_session() {
    let folder = folder_with_a_image();
    let mut terminal = Terminal::start(&folder, &["-n", "8"]);
    let first = terminal.enters("Hello there");
    let mut other = Terminal::start(&folder, &["-n", "8"]);
    other.enters("/system Be brief.");
    terminal.enters("/stats");
    other.leaves(CTRL_D);
    terminal.leaves(CTRL_D);
    let history = std::fs::read_to_string(folder.path().join("state/phi3v/history"));
    if cfg!(not(target_os = "macos")) {
        assert_eq!(history.unwrap(), "Hello there\n/system Be brief.\n/stats\n");
    }

    let mut later = Terminal::start(&folder, &["-n", "8"]);
    later.types(&format!("{UP}{UP}"));
    later.sees("Be brief.");
    later.types(UP);
    later.sees("Hello there");
    let again = later.enters("");
    let answer = first.lines().find(|line| line.len() > 8).unwrap();
    assert!(again.contains(answer.trim_end()), "{again:?} {first:?}");
    later.leaves(CTRL_D);

    let file = folder.path().join("mine");
    let mut named = Terminal::start(&folder, &["-n", "8", "--history", path(&file)]);
    named.enters("One?");
    named.leaves(CTRL_D);
    let mut none = Terminal::start(&folder, &["-n", "8", "--no-history"]);
    none.enters("Two?");
    none.leaves(CTRL_D);
    assert_eq!(std::fs::read_to_string(file).unwrap(), "One?\n");
}

#[test]
fn pasted_and_continued_lines_are_one_question() {
    let folder = folder_with_a_image();
    let mut terminal = Terminal::start(&folder, &["-n", "2"]);
    terminal.enters("\x1b[200~one\ntwo\\\nthree\x1b[201~");
    terminal.types("four\\\r");
    terminal.sees(READS);
    terminal.enters("five");
    terminal.types("\"\"\"\r");
    terminal.sees(READS);
    terminal.types("/six\r");
    terminal.sees(READS);
    terminal.enters("\"\"\"");
    terminal.enters("/save talk.json");
    let saved = json_file(Path::new(&folder.path().join("talk.json")));
    let questions: Vec<&str> = (0..3).map(|at| saved["messages"][2 * at]["content"].as_str().unwrap()).collect();
    assert_eq!(questions, ["one\ntwo\\\nthree", "four\nfive", "/six"]);
    terminal.leaves(CTRL_D);
}
