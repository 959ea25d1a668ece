//! TLS, for the cluster (strict) and for SMTP (opportunistic).

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use holdfast_mail::NodeId;
use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore,
    ServerConfig, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::authority;

/// What a node presents to others, and whom it trusts. DER.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub certificate: Vec<u8>,
    /// PKCS #8.
    pub key: Vec<u8>,
    /// What is sent behind the certificate, up to an authority: a joining node pins that by its
    /// key and must be shown it.
    pub above: Vec<Vec<u8>>,
    /// Oldest first; two while a rotation is under way.
    pub authorities: Vec<Vec<u8>>,
}

impl Credentials {
    fn chain(&self) -> Vec<CertificateDer<'static>> {
        std::iter::once(&self.certificate)
            .chain(&self.above)
            .map(|certificate| CertificateDer::from(certificate.clone()))
            .collect()
    }

    /// Whether the certificate is whole, as one of the authorities signed it: peers would refuse it
    /// otherwise. How long it is good for is another question.
    ///
    /// # Errors
    /// It is damaged, or an authority is.
    pub fn check(&self) -> Result<(), TlsError> {
        let (from, _) = authority::life(&self.certificate).map_err(damaged)?;
        let begun = Duration::from_secs(u64::try_from(from).unwrap_or(0));
        let chain = self.chain();
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(&chain[0])?,
            &*self.roots()?,
            &chain[1..],
            UnixTime::since_unix_epoch(begun),
            provider().signature_verification_algorithms.all,
        )
        .map_err(damaged)
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, TlsError> {
        let mut roots = RootCertStore::empty();
        for authority in &self.authorities {
            roots.add(CertificateDer::from(authority.clone()))?;
        }
        Ok(Arc::new(roots))
    }
}

/// Who may connect to a listener of a node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Callers {
    /// Whoever has a certificate of the cluster, and whoever has none: a node that joins has a
    /// token instead.
    NodesAndJoiners,
    /// Only those with a certificate of the cluster.
    Certified,
}

/// What a listener of a node's presents and asks for. Clones share it, and it can be changed while
/// they listen.
#[derive(Clone)]
pub struct ClusterServer {
    callers: Callers,
    shown: Arc<ArcSwap<Shown>>,
}

struct Shown {
    config: Arc<ServerConfig>,
    authorities: Vec<Vec<u8>>,
    /// Set when an authority that was trusted no longer is: connections from before are ended.
    outdated: Arc<AtomicBool>,
}

impl ClusterServer {
    /// For the other nodes.
    pub fn for_nodes(credentials: &Credentials) -> Result<Self, TlsError> {
        Self::new(Callers::NodesAndJoiners, credentials)
    }

    /// For operators who are elsewhere.
    pub fn for_people(credentials: &Credentials) -> Result<Self, TlsError> {
        Self::new(Callers::Certified, credentials)
    }

    fn new(callers: Callers, credentials: &Credentials) -> Result<Self, TlsError> {
        let shown = Shown {
            config: Arc::new(cluster_server(callers, credentials)?),
            authorities: credentials.authorities.clone(),
            outdated: Arc::default(),
        };
        Ok(Self {
            callers,
            shown: Arc::new(ArcSwap::from_pointee(shown)),
        })
    }

    /// Shows `credentials` from the next connection on.
    pub fn show(&self, credentials: &Credentials) -> Result<(), TlsError> {
        let config = Arc::new(cluster_server(self.callers, credentials)?);
        let before = self.shown.load();
        let still = |authority| credentials.authorities.contains(authority);
        let outdated = if before.authorities.iter().all(still) {
            before.outdated.clone()
        } else {
            before.outdated.store(true, Ordering::Relaxed);
            Arc::default()
        };
        self.shown.store(Arc::new(Shown {
            config,
            authorities: credentials.authorities.clone(),
            outdated,
        }));
        Ok(())
    }

    /// Shakes hands. The flag is set once the connection is to be ended.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<(server::TlsStream<TcpStream>, Arc<AtomicBool>)> {
        let shown = self.shown.load_full();
        let acceptor = TlsAcceptor::from(shown.config.clone());
        Ok((acceptor.accept(stream).await?, shown.outdated.clone()))
    }
}

/// What a node presents to another, and whom it trusts. Clones share it, and it can be changed.
#[derive(Clone)]
pub struct ClusterClient(Arc<ArcSwap<ClientConfig>>);

