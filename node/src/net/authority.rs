//! The cluster's own certificate authority.
//!
//! It signs two kinds of certificate. A node's only name says cluster and node id; a person's says
//! cluster and who it is, and neither passes for the other. The key is replicated, so that any
//! member can sign.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_mail::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Every certificate name ends so; `.internal` is reserved for private use.
const SUFFIX: &str = ".holdfast.internal";

const NODE_PREFIX: &str = "node-";
const PERSON_PREFIX: &str = "person-";

const DAY: Duration = Duration::from_secs(86_400);

/// The CA outlives the cluster's machines; rotation replaces it earlier. 20 years.
const CA_LIFE: Duration = DAY.saturating_mul(365 * 20);

/// A node's certificate is valid this long, a year: it is renewed when a third is left, so a node
/// may be switched off for four months and still be let in.
const NODE_LIFE: Duration = DAY.saturating_mul(365);

/// Backdated: clocks differ, and a certificate that is not valid yet keeps a node out.
const BACKDATED: Duration = DAY;

/// Another life of nodes' certificates, in seconds; 0: none. Not 0 only in sandboxes and tests.
static SANDBOX_LIFE_S: AtomicU64 = AtomicU64::new(0);

/// Only in a sandbox: nodes' certificates that this process signs live this long.
pub(crate) fn live_short(seconds: u64) {
    SANDBOX_LIFE_S.store(seconds, Ordering::Relaxed);
}

/// How long a node's certificate that this process signs is valid.
#[must_use]
pub fn node_life() -> Duration {
    match SANDBOX_LIFE_S.load(Ordering::Relaxed) {
        0 => NODE_LIFE,
        seconds => Duration::from_secs(seconds),
    }
}

/// Why a certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("cannot make or read a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("cannot read a certificate: {0}")]
    Unreadable(String),
}

/// An authority: DER certificate and PKCS #8 key.
pub struct Authority {
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

impl Authority {
    pub fn create(cluster_id: [u8; 16]) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = Self::params(cluster_id, &key).self_signed(&key)?;
        Ok(Self {
            certificate: certificate.der().to_vec(),
            key: key.serialize_der(),
        })
    }

    /// One that takes the place of `old`; and its key signed by `old`, for those who still trust
    /// nobody else.
    pub fn create_after(
        old: &Self,
        cluster_id: [u8; 16],
    ) -> Result<(Self, Vec<u8>), AuthorityError> {
        let new = Self::create(cluster_id)?;
        let cross = Self::params(cluster_id, &new.key_pair()?)
            .signed_by(&new.key_pair()?, &old.issuer()?)?;
        Ok((new, cross.der().to_vec()))
    }

    /// The name ends with a part of the key's hash, so that who issued a certificate can be told
    /// from its issuer's name.
    fn params(cluster_id: [u8; 16], key: &KeyPair) -> CertificateParams {
        let mut params = CertificateParams::default();
        let hash: [u8; 32] = Sha256::digest(key.public_key_raw()).into();
        let (cluster, hash) = (hex(&cluster_id), hex(&hash[..4]));
        params.distinguished_name.push(
            DnType::CommonName,
            format!("holdfast cluster {cluster} {hash}"),
        );
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        validity(&mut params, CA_LIFE);
        params
    }

