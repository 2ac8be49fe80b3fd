//! ROUGE-L, as the package rouge-score computes it with its own tokens and without a stemmer.

/// F1 by the longest common subsequence of words with the reference of which it is the largest, from 0 to 1 (Lin 2004,
/// section 3.1, with β = 1). A word is of the letters from a to z and digits: texts in another script have none.
pub fn rouge_l(answer: &str, references: &[String]) -> f64 {
    let answer = answer.to_lowercase();
    let answer: Vec<&str> = words(&answer).collect();
    let f1 = references.iter().map(|reference| {
        let reference = reference.to_lowercase();
        let reference: Vec<&str> = words(&reference).collect();
        2.0 * common(&answer, &reference) as f64 / (answer.len() + reference.len()).max(1) as f64
    });
    f1.fold(0.0, f64::max)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !matches!(c, 'a'..='z' | '0'..='9')).filter(|word| !word.is_empty())
}

/// The length of the longest common subsequence.
fn common(a: &[&str], b: &[&str]) -> usize {
    // lengths[j]: that of what was read of a, and the first j words of b.
    let mut lengths = vec![0; b.len() + 1];
    for word in a {
        let mut diagonal = 0;
        for (j, other) in b.iter().enumerate() {
            let above = lengths[j + 1];
            lengths[j + 1] = if word == other { diagonal + 1 } else { above.max(lengths[j]) };
            diagonal = above;
        }
    }
    lengths[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_order_count_and_the_best_reference() {
        assert_eq!(rouge_l("the cat-sat. THE", &["cat the sat".into(), "dog".into()]), 4.0 / 7.0);
    }

    #[test]
    fn nothing_scores_nothing() {
        assert_eq!(rouge_l("", &[]), 0.0);
        assert_eq!(rouge_l("", &[String::new()]), 0.0);
        assert_eq!(rouge_l("猫", &["猫".into()]), 0.0);
    }
}