impl ClusterClient {
    /// TLS 1.3 only, the cluster's CA only, and our own certificate.
    pub fn new(credentials: &Credentials) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(ArcSwap::from_pointee(cluster_client(
            credentials,
        )?))))
    }

    /// Shows `credentials` from the next connection on.
    pub fn show(&self, credentials: &Credentials) -> Result<(), TlsError> {
        self.0.store(Arc::new(cluster_client(credentials)?));
        Ok(())
    }

    pub(super) fn config(&self) -> Arc<ClientConfig> {
        self.0.load_full()
    }
}

/// What the SMTP listener presents after STARTTLS.
#[derive(Clone)]
pub struct SmtpServer(TlsAcceptor);

/// What the portal's listener presents.
#[derive(Clone)]
pub struct WebServer {
    acceptor: TlsAcceptor,
    expires: Option<i64>,
}

/// A TLS configuration that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{0}")]
    Rustls(#[from] rustls::Error),
    #[error("{0}")]
    Verifier(String),
    #[error("cannot read {path}: {why}")]
    File { path: String, why: String },
    #[error("cannot make or read a certificate: {0}")]
    Certificate(String),
    #[error(
        "this node's certificate in the folder `identity` of its data directory is damaged: {0}. No mail is lost. \
         Put back that folder as it was, from a copy; if there is none, remove the node on a living one (holdfast \
         cluster leave), empty the directory and join with a new token"
    )]
    Damaged(String),
}

fn damaged(error: impl std::fmt::Display) -> TlsError {
    TlsError::Damaged(error.to_string())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn key(pkcs8: &[u8]) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(pkcs8.to_vec()).into()
}

/// TLS 1.3 only. A client certificate that is presented must be the cluster's.
fn cluster_server(callers: Callers, credentials: &Credentials) -> Result<ServerConfig, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(credentials.roots()?, provider());
    let verifier = match callers {
        Callers::NodesAndJoiners => verifier.allow_unauthenticated(),
        Callers::Certified => verifier,
    };
    let verifier = verifier
        .build()
        .map_err(|e| TlsError::Verifier(e.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(credentials.chain(), key(&credentials.key))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn cluster_client(credentials: &Credentials) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(credentials.roots()?)
        .with_client_auth_cert(credentials.chain(), key(&credentials.key))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// For a node that joins: trusts only a chain that leads to a CA whose key has one of these
/// fingerprints, whatever node of it answers.
pub fn pinned_client(authorities: Vec<[u8; 32]>) -> Result<ClusterClient, TlsError> {
    let config = pinned(authorities)?.with_no_client_auth();
    Ok(speaks_h2(config))
}

/// For somebody who uses the operators' API from afar, with the certificate and key that were
/// given to them.
pub fn person_client(
    authority: [u8; 32],
    certificate: &[u8],
    pkcs8: &[u8],
) -> Result<ClusterClient, TlsError> {
    let chain = vec![CertificateDer::from(certificate.to_vec())];
    let config = pinned(vec![authority])?.with_client_auth_cert(chain, key(pkcs8))?;
    Ok(speaks_h2(config))
}

fn speaks_h2(mut config: ClientConfig) -> ClusterClient {
    config.alpn_protocols = vec![b"h2".to_vec()];
    ClusterClient(Arc::new(ArcSwap::from_pointee(config)))
}

fn pinned(
    authorities: Vec<[u8; 32]>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, TlsError> {
    let verifier = Pinned {
        authorities,
        provider: provider(),
    };
    Ok(ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier)))
}

/// The certificate that a connection's client presented.
pub(super) fn peer_certificate(stream: &server::TlsStream<TcpStream>) -> Option<&[u8]> {
    Some(stream.get_ref().1.peer_certificates()?.first()?)
}

/// Which node a connection's certificate chain names.
pub(super) fn peer_node(stream: &server::TlsStream<TcpStream>) -> Option<(NodeId, [u8; 16])> {
    authority::named_node(peer_certificate(stream)?)
}

#[derive(Debug)]
struct Pinned {
    authorities: Vec<[u8; 32]>,
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
        let is_pinned = |certificate: &&CertificateDer<'_>| {
            authority::fingerprint(certificate).is_ok_and(|it| self.authorities.contains(&it))
        };
        let ca = intermediates.iter().find(is_pinned).ok_or_else(not_ours)?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &roots,
            intermediates,
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
        if chain.is_empty() {
            return Err(unreadable(cert, &"there is no certificate in it"));
        }
        let key = PrivateKeyDer::from_pem_reader(open(pkey)?).map_err(|e| unreadable(pkey, &e))?;
        Ok(Self { chain, key })
    }

    /// From the texts of PEM files.
    pub fn parse(chain: &str, key: &str) -> Result<Self, TlsError> {
        let unreadable = |error: rustls_pki_types::pem::Error| {
            TlsError::Certificate(format!("it is no PEM: {error}"))
        };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(unreadable)?;
        if chain.is_empty() {
            return Err(TlsError::Certificate("there is none in it".into()));
        }
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(unreadable)?;
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

    /// When the first of the chain to end does, in seconds of Unix time.
    #[must_use]
    pub fn expires(&self) -> Option<i64> {
        let ends = |certificate| authority::expires(certificate).ok();
        self.chain
            .iter()
            .filter_map(|certificate| ends(certificate))
            .min()
    }

    /// When the certificate itself ends, in seconds of Unix time. Of those above it some may have ended,
    /// which only old clients look at.
    #[must_use]
    pub fn ends(&self) -> Option<i64> {
        authority::expires(self.chain.first()?).ok()
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
    let expires = identity.expires();
    let mut config = identity.config()?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(WebServer {
        acceptor: TlsAcceptor::from(Arc::new(config)),
        expires,
    })
}

impl WebServer {
    /// When its certificate ends, in seconds of Unix time.
    #[must_use]
    pub fn expires(&self) -> Option<i64> {
        self.expires
    }

    /// Shakes hands on an accepted connection.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<server::TlsStream<TcpStream>> {
        self.acceptor.accept(stream).await
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

/// Whose certificates a server may have.
#[derive(Clone)]
pub struct Authorities(Arc<RootCertStore>);

impl Authorities {
    /// Those that this machine trusts.
    ///
    /// # Errors
    /// It trusts none.
    pub fn of_machine() -> io::Result<Self> {
        machine_roots().map(Self)
    }

    /// From the text of a PEM file, and no others.
    ///
    /// # Errors
    /// There is none in it, or one that makes no sense.
    pub fn parse(pem: &str) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate
                .map_err(|error| TlsError::Certificate(format!("it is no PEM: {error}")))?;
            roots.add(certificate)?;
        }
        if roots.is_empty() {
            return Err(TlsError::Certificate("there is none in it".into()));
        }
        Ok(Self(Arc::new(roots)))
    }
}

