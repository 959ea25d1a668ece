//! A node's own disk: a file system in a file, whose power can be cut.
//!
//! The cut is `FS_IOC_SHUTDOWN` without a flush of the journal: what was synced is there
//! afterwards, what was only written is gone, as the kernel's real page cache has it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::world::{attempt, must};

/// The ioctl's number and its flag `EXT4_GOING_FLAGS_NOLOGFLUSH` (linux/fs/ext4/ext4.h). By perl,
/// which every Debian has: an ioctl is beyond safe Rust.
const SHUT_DOWN: &str = "sysopen(F, $ARGV[0], 0) or die \"open: $!\"; $flag = pack('L', 2); \
ioctl(F, 0x8004587d, $flag) or die \"ioctl: $!\"";

/// Seconds between the journal's commits of its own accord: longer than any test, since what it
/// commits would survive the cut by luck.
const COMMIT_SECONDS: u32 = 300;
/// A process that was killed lets go of its files within that time.
const UNMOUNT_TIME_MAX: Duration = Duration::from_secs(10);
/// A worn disk's: each sync is two or three of them.
const SLOW_WRITES_PER_SECOND: u32 = 15;
const THROTTLE: &str = "/sys/fs/cgroup/blkio/blkio.throttle.write_iops_device";
/// What fills a disk: a folder of files.
const BALLAST: &str = "ballast";
const BALLAST_PIECES_MAX: u32 = 100;
/// A disk with less room than that besides what is to be left is full: the file system needs some
/// for its own.
const BALLAST_ROUGHLY: u64 = 1 << 20;

#[derive(Clone, Debug)]
pub struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// A new, empty disk of `bytes`, in the file `image`, mounted at `at`.
    ///
    /// # Panics
    /// If it cannot be made: the test cannot go on.
    #[must_use]
    pub fn new(image: PathBuf, at: PathBuf, bytes: u64) -> Self {
        File::create(&image)
            .and_then(|file| file.set_len(bytes))
            .expect("a disk's file");
        fs::create_dir_all(&at).expect("a disk's folder");
        let eager = "lazy_itable_init=0,lazy_journal_init=0";
        must(
            "mkfs.ext4",
            &[
                "-q".as_ref(),
                "-F".as_ref(),
                "-m".as_ref(),
                "0".as_ref(),
                "-E".as_ref(),
                eager.as_ref(),
                image.as_os_str(),
            ],
        );
        let disk = Self { image, at };
        disk.mount();
        // A throttle belongs to the device, and outlives a test that was killed.
        disk.speed_up();
        disk
    }

    /// The file that it is in.
    #[must_use]
    pub(super) fn image(&self) -> &Path {
        &self.image
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// From now on nothing more reaches the disk, and every write and sync fails.
    ///
    /// # Panics
    /// If the file system does not take the order.
    pub fn cut_power(&self) {
        must(
            "perl",
            &["-e".as_ref(), SHUT_DOWN.as_ref(), self.at.as_os_str()],
        );
    }

    /// Power is back: what had been synced is there. Nobody may have files open on it.
    ///
    /// # Panics
    /// If somebody has.
    pub fn restore_power(&self) {
        let begun = Instant::now();
        while let Err(why) = attempt("umount", &[&self.at]) {
            assert!(begun.elapsed() < UNMOUNT_TIME_MAX, "{why}");
            sleep(Duration::from_millis(20));
        }
        self.mount();
    }

    /// Takes all room but `left` bytes, also from under a node that writes meanwhile.
    ///
    /// # Panics
    /// If the room is not there to be taken.
    pub fn fill(&self, left: u64) {
        let ballast = self.at.join(BALLAST);
        fs::create_dir_all(&ballast).expect("a folder for ballast");
        for piece in 0..BALLAST_PIECES_MAX {
            let surplus = self.free().saturating_sub(left);
            if surplus < BALLAST_ROUGHLY {
                return;
            }
            // A node that writes at this moment makes it fail, with a part taken.
            drop(attempt(
                "fallocate",
                &[
                    "--length".as_ref(),
                    surplus.to_string().as_ref(),
                    ballast.join(piece.to_string()).as_os_str(),
                ],
            ));
        }
        panic!("{} cannot be filled", self.at.display());
    }

    /// Gives the room back.
    pub fn make_room(&self) {
        // It may never have been filled.
        drop(fs::remove_dir_all(self.at.join(BALLAST)));
    }

    /// Bytes of room.
    ///
    /// # Panics
    /// If the file system does not say.
    #[must_use]
    pub fn free(&self) -> u64 {
        let said = std::process::Command::new("df")
            .args(["--output=avail", "--block-size=1"])
            .arg(&self.at)
            .output()
            .expect("df runs");
        String::from_utf8_lossy(&said.stdout)
            .lines()
            .nth(1)
            .and_then(|free| free.trim().parse().ok())
            .expect("df says how much room there is")
    }

    /// Lets only so few operations a second reach it.
    ///
    /// # Errors
    /// If the kernel offers no throttle.
    pub fn slow_down(&self) -> Result<(), String> {
        self.throttle(SLOW_WRITES_PER_SECOND)
    }

    pub fn speed_up(&self) {
        // Where there is no throttle, there is nothing to take away.
        drop(self.throttle(0));
    }

    fn throttle(&self, writes_per_second: u32) -> Result<(), String> {
        let device = self.device()?;
        fs::write(THROTTLE, format!("{device} {writes_per_second}"))
            .map_err(|error| format!("no throttle at {THROTTLE}: {error}"))
    }

    /// The loop device's numbers, as the kernel writes them.
    fn device(&self) -> Result<String, String> {
        let said = std::process::Command::new("findmnt")
            .args(["--noheadings", "--output", "MAJ:MIN"])
            .arg(&self.at)
            .output()
            .map_err(|error| format!("findmnt: {error}"))?;
        Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
    }

    fn mount(&self) {
        let options = format!("loop,commit={COMMIT_SECONDS}");
        must(
            "mount",
            &[
                "-o".as_ref(),
                options.as_ref(),
                self.image.as_os_str(),
                self.at.as_os_str(),
            ],
        );
    }
}
