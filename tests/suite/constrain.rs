//! What a grammar promises: the text that the user sees matches it byte for byte, whatever the model would say.

use phi3v::engine::constrain::{Constraint, Grammar, Vocabulary};
use phi3v::engine::sampler::{Sampler, Sampling};
use phi3v::engine::text::Detokenizer;
use phi3v::processor::Tokenizer;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use regex::Regex;
use serde_json::Value;

use crate::common::{golden, tokenizer_of};

/// Tokenizers that strip a space (the full one of Phi-3 and a small one), that do not, and of bytes.
const TOKENIZERS: [&str; 4] = ["phi3v-tiny", "text/llama", "text/gemma", "text/qwen2"];

/// Rows that no token of the tokenizer belongs to.
const PADDING: usize = 50;

const ANSWERS: u64 = 200;

/// A model that says anything.
struct Babbler {
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    size: usize,
    stop_tokens: [u32; 2],
    /// Twice as many random logits as are used at a time, from anywhere.
    noise: Vec<f32>,
}

/// An answer, and where it stands.
struct Answer {
    tokens: Vec<u32>,
    constraint: Constraint,
}

impl Babbler {
    fn new(name: &str) -> Self {
        let tokenizer = tokenizer_of(&golden(name));
        let size = tokenizer.token_bytes(false).unwrap().len() + PADDING;
        let stop_tokens = match name {
            "phi3v-tiny" => [2, 32007],
            "text/qwen2" => [0, 2],
            _ => [1, 2],
        };
        let vocabulary = Vocabulary::new(&tokenizer, size, &stop_tokens).unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let noise = (0..2 * size).map(|_| random.random_range(-3.0..3.0)).collect();
        Self { tokenizer, vocabulary, size, stop_tokens, noise }
    }

    fn constraint(&self, grammar: &Grammar) -> Constraint {
        self.vocabulary.constraint(grammar).unwrap()
    }

    fn error(&self, grammar: Grammar) -> String {
        format!("{:#}", self.vocabulary.constraint(&grammar).err().expect("an error"))
    }

    /// Which tokens the mask leaves.
    fn allowed(&self, constraint: &mut Constraint) -> Vec<u32> {
        let mut logits = vec![1.0; self.size];
        constraint.mask(&mut logits).unwrap();
        (0..).zip(logits).filter(|&(_, logit)| logit == 1.0).map(|(id, _)| id).collect()
    }

    /// Goes on until the end, or for so many tokens; `tidy` prefers to come to an end.
    fn go_on(&self, answer: &mut Answer, seed: u64, limit: usize, tidy: bool) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        // Sorting a large vocabulary takes longer than all the rest; the best of random logits is random, too.
        let temperature = if self.size < 2000 { 1.0 } else { 0.0 };
        let mut sampler = Sampler::new(Sampling { temperature, seed, ..Sampling::default() });
        let closing: Vec<u32> = "\"}]1e.;".chars().filter_map(|c| self.tokenizer.id(&c.to_string())).collect();
        for _ in 0..limit {
            if answer.constraint.is_finished() {
                return;
            }
            let mut logits = self.noise[random.random_range(0..self.size)..][..self.size].to_vec();
            if tidy {
                closing.iter().for_each(|&id| logits[id as usize] += 20.0);
                self.stop_tokens.iter().for_each(|&id| logits[id as usize] += 40.0);
            }
            answer.constraint.mask(&mut logits).unwrap();
            let token = sampler.sample(&mut logits, &[], &answer.tokens);
            answer.constraint.accept(token).unwrap();
            answer.tokens.push(token);
        }
    }

    /// What the user sees.
    fn text(&self, tokens: &[u32]) -> String {
        let mut detokenizer = Detokenizer::new(&self.tokenizer);
        let tokens = tokens.iter().filter(|id| !self.stop_tokens.contains(id));
        let text: String = tokens.map(|&id| detokenizer.push(id).unwrap()).collect();
        text + &detokenizer.finish().unwrap()
    }

    /// Babbles many answers, and has `check` judge the whole ones. Those that were cut must be the beginning of one.
    fn babble(&self, grammar: &Grammar, limit: usize, check: impl Fn(&str)) {
        let constraint = self.constraint(grammar);
        for seed in 0..ANSWERS {
            let mut answer = Answer { tokens: Vec::new(), constraint: constraint.clone() };
            self.go_on(&mut answer, seed, limit, false);
            let cut = self.text(&answer.tokens);
            if !answer.constraint.is_complete() {
                self.go_on(&mut answer, seed, 2000, true);
            }
            let text = self.text(&answer.tokens);
            assert!(answer.constraint.is_complete(), "{grammar:?}: {text:?} does not come to an end");
            assert!(text.starts_with(&cut), "{grammar:?}: {cut:?} became {text:?}");
            check(&text);
        }
    }
}

