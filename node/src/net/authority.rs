//! The cluster's own certificate authority.
//!
//! It signs one kind of certificate: a node's, whose only name says cluster and node id. The
//! key is replicated, so that any member can admit another.

use holdfast_mail::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    SanType,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Every certificate name ends so; `.internal` is reserved for private use.
const SUFFIX: &str = ".holdfast.internal";

/// The CA outlives the cluster's machines; rotation replaces it earlier. Years.
const CA_YEARS: i32 = 20;

/// A node's certificate is valid this long. Years.
const NODE_YEARS: i32 = 5;

/// Why a certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("cannot make or read a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("cannot read a certificate: {0}")]
    Unreadable(String),
}

/// A new authority: DER certificate and PKCS #8 key.
pub struct Authority {
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

impl Authority {
    pub fn create(cluster_id: [u8; 16]) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(
            DnType::CommonName,
            format!("holdfast cluster {}", hex(&cluster_id)),
        );
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        validity(&mut params, CA_YEARS);
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            certificate: certificate.der().to_vec(),
            key: key.serialize_der(),
        })
    }
}

/// Backdated by a day: clocks differ, and a certificate that is not valid yet keeps a node out.
fn validity(params: &mut CertificateParams, years: i32) {
    let now = std::time::SystemTime::now();
    let day = std::time::Duration::from_secs(86_400);
    params.not_before = (now - day).into();
    params.not_after = (now + day * 365 * years.unsigned_abs()).into();
}

/// A fresh key (PKCS #8, DER) and a request (PKCS #10, DER) to have it certified.
pub fn request() -> Result<(Vec<u8>, Vec<u8>), AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let request = CertificateParams::default().serialize_request(&key)?;
    Ok((key.serialize_der(), request.der().to_vec()))
}

/// The name in a node's certificate.
#[must_use]
pub fn node_name(node: NodeId, cluster_id: [u8; 16]) -> String {
    format!("node-{node}.{}{SUFFIX}", hex(&cluster_id))
}

/// Signs a request. Nothing of the request but its key is used: names and usages are ours.
pub fn sign(
    ca_certificate: &[u8],
    ca_key: &[u8],
    request: &[u8],
    node: NodeId,
    cluster_id: [u8; 16],
) -> Result<Vec<u8>, AuthorityError> {
    let key = KeyPair::from_pkcs8_der_and_sign_algo(
        &PrivatePkcs8KeyDer::from(ca_key.to_vec()),
        &PKCS_ECDSA_P256_SHA256,
    )?;
    let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(ca_certificate.to_vec()), key)?;
    let der = CertificateSigningRequestDer::from(request.to_vec());
    let mut request = CertificateSigningRequestParams::from_der(&der)?;
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
    validity(&mut params, NODE_YEARS);
    request.params = params;
    Ok(request.signed_by(&issuer)?.der().to_vec())
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

/// Which node of which cluster a certificate names; `None` when it names none.
#[must_use]
pub fn named_node(certificate: &[u8]) -> Option<(NodeId, [u8; 16])> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| {
        let GeneralName::DNSName(name) = name else {
            return None;
        };
        let (node, cluster) = name
            .strip_prefix("node-")?
            .strip_suffix(SUFFIX)?
            .split_once('.')?;
        Some((NodeId(node.parse().ok()?), unhex(cluster)?))
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
    }
}
