//! Rows to learn from: what the model reads of them, what it is to predict, and what is wrong with the others.

mod bad;
mod order;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use phi3v::checkpoint::ModelFiles;
use phi3v::dataset::{Dataset, Example, Reader, Settings};
use phi3v::engine::stop_tokens;
use phi3v::processor::images::{ImageLimits, ImageOptions};
use phi3v::processor::{Message, Processor, Prompt, Segment, Turn};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{copy_of, crops, edit_json, golden, json_file};

/// A model's side of training data.
struct Model {
    processor: Processor,
    settings: Settings,
}

impl Model {
    fn new(folder: &Path) -> Self {
        let files = ModelFiles::read(folder).unwrap();
        let processor = phi3v::models::processor(&files).unwrap();
        let settings = Settings {
            max_seq_length: 2048,
            max_position_embeddings: files.max_position_embeddings().unwrap(),
            image_options: crops(1),
            limits: ImageLimits::default(),
            mask_prompt: true,
            stop_tokens: stop_tokens(&files, &processor.tokenizer).unwrap(),
        };
        Self { processor, settings }
    }

    /// A checkpoint with another chat template; none for one without.
    fn with_template(name: &str, template: Option<&str>) -> Self {
        let folder = copy_of(name);
        edit_json(&folder.path().join("tokenizer_config.json"), |json| json["chat_template"] = template.into());
        Self::new(folder.path())
    }

    fn read(&self, path: &Path) -> Dataset {
        Reader::new(&self.processor, &self.settings).read(path, &mut |_| ControlFlow::Continue(())).unwrap().unwrap()
    }

    /// Examples of rows that are all good.
    fn examples(&self, rows: &Rows) -> Vec<Example> {
        let dataset = self.read(&rows.path("rows.jsonl"));
        assert_eq!(dataset.bad, []);
        dataset.good
    }

    /// The text of a row, images as `[N]`, with what is supervised in `{}`. A space before a part is not shown.
    fn shown(&self, example: &Example) -> String {
        let (ids, labels) = (input_ids(example), example.labels());
        let text = |at: &[i64]| {
            let texts = at.chunk_by(|a, b| (*a < 0) == (*b < 0)).map(|run| match run[0] {
                ..0 => format!("[{}]", -run[0]),
                _ => {
                    let ids: Vec<u32> = run.iter().map(|&id| id as u32).collect();
                    self.processor.tokenizer.decode(&ids, true).unwrap()
                }
            });
            texts.collect::<String>()
        };
        let mut at = 0;
        let runs = labels.chunk_by(|a, b| a.is_some() == b.is_some()).map(|run| {
            let text = text(&ids[at..at + run.len()]);
            at += run.len();
            if run[0].is_some() { format!("{{{text}}}") } else { text }
        });
        runs.collect()
    }
}

/// A folder with a file of rows and a small image.
struct Rows(TempDir);

impl Rows {
    fn new(lines: &[impl ToString]) -> Self {
        let rows = Self(tempfile::tempdir().unwrap());
        fs::create_dir(rows.path("images")).unwrap();
        image::RgbImage::from_pixel(30, 20, image::Rgb([9, 99, 200])).save(rows.path("images/a.png")).unwrap();
        rows.write("rows.jsonl", lines);
        rows
    }

