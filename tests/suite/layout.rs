//! The arrows between the folders of `src/` point one way.

use std::fs;
use std::path::{Path, PathBuf};

/// The files and folders of the library from the lowest to the highest: each may use those before it. The command
/// (`main.rs`, `ui.rs`, `interrupt.rs` and `commands/`) comes after all of them, and uses the library as any program would.
const ORDER: [&str; 19] = [
    "text",
    "http",
    "device",
    "parallel",
    "checkpoint",
    "adapter",
    "nn",
    "processor",
    "cache",
    "models",
    "memory",
    "engine",
    "rows",
    "dataset",
    "convert",
    "train",
    "eval",
    "bench",
    "verify",
];
const COMMAND: [&str; 5] = ["main", "ui", "interrupt", "commands", "lib"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The top-level modules that a file names after `crate::`, with the lines; comments do not count.
fn used(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let code = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
    code.flat_map(|(at, line)| {
        let names = line.match_indices("crate::").map(move |(start, prefix)| {
            let name = &line[start + prefix.len()..];
            &name[..name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len())]
        });
        names.map(move |name| (at + 1, name))
    })
}

#[test]
fn imports_point_one_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    let mut seen = 0;
    for file in &files {
        let inner = file.strip_prefix(&root).unwrap();
        let top = inner.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if COMMAND.contains(&top) {
            continue;
        }
        let level = |name: &str| ORDER.iter().position(|known| *known == name);
        let own = level(top).unwrap_or_else(|| panic!("{top} has no place in ORDER"));
        for (line, name) in used(&fs::read_to_string(file).unwrap()) {
            // Items of lib.rs itself have no level.
            let Some(other) = level(name) else { continue };
            seen += 1;
            if other > own {
                wrong.push(format!("src/{}:{line}: {top} uses {name}", inner.display()));
            }
        }
    }
    assert!(seen > 300, "only {seen} uses were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_arrow_that_points_up_is_found() {
    let text = "// crate::engine\nuse crate::nn::Linear;\nlet x = crate::engine::Engine::new(crate::text::list);\n";
    assert_eq!(used(text).collect::<Vec<_>>(), [(2, "nn"), (3, "engine"), (3, "text")]);
}
