//! The promises of batches and caches: a row's answer is what it would be alone, whatever is kept, shared or guessed.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use image::{Rgb, RgbImage};
use mlx_rs::Dtype;
use mlx_rs::ops::zeros_dtype;
use phi3v::cache::{CacheSettings, KvPacking};
use phi3v::checkpoint::ModelFiles;
use phi3v::checkpoint::identity::identity;
use phi3v::engine::batch::Batch;
use phi3v::engine::phrase::Phrases;
use phi3v::engine::sampler::Sampling;
use phi3v::engine::sequence::Sequence;
use phi3v::engine::speculate::Speculation;
use phi3v::engine::{Engine, EngineOptions, Event, FinishReason, Generation, Request};
use phi3v::models;
use phi3v::processor::{Message, Prompt, Segment};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::common::{copy_of, crops, edit_json, golden, save, tensors};

fn engine(folder: &Path, options: EngineOptions) -> Engine {
    let files = ModelFiles::read(folder).unwrap();
    let model = models::load(&files, Some(Dtype::Float32), |_, _| ()).unwrap();
    Engine::new(model, models::processor(&files).unwrap(), &files, options).unwrap()
}

fn tiny() -> Engine {
    engine(&golden("phi3v-tiny"), EngineOptions::default())
}

/// Longrope's boundary so near that answers cross it.
fn near_boundary() -> TempDir {
    let folder = copy_of("phi3v-tiny");
    edit_json(&folder.path().join("config.json"), |json| json["original_max_position_embeddings"] = 40.into());
    folder
}

fn ask(engine: &Engine, text: &str, images: &[RgbImage], max_tokens: usize) -> Request {
    let messages = [Message::new("user", text)];
    Request::new(engine.processor().prepare(&messages, images, &crops(1)).unwrap(), max_tokens)
}

fn alone(engine: &Engine, request: Request) -> Generation {
    engine.generate(request, |_| ControlFlow::Continue(())).unwrap()
}

fn image(seed: u8) -> RgbImage {
    RgbImage::from_fn(30, 20, |x, y| Rgb([(x as u8 * 7) ^ seed, y as u8 * 11, seed.wrapping_mul(37)]))
}

/// Requests of all kinds: short and long, with images and without, greedy and sampled, with stop strings.
fn requests(engine: &Engine) -> Vec<Request> {
    let sampled = |seed| Sampling { temperature: 1.0, top_p: 0.95, seed, ..Sampling::default() };
    let penalized = Sampling { repetition_penalty: 1.3, top_k: 20, ..sampled(5) };
    let whole = alone(engine, ask(engine, "Count to ten.", &[], 20)).text;
    let middle = whole.char_indices().nth(whole.chars().count() / 2).unwrap().0;
    vec![
        ask(engine, "Hi", &[], 50),
        Request { sampling: sampled(1), ..ask(engine, "Tell me a story about a small fox.", &[], 30) },
        ask(engine, "What is this?", &[image(1)], 12),
        Request { sampling: penalized, ..ask(engine, "And which colour has it?", &[image(2)], 9) },
        Request { stop: vec![whole[middle..].to_owned()], ..ask(engine, "Count to ten.", &[], 40) },
        Request { sampling: sampled(2), ..ask(engine, "x", &[], 1) },
        ask(engine, &"Many words make a long prompt. ".repeat(12), &[], 17),
    ]
}

