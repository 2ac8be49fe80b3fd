//! Rows of the usual benchmarks as questions, and the letters of answers.

use std::path::Path;

use phi3v::eval::question::{Form, Question, find_letter, letter, lettered};
use phi3v::processor::images::ImageSource;
use phi3v::rows::Fields;
use serde_json::{Value, json};

fn read(row: &Value) -> Result<(Question, Vec<String>), String> {
    let fields = Fields::parse(row.to_string().as_bytes()).unwrap();
    let placeholder = |index| Ok(format!("<|image_{}|>", index + 1));
    Question::read(fields, Path::new("data"), &placeholder).map_err(|error| phi3v::one_line(&error))
}

fn question(row: Value) -> Question {
    read(&row).unwrap().0
}

fn error(row: Value) -> String {
    read(&row).unwrap_err()
}

fn file(name: &str) -> ImageSource {
    ImageSource::Path(Path::new("data").join(name))
}

#[test]
fn mmlu() {
    let row = json!({"question": "2 + 2?", "subject": "elementary_mathematics", "choices": ["3", "4", "5", "6"],
                     "answer": 1});
    let (question, unused) = read(&row).unwrap();
    let options = ["3", "4", "5", "6"].map(str::to_owned).to_vec();
    let expected = Question {
        id: None,
        group: Some("elementary_mathematics".into()),
        text: "2 + 2?".into(),
        images: Vec::new(),
        options,
        correct: 1,
        form: Form::Question,
    };
    assert_eq!(question, expected);
    assert_eq!(unused, [] as [&str; 0]);
    assert_eq!(lettered(&question), "2 + 2?\nA. 3\nB. 4\nC. 5\nD. 6");
}

#[test]
fn arc() {
    let row = |key: &str, labels: [&str; 3]| {
        json!({"id": "Mercury_7", "question": "Which?", "choices": {"text": ["x", "y", "z"], "label": labels},
               "answerKey": key})
    };
    assert_eq!(question(row("C", ["A", "B", "C"])).correct, 2);
    // A label, not an index.
    let numbered = question(row("1", ["1", "2", "3"]));
    assert_eq!((numbered.correct, numbered.id), (0, Some(json!("Mercury_7"))));
    assert_eq!(error(row("D", ["A", "B", "C"])), "answerKey: \"D\" is none of the labels: A, B, C");
    let uneven = json!({"question": "Which?", "choices": {"text": ["x", "y"], "label": ["A"]}, "answerKey": "A"});
    assert_eq!(error(uneven), "choices: it has 2 texts and 1 labels");
}

/// As lm-eval 0.4.13 prepares the row.
#[test]
fn hellaswag() {
    let row = |label: Value| {
        json!({
            "ind": 24, "activity_label": "Roof shingle removal", "ctx_a": "[header] How to  work [title] Begin.",
            "ctx_b": "he Is", "ctx": "A man. he", "split": "val", "split_type": "indomain", "source_id": "a~b",
            "endings": ["is using  wrap.", " is [substeps] ripping.", "sits [title] Here [step] now.", "pulls up."],
            "label": label
        })
    };
    let (question, unused) = read(&row(json!("3"))).unwrap();
    assert_eq!(question.text, "Roof shingle removal: How to work. Begin. He is");
    assert_eq!(question.options, ["is using wrap.", "is ripping.", "sits. Here now.", "pulls up."]);
    assert_eq!((question.correct, question.form), (3, Form::Continuation));
    assert_eq!((question.id, question.group.as_deref()), (Some(json!(24)), Some("Roof shingle removal")));
    assert_eq!(unused, ["ctx", "split", "split_type", "source_id"]);
    assert_eq!(read(&row(json!(2))).unwrap().0.correct, 2);
    assert!(error(row(json!(""))).starts_with("label: \"\" is none of the options"));
}

fn mmmu(question: &str, options: &str) -> Value {
    json!({
        "id": "validation_Math_19", "question": question, "options": options, "answer": "B",
        "question_type": "multiple-choice", "subfield": "Calculus", "topic_difficulty": "Hard",
        "image_1": "one.png", "image_2": "data:image/png;base64,AA==", "image_3": "three.png", "image_4": null,
        "image_5": null, "image_6": null, "image_7": null
    })
}

