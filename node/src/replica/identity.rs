//! Who this node is, on disk: cluster id, node id, incarnation, key and certificates.
//!
//! The identity lies beside the database and inside it, and both must agree. A node with an
//! identity and no database was wiped: it may have acknowledged entries it no longer has, so
//! it must never vote again under its old id.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use holdfast_mail::NodeId;

/// What makes this node itself. Written once, when it joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster_id: [u8; 16],
    pub node_id: NodeId,
    /// Drawn at random when the identity is written; tells two lives of one directory apart.
    pub incarnation: [u8; 16],
    /// DER.
    pub certificate: Vec<u8>,
    /// PKCS #8, DER.
    pub key: Vec<u8>,
    /// DER.
    pub ca_certificate: Vec<u8>,
}

/// Why a node does not start with the directory it was given.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot read the identity in {path}: {error}. Nothing was changed")]
    Unreadable { path: PathBuf, error: io::Error },
    #[error(
        "{dir} has the identity of node {node} but its database is gone. It may have acknowledged mail it no \
         longer holds, so it must not vote again. The other nodes hold the mail. Remove it on a living node \
         (holdfast cluster leave {node}), empty the directory and join with a new token"
    )]
    Wiped { dir: PathBuf, node: NodeId },
    #[error(
        "the database in {dir} belongs to another identity than the files beside it. Put back the directory that \
         belongs together, or remove the node (holdfast cluster leave) and join with a new token"
    )]
    Mismatch { dir: PathBuf },
}

impl Identity {
    /// The triple that is stored in the database and checked at every start.
    #[must_use]
    pub fn seal(&self) -> Vec<u8> {
        let mut seal = Vec::with_capacity(40);
        seal.extend_from_slice(&self.cluster_id);
        seal.extend_from_slice(&self.node_id.0.to_be_bytes());
        seal.extend_from_slice(&self.incarnation);
        seal
    }

    /// Reads the identity in `data_dir`; `None` where there is none yet.
    pub fn read(data_dir: &Path) -> Result<Option<Self>, IdentityError> {
        let dir = data_dir.join("identity");
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read(&path).map_err(|error| IdentityError::Unreadable { path, error })
        };
        let seal = match fs::read(dir.join("seal")) {
            Ok(seal) => seal,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(IdentityError::Unreadable {
                    path: dir.join("seal"),
                    error,
                });
            }
        };
        let parts = (seal.len() == 40)
            .then(|| {
                let cluster_id = seal[..16].try_into().ok()?;
                let node_id = NodeId(u64::from_be_bytes(seal[16..24].try_into().ok()?));
                Some((cluster_id, node_id, seal[24..].try_into().ok()?))
            })
            .flatten();
        let Some((cluster_id, node_id, incarnation)) = parts else {
            let error = io::Error::new(io::ErrorKind::InvalidData, "it is not 40 bytes long");
            return Err(IdentityError::Unreadable {
                path: dir.join("seal"),
                error,
            });
        };
        Ok(Some(Self {
            cluster_id,
            node_id,
            incarnation,
            certificate: read("node.crt")?,
            key: read("node.key")?,
            ca_certificate: read("ca.crt")?,
        }))
    }

    /// Writes the identity, durably; the seal last, so that a crash leaves all or nothing.
    pub fn write(&self, data_dir: &Path) -> io::Result<()> {
        let dir = data_dir.join("identity");
        fs::create_dir_all(&dir)?;
        // Those of another identity that was here.
        match fs::remove_file(dir.join("credentials")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        write_synced(&dir.join("node.crt"), &self.certificate)?;
        write_synced(&dir.join("node.key"), &self.key)?;
        write_synced(&dir.join("ca.crt"), &self.ca_certificate)?;
        let new = dir.join("seal.new");
        write_synced(&new, &self.seal())?;
        fs::rename(&new, dir.join("seal"))?;
        File::open(&dir)?.sync_all()?;
        File::open(data_dir)?.sync_all()
    }
}

/// Readable by the owner only: the directory holds the node's private key.
pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_back_as_written_and_absent_before() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Identity::read(dir.path()).unwrap(), None);
        let identity = Identity {
            cluster_id: [1; 16],
            node_id: NodeId(7),
            incarnation: [2; 16],
            certificate: vec![3],
            key: vec![4],
            ca_certificate: vec![5],
        };
        identity.write(dir.path()).unwrap();
        assert_eq!(Identity::read(dir.path()).unwrap(), Some(identity));
    }
}
