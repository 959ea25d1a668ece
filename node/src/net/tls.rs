//! TLS, for the cluster (strict) and for SMTP (opportunistic).

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use holdfast_mail::NodeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::authority;

/// What the cluster's listener presents and asks for.
#[derive(Clone)]
pub struct ClusterServer(pub(super) TlsAcceptor);

/// What a node presents to another, and whom it trusts.
#[derive(Clone)]
pub struct ClusterClient(pub(super) Arc<ClientConfig>);

/// What the SMTP listener presents after STARTTLS.
#[derive(Clone)]
pub struct SmtpServer(TlsAcceptor);

/// What the portal's listener presents.
#[derive(Clone)]
pub struct WebServer(TlsAcceptor);

/// A TLS configuration that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{0}")]
    Rustls(#[from] rustls::Error),
    #[error("{0}")]
    Verifier(String),
    #[error("cannot read {path}: {why}")]
    File { path: String, why: String },
    #[error("cannot make a certificate: {0}")]
    Certificate(String),
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn roots(ca: &[u8]) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(ca.to_vec()))?;
    Ok(Arc::new(roots))
}

fn key(pkcs8: &[u8]) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(pkcs8.to_vec()).into()
}

/// The chain ends with the CA: a joining node pins it by its key and must be shown it.
fn chain(certificate: &[u8], ca: &[u8]) -> Vec<CertificateDer<'static>> {
    vec![
        CertificateDer::from(certificate.to_vec()),
        CertificateDer::from(ca.to_vec()),
    ]
}

/// TLS 1.3 only. A client certificate is optional at this layer, since a node that joins has
/// none; one that is presented must be the cluster's.
pub fn cluster_server(
    ca: &[u8],
    certificate: &[u8],
    pkcs8: &[u8],
) -> Result<ClusterServer, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(ca)?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|e| TlsError::Verifier(e.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain(certificate, ca), key(pkcs8))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(ClusterServer(TlsAcceptor::from(Arc::new(config))))
}

/// TLS 1.3 only, the cluster's CA only, and our own certificate.
pub fn cluster_client(
    ca: &[u8],
    certificate: &[u8],
    pkcs8: &[u8],
) -> Result<ClusterClient, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots(ca)?)
        .with_client_auth_cert(chain(certificate, ca), key(pkcs8))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(ClusterClient(Arc::new(config)))
}

/// For a node that joins: trusts only a chain that ends in the CA whose key has this
/// fingerprint, whatever node of it answers.
pub fn pinned_client(ca_fingerprint: [u8; 32]) -> Result<ClusterClient, TlsError> {
    let verifier = Pinned {
        ca_fingerprint,
        provider: provider(),
    };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(ClusterClient(Arc::new(config)))
}

/// Which node a connection's certificate chain names.
pub(super) fn peer_node(stream: &server::TlsStream<TcpStream>) -> Option<(NodeId, [u8; 16])> {
    authority::named_node(stream.get_ref().1.peer_certificates()?.first()?)
}

