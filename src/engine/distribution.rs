//! What logits say of the next token. Sums over a vocabulary are taken in 64 bits: in 32, what is lost shows in the fourth
//! digit.

/// Probabilities by logits.
#[derive(Debug, Clone, Copy)]
pub struct Distribution<'a> {
    logits: &'a [f32],
    /// The likeliest token; the first of equal ones.
    pub best: usize,
    /// The logarithm of what the exponentials sum to.
    log_sum: f64,
}

impl<'a> Distribution<'a> {
    /// Of logits `[vocab_size]`.
    pub fn of(logits: &'a [f32]) -> Self {
        let best = (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
        let sum: f64 = logits.iter().map(|logit| f64::from((logit - logits[best]).exp())).sum();
        Self { logits, best, log_sum: f64::from(logits[best]) + sum.ln() }
    }

    /// The logarithm of a token's probability.
    pub fn log_probability(&self, token: u32) -> f64 {
        f64::from(self.logits[token as usize]) - self.log_sum
    }

    /// The divergence of `other` from this, and whether both have the same best token.
    pub fn divergence(&self, other: &Self) -> (f64, bool) {
        let kl = self.logits.iter().zip(other.logits).map(|(&x, &y)| {
            let (log_p, log_q) = (f64::from(x) - self.log_sum, f64::from(y) - other.log_sum);
            // What is impossible adds nothing.
            if x == f32::NEG_INFINITY { 0.0 } else { f64::from((log_p as f32).exp()) * (log_p - log_q) }
        });
        (kl.sum::<f64>(), self.best == other.best)
    }
}

/// Logits to the logarithms of probabilities.
pub(crate) fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let log_sum = Distribution::of(logits).log_sum;
    logits.iter().map(|&logit| f64::from(logit) - log_sum).collect()
}