fn answers(engine: &Engine, order: &[usize], joins: &[usize]) -> BTreeMap<usize, Generation> {
    let requests = requests(engine);
    let mut batch = Batch::new(engine);
    let mut answers = BTreeMap::new();
    let mut waiting = order.iter().zip(joins);
    let mut next = waiting.next();
    for step in 0.. {
        while let Some((&key, &join)) = next
            && (join <= step || batch.is_empty())
        {
            batch.submit(key, requests[key].clone()).unwrap();
            next = waiting.next();
        }
        if batch.is_empty() {
            return answers;
        }
        for (key, generation) in batch.step(&mut |_, _| ControlFlow::Continue(())).unwrap() {
            answers.insert(key, generation.unwrap());
        }
    }
    unreachable!()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]

    /// Rows come and go in any order, and some outgrow longrope's boundary meanwhile.
    #[test]
    fn a_rows_answer_is_that_of_a_single_run(
        order in Just((0..7).collect::<Vec<usize>>()).prop_shuffle(),
        mut joins in prop::collection::vec(0usize..25, 7),
        prefill_step_size in 1usize..80,
        max_batch_size in 1usize..8,
    ) {
        joins.sort_unstable();
        let folder = near_boundary();
        let expected: Vec<Generation> = {
            let engine = engine(folder.path(), EngineOptions::default());
            requests(&engine).into_iter().map(|request| alone(&engine, request)).collect()
        };
        prop_assert!(expected[0].long_factors && !expected[5].long_factors);
        let options = EngineOptions { prefill_step_size, max_batch_size, ..EngineOptions::default() };
        let answers = answers(&engine(folder.path(), options), &order, &joins);
        for (key, expected) in expected.iter().enumerate() {
            let Generation { tokens, text, finish_reason, .. } = &answers[&key];
            prop_assert_eq!((tokens, text, finish_reason), (&expected.tokens, &expected.text, &expected.finish_reason));
        }
    }
}

