//! The similarity of ANLS.

/// 1 minus the Levenshtein distance as a share of the longer text's characters, 0 if that share reaches 0.5 (Biten et
/// al. 2019, equation 1, with τ = 0.5). Case and the amount of white space do not matter, as in DocVQA's evaluation,
/// which counts the characters of capitals, though: two for ß.
pub(super) fn similarity(answer: &str, reference: &str) -> f64 {
    let [answer, reference] =
        [answer, reference].map(|text| text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" "));
    let longer = answer.chars().count().max(reference.chars().count()).max(1);
    let distance = strsim::levenshtein(&answer, &reference) as f64 / longer as f64;
    if distance < 0.5 { 1.0 - distance } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_characters_are_not_enough() {
        assert_eq!(similarity("abxy", "abcd"), 0.0);
        assert_eq!(similarity("abcxy", "abcde"), 0.6);
        assert_eq!(similarity("", ""), 1.0);
    }
}
