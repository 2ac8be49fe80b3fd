//! `phi3v chat`: what is said through a pipe, and (in `terminal`) what is typed.

use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};

use phi3v::checkpoint::ModelFiles;

use crate::common::{assert_failure, copy_of, fails, golden, json_file, path, phi3v, succeeds, text, told};

#[cfg(unix)]
mod terminal;

fn tiny() -> String {
    golden("phi3v-tiny").display().to_string()
}

fn photo() -> String {
    golden("phi3v-tiny/a_photo/photo.png").display().to_string()
}

/// What came of some input.
struct Said {
    answers: Vec<String>,
    stderr: String,
}

impl Said {
    /// Lines of stderr that are errors.
    fn errors(&self) -> Vec<&str> {
        self.stderr.lines().filter(|line| line.starts_with("error: ")).collect()
    }

    /// Prompt tokens of the last answer, and those of them that were known.
    fn last_prompt(&self) -> (usize, usize) {
        let line = self.stderr.lines().rev().find(|line| line.starts_with("last answer")).unwrap();
        let numbers: Vec<usize> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        (numbers[0], numbers[1])
    }
}

fn run(model: &str, args: &[&str], input: &str) -> Output {
    let short: &[&str] = if args.contains(&"-n") { &[] } else { &["-n", "8"] };
    told(&[&["chat", "-m", model, "--dtype", "float32"], short, args].concat(), input.as_bytes())
}

/// Random weights do not say line ends; each answer is a line.
fn say_to(model: &str, args: &[&str], input: &str) -> Said {
    let output = run(model, args, input);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{stderr}");
    assert!(!stdout.contains('\x1b') && !stderr.contains('\x1b'), "{stdout}{stderr}");
    Said { answers: stdout.split_terminator('\n').map(str::to_owned).collect(), stderr }
}

fn say(input: &str) -> Said {
    say_to(&tiny(), &[], input)
}

#[test]
fn answers_are_those_of_generate_and_nothing_else_is_on_stdout() {
    let said = say("Hello there\n/set\n/help\n/stats\n\nAnd now?\n");
    let args = ["generate", "-m", &tiny(), "-p", "Hello there", "-n", "8", "--dtype", "float32", "-q"];
    assert_eq!(said.answers.len(), 2, "{:?}", said.answers);
    assert_eq!(format!("{}\n", said.answers[0]), succeeds(&args).0);
    assert_ne!(said.answers[0], said.answers[1]);
    assert!(
        said.stderr.contains("/regenerate") && said.stderr.contains("temperature              0"),
        "{}",
        said.stderr
    );
    let quiet = say_to(&tiny(), &["-q"], "Hello there\n/system Be brief.\n/undo\n");
    assert_eq!((quiet.answers.len(), quiet.stderr.as_str()), (1, ""));
    let verbose = say_to(&tiny(), &["--verbose"], "Hello there\n");
    assert!(verbose.stderr.contains("last answer  prompt 11 tokens"), "{}", verbose.stderr);
}

#[test]
fn a_turn_reads_only_what_is_new() {
    let files = ModelFiles::read(&golden("phi3v-tiny")).unwrap();
    let processor = phi3v::models::processor(&files).unwrap();
    // The answer's last token, whose keys were not computed as nothing came after it, and what follows it.
    let new = |question: &str| {
        let text = format!("<|end|>\n<|user|>\n{question}<|end|>\n<|assistant|>\n");
        1 + processor.tokenizer.encode(&text, false).unwrap().len()
    };
    let input = "What is this?\nAnd the cat's ears?\nSure?\n/stats\n";
    let said = say_to(&tiny(), &["--image", &photo()], input);
    let (prompt, cached) = said.last_prompt();
    assert!(prompt > 775 + 8, "{}", said.stderr);
    assert_eq!(prompt - cached, new("Sure?"), "{}", said.stderr);
    assert!(said.stderr.contains("3 answers"), "{}", said.stderr);

    // And says the same as if all was read anew.
    let anew = say_to(&tiny(), &["--image", &photo(), "--prefix-cache-bytes", "0"], input);
    assert_eq!(anew.last_prompt(), (prompt, 0));
    assert_eq!(anew.answers, said.answers);
}

