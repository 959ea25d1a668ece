//! The history on disk: files of frames, named by when they begin, in milliseconds.
//!
//! A frame is its length, four bytes of its hash, and a `Happening`. A node that dies leaves at most
//! one frame torn, the last of its file: the next start begins a new file.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_proto::cluster::Happening;
use prost::Message;

use crate::world;

/// A file is full then.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Or when it is so old: a time span is found by the files' names.
const FILE_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// All of them: some million happenings. The oldest go first.
const BYTES_MAX: u64 = 256 << 20;

/// What is older goes: addresses of people are not kept for ever.
const AGE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// No frame is longer: a message to very many recipients has some ten kilobytes.
const FRAME_BYTES_MAX: usize = 1 << 20;

const SUFFIX: &str = ".history";

pub(super) struct Files {
    dir: PathBuf,
    open: Option<Open>,
}

struct Open {
    out: BufWriter<File>,
    bytes: u64,
    since_ms: u64,
}

impl Files {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            open: None,
        }
    }

    pub(super) fn add(&mut self, happening: &Happening) -> io::Result<()> {
        let frame = happening.encode_to_vec();
        if frame.len() > FRAME_BYTES_MAX {
            return Ok(());
        }
        let is_full = |open: &Open| {
            open.bytes >= FILE_BYTES_MAX || world::now().0 >= open.since_ms + ms(FILE_AGE_MAX)
        };
        if self.open.as_ref().is_some_and(is_full) {
            self.flush()?;
            self.open = None;
        }
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                self.tidy();
                self.open.insert(begin(&self.dir)?)
            }
        };
        let head = head(&frame);
        open.out.write_all(&head)?;
        open.out.write_all(&frame)?;
        open.bytes += (head.len() + frame.len()) as u64;
        Ok(())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        match &mut self.open {
            Some(open) => open.out.flush(),
            None => Ok(()),
        }
    }

    /// The next happening begins a new file.
    pub(super) fn close(&mut self) {
        if let Some(open) = self.open.take() {
            // What is in the buffer would end in the middle of a frame.
            let (_file, _unwritten) = open.out.into_parts();
        }
    }

    /// Removes what is too old or too much.
    pub(super) fn tidy(&self) {
        let Ok(files) = list(&self.dir) else {
            return;
        };
        let now = world::now().0;
        let current = self.open.as_ref().map(|open| open.since_ms);
        let mut bytes = 0;
        // From the latest: the file behind one says when it ends.
        let mut ends = now;
        for (since, path) in files.into_iter().rev() {
            bytes += fs::metadata(&path).map_or(0, |file| file.len());
            let is_over = ends + ms(AGE_MAX) < now || bytes > BYTES_MAX;
            if is_over && Some(since) != current {
                // It may be gone already, or is tried again.
                let _kept = fs::remove_file(&path);
            }
            ends = since;
        }
    }
}

fn begin(dir: &Path) -> io::Result<Open> {
    let mut since_ms = world::now().0;
    loop {
        let path = dir.join(format!("{since_ms:016}{SUFFIX}"));
        match File::create_new(path) {
            Ok(file) => {
                return Ok(Open {
                    out: BufWriter::new(file),
                    bytes: 0,
                    since_ms,
                });
            }
            // Two within a millisecond, or a clock that was set back.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => since_ms += 1,
            Err(error) => return Err(error),
        }
    }
}

/// All files with when they begin, oldest first.
fn list(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let since = name.and_then(|name| name.strip_suffix(SUFFIX));
        if let Some(since) = since.and_then(|since| since.parse().ok()) {
            files.push((since, path));
        }
    }
    files.sort();
    Ok(files)
}

