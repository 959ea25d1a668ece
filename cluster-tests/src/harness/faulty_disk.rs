//! A library that stands between a node and its disk, and lets one call fail or many be slow: at a
//! chosen call, where a disk that fails altogether fails at any.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::world::must;

const SOURCE: &str = include_str!("faulty_disk.c");
const ORDER_VARIABLE: &str = "FAULTY_DISK";

/// Which calls of the node are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    Syncs,
    Writes,
}

/// What becomes of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lapse {
    /// It fails with EIO, and the next succeeds: disks forget what they could not write.
    Broken,
    /// It fails with ENOSPC.
    Full,
    /// It takes so long, and all after it.
    Slow(Duration),
}

/// The library, and the file in which it leaves word of what it did.
#[derive(Debug)]
pub struct FaultyDisk {
    library: PathBuf,
    word: PathBuf,
}

impl FaultyDisk {
    /// Compiles the library into `folder`.
    ///
    /// # Panics
    /// If it cannot: the test cannot go on.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        let disk = Self {
            library: folder.join("faulty_disk.so"),
            word: folder.join("faulty_disk.word"),
        };
        let source = folder.join("faulty_disk.c");
        fs::write(&source, SOURCE).expect("a library's source");
        let options = ["-O2", "-shared", "-fPIC", "-o"].map(AsRef::as_ref);
        let files = [
            disk.library.as_os_str(),
            source.as_os_str(),
            "-ldl".as_ref(),
        ];
        must("cc", &[&options[..], &files].concat());
        disk
    }

    /// The environment of a node of which the `nth` of these calls on a file below `folder` lapses.
    /// What was told of the node before is forgotten.
    #[must_use]
    pub fn environment(
        &self,
        folder: &Path,
        calls: Calls,
        nth: u64,
        lapse: Lapse,
    ) -> [(&'static str, String); 2] {
        // There may be none.
        drop(fs::remove_file(&self.word));
        let calls = match calls {
            Calls::Syncs => "syncs",
            Calls::Writes => "writes",
        };
        let lapse = match lapse {
            Lapse::Broken => "EIO".to_owned(),
            Lapse::Full => "ENOSPC".to_owned(),
            Lapse::Slow(time) => time.as_millis().to_string(),
        };
        let (folder, word) = (folder.display(), self.word.display());
        let order = format!("{calls} {nth} {lapse} {folder} {word}");
        let library = self.library.display().to_string();
        [("LD_PRELOAD", library), (ORDER_VARIABLE, order)]
    }

    /// What lapsed, once it has.
    #[must_use]
    pub fn word(&self) -> Option<String> {
        fs::read_to_string(&self.word).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Writes three letters to a file, one by one, and says which of them failed and how.
    const WRITER: &str =
        "open(F, '>', $ARGV[0]); for (1, 2, 3) { syswrite(F, $_) or print \"$_ $!\" }";

    #[test]
    fn the_call_that_is_named_lapses_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::new(folder.path());
        let (inside, outside) = (folder.path().join("in"), folder.path().join("out"));
        fs::create_dir_all(&inside).unwrap();
        fs::create_dir_all(&outside).unwrap();
        let write = |at: &Path, calls, nth, lapse| {
            let file = at.join("file");
            let ran = Command::new("perl")
                .args(["-e", WRITER])
                .arg(&file)
                .envs(disk.environment(&inside, calls, nth, lapse))
                .output()
                .unwrap();
            let said = String::from_utf8(ran.stdout).unwrap();
            (said, fs::read_to_string(file).unwrap(), disk.word())
        };
        let (said, written, word) = write(&inside, Calls::Writes, 2, Lapse::Broken);
        assert_eq!(said, "2 Input/output error");
        assert_eq!(written, "13");
        assert!(word.unwrap().ends_with("in/file: EIO\n"));
        let (said, _, word) = write(&inside, Calls::Writes, 3, Lapse::Full);
        assert_eq!(said, "3 No space left on device");
        assert!(word.unwrap().starts_with("write of "));
        for (at, calls, nth) in [
            (&outside, Calls::Writes, 1),
            (&inside, Calls::Syncs, 1),
            (&inside, Calls::Writes, 4),
        ] {
            let found = write(at, calls, nth, Lapse::Broken);
            assert_eq!(found, (String::new(), "123".to_owned(), None));
        }
    }

    #[test]
    fn calls_can_be_slow() {
        let folder = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::new(folder.path());
        let slow = Lapse::Slow(Duration::from_millis(200));
        let begun = std::time::Instant::now();
        let ran = Command::new("perl")
            .args(["-e", WRITER])
            .arg(folder.path().join("file"))
            .envs(disk.environment(folder.path(), Calls::Writes, 2, slow))
            .output()
            .unwrap();
        assert_eq!(ran.stdout, b"");
        assert!(begun.elapsed() >= Duration::from_millis(400));
        assert!(disk.word().is_some());
    }
}
