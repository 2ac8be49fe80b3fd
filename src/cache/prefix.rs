//! Beginnings of sequences that were computed before, in memory and in a file.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::{Cache, CacheSettings, ImageKey};
use crate::checkpoint::arrays::{self, Contents};
use crate::nn::RopeFactors;

/// What stands at one place of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A token.
    Token(u32),
    /// An image and the positions it takes.
    Image(ImageKey, usize),
}

impl Unit {
    fn len(&self) -> usize {
        match self {
            Self::Token(_) => 1,
            Self::Image(_, len) => *len,
        }
    }
}

struct Entry {
    units: Vec<Unit>,
    cache: Cache,
}

/// Caches of sequences that ended. The least recently used go first.
pub struct PrefixStore {
    most_bytes: usize,
    /// The last is the most recently used.
    entries: Vec<Entry>,
}

impl PrefixStore {
    /// Keeps up to `most_bytes`, and the latest sequence in any case; none with 0.
    pub fn new(most_bytes: usize) -> Self {
        Self { most_bytes, entries: Vec::new() }
    }

    /// Bytes of what is kept. Blocks that sequences share count for each.
    pub fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.cache.bytes()).sum()
    }

    /// Keeps the cache of a sequence, of which it holds the first positions or all.
    pub fn put(&mut self, mut units: Vec<Unit>, cache: Cache) {
        cut(&mut units, cache.len());
        if self.most_bytes == 0 || cache.is_empty() {
            return;
        }
        // What this one begins with is of no more use by itself.
        self.entries.retain(|entry| {
            let covered = entry.cache.factors == cache.factors && units.starts_with(&entry.units);
            !covered || !cache.can_truncate(entry.cache.len())
        });
        self.entries.push(Entry { units, cache });
        let mut bytes = self.bytes();
        while bytes > self.most_bytes && self.entries.len() > 1 {
            bytes -= self.entries.remove(0).cache.bytes();
        }
    }

    /// Drops what was not used for longest. False if there is nothing.
    pub fn drop_oldest(&mut self) -> bool {
        let any = !self.entries.is_empty();
        if any {
            self.entries.remove(0);
        }
        any
    }

    /// The longest beginning of `units` that is known with these factors, but not all of them: the last position is to be
    /// computed, as it is asked what follows.
    pub fn longest(&mut self, units: &[Unit], factors: RopeFactors) -> Option<Cache> {
        let total: usize = units.iter().map(Unit::len).sum();
        let shared = |entry: &Entry| {
            let shared = units.iter().zip(&entry.units).take_while(|(a, b)| a == b);
            let mut len: usize = shared.map(|(unit, _)| unit.len()).sum();
            if len >= total {
                // An image is computed whole.
                len = total - units.last().map_or(0, Unit::len);
            }
            if entry.cache.factors == factors && entry.cache.can_truncate(len) { len } else { 0 }
        };
        let (len, at) = (0..self.entries.len()).map(|at| (shared(&self.entries[at]), at)).max()?;
        if len == 0 {
            return None;
        }
        let entry = self.entries.remove(at);
        let cache = entry.cache.fork(len);
        self.entries.push(entry);
        Some(cache)
    }

    /// Writes the latest sequence; nothing if there is none.
    pub fn save(&self, path: &Path, identity: &str) -> Result<()> {
        let Some(Entry { units, cache }) = self.entries.last() else { return Ok(()) };
        let description = Description {
            version: VERSION,
            model: identity.to_owned(),
            long_factors: cache.factors == RopeFactors::Long,
            units: units.iter().map(Unit::describe).collect(),
            cache: cache.describe(),
        };
        let metadata = HashMap::from([(KEY.to_owned(), serde_json::to_string(&description)?)]);
        arrays::write(path, &Contents { metadata, arrays: cache.named_arrays()? })
    }

    /// Reads a sequence that [`PrefixStore::save`] wrote; false if there is no such file.
    ///
    /// # Errors
    /// When it is of another model, of other settings, or damaged.
    pub fn load(&mut self, path: &Path, identity: &str, settings: CacheSettings) -> Result<bool> {
        let Some(contents) = arrays::read(path)? else { return Ok(false) };
        let entry = restore(contents, identity, settings).with_context(|| format!("{}", path.display()))?;
        self.entries.push(entry);
        Ok(true)
    }
}

fn cut(units: &mut Vec<Unit>, len: usize) {
    let mut left = len;
    units.retain(|unit| {
        let stays = unit.len() <= left;
        left = if stays { left - unit.len() } else { 0 };
        stays
    });
}

const KEY: &str = "phi3v_prompt_cache";
const VERSION: u32 = 1;

/// What a file says about its arrays.
#[derive(Serialize, Deserialize)]
struct Description {
    version: u32,
    model: String,
    long_factors: bool,
    units: Vec<String>,
    cache: super::Description,
}

impl Unit {
    fn describe(&self) -> String {
        match self {
            Self::Token(id) => id.to_string(),
            Self::Image(key, len) => format!("{}:{len}", key.to_hex()),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            None => text.parse().ok().map(Self::Token),
            Some((key, len)) => Some(Self::Image(ImageKey::from_hex(key)?, len.parse().ok()?)),
        }
    }
}

fn restore(mut contents: Contents, identity: &str, settings: CacheSettings) -> Result<Entry> {
    let Some(description) = contents.metadata.get(KEY) else { bail!("it is no prompt cache of phi3v") };
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let Version { version } = serde_json::from_str(description)?;
    ensure!(version == VERSION, "it is a prompt cache of version {version}, where {VERSION} is read; delete it");
    let description: Description = serde_json::from_str(description)?;
    ensure!(
        description.model == identity,
        "it was made with another model, adapter or `dtype`; name another file, or delete it"
    );
    let units: Vec<Unit> =
        description.units.iter().map(|unit| Unit::parse(unit)).collect::<Option<_>>().context("it is damaged")?;
    let factors = if description.long_factors { RopeFactors::Long } else { RopeFactors::Short };
    let cache = Cache::restore(&description.cache, factors, settings, &mut contents.arrays)?;
    let len: usize = units.iter().map(Unit::len).sum();
    ensure!(len == cache.len(), "it is damaged: {len} positions are named, {} are there", cache.len());
    Ok(Entry { units, cache })
}
