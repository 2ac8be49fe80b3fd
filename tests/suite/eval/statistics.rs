//! Standard errors, intervals and tests, against closed forms, scipy 1.17.1 and statsmodels 0.15.0, and their meaning.

use std::time::Instant;

use phi3v::eval::statistics::{Comparison, Estimate, Kind, Statistic, compare};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

fn mean(sums: &[f64]) -> f64 {
    sums[0] / sums[1]
}

fn figure(name: &'static str, kind: Kind, rows: impl IntoIterator<Item = f64>) -> Statistic {
    let parts = rows.into_iter().map(|value| vec![value, 1.0]).collect();
    Statistic { name, parts, value: mean, kind, higher_is_better: true }
}

fn plain(rows: &[f64]) -> Statistic {
    figure("score", Kind::Plain, rows.iter().copied())
}

fn binary(rows: impl IntoIterator<Item = bool>) -> Statistic {
    figure("accuracy", Kind::Binary, rows.into_iter().map(f64::from))
}

fn ones(ones: usize, rows: usize) -> Statistic {
    binary((0..rows).map(|at| at < ones))
}

/// Two figures with so many rows that are right for both, for the first, for the second, and for neither.
fn pairs(table: [usize; 4]) -> Comparison {
    let cells = [(true, true), (true, false), (false, true), (false, false)];
    let rows = || table.into_iter().zip(cells).flat_map(|(rows, cell)| vec![cell; rows]);
    compare(&binary(rows().map(|row| row.0)), &binary(rows().map(|row| row.1)), 0)
}

#[track_caller]
fn assert_close(found: impl IntoIterator<Item = f64>, expected: impl IntoIterator<Item = f64>, tolerance: f64) {
    let (found, expected): (Vec<f64>, Vec<f64>) = (found.into_iter().collect(), expected.into_iter().collect());
    assert_eq!(found.len(), expected.len());
    for (a, b) in found.iter().zip(&expected) {
        assert!((a - b).abs() <= tolerance, "{found:?} is not {expected:?}");
    }
}

const SCORES: [f64; 10] = [2.1, 3.5, 0.2, 8.8, 4.4, 1.9, 2.7, 6.1, 5.0, 3.3];
const OTHERS: [f64; 10] = [2.0, 3.9, 0.9, 8.1, 4.9, 2.9, 2.2, 7.1, 5.4, 4.3];
const WEIGHTS: [f64; 10] = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0, 5.0, 3.0];

#[test]
fn the_standard_error_of_a_mean_is_the_usual_one() {
    let Estimate { name, value, standard_error, rows, .. } = plain(&SCORES).estimate(0);
    assert_eq!((name, rows), ("score", 10));
    // scipy.stats.sem
    assert_close([value, standard_error.unwrap()], [3.8, 0.768_114_574_786_860_7], 1e-12);
    let share: f64 = 0.7;
    let error = ones(7, 10).estimate(0).standard_error.unwrap();
    assert_close([error], [(share * (1.0 - share) / 9.0).sqrt()], 1e-12);
}

#[test]
fn wilsons_interval_is_statsmodels() {
    // proportion_confint(ones, rows, method="wilson")
    for (right, rows, expected) in [
        (7, 10, [0.396_778_147_461_145_4, 0.892_208_732_593_699]),
        (0, 12, [0.0, 0.242_494_006_655_240_96]),
        (12, 12, [0.757_505_993_344_759, 1.0]),
        (712, 1000, [0.683_164_488_557_197_5, 0.739_212_965_844_927_1]),
        (1, 3, [0.061_491_944_720_396_26, 0.792_340_399_197_952_3]),
    ] {
        assert_close(ones(right, rows).estimate(0).interval.unwrap(), expected, 1e-12);
    }
}

/// A perplexity of rows with so many tokens.
fn perplexity() -> Statistic {
    let parts = SCORES.iter().zip(WEIGHTS).map(|(score, weight)| vec![score * weight, weight]).collect();
    let value = |sums: &[f64]| (sums[0] / sums[1]).exp();
    Statistic { name: "perplexity", parts, value, kind: Kind::Plain, higher_is_better: false }
}

#[test]
fn other_figures_have_the_jackknifes_error_and_the_bootstraps_interval() {
    let Estimate { value, standard_error, interval, .. } = perplexity().estimate(1);
    // By NumPy, leaving each row out.
    assert_close([value, standard_error.unwrap()], [32.194_475_573_629_376, 27.111_560_207_655_415], 1e-9);
    // scipy.stats.bootstrap, method="percentile", of 2,000,000 resamples; ours has 10,000.
    let [low, high] = interval.unwrap();
    assert_close([low], [8.829], 0.15);
    assert_close([high], [134.29], 4.0);
    assert_close(plain(&SCORES).estimate(1).interval.unwrap(), [2.45, 5.30], 0.05);
}

