//! Fine-tuning a pretrained model on the task that comes with the project.

use super::*;

/// Rows of the test that are answered word for word, as a share.
fn rows_right(adapter: Option<&Path>) -> f64 {
    let mut test = Command::new(cargo_bin!("phi3v"));
    test.args(["lora", "test", "--json", "--quiet", "--model"]).arg(smollm2_gguf());
    test.arg("--data").arg(root().join("demo/kinds"));
    if let Some(adapter) = adapter {
        test.arg("--adapter").arg(adapter);
    }
    let report: serde_json::Value = serde_json::from_slice(&test.output().unwrap().stdout).unwrap();
    println!("{report}");
    report["rows_right"].as_f64().unwrap() / report["rows"].as_f64().unwrap()
}

/// The command in the README.
#[test]
fn a_pretrained_model_learns_kinds_of_things() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = folder.path().join("adapters");
    let mut train = Command::new(cargo_bin!("phi3v"));
    train.args(["lora", "--batch-size", "8", "--learning-rate", "3e-4", "--plot", "--model"]).arg(smollm2_gguf());
    run(train.arg("--data").arg(root().join("demo/kinds")).arg("--adapter-path").arg(&adapter));
    // Of four kinds a guess is right once in four times.
    assert!(rows_right(None) <= 0.25);
    assert!(rows_right(Some(&adapter)) >= 0.9);
}
