//! Many rows, killed many times.

#[path = "../suite/jsonl/killed.rs"]
mod killed;

#[test]
fn a_thousand_rows_survive_ten_kills() {
    killed::kill_and_resume(1000, 10);
}
