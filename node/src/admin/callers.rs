//! Who asks: somebody on the node's own socket, whom the kernel names, or a person elsewhere, whom a
//! certificate names and the ledger knows. Decided anew for every call, so that who was revoked is
//! refused on a connection that was there before.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use holdfast_ledger::{KvError, KvRead, query};
use hyper::body::Frame;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codegen::http::{Extensions, Request, Response};
use tonic::transport::server::UdsConnectInfo;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::{Belongs, roles};
use crate::net::authority;
use crate::net::grpc::ConnectInfo;
use crate::person::Person;
use crate::replica;

tokio::task_local! {
    static CALLER: Person;
}

/// Who gave the call that is being answered. Work that goes on in a task of its own must ask before.
pub(super) fn caller() -> Person {
    CALLER.try_with(Clone::clone).unwrap_or_else(|_| Person {
        who: "operator".into(),
        from: "this node".into(),
    })
}

/// Goes on in a task of its own for whoever gave the call, though they may have gone.
pub(super) fn spawn(work: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(CALLER.scope(caller(), work));
}

/// Where calls come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    Socket,
    Afar,
}

/// Lets a call through that its caller may make.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) way: Way,
    pub(super) belongs: Arc<ArcSwap<Belongs>>,
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated {
            gate: self.clone(),
            inner,
        }
    }
}

#[derive(Clone)]
pub(super) struct Gated<S> {
    gate: Gate,
    inner: S,
}

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let rpc = request.uri().path().rsplit('/').next().unwrap_or_default();
        let gate = self.gate.clone();
        let person = match gate.way {
            Way::Socket => Ok(gate.neighbour(request.extensions())),
            Way::Afar => gate.visitor(request.extensions(), rpc),
        };
        match person {
            Ok(person) => {
                let (extensions, rpc) = (request.extensions().clone(), rpc.to_owned());
                let answer = CALLER.scope(person.clone(), self.inner.call(request));
                Box::pin(async move {
                    let answer = answer.await?;
                    Ok(match gate.way {
                        Way::Socket => answer,
                        Way::Afar => {
                            let status = Status::from_header_map(answer.headers());
                            log(&person, &rpc, status.as_ref());
                            answer.map(|body| {
                                let may = move || gate.visitor(&extensions, &rpc).map(drop);
                                Body::new(Checked::new(body, may))
                            })
                        }
                    })
                })
            }
            Err(status) => {
                log(&claimed(request.extensions()), rpc, Some(&status));
                Box::pin(std::future::ready(Ok(status.into_http())))
            }
        }
    }
}

/// One line for each call from elsewhere, refused or not: the audit has what was changed, and nothing of
/// who looked or who tried. A long answer is told of when it begins.
fn log(person: &Person, rpc: &str, status: Option<&Status>) {
    let Person { who, from } = person;
    match status.filter(|status| status.code() != Code::Ok) {
        None => tracing::info!(who, from, rpc, code = ?Code::Ok, "a call from afar"),
        Some(status) => {
            let why = status.message().lines().next().unwrap_or_default();
            tracing::warn!(who, from, rpc, code = ?status.code(), why, "a call from afar was refused");
        }
    }
}

/// Who they say they are, whether or not they may call.
fn claimed(extensions: &Extensions) -> Person {
    let info = extensions.get::<ConnectInfo>();
    let named = info.and_then(|info| authority::named_person(info.certificate.as_deref()?));
    Person {
        who: named.map_or_else(|| "somebody".to_owned(), |(name, _)| name),
        from: info.map_or_else(|| "elsewhere".to_owned(), |info| info.address.to_string()),
    }
}

impl Gate {
    /// Somebody on this machine.
    fn neighbour(&self, extensions: &Extensions) -> Person {
        let info = extensions.get::<UdsConnectInfo>();
        let uid = info.and_then(|info| info.peer_cred).map(|peer| peer.uid());
        let from = match self.belongs.load().as_ref() {
            Belongs::To(cluster) => format!("the admin socket of {}", cluster.me().name),
            Belongs::Opening | Belongs::Nowhere => "the admin socket".to_owned(),
        };
        Person {
            who: uid.map_or_else(|| "somebody".to_owned(), user),
            from,
        }
    }

    /// Somebody elsewhere, who may call `rpc`.
    fn visitor(&self, extensions: &Extensions, rpc: &str) -> Result<Person, Status> {
        let nobody = || Status::unauthenticated("a certificate that names a person is needed");
        let info = extensions.get::<ConnectInfo>().ok_or_else(nobody)?;
        let certificate = info.certificate.as_deref().ok_or_else(nobody)?;
        let (name, of) = authority::named_person(certificate).ok_or_else(nobody)?;
        let Belongs::To(cluster) = &**self.belongs.load() else {
            return Err(Status::unavailable("this node belongs to no cluster yet"));
        };
        if of != cluster.cluster_id() {
            return Err(Status::unauthenticated(
                "the identity is one of another cluster",
            ));
        }
        let refused = |why: String| {
            Status::permission_denied(format!(
                "{why}; nothing was changed\nfix: ask an admin for `holdfast access grant {name}`"
            ))
        };
        let granted = query::granted(&cluster.view(), &name).map_err(super::broken)?;
        let granted = granted.ok_or_else(|| refused(format!("{name} has no access any more")))?;
        if granted.certificate != authority::digest(certificate) {
            return Err(refused(format!(
                "{name} was given access anew, and this is the identity from before"
            )));
        }
        if !is_trusted(&cluster.view(), granted.authority).map_err(super::broken)? {
            return Err(refused(format!(
                "the identity of {name} is of a certificate authority that is no more"
            )));
        }
        if granted.expires_at <= replica::now() {
            return Err(refused(format!("the access of {name} has ended")));
        }
        let role = granted.role;
        let needed = roles::needed(rpc).ok_or_else(|| {
            Status::unimplemented(format!("this version does not know {rpc} from afar"))
        })?;
        if role < needed {
            return Err(refused(format!(
                "{name} is {role}, and for this one must be {needed}"
            )));
        }
        Ok(Person {
            who: format!("{name} ({role})"),
            from: format!("{} via {}", info.address, cluster.me().name),
        })
    }
}