/// Without special tokens around answers, too.
#[test]
fn a_turn_reads_only_what_is_new_to_a_text_model() {
    for model in ["text/llama", "text/qwen2"] {
        let said = say_to(path(&golden(model)), &[], "def wrap(self):\nreturn\n/stats\n");
        let (prompt, cached) = said.last_prompt();
        assert!(cached + 40 > prompt && cached > 20, "{model}: {}", said.stderr);
    }
}

#[test]
fn images_are_attached_to_the_next_question() {
    let folder = tempfile::tempdir().unwrap();
    let spaced = folder.path().join("my photo.png");
    std::fs::copy(photo(), &spaced).unwrap();
    let spaced = path(&spaced);
    let right = golden("phi3v-tiny/c_two_images/right.png").display().to_string();

    let by_argument = say_to(&tiny(), &["-i", &photo(), "-n", "6"], "What is this?\n");
    for input in [
        format!("/image {}\nWhat is this?\n", photo()),
        format!("/image {spaced}\nWhat is this?\n"),
        format!("{spaced}\nWhat is this?\n"),
        format!("'{spaced}' What is this?\n"),
        format!("{}\nWhat is this?\n", spaced.replace(' ', "\\ ")),
        format!("file://{} What is this?\n", spaced.replace(' ', "%20")),
        format!("{}\n<|image_1|>\\\nWhat is this?\n", photo()),
    ] {
        let said = say_to(&tiny(), &["-n", "6"], &input);
        assert_eq!(said.answers, by_argument.answers, "{input}");
        assert!(said.stderr.contains("photo.png, 2 × 2 tiles, 757 tokens"), "{}", said.stderr);
    }
    // One now and one later; then as if both had been there from the start.
    let said = say(&format!("/image {}\nOne?\n/image {right}\n/image\nTwo?\n/stats\n", photo()));
    assert!(said.stderr.matches("image 2: right.png").count() == 2, "{}", said.stderr);
    let (prompt, cached) = said.last_prompt();
    assert!(cached > 757 && prompt > cached + 200, "{}", said.stderr);

    let auto = say_to(&tiny(), &["--num-crops", "auto"], &format!("/image {}\n/image {right}\n/image\n", photo()));
    let tokens: Vec<&str> = auto.stderr.lines().map(|line| line.rsplit(", ").next().unwrap()).collect();
    assert_eq!(tokens[2], "757 tokens", "{}", auto.stderr);
    assert_ne!(tokens[0], tokens[2], "alone it had more");
}

#[test]
fn undo_clear_and_regenerate() {
    let said = say("One?\nTwo?\n/undo\nTwo?\n/regenerate\n/undo\n/undo\n/undo\nOne?\n/clear\nOne?\n");
    let [one, two, again, regenerated, first, cleared] = &said.answers[..] else { panic!("{:?}", said.answers) };
    assert_eq!((two, two, one, one), (again, regenerated, first, cleared));
    assert!(
        said.stderr.contains("taken back: Two?") && said.stderr.contains("nothing to take back"),
        "{}",
        said.stderr
    );
    assert!(said.stderr.contains("the temperature is 0"), "{}", said.stderr);

    // An undone question leaves no image behind.
    let image = format!("/image {}\nOne?\n/undo\nTwo?\n/image {}\n/undo\nThree?\n", photo(), photo());
    assert_eq!(say(&image).answers[1..], say("Two?\nThree?\n").answers);

    let sampled = |input: &str| say_to(&tiny(), &["--temperature", "1"], input).answers;
    let answers = sampled("One?\n/regenerate\n/regenerate\nTwo?\n");
    assert!(answers[0] != answers[1] && answers[1] != answers[2] && answers[0] != answers[2], "{answers:?}");
    assert_eq!(sampled("One?\n/set seed 1\n/clear\nOne?\n")[1], answers[1], "another seed each time");
}