#[test]
fn mcnemars_test_and_newcombes_interval() {
    // statsmodels' mcnemar(exact=True); intervals by the formula in Python over statsmodels' Wilson limits. The first table
    // is that of Cavo et al. (2012), of which R's contingencytables says −0.1186 to −0.0046.
    for (table, difference, interval, p) in [
        (
            [59, 6, 16, 80],
            -0.062_111_801_242_236_02,
            [-0.118_621_195_638_709_97, -0.004_625_113_933_050_054],
            0.052_478_790_283_203_125,
        ),
        ([1, 1, 7, 12], -0.285_714_285_714_285_7, [-0.506_920_226_686_141, -0.025_559_124_164_859_837], 0.070_312_5),
        ([0, 10, 20, 0], -1.0 / 3.0, [-0.615_390_038_326_477_3, 0.024_398_967_109_123_204], 0.098_737_146_705_389_05),
        ([5, 0, 0, 0], 0.0, [-0.434_482_464_783_174_76, 0.434_482_464_783_174_76], 1.0),
        ([0, 0, 3, 0], -1.0, [-1.0, -0.205_923_282_459_778_2], 0.25),
        ([400, 50, 80, 470], -0.03, [-0.052_274_280_774_071_38, -0.007_645_376_486_054_192], 0.010_694_055_123_829_345),
    ] {
        let comparison = pairs(table);
        assert_eq!((comparison.test, comparison.rows), ("exact McNemar test", table.iter().sum()));
        assert_close([comparison.difference, comparison.p_value.unwrap()], [difference, p], 1e-12);
        assert_close(comparison.interval.unwrap(), interval, 1e-12);
    }
    assert_close([pairs([0, 4800, 5200, 0]).p_value.unwrap()], [6.593_515_598_672_343e-5], 1e-12);
}

#[test]
fn the_paired_bootstrap() {
    let comparison = compare(&plain(&SCORES), &plain(&OTHERS), 1);
    assert_eq!(comparison.test, "paired bootstrap");
    // scipy.stats.bootstrap, paired=True, of 2,000,000 resamples.
    assert_close([comparison.ours, comparison.theirs, comparison.difference], [3.8, 4.17, -0.37], 1e-12);
    assert_close(comparison.interval.unwrap(), [-0.71, 0.01], 0.03);
    assert_close([comparison.p_value.unwrap()], [0.0578], 0.012);

    let same = compare(&plain(&SCORES), &plain(&SCORES), 1);
    assert_eq!((same.difference, same.interval, same.p_value), (0.0, Some([0.0, 0.0]), Some(1.0)));
    let far = compare(&plain(&SCORES), &plain(&SCORES.map(|score| score + 1.0)), 1);
    assert_close([far.p_value.unwrap()], [2.0 / 10_001.0], 1e-12);
}

#[test]
fn the_same_seed_gives_the_same_numbers() {
    let (a, b) = (perplexity(), plain(&OTHERS));
    assert_eq!(a.estimate(7), a.estimate(7));
    assert_ne!(a.estimate(7).interval, a.estimate(8).interval);
    assert_eq!(compare(&a, &b, 7), compare(&a, &b, 7));
    // Recorded on two threads: it is the same on any number of them.
    assert_close(a.estimate(7).interval.unwrap(), RECORDED, 1e-9);
}

const RECORDED: [f64; 2] = [9.072_227_000_186_706, 136.221_973_634_027_14];

#[test]
fn fewer_than_two_rows_have_no_interval() {
    for rows in [0, 1] {
        for statistic in [plain(&SCORES[..rows]), ones(0, rows)] {
            let estimate = statistic.estimate(0);
            assert_eq!((estimate.standard_error, estimate.interval, estimate.rows), (None, None, rows));
            let comparison = compare(&statistic, &statistic, 0);
            assert_eq!((comparison.interval, comparison.p_value), (None, None));
        }
    }
    let json = serde_json::to_value(plain(&[]).estimate(0)).unwrap();
    assert_eq!(
        json,
        serde_json::json!({"name": "score", "value": null, "standard_error": null, "interval": null,
                                         "rows": 0})
    );
    // A share of nothing in some samples.
    let parts = vec![vec![1.0, 1.0], vec![0.0, 0.0], vec![1.0, 1.0]];
    let figure = Statistic { name: "recall", parts, value: mean, kind: Kind::Share, higher_is_better: true };
    assert_eq!(figure.estimate(0).interval, None);
    assert!(compare(&figure, &figure, 0).sentence("a", "b").ends_with(": no interval can be computed"));
}