    fn key_pair(&self) -> Result<KeyPair, AuthorityError> {
        Ok(KeyPair::from_pkcs8_der_and_sign_algo(
            &PrivatePkcs8KeyDer::from(self.key.clone()),
            &PKCS_ECDSA_P256_SHA256,
        )?)
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, AuthorityError> {
        let certificate = CertificateDer::from(self.certificate.clone());
        Ok(Issuer::from_ca_cert_der(&certificate, self.key_pair()?)?)
    }

    /// Nothing of the request but its key is used: names and usages are ours.
    fn sign(&self, request: &[u8], params: CertificateParams) -> Result<Vec<u8>, AuthorityError> {
        let der = CertificateSigningRequestDer::from(request.to_vec());
        let mut request = CertificateSigningRequestParams::from_der(&der)?;
        request.params = params;
        Ok(request.signed_by(&self.issuer()?)?.der().to_vec())
    }

    /// Signs a node's request.
    pub fn sign_node(
        &self,
        request: &[u8],
        node: NodeId,
        cluster_id: [u8; 16],
    ) -> Result<Vec<u8>, AuthorityError> {
        let mut params = CertificateParams::default();
        let name = node_name(node, cluster_id);
        params
            .distinguished_name
            .push(DnType::CommonName, format!("holdfast node {node}"));
        params.subject_alt_names = vec![SanType::DnsName(name.try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        validity(&mut params, node_life());
        self.sign(request, params)
    }

    /// Signs a server's request, for tests.
    #[cfg(test)]
    pub(crate) fn sign_server(
        &self,
        request: &[u8],
        name: &str,
    ) -> Result<Vec<u8>, AuthorityError> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        validity(&mut params, DAY);
        self.sign(request, params)
    }

    /// Signs the request of somebody who may use the operators' API. It is good for nothing that
    /// a node does: it names none, and serves nobody.
    pub fn sign_person(
        &self,
        request: &[u8],
        person: &str,
        cluster_id: [u8; 16],
        life: Duration,
    ) -> Result<Vec<u8>, AuthorityError> {
        let mut params = CertificateParams::default();
        let name = format!("{PERSON_PREFIX}{person}.{}{SUFFIX}", hex(&cluster_id));
        params
            .distinguished_name
            .push(DnType::CommonName, format!("holdfast person {person}"));
        params.subject_alt_names = vec![SanType::DnsName(name.try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        validity(&mut params, life);
        self.sign(request, params)
    }
}

fn validity(params: &mut CertificateParams, life: Duration) {
    let now = std::time::SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + life).into();
}

/// A fresh key (PKCS #8, DER) and a request (PKCS #10, DER) to have it certified.
pub fn request() -> Result<(Vec<u8>, Vec<u8>), AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let request = CertificateParams::default().serialize_request(&key)?;
    Ok((key.serialize_der(), request.der().to_vec()))
}

/// A fresh key (PKCS #8, PEM) and a request (PKCS #10, DER) to have it certified for host names, and
/// for no subject besides (RFC 8555 section 7.4).
pub fn request_for(names: &[String]) -> Result<(String, Vec<u8>), AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key)?;
    Ok((key.serialize_pem(), request.der().to_vec()))
}

/// The name in a node's certificate.
#[must_use]
pub fn node_name(node: NodeId, cluster_id: [u8; 16]) -> String {
    format!("{NODE_PREFIX}{node}.{}{SUFFIX}", hex(&cluster_id))
}

/// Signs a node's request.
pub fn sign(
    ca_certificate: &[u8],
    ca_key: &[u8],
    request: &[u8],
    node: NodeId,
    cluster_id: [u8; 16],
) -> Result<Vec<u8>, AuthorityError> {
    let authority = Authority {
        certificate: ca_certificate.to_vec(),
        key: ca_key.to_vec(),
    };
    authority.sign_node(request, node, cluster_id)
}

/// Whether that is a request that could be signed (PKCS #10, DER).
pub fn check_request(request: &[u8]) -> Result<(), AuthorityError> {
    let der = CertificateSigningRequestDer::from(request.to_vec());
    CertificateSigningRequestParams::from_der(&der)?;
    Ok(())
}

/// SHA-256 of a certificate's public key (its SubjectPublicKeyInfo): what a join token pins.
pub fn fingerprint(certificate: &[u8]) -> Result<[u8; 32], AuthorityError> {
    let (_, certificate) = X509Certificate::from_der(certificate)
        .map_err(|e| AuthorityError::Unreadable(e.to_string()))?;
    Ok(Sha256::digest(certificate.public_key().raw).into())
}

/// When a certificate ends, in seconds of Unix time.
pub fn expires(certificate: &[u8]) -> Result<i64, AuthorityError> {
    let (_, certificate) = X509Certificate::from_der(certificate)
        .map_err(|e| AuthorityError::Unreadable(e.to_string()))?;
    Ok(certificate.validity().not_after.timestamp())
}