#[test]
fn a_saved_conversation_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (file, image) = (folder.path().join("talk.json"), folder.path().join("a photo.png"));
    std::fs::copy(photo(), &image).unwrap();
    let (file, image) = (path(&file), path(&image));
    let args = ["--system", "Be brief.", "--num-crops", "2"];
    let before = say_to(&tiny(), &args, &format!("'{image}' One?\nTwo?\n/save {file}\nThree?\n"));
    assert_eq!(before.errors(), [""; 0]);
    let saved = json_file(Path::new(file));
    assert_eq!((&saved["version"], &saved["system"]), (&1.into(), &"Be brief.".into()));
    assert_eq!(
        (&saved["model"], &saved["messages"][1]["content"]),
        (&tiny().into(), &before.answers[0].clone().into())
    );
    assert_eq!(saved["messages"][0]["images"][0]["source"], image);

    let after = say(&format!("/load {file}\nThree?\n/save {file}\n"));
    assert_eq!(after.answers, before.answers[2..]);
    assert!(after.stderr.contains("2 questions with answers, 1 image"), "{}", after.stderr);
    assert_eq!(json_file(Path::new(file))["messages"].as_array().unwrap().len(), 6);

    std::fs::remove_file(image).unwrap();
    let gone = say(&format!("One?\n/load {file}\nTwo?\n"));
    assert_eq!(gone.answers, say("One?\nTwo?\n").answers, "the conversation is as it was");
    assert!(gone.errors()[0].contains("a photo.png") && gone.errors()[0].contains("talk.json"), "{}", gone.stderr);

    std::fs::write(file, "my notes").unwrap();
    let refused = say(&format!("One?\n/save {file}\n/load {file}\n/load nowhere.json\n/save\n"));
    let expected = ["name another file", "is no conversation", "cannot read nowhere.json", "name a file"];
    assert_eq!(refused.errors().len(), expected.len(), "{}", refused.stderr);
    assert!(
        refused.errors().iter().zip(expected).all(|(error, expected)| error.contains(expected)),
        "{}",
        refused.stderr
    );
    assert_eq!(std::fs::read_to_string(file).unwrap(), "my notes");
}

#[test]
fn what_is_wrong_is_said_and_the_session_goes_on() {
    let folder = tiny();
    let said = say(&format!(
        "/imgae x\n/undo 2\n/image no-such.png\n/image {folder}\n/image -\n/set temperature -1\n/set colour red\n\
         /regenerate\nIs <|image_3|> nice?\n\"\"\"\n\"\"\"\n/image 'open\nHello there\n\"\"\"never closed\n"
    ));
    let expected = [
        "did you mean /image?",
        "/undo takes nothing",
        "no-such.png",
        "is a folder",
        "stdin is the conversation",
        "a number from 0 is expected",
        "colour is no setting",
        "no question to answer again",
        "names <|image_3|>",
        "the question is empty",
        "is not closed",
        "has no \"\"\" at its end",
    ];
    assert_eq!(said.errors().len(), expected.len(), "{}", said.stderr);
    for (error, expected) in said.errors().iter().zip(expected) {
        assert!(error.contains(expected), "{error} instead of {expected}");
    }
    assert_eq!(said.answers, say("Hello there\n").answers);
}

#[test]
fn questions_can_have_several_lines_and_begin_with_a_slash() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("talk.json");
    say(&format!("one\\\ntwo\n\"\"\"\n/three\n\nfour\\\n\"\"\"\n//five\r\n/save {}\n", path(&file)));
    let saved = json_file(&file);
    let questions: Vec<&str> = (0..3).map(|at| saved["messages"][2 * at]["content"].as_str().unwrap()).collect();
    assert_eq!(questions, ["one\ntwo", "/three\n\nfour\\", "/five"]);
}

#[test]
fn the_system_message_and_settings_hold_from_then_on() {
    let given = say_to(&tiny(), &["-s", "Be brief."], "Hello there\n");
    let said = say(
        "Hello there\n/system\n/system Be brief.\n/system\n/clear\nHello there\n/system \"\"\n/clear\nHello there\n",
    );
    assert_eq!(said.answers[1], given.answers[0]);
    assert!(said.answers[0] != said.answers[1] && said.answers[0] == said.answers[2], "{:?}", said.answers);
    assert!(
        said.stderr.contains("there is no system message") && said.stderr.contains("\nBe brief.\n"),
        "{}",
        said.stderr
    );

    let said = say("Hello there\n/set max-tokens 2\n/clear\nHello there\n");
    assert!(said.answers[0].starts_with(&said.answers[1]) && said.answers[0] != said.answers[1], "{:?}", said.answers);
    let stopped = say_to(&tiny(), &["--stop", &said.answers[0][said.answers[1].len()..]], "Hello there\n");
    assert_eq!(stopped.answers, [said.answers[1].clone()]);
    let penalty = say_to(&tiny(), &["--repetition-penalty", "1.5"], "Hello there\n");
    assert_eq!(say("/set repetition-penalty 1.5\nHello there\n").answers, penalty.answers);
}

