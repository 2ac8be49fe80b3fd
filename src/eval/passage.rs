//! Texts to predict: rows as for training, or windows of a file of text.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use super::record::Record;
use crate::checkpoint::identity::hex;
use crate::dataset::Example;
use crate::processor::{Processor, Segment};
use crate::rows::{Rows, Selection};

/// Of a text, so much is shown.
const SHOWN: usize = 200;

/// Something to read and predict.
#[derive(Debug, Clone, PartialEq)]
pub struct Passage {
    /// What will be known of it; the scores `tokens` and `bytes` tell how much there is to predict.
    pub record: Record,
    /// What is read.
    pub example: Example,
}

/// How a text is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// Positions of a window.
    pub window: usize,
    /// Tokens that a window predicts; what stands before them in the window is only read. None for all but the first.
    pub stride: Option<usize>,
}

impl Windows {
    /// Windows of a text, each of which predicts its last tokens: all of the text but its first token are predicted once,
    /// and that, too, where the tokenizer begins texts with a token of its own. Every window begins with that.
    ///
    /// # Errors
    /// When the file cannot be read, is no UTF-8, or has nothing to predict, or windows are too short.
    pub fn read(&self, path: &Path, processor: &Processor, selection: &Selection) -> Result<Rows<Passage>> {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let sha256 = hex(&Sha256::digest(&bytes));
        let text = String::from_utf8(bytes)
            .map_err(|error| error.utf8_error())
            .with_context(|| format!("{} is no text in UTF-8", path.display()))?;
        let good = self.cut(&text, path.into(), processor, selection)?;
        ensure!(!good.is_empty(), "{} holds no text to predict", path.display());
        Ok(Rows { good, bad: Vec::new(), sha256 })
    }

    fn cut(&self, text: &str, file: Arc<Path>, processor: &Processor, selection: &Selection) -> Result<Vec<Passage>> {
        let start = processor.tokenizer.encode("", true)?; // a BOS, for most
        let most = self.window.saturating_sub(start.len().max(1));
        ensure!(most > 0, "a window of {} has nothing to predict; {} at least", self.window, 1 + start.len().max(1));
        let stride = self.stride.unwrap_or(most);
        ensure!(
            (1..=most).contains(&stride),
            "a stride of {stride} in windows of {}: from 1 to {most} tokens can be predicted by a window",
            self.window
        );
        let (ids, ends) = processor.tokenizer.encode_with_ends(text)?;
        // Without a token before it, a text's first one cannot be predicted.
        let first = usize::from(start.is_empty());
        let windows = (first..ids.len()).step_by(stride).map(|from| from..ids.len().min(from + stride));
        let wanted = selection.of(windows.len());
        let chosen = windows.zip(1..).zip(wanted).filter(|(_, wanted)| *wanted);
        let passages = chosen.map(|((predicted, row), _)| {
            let before = predicted.end.saturating_sub(self.window - start.len());
            let bytes = ends[..predicted.start].last().copied().unwrap_or(0)..ends[predicted.end - 1];
            let read: Vec<u32> = start.iter().chain(&ids[before..predicted.end]).copied().collect();
            let record = Record {
                row,
                prompt: text.get(bytes.clone()).unwrap_or_default().chars().take(SHOWN).collect(),
                scores: counts(predicted.len(), bytes.len()),
                ..Record::default()
            };
            let supervised = read.len() - predicted.len()..read.len();
            Passage { record, example: Example::of_text(file.clone(), row, read, supervised) }
        });
        Ok(passages.collect())
    }
}

impl Passage {
    /// Of a row.
    pub fn of(example: Example, processor: &Processor) -> Result<Self> {
        let ids = example.ids();
        let predicted = example.supervised.iter().cloned().flatten().filter_map(|at| ids[at]).collect::<Vec<_>>();
        let text = processor.tokenizer.decode(&predicted, false)?;
        let read: Vec<u32> = example.segments.iter().flat_map(Segment::ids).copied().collect();
        let record = Record {
            row: example.row,
            prompt: processor.tokenizer.decode(&read, true)?.chars().take(SHOWN).collect(),
            images: example.images.iter().map(|image| image.source.name()).collect(),
            scores: counts(predicted.len(), text.len()),
            ..Record::default()
        };
        Ok(Self { record, example })
    }
}

fn counts(tokens: usize, bytes: usize) -> BTreeMap<String, f64> {
    [("tokens".to_owned(), tokens as f64), ("bytes".to_owned(), bytes as f64)].into()
}