#[derive(Debug)]
struct Pinned {
    ca_fingerprint: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let not_ours = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let ca = intermediates.last().ok_or_else(not_ours)?;
        if authority::fingerprint(ca).ok() != Some(self.ca_fingerprint) {
            return Err(not_ours());
        }
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &roots,
            &[],
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        // Any node of the cluster may answer; that it is one is what its name must say.
        let (node, cluster) = authority::named_node(end_entity).ok_or_else(not_ours)?;
        let name =
            ServerName::try_from(authority::node_name(node, cluster)).map_err(|_| not_ours())?;
        verify_server_name(&certificate, &name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A certificate, with the chain to its CA, and its key.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// From PEM files.
    pub fn read(cert: &Path, pkey: &Path) -> Result<Self, TlsError> {
        let unreadable = |path: &Path, why: &dyn std::fmt::Display| TlsError::File {
            path: path.display().to_string(),
            why: why.to_string(),
        };
        let open = |path: &Path| {
            File::open(path)
                .map(BufReader::new)
                .map_err(|e| unreadable(path, &e))
        };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_reader_iter(open(cert)?)
            .collect::<Result<_, _>>()
            .map_err(|e| unreadable(cert, &e))?;
        let key = PrivateKeyDer::from_pem_reader(open(pkey)?).map_err(|e| unreadable(pkey, &e))?;
        Ok(Self { chain, key })
    }

    /// Made now. Most senders encrypt without checking names, so this protects against listeners;
    /// a sender that checks, and a browser, needs a real certificate.
    pub fn self_signed(name: &str) -> Result<Self, TlsError> {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()])
            .map_err(|e| TlsError::Certificate(e.to_string()))?;
        Ok(Self {
            chain: vec![made.cert.der().clone()],
            key: key(&made.signing_key.serialize_der()),
        })
    }

    /// The fingerprint of its public key.
    #[cfg(test)]
    pub(crate) fn key(&self) -> Option<[u8; 32]> {
        authority::fingerprint(self.chain.first()?).ok()
    }

    /// TLS 1.2 and 1.3: old senders would fall back to plain text, which is worse.
    fn config(self) -> Result<ServerConfig, TlsError> {
        Ok(ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(self.chain, self.key)?)
    }
}

/// STARTTLS.
pub fn smtp_server(identity: Identity) -> Result<SmtpServer, TlsError> {
    Ok(SmtpServer(TlsAcceptor::from(Arc::new(identity.config()?))))
}

/// HTTPS.
pub fn web_server(identity: Identity) -> Result<WebServer, TlsError> {
    let mut config = identity.config()?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(WebServer(TlsAcceptor::from(Arc::new(config))))
}

impl WebServer {
    /// Shakes hands on an accepted connection.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<server::TlsStream<TcpStream>> {
        self.0.accept(stream).await
    }
}

impl SmtpServer {
    /// Upgrades an accepted connection.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<server::TlsStream<TcpStream>> {
        self.0.accept(stream).await
    }
}

/// Whose certificate a primary may show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// RFC 7435: encryption against listeners where nothing better is agreed.
    Anyone,
    /// It is good for the host's name, by what this machine trusts.
    Roots,
    /// Its public key has this fingerprint, whatever else it says.
    Key([u8; 32]),
}

/// Upgrades a connection to a primary.
///
/// # Errors
/// The handshake fails, or the certificate is not one to trust.
pub async fn client(
    stream: TcpStream,
    name: &str,
    trust: Trust,
) -> io::Result<client::TlsStream<TcpStream>> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let unchecked = |key| {
        let provider = provider();
        Arc::new(Unchecked { key, provider })
    };
    let config = match trust {
        Trust::Roots => config.with_root_certificates(machine_roots()?),
        Trust::Anyone => config
            .dangerous()
            .with_custom_certificate_verifier(unchecked(None)),
        Trust::Key(key) => config
            .dangerous()
            .with_custom_certificate_verifier(unchecked(Some(key))),
    };
    let name = ServerName::try_from(name.to_owned())
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    TlsConnector::from(Arc::new(config.with_no_client_auth()))
        .connect(name, stream)
        .await
}

/// What the machine trusts (`/etc/ssl/certs`, or where `SSL_CERT_FILE` points). Read once: it
/// changes with the system's updates, and those restart what uses it.
fn machine_roots() -> io::Result<Arc<RootCertStore>> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    });
    if roots.is_empty() {
        let text = "this machine trusts no certificate authority; install ca-certificates";
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    Ok(roots.clone())
}

/// Looks at the key at most: names, dates and signers of a certificate count for nothing.
#[derive(Debug)]
struct Unchecked {
    key: Option<[u8; 32]>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let is_right = |key| authority::fingerprint(end_entity).ok() == Some(key);
        if self.key.is_none_or(is_right) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::InvalidCertificate(
            CertificateError::ApplicationVerificationFailure,
        ))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