#[test]
fn a_full_context_and_too_little_memory_end_no_session() {
    let phi3 = golden("text/phi3").display().to_string();
    let long = "word ".repeat(600);
    let said = say_to(&phi3, &["-n", "600"], &format!("{long}\nHello\nHello\n/clear\nHello\n"));
    let [full, again] = &said.errors()[..] else { panic!("{}", said.stderr) };
    for error in [full, again] {
        assert!(error.contains("more than the model's context of 512") && error.contains("/undo or /clear"), "{error}");
    }
    assert!(said.stderr.contains("the model's context is full; /undo"), "{}", said.stderr);
    // These weights say line ends.
    let both = said.answers.concat();
    assert_eq!(both[..both.len() / 2], both[both.len() / 2..]);

    let said = say_to(&tiny(), &["--memory-limit", "100M"], "Hello there\n/set max-tokens 100000\nHello there\n");
    assert!(said.errors().len() == 1 && said.errors()[0].contains("of memory, of which"), "{}", said.stderr);
    assert_eq!(said.answers.len(), 1);
}

#[test]
fn wrong_arguments_are_refused() {
    let tiny = tiny();
    let chat = |args: &[&str], expected: &str| fails(1, &[&["chat", "-m", &tiny], args].concat(), expected);
    chat(&["-i", "no-such.png"], "no-such.png");
    chat(&["-i", "-"], "stdin is the conversation");
    chat(&["-i", &photo(), "--max-image-pixels", "100"], "--max-image-pixels");
    fails(1, &["chat", "-m", path(&golden("text/phi3")), "-i", &photo()], "no vision");
    fails(2, &["chat", "-m", &tiny, "--history", "x", "--no-history"], "cannot be used with");
    fails(2, &["chat", "-m", &tiny, "-n", "0"], "--max-tokens");
    let silent = copy_of("phi3v-tiny");
    std::fs::remove_file(silent.path().join("tokenizer_config.json")).unwrap();
    fails(1, &["chat", "-m", path(silent.path())], "no chat template, so it cannot chat");
    let strict = copy_of("text/phi3");
    crate::common::edit_json(&strict.path().join("tokenizer_config.json"), |json| {
        json["chat_template"] = "{{ raise_exception('no ' + messages[0]['role']) }}".into();
    });
    fails(1, &["chat", "-m", path(strict.path()), "-s", "Hi"], "this model takes no such system message");
}

#[test]
fn a_closed_pipe_ends_a_chat_quietly() {
    let mut child = phi3v(&["chat", "-m", &tiny(), "-q", "-n", "2000"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    child.stdin.take().unwrap().write_all(b"Hello\nHello\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
}

/// Nobody could go on: the rest of the input was written for an answer that did not come.
#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_piped_chat_with_what_was_said() {
    use std::io::Read;
    use std::process::Command;

    let mut child = phi3v(&["chat", "-m", &tiny(), "-n", "100000"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.as_mut().unwrap().write_all(b"Hello\nHello\n").unwrap();
    let mut first = [0; 1];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert!(Command::new("sh").arg("-c").arg(format!("kill -INT {}", child.id())).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(output.stdout.ends_with(b"\n") && text(&output.stderr).contains("interrupted"), "{}", text(&output.stderr));
}

#[test]
fn a_prompt_cache_is_written_in_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let ask = || say_to(&tiny(), &["--prompt-cache", path(&cache)], "Hello there\n/stats\n");
    assert_eq!(ask().last_prompt().1, 0);
    assert!(ask().last_prompt().1 > 0);
    let nothing = folder.path().join("nothing");
    assert_eq!(run(&tiny(), &["--prompt-cache", path(&nothing)], "").status.code(), Some(0));
    let output = phi3v(&["chat", "-m", "./no-such-folder"]).stdin(Stdio::null()).output().unwrap();
    assert_failure(&output, 1, &[], "./no-such-folder");
}