#[test]
fn a_request_waits_for_memory_and_is_refused_where_it_never_fits() {
    let one = tiny().cache_bytes(&ask(&tiny(), "Hi", &[], 50));
    let engine = engine(&golden("phi3v-tiny"), EngineOptions { cache_bytes: Some(one), ..EngineOptions::default() });
    let mut batch = Batch::new(&engine);
    for key in 0..3 {
        batch.submit(key, ask(&engine, "Hi", &[], 50)).unwrap();
    }
    let mut ended = Vec::new();
    let mut running = Vec::new();
    while !batch.is_empty() {
        for (key, generation) in batch
            .step(&mut |key, event| {
                if event == Event::Encoded {
                    running.push(key);
                }
                ControlFlow::Continue(())
            })
            .unwrap()
        {
            // The next one begins when this one is done.
            assert_eq!(running, (0..=key).collect::<Vec<_>>());
            ended.push((key, generation.unwrap().tokens));
        }
    }
    assert_eq!(ended.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(ended.iter().all(|(_, tokens)| *tokens == ended[0].1));

    let error = batch.submit(9, ask(&engine, "Hi", &[], 5000)).unwrap_err().to_string();
    assert!(error.contains("an answer of up to 5000 tokens take") && error.contains("`kv_bits` 8"), "{error}");
}

#[test]
fn a_row_that_breaks_off_leaves_the_others_alone() {
    let engine = tiny();
    let expected = alone(&engine, ask(&engine, "Hi", &[], 20)).tokens;
    let mut batch = Batch::new(&engine);
    batch.submit(0, ask(&engine, "Hi", &[], 20)).unwrap();
    batch.submit(1, ask(&engine, "Hello there", &[], 20)).unwrap();
    let mut ended = BTreeMap::new();
    let mut texts = 0;
    while !batch.is_empty() {
        let step = batch.step(&mut |key, event| {
            texts += usize::from(key == 1 && matches!(event, Event::Text(_)));
            if key == 1 && texts == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        ended.extend(step.unwrap());
    }
    assert_eq!(ended.remove(&0).unwrap().unwrap().tokens, expected);
    let broken = ended.remove(&1).unwrap().unwrap();
    assert_eq!((broken.finish_reason, broken.tokens.len()), (FinishReason::Interrupted, 5));
}

fn with_cache(cache: CacheSettings, prefill_step_size: usize) -> Engine {
    engine(wide_heads().path(), EngineOptions { cache, prefill_step_size, ..EngineOptions::default() })
}

/// The tiny model with half as many heads of twice the size, so that groups of 32 fit.
fn wide_heads() -> TempDir {
    let folder = copy_of("phi3v-tiny");
    edit_json(&folder.path().join("config.json"), |json| {
        (json["num_attention_heads"], json["num_key_value_heads"]) = (2.into(), 2.into());
        for factors in ["short_factor", "long_factor"] {
            json["rope_scaling"][factors] = vec![1.5; 16].into();
        }
    });
    folder
}

/// A model whose layers add nothing: what follows a token depends on that token alone, so that it repeats itself.
fn chain() -> TempDir {
    let folder = copy_of("phi3v-tiny");
    let mut tensors = tensors(folder.path());
    for (name, tensor) in &mut tensors {
        if name.ends_with("self_attn.o_proj.weight") || name.ends_with("mlp.down_proj.weight") {
            *tensor = zeros_dtype(tensor.shape(), tensor.dtype()).unwrap();
        }
    }
    save(folder.path(), "model.safetensors", &tensors);
    folder
}

/// A prompt of some hundred positions.
fn long(engine: &Engine, max_tokens: usize) -> Request {
    ask(engine, &"Many words make a long prompt. ".repeat(30), &[image(3)], max_tokens)
}

#[test]
fn packed_keys_and_values_do_not_depend_on_steps() {
    let packed = |bits, start| CacheSettings {
        packing: Some(KvPacking { bits, group_size: 32, start }),
        ..CacheSettings::default()
    };
    let tokens = |cache, step| {
        let engine = with_cache(cache, step);
        alone(&engine, long(&engine, 24)).tokens
    };
    let plain = tokens(CacheSettings::default(), 512);
    for bits in [8, 4] {
        assert_eq!(tokens(packed(bits, 0), 512), tokens(packed(bits, 0), 7), "{bits} bits");
        assert_eq!(tokens(packed(bits, 300), 512), tokens(packed(bits, 300), 64), "{bits} bits");
    }
    // Nothing is packed before the start.
    assert_eq!(tokens(packed(4, 100_000), 100), plain);
    assert_ne!(tokens(packed(4, 0), 512), plain);
}

const EIGHT: KvPacking = KvPacking { bits: 8, group_size: 32, start: 0 };

#[test]
fn packing_costs_little_and_saves_much() {
    let shape = |packing| {
        let engine = with_cache(CacheSettings { packing, ..CacheSettings::default() }, 512);
        let request = long(&engine, 1);
        (engine.cache_bytes(&request), engine, request)
    };
    let (plain_bytes, plain, request) = shape(None);
    let (packed_bytes, packed, _) = shape(Some(EIGHT));
    // 8 bits and two float32 numbers for 32, where there were 32 bits.
    assert_eq!(packed_bytes * 32, plain_bytes * 10);
    let logits = |engine: &Engine| {
        let cache = engine.options().cache;
        let mut features = phi3v::engine::image_cache::FeatureStore::new(0);
        let sequence = Sequence::with(engine.model(), &request.prompt, cache, &mut features);
        let mut sequence = sequence.unwrap();
        let logits = sequence.next_logits(512).unwrap();
        (logits, sequence.cache.bytes())
    };
    let ((expected, stored_plain), (found, stored)) = (logits(&plain), logits(&packed));
    assert!(stored * 32 == stored_plain * 10 && stored_plain <= plain_bytes, "{stored} {stored_plain} {plain_bytes}");
    // Random weights exaggerate; that 4 bits cost about 16 times as much shows that it is rounding and nothing else.
    let difference = crate::common::difference(&expected, &found);
    let coarse = crate::common::difference(&expected, &logits(&shape(Some(KvPacking { bits: 4, ..EIGHT })).1).0);
    let spread = expected.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    assert!(difference < 0.05 * spread && coarse > 4.0 * difference, "{difference}, {coarse} of {spread}");
}

#[test]
fn a_bounded_cache_is_exact_while_it_suffices_and_stays_bounded() {
    let bounded = |max_size| CacheSettings { max_size: Some(max_size), ..CacheSettings::default() };
    let tokens = |cache, step| {
        let engine = with_cache(cache, step);
        alone(&engine, long(&engine, 24)).tokens
    };
    let plain = tokens(CacheSettings::default(), 512);
    assert_eq!(tokens(bounded(5000), 512), plain);
    let forgetful = tokens(bounded(50), 512);
    assert_ne!(forgetful, plain);
    assert_eq!(tokens(bounded(50), 9), forgetful);

    // What is stored does not grow with the sequence.
    let engine = with_cache(bounded(50), 16);
    let mut features = phi3v::engine::image_cache::FeatureStore::new(0);
    let prompt = ask(&engine, "Hi", &[], 1).prompt;
    let sequence = Sequence::with(engine.model(), &prompt, engine.options().cache, &mut features);
    let mut sequence = sequence.unwrap();
    let mut most = 0;
    for token in 0..1200 {
        sequence.push(100 + token % 50);
        if sequence.pending() >= 16 {
            sequence.next_logits(16).unwrap();
            most = most.max(sequence.cache.bytes());
        }
    }
    let limit = engine.cache_bytes(&ask(&engine, "Hi", &[], 5000));
    assert!(most <= limit, "{most} of {limit}");
}

fn remembering() -> Engine {
    engine(&golden("phi3v-tiny"), EngineOptions { prefix_cache_bytes: 1 << 30, ..EngineOptions::default() })
}

#[test]
fn a_prompt_that_begins_like_an_earlier_one_is_not_read_again() {
    let engine = remembering();
    let plain = tiny();
    let turn = |engine: &Engine, messages: &[Message]| {
        let prompt = engine.processor().prepare(messages, &[image(4)], &crops(1)).unwrap();
        alone(engine, Request::new(prompt, 6))
    };
    let mut messages = vec![Message::new("user", "What is this?")];
    let first = turn(&engine, &messages);
    assert_eq!((first.cached_tokens, first.cached_images), (0, 0));
    // The answer is given by somebody else, so that only the question is known.
    messages.extend([Message::new("assistant", "A cat."), Message::new("user", "And its colour?")]);
    let second = turn(&engine, &messages);
    assert!(second.cached_tokens + 25 > first.prompt_tokens, "{}", second.cached_tokens);
    assert_eq!((second.cached_images, second.tokens.clone()), (1, turn(&plain, &messages).tokens));
    // The same again: all but the last position is known.
    let third = turn(&engine, &messages);
    assert_eq!((third.cached_tokens, third.tokens), (third.prompt_tokens - 1, second.tokens));
    // Another image shares nothing.
    let other = engine.processor().prepare(&messages, &[image(5)], &crops(1)).unwrap();
    let other = alone(&engine, Request::new(other, 6));
    assert!(other.cached_tokens < 10, "{}", other.cached_tokens);
}

#[test]
fn a_saved_prompt_goes_on_in_another_process_and_belongs_to_its_model() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("prompt.safetensors");
    for packing in [None, Some(KvPacking { bits: 8, group_size: 32, start: 40 })] {
        let cache = CacheSettings { packing, ..CacheSettings::default() };
        let options = EngineOptions { cache, prefix_cache_bytes: 1, ..EngineOptions::default() };
        let engine = || engine(wide_heads().path(), options.clone());
        let first = engine();
        let answer = alone(&first, long(&first, 8));
        first.save_prompt(&file, "this model").unwrap();

        let second = engine();
        assert!(second.load_prompt(&file, "this model").unwrap());
        let again = alone(&second, long(&second, 8));
        assert_eq!((again.tokens, again.cached_tokens), (answer.tokens, answer.prompt_tokens - 1));

        let error = format!("{:#}", engine().load_prompt(&file, "another model").unwrap_err());
        assert!(error.contains("prompt.safetensors") && error.contains("another model, adapter or `dtype`"), "{error}");
        let other = with_cache(CacheSettings { max_size: Some(99), ..cache }, 512);
        let error = format!("{:#}", other.load_prompt(&file, "this model").unwrap_err());
        assert!(error.contains("other `max_kv_size`"), "{error}");
        // Half a file, and a file of something else.
        let whole = fs::read(&file).unwrap();
        fs::write(&file, &whole[..whole.len() / 2]).unwrap();
        assert!(format!("{:#}", engine().load_prompt(&file, "this model").unwrap_err()).contains("damaged"));
        fs::copy(golden("phi3v-tiny/model.safetensors"), &file).unwrap();
        assert!(format!("{:#}", engine().load_prompt(&file, "this model").unwrap_err()).contains("no prompt cache"));
        fs::remove_file(&file).unwrap();
        assert!(!engine().load_prompt(&file, "this model").unwrap());
    }
}

#[test]
fn a_models_identity_is_that_of_its_weights() {
    let folder = copy_of("phi3v-tiny");
    let name = |folder: &Path, dtype| identity(&ModelFiles::read(folder).unwrap(), dtype).unwrap();
    let original = name(folder.path(), None);
    assert_eq!(original, name(&golden("phi3v-tiny"), None));
    assert_ne!(original, name(folder.path(), Some(Dtype::Float32)));
    let weights = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let step = (bytes.len() / 1024).max(4096);
    // As a training changes them: all.
    (step / 2..bytes.len()).step_by(2048).for_each(|at| bytes[at] ^= 1);
    fs::write(&weights, bytes).unwrap();
    assert_ne!(original, name(folder.path(), None));
}

#[test]
fn images_are_kept_in_a_folder_and_in_bounds() {
    let folder = TempDir::new().unwrap();
    let engine = |most_bytes, identity| tiny().keep_features(folder.path(), most_bytes, identity).unwrap();
    let look = |engine: &Engine, seed| alone(engine, ask(engine, "What is this?", &[image(seed)], 4));
    let files = || fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();

    let first = look(&engine(1 << 30, "m"), 1);
    assert_eq!((first.cached_images, files().len()), (0, 1));
    let again = look(&engine(1 << 30, "m"), 1);
    assert_eq!((again.cached_images, again.tokens), (1, first.tokens.clone()));
    assert_eq!(look(&engine(1 << 30, "another"), 1).cached_images, 0);
    // Half a file is made anew.
    for file in files() {
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    }
    let anew = look(&engine(1 << 30, "m"), 1);
    assert_eq!((anew.cached_images, anew.tokens), (0, first.tokens.clone()));
    assert_eq!(look(&engine(1 << 30, "m"), 1).cached_images, 1);
    // With room for two, the one that was not used for longest goes.
    let size = files().iter().map(|file| fs::metadata(file).unwrap().len()).max().unwrap();
    files().iter().for_each(|file| fs::remove_file(file).unwrap());
    for seed in [1, 2, 1, 3] {
        look(&engine(2 * size, "m"), seed);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(files().len(), 2);
    assert_eq!([1, 3].map(|seed| look(&engine(2 * size, "m"), seed).cached_images), [1, 1]);
}

#[test]
fn two_engines_share_a_folder_of_images() {
    let folder = TempDir::new().unwrap();
    let expected = alone(&tiny(), ask(&tiny(), "What is this?", &[image(1)], 4)).tokens;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..6 {
                    // Room for one: each removes what the other needs.
                    let engine = tiny().keep_features(folder.path(), 100_000, "m").unwrap();
                    for seed in [1, 2] {
                        let answer = alone(&engine, ask(&engine, "What is this?", &[image(seed)], 4));
                        assert!(seed != 1 || answer.tokens == expected);
                    }
                }
            });
        }
    });
}

