//! What is written: results that runs go on with, comparisons, and the page.

use std::fs;
use std::ops::ControlFlow;

use phi3v::checkpoint::ModelFiles;
use phi3v::engine::sampler::Sampling;
use phi3v::engine::{Engine, EngineOptions};
use phi3v::eval::ask::{self, Asking};
use phi3v::eval::metrics::AnswerMetric;
use phi3v::eval::summary::{Compared, Summary};
use phi3v::eval::task::Task;
use phi3v::models;
use phi3v::processor::ImageSizes;
use phi3v::processor::images::ImageLimits;
use phi3v::rows::{Defaults, Fields};
use serde_json::{Value, json};

use super::folder::{Folder, strs, value};
use crate::common::{crops, golden, path, phi3v, succeeds, text};

fn rows() -> Folder {
    let row = |at: usize| match at % 3 {
        0 => json!({"text": format!("Row {at} is about {} things and no others.", at * at)}),
        1 => json!({"prompt": format!("Count to {at}"), "completion": "One, two."}),
        _ => json!({"question": "Why?", "answer": format!("Because of {at}.")}),
    };
    Folder::with(&(0..12).map(row).collect::<Vec<Value>>())
}

#[test]
fn a_run_goes_on_where_it_ended() {
    let folder = rows();
    let args = ["-o", "@out.jsonl"];
    let whole_summary = folder.eval("perplexity", &args);
    let whole = fs::read(folder.path("out.jsonl")).unwrap();
    for len in [0, 1, whole.len() / 3, whole.len() / 2, whole.len() - 1, whole.len()] {
        fs::write(folder.path("out.jsonl"), &whole[..len]).unwrap();
        let summary = folder.eval("perplexity", &[&args[..], &["--resume"]].concat());
        assert!(fs::read(folder.path("out.jsonl")).unwrap() == whole, "{len}");
        assert_eq!(summary, whole_summary);
    }
    fs::write(folder.path("out.jsonl"), &whole[..whole.len() / 2]).unwrap();
    let refused = |more: &[&str], expected: &str| {
        let error = folder.error("perplexity", &[&args[..], &["--resume"], more].concat());
        assert!(error.contains(expected), "{more:?}: {error}");
    };
    refused(&["--limit", "5"], "another rows");
    refused(&["--max-seq-length", "500"], "another texts");
    refused(&["--adapter", path(&golden("phi3v-tiny/lora"))], "another adapters");
    assert!(
        folder.error("vqa", &[&args[..], &["--resume", "--data", "@rows.jsonl"]].concat()).contains("rows are bad")
    );
    folder.write("rows.jsonl", &[json!({"text": "Other words."})]);
    refused(&[], "another input");
}