fn regex(text: &str) -> Grammar {
    Grammar::Regex(text.to_owned())
}

fn schema(text: &str) -> Grammar {
    Grammar::JsonSchema(text.to_owned())
}

fn lark(text: &str) -> Grammar {
    Grammar::Lark(text.to_owned())
}

#[test]
fn answers_match_their_regex() {
    // Spaces in front in all ways, characters of several bytes, newlines, an answer that may be empty.
    let patterns = [
        "[a-z]{1,8}( [a-z]{1,8}){0,3}",
        " {0,3}x {0,2}",
        " y",
        "  z",
        "( a|b)c?",
        "[\\n ]{1,4}é{1,3}",
        "(日本|語|🦊| ){0,5};",
        "(the |The )?answer is -?[0-9]{1,3}\\.",
        "/[^/]{0,6}/",
        "",
    ];
    for name in TOKENIZERS {
        let babbler = Babbler::new(name);
        for pattern in patterns {
            let whole = Regex::new(&format!("\\A(?:{pattern})\\z")).unwrap();
            babbler.babble(&regex(pattern), 6, |text| assert!(whole.is_match(text), "{name} {pattern}: {text:?}"));
        }
    }
}

const PERSON: &str = r##"{
    "type": "object",
    "properties": {
        "name": { "type": "string", "maxLength": 12 },
        "age": { "type": "integer", "minimum": 0, "maximum": 150 },
        "mood": { "enum": ["glad", "sad", null, 7] },
        "tags": { "type": "array", "items": { "type": "string", "maxLength": 5 }, "maxItems": 3 },
        "home": { "$ref": "#/$defs/place" }
    },
    "required": ["name", "age", "mood", "home"],
    "additionalProperties": false,
    "$defs": {
        "place": {
            "type": "object",
            "properties": { "city": { "type": "string", "pattern": "^[A-Z][a-zé]{0,9}$" }, "height": { "type": "number", "minimum": -500, "maximum": 9000 } },
            "required": ["city"],
            "additionalProperties": false
        }
    }
}"##;

fn is_person(text: &str) {
    let json: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text:?}"));
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let known = ["name", "age", "mood", "tags", "home"];
    assert!(keys(&json).iter().all(|key| known.contains(&key.as_str())), "{text}");
    assert!(json["name"].as_str().unwrap().chars().count() <= 12, "{text}");
    assert!(json["age"].as_u64().unwrap() <= 150, "{text}");
    assert!([Value::from("glad"), "sad".into(), Value::Null, 7.into()].contains(&json["mood"]), "{text}");
    assert!(json.get("mood").is_some(), "{text}");
    if let Some(tags) = json.get("tags") {
        let tags = tags.as_array().unwrap();
        assert!(tags.len() <= 3 && tags.iter().all(|tag| tag.as_str().unwrap().chars().count() <= 5), "{text}");
    }
    let city = json["home"]["city"].as_str().unwrap();
    assert!(Regex::new("^[A-Z][a-zé]{0,9}$").unwrap().is_match(city), "{text}");
    assert!(json["home"].get("height").is_none_or(Value::is_number), "{text}");
    assert!(keys(&json["home"]).iter().all(|key| ["city", "height"].contains(&key.as_str())), "{text}");
    // Blanks outside of strings: one after a comma or a colon.
    let bare = Regex::new(r#""([^"\\]|\\.)*""#).unwrap().replace_all(text, "S").into_owned();
    assert!(!Regex::new(r"[^,:] |\s\s|\A\s|[\t\n\r]").unwrap().is_match(&bare), "{text:?}");
}