/// Answers with guesses and without to a prompt that holds what the model is about to say: tokens guessed, and right.
fn compare(plain: &Engine, guessing: &Engine, max_tokens: usize) -> (usize, usize) {
    let mut prompt = ask(plain, "Say it again.", &[], 1).prompt;
    let said = alone(plain, Request::new(prompt.clone(), 40)).tokens;
    let last = prompt.segments.last().cloned();
    prompt.segments.extend([Segment::Text(said)].into_iter().chain(last));
    let (mut proposed, mut accepted) = (0, 0);
    for seed in 0..9 {
        let temperature = [0.0, 0.2, 1.0][seed as usize % 3];
        let sampling = Sampling { temperature, seed, top_p: 0.9, ..Sampling::default() };
        let request = Request { sampling, ..Request::new(prompt.clone(), max_tokens) };
        let (expected, found) = (alone(plain, request.clone()), alone(guessing, request));
        assert_eq!((found.tokens, found.text), (expected.tokens, expected.text), "seed {seed}");
        proposed += found.proposed;
        accepted += found.accepted;
    }
    (proposed, accepted)
}

#[test]
fn guesses_change_nothing_but_time() {
    let chain = chain();
    let plain = || engine(chain.path(), EngineOptions::default());
    let (proposed, accepted) = compare(&plain(), &plain().speculate(Speculation::Lookup(10)), 60);
    assert!(accepted > 60 && accepted < proposed, "{accepted} of {proposed}");

    // The model guesses what it would say itself, also where it draws by lot. One that says other things is of no use, and
    // does no harm.
    let draft = |folder: &Path| {
        let files = ModelFiles::read(folder).unwrap();
        let model = models::load(&files, Some(Dtype::Float32), |_, _| ()).unwrap();
        let tokenizer = models::processor(&files).unwrap().tokenizer;
        Speculation::draft(model, &tokenizer, &tiny().processor().tokenizer, 3).unwrap()
    };
    let (proposed, accepted) = compare(&tiny(), &tiny().speculate(draft(&golden("phi3v-tiny"))), 30);
    assert!(proposed > 100 && accepted >= proposed - 9 * 3, "{accepted} of {proposed}");
    let (proposed, accepted) = compare(&tiny(), &tiny().speculate(draft(chain.path())), 30);
    assert!(proposed > 100 && accepted < proposed / 2, "{accepted} of {proposed}");
}

