//! Figures are those that lm-eval and statsmodels make of the same scores (`tests/golden/metrics/make_metrics.py`).

use phi3v::eval::choose::{By, judge_likelihoods};
use phi3v::eval::record::Record;
use phi3v::eval::statistics::{Kind, Statistic, compare};
use phi3v::eval::task::Task;
use serde_json::Value;

use crate::common::{golden, json_file};

fn recorded(name: &str) -> Value {
    json_file(&golden("metrics/metrics.json"))[name].take()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(number).collect()
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * b.abs().max(1.0)
}

fn zeros_and_ones(ones: &Value) -> Statistic {
    let parts = numbers(ones).into_iter().map(|one| vec![one, 1.0]).collect();
    Statistic { name: "accuracy", parts, value: |sums| sums[0] / sums[1], kind: Kind::Binary, higher_is_better: true }
}

#[test]
fn accuracies_are_those_of_lm_eval() {
    let recorded = recorded("choice");
    let judged = recorded["rows"].as_array().unwrap().iter().zip(1..).map(|(row, number)| {
        let options: Vec<String> = serde_json::from_value(row["options"].clone()).unwrap();
        let right = options[row["right"].as_u64().unwrap() as usize].clone();
        let record = Record { row: number, options: options.clone(), references: vec![right], ..Record::default() };
        let record = judge_likelihoods(record, &options, numbers(&row["log_likelihoods"]));
        for (ours, theirs) in [("accuracy", "acc"), ("accuracy_norm", "acc_norm")] {
            assert_eq!(record.scores[ours], row[theirs], "{row}");
        }
        record
    });
    let judged: Vec<Record> = judged.collect();
    let figures = Task::Choice(By::Likelihood).statistics(&judged.iter().collect::<Vec<_>>()).unwrap();
    for (figure, theirs) in figures.iter().zip(["acc_norm", "acc"]) {
        let ours = figure.estimate(0);
        assert!(close(ours.value, number(&recorded[theirs]["mean"])), "{ours:?}");
        assert!(close(ours.standard_error.unwrap(), number(&recorded[theirs]["stderr"])), "{ours:?}");
    }
}

#[test]
fn intervals_and_tests_are_those_of_statsmodels() {
    for pair in recorded("paired").as_array().unwrap() {
        let compared = compare(&zeros_and_ones(&pair["a"]), &zeros_and_ones(&pair["b"]), 0);
        assert!(close(compared.p_value.unwrap(), number(&pair["mcnemar_p"])), "{pair}");
    }
    for wilson in recorded("wilson").as_array().unwrap() {
        let (ones, rows) = (wilson["k"].as_u64().unwrap() as usize, wilson["n"].as_u64().unwrap() as usize);
        if rows < 2 {
            continue;
        }
        let column: Vec<u8> = (0..rows).map(|at| u8::from(at < ones)).collect();
        let [low, high] = zeros_and_ones(&column.into()).estimate(0).interval.unwrap();
        assert!(close(low, number(&wilson["low"])) && close(high, number(&wilson["high"])), "{wilson}: {low} {high}");
    }
}
