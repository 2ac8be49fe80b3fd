//! Files of prompts, one JSON object a line: read one after the other, answered together, written in their order, and
//! taken up again where a run ended.

mod fields;
mod file;
mod message;
mod output;
mod row;
mod serve;
mod state;

pub use fields::Fields;
pub use file::{RowFile, Scan};
pub(crate) use message::{Pictures, conversation};
pub use output::{Outcome, Output};
pub use row::{Ask, Defaults, Row};
pub use serve::{Progress, serve};
pub use state::State;