#[test]
fn random_rows_are_the_same_for_a_seed() {
    let folder = rows();
    let chosen = |more: &[&str]| {
        folder.eval("perplexity", &[&["-o", "@out.jsonl", "--force", "--limit", "4"], more].concat());
        folder.records("out.jsonl").iter().map(|record| record["row"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(chosen(&[]), [1, 2, 3, 4]);
    let random = chosen(&["--shuffle", "--seed", "3"]);
    assert_eq!(random, chosen(&["--shuffle", "--seed", "3"]));
    assert!(random.is_sorted() && random != [1, 2, 3, 4]);
    assert_ne!(random, chosen(&["--shuffle", "--seed", "4"]));
}

#[test]
fn models_and_earlier_results_are_compared_row_by_row() {
    let folder = rows();
    let packed = folder.arg("packed");
    let tiny = golden("phi3v-tiny");
    succeeds(&["convert", "--hf-path", path(&tiny), "--mlx-path", &packed, "-q", "--q-bits", "2", "--quiet"]);
    let args = ["--model", &packed, "--compare", path(&tiny), "-o", "@out.jsonl"];
    let summary = folder.eval("perplexity", &args);
    let figure = &summary["comparison"]["figures"][0];
    assert_eq!(figure["rows"], 12);
    let tiny_alone = value(&folder.eval("perplexity", &[]), "perplexity");
    assert_eq!(figure["theirs"], tiny_alone);
    let difference = figure["difference"].as_f64().unwrap();
    assert!((difference - (value(&summary, "perplexity") - tiny_alone)).abs() < 1e-9);
    let interval: Vec<f64> = figure["interval"].as_array().unwrap().iter().map(|end| end.as_f64().unwrap()).collect();
    assert!(interval[0] <= difference && difference <= interval[1], "{figure}");
    let sentence = summary["comparison"]["sentences"][0].as_str().unwrap();
    assert!(sentence.contains("packed") && sentence.contains("phi3v-tiny") && sentence.contains("95 %"), "{sentence}");

    // What the other model's run wrote serves as well.
    assert_eq!(folder.records("out.other.jsonl").len(), 12);
    let again = folder.eval("perplexity", &["--model", &packed, "--compare", "@out.other.jsonl"]);
    assert_eq!(again["comparison"]["figures"], summary["comparison"]["figures"]);
    // Of some of the rows, too; of other data, or of another kind, it does not.
    let some = folder.eval("perplexity", &["--model", &packed, "--compare", "@out.other.jsonl", "--limit", "5"]);
    assert_eq!(some["comparison"]["figures"][0]["rows"], 5);
    fs::copy(folder.path("out.other.jsonl"), folder.path("earlier.out")).unwrap();
    fs::copy(folder.path("out.other.jsonl.state"), folder.path("earlier.out.state")).unwrap();
    let named = folder.eval("perplexity", &["--model", &packed, "--compare", "@earlier.out"]);
    assert_eq!(named["comparison"]["figures"], summary["comparison"]["figures"]);
    folder.write("others.jsonl", &[json!({"text": "Other words."})]);
    let error = folder.error("perplexity", &["--data", "@others.jsonl", "--compare", "@out.other.jsonl"]);
    assert!(error.contains("it is of other data"), "{error}");
    let error = folder.error("kl", &["--reference", path(&tiny), "--compare", "@out.other.jsonl"]);
    assert!(error.contains("it is of phi3v eval perplexity, not kl"), "{error}");
}

#[test]
fn captions_are_compared_among_the_same_rows() {
    let folder = Folder::new();
    for (name, color) in [("red.png", [200, 0, 0]), ("blue.png", [0, 0, 200]), ("green.png", [0, 200, 0])] {
        folder.image(name, color);
    }
    let row = |name: &str, caption: &str| json!({"image": format!("{name}.png"), "caption": caption});
    folder.write("rows.jsonl", &[row("red", "a red field"), row("blue", "a blue sky"), row("green", "some grass")]);
    folder.eval("caption", &["-n", "4", "-o", "@out.jsonl"]);
    // What is rare among two of the rows is another thing than among all.
    let compared = folder.eval("caption", &["-n", "4", "--limit", "2", "--compare", "@out.jsonl"]);
    assert_eq!(compared["comparison"]["rows"], 2);
    for figure in compared["comparison"]["figures"].as_array().unwrap() {
        assert_eq!(figure["difference"], 0.0, "{figure}");
    }
}

#[test]
fn other_tokens_are_not_compared_as_if_they_were_the_same() {
    let folder = Folder::with(&[
        json!({"prompt": "Count", "completion": "One, two, three."}),
        json!({"prompt": "Say it", "completion": "Immeasurable happiness."}),
    ]);
    let (llama, qwen2) = (golden("text/llama"), golden("text/qwen2"));
    let args = ["--model", path(&llama), "--compare", path(&qwen2), "-o", "@out.jsonl"];
    let summary = folder.eval("perplexity", &args);
    let tokens =
        |name: &str| folder.records(name).iter().map(|record| record["scores"]["tokens"].clone()).collect::<Vec<_>>();
    assert_ne!(tokens("out.jsonl"), tokens("out.other.jsonl"));
    let figures = summary["comparison"]["figures"].as_array().unwrap();
    assert_eq!(figures.iter().map(|figure| &figure["name"]).collect::<Vec<_>>(), ["bits per byte"]);

    fs::write(folder.path("text.txt"), "Some words to read, and more of them, and some more still.").unwrap();
    folder.eval("perplexity", &["--data", "@text.txt", "--window", "16", "-o", "@windows.jsonl"]);
    let other = ["--data", "@text.txt", "--window", "12", "--compare", "@windows.jsonl"];
    let error = folder.error("perplexity", &other);
    assert!(error.contains("predicts another part of the text"), "{error}");
}

#[test]
fn a_row_that_fails_on_the_way_does_not_count() {
    let folder = Folder::new();
    folder.image("red.png", [200, 0, 0]);
    let files = ModelFiles::read(&golden("phi3v-tiny")).unwrap();
    let model = models::load(&files, None, |_, _| ()).unwrap();
    let processor = models::processor(&files).unwrap();
    let asking = Asking {
        defaults: Defaults {
            system: None,
            chat_template: true,
            max_tokens: 2,
            sampling: Sampling::default(),
            stop: Vec::new(),
            image_options: crops(1),
            limits: ImageLimits::default(),
            grammar: None,
            early_stop: None,
        },
        prompt: None,
        instruction: None,
        max_position_embeddings: 4096,
    };
    let mut sizes = ImageSizes::new(ImageLimits::default());
    let rows = [r#"{"prompt": "Hi", "answer": "."}"#, r#"{"prompt": "Hi", "answer": ".", "image": "red.png"}"#];
    let asked: Vec<_> = rows
        .iter()
        .zip(1..)
        .map(|(row, number)| {
            let fields = Fields::parse(row.as_bytes()).unwrap();
            asking.read(number, fields, &folder.path(""), &processor, &mut sizes).unwrap().0
        })
        .collect();
    fs::remove_file(folder.path("red.png")).unwrap();
    let engine = Engine::new(model, processor, &files, EngineOptions::default()).unwrap();
    let task = Task::Vqa(vec![AnswerMetric::Regex]);
    let judge = task.judge(asked.iter().map(|asked| &asked.record));
    let mut records = Vec::new();
    let mut on_record = |record| {
        records.push(record);
        Ok(())
    };
    let go_on = &mut |_| ControlFlow::Continue(());
    assert!(ask::answer(&engine, &asked, &asking.defaults, &judge, &mut on_record, go_on).unwrap());
    assert!(records[1].error.as_ref().unwrap().contains("red.png"), "{records:?}");
    let summary = Summary::new(&task, "tiny", &records, 0).unwrap();
    assert_eq!((summary.rows, summary.failed), (1, 1));
    let compared = Compared::new(&task, ["tiny", "tiny"], &records, &records, 0).unwrap();
    assert_eq!(compared.rows, 1);
    assert!(Summary::new(&task, "tiny", &records[1..], 0).unwrap_err().to_string().contains("row 2: "));
}

#[test]
fn the_page_shows_what_went_wrong() {
    let folder = Folder::new();
    folder.image("red.png", [200, 0, 0]);
    folder.write(
        "rows.jsonl",
        &[
            json!({"question": "<script>What?</script>", "image": "red.png", "answer": "a & b"}),
            json!({"question": "Hm?", "answer": ".*", "_": 1}),
        ],
    );
    let args = folder.args("vqa", &["--metric", "regex", "-n", "3", "--report", "@page.html"]);
    let (stdout, _) = succeeds(&strs(&args));
    assert!(stdout.contains("regex") && stdout.contains("50.0 %"), "{stdout}");
    let page = fs::read_to_string(folder.path("page.html")).unwrap();
    assert!(
        page.contains("&lt;script&gt;What?&lt;") && page.contains("a &amp; b") && !page.contains("<script"),
        "{page}"
    );
    assert!(page.contains("src=\"data:image/jpeg;base64,") && page.contains("Not wholly right: 1 of 2 rows"));
    // Nothing is fetched from elsewhere.
    assert!(!page.contains("http://") && !page.contains("https://"));
}

#[cfg(unix)]
#[test]
fn ctrl_c_says_how_far_it_came() {
    use std::process::{Command, Stdio};

    let folder =
        Folder::with(&(0..400).map(|at| json!({"prompt": format!("Row {at}"), "answer": "x"})).collect::<Vec<_>>());
    let args = folder.args("vqa", &["-n", "20", "-o", "@out.jsonl"]);
    let child = phi3v(&strs(&args)).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = || fs::read_to_string(folder.path("out.jsonl")).unwrap_or_default().lines().count();
    while lines() < 5 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(Command::new("sh").arg("-c").arg(format!("kill -INT {}", child.id())).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains(&format!("interrupted; {} of 400 rows are done, --resume continues", lines())), "{stderr}");
    assert!((5..400).contains(&lines()));
}
