//! What is held out, hidden and shuffled.

use phi3v::dataset::{DataFiles, MaskRatios, Order, Splits};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;

use super::*;

fn texts(count: usize) -> Vec<Value> {
    (0..count).map(|at| json!({"text": format!("This is row {at}")})).collect()
}

fn splits(model: &Model, data: &Path) -> Splits {
    let files = DataFiles::find(data).unwrap();
    let mut reader = Reader::new(&model.processor, &model.settings);
    Splits::read(&files, &mut reader, &mut |_| ControlFlow::Continue(())).unwrap().unwrap()
}

#[test]
fn folders_and_files_of_rows_are_found() {
    let model = Model::new(&golden("phi3v-tiny"));
    let rows = Rows::new(&texts(3));
    let file = DataFiles::find(&rows.path("rows.jsonl")).unwrap();
    assert_eq!(file, DataFiles { train: rows.path("rows.jsonl"), valid: None, test: None });
    file.check_val_split(0.5).unwrap();

    let error = DataFiles::find(rows.0.path()).unwrap_err().to_string();
    assert!(
        error.contains("has no train.jsonl; looked for train.jsonl, and for valid.jsonl and test.jsonl"),
        "{error}"
    );
    assert!(DataFiles::find(&rows.path("nowhere")).unwrap_err().to_string().starts_with("there is no "));

    rows.write("train.jsonl", &texts(4));
    rows.write("valid.jsonl", &["{}"]);
    let files = DataFiles::find(rows.0.path()).unwrap();
    assert_eq!(files.test, None);
    let error = files.check_val_split(0.1).unwrap_err().to_string();
    assert!(error.contains("valid.jsonl is there for validation already"), "{error}");
    assert!(file.check_val_split(1.0).is_err() && file.check_val_split(0.0).is_err());
    let read = splits(&model, rows.0.path());
    assert_eq!((read.train.good.len(), read.valid.as_ref().unwrap().good.len()), (4, 0));
    assert_eq!(read.bad().map(|bad| bad.row).collect::<Vec<_>>(), [1]);
}

#[test]
fn what_is_held_out_is_not_learned_and_the_same_again() {
    let model = Model::new(&golden("phi3v-tiny"));
    let rows = Rows::new(&texts(20));
    let numbers = |examples: &[Example]| examples.iter().map(|example| example.row).collect::<Vec<_>>();
    let held = |share: f64, seed: u64| {
        let mut splits = splits(&model, &rows.path("rows.jsonl"));
        splits.hold_out(share, seed).unwrap();
        (numbers(&splits.train.good), numbers(&splits.valid.unwrap().good))
    };
    for (share, count) in [(0.25, 5), (0.001, 1), (0.999, 19)] {
        let (train, valid) = held(share, 1);
        assert_eq!(valid.len(), count);
        let mut all = [train, valid].concat();
        all.sort_unstable();
        assert_eq!(all, (1..=20).collect::<Vec<_>>());
    }
    assert_eq!(held(0.5, 3), held(0.5, 3));
    assert_ne!(held(0.5, 3), held(0.5, 4));

    rows.write("rows.jsonl", &texts(1));
    let error = splits(&model, &rows.path("rows.jsonl")).hold_out(0.5, 0).unwrap_err().to_string();
    assert_eq!(error, "val-split 0.5: of 1 good row none can be held out");
}

#[test]
fn hidden_tokens_are_left_out_and_the_others_keep_their_positions() {
    let model = Model::new(&golden("phi3v-tiny"));
    let question = "Which of all the many colours that there are in the world is this one?";
    let rows = Rows::new(&[
        json!({"question": question, "answer": "Blue.", "image": "images/a.png"}),
        json!({"question": question, "answer": "Blue."}),
    ]);
    let assistant = model.processor.tokenizer.id("<|assistant|>").unwrap();
    for (example, first) in model.examples(&rows).iter().zip([315 + 3, 3]) {
        let ids = example.ids();
        let end = ids.iter().rposition(|&id| id == Some(assistant)).unwrap() - 3;
        let hidden = example.hide(0.5, &mut ChaCha12Rng::seed_from_u64(5));
        let positions: Vec<usize> = hidden.positions.as_ref().unwrap().iter().map(|&at| at as usize).collect();
        assert_eq!(hidden.len(), example.len() - (end - first) / 2);
        assert_eq!(hidden.ids(), positions.iter().map(|&at| ids[at]).collect::<Vec<_>>());
        assert!(positions.is_sorted());
        assert!((0..ids.len()).all(|at| positions.contains(&at) || (first..end).contains(&at)));
        // What is predicted is the same, at the same positions.
        let predicted = |example: &Example, positions: &[usize]| -> Vec<_> {
            let labels = example.labels().into_iter().zip(positions.to_vec());
            labels.filter(|(label, _)| label.is_some()).collect()
        };
        assert_eq!(predicted(&hidden, &positions), predicted(example, &(0..ids.len()).collect::<Vec<_>>()));
        assert!((f64::from(hidden.weight) - 1e-5).abs() < 1e-9);
        assert_eq!(hidden, example.hide(0.5, &mut ChaCha12Rng::seed_from_u64(5)));
        assert_ne!(hidden, example.hide(0.5, &mut ChaCha12Rng::seed_from_u64(6)));
        assert_eq!(example.hide(0.0, &mut ChaCha12Rng::seed_from_u64(5)).ids(), ids);
    }
}

#[test]
fn mask_ratios_repeat_rows() {
    let model = Model::new(&golden("phi3v-tiny"));
    let tokenizer = &model.processor.tokenizer;
    let rows = Rows::new(&[
        json!({"question": "Is this a long question or a short one?", "answer": "Long."}),
        json!({"text": "nothing to hide"}),
    ]);
    let examples = model.examples(&rows);
    let repeated = MaskRatios::new(vec![0.1, 0.3], tokenizer, true).unwrap().apply(&examples, 1);
    assert_eq!(repeated.iter().map(|example| example.row).collect::<Vec<_>>(), [1, 1, 1, 2, 2, 2]);
    assert_eq!(repeated[0], examples[0]);
    assert!(repeated[2].len() < repeated[1].len() || repeated[1].len() < repeated[0].len());
    assert_eq!(repeated[5].ids(), examples[1].ids());
    for (example, weight) in repeated.iter().zip([1.0, 0.1, 0.001].into_iter().cycle()) {
        assert!((example.weight - weight).abs() < 1e-7);
    }

    let refused = |ratio, tokenizer, mask| MaskRatios::new(vec![ratio], tokenizer, mask).unwrap_err().to_string();
    assert_eq!(refused(1.0, tokenizer, true), "mask-ratios 1: a number from 0 to below 1 is expected");
    assert!(refused(-0.1, tokenizer, true).contains("-0.1") && refused(f64::NAN, tokenizer, true).contains("NaN"));
    assert!(refused(0.5, tokenizer, false).contains("prompts"));
    let other = Model::new(&golden("text/qwen2")).processor.tokenizer;
    assert!(refused(0.5, &other, true).contains("the model has no token <|assistant|>"));
}

#[test]
fn an_order_makes_sense() {
    assert_eq!(Order::new(0, 0, None).unwrap_err().to_string(), "batch-size is 0: nothing would be learned");
    assert!(Order::new(0, 1, Some(0)).unwrap_err().to_string().starts_with("pack is 0"));
    let order = Order::new(7, 2, None).unwrap();
    assert_eq!(order.batches(&[5, 1, 4, 2, 3], 3), Order::new(7, 2, None).unwrap().batches(&[5, 1, 4, 2, 3], 3));
}
