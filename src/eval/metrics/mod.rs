//! How right an answer is, and how good a caption: the published metrics, with the numbers of their published
//! implementations (`tests/golden/metrics` has what those compute).

mod anls;
mod answer;
pub mod bleu;
mod cider;
mod ngrams;
mod ptb;
mod relaxed;
pub mod rouge;
mod squad;
mod vqa;

pub use answer::AnswerMetric;
pub use cider::Cider;
