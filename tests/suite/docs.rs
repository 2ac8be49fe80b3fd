//! The committed man pages and completions are those of the command as it is.

use std::fs;
use std::path::Path;
use std::process::Command;

use assert_cmd::cargo::cargo_bin;

fn phi3v(args: &[&str]) -> Vec<u8> {
    let output = Command::new(cargo_bin!("phi3v")).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}");
    output.stdout
}

/// `UPDATE_DOCS=1` writes what is compared otherwise.
fn assert_current(path: &Path, expected: &[u8]) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, expected).unwrap();
    }
    let found = fs::read(path).unwrap_or_default();
    assert!(found == expected, "{} is out of date: UPDATE_DOCS=1 cargo test --release docs", path.display());
}

#[test]
fn man_pages_are_current() {
    let folder = tempfile::tempdir().unwrap();
    phi3v(&["man", folder.path().to_str().unwrap()]);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert!(names.contains(&"phi3v-generate.1".into()), "{names:?}");
    for name in &names {
        assert_current(&root.join("man").join(name), &fs::read(folder.path().join(name)).unwrap());
    }
    assert_eq!(
        fs::read_dir(root.join("man")).unwrap().count(),
        names.len(),
        "man/ has a page of a command that is gone"
    );
}

#[test]
fn completions_are_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("completions");
    for (shell, file) in [("bash", "phi3v.bash"), ("zsh", "_phi3v"), ("fish", "phi3v.fish")] {
        assert_current(&folder.join(file), &phi3v(&["completions", shell]));
    }
}
