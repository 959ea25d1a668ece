//! The file with which a person uses the operators' API from afar: a certificate, its key, and the
//! authority that a node must be of. PEM, so that other programs read it too.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::authority;
use super::tls::{self, ClusterClient, TlsError};

/// A certificate of the cluster for a person, with what belongs to it. DER.
pub struct Pass {
    pub certificate: Vec<u8>,
    /// PKCS #8.
    pub key: Vec<u8>,
    pub authority: Vec<u8>,
}

impl Pass {
    /// Reads a file that `holdfast access grant` wrote.
    pub fn read(path: &Path) -> Result<Self, TlsError> {
        let unreadable = |why: String| TlsError::File {
            path: path.display().to_string(),
            why,
        };
        let bytes = fs::read(path).map_err(|e| unreadable(e.to_string()))?;
        Self::parse(&bytes).ok_or_else(|| {
            unreadable("it is no file that `holdfast access grant` has written".into())
        })
    }

    fn parse(pem: &[u8]) -> Option<Self> {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .ok()?;
        let [certificate, authority] = &certificates[..] else {
            return None;
        };
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem).ok()?;
        Some(Self {
            certificate: certificate.to_vec(),
            key: key.secret_pkcs8_der().to_vec(),
            authority: authority.to_vec(),
        })
    }

    /// The person first, then the authority.
    #[must_use]
    pub fn to_pem(&self) -> String {
        [
            ("CERTIFICATE", &self.certificate),
            ("PRIVATE KEY", &self.key),
            ("CERTIFICATE", &self.authority),
        ]
        .into_iter()
        .map(|(label, der)| block(label, der))
        .collect()
    }

    /// When it ends, in seconds of Unix time.
    #[must_use]
    pub fn expires(&self) -> Option<i64> {
        authority::expires(&self.certificate).ok()
    }

    /// Speaks only to nodes of the cluster that gave it.
    pub fn client(&self) -> Result<ClusterClient, TlsError> {
        let authority = authority::fingerprint(&self.authority)
            .map_err(|error| TlsError::Certificate(error.to_string()))?;
        tls::person_client(authority, &self.certificate, &self.key)
    }
}

/// RFC 7468: base64 in lines of 64.
pub(crate) fn block(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut block = format!("-----BEGIN {label}-----\n");
    let mut rest = &text[..];
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        block.push_str(line);
        block.push('\n');
        rest = more;
    }
    block.push_str(&format!("-----END {label}-----\n"));
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_read_as_it_was_written_and_anything_else_is_not() {
        let cluster = [1; 16];
        let ca = authority::Authority::create(cluster).unwrap();
        let (key, request) = authority::request().unwrap();
        let life = std::time::Duration::from_secs(60);
        let pass = Pass {
            certificate: ca.sign_person(&request, "ann", cluster, life).unwrap(),
            key,
            authority: ca.certificate,
        };
        let text = pass.to_pem();
        let read = Pass::parse(text.as_bytes()).unwrap();
        assert_eq!(read.to_pem(), text);
        assert_eq!(read.key, pass.key);
        assert!(read.client().is_ok() && read.expires().is_some());

        let (half, _) = text.split_at(text.len() / 2);
        assert!(Pass::parse(half.as_bytes()).is_none());
        assert!(Pass::parse(b"").is_none());
    }
}
