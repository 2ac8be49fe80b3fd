//! The files of a folder that is to be uploaded, and reading them in pieces.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::checkpoint::hub::{CONFIG, HubError, Progress, hex};

/// What the hub looks at to tell text from other files.
const SAMPLE: u64 = 512;
const BUFFER: usize = 1 << 17;

/// A file to upload.
pub(super) struct LocalFile {
    /// Path in the repository, with `/`.
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) size: u64,
}

/// The files of a model's folder and its subfolders in the order of their names, without hidden ones.
pub(super) fn of_model(folder: &Path) -> Result<Vec<LocalFile>, HubError> {
    let name = || folder.display().to_string();
    if !folder.is_dir() {
        return Err(HubError::NoSuchFolder(name()));
    }
    if !folder.join(CONFIG).is_file() {
        return Err(HubError::NotAModel { id: name(), missing: CONFIG.to_owned() });
    }
    let mut files = Vec::new();
    collect(folder, "", &mut files)?;
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

fn collect(folder: &Path, prefix: &str, files: &mut Vec<LocalFile>) -> Result<(), HubError> {
    for entry in fs::read_dir(folder).map_err(HubError::source(folder))? {
        let entry = entry.map_err(HubError::source(folder))?;
        let path = entry.path();
        let unusable = |_| io::Error::new(ErrorKind::InvalidData, "the name is not Unicode");
        let name = entry.file_name().into_string().map_err(unusable).map_err(HubError::source(&path))?;
        if name.starts_with('.') {
            continue;
        }
        let name = format!("{prefix}{name}");
        let kind = entry.file_type().map_err(HubError::source(&path))?;
        if kind.is_dir() {
            collect(&path, &format!("{name}/"), files)?;
            continue;
        }
        // Follows links to files, as a snapshot in the cache has them. One to a folder could lead in circles.
        let metadata = fs::metadata(&path).map_err(HubError::source(&path))?;
        if metadata.is_file() {
            files.push(LocalFile { name, path, size: metadata.len() });
        }
    }
    Ok(())
}

impl LocalFile {
    /// The first bytes.
    pub(super) fn sample(&self) -> Result<Vec<u8>, HubError> {
        let mut sample = Vec::new();
        let read = File::open(&self.path).and_then(|file| file.take(SAMPLE).read_to_end(&mut sample));
        read.map(|_| sample).map_err(HubError::source(&self.path))
    }

    /// The name of the contents in large file storage.
    pub(super) fn sha256(&self) -> Result<String, HubError> {
        let mut slice = self.slice(0..self.size, &())?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; BUFFER];
        loop {
            match slice.read(&mut buffer).map_err(HubError::source(&self.path))? {
                0 => return Ok(hex(&hash.finalize())),
                count => hash.update(&buffer[..count]),
            }
        }
    }

    /// A reader of some bytes that tells `progress` of them.
    pub(super) fn slice<'a>(&self, range: Range<u64>, progress: &'a dyn Progress) -> Result<Slice<'a>, HubError> {
        let mut file = File::open(&self.path).map_err(HubError::source(&self.path))?;
        file.seek(SeekFrom::Start(range.start)).map_err(HubError::source(&self.path))?;
        Ok(Slice { file, left: range.end - range.start, progress, failure: None })
    }
}

/// Reads a part of a file, exactly.
pub(super) struct Slice<'a> {
    file: File,
    left: u64,
    progress: &'a dyn Progress,
    /// Set when reading failed: whoever sends the bytes on would take that for a failure of the network.
    pub(super) failure: Option<io::Error>,
}

impl Read for Slice<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let result = match self.file.read(&mut buffer[..wanted]) {
            Ok(0) if wanted > 0 => Err(io::Error::new(ErrorKind::UnexpectedEof, "it became shorter meanwhile")),
            result => result,
        };
        match result {
            Ok(count) => {
                self.left -= count as u64;
                self.progress.advance(count as u64);
                Ok(count)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let copy = io::Error::new(error.kind(), error.to_string());
                self.failure = Some(error);
                Err(copy)
            }
        }
    }
}