/// How often it is looked whether somebody may still have what they are being told.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// A long answer, that ends when whoever gets it is revoked.
struct Checked<F> {
    body: Body,
    may: F,
    next_check: Instant,
}

impl<F> Checked<F> {
    fn new(body: Body, may: F) -> Self {
        Self {
            body,
            may,
            next_check: Instant::now() + CHECK_EVERY,
        }
    }
}

impl<F: Fn() -> Result<(), Status> + Unpin> hyper::body::Body for Checked<F> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        if Instant::now() >= self.next_check {
            self.next_check = Instant::now() + CHECK_EVERY;
            if let Err(status) = (self.may)() {
                return Poll::Ready(Some(Err(status)));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// Whether an authority counts, by the ledger: a node may not have applied that to new connections yet.
fn is_trusted(view: &dyn KvRead, of: [u8; 32]) -> Result<bool, KvError> {
    let current = query::cluster(view)?;
    let current = current.and_then(|known| authority::fingerprint(&known.ca_certificate).ok());
    let next = query::rotation(view)?.map(|rotation| rotation.authority);
    Ok(current == Some(of) || next == Some(of))
}

/// What the machine's own list calls a user. One that is known only to a directory service has
/// just a number.
fn user(uid: u32) -> String {
    let list = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    match name_of(&list, uid) {
        Some(name) => format!("{name} (uid {uid})"),
        None => format!("uid {uid}"),
    }
}

/// passwd(5): name, password, uid and more, between colons.
fn name_of(list: &str, uid: u32) -> Option<&str> {
    list.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Mutex, PoisonError};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    /// Nobody gets this far.
    #[derive(Clone)]
    struct Unreached;

    impl Service<Request<Body>> for Unreached {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = std::future::Pending<Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _request: Request<Body>) -> Self::Future {
            std::future::pending()
        }
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            lines.extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Lines {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    #[tokio::test]
    async fn every_call_from_afar_leaves_one_line_whether_or_not_it_is_answered() {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(lines.clone())
            .with_ansi(false)
            .finish();
        let logging = tracing::subscriber::set_default(subscriber);
        let gate = Gate {
            way: Way::Afar,
            belongs: Arc::new(ArcSwap::from_pointee(Belongs::Nowhere)),
        };
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = "/holdfast.admin.v1.Admin/Status".parse().expect("a path");
        let answer = gate.layer(Unreached).call(request).await;
        let answer = answer.expect("an answer");
        assert!(Status::from_header_map(answer.headers()).is_some());
        let ann = Person {
            who: "ann (viewer)".to_owned(),
            from: "192.0.2.1:7 via n1".to_owned(),
        };
        log(&ann, "MailList", None);
        drop(logging);
        let text = lines.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&text).into_owned();
        let told: Vec<&str> = text.lines().collect();
        assert_eq!(told.len(), 2, "{text}");
        for words in ["WARN", "somebody", "rpc=\"Status\"", "code=Unauthenticated"] {
            assert!(told[0].contains(words), "{words}: {text}");
        }
        for words in [
            "INFO",
            "who=\"ann (viewer)\"",
            "rpc=\"MailList\"",
            "code=Ok",
        ] {
            assert!(told[1].contains(words), "{words}: {text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_answer_ends_soon_after_its_reader_was_revoked() {
        let next = async |may: Result<(), Status>, after: Duration| {
            let body = Body::new("more".to_owned());
            let mut checked = Checked::new(body, move || may.clone());
            tokio::time::advance(after).await;
            let frame = std::future::poll_fn(|context| {
                hyper::body::Body::poll_frame(Pin::new(&mut checked), context)
            });
            frame
                .await
                .expect("a piece")
                .map(|frame| frame.into_data().ok())
        };
        let revoked = || Err(Status::permission_denied("revoked"));
        let piece = next(Ok(()), CHECK_EVERY).await;
        assert_eq!(piece.expect("it may"), Some(Bytes::from("more")));
        assert!(next(revoked(), CHECK_EVERY).await.is_err());
        // Its beginning was decided on when it was asked for.
        assert!(next(revoked(), Duration::ZERO).await.is_ok());
    }

    #[test]
    fn a_user_is_called_as_in_the_machines_list() {
        let list = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\nbroken\n";
        assert_eq!(name_of(list, 1000), Some("ann"));
        assert_eq!(name_of(list, 0), Some("root"));
        assert_eq!(name_of(list, 7), None);
    }
}