#[test]
fn answers_satisfy_their_schema() {
    for name in TOKENIZERS {
        Babbler::new(name).babble(&schema(PERSON), 60, is_person);
    }
}

#[test]
fn any_json_is_json() {
    for name in TOKENIZERS {
        for any in ["{}", "true"] {
            Babbler::new(name).babble(&schema(any), 30, |text| {
                // An exponent may have any number of digits.
                if let Err(e) = serde_json::from_str::<Value>(text) {
                    assert!(e.to_string().contains("number out of range"), "{name}: {e}: {text:?}");
                }
            });
        }
    }
}

#[test]
fn a_schema_may_choose_its_blanks() {
    let babbler = Babbler::new("text/llama");
    let free = r#"{"x-guidance": {"whitespace_flexible": true}, "type": "array", "items": {"const": 1}, "minItems": 2,
        "maxItems": 2}"#;
    let seen = std::cell::Cell::new(false);
    babbler.babble(&schema(free), 20, |text| {
        assert_eq!(serde_json::from_str::<Value>(text).unwrap(), serde_json::json!([1, 1]));
        seen.set(seen.get() || text.contains(" ]") || text.contains("\n"));
    });
    assert!(seen.get());
    let tight = free.replace(r#""whitespace_flexible": true"#, r#""item_separator": ",""#);
    babbler.babble(&schema(&tight), 20, |text| assert_eq!(text, "[1,1]"));
}

#[test]
fn answers_follow_their_lark_grammar() {
    let sum =
        "start: term (\"+\" term)~0..2 \";\"\nterm: NUMBER | \"(\" start \")\"\nNUMBER: /[0-9]{1,4}/\n%ignore / {1,2}/";
    let spaced = Regex::new(r"\A[0-9(][0-9+(); ]*;\z").unwrap();
    for name in TOKENIZERS {
        Babbler::new(name).babble(&lark(sum), 12, |text| {
            assert!(spaced.is_match(text), "{name}: {text:?}");
            let open = text.matches('(').count();
            assert!(open == text.matches(')').count() && open + 1 == text.matches(';').count(), "{name}: {text:?}");
        });
    }
}

#[test]
fn only_tokens_with_a_text_are_chosen_and_the_end_only_where_it_may_be() {
    for name in TOKENIZERS {
        let babbler = Babbler::new(name);
        let bytes = babbler.tokenizer.token_bytes(false).unwrap();
        let mut constraint = babbler.constraint(&regex("(?s).{2,}"));
        let begin = babbler.allowed(&mut constraint);
        assert!(begin.iter().all(|&id| bytes.get(id as usize).is_some_and(|bytes| !bytes.is_empty())), "{name}");
        assert!(!constraint.is_complete());
        for special in ["<s>", "<unk>", "<|user|>", "<|assistant|>", "<|im_start|>", "<bos>", "<pad>"] {
            assert!(babbler.tokenizer.id(special).is_none_or(|id| !begin.contains(&id)), "{name} {special}");
        }
        for id in babbler.tokenizer.encode("ab", false).unwrap() {
            constraint.accept(id).unwrap();
        }
        assert!(constraint.is_complete() && !constraint.is_finished());
        let mut logits: Vec<f32> = (0..babbler.size).map(|id| id as f32).collect();
        constraint.mask(&mut logits).unwrap();
        for id in babbler.stop_tokens {
            assert_eq!(logits[id as usize], id as f32, "{name}");
        }
        assert!(logits[babbler.size - PADDING..].iter().all(|&logit| logit == f32::NEG_INFINITY), "{name}");
        let mut ended = constraint.clone();
        ended.accept(babbler.stop_tokens[1]).unwrap();
        assert!(ended.is_complete() && ended.is_finished());
        assert!(ended.accept(babbler.stop_tokens[0]).unwrap_err().to_string().contains("after the end"));
        assert!(!constraint.is_finished(), "clones go their own ways");
    }
}

