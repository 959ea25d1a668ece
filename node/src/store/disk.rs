//! How much room the disk has.

use std::io;
use std::path::Path;

/// Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Free to this process; what is reserved for root is not counted.
    pub free: u64,
    pub total: u64,
}

/// The file system that holds `path`.
pub fn disk_space(path: &Path) -> io::Result<Space> {
    let found = rustix::fs::statvfs(path)?;
    Ok(Space {
        free: found.f_bavail.saturating_mul(found.f_frsize),
        total: found.f_blocks.saturating_mul(found.f_frsize),
    })
}