#[test]
fn a_draft_of_another_family_is_refused() {
    let files = ModelFiles::read(&golden("text/qwen2")).unwrap();
    let model = models::load(&files, Some(Dtype::Float32), |_, _| ()).unwrap();
    let tokenizer = models::processor(&files).unwrap().tokenizer;
    let refused = Speculation::draft(model, &tokenizer, &tiny().processor().tokenizer, 3);
    assert!(refused.is_err_and(|error| error.to_string().contains("another vocabulary")));
}

#[test]
fn guesses_do_not_cross_longropes_boundary() {
    let chain = chain();
    edit_json(&chain.path().join("config.json"), |json| json["original_max_position_embeddings"] = 110.into());
    let plain = engine(chain.path(), EngineOptions::default());
    let lookup = engine(chain.path(), EngineOptions::default()).speculate(Speculation::Lookup(16));
    compare(&plain, &lookup, 70);
    let long = alone(&lookup, ask(&lookup, "Say it again.", &[], 110));
    assert!(long.long_factors);
}

#[test]
fn an_early_stop_ends_where_the_model_could_have_ended() {
    let engine = tiny();
    let whole = alone(&engine, ask(&engine, "Hi", &[], 200));
    let early = alone(&engine, Request { early_stop: Some(3), ..ask(&engine, "Hi", &[], 200) });
    assert_eq!(early.finish_reason, FinishReason::EarlyStop);
    assert!(early.tokens.len() > 3 && whole.tokens.starts_with(&early.tokens), "{}", early.tokens.len());
    // From the last token on it never applies.
    let late = alone(&engine, Request { early_stop: Some(200), ..ask(&engine, "Hi", &[], 200) });
    assert_eq!(late.tokens, whole.tokens);
}

