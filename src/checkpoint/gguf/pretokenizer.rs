//! How byte-level tokenizers cut text into words, by the name that `tokenizer.ggml.pre` gives it.
//! References: llama.cpp llama-vocab.cpp, llm_tokenizer_bpe and impl::load; the models' own tokenizer.json.

use anyhow::{Result, bail};
use serde_json::{Value, json};

/// A way to cut text into words.
pub(super) struct PreTokenizer {
    /// What files call it, the usual name first.
    pub names: &'static [&'static str],
    cuts: Cuts,
    /// Whether text is brought to Unicode's composed form first.
    nfc: bool,
    /// Whether a word that is a token is that token, whatever the merges make of it.
    pub ignore_merges: bool,
    /// Whether texts begin with a BOS unless the file says otherwise.
    pub adds_bos: bool,
}

enum Cuts {
    /// By the expression of GPT-2, which is that of Hugging Face's `ByteLevel`.
    Gpt2,
    /// Digits one by one, then by GPT-2's.
    Digits,
    /// By these, one after the other.
    Regexes(&'static [&'static str]),
}

macro_rules! contractions {
    () => {
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    };
}

/// GPT-4's words with digits in runs of this many.
macro_rules! cl100k {
    ($digits:literal) => {
        concat!(
            contractions!(),
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}

/// Words in which a capital begins a new one, with this behind them and digits in runs of this many.
macro_rules! o200k {
    ($suffix:expr, $digits:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
            $suffix,
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
            $suffix,
            "|",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}

const fn plain(names: &'static [&'static str], cuts: Cuts) -> PreTokenizer {
    PreTokenizer { names, cuts, nfc: false, ignore_merges: false, adds_bos: false }
}

const ALL: &[PreTokenizer] = &[
    plain(&["gpt-2", "phi-2", "mpt", "olmo"], Cuts::Gpt2),
    plain(&["smollm", "starcoder", "refact", "codeshell"], Cuts::Digits),
    PreTokenizer { nfc: true, ..plain(&["qwen2", "deepseek-r1-qwen", "megrez"], Cuts::Regexes(&[cl100k!(r"\p{N}")])) },
    PreTokenizer {
        ignore_merges: true,
        adds_bos: true,
        ..plain(&["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"], Cuts::Regexes(&[cl100k!(r"\p{N}{1,3}")]))
    },
    plain(&["dbrx", "smaug-bpe"], Cuts::Regexes(&[cl100k!(r"\p{N}{1,3}")])),
    PreTokenizer { ignore_merges: true, adds_bos: true, ..plain(&["tekken"], Cuts::Regexes(&[o200k!("", r"\p{N}")])) },
    plain(&["gpt-4o", "llama4"], Cuts::Regexes(&[o200k!(concat!(contractions!(), "?"), r"\p{N}{1,3}")])),
    plain(
        &["default"],
        Cuts::Regexes(&[
            r"[\p{P}\$\+<=>\^~\|]+",
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
            r"\p{N}+",
            "[0-9][0-9][0-9]",
        ]),
    ),
];

impl PreTokenizer {
    /// The one that files call by this name; those that call it by none mean the default.
    pub(super) fn named(name: Option<&str>) -> Result<&'static Self> {
        let name = name.unwrap_or("default");
        match ALL.iter().find(|one| one.names.contains(&name)) {
            Some(one) => Ok(one),
            None => {
                let known: Vec<&str> = ALL.iter().flat_map(|one| one.names).copied().collect();
                bail!("tokenizer.ggml.pre is {name:?}, which is not supported; supported are {}", known.join(", "))
            }
        }
    }

    /// The one that a `tokenizer.json` describes, if it is known.
    pub(super) fn of(
        pre_tokenizer: Option<&Value>,
        normalizer: Option<&Value>,
        ignore_merges: bool,
    ) -> Option<&'static Self> {
        let (pre_tokenizer, normalizer) = (plainly(pre_tokenizer?), normalizer.unwrap_or(&Value::Null));
        ALL.iter().find(|one| {
            one.ignore_merges == ignore_merges
                && one.normalizer() == *normalizer
                && plainly(&one.json()) == pre_tokenizer
        })
    }

    /// `normalizer` of `tokenizer.json`.
    pub(super) fn normalizer(&self) -> Value {
        if self.nfc { json!({ "type": "NFC" }) } else { Value::Null }
    }

    /// `pre_tokenizer` of `tokenizer.json`.
    pub(super) fn json(&self) -> Value {
        let bytes = |use_regex| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
        let cut = |regex: &&str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        let steps = match self.cuts {
            Cuts::Gpt2 => return bytes(true),
            Cuts::Digits => vec![json!({"type": "Digits", "individual_digits": true}), bytes(true)],
            Cuts::Regexes(regexes) => regexes.iter().map(cut).chain([bytes(false)]).collect(),
        };
        json!({"type": "Sequence", "pretokenizers": steps})
    }
}

/// Without what has no effect on ids, and with what is meant where it is absent.
fn plainly(pre_tokenizer: &Value) -> Value {
    let mut value = pre_tokenizer.clone();
    if let Some(steps) = value["pretokenizers"].as_array_mut() {
        for step in steps {
            *step = plainly(step);
        }
    } else if let Some(fields) = value.as_object_mut().filter(|fields| fields.get("type") == Some(&"ByteLevel".into()))
    {
        fields.remove("trim_offsets");
        fields.entry("use_regex").or_insert(true.into());
    }
    value
}

/// `normalizer` of tokenizers made of a SentencePiece model, with or without a space put before the text.
pub(super) fn sentencepiece_normalizer(prefix: bool) -> Value {
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    if !prefix {
        return replace;
    }
    json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]})
}

/// Their `decoder`.
pub(super) fn sentencepiece_decoder(prefix: bool) -> Value {
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}
