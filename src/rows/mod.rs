//! Files of prompts, one JSON object a line or rows of Parquet: read one after the other, answered together, written in
//! their order, and taken up again where a run ended.

mod check;
mod fields;
mod file;
mod lines;
mod message;
mod output;
mod parquet;
mod row;
mod serve;
mod state;

pub use check::{BadRow, Checked, Rows, Selection, check};
pub use fields::Fields;
pub use file::{RowFile, Scan, folder_of};
pub use lines::Lines;
pub(crate) use message::{RowImages, conversation, source};
pub use output::{Outcome, Output};
pub use row::{Ask, Defaults, Row};
pub use serve::serve;
pub use state::State;