#[test]
fn an_answer_is_finished_where_nothing_can_follow() {
    for name in TOKENIZERS {
        let babbler = Babbler::new(name);
        let mut constraint = babbler.constraint(&regex("[0-9]{2}"));
        let digit = babbler.tokenizer.id("4").unwrap();
        let states = [(false, false), (false, false), (true, true)];
        for (count, state) in states.into_iter().enumerate() {
            assert_eq!((constraint.is_complete(), constraint.is_finished()), state, "{name} after {count}");
            if count < 2 {
                constraint.accept(digit).unwrap();
            }
        }
        assert_eq!(babbler.allowed(&mut constraint).len(), 2, "the stop tokens");
        assert!(constraint.accept(digit).is_err());
        let empty = babbler.constraint(&regex(""));
        assert!(empty.is_complete() && empty.is_finished());
    }
}

#[test]
fn what_a_model_may_not_say_is_an_error() {
    let babbler = Babbler::new("text/llama");
    let constraint = babbler.constraint(&regex("ab+"));
    let refused = |token: u32, expected: &str| {
        let error = format!("{:#}", constraint.clone().accept(token).unwrap_err());
        assert!(error.contains(expected) && !error.contains('\n'), "{error}");
    };
    refused(babbler.tokenizer.id("b").unwrap(), "does not follow the grammar");
    refused(0, "token 0 does not follow the grammar");
    refused(babbler.size as u32 - 1, "does not follow the grammar");
    refused(babbler.size as u32, "does not follow the grammar");
    refused(u32::MAX, "does not follow the grammar");
    refused(2, "token 2 ends an answer that is not complete");
    let error = constraint.clone().mask(&mut [0.0; 3]).unwrap_err().to_string();
    assert!(error.contains("3 logits are given for a grammar over 818 tokens"), "{error}");
}

#[test]
fn without_stop_tokens_an_answer_ends_where_nothing_can_follow() {
    let tokenizer = tokenizer_of(&golden("text/llama"));
    let vocabulary = Vocabulary::new(&tokenizer, 768, &[]).unwrap();
    let mut constraint = vocabulary.constraint(&regex("ab")).unwrap();
    constraint.accept(tokenizer.id("a").unwrap()).unwrap();
    constraint.mask(&mut [0.0; 768]).unwrap();
    constraint.accept(tokenizer.id("b").unwrap()).unwrap();
    assert!(constraint.is_finished());
    let error = constraint.mask(&mut [0.0; 768]).unwrap_err().to_string();
    assert!(error.contains("no token of the model can come next"), "{error}");
}

#[test]
fn a_leading_space_is_the_models_choice() {
    let babbler = Babbler::new("phi3v-tiny");
    let id = |name: &str| babbler.tokenizer.id(name).unwrap();
    for (pattern, tokens, text) in [("ab", ["▁a", "b"], "ab"), ("ab", ["a", "b"], "ab"), (" a", ["▁", "▁a"], " a")]
    {
        let mut constraint = babbler.constraint(&regex(pattern));
        for token in tokens {
            constraint.accept(id(token)).unwrap();
        }
        assert!(constraint.is_finished(), "{tokens:?}");
        assert_eq!(babbler.text(&tokens.map(id)), text);
    }
    let begin = babbler.allowed(&mut babbler.constraint(&regex("a+")));
    assert!(begin.contains(&id("▁a")) && begin.contains(&id("a")) && begin.contains(&id("▁")));
    // The space that will be stripped is not the one that is asked for.
    assert!(babbler.constraint(&regex(" a")).accept(id("▁a")).is_err());
}

