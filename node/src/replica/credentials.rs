//! What this node presents to others and whom it trusts: on disk, and in use.
//!
//! The identity says who the node is and never changes; its certificate does. The newest is in
//! one file, so that certificate, key and authorities change together or not at all.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use arc_swap::ArcSwap;
use holdfast_proto::cluster as wire;
use prost::Message;

use super::Identity;
use super::identity::write_synced;
use super::peers::Peers;
use crate::net::authority;
use crate::net::tls::{ClusterClient, ClusterServer, Credentials, TlsError};
use crate::world;
use std::sync::Arc;

/// This node's credentials, and everything that shows them.
pub(crate) struct Papers {
    data_dir: PathBuf,
    now: ArcSwap<Credentials>,
    nodes: ClusterServer,
    people: ClusterServer,
    client: ClusterClient,
}

impl Papers {
    pub(crate) fn open(data_dir: &Path, identity: &Identity) -> Result<Self, TlsError> {
        let credentials = read(data_dir, identity);
        credentials.check()?;
        Ok(Self {
            data_dir: data_dir.to_owned(),
            nodes: ClusterServer::for_nodes(&credentials)?,
            people: ClusterServer::for_people(&credentials)?,
            client: ClusterClient::new(&credentials)?,
            now: ArcSwap::from_pointee(credentials),
        })
    }

    pub(crate) fn now(&self) -> Arc<Credentials> {
        self.now.load_full()
    }

    /// The listener for other nodes.
    pub(crate) fn nodes(&self) -> ClusterServer {
        self.nodes.clone()
    }

    /// The listener for operators who are elsewhere.
    pub(crate) fn people(&self) -> ClusterServer {
        self.people.clone()
    }

    pub(crate) fn client(&self) -> ClusterClient {
        self.client.clone()
    }

    /// Keeps `credentials`, and shows them from the next connection on.
    pub(crate) async fn change(&self, credentials: Credentials, peers: &Peers) -> io::Result<()> {
        // Made first: what cannot be shown must not be what the node has after a restart.
        ClusterServer::for_nodes(&credentials).map_err(io::Error::other)?;
        let (data_dir, written) = (self.data_dir.clone(), credentials.clone());
        world::blocking(move || write(&data_dir, &written)).await??;
        for server in [&self.nodes, &self.people] {
            server.show(&credentials).map_err(io::Error::other)?;
        }
        self.client.show(&credentials).map_err(io::Error::other)?;
        self.now.store(Arc::new(credentials));
        peers.connect_anew();
        Ok(())
    }
}

fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("identity").join("credentials")
}

/// Those of the last renewal, or those that the node was given when it joined.
pub fn read(data_dir: &Path, identity: &Identity) -> Credentials {
    let path = file(data_dir);
    let renewed = match fs::read(&path) {
        Ok(bytes) => usable(&bytes, identity),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return joined_with(identity),
        Err(error) => Err(error.to_string()),
    };
    match renewed {
        Ok(renewed) => renewed,
        Err(why) => {
            tracing::error!(
                "{} cannot be used ({why}); the certificate of the day this node joined is shown instead",
                path.display()
            );
            joined_with(identity)
        }
    }
}

fn usable(bytes: &[u8], identity: &Identity) -> Result<Credentials, String> {
    let renewed = wire::Credentials::decode(bytes).map_err(|error| error.to_string())?;
    let us = (identity.node_id, identity.cluster_id);
    if authority::named_node(&renewed.certificate) != Some(us) {
        return Err("it is another node's".to_owned());
    }
    let credentials = Credentials {
        certificate: renewed.certificate.into(),
        key: renewed.key.into(),
        above: renewed.above.into_iter().map(Into::into).collect(),
        authorities: renewed.authorities.into_iter().map(Into::into).collect(),
    };
    credentials.check().map_err(|error| error.to_string())?;
    Ok(credentials)
}

