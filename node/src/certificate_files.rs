//! The certificate of SMTP and the portal, which another program renews in files, or the cluster in its
//! ledger: looked at now and then, so that nobody must tell the node.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use holdfast_ledger::acme::AcmeIssued;
use holdfast_ledger::query;
use holdfast_mail::Timestamp;

use crate::config::Config;
use crate::replica::Cluster;

/// How often. Such a certificate is renewed weeks before it ends, but whoever orders the first one waits
/// for it.
pub const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The certificate that the cluster has ordered, and when it came; only where `config` names no files,
/// for those go first.
#[must_use]
pub fn ordered(config: &Config, cluster: Option<&Cluster>) -> Option<(AcmeIssued, Timestamp)> {
    if config.smtp.tls_cert.is_some() {
        return None;
    }
    query::ordered(&cluster?.view()).unwrap_or_else(|error| {
        tracing::error!("the certificate in the ledger cannot be read: {}", error.0);
        None
    })
}

/// What tells one state of both files, or of the ledger, from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    files: Vec<Option<(SystemTime, u64, u64)>>,
    issued_at: Option<Timestamp>,
}

impl Stamp {
    /// Of the files that `config` names, or of the ledger if it names none.
    #[must_use]
    pub fn of(config: &Config, cluster: Option<&Cluster>) -> Self {
        let files = [&config.smtp.tls_cert, &config.smtp.tls_key];
        let look = |path: &std::path::PathBuf| {
            let found = fs::metadata(path).ok()?;
            Some((found.modified().ok()?, found.len(), found.ino()))
        };
        Self {
            files: files.into_iter().flatten().map(look).collect(),
            issued_at: ordered(config, cluster).map(|(_, at)| at),
        }
    }
}

/// Which certificate is in force, and which could not be used.
#[derive(Debug)]
pub struct CertificateFiles {
    taken: Stamp,
    broken: Option<Stamp>,
}

impl CertificateFiles {
    /// The files as they are now are in force; what is in the ledger is looked for.
    #[must_use]
    pub fn as_they_are(config: &Config) -> Self {
        Self {
            taken: Stamp::of(config, None),
            broken: None,
        }
    }

    /// What is there now, if it is to be read again. What could not be used is tried again each time:
    /// of certificate and key one is written first.
    #[must_use]
    pub fn changed(&self, config: &Config, cluster: Option<&Cluster>) -> Option<Stamp> {
        let now = Stamp::of(config, cluster);
        (now != self.taken).then_some(now)
    }

    pub fn took(&mut self, stamp: Stamp) {
        *self = Self {
            taken: stamp,
            broken: None,
        };
    }

    /// It cannot be used; whether that is to be said, once for each change.
    pub fn are_broken(&mut self, stamp: Stamp) -> bool {
        let known = self.broken.as_ref() == Some(&stamp);
        self.broken = Some(stamp);
        !known
    }
}