/// Reads what may be of the time asked for, oldest first, and says how far back there is any.
pub(super) fn read(
    dir: &Path,
    since_ms: u64,
    until_ms: u64,
    mut found: impl FnMut(Happening),
) -> io::Result<u64> {
    let files = list(dir)?;
    for (at, (since, path)) in files.iter().enumerate() {
        // A clock that runs back a little puts happenings into a file that begins later.
        let slack = ms(FILE_AGE_MAX);
        let ends = files.get(at + 1).map_or(u64::MAX, |(next, _)| *next);
        if ends.saturating_add(slack) < since_ms
            || until_ms != 0 && *since > until_ms.saturating_add(slack)
        {
            continue;
        }
        // Removed meanwhile, because it is too old.
        let Ok(file) = File::open(path) else {
            continue;
        };
        let mut file = BufReader::with_capacity(256 << 10, file);
        while let Some(happening) = frame(&mut file) {
            found(happening);
        }
    }
    Ok(files.first().map_or(0, |(since, _)| *since))
}

/// The next whole frame; `None` at the end, and where the file is torn.
fn frame(file: &mut impl Read) -> Option<Happening> {
    let mut told = [0; 8];
    file.read_exact(&mut told).ok()?;
    let len = u32::from_le_bytes([told[0], told[1], told[2], told[3]]) as usize;
    if len > FRAME_BYTES_MAX {
        return None;
    }
    let mut frame = vec![0; len];
    file.read_exact(&mut frame).ok()?;
    (head(&frame) == told)
        .then(|| Happening::decode(&frame[..]).ok())
        .flatten()
}

fn head(frame: &[u8]) -> [u8; 8] {
    let len = u32::try_from(frame.len()).unwrap_or(u32::MAX).to_le_bytes();
    let hash = blake3::hash(frame);
    let hash = hash.as_bytes();
    [
        len[0], len[1], len[2], len[3], hash[0], hash[1], hash[2], hash[3],
    ]
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::happening;
    use super::*;

    fn all(dir: &Path) -> Vec<String> {
        let mut found = Vec::new();
        read(dir, 0, 0, |happening| found.push(happening.text)).unwrap();
        found
    }

    fn text(text: &str) -> Happening {
        Happening {
            text: text.into(),
            ..happening("refused")
        }
    }

    #[test]
    fn a_torn_frame_ends_its_file_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = Files::new(dir.path());
        for word in ["a", "b"] {
            files.add(&text(word)).unwrap();
        }
        files.flush().unwrap();
        let (_, first) = list(dir.path()).unwrap().remove(0);
        let whole = fs::read(&first).unwrap();
        let mut next = Files::new(dir.path());
        next.add(&text("c")).unwrap();
        next.flush().unwrap();
        for cut in whole.len() / 2..whole.len() {
            fs::write(&first, &whole[..cut]).unwrap();
            assert_eq!(all(dir.path()), ["a", "c"], "cut at {cut}");
        }
        // A power cut may leave zeros, or the wrong bytes, where nothing was synced.
        let mut rotten = whole.clone();
        *rotten.last_mut().unwrap() ^= 1;
        fs::write(&first, &rotten).unwrap();
        assert_eq!(all(dir.path()), ["a", "c"]);
        fs::write(&first, vec![0; 100]).unwrap();
        assert_eq!(all(dir.path()).last().map(String::as_str), Some("c"));
    }

    #[test]
    fn what_is_too_old_goes_and_what_is_being_written_stays() {
        let dir = tempfile::tempdir().unwrap();
        let old = world::now().0 - ms(AGE_MAX) - 1000;
        let name = |at: u64| dir.path().join(format!("{at:016}{SUFFIX}"));
        for at in [old - 1000, old, world::now().0 - 1000] {
            fs::write(name(at), b"").unwrap();
        }
        fs::write(dir.path().join("notes.txt"), b"").unwrap();
        let mut files = Files::new(dir.path());
        files.add(&text("a")).unwrap();
        files.flush().unwrap();
        assert!(!name(old - 1000).exists(), "it ended before the time");
        assert!(name(old).exists(), "it may hold what happened a second ago");
        assert!(dir.path().join("notes.txt").exists());
        assert_eq!(list(dir.path()).unwrap().len(), 3);
        assert_eq!(all(dir.path()), ["a"]);
    }
}