#[test]
fn options_are_scored_as_if_each_was_alone() {
    let folder = near_boundary();
    for engine in [tiny(), engine(folder.path(), EngineOptions::default())] {
        let prompt = ask(&engine, "Which one?", &[image(6)], 1).prompt;
        let options = ["yes", "yes indeed", "no", "a very long answer with many words"].map(str::to_owned);
        let ids = engine.processor().encode_answers(&prompt.text, &options).unwrap();
        let choice = engine.choose(&prompt, &options).unwrap();
        let expected = ids.iter().map(|ids| {
            let mut sequence = Sequence::new(engine.model(), &prompt).unwrap();
            let mut sum = 0.0;
            for &id in ids {
                let logits = sequence.next_logits(512).unwrap();
                let total: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
                sum += f64::from(logits[id as usize]) - total.ln();
                sequence.push(id);
            }
            sum
        });
        let mut expected: Vec<f64> = expected.collect();
        // What begins with "yes indeed" is not "yes".
        assert!(ids[1].starts_with(&ids[0]));
        expected[0] = (expected[0].exp() - expected[1].exp()).ln();
        let total: f64 = expected.iter().map(|log| log.exp()).sum();
        for (scored, log) in choice.options.iter().zip(expected) {
            assert!((scored.log_probability - log).abs() < 1e-3, "{scored:?} {log}");
            assert!((scored.probability - log.exp() / total).abs() < 1e-4, "{scored:?}");
        }
        let mut shares: Vec<f64> = choice.options.iter().map(|option| option.probability).collect();
        assert!((0..4).all(|at| shares[at] <= shares[choice.best]));
        shares.sort_by(f64::total_cmp);
        assert!((choice.margin - (shares[3] - shares[2])).abs() < 1e-12);
    }
    let engine = tiny();
    let prompt = ask(&engine, "Which one?", &[], 1).prompt;
    let refused = |options: &[&str]| {
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        engine.choose(&prompt, &options).unwrap_err().to_string()
    };
    assert!(refused(&["A"]).contains("at least two") && refused(&["A", "B", "A"]).contains("\"A\" is given twice"));
    assert!(refused(&["A", ""]).contains("empty"));
}

