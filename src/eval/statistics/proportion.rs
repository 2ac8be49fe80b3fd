//! Shares of rows, one model's and two models' on the same rows.

/// 97.5 % of a normal distribution lie below it.
const Z: f64 = 1.959_963_984_540_054;

/// The score interval of a share (Wilson 1927).
pub(super) fn wilson(ones: usize, rows: usize) -> [f64; 2] {
    let (n, share) = (rows as f64, ones as f64 / rows as f64);
    let middle = share + Z * Z / (2.0 * n);
    let half = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    // Of none or of all rows one end is 0 or 1, but for rounding.
    let low = if ones == 0 { 0.0 } else { (middle - half) / (1.0 + Z * Z / n) };
    let high = if ones == rows { 1.0 } else { (middle + half) / (1.0 + Z * Z / n) };
    [low, high]
}

/// How many rows are right for both models, for one of them, and for neither.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Pairs {
    both: usize,
    ours: usize,
    theirs: usize,
    neither: usize,
}

impl Pairs {
    pub(super) fn new(rows: impl Iterator<Item = (bool, bool)>) -> Self {
        let mut pairs = Self::default();
        for row in rows {
            *match row {
                (true, true) => &mut pairs.both,
                (true, false) => &mut pairs.ours,
                (false, true) => &mut pairs.theirs,
                (false, false) => &mut pairs.neither,
            } += 1;
        }
        pairs
    }

    /// McNemar's exact test: of the rows that differ, each model would have half; two-sided.
    pub(super) fn mc_nemar(self) -> f64 {
        let (rows, fewer) = (self.ours + self.theirs, self.ours.min(self.theirs));
        // P(fewer of rows) = C(rows, fewer) / 2^rows, then those below, each by its ratio to the one before.
        let of = |at: usize| ((rows + 1 - at) as f64 / at as f64).ln();
        let likely = (1..=fewer).map(of).sum::<f64>() - rows as f64 * std::f64::consts::LN_2;
        let (mut term, mut sum) = (1.0, 1.0);
        for at in (1..=fewer).rev() {
            term *= at as f64 / (rows + 1 - at) as f64;
            sum += term;
        }
        (2.0 * likely.exp() * sum).min(1.0)
    }

    /// Interval of the difference of both shares: Newcombe, Statistics in Medicine 17 (1998) 2635–2650, method 10.
    pub(super) fn newcombe(self) -> [f64; 2] {
        let [a, b, c, d] = [self.both, self.ours, self.theirs, self.neither].map(|rows| rows as f64);
        let rows = self.both + self.ours + self.theirs + self.neither;
        let n = rows as f64;
        let (first, second) = ((a + b) / n, (a + c) / n);
        let [first_low, first_high] = wilson(self.both + self.ours, rows);
        let [second_low, second_high] = wilson(self.both + self.theirs, rows);

        let margins = (a + b) * (c + d) * (a + c) * (b + d);
        let product = a * d - b * c;
        let corrected = if product > 0.0 { (product - n / 2.0).max(0.0) } else { product };
        let correlation = if margins > 0.0 { corrected / margins.sqrt() } else { 0.0 };
        let side = |x: f64, y: f64| (x * x - 2.0 * correlation * x * y + y * y).max(0.0).sqrt();
        let difference = (b - c) / n;
        [
            difference - side(first - first_low, second_high - second),
            difference + side(first_high - first, second - second_low),
        ]
    }
}