/// Between which seconds of Unix time a certificate was meant to be used: it is backdated besides.
pub fn life(certificate: &[u8]) -> Result<(i64, i64), AuthorityError> {
    let (_, certificate) = X509Certificate::from_der(certificate)
        .map_err(|e| AuthorityError::Unreadable(e.to_string()))?;
    let validity = certificate.validity();
    let backdated = i64::try_from(BACKDATED.as_secs()).unwrap_or(0);
    Ok((
        validity.not_before.timestamp().saturating_add(backdated),
        validity.not_after.timestamp(),
    ))
}

/// Whether `authority` is who issued a certificate, by the names in both. Proves nothing by itself:
/// the certificate was verified when its holder connected.
#[must_use]
pub fn is_issued_by(certificate: &[u8], authority: &[u8]) -> bool {
    let certificate = X509Certificate::from_der(certificate);
    let authority = X509Certificate::from_der(authority);
    match (certificate, authority) {
        (Ok((_, certificate)), Ok((_, authority))) => {
            certificate.issuer().as_raw() == authority.subject().as_raw()
        }
        _ => false,
    }
}

/// SHA-256 of a whole certificate.
#[must_use]
pub fn digest(certificate: &[u8]) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

/// Which node of which cluster a certificate names; `None` when it names none.
#[must_use]
pub fn named_node(certificate: &[u8]) -> Option<(NodeId, [u8; 16])> {
    named(certificate, |name, cluster| {
        let node = name.strip_prefix(NODE_PREFIX)?;
        Some((NodeId(node.parse().ok()?), cluster))
    })
}

/// Who, by a cluster's word, a certificate names; `None` when it names nobody.
#[must_use]
pub fn named_person(certificate: &[u8]) -> Option<(String, [u8; 16])> {
    named(certificate, |name, cluster| {
        let person = name.strip_prefix(PERSON_PREFIX)?;
        Some((person.to_owned(), cluster))
    })
}

fn named<T>(certificate: &[u8], read: impl Fn(&str, [u8; 16]) -> Option<T>) -> Option<T> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| {
        let GeneralName::DNSName(name) = name else {
            return None;
        };
        let (name, cluster) = name.strip_suffix(SUFFIX)?.split_once('.')?;
        read(name, unhex(cluster)?)
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    let value = u128::from_str_radix(text, 16).ok()?;
    (text.len() == 32).then(|| value.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signed_certificate_names_its_node_and_cluster() {
        let cluster = [0xab; 16];
        let ca = Authority::create(cluster).unwrap();
        let (_, request) = request().unwrap();
        let certificate = sign(&ca.certificate, &ca.key, &request, NodeId(42), cluster).unwrap();
        assert_eq!(named_node(&certificate), Some((NodeId(42), cluster)));
        assert_eq!(named_node(&ca.certificate), None);
        let (node, authority) = (expires(&certificate), expires(&ca.certificate));
        assert!(node.unwrap() < authority.unwrap(), "a node's ends first");
        assert!(is_issued_by(&certificate, &ca.certificate));
    }

    #[test]
    fn a_person_is_no_node_and_a_node_no_person() {
        let cluster = [0xab; 16];
        let ca = Authority::create(cluster).unwrap();
        let (_, request) = request().unwrap();
        let life = Duration::from_secs(60);
        // Even one who is called like a node.
        let person = ca.sign_person(&request, "node-4", cluster, life).unwrap();
        assert_eq!(named_person(&person), Some(("node-4".to_owned(), cluster)));
        assert_eq!(named_node(&person), None);
        let node = ca.sign_node(&request, NodeId(4), cluster).unwrap();
        assert_eq!(named_person(&node), None);
    }

    #[test]
    fn an_authority_and_its_successor_are_told_apart_by_what_they_issued() {
        let cluster = [0xab; 16];
        let old = Authority::create(cluster).unwrap();
        let (new, cross) = Authority::create_after(&old, cluster).unwrap();
        let (_, request) = request().unwrap();
        let certificate = new.sign_node(&request, NodeId(4), cluster).unwrap();
        assert!(is_issued_by(&certificate, &new.certificate));
        assert!(!is_issued_by(&certificate, &old.certificate));
        assert!(is_issued_by(&cross, &old.certificate));
        assert_eq!(
            fingerprint(&cross).unwrap(),
            fingerprint(&new.certificate).unwrap()
        );
    }
}
