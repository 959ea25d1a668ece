//! Whose a node's files are: what root makes among them is given to the node's user, who could not use
//! it otherwise.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, chownat, openat, statat};
use rustix::process::{Gid, Uid, geteuid};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    uid: Uid,
    gid: Gid,
}

impl Owner {
    /// Of what is at `path`; while nothing is there, of the folder that it would be made in.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let mut ancestors = path.ancestors();
        loop {
            let missing = || io::Error::from(io::ErrorKind::NotFound);
            match ancestors.next().ok_or_else(missing)?.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                found => {
                    let found = found?;
                    return Ok(Self {
                        uid: Uid::from_raw(found.uid()),
                        gid: Gid::from_raw(found.gid()),
                    });
                }
            }
        }
    }

    /// Whether who runs this command can leave files that this owner can use.
    pub(crate) fn can_be_served(self) -> bool {
        geteuid().is_root() || geteuid() == self.uid
    }

    /// Gives all of root's files at and below the folder `path` to this owner, if root runs this.
    pub(crate) fn give(self, path: &Path) -> io::Result<()> {
        if !geteuid().is_root() || self.uid.is_root() || !path.exists() {
            return Ok(());
        }
        let folder = openat(CWD, path, folder_flags(), Mode::empty())?;
        self.give_one(folder.as_fd(), ".".as_ref())?;
        self.give_all_in(folder.as_fd())
    }

    /// The folder belongs to somebody else than root, who may have laid traps: no link is followed, and
    /// nothing is given that has a second name elsewhere.
    fn give_all_in(self, folder: BorrowedFd<'_>) -> io::Result<()> {
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_bytes() == b"." || name.to_bytes() == b".." {
                continue;
            }
            let name = Path::new(OsStr::from_bytes(name.to_bytes()));
            if self.give_one(folder, name)?.is_dir() {
                let inner = openat(folder, name, folder_flags(), Mode::empty())?;
                self.give_all_in(inner.as_fd())?;
            }
        }
        Ok(())
    }

    fn give_one(self, folder: BorrowedFd<'_>, name: &Path) -> io::Result<FileType> {
        let found = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(found.st_mode);
        if Uid::from_raw(found.st_uid).is_root() && (kind.is_dir() || found.st_nlink == 1) {
            let (uid, gid) = (Some(self.uid), Some(self.gid));
            chownat(folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(kind)
    }
}

/// As chown(8) reads it.
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid.as_raw(), self.gid.as_raw())
    }
}

fn folder_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}
