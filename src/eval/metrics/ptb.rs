//! The tokens that COCO's caption evaluation counts: those of the Penn Treebank in lower case, without punctuation.
//!
//! pycocoevalcap runs Stanford's PTBTokenizer 3.4.1, a Java program. These rules give its tokens for captions: for
//! words, contractions, numbers, prices, common abbreviations, quotes and brackets. They do not for addresses of mail
//! and web, emoticons, emoji of several code points, fractions such as ½, `no.` before a number, and markup.

use std::sync::LazyLock;

use regex::Regex;

/// The first alternative that matches is the token.
static TOKEN: LazyLock<Regex> = LazyLock::new(|| {
    let alternatives = [
        // Decades, and words that begin with an apostrophe.
        r"'\d0s\b|'(?i:em|til|cause|n'|tis|twas)\b{end-half}",
        // What is left of a contraction.
        r"(?i:n't|'(?:s|m|d|ll|re|ve))\b",
        // Initials, and abbreviations that keep their point even at the end of a sentence.
        r"\b(?:\p{L}\.)+\b{end-half}",
        ABBREVIATIONS,
        // Firms: AT&T.
        r"\p{Lu}+(?:&\p{Lu}+)+",
        // Numbers, dates and times, and words that begin with one.
        r"\d+(?:[.,:/-]\d+)+(?:-[\p{L}\p{M}\p{N}_]+)*|[-+]\d+(?:[.,]\d+)*|\.\d+",
        // Words, with what may be within them.
        r"[#@]?\p{L}[\p{L}\p{M}\p{N}_]*(?:[-/'][\p{L}\p{M}\p{N}_]+|\.\p{L}[\p{L}\p{M}\p{N}_]*)*",
        r"[\p{L}\p{M}\p{N}_]+(?:[-/][\p{L}\p{M}\p{N}_]+|\.\p{L}[\p{L}\p{M}\p{N}_]*)*",
        // Marks that are a token together.
        r"\.\.\.|[?!]+|\*+|-+",
        r"\S",
    ];
    Regex::new(&alternatives.join("|")).expect("a regular expression")
});

/// Those with a point that is a part of them.
const ABBREVIATIONS: &str = concat!(
    r"\b(?i:mr|mrs|ms|dr|prof|jr|sr|st|ave|blvd|rd|mt|ft|sq|bldg|vs|etc|est|inc|corp|co|ltd|bros|dept|gen|sgt|capt|",
    r"lt|col|rev|gov|sen|rep|pres|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thu|thurs|",
    r"fri)\.\b{end-half}",
);

/// The tokens of a caption.
pub(super) fn tokenize(text: &str) -> Vec<String> {
    let text = text.replace("&amp;", "&").replace(['‘', '’'], "'").replace(SPACES, " ");
    let mut tokens = Vec::new();
    for token in TOKEN.find_iter(&text).map(|token| token.as_str()).filter(|token| !is_dropped(token)) {
        push(&token.to_lowercase(), &mut tokens);
    }
    tokens
}

/// They separate words and are dropped themselves. A long dash is no hyphen, which joins words.
const SPACES: [char; 9] = ['“', '”', '«', '»', '‹', '›', '–', '—', '…'];

/// Brackets are not: pycocoevalcap lists them in capitals, so that the tokens, which are in lower case, stay.
fn is_dropped(token: &str) -> bool {
    matches!(token, "'" | "`" | "\"" | "." | "..." | "?" | "!" | "," | ":" | ";") || token.bytes().all(|b| b == b'-')
}

/// Splits contractions, and writes signs as the treebank does.
fn push(token: &str, tokens: &mut Vec<String>) {
    let parts: &[&str] = match token {
        "cannot" => &["can", "not"],
        "gonna" => &["gon", "na"],
        "wanna" => &["wan", "na"],
        "gotta" => &["got", "ta"],
        "gimme" => &["gim", "me"],
        "lemme" => &["lem", "me"],
        "'tis" => &["'t", "is"],
        "'twas" => &["'t", "was"],
        "y'all" => &["y'", "all"],
        "(" => &["-lrb-"],
        ")" => &["-rrb-"],
        "[" => &["-lsb-"],
        "]" => &["-rsb-"],
        "{" => &["-lcb-"],
        "}" => &["-rcb-"],
        "£" => &["#"],
        "€" => &["$"],
        "¢" => &["cents"],
        _ => &[],
    };
    let clitics = ["n't", "'s", "'m", "'d", "'ll", "'re", "'ve"];
    let clitic = clitics.into_iter().find_map(|clitic| Some((token.strip_suffix(clitic)?, clitic)));
    match clitic {
        _ if !parts.is_empty() => tokens.extend(parts.iter().map(ToString::to_string)),
        Some((word, clitic)) if !word.is_empty() => {
            push(word, tokens);
            tokens.push(clitic.to_owned());
        }
        _ => tokens.push(token.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Stanford's tokenizer says, without the tokens that pycocoevalcap drops.
    #[test]
    fn tokens_are_those_of_the_treebank() {
        for (text, tokens) in [
            ("", ""),
            (
                "The dogs' bowl and the '90s car, it's o'clock; she'll",
                "the dogs bowl and the '90s car it 's o'clock she 'll",
            ),
            (
                "CAN'T won't they’ve I'm he'd didn't've y'all'd",
                "ca n't wo n't they 've i 'm he 'd did n't 've y' all 'd",
            ),
            ("cannot gonna gimme 'Tis 'em 'til", "can not gon na gim me 't is 'em 'til"),
            ("a red-and-white bus (number 5) costs £3, €4", "a red-and-white bus -lrb- number 5 -rrb- costs # 3 $ 4"),
            ("“Curly” ‘quotes’ — em dash – en dash… ellipsis...", "curly quotes em dash en dash ellipsis"),
            ("5% of 1,000.50 and 1/2 at 10:30 a.m. or 10:30am", "5 % of 1,000.50 and 1/2 at 10:30 a.m. or 10:30 am"),
            ("Mr. X at 5th Ave. of the U.S. has vitamin c.", "mr. x at 5th ave. of the u.s. has vitamin c."),
            ("and/or w/ b&w AT&T's w/o", "and/or w / b & w at&t 's w/o"),
            ("one,two;three:four a--b a---b semi- -pre", "one two three four a b a b semi pre"),
            ("what?! really!! yes!!! [x] {y}", "what ?! really !! yes !!! -lsb- x -rsb- -lcb- y -rcb-"),
            ("#1 #tag @home *bold*", "# 1 #tag @home * bold *"),
            ("a 5-year-old's T-shirt, 8x10, 20°C; $1.5m", "a 5-year-old 's t-shirt 8x10 20 ° c $ 1.5 m"),
            ("the 3.5-inch, 1,000-seat -5 .5 v2.0", "the 3.5-inch 1,000-seat -5 .5 v2 .0"),
            ("naïve café 日本 straße hello.world", "naïve café 日本 straße hello.world"),
        ] {
            assert_eq!(tokenize(text).join(" "), tokens, "{text}");
        }
    }
}
