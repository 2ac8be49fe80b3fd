//! GGUF against llama.cpp itself: its recorded tokenizations, and what it makes of our files.

use std::collections::BTreeMap;

use mlx_rs::Array;
use phi3v::checkpoint::gguf::{self, Gguf, GgufType, Source};
use phi3v::processor::Tokenizer;

use super::*;

/// The folder of vocabularies in llama-cpp-python's source package.
fn vocabularies() -> PathBuf {
    let folder = work().join("llama-cpp-vocabularies");
    if !folder.join("complete").exists() {
        let python = python("download", &["pip"]);
        let mut download = Command::new(python);
        download.args(["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python"]);
        run(download.arg("--dest").arg(&folder).arg("llama-cpp-python==0.3.36"));
        let mut unpack = Command::new("tar");
        unpack.arg("-C").arg(&folder).args(["--strip-components=4", "--wildcards", "-xzf"]);
        run(unpack.arg(folder.join("llama_cpp_python-0.3.36.tar.gz")).arg("*/models/ggml-vocab-*"));
        fs::write(folder.join("complete"), "").unwrap();
    }
    folder
}

/// The vocabulary as a file of an architecture that is read: some are of others.
fn readable(vocabulary: &Path, folder: &Path) -> PathBuf {
    let bytes = fs::read(vocabulary).unwrap();
    let key = b"general.architecture";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len() + 4;
    let len = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let path = folder.join("vocabulary.gguf");
    fs::write(&path, [&bytes[..at], &4u64.to_le_bytes(), b"phi3", &bytes[at + 8 + len..]].concat()).unwrap();
    path
}

#[test]
fn texts_are_cut_as_llama_cpp_cuts_them() {
    for name in ["phi-3", "llama-spm", "llama-bpe", "qwen2", "gpt-2", "starcoder", "refact"] {
        let vocabulary = vocabularies().join(format!("ggml-vocab-{name}.gguf"));
        let folder = tempfile::tempdir().unwrap();
        for (file, bytes) in Gguf::open(&readable(&vocabulary, folder.path())).unwrap().companions().unwrap() {
            fs::write(folder.path().join(file), bytes).unwrap();
        }
        let tokenizer = Tokenizer::from_json(&fs::read(folder.path().join("tokenizer.json")).unwrap()).unwrap();
        let texts = fs::read_to_string(vocabulary.with_extension("gguf.inp")).unwrap();
        let ids = fs::read_to_string(vocabulary.with_extension("gguf.out")).unwrap();
        for (text, expected) in texts.split("\n__ggml_vocab_test__\n").zip(ids.split('\n')) {
            let expected: Vec<u32> = expected.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(tokenizer.encode(text, false).unwrap(), expected, "{name}: {text:?}");
        }
    }
}

/// What llama.cpp answers to a question by this file. Without the template's system message, with which the smallest noise
/// turns this model's answer into French.
fn answer(file: &Path) -> String {
    let python = python("llama-cpp", &["llama-cpp-python==0.3.36"]);
    let program = "import sys, llama_cpp
model = llama_cpp.Llama(sys.argv[1], n_ctx=512, verbose=False)
prompt = '<|im_start|>user\\nWhat is the capital of France?<|im_end|>\\n<|im_start|>assistant\\n'
answer = model(prompt, temperature=0, max_tokens=12)
print(answer['choices'][0]['text'])";
    let output = Command::new(python).args(["-c", program]).arg(file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn llama_cpp_reads_what_is_written() {
    let folder = smollm2();
    let json = |name: &str| serde_json::from_str(&fs::read_to_string(folder.join(name)).unwrap()).unwrap();
    let tensors: BTreeMap<String, Array> =
        Array::load_safetensors(folder.join("model.safetensors")).unwrap().into_iter().collect();
    let shapes: Vec<(String, Vec<i32>)> =
        tensors.iter().map(|(name, array)| (name.clone(), array.shape().to_vec())).collect();
    let source = Source {
        config: &json("config.json"),
        tokenizer: &json("tokenizer.json"),
        tokenizer_config: &json("tokenizer_config.json"),
        tensors: &shapes,
    };
    let here = tempfile::tempdir().unwrap();
    for kind in [GgufType::F16, GgufType::Q8_0, GgufType::Q4_0] {
        let path = here.path().join("model.gguf");
        gguf::write(&source, kind, |name| Ok(tensors[name].clone()), &path).unwrap();
        let answer = answer(&path);
        println!("{kind:?}: {answer}");
        assert!(answer.contains("Paris"), "{kind:?}: {answer}");
    }
}
