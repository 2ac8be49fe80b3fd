//! Figures as text.

use std::time::Duration;

/// Tokens per second; 0 where there was no time.
pub(super) fn rate(tokens: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
}
