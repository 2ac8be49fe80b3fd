//! Images that were seen before: the vectors that the model made of them, in memory and in a folder.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use mlx_rs::Array;
use sha2::{Digest, Sha256};

use crate::cache::ImageKey;
use crate::checkpoint::arrays::{self, Contents};
use crate::checkpoint::identity::hex;
use crate::models::Model;
use crate::processor::images::Pixels;

/// Where images' vectors are kept. The least recently used go first.
pub struct FeatureStore {
    /// Of memory.
    most_bytes: usize,
    /// The last is the most recently used.
    kept: Vec<(ImageKey, Array)>,
    folder: Option<Folder>,
    /// Images that need not be encoded.
    pub hits: usize,
}

/// Vectors as files. Several processes may use one folder: files appear whole, and one that is gone is made anew.
struct Folder {
    path: PathBuf,
    /// Of the model, as its vectors are of no use to others.
    identity: String,
    most_bytes: u64,
}

impl FeatureStore {
    /// Keeps up to `most_bytes` in memory.
    pub fn new(most_bytes: usize) -> Self {
        Self { most_bytes, kept: Vec::new(), folder: None, hits: 0 }
    }

    /// Also keeps files in `folder`, which is made if need be, up to `most_bytes` of all models together. `identity` is
    /// the model's.
    pub fn with_folder(self, folder: &Path, most_bytes: u64, identity: &str) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let folder = Folder { path: folder.to_owned(), identity: identity.to_owned(), most_bytes };
        Ok(Self { folder: Some(folder), ..self })
    }

    /// The vectors of an image, `[1, tokens, hidden_size]`, and its key.
    pub fn encode(&mut self, model: &Model, image: &Pixels) -> Result<(ImageKey, Array)> {
        let key = ImageKey::of(image);
        if let Some(at) = self.kept.iter().position(|(kept, _)| *kept == key) {
            let kept = self.kept.remove(at);
            self.kept.push(kept.clone());
            self.hits += 1;
            return Ok(kept);
        }
        let stored = match &self.folder {
            Some(folder) => folder.get(key, image.layout.tokens)?,
            None => None,
        };
        self.hits += usize::from(stored.is_some());
        let features = match stored {
            Some(features) => features,
            None => {
                let features = model.encode_image(image)?;
                features.eval()?;
                if let Some(folder) = &self.folder {
                    folder.put(key, &features)?;
                }
                features
            }
        };
        self.keep(key, &features);
        Ok((key, features))
    }

    fn keep(&mut self, key: ImageKey, features: &Array) {
        self.kept.push((key, features.clone()));
        let mut bytes: usize = self.kept.iter().map(|(_, features)| features.nbytes()).sum();
        while bytes > self.most_bytes {
            bytes -= self.kept.remove(0).1.nbytes();
        }
    }
}

const EXTENSION: &str = "safetensors";

impl Folder {
    fn path_of(&self, key: ImageKey) -> PathBuf {
        let hash = Sha256::new().chain_update(key.bytes()).chain_update(&self.identity).finalize();
        self.path.join(hex(&hash)).with_extension(EXTENSION)
    }

    fn get(&self, key: ImageKey, image_tokens: usize) -> Result<Option<Array>> {
        let path = self.path_of(key);
        // What cannot be used is made anew, and replaced.
        let Some(mut contents) = arrays::read(&path).ok().flatten() else { return Ok(None) };
        let features = contents.arrays.remove("features");
        let fits = |features: &Array| {
            let shape = features.shape();
            shape.len() == 3 && shape[0] == 1 && shape[1] as usize == image_tokens
        };
        let Some(features) = features.filter(fits) else { return Ok(None) };
        // When it was used last. Of no consequence where it cannot be told.
        let _ = File::options().append(true).open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Ok(Some(features))
    }

    fn put(&self, key: ImageKey, features: &Array) -> Result<()> {
        let arrays = BTreeMap::from([("features".to_owned(), features.clone())]);
        arrays::write(&self.path_of(key), &Contents { metadata: HashMap::new(), arrays })?;
        self.shrink()
    }

    /// Removes the files that were not used for longest, until the rest is small enough.
    fn shrink(&self) -> Result<()> {
        let entries = fs::read_dir(&self.path).with_context(|| format!("cannot read {}", self.path.display()))?;
        let mut files: Vec<(SystemTime, u64, PathBuf)> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let meta = entry.metadata().ok()?;
                let ours = entry.path().extension().is_some_and(|extension| extension == EXTENSION);
                (ours && meta.is_file()).then_some((meta.modified().ok()?, meta.len(), entry.path()))
            })
            .collect();
        files.sort();
        let mut bytes: u64 = files.iter().map(|(_, len, _)| len).sum();
        for (_, len, path) in files {
            if bytes <= self.most_bytes {
                break;
            }
            bytes -= len;
            match fs::remove_file(&path) {
                // Another process was faster.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                removed => removed.with_context(|| format!("cannot remove {}", path.display()))?,
            }
        }
        Ok(())
    }
}