#[test]
fn mmmu_images_are_numbered_in_their_order() {
    let row = mmmu("See <image 3>: <image 1>?", r#"['<image 1>', "it's <image 2>", 'none']"#);
    let (question, unused) = read(&row).unwrap();
    assert_eq!(question.text, "See <|image_1|>: <|image_2|>?");
    assert_eq!(question.options, ["<|image_3|>", "it's <|image_4|>", "none"]);
    let data = ImageSource::Data("data:image/png;base64,AA==".into());
    // An image that is shown twice has two numbers: a tag stands for an image once.
    assert_eq!(question.images, [file("three.png"), file("one.png"), file("one.png"), data]);
    assert_eq!((question.correct, question.group.as_deref()), (1, Some("Calculus")));
    assert_eq!(unused, ["topic_difficulty"]);
}

#[test]
fn mmmu_leaves_out_images_that_are_not_named() {
    let named = question(mmmu("See <image 3>.", "['a', 'b']"));
    assert_eq!(named.images, [file("three.png")]);
    let none = question(mmmu("See.", "['a', 'b']"));
    assert_eq!((none.text.as_str(), none.images.len()), ("See.", 3));
    assert_eq!(error(mmmu("See <image 4>.", "['a', 'b']")), "<image 4> is named, but the row has no image_4");
    assert_eq!(error(mmmu("See <image 0>.", "['a', 'b']")), "<image 0> is named, but the row has no image_0");
}

#[test]
fn lists_are_read_as_python_and_json_write_them() {
    let options = |list: &str| question(mmmu("Which?", list)).options;
    assert_eq!(options(r#"['it\'s', "b's", 'c "d"']"#), ["it's", "b's", "c \"d\""]);
    assert_eq!(
        options(r"['\\frac{1}{2}', 'a\nb', '\xb0C', '\u00e4', '\U0001F600', '\d', 'ö']"),
        ["\\frac{1}{2}", "a\nb", "°C", "ä", "😀", "\\d", "ö"]
    );
    assert_eq!(options(r#"["a, b", "[c]"]"#), ["a, b", "[c]"]);
    assert_eq!(options("[ 1,-2.5 , 'x', ]"), ["1", "-2.5", "x"]);
    for broken in ["", "a", "['a', 'b'", "['a' 'b']", "['a', b]", "['a', 'b'] x", "['a', 'b", r"['\x', 'b']", "[1"] {
        let error = error(mmmu("Which?", broken));
        assert_eq!(error, format!("options: a list is expected, not {broken}").trim_end(), "{broken}");
    }
}

#[test]
fn open_questions_are_errors() {
    let mut row = mmmu("How many?", "[]");
    row["question_type"] = json!("open");
    assert_eq!(error(row), "question_type: only multiple-choice questions are read, not open");
}

#[test]
fn mmmu_answers_with_letters() {
    // By what it says, B would be the first.
    assert_eq!(question(mmmu("Which?", "['B', 'A']")).correct, 1);
    let mut row = mmmu("Which?", "['x', 'y']");
    row["answer"] = json!("C");
    assert_eq!(error(row), "answer: \"C\" is none of the options: A to B are possible");
}

#[test]
fn a_hint_stands_before_the_question() {
    let row = json!({"image": "a.png", "question": "Which?", "choices": ["x", "y"], "answer": 0, "hint": "Look.",
                     "task": "closed choice", "grade": "grade2", "subject": "", "category": "Geography"});
    let (read, unused) = read(&row).unwrap();
    assert_eq!(read.text, "Context: Look.\nWhich?");
    assert_eq!((read.images, read.group.as_deref()), (vec![file("a.png")], Some("Geography")));
    assert_eq!(unused, ["task", "grade"]);
    let row = json!({"image": null, "question": "Which?", "choices": ["x", "y"], "answer": 0, "hint": ""});
    let read = question(row);
    assert_eq!((read.text.as_str(), read.images), ("Which?", Vec::new()));
}

fn own(options: Value, answer: Value) -> Value {
    json!({"prompt": "Which?", "options": options, "answer": answer})
}

#[test]
fn answers_are_indices_letters_and_texts() {
    let options = json!(["red", "green", "blue"]);
    for answer in [json!(1), json!(1.0), json!("1"), json!("B"), json!("b"), json!("green"), json!(" green ")] {
        assert_eq!(question(own(options.clone(), answer.clone())).correct, 1, "{answer}");
    }
    assert_eq!(question(own(json!([10, 20]), json!("20"))).correct, 1);
    for (answer, expected) in [
        (
            json!("purple"),
            "answer: \"purple\" is none of the options: a letter from A to C, an index from 0 to 2, or \
                           what an option says is expected",
        ),
        (
            json!("D"),
            "answer: \"D\" is none of the options: a letter from A to C, an index from 0 to 2, or what an \
                      option says is expected",
        ),
        (json!(3), "answer: 3 is none of the options: 0 to 2 are possible"),
        (json!(-1), "answer: -1 is none of the options: 0 to 2 are possible"),
        (json!(0.5), "answer: 0.5 is none of the options: 0 to 2 are possible"),
        (json!([1]), "answer: a number or a text is expected, not [1]"),
        (json!(null), "the row has no answerKey and no answer, which says what is right"),
    ] {
        assert_eq!(error(own(options.clone(), answer)), expected);
    }
}

#[test]
fn an_answer_that_can_be_two_options_is_an_error() {
    let expected = "answer: \"2\" can be option C or option A; write the index, as a number";
    assert_eq!(error(own(json!(["2", "1", "3"]), json!("2"))), expected);
    assert_eq!(question(own(json!(["2", "1", "3"]), json!(2))).correct, 2);
    assert_eq!(question(own(json!(["0", "1", "2"]), json!("2"))).correct, 2);
    assert!(error(own(json!(["B", "A"]), json!("A"))).contains("can be option A or option B"));
}

#[test]
fn rows_that_are_no_questions_are_errors() {
    for (row, expected) in [
        (json!({"question": "Which?"}), "the row has no options: options or choices is expected"),
        (own(json!([]), json!(0)), "options: there are no options"),
        (own(json!(["a"]), json!(0)), "options: there is only one option; two at least are expected"),
        (own(json!(["a", " "]), json!(0)), "options: option B is empty"),
        (own(json!(["a", "b", "a "]), json!(0)), "options: options A and C are the same, \"a\""),
        (own(json!(["a", null]), json!(0)), "options: an option is a text, not null"),
        (own(json!(7), json!(0)), "options: a list of options is expected, not 7"),
        (own(json!(vec!["x"; 27]), json!(0)), "options: there are 27 options; 26 are the most"),
        (json!({"options": ["a", "b"], "answer": 0}), "the row has no question"),
        (json!({"question": " ", "options": ["a", "b"], "answer": 0}), "the question is empty"),
        (
            json!({"question": "a", "prompt": "b", "options": ["a", "b"], "answer": 0}),
            "the row has a question and a prompt; one of them is expected",
        ),
        (
            json!({"question": "a", "choices": ["a"], "options": ["a", "b"], "answer": 0}),
            "the row has options and choices; one of them is expected",
        ),
        (json!({"endings": ["a", "b"], "label": 0, "ctx_a": "x"}), "the row has no activity_label, which endings need"),
        (json!({"endings": ["a", "b"], "label": 0, "activity_label": "x"}), "the row has no ctx_a, which endings need"),
        (
            json!({"question": "a", "options": ["a", "b"], "answer": 0, "image_1": "a.png", "image": "b.png"}),
            "the row has numbered images, such as image_1, and others; one kind is expected",
        ),
    ] {
        assert_eq!(error(row), expected);
    }
}

#[test]
fn letters_are_found() {
    let options = ["London", "Paris", "a city", "Rome"].map(str::to_owned);
    for answer in [
        "B",
        "b",
        " B. ",
        "(B)",
        "B)",
        "**B**",
        "**B.** Paris",
        "`B`",
        "B: Paris",
        "B. Paris",
        "(B) Paris",
        "b) Paris",
        "B. It lies on the Seine.",
        "Paris",
        "paris.",
        "\"Paris\"",
        "The answer is B",
        "The answer is B.",
        "The answer is (B) Paris.",
        "The answer is **Paris**.",
        "The correct answer is: B",
        "The correct option is B because A) is in England.",
        "The answer is option B.",
        "Answer: b",
        "It lies on the Seine.\nAnswer: B\n",
        "London is in England.\n\nB",
        "A wrong answer is A. The answer is B.",
        "Answer: The answer is B.",
    ] {
        assert_eq!(find_letter(answer, &options), Some(1), "{answer}");
    }
    assert_eq!(find_letter("The answer is a city.", &options), Some(2));
    assert_eq!(find_letter("A.", &options), Some(0));
}

#[test]
fn nothing_is_guessed() {
    let options = ["London", "Paris", "a city", "Rome"].map(str::to_owned);
    for answer in [
        "",
        "\n",
        "E",
        "Madrid",
        "The answer is not B.",
        "The answer is A or B.",
        "The answer is A, B or C",
        "The answer is a large city.",
        "The answer is A. No, the answer is B.",
        "A) is in England, B) is in France.",
        "A. London\nB. Paris\nC. a city\nD. Rome",
        "A. Paris",
        "A big one",
        "I think it may be Paris",
        "Paris and Rome",
        "A wrong answer is A.",
        "Answer: A\n\nB",
        "B is not it",
    ] {
        assert_eq!(find_letter(answer, &options), None, "{answer}");
    }
    // A letter that is another option's text.
    assert_eq!(find_letter("A", &["B".into(), "A".into()]), None);
    assert_eq!(find_letter("x", &["x".into(), "X".into()]), None);
}

#[test]
fn there_are_26_letters() {
    assert_eq!((letter(0), letter(1), letter(25)), ('A', 'B', 'Z'));
}