#[test]
fn forced_tokens_are_those_that_the_mask_leaves() {
    for name in TOKENIZERS {
        let babbler = Babbler::new(name);
        let constraint = babbler.constraint(&schema(
            r#"{"type": "object", "properties": {"the first name": {"const": "é<s>x"}, "age": {"type": "integer"}},
                "required": ["the first name", "age"], "additionalProperties": false}"#,
        ));
        let mut several = 0;
        for seed in 0..20 {
            let mut answer = Answer { tokens: Vec::new(), constraint: constraint.clone() };
            while !answer.constraint.is_finished() && answer.tokens.len() < 60 {
                let forced = answer.constraint.clone().forced();
                several = several.max(forced.len());
                for token in forced {
                    assert_eq!(babbler.allowed(&mut answer.constraint), [token], "{name}");
                    answer.constraint.accept(token).unwrap();
                    answer.tokens.push(token);
                }
                babbler.go_on(&mut answer, seed, 1, true);
            }
            assert!(babbler.text(&answer.tokens).contains("é<s>x"), "{name}");
        }
        assert!(several > 2, "{name}: {several}");
    }
}

/// The tokens before a character made the detokenizer give up waiting for its bytes.
#[test]
fn a_character_in_bytes_is_whole_wherever_it_begins() {
    let babbler = Babbler::new("phi3v-tiny");
    let byte = |byte: u8| babbler.tokenizer.id(&format!("<0x{byte:02X}>")).unwrap();
    let space = babbler.tokenizer.id("▁").unwrap();
    for text in ["🦊", "🦊🦊", "a🦊 é🦊"] {
        assert_eq!(babbler.text(&babbler.tokenizer.encode(text, false).unwrap()), text);
        let bytes: Vec<u32> = text.bytes().map(byte).collect();
        assert_eq!(babbler.text(&bytes), text);
        for space in [space, byte(b' ')] {
            assert_eq!(babbler.text(&[&[space], &bytes[..]].concat()), text);
            assert_eq!(babbler.text(&[&[space, space], &bytes[..]].concat()), format!(" {text}"));
        }
    }
}

#[test]
fn token_bytes_are_what_decoding_gives() {
    for name in TOKENIZERS {
        let tokenizer = tokenizer_of(&golden(name));
        let (first, within) = (tokenizer.token_bytes(true).unwrap(), tokenizer.token_bytes(false).unwrap());
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let usable: Vec<u32> = (0..within.len() as u32).filter(|&id| !within[id as usize].is_empty()).collect();
        let mut valid = 0;
        for _ in 0..2000 {
            let ids: Vec<u32> =
                (0..random.random_range(1..6)).map(|_| usable[random.random_range(0..usable.len())]).collect();
            let mut bytes = first[ids[0] as usize].clone();
            ids[1..].iter().for_each(|&id| bytes.extend(&within[id as usize]));
            if let Ok(text) = String::from_utf8(bytes) {
                assert_eq!(tokenizer.decode(&ids, false).unwrap(), text, "{name} {ids:?}");
                valid += 1;
            }
        }
        assert!(valid > 500, "{name}: {valid}");
    }
}