    fn write(&self, name: &str, lines: &[impl ToString]) {
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        fs::write(self.path(name), lines.join("\n")).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Ids as recordings have them, image N as a run of -N.
fn input_ids(example: &Example) -> Vec<i64> {
    let (mut image, mut left) = (0, 0);
    let ids = example.ids().into_iter().map(|id| match id {
        Some(id) => i64::from(id),
        None => {
            if left == 0 {
                left = example.images[image].layout.tokens;
                image += 1;
            }
            left -= 1;
            -(image as i64)
        }
    });
    ids.collect()
}

fn runs(value: &Value) -> Vec<i64> {
    let runs: Vec<(i64, usize)> = serde_json::from_value(value.clone()).unwrap();
    runs.into_iter().flat_map(|(id, count)| vec![id; count]).collect()
}

#[test]
fn ids_and_labels_are_the_recorded_ones() {
    let folder = golden("phi3v-tiny/lora");
    let recorded = json_file(&folder.join("golden.json"));
    let recorded = recorded["rows"].as_array().unwrap();
    let rows = Rows::new(
        &recorded.iter().map(|row| json!({"messages": row["messages"], "images": row["images"]})).collect::<Vec<_>>(),
    );
    fs::copy(folder.join("sample.png"), rows.path("sample.png")).unwrap();
    let model = Model::new(&golden("phi3v-tiny"));
    let examples = model.examples(&rows);
    assert_eq!(examples.len(), recorded.len());
    for (example, recorded) in examples.iter().zip(recorded) {
        assert_eq!(input_ids(example), runs(&recorded["input_ids_runs"]));
        let labels: Vec<i64> = example.labels().iter().map(|label| label.map_or(-100, i64::from)).collect();
        assert_eq!(labels, runs(&recorded["labels_runs"]));
        assert_eq!(example.len(), recorded["tokens"]);
        assert_eq!(example.supervised[0].start, recorded["prompt_tokens"]);

        let pixels = example.pixels(&model.processor, &model.settings.limits, &model.settings.image_options).unwrap();
        assert_eq!(model.processor.input_ids(&example.prompt(pixels)), input_ids(example));
    }
}

#[test]
fn every_form_of_a_row_is_read() {
    let model = Model::new(&golden("phi3v-tiny"));
    let user = |text: &str| json!({"role": "user", "content": text});
    let says = |text: &str| json!({"role": "assistant", "content": text});
    let image = "images/a.png";
    let parts = json!({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]});
    let rows = Rows::new(&[
        json!({"id": 7, "_note": [], "messages": [user("Hi"), says("Ho"), user("So?"), says("No.")]}),
        json!({"messages": [user("<|image_1|>\nWhat?"), says("Blue.")], "images": [image]}),
        json!({"conversations": [parts, says("Blue.")], "image": image}),
        json!({"messages": [parts, says("Blue.")], "image": image, "system": "Be brief."}),
        json!({"prompt": "What?", "completion": "Blue.", "images": [image]}),
        json!({"question": "1 + 1?", "answer": " 2\n", "system": "Count."}),
        json!({"text": "Once upon a time"}),
        json!({"text": "One <|image_1|> two<|end|>", "image": image}),
    ]);
    let examples = model.examples(&rows);
    let shown: Vec<String> = examples.iter().map(|example| model.shown(example)).collect();
    assert_eq!(
        shown,
        [
            "<|user|> \nHi<|end|> \n<|assistant|> \n{Ho<|end|>}\n<|user|> \nSo?<|end|> \n<|assistant|> \n{No.<|end|>}",
            "<|user|> \n[1]\nWhat?<|end|> \n<|assistant|> \n{Blue.<|end|>}",
            "<|user|> \n[1]\nWhat?<|end|> \n<|assistant|> \n{Blue.<|end|>}",
            "<|system|> \nBe brief.<|end|> \n<|user|> \n[1]\nWhat?<|end|> \n<|assistant|> \n{Blue.<|end|>}",
            "<|user|> \n[1]\nWhat?<|end|> \n<|assistant|> \n{Blue.<|end|>}",
            "<|system|> \nCount.<|end|> \n<|user|> \n1 + 1?<|end|> \n<|assistant|> \n{2\n<|end|>}",
            "Once{upon a time<|endoftext|>}",
            "One{}[1]{ two<|end|>}",
        ]
    );
    assert_eq!(examples.iter().map(|example| example.row).collect::<Vec<_>>(), (1..=8).collect::<Vec<u64>>());
    assert_eq!(examples[1].images[0].layout.tokens, 313);
}

#[test]
fn prompts_are_learned_too_if_asked() {
    let mut model = Model::new(&golden("phi3v-tiny"));
    model.settings.mask_prompt = false;
    let rows = Rows::new(&[json!({"prompt": "What?", "completion": "Blue.", "image": "images/a.png"})]);
    let example = &model.examples(&rows)[0];
    let len = example.len();
    assert_eq!(example.supervised, [1..3, 316..len]);
    assert_eq!(model.shown(example), "<|user|>{\n}[1]{\nWhat?<|end|> \n<|assistant|> \nBlue.<|end|>}");
}

#[test]
fn models_without_a_chat_template_learn_what_follows_a_prompt() {
    let model = Model::with_template("text/llama", None);
    let rows = Rows::new(&[json!({"prompt": "one two", "completion": " three"}), json!({"text": "one two</s>"})]);
    let examples = model.examples(&rows);
    let tokenizer = &model.processor.tokenizer;
    let mut expected = tokenizer.encode("one two", true).unwrap();
    assert_eq!(examples[0].supervised[0].start, expected.len());
    expected.extend(tokenizer.encode_on("one two", " three").unwrap());
    expected.push(tokenizer.id("</s>").unwrap());
    assert_eq!(examples[0].ids(), expected.into_iter().map(Some).collect::<Vec<_>>());
    assert_eq!(examples[0].supervised[0].end, examples[0].len());
    let ids: Vec<Option<u32>> = tokenizer.encode("one two</s>", true).unwrap().into_iter().map(Some).collect();
    assert_eq!(examples[1].ids(), ids);

    let messages = json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]});
    let bad = model.read(&Rows::new(&[messages]).path("rows.jsonl")).bad;
    assert!(bad[0].error.contains("the checkpoint has no chat template"), "{}", bad[0]);
}

