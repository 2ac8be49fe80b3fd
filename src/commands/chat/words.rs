//! Words as shells write them, and images among them: terminals write the path of a file that is dropped on them, in
//! quotes or with backslashes.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use phi3v::processor::images::is_image;
use url::Url;

/// A word without its quotes.
#[derive(Debug, PartialEq, Eq)]
struct Word {
    text: String,
    /// Whether there were quotes or backslashes.
    quoted: bool,
}

/// The first word and what follows it; none if there is none.
fn first_word(text: &str) -> Result<Option<(Word, &str)>> {
    let text = text.trim_start();
    if text.starts_with("file:") {
        // An address has no quotes; an apostrophe is one.
        let (word, rest) = text.split_at(text.find(char::is_whitespace).unwrap_or(text.len()));
        return Ok(Some((Word { text: word.to_owned(), quoted: false }, rest)));
    }
    let mut word = Word { text: String::new(), quoted: false };
    let mut quote = None;
    let mut characters = text.char_indices();
    let mut end = text.len();
    while let Some((at, c)) = characters.next() {
        match quote {
            None if c.is_whitespace() => {
                end = at;
                break;
            }
            None if c == '"' || c == '\'' => quote = Some(c),
            Some(open) if c == open => quote = None,
            // Windows has backslashes in paths.
            None | Some('"') if c == '\\' && cfg!(not(windows)) => match characters.next() {
                Some((_, c)) => word.text.push(c),
                None => bail!("the \\ at the end escapes nothing"),
            },
            _ => {
                word.text.push(c);
                continue;
            }
        }
        word.quoted = true;
    }
    if let Some(quote) = quote {
        bail!("a {quote} is not closed");
    }
    Ok((!word.text.is_empty() || word.quoted).then_some((word, &text[end..])))
}

/// The files and addresses that are named after a command. What is a file as it stands needs no quotes.
pub(super) fn sources(text: &str) -> Result<Vec<String>> {
    let text = text.trim();
    if Path::new(text).exists() {
        return Ok(vec![text.to_owned()]);
    }
    let mut sources = Vec::new();
    let mut rest = text;
    while let Some((word, after)) = first_word(rest)? {
        sources.push(source(&word).into_owned());
        rest = after;
    }
    Ok(sources)
}

/// The one file that is named after a command.
pub(super) fn file(text: &str) -> Result<PathBuf> {
    match &sources(text)?[..] {
        [] => bail!("name a file"),
        [file] => Ok(file.into()),
        [first, ..] => bail!("one file is expected, and {first} is followed by more; put a name with spaces in quotes"),
    }
}

/// A `file:` address becomes a path, and `~` the home.
fn source(word: &Word) -> Cow<'_, str> {
    let path = if word.text.starts_with("file:") {
        Url::parse(&word.text).ok().and_then(|url| url.to_file_path().ok())
    } else if !word.quoted
        && let Some(below) = word.text.strip_prefix("~/")
    {
        std::env::home_dir().map(|home| home.join(below))
    } else {
        None
    };
    path.map_or(Cow::Borrowed(&word.text), |path| Cow::Owned(path.display().to_string()))
}

/// Images that were dropped on the line, and the question that follows them: a line of nothing but images, or one that
/// begins with images that nobody would type so, in quotes or with their whole path.
pub(super) fn dropped(line: &str) -> Option<(Vec<String>, &str)> {
    let line = line.trim();
    if is_image(Path::new(line)) {
        return Some((vec![line.to_owned()], ""));
    }
    let mut images = Vec::new();
    let mut meant = true;
    let mut rest = line;
    // An apostrophe that is not closed ends the search, too.
    while let Ok(Some((word, after))) = first_word(rest) {
        let source = source(&word).into_owned();
        if !is_image(Path::new(&source)) {
            break;
        }
        meant &= word.quoted || Path::new(&source).is_absolute();
        images.push(source);
        rest = after;
    }
    let question = rest.trim();
    (!images.is_empty() && (meant || question.is_empty())).then_some((images, question))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn words(text: &str) -> Result<Vec<String>> {
        sources(text)
    }

    #[cfg(unix)]
    #[test]
    fn words_are_those_of_a_shell() {
        assert_eq!(words(r#" a\ b 'c d' "e\"f" g'h'"i" "#).unwrap(), ["a b", "c d", "e\"f", "ghi"]);
        assert_eq!(words(r"'a\b' ''").unwrap(), [r"a\b", ""]);
        assert_eq!(
            words("file:///tmp/a%20b.png https://x.org/a%20b").unwrap(),
            ["/tmp/a b.png", "https://x.org/a%20b"]
        );
        assert!(words("'a").unwrap_err().to_string().contains("' is not closed"));
        assert!(words("a\\").unwrap_err().to_string().contains("escapes nothing"));
        assert!(file("a b").unwrap_err().to_string().contains("one file is expected"));
        assert!(file(" ").unwrap_err().to_string().contains("name a file"));
    }

    #[cfg(unix)]
    #[test]
    fn dropped_images_are_told_from_questions() {
        let folder = tempfile::tempdir().unwrap();
        let spaced = folder.path().join("my cat's.png");
        let plain = folder.path().join("cat.png");
        let text = folder.path().join("note.txt");
        let png = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/images/alpha.png")).unwrap();
        std::fs::write(&spaced, &png).unwrap();
        std::fs::write(&plain, &png).unwrap();
        std::fs::write(&text, "plain text").unwrap();
        let (spaced, plain, text) = (spaced.display().to_string(), plain.display().to_string(), text.display());
        let escaped = spaced.replace(' ', "\\ ").replace('\'', "\\'");
        let url = format!("file://{}", spaced.replace(' ', "%20"));

        let both = vec![spaced.clone(), plain.clone()];
        assert_eq!(dropped(&spaced), Some((vec![spaced.clone()], "")));
        assert_eq!(dropped(&format!("{escaped} '{plain}' ")), Some((both.clone(), "")));
        assert_eq!(dropped(&format!("\"{spaced}\" {plain}")), Some((both, "")));
        assert_eq!(dropped(&format!("{url} What's this?")), Some((vec![spaced.clone()], "What's this?")));
        assert_eq!(dropped(&format!("{escaped} What's\nthis?")), Some((vec![spaced], "What's\nthis?")));
        assert_eq!(dropped(&format!("What is {plain}?")), None);
        assert_eq!(dropped(&format!("{text}")), None);
        assert_eq!(dropped("What's this?"), None);
        assert_eq!(dropped("/image cat.png"), None);
        assert_eq!(dropped(""), None);
    }
}