#[test]
fn a_tokenizer_of_another_kind_is_refused() {
    let mut json: Value = crate::common::json_file(&golden("text/llama").join("tokenizer.json"));
    let mut refused = |decoder: Value, expected: &str| {
        json["decoder"] = decoder;
        let tokenizer = Tokenizer::from_json(json.to_string().as_bytes()).unwrap();
        let error = Vocabulary::new(&tokenizer, 768, &[2]).err().expect("an error").to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(serde_json::json!({ "type": "WordPiece", "prefix": "##", "cleanup": true }), "decoder is a WordPiece");
    refused(Value::Null, "has no decoder");
}

#[test]
fn a_bad_grammar_is_told_in_one_line() {
    let babbler = Babbler::new("text/llama");
    let cases = [
        (
            schema("{\n \"a\": }"),
            "the JSON schema cannot be used: it is not valid JSON: expected value at line 2 column 7",
        ),
        (schema("[]"), "the JSON schema cannot be used: it is []; an object is expected"),
        (schema(r#"{"type": "strin"}"#), "the JSON schema cannot be used: Invalid type: strin"),
        (schema(r##"{"$ref": "#/$defs/x"}"##), "Reference segment '$defs' not found"),
        (schema(r#"{"type": "integer", "minimum": 5, "maximum": 3}"#), "minimum (5) is greater than maximum (3)"),
        (schema(r#"{"type": "string", "pattern": "(a"}"#), "unclosed group"),
        (schema(r#"{"x-guidance": 3}"#), "its x-guidance is 3; an object is expected"),
        (schema(r#"{"x-guidance": {"blanks": 3}}"#), "unknown field `blanks`"),
        (schema(r##"{"$ref": "#"}"##), "the JSON schema cannot be used: no answer satisfies it"),
        (schema(r#"{"not": {"type": "null"}}"#), "Unimplemented keys: [\"not\"]"),
        (regex("ab[c"), "the regular expression cannot be used: line 1, column 3: unclosed character class"),
        (regex("abc\\"), "line 1, column 4: incomplete escape sequence"),
        (regex("(?=a)b"), "look-ahead and look-behind, is not supported"),
        (regex("a\\bc"), "lookarounds not supported"),
        (regex("[^\\s\\S]"), "the regular expression cannot be used: no answer satisfies it"),
        (lark(""), "the Lark grammar cannot be used: no start rule found"),
        (lark("start: \"a\" |\n  (\"b\" c"), "the Lark grammar cannot be used: 2(3): expecting rule"),
        (lark("start: <|user|> \"a\""), "unknown special token: \"<|user|>\""),
        (lark("start: <[1]> \"a\""), "no token of the model can begin an answer"),
        (lark("start: start"), "no answer satisfies it"),
    ];
    for (grammar, expected) in cases {
        let error = babbler.error(grammar);
        assert!(error.contains(expected) && !error.contains('\n') && error.len() < 400, "{error}");
    }
}

/// Each of these took the process down, the memory or the patience, before there were limits.
#[test]
fn a_hostile_grammar_is_an_error_or_harmless() {
    let babbler = Babbler::new("text/llama");
    let refused = |grammar: Grammar, expected: &str| {
        let error = babbler.error(grammar);
        assert!(error.contains(expected), "{error}");
    };
    let harmless = |grammar: Grammar| {
        let mut constraint = babbler.constraint(&grammar);
        let token = babbler.allowed(&mut constraint)[0];
        // Some come to a limit here, which is an error, too.
        let _ = constraint.accept(token);
    };
    let nested = |depth: usize, open: &str, inner: &str, close: &str| open.repeat(depth) + inner + &close.repeat(depth);
    let chain = |links: usize| {
        let link = |i: usize| format!("\"a{i}\": {{\"$ref\": \"#/$defs/a{}\"}}, ", i + 1);
        let links: String = (0..links).map(link).chain([format!("\"a{links}\": {{\"type\": \"null\"}}")]).collect();
        schema(&format!("{{\"$ref\": \"#/$defs/a0\", \"$defs\": {{{links}}}}}"))
    };
    harmless(chain(7000));
    refused(chain(100_000), "262144 are the most that is read");
    refused(schema(&nested(10_000, "[", "", "]")), "recursion limit exceeded");
    refused(regex(&nested(100_000, "(", "a", ")")), "nest");
    refused(lark(&format!("start: {}", nested(10_000, "(", "\"a\"", ")"))), "too deeply nested");
    refused(schema(r#"{"type": "integer", "multipleOf": 1000003}"#), "5 seconds were not enough");
    refused(schema(r#"{"type": "integer", "multipleOf": 1000000007}"#), "fuel exhausted");
    let either = |i: usize| format!("{{\"anyOf\": [{{\"required\": [\"a{i}\"]}}, {{\"required\": [\"b{i}\"]}}]}}");
    let crossed: Vec<String> = (0..24).map(either).collect();
    refused(schema(&format!("{{\"allOf\": [{}]}}", crossed.join(", "))), "schema too large");
    harmless(schema(r#"{"type": "array", "minItems": 1000000000}"#));
    harmless(schema(r#"{"type": "string", "minLength": 1000000000}"#));
    harmless(regex("((a{1000}){1000}){1000}"));
    harmless(regex("(.*a.*b.*c.*d){20}"));
    harmless(lark("start: \"a\" start"));
    harmless(lark("start: start start | \"a\""));
}