/// How chat templates of the wild end answers.
const TEMPLATES: [(&str, Option<&str>, &str); 9] = [
    ("phi3v-tiny", None, "<|end|>"),
    // Phi-3.5-mini's: what stands at the very end is not learned.
    (
        "phi3v-tiny",
        Some(
            "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endfor %}\
             {% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}",
        ),
        "<|end|>",
    ),
    // Llama 2's: the white space around answers is the template's.
    (
        "text/llama",
        Some(
            "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content | trim + ' [/INST]' }}\
             {% else %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}",
        ),
        "</s>",
    ),
    ("text/llama", None, ""),
    ("text/gemma", None, ""),
    ("text/gemma2", None, ""),
    ("text/mistral", None, ""),
    ("text/phi3", None, ""),
    ("text/qwen2", None, "<|im_end|>"),
];

fn model(which: usize) -> Model {
    let (name, template, _) = TEMPLATES[which];
    match template {
        Some(template) => Model::with_template(name, Some(template)),
        None => Model::new(&golden(name)),
    }
}

fn turns(texts: &[String]) -> Vec<Message> {
    let role = |at: usize| if at.is_multiple_of(2) { "user" } else { "assistant" };
    texts.iter().enumerate().map(|(at, text)| Message::new(role(at), text)).collect()
}

fn flat(prompt: Prompt) -> Vec<u32> {
    prompt.token_ids().collect()
}

