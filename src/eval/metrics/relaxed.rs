//! Relaxed accuracy of ChartQA, as lm-eval's task has it.

/// How far a number may be off, as a share of the reference.
const TOLERANCE: f64 = 0.05;

/// Whether the answer is within 5 % of the reference or, where one of them is no number, the same text but for its
/// case, its quotes and punctuation at its end. To a reference of a single letter, an option, only the answer's first
/// letter matters.
///
/// Where lm-eval's code differs, it is in what equals itself: a reference that ends with punctuation, and `inf`.
pub(super) fn is_right(answer: &str, reference: &str) -> bool {
    let (answer, reference) = (prepared(answer), prepared(reference));
    if let (Some(answer), Some(reference)) = (Number::read(&answer), Number::read(&reference)) {
        return answer.is_near(reference);
    }
    let (answer, reference) = (answer.to_lowercase(), reference.to_lowercase());
    let mut letters = reference.chars();
    match (letters.next(), letters.next()) {
        (Some(letter), None) if letter.is_alphabetic() => answer.starts_with(letter),
        _ => answer == reference || answer.trim_end_matches(|c: char| c.is_ascii_punctuation()) == reference,
    }
}

/// The text without white space around it, and without what surrounds and groups the digits of a number or without
/// quotes around something else.
fn prepared(text: &str) -> String {
    let text = text.trim();
    if text.contains(char::is_numeric) {
        let end = |c: char| c != '%' && (c.is_ascii_punctuation() || c.is_whitespace());
        return text.trim_end_matches(end).replace([',', '$'], "");
    }
    let unquoted = ['"', '\''].iter().find_map(|&quote| text.strip_prefix(quote)?.strip_suffix(quote));
    unquoted.unwrap_or(text).to_owned()
}

/// A number, of which `50%` has the value 50.
#[derive(Clone, Copy)]
struct Number {
    value: f64,
    is_percent: bool,
}

impl Number {
    fn read(text: &str) -> Option<Self> {
        let value = text.trim_end_matches('%').trim().parse().ok().filter(|value: &f64| value.is_finite())?;
        Some(Self { value, is_percent: text.ends_with('%') })
    }

    /// A percentage is compared as it is written and as the share that it means.
    fn is_near(self, reference: Self) -> bool {
        let near = |value: f64, reference: f64| (value - reference).abs() / reference.abs().max(1e-10) <= TOLERANCE;
        near(self.value, reference.value) || near(self.share(), reference.value) || near(self.value, reference.share())
    }

    fn share(self) -> f64 {
        if self.is_percent { self.value / 100.0 } else { self.value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_percent_of_the_reference_are_the_limit() {
        assert!(is_right("95", "100") && is_right("105", "100") && is_right("-105", "-100"));
        assert!(!is_right("94.9", "100") && !is_right("105.1", "100") && !is_right("-100", "100"));
        assert!(is_right("0", "0") && is_right("0.0%", "0") && !is_right("0.001", "0"));
    }

    #[test]
    fn percentages_are_read_both_ways() {
        assert!(is_right("50%", "50") && is_right("50%", "0.5") && is_right("0.5", "50 %") && is_right("50", "50%."));
        assert!(!is_right("50", "0.5"));
    }

    #[test]
    fn words_that_parse_as_numbers_are_words() {
        assert!(is_right("NaN", "nan") && is_right("Infinity", "infinity") && !is_right("inf", "nan"));
    }
}
