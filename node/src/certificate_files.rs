//! The files with the certificate of SMTP and the portal, which another program renews: looked at now
//! and then, so that nobody must tell the node.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use crate::config::Config;

/// How often: such a certificate is renewed weeks before it ends.
pub const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What tells one state of both files from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp(Vec<Option<(SystemTime, u64, u64)>>);

impl Stamp {
    /// Of the files that `config` names.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let files = [&config.smtp.tls_cert, &config.smtp.tls_key];
        let look = |path: &std::path::PathBuf| {
            let found = fs::metadata(path).ok()?;
            Some((found.modified().ok()?, found.len(), found.ino()))
        };
        Self(files.into_iter().flatten().map(look).collect())
    }
}

/// Which files are in force, and which could not be used.
#[derive(Debug)]
pub struct CertificateFiles {
    taken: Stamp,
    broken: Option<Stamp>,
}

impl CertificateFiles {
    /// The files as they are now are in force.
    #[must_use]
    pub fn as_they_are(config: &Config) -> Self {
        Self {
            taken: Stamp::of(config),
            broken: None,
        }
    }

    /// The files, if they are to be read again. One that could not be used is tried again each time:
    /// of certificate and key one is written first.
    #[must_use]
    pub fn changed(&self, config: &Config) -> Option<Stamp> {
        let now = Stamp::of(config);
        (now != self.taken).then_some(now)
    }

    pub fn took(&mut self, stamp: Stamp) {
        *self = Self {
            taken: stamp,
            broken: None,
        };
    }

    /// They cannot be used; whether that is to be said, once for each change.
    pub fn are_broken(&mut self, stamp: Stamp) -> bool {
        let known = self.broken.as_ref() == Some(&stamp);
        self.broken = Some(stamp);
        !known
    }
}