/// Before each answer stands what inference would read there, by a chat that keeps the ids of its answers, and by one that
/// does not where special tokens set answers apart.
fn check_as_inference_reads_it(model: &Model, which: usize, texts: &[String]) {
    let Model { processor, settings } = model;
    let messages = turns(texts);
    let read = processor.prepare_training(&messages, &[], &settings.stop_tokens).unwrap();
    let [Segment::Text(ids)] = &read.segments[..] else { panic!("{:?}", read.segments) };
    assert_eq!(read.supervised.len(), messages.len() / 2);
    assert_eq!(read.supervised.last().unwrap().end, ids.len());

    let is_stop = |id: &u32| settings.stop_tokens.contains(id);
    let mut chat: Vec<Turn> = Vec::new();
    for (pair, range) in messages.chunks(2).zip(&read.supervised) {
        chat.push(Turn::new("user", &pair[0].content));
        // Llama 2's template writes white space around answers that belongs to their ids: no chat can keep them.
        if which != 2 || chat.len() == 1 {
            let prompt = flat(processor.prepare_turns(&chat, Vec::new()).unwrap());
            assert_eq!(ids[..range.start], prompt, "{which} {texts:?}");
        }
        let (last, answer) = ids[range.clone()].split_last().unwrap();
        let ends = is_stop(last);
        assert!(ends || TEMPLATES[which].2.is_empty() && range.end < ids.len(), "{which} {texts:?}");
        let answer = if ends { answer } else { &ids[range.clone()] };
        assert!(!answer.iter().any(is_stop));
        let text = processor.tokenizer.decode(answer, true).unwrap();
        assert_eq!(text.trim(), pair[1].content.trim(), "{which} {texts:?}");
        chat.push(Turn { ids: Some(answer.to_vec()), ..Turn::new("assistant", &pair[1].content) });
    }
    let before = &ids[..read.supervised.last().unwrap().start];
    let prompt = flat(processor.prepare(&messages[..messages.len() - 1], &[], &ImageOptions::default()).unwrap());
    if [0, 1, 7].contains(&which) {
        assert_eq!(before, prompt, "{which} {texts:?}");
    }
    let text = |ids: &[u32]| processor.tokenizer.decode(ids, true).unwrap();
    assert_eq!(text(before), text(&prompt), "{which} {texts:?}");
}

#[test]
fn conversations_are_read_as_inference_reads_them() {
    for which in 0..TEMPLATES.len() {
        let model = model(which);
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(40));
        let text = "[a-zäé][a-z ,.é\n]{0,12}[a-z.!]";
        let texts = prop::collection::vec(text, 2..=6).prop_map(|mut texts| {
            texts.truncate(texts.len() / 2 * 2);
            texts
        });
        runner
            .run(&texts, |texts| {
                check_as_inference_reads_it(&model, which, &texts);
                Ok(())
            })
            .unwrap();
    }
}

#[test]
fn images_between_answers_are_read_as_inference_reads_them() {
    let model = model(0);
    let texts = ["<|image_2|>What?", "Blue.", "So is <|image_1|>\nthis?", "Yes."].map(str::to_owned);
    let images = [(30, 20), (400, 300)].map(|(width, height)| image::RgbImage::new(width, height));
    let crops = &crops(4);
    let layouts = model.processor.layouts(&images.each_ref().map(image::RgbImage::dimensions), crops).unwrap();
    let tokens: Vec<usize> = layouts.iter().map(|layout| layout.tokens).collect();
    let read = model.processor.prepare_training(&turns(&texts), &tokens, &model.settings.stop_tokens).unwrap();
    let prompt = model.processor.prepare(&turns(&texts[..3]), &images, crops).unwrap();
    assert_eq!(prompt.images.iter().map(|image| image.layout).collect::<Vec<_>>(), layouts);
    let all = model.processor.input_ids(&Prompt { segments: read.segments, ..prompt.clone() });
    assert_eq!(all[..read.supervised[1].start], model.processor.input_ids(&prompt));
    assert_eq!(read.supervised[1].end, all.len());
}

#[test]
fn templates_that_change_answers_are_refused() {
    let messages = turns(&["a", "Yes", "b", "No"].map(str::to_owned));
    let error = |template: &str| {
        let Model { processor, settings } = Model::with_template("phi3v-tiny", Some(template));
        format!("{:#}", processor.prepare_training(&messages, &[], &settings.stop_tokens).unwrap_err())
    };
    let upper =
        "{% for m in messages %}<{{ m.content | upper }}>{% endfor %}{% if add_generation_prompt %}<{% endif %}";
    assert_eq!(error(upper), "messages[1]: the chat template does not write the answer as it is");
    let thinks = "{% for m in messages %}<{{ m.content }}>{% endfor %}{% if add_generation_prompt %}<think>{% endif %}";
    assert!(error(thinks).starts_with("messages[1]: the chat template writes what stands before an answer otherwise"));
}
