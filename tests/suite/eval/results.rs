//! What is written: results that runs go on with, comparisons, and the page.

use std::fs;

use serde_json::{Value, json};

use super::folder::{Folder, strs, value};
use crate::common::{golden, path, succeeds};

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
    folder.write("others.jsonl", &[json!({"text": "Other words."})]);
    let error = folder.error("perplexity", &["--data", "@others.jsonl", "--compare", "@out.other.jsonl"]);
    assert!(error.contains("it is of other data"), "{error}");
    let error = folder.error("kl", &["--reference", path(&tiny), "--compare", "@out.other.jsonl"]);
    assert!(error.contains("it is of phi3v eval perplexity, not kl"), "{error}");
}

#[test]
fn the_page_shows_what_went_wrong() {
    let folder = Folder::new();
    folder.picture("red.png", [200, 0, 0]);
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
    assert!(page.contains("src=\"data:image/jpeg;base64,") && page.contains("Not right: 1 of 2 rows"));
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
    let child = crate::common::phi3v(&strs(&args)).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = || fs::read_to_string(folder.path("out.jsonl")).unwrap_or_default().lines().count();
    while lines() < 5 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(Command::new("sh").arg("-c").arg(format!("kill -INT {}", child.id())).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let stderr = crate::common::text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains(&format!("interrupted; {} of 400 rows are done, --resume continues", lines())), "{stderr}");
    assert!((5..400).contains(&lines()));
}