fn joined_with(identity: &Identity) -> Credentials {
    Credentials {
        certificate: identity.certificate.clone(),
        key: identity.key.clone(),
        above: vec![identity.ca_certificate.clone()],
        authorities: vec![identity.ca_certificate.clone()],
    }
}

/// Durably, and all or nothing.
fn write(data_dir: &Path, credentials: &Credentials) -> io::Result<()> {
    let bytes = |list: &[Vec<u8>]| list.iter().map(|der| der.clone().into()).collect();
    let credentials = wire::Credentials {
        certificate: credentials.certificate.clone().into(),
        key: credentials.key.clone().into(),
        above: bytes(&credentials.above),
        authorities: bytes(&credentials.authorities),
    };
    let path = file(data_dir);
    let new = path.with_extension("new");
    write_synced(&new, &credentials.encode_to_vec())?;
    fs::rename(&new, &path)?;
    match path.parent() {
        Some(dir) => fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use holdfast_mail::NodeId;

    use super::*;
    use crate::net::authority::Authority;

    fn identity(ca: &Authority, node: NodeId) -> Identity {
        let cluster_id = [1; 16];
        let (key, request) = authority::request().unwrap();
        Identity {
            cluster_id,
            node_id: node,
            incarnation: [2; 16],
            certificate: ca.sign_node(&request, node, cluster_id).unwrap(),
            key,
            ca_certificate: ca.certificate.clone(),
        }
    }

    #[test]
    fn the_last_renewal_counts_and_before_it_what_the_node_joined_with() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::create([1; 16]).unwrap();
        let identity = identity(&ca, NodeId(3));
        identity.write(dir.path()).unwrap();
        assert!(read(dir.path(), &identity) == joined_with(&identity));

        let (key, request) = authority::request().unwrap();
        let renewed = Credentials {
            certificate: ca.sign_node(&request, NodeId(3), [1; 16]).unwrap(),
            key,
            ..joined_with(&identity)
        };
        write(dir.path(), &renewed).unwrap();
        assert!(read(dir.path(), &identity) == renewed);
        assert!(Papers::open(dir.path(), &identity).is_ok());
    }

    /// A directory that was copied, or damaged: the node must not speak as somebody else.
    #[test]
    fn credentials_of_another_node_are_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::create([1; 16]).unwrap();
        let (ours, other) = (identity(&ca, NodeId(3)), identity(&ca, NodeId(4)));
        ours.write(dir.path()).unwrap();
        write(dir.path(), &joined_with(&other)).unwrap();
        assert!(read(dir.path(), &ours) == joined_with(&ours));
        fs::write(file(dir.path()), b"\xff").unwrap();
        assert!(read(dir.path(), &ours) == joined_with(&ours));
    }

    #[test]
    fn a_bit_that_changed_in_a_certificate_or_a_key_is_noticed_at_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::create([1; 16]).unwrap();
        let whole = identity(&ca, NodeId(3));
        for place in 0..whole.certificate.len() {
            let mut rotten = whole.clone();
            rotten.certificate[place] ^= 1;
            assert!(Papers::open(dir.path(), &rotten).is_err(), "byte {place}");
        }
        let mut rotten = whole.clone();
        let last = rotten.key.len() - 1;
        rotten.key[last] ^= 1;
        assert!(Papers::open(dir.path(), &rotten).is_err());
        assert!(Papers::open(dir.path(), &whole).is_ok());
        // What was renewed and rotted counts no more than what was never renewed.
        whole.write(dir.path()).unwrap();
        let mut renewed = joined_with(&whole);
        renewed.certificate[200] ^= 1;
        write(dir.path(), &renewed).unwrap();
        assert!(read(dir.path(), &whole) == joined_with(&whole));
    }

    #[test]
    fn a_new_identity_in_a_directory_leaves_no_credentials_of_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::create([1; 16]).unwrap();
        let identity = identity(&ca, NodeId(3));
        identity.write(dir.path()).unwrap();
        write(dir.path(), &joined_with(&identity)).unwrap();
        identity.write(dir.path()).unwrap();
        assert!(!file(dir.path()).exists());
    }
}
