//! gRPC over the cluster's TLS and over a local socket.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use holdfast_mail::NodeId;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_rustls::{TlsConnector, server};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Uri};

use super::authority;
use super::listen::{Listener, PAUSE_WHEN_EXHAUSTED};
use super::strikes::Strikes;
use super::tls::{self, ClusterClient, ClusterServer};

/// A peer that does not finish its handshake in this time is cut off.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// Handshakes at a time; each costs about a millisecond of CPU, and anybody may start one.
const HANDSHAKES_MAX: usize = 64;

/// Connections to the cluster's port from callers without a certificate: each is a node that is about to
/// join, or somebody who should not be there.
const STRANGERS_MAX: usize = 8;

/// After that a stranger has joined, or is cut off.
const STRANGER_TIME_MAX: Duration = Duration::from_secs(90);

const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// HTTP/2 pings: a peer that answers none for this long is gone, whatever TCP believes.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_TIME_MAX: Duration = Duration::from_secs(20);

/// Flow-control windows, bytes: a gigabit link with 100 ms round trip has 12 MB under way.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct ConnectInfo {
    /// Node and cluster by its certificate; `None` for a caller without one.
    pub peer: Option<(NodeId, [u8; 16])>,
    /// DER, where the caller had to have one.
    pub certificate: Option<Arc<[u8]>>,
    pub address: SocketAddr,
}

/// An accepted connection of the cluster's listener.
pub struct Conn<S = server::TlsStream<TcpStream>> {
    stream: S,
    info: ConnectInfo,
    outdated: Arc<AtomicBool>,
    stranger: Option<Stranger>,
}

/// Somebody without a certificate: their place, and until when they have it.
struct Stranger {
    until: Instant,
    _place: OwnedSemaphorePermit,
}

#[cfg(test)]
impl<S> Conn<S> {
    pub(super) fn new(stream: S, info: ConnectInfo) -> Self {
        Self {
            stream,
            info,
            outdated: Arc::default(),
            stranger: None,
        }
    }
}

impl<S> Connected for Conn<S> {
    type ConnectInfo = ConnectInfo;

    fn connect_info(&self) -> ConnectInfo {
        self.info.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Conn<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Who it is was said by an authority that is trusted no more. A caller who is in order
        // connects again at once.
        if self.outdated.load(Ordering::Relaxed) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        // Looked at with every ping's answer, too.
        if let Some(stranger) = &self.stranger
            && Instant::now() >= stranger.until
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Conn<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Answers the calls that come to `listener` with `router`. Ends only when it fails.
pub async fn serve(
    router: tonic::transport::server::Router,
    listener: Listener,
    tls: ClusterServer,
) -> Result<(), tonic::transport::Error> {
    #[cfg(test)]
    if let Some(switch) = super::simulated::switch() {
        let mut accepted = switch.listen();
        let accepted = futures::stream::poll_fn(move |cx| accepted.poll_recv(cx));
        let accepted = futures::StreamExt::map(accepted, Ok::<_, io::Error>);
        return router.serve_with_incoming(accepted).await;
    }
    router
        .serve_with_incoming(incoming(listener, tls, Admits::Nodes))
        .await
}

/// Connections of operators who are elsewhere, after their handshakes: each has shown a certificate
/// that names a person. What they may do is for others to say.
pub fn people_incoming(
    listener: Listener,
    tls: ClusterServer,
) -> impl Stream<Item = io::Result<Conn>> + Send {
    incoming(listener, tls, Admits::People(Arc::default()))
}

/// Who may be at the other end, whatever the handshake proved.
#[derive(Clone)]
enum Admits {
    Nodes,
    People(Arc<Mutex<Strikes>>),
}

impl Admits {
    /// Who is at the other end; `None`: nobody who belongs here.
    fn look(
        &self,
        stream: &server::TlsStream<TcpStream>,
        address: SocketAddr,
    ) -> Option<ConnectInfo> {
        match self {
            Self::Nodes => Some(ConnectInfo {
                peer: tls::peer_node(stream),
                certificate: None,
                address,
            }),
            Self::People(_) => {
                let certificate = tls::peer_certificate(stream)?;
                authority::named_person(certificate)?;
                Some(ConnectInfo {
                    peer: None,
                    certificate: Some(certificate.into()),
                    address,
                })
            }
        }
    }

    fn is_out(&self, address: SocketAddr) -> bool {
        match self {
            Self::Nodes => false,
            Self::People(strikes) => lock(strikes).is_out(address.ip(), Instant::now()),
        }
    }

    fn refused(&self, address: SocketAddr, why: impl std::fmt::Display) {
        match self {
            Self::Nodes => {
                tracing::warn!(%address, "a connection to the cluster port was refused: {why}");
            }
            Self::People(strikes) => {
                tracing::warn!(%address, "a connection to the admin port was refused: {why}");
                lock(strikes).failed(address.ip(), Instant::now());
            }
        }
    }
}

fn lock(strikes: &Mutex<Strikes>) -> MutexGuard<'_, Strikes> {
    strikes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Accepted connections after their handshakes, which run side by side.
fn incoming(
    listener: Listener,
    tls: ClusterServer,
    admits: Admits,
) -> impl Stream<Item = io::Result<Conn>> {
    let (ready, mut accepted) = mpsc::channel(16);
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let (stream, address) = tokio::select! {
                accepted = listener.accept() => accepted,
                () = ready.closed() => return,
            };
            if admits.is_out(address) {
                continue;
            }
            let (tls, ready, admits) = (tls.clone(), ready.clone(), admits.clone());
            let strangers = strangers.clone();
            tokio::spawn(async move {
                match tokio::time::timeout(HANDSHAKE_TIME_MAX, tls.accept(stream)).await {
                    Ok(Ok((stream, outdated))) => {
                        let Some(info) = admits.look(&stream, address) else {
                            admits.refused(address, "its certificate is a node's");
                            return;
                        };
                        let is_known = info.peer.is_some() || info.certificate.is_some();
                        let place = (!is_known).then(|| strangers.try_acquire_owned());
                        let Ok(place) = place.transpose() else {
                            admits.refused(address, "too many callers have no certificate");
                            return;
                        };
                        let conn = Conn {
                            stream,
                            info,
                            outdated,
                            stranger: place.map(|place| Stranger {
                                until: Instant::now() + STRANGER_TIME_MAX,
                                _place: place,
                            }),
                        };
                        let _stopping = ready.send(Ok(conn)).await;
                    }
                    Ok(Err(error)) => admits.refused(address, error),
                    Err(_) => admits.refused(address, "it said nothing"),
                }
                drop(place);
            });
        }
    });
    futures::stream::poll_fn(move |cx| accepted.poll_recv(cx))
}

