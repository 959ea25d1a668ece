//! How much memory a process may use, as on a small machine: a control group of its own, by either
//! version of Linux's.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::world::attempt;

const ROOT: &str = "/sys/fs/cgroup";

/// A group with a limit. Its process leaves it when it is dropped.
#[derive(Debug)]
pub struct Memory {
    folder: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Memory {
    /// From now on a process, with all that it starts, may use so many bytes, caches of its files
    /// included, and no swap.
    ///
    /// # Errors
    /// If this system does not let us say so.
    pub(super) fn limit(pid: u32, bytes: u64) -> Result<Self, String> {
        let version = Version::here();
        let nanos = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos());
        let folder = version.parent()?.join(format!("holdfast-{pid}-{nanos}"));
        fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let memory = Self { folder, version };
        let (limit, swap) = match version {
            Version::One => (
                "memory.limit_in_bytes",
                ("memory.memsw.limit_in_bytes", bytes),
            ),
            Version::Two => ("memory.max", ("memory.swap.max", 0)),
        };
        memory.write(limit, bytes)?;
        // Not there where the kernel has no swap to count.
        drop(memory.write(swap.0, swap.1));
        memory.write("cgroup.procs", pid.into())?;
        Ok(memory)
    }

    /// How often the kernel killed a process because the limit was reached.
    #[must_use]
    pub fn kills(&self) -> u64 {
        let events = self.read(match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        });
        let mut counts = events.lines().filter_map(|line| line.split_once(' '));
        let count = counts.find(|(name, _)| *name == "oom_kill");
        count
            .and_then(|(_, count)| count.parse().ok())
            .unwrap_or_default()
    }

    /// The most that was used at once.
    #[must_use]
    pub fn most(&self) -> u64 {
        let bytes = self.read(match self.version {
            Version::One => "memory.max_usage_in_bytes",
            Version::Two => "memory.peak",
        });
        bytes.trim().parse().unwrap_or_default()
    }

    fn write(&self, file: &str, value: u64) -> Result<(), String> {
        let file = self.folder.join(file);
        fs::write(&file, value.to_string()).map_err(|error| format!("{}: {error}", file.display()))
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.folder.join(file)).unwrap_or_default()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // A group can go once nobody is in it.
        if let Ok(ours) = self.version.ours() {
            for process in self.read("cgroup.procs").lines() {
                drop(fs::write(ours.join("cgroup.procs"), process));
            }
        }
        drop(fs::remove_dir(&self.folder));
    }
}

impl Version {
    fn here() -> Self {
        if Path::new(ROOT).join("memory/cgroup.procs").exists() {
            Self::One
        } else {
            Self::Two
        }
    }

    /// The group that this process is in.
    fn ours(self) -> Result<PathBuf, String> {
        let (root, mark) = match self {
            Self::One => (Path::new(ROOT).join("memory"), ":memory:"),
            Self::Two => (PathBuf::from(ROOT), "0::"),
        };
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let group = groups.lines().find_map(|line| line.split_once(mark));
        let (_, path) = group.ok_or("there are no control groups for memory")?;
        Ok(root.join(path.trim_start_matches('/')))
    }

    /// Where a new group belongs: below ours, so that our own limits hold for it too. In the second
    /// version beside it: a group with processes has no others with limits below it.
    fn parent(self) -> Result<PathBuf, String> {
        let ours = self.ours()?;
        match self {
            Self::Two if ours != Path::new(ROOT) => {
                let parent = ours.parent().ok_or("a group without a parent")?;
                Ok(parent.to_owned())
            }
            Self::One | Self::Two => Ok(ours),
        }
    }
}

/// What is written to a disk in a file counts as the writer's memory where that file is in memory,
/// unless the file's has been taken before. Only the second version can tell who the writer is.
pub(super) fn take_before(image: &Path, bytes: u64) -> Result<(), String> {
    if Version::here() == Version::One {
        return Ok(());
    }
    let bytes = bytes.to_string();
    let arguments = ["--length".as_ref(), bytes.as_ref(), image.as_os_str()];
    attempt("fallocate", &arguments)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_that_uses_more_than_it_may_is_killed_and_counted() {
        let greedy = "read go; x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo ${#x}";
        let mut child = Command::new("sh")
            .args(["-c", greedy])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let memory = match Memory::limit(child.id(), 16 << 20) {
            Ok(memory) => memory,
            Err(why) => {
                eprintln!("NOT RUN: {why}");
                child.kill().unwrap();
                child.wait().unwrap();
                return;
            }
        };
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(memory.kills() > 0);
        assert!(memory.most() > 8 << 20);
        let folder = memory.folder.clone();
        drop(memory);
        assert!(!folder.exists());
    }
}