/// The client's side, to a server whose certificate is of one of `authorities` and good for `name`, a
/// host name or an address.
///
/// # Errors
/// The handshake fails, or the certificate is not one to trust.
pub async fn client_of(
    stream: TcpStream,
    name: &str,
    authorities: &Authorities,
) -> io::Result<client::TlsStream<TcpStream>> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(authorities.0.clone())
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned())
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await
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

#[cfg(test)]
mod tests {
    use super::super::authority::Authority;
    use super::*;

    const CLUSTER: [u8; 16] = [7; 16];

    fn signed(by: &Authority, node: u64, above: &[&[u8]], trusts: &[&Authority]) -> Credentials {
        let (key, request) = authority::request().unwrap();
        let list = |list: &[&[u8]]| list.iter().map(|der| der.to_vec()).collect();
        let trusts: Vec<&[u8]> = trusts.iter().map(|ca| &ca.certificate[..]).collect();
        Credentials {
            certificate: by.sign_node(&request, NodeId(node), CLUSTER).unwrap(),
            key,
            above: list(above),
            authorities: list(&trusts),
        }
    }

    /// What each side makes of the other.
    async fn shake(server: &ClusterServer, client: &ClusterClient, name: &str) -> (bool, bool) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let accepts = async {
            let (stream, _) = listener.accept().await.unwrap();
            server.accept(stream).await.is_ok()
        };
        let connects = async {
            let stream = TcpStream::connect(address).await.unwrap();
            let connector = TlsConnector::from(client.config());
            let stream = connector.connect(name, stream).await;
            stream.is_ok()
        };
        let (accepted, connected) = tokio::join!(accepts, connects);
        (accepted, connected)
    }

    #[tokio::test]
    async fn while_an_authority_is_replaced_whoever_trusts_only_the_old_one_still_speaks_to_all() {
        let old = Authority::create(CLUSTER).unwrap();
        let (new, cross) = Authority::create_after(&old, CLUSTER).unwrap();
        let (old_ca, new_ca) = (&old.certificate[..], &new.certificate[..]);
        let name = authority::node_name(NodeId(1), CLUSTER);

        let moved = signed(&new, 1, &[&cross, old_ca], &[&old, &new]);
        let server = ClusterServer::for_nodes(&moved).unwrap();
        let behind = signed(&old, 2, &[old_ca], &[&old]);
        let behind = ClusterClient::new(&behind).unwrap();
        assert_eq!(shake(&server, &behind, &name).await, (true, true));
        // Invitations of before the rotation, during it, and after.
        let [fingerprint, next] = [old_ca, new_ca].map(|ca| authority::fingerprint(ca).unwrap());
        for pins in [vec![fingerprint], vec![fingerprint, next], vec![next]] {
            let joiner = pinned_client(pins).unwrap();
            assert_eq!(shake(&server, &joiner, "join.example").await, (true, true));
        }

        // And nobody trusts the old one once it is retired.
        let alone = signed(&new, 1, &[new_ca], &[&new]);
        server.show(&alone).unwrap();
        let joiner = pinned_client(vec![fingerprint]).unwrap();
        assert!(!shake(&server, &joiner, "join.example").await.1);
        let stale = signed(&old, 2, &[old_ca], &[&old, &new]);
        let stale = ClusterClient::new(&stale).unwrap();
        assert!(!shake(&server, &stale, &name).await.0);
    }

    #[tokio::test]
    async fn connections_end_when_an_authority_is_trusted_no_more_and_not_when_one_is_added() {
        let old = Authority::create(CLUSTER).unwrap();
        let (new, _) = Authority::create_after(&old, CLUSTER).unwrap();
        let ca = &old.certificate[..];
        let server = ClusterServer::for_nodes(&signed(&old, 1, &[ca], &[&old])).unwrap();
        let outdated = server.shown.load().outdated.clone();
        server.show(&signed(&new, 1, &[ca], &[&old, &new])).unwrap();
        assert!(!outdated.load(Ordering::Relaxed));
        server.show(&signed(&new, 1, &[ca], &[&new])).unwrap();
        assert!(outdated.load(Ordering::Relaxed));
        assert!(!server.shown.load().outdated.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn people_must_show_a_certificate_and_speak_only_to_the_cluster_that_gave_it() {
        let ca = Authority::create(CLUSTER).unwrap();
        let node = signed(&ca, 1, &[&ca.certificate], &[&ca]);
        let server = ClusterServer::for_people(&node).unwrap();
        let pin = authority::fingerprint(&ca.certificate).unwrap();
        let (key, request) = authority::request().unwrap();
        let life = Duration::from_secs(60);
        let ann = ca.sign_person(&request, "ann", CLUSTER, life).unwrap();
        let ann = person_client(pin, &ann, &key).unwrap();
        assert_eq!(shake(&server, &ann, "people.example").await, (true, true));
        let nobody = pinned_client(vec![pin]).unwrap();
        assert!(!shake(&server, &nobody, "people.example").await.0);

        let other = Authority::create([8; 16]).unwrap();
        let node = signed(&other, 1, &[&other.certificate], &[&other]);
        let stranger = ClusterServer::for_people(&node).unwrap();
        assert_eq!(
            shake(&stranger, &ann, "people.example").await,
            (false, false)
        );
    }

    /// A person's certificate serves nobody, whatever name is asked for.
    #[tokio::test]
    async fn a_person_cannot_pass_for_a_node() {
        let ca = Authority::create(CLUSTER).unwrap();
        let (key, request) = authority::request().unwrap();
        let life = Duration::from_secs(60);
        let person = Credentials {
            certificate: ca.sign_person(&request, "node-1", CLUSTER, life).unwrap(),
            key,
            above: vec![ca.certificate.clone()],
            authorities: vec![ca.certificate.clone()],
        };
        let server = ClusterServer::for_nodes(&person).unwrap();
        let node = signed(&ca, 2, &[&ca.certificate], &[&ca]);
        let client = ClusterClient::new(&node).unwrap();
        let name = authority::node_name(NodeId(1), CLUSTER);
        assert!(!shake(&server, &client, &name).await.1);
        let pin = authority::fingerprint(&ca.certificate).unwrap();
        let joiner = pinned_client(vec![pin]).unwrap();
        assert!(!shake(&server, &joiner, "join.example").await.1);
    }
}