/// How often an interval holds the truth, of 500 samples.
fn coverage(mut holds: impl FnMut(&mut ChaCha12Rng) -> bool) -> f64 {
    let mut random = ChaCha12Rng::seed_from_u64(5);
    (0..500).filter(|_| holds(&mut random)).count() as f64 / 500.0
}

fn inside([low, high]: [f64; 2], truth: f64) -> bool {
    (low..=high).contains(&truth)
}

#[test]
fn intervals_hold_the_truth_in_19_of_20_samples() {
    let mean = coverage(|random| {
        let rows: Vec<f64> = (0..60).map(|_| random.random::<f64>() + random.random::<f64>()).collect();
        inside(plain(&rows).estimate(random.random()).interval.unwrap(), 1.0)
    });
    let share = coverage(|random| {
        let statistic = binary((0..60).map(|_| random.random_bool(0.8)));
        inside(statistic.estimate(0).interval.unwrap(), 0.8)
    });
    // Two models that are right together more often than by chance.
    let difference = coverage(|random| {
        let rows: Vec<(bool, bool)> = (0..60)
            .map(|_| match random.random::<f64>() {
                x if x < 0.5 => (true, true),
                x if x < 0.6 => (true, false),
                x if x < 0.8 => (false, true),
                _ => (false, false),
            })
            .collect();
        let figures = [binary(rows.iter().map(|row| row.0)), binary(rows.iter().map(|row| row.1))];
        inside(compare(&figures[0], &figures[1], 0).interval.unwrap(), -0.1)
    });
    for found in [mean, share, difference] {
        assert!((0.92..=0.98).contains(&found), "{mean} {share} {difference}");
    }
}

#[test]
fn equal_models_seldom_differ() {
    let alike = coverage(|random| {
        let figure = |random: &mut ChaCha12Rng| plain(&std::array::from_fn::<f64, 60, _>(|_| random.random()));
        compare(&figure(random), &figure(random), random.random()).p_value.unwrap() >= 0.05
    });
    assert!((0.92..=0.98).contains(&alike), "{alike}");
}

#[test]
fn many_rows_take_seconds() {
    let started = Instant::now();
    let rows: Vec<f64> = (0..10_000).map(|row| f64::from(row % 17)).collect();
    plain(&rows).estimate(0);
    // Less than a second on one core, which others may use, too.
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
}

#[test]
fn comparisons_are_told_in_a_sentence() {
    let [ours, theirs] = ["smol-4bit", "smol"];
    assert_eq!(
        pairs([400, 50, 80, 470]).sentence(ours, theirs),
        "smol-4bit is 3.0 points lower than smol in accuracy (45.0 % against 48.0 %), 95 % interval \u{2212}5.2 to \
         \u{2212}0.8, p = 0.011: the difference is real, smol-4bit is worse"
    );
    assert_eq!(
        pairs([400, 80, 50, 470]).sentence(ours, theirs),
        "smol-4bit is 3.0 points higher than smol in accuracy (48.0 % against 45.0 %), 95 % interval 0.8 to 5.2, \
         p = 0.011: the difference is real, smol-4bit is better"
    );
    // The test and the interval disagree.
    assert!(
        pairs([59, 6, 16, 80]).sentence(ours, theirs).ends_with("\u{2212}0.5, p = 0.052: no difference can be told")
    );
    assert_eq!(
        pairs([5, 0, 0, 0]).sentence(ours, theirs),
        "smol-4bit is as high as smol in accuracy (100.0 %), 95 % interval \u{2212}43.4 to 43.4, p = 1.000: no \
         difference can be told"
    );
    assert_eq!(
        pairs([0, 1, 0, 0]).sentence(ours, theirs),
        "smol-4bit is 100.0 points higher than smol in accuracy (100.0 % against 0.0 %): one row tells nothing"
    );
    assert_eq!(pairs([0; 4]).sentence(ours, theirs), "there are no rows to compare smol-4bit and smol by in accuracy");
}

#[test]
fn other_numbers_have_as_many_digits_as_their_difference_needs() {
    let lower = |by: f64| {
        let statistic = |scores: [f64; 10]| Statistic { higher_is_better: false, ..plain(&scores) };
        compare(&statistic(SCORES.map(|score| score - by)), &statistic(SCORES), 0).sentence("a", "b")
    };
    assert_eq!(
        lower(0.0123),
        "a is 0.012 lower than b in score (3.788 against 3.800), 95 % interval \u{2212}0.012 to \u{2212}0.012, \
         p < 0.001: the difference is real, a is better"
    );
    assert!(lower(1.5).starts_with("a is 1.5 lower than b in score (2.3 against 3.8), "), "{}", lower(1.5));
    assert!(lower(-250.0).starts_with("a is 250 higher than b in score (254 against 4), "), "{}", lower(-250.0));
}
