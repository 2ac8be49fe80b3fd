//! The engine's promises: what is streamed is what is returned, and nothing but the request decides on the answer.

use std::ops::ControlFlow;
use std::path::Path;

use image::RgbImage;
use mlx_rs::Dtype;
use phi3v::checkpoint::ModelFiles;
use phi3v::engine::sampler::Sampling;
use phi3v::engine::text::Detokenizer;
use phi3v::engine::{Engine, EngineOptions, Event, FinishReason, Generation, Request};
use phi3v::models;
use phi3v::processor::Message;
use phi3v::processor::images::ImageOptions;

use crate::common::{copy_of, crops, edit_json, golden};

struct Setup {
    engine: Engine,
}

impl Setup {
    fn new() -> Self {
        Self::of(&golden("phi3v-tiny"))
    }

    fn of(folder: &Path) -> Self {
        Self::with(folder, EngineOptions::default())
    }

    fn with(folder: &Path, options: EngineOptions) -> Self {
        let files = ModelFiles::read(folder).unwrap();
        let model = models::load(&files, Some(Dtype::Float32), |_, _| ()).unwrap();
        Self { engine: Engine::new(model, models::processor(&files).unwrap(), &files, options).unwrap() }
    }

    fn request(&self, max_tokens: usize) -> Request {
        let message = Message::new("user", "Tell me a story about a small fox.");
        let prompt = self.engine.processor().prepare(&[message], &[], &ImageOptions::default()).unwrap();
        Request::new(prompt, max_tokens)
    }

    fn generate(&self, request: Request) -> Generation {
        self.engine.generate(request, |_| ControlFlow::Continue(())).unwrap()
    }
}

#[test]
fn the_streamed_text_is_the_text() {
    let setup = Setup::new();
    // Sampled, so that tokens of all kinds come: bytes, specials, leading spaces.
    for seed in 0..20 {
        let mut request = setup.request(60);
        request.sampling = Sampling { temperature: 5.0, seed, ..Sampling::default() };
        let mut streamed = String::new();
        let generation = setup.engine.generate(request, |event| {
            if let Event::Text(text) = event {
                streamed += text;
            }
            ControlFlow::Continue(())
        });
        let generation = generation.unwrap();
        assert_eq!(streamed, generation.text);
        let ids: Vec<u32> = match generation.finish_reason {
            FinishReason::Stop => generation.tokens[..generation.tokens.len() - 1].to_vec(),
            _ => generation.tokens.clone(),
        };
        let whole = setup.engine.processor().tokenizer.decode(&ids, false).unwrap();
        if !whole.contains(char::REPLACEMENT_CHARACTER) {
            assert_eq!(streamed, whole, "seed {seed}");
        }
    }
}

#[test]
fn a_stray_byte_spoils_only_itself() {
    let setup = Setup::new();
    let tokenizer = &setup.engine.processor().tokenizer;
    let byte = |byte: u8| tokenizer.id(&format!("<0x{byte:02X}>")).unwrap();
    let x = tokenizer.encode("x", false).unwrap()[0];
    let mut stream = Detokenizer::new(tokenizer);
    // é, then half of another é, then a letter.
    let pieces: Vec<String> =
        [byte(0xc3), byte(0xa9), byte(0xc3), x, byte(0xf0)].map(|id| stream.push(id).unwrap()).into();
    assert_eq!(pieces[..2], ["", "é"]);
    assert!(pieces[2..].concat().ends_with('x'), "{pieces:?}");
    assert_eq!(stream.finish().unwrap(), "");
}

#[test]
fn a_seed_decides_on_a_sampled_answer_and_chunks_do_not() {
    let step_of = |prefill_step_size| {
        Setup::with(&golden("phi3v-tiny"), EngineOptions { prefill_step_size, ..EngineOptions::default() })
    };
    let (whole, chunks) = (step_of(512), step_of(3));
    let tokens = |setup: &Setup, seed| {
        let sampling = Sampling { temperature: 1.0, seed, ..Sampling::default() };
        setup.generate(Request { sampling, ..setup.request(24) }).tokens
    };
    assert_eq!(tokens(&whole, 7), tokens(&whole, 7));
    assert_eq!(tokens(&whole, 7), tokens(&chunks, 7));
    assert_ne!(tokens(&whole, 7), tokens(&whole, 8));
}

#[test]
fn an_answer_ends_at_a_stop_string() {
    let setup = Setup::new();
    let whole = setup.generate(setup.request(24));
    assert_eq!((whole.finish_reason, whole.tokens.len()), (FinishReason::Length, 24));
    let middle = whole.text.char_indices().nth(whole.text.chars().count() / 2).unwrap().0;
    let stop: String = whole.text[middle..].chars().take(3).collect();
    let cut = setup.generate(Request { stop: vec![stop.clone()], ..setup.request(24) });
    assert_eq!(cut.finish_reason, FinishReason::Stop);
    assert_eq!(cut.text, whole.text[..whole.text.find(&stop).unwrap()]);
}

#[test]
fn an_answer_ends_at_the_checkpoints_stop_tokens() {
    let folder = copy_of("phi3v-tiny");
    let setup = Setup::of(folder.path());
    let whole = setup.generate(setup.request(8));
    let third = whole.tokens[2];
    let first_at = whole.tokens.iter().position(|&token| token == third).unwrap();
    edit_json(&folder.path().join("generation_config.json"), |json| json["eos_token_id"] = third.into());
    let cut = Setup::of(folder.path()).generate(setup.request(8));
    assert_eq!((cut.finish_reason, cut.tokens.len()), (FinishReason::Stop, first_at + 1));
}