/// By the definition: every place is scored from scratch.
#[test]
fn a_phrase_stands_where_it_fits_best() {
    let folder = near_boundary();
    for (engine, beams) in [(tiny(), false), (tiny(), true), (engine(folder.path(), EngineOptions::default()), true)] {
        let prompt = ask(&engine, "Which one?", &[], 1).prompt;
        let phrases = Phrases { texts: vec!["the answer is".into(), "so".into()], within: 8, beams };
        let found = engine.constrain(&prompt, &phrases, &mut || ControlFlow::Continue(())).unwrap().unwrap();
        let mut tokens = Vec::new();
        for text in &phrases.texts {
            let phrase = engine.processor().tokenizer.encode(text, false).unwrap();
            let (mean, before) = best_place(&engine, &prompt.followed_by(&tokens), &phrase, &phrases);
            assert!((mean - found.scores[usize::from(!tokens.is_empty())]).abs() < 1e-3, "{mean} {:?}", found.scores);
            tokens.extend(before.into_iter().chain(phrase));
        }
        assert_eq!(found.tokens, tokens);
        assert!(found.text.contains("the answer is") && found.text.ends_with("so"), "{}", found.text);
    }
}

fn best_place(engine: &Engine, prompt: &Prompt, phrase: &[u32], phrases: &Phrases) -> (f64, Vec<u32>) {
    let log_probabilities = |tokens: &[u32]| {
        let mut sequence = Sequence::new(engine.model(), &prompt.followed_by(tokens)).unwrap();
        let logits = sequence.next_logits(512).unwrap();
        let total: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        logits.iter().map(|&x| f64::from(x) - total.ln()).collect::<Vec<f64>>()
    };
    let mut best = (f64::NEG_INFINITY, Vec::new());
    let mut offer = |said: &[u32], sum: f64| {
        let mut tokens = said.to_vec();
        let mut sum = sum;
        for &id in phrase {
            sum += log_probabilities(&tokens)[id as usize];
            tokens.push(id);
        }
        if sum / tokens.len() as f64 > best.0 {
            best = (sum / tokens.len() as f64, said.to_vec());
        }
    };
    let (mut said, mut sum) = (Vec::new(), 0.0);
    loop {
        offer(&said, sum);
        if said.len() == phrases.within {
            return best;
        }
        let next = log_probabilities(&said);
        let mut ranked: Vec<u32> = (0..next.len() as u32).collect();
        ranked.sort_by(|&a, &b| next[b as usize].total_cmp(&next[a as usize]));
        if phrases.beams {
            for &token in &ranked[1..3] {
                offer(&[&said[..], &[token]].concat(), sum + next[token as usize]);
            }
        }
        sum += next[ranked[0] as usize];
        said.push(ranked[0]);
    }
}
