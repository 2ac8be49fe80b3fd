//! What is put to a model.

use std::collections::BTreeMap;

use phi3v::eval::ask::Asked;
use phi3v::eval::choose::Posed;
use phi3v::eval::passage::Passage;
use phi3v::eval::record::Record;
use phi3v::memory::Demand;
use phi3v::processor::images::ImageSource;

/// Rows that are good for a model.
pub(super) enum Items {
    Passages(Vec<Passage>),
    Asked(Vec<Asked>),
    Posed(Vec<Posed>),
}

impl Items {
    /// The rows' numbers.
    pub(super) fn rows(&self) -> Vec<u64> {
        self.records().iter().map(|record| record.row).collect()
    }

    /// What is known of the rows.
    pub(super) fn records(&self) -> Vec<&Record> {
        match self {
            Self::Passages(passages) => passages.iter().map(|passage| &passage.record).collect(),
            Self::Asked(asked) => asked.iter().map(|asked| &asked.record).collect(),
            Self::Posed(posed) => posed.iter().map(|posed| &posed.asked.record).collect(),
        }
    }

    /// The rows' images.
    pub(super) fn images(&self) -> BTreeMap<u64, Vec<ImageSource>> {
        let read = |passage: &Passage| passage.example.images.iter().map(|image| image.source.clone()).collect();
        let images: Vec<Vec<ImageSource>> = match self {
            Self::Passages(passages) => passages.iter().map(read).collect(),
            Self::Asked(asked) => asked.iter().map(|asked| asked.row.images.clone()).collect(),
            Self::Posed(posed) => posed.iter().map(|posed| posed.asked.row.images.clone()).collect(),
        };
        self.rows().into_iter().zip(images).collect()
    }
}

/// How many items there are, and what they ask of a model whose tower computes so many positions for a large image.
pub(super) fn demand(items: &Items, max_tokens: usize, tower_positions: usize) -> (usize, Demand) {
    let asked: Vec<&Asked> = match items {
        Items::Asked(asked) => asked.iter().collect(),
        Items::Posed(posed) => posed.iter().map(|posed| &posed.asked).collect(),
        Items::Passages(_) => Vec::new(),
    };
    let demand = Demand {
        prompt_tokens: asked.iter().map(|asked| asked.positions).max().unwrap_or(0),
        tower_positions: if asked.iter().any(|asked| !asked.row.images.is_empty()) { tower_positions } else { 0 },
        max_tokens,
        ..Demand::default()
    };
    (asked.len(), demand)
}
