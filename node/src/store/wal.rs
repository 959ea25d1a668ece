//! A look at the write-ahead logs, and the manifest, which is one too, before RocksDB reads them.
//!
//! RocksDB 11.8 loops for ever where a log that was not recycled goes on with what looks like a
//! record of a recycled one, as garbage behind a torn tail may. We recycle none, so such a record
//! is damage, and a node that says so is better than one that never starts.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::StoreError;

/// Records do not cross the borders of blocks of this many bytes.
const BLOCK_BYTES: u64 = 32 << 10;

/// Checksum, length and kind.
const HEADER_BYTES: u64 = 7;

/// Kinds of records in recycled logs: full, first, middle, last, the size of timestamps, and what
/// the log before was.
const RECYCLED: [u8; 6] = [5, 6, 7, 8, 11, 131];

/// Refuses logs in `dir` that RocksDB would never come to the end of.
pub(super) fn can_be_read(dir: &Path) -> Result<(), StoreError> {
    let in_dir = |error: io::Error| StoreError::Io {
        path: dir.to_owned(),
        error,
    };
    for entry in std::fs::read_dir(dir).map_err(in_dir)? {
        let path = entry.map_err(in_dir)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_log = name.ends_with(".log") || name.starts_with("MANIFEST-");
        if is_log && ends_in_a_loop(&path).map_err(in_dir)? {
            return Err(StoreError::Damaged {
                path,
                why: "behind its last record lies what was never written".into(),
            });
        }
    }
    Ok(())
}

fn ends_in_a_loop(path: &Path) -> io::Result<bool> {
    let file = File::open(path)?;
    let end = file.metadata()?.len();
    let mut at = 0;
    while at + HEADER_BYTES <= end {
        let left = BLOCK_BYTES - at % BLOCK_BYTES;
        if left < HEADER_BYTES {
            at += left;
            continue;
        }
        let mut header = [0; HEADER_BYTES as usize];
        file.read_exact_at(&mut header, at)?;
        let kind = header[6];
        if RECYCLED.contains(&kind) {
            return Ok(true);
        }
        // From here on RocksDB sees a torn tail, or damage.
        let length = u64::from(u16::from_le_bytes([header[4], header[5]]));
        if kind == 0 || HEADER_BYTES + length > left {
            return Ok(false);
        }
        at += HEADER_BYTES + length;
    }
    Ok(false)
}