/// A connection to another node's cluster listener, made when first used and again when it
/// breaks. `name` is what its certificate must say.
#[must_use]
pub fn channel(address: &str, name: &str, client: &ClusterClient) -> Channel {
    let target = address.to_owned();
    let name = ServerName::try_from(name.to_owned()).map_err(|e| e.to_string());
    let client = client.clone();
    let connect = tower::service_fn(move |_: Uri| {
        let (target, name) = (target.clone(), name.clone());
        let connector = TlsConnector::from(client.config());
        async move {
            let name = name.map_err(io::Error::other)?;
            let stream = TcpStream::connect(&target).await?;
            stream.set_nodelay(true)?;
            Ok::<_, io::Error>(TokioIo::new(connector.connect(name, stream).await?))
        }
    });
    // The address in the URI is never dialled; the connector knows where to go.
    let endpoint = Endpoint::from_static("http://cluster.holdfast.internal")
        .connect_timeout(CONNECT_TIME_MAX)
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_TIME_MAX)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    #[cfg(test)]
    if let Some(switch) = super::simulated::switch() {
        let address = address.to_owned();
        return endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let connecting = switch.clone().connect(address.clone());
            async { connecting.await.map(TokioIo::new) }
        }));
    }
    endpoint.connect_with_connector_lazy(connect)
}

/// Whether a TLS connection to `address` comes about; why not.
pub async fn reach(address: &str, name: &str, client: &ClusterClient) -> io::Result<()> {
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(client.config())
        .connect(name, stream)
        .await?;
    Ok(())
}

/// Accepted connections of a local socket at `path`, readable by owner and group. A socket
/// that a dead process left there is replaced; one that answers, or anything else, is not.
pub fn unix_incoming(
    path: &Path,
) -> io::Result<impl Stream<Item = io::Result<UnixStream>> + Send + use<>> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "a running Holdfast answers on it already",
        ));
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "there is a file of that name, and it is no socket; it was left alone",
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(futures::stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return Some((Ok(stream), listener)),
                // As with other listeners: what is lacking comes back, and nobody spins.
                Err(error) => {
                    tracing::warn!("cannot accept an operator's connection, trying again: {error}");
                    tokio::time::sleep(PAUSE_WHEN_EXHAUSTED).await;
                }
            }
        }
    }))
}

/// A connection to the local socket at `path`.
#[must_use]
pub fn unix_channel(path: &Path) -> Channel {
    let path: PathBuf = path.to_owned();
    let connect = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    });
    Endpoint::from_static("http://admin.holdfast.internal")
        .connect_timeout(CONNECT_TIME_MAX)
        .connect_with_connector_lazy(connect)
}