#[test]
fn an_interrupted_request_returns_what_there_is() {
    let setup = Setup::new();
    let whole = setup.generate(setup.request(12));
    let mut texts = 0;
    let generation = setup.engine.generate(setup.request(12), |event| {
        texts += usize::from(matches!(event, Event::Text(_)));
        if texts == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let generation = generation.unwrap();
    assert_eq!(generation.finish_reason, FinishReason::Interrupted);
    assert_eq!(generation.tokens, whole.tokens[..5]);
    assert!(whole.text.starts_with(&generation.text));

    let options = EngineOptions { prefill_step_size: 4, ..EngineOptions::default() };
    let setup = Setup::with(&golden("phi3v-tiny"), options);
    let generation = setup.engine.generate(setup.request(12), |event| match event {
        Event::Prefill(8, _) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    let generation = generation.unwrap();
    assert_eq!((generation.finish_reason, generation.tokens.len()), (FinishReason::Interrupted, 0));
}

#[test]
fn an_answer_ends_where_the_context_does() {
    let folder = copy_of("phi3v-tiny");
    let setup = Setup::of(folder.path());
    let prompt_tokens = setup.request(1).prompt.len();
    edit_json(&folder.path().join("config.json"), |json| {
        json["max_position_embeddings"] = (prompt_tokens + 5).into();
        json["original_max_position_embeddings"] = (prompt_tokens + 5).into();
    });
    let generation = Setup::of(folder.path()).generate(setup.request(100));
    assert_eq!((generation.finish_reason, generation.tokens.len()), (FinishReason::Length, 5));

    edit_json(&folder.path().join("config.json"), |json| json["max_position_embeddings"] = prompt_tokens.into());
    let request = setup.request(1);
    let error = Setup::of(folder.path()).engine.generate(request, |_| ControlFlow::Continue(())).unwrap_err();
    assert!(error.to_string().contains(&format!("the prompt takes {prompt_tokens} positions")), "{error}");
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let setup = Setup::new();
    let refused = |request: Request, expected: &str| {
        let error = setup.engine.generate(request, |_| ControlFlow::Continue(())).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(setup.request(0), "max-tokens is 0");
    let sampling = |sampling| Request { sampling, ..setup.request(1) };
    refused(sampling(Sampling { temperature: f32::NAN, ..Sampling::default() }), "temperature NaN");
    refused(sampling(Sampling { top_p: 0.0, ..Sampling::default() }), "top-p 0");
    refused(sampling(Sampling { repetition_penalty: -1.0, ..Sampling::default() }), "repetition-penalty -1");
}

#[test]
fn image_tags_must_match_the_images() {
    let setup = Setup::new();
    let image = RgbImage::new(20, 10);
    let prepare = |text: &str, images: usize| {
        let messages = [Message::new("user", text)];
        let prompt = setup.engine.processor().prepare(&messages, &vec![image.clone(); images], &crops(1));
        prompt.map(|prompt| prompt.text).map_err(|e| e.to_string())
    };
    let user = |text: &str| format!("<|user|>\n{text}<|end|>\n<|assistant|>\n");
    assert_eq!(prepare("Hi", 0), Ok(user("Hi")));
    assert_eq!(prepare("Hi", 2), Ok(user("<|image_1|>\n<|image_2|>\nHi")));
    assert_eq!(prepare("A <|image_2|> B <|image_1|>", 2), Ok(user("A <|image_2|> B <|image_1|>")));
    let refused = |text: &str, images: usize, expected: &str| {
        let error = prepare(text, images).unwrap_err();
        assert!(error.contains(expected), "{error}");
    };
    refused("<|image_1|>", 0, "names <|image_1|>, but no images are given");
    refused("<|image_1|>", 2, "2 images are given, but the prompt has no <|image_2|>");
    refused("<|image_1|> <|image_1|>", 1, "names <|image_1|> twice");
    refused("<|image_0|>", 1, "names <|image_0|>, but 1 image is given");
    refused("<|image_99999999999999999999|>", 1, "but 1 image is given");
}

/// Llama's template writes the BOS, and its tokenizer would add another.
#[test]
fn a_chat_has_one_bos() {
    let setup = Setup::of(&golden("text/llama"));
    let chat = setup.engine.processor().prepare(&[Message::new("user", "Hi")], &[], &ImageOptions::default()).unwrap();
    assert!(chat.text.starts_with("<s>[user] Hi"), "{}", chat.text);
    assert_eq!(chat.token_ids().filter(|&id| id == 1).count(), 1);
    let plain = setup.engine.processor().prepare_text("Hi", &[], &ImageOptions::default()).unwrap();
    assert_eq!(plain.token_ids().filter(|&id| id == 1).count(), 1);
}

/// The reference numbers images, whatever their order in the text.
#[test]
fn images_are_placed_by_their_number() {
    let setup = Setup::new();
    let images = [RgbImage::new(40, 10), RgbImage::new(10, 10)];
    let messages = [Message::new("user", "<|image_2|><|image_1|>")];
    let prompt = setup.engine.processor().prepare(&messages, &images, &crops(4)).unwrap();
    let ids = setup.engine.processor().input_ids(&prompt);
    let mut runs = ids.clone();
    runs.dedup();
    runs.retain(|&id| id < 0);
    assert_eq!(runs, [-2, -1]);
    let count = |id: i64| ids.iter().filter(|&&other| other == id).count();
    assert_eq!((count(-1), count(-2)), (prompt.images[0].layout.tokens, prompt.images[1].layout.tokens));
}
