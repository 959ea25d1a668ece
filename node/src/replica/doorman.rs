//! Who is heard at the cluster port at all. Whoever has no node's certificate may ask to be let in, in
//! a short request; nothing else of what they send is read, since a message is taken into memory whole
//! before anybody can look at it.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use futures::future::Either;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;
use tower::Service;

use crate::net::grpc::ConnectInfo;

/// The one call that needs no certificate.
const JOIN: &str = "/Join";

/// A service that nodes may call, and a stranger only to join.
#[derive(Clone)]
pub(super) struct Doorman<S> {
    nodes: S,
    /// The same with smaller limits; `None`: nothing here is for strangers.
    strangers: Option<S>,
}

impl<S> Doorman<S> {
    pub(super) fn before(nodes: S, strangers: Option<S>) -> Self {
        Self { nodes, strangers }
    }
}

impl<S: NamedService> NamedService for Doorman<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Doorman<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.nodes.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let info = request.extensions().get::<ConnectInfo>();
        if info.is_some_and(|info| info.peer.is_some()) {
            return Either::Left(self.nodes.call(request));
        }
        match &mut self.strangers {
            Some(service) if request.uri().path().ends_with(JOIN) => {
                Either::Left(service.call(request))
            }
            _ => {
                let why = "the caller has no certificate of this cluster";
                tracing::warn!(
                    rpc = request.uri().path(),
                    "a request from another node was refused: {why}"
                );
                Either::Right(ready(Ok(Status::unauthenticated(why).into_http())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_mail::NodeId;

    use super::*;

    #[derive(Clone)]
    struct Named(&'static str);

    impl Service<Request<Body>> for Named {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = Ready<Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            let mut answer = Response::new(Body::empty());
            answer.extensions_mut().insert(self.0);
            ready(Ok(answer))
        }
    }

    async fn served(doorman: &mut Doorman<Named>, path: &str, node: bool) -> Option<&'static str> {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = path.parse().unwrap();
        request.extensions_mut().insert(ConnectInfo {
            peer: node.then_some((NodeId(2), [0; 16])),
            certificate: None,
            address: ([127, 0, 0, 1], 1).into(),
        });
        let answer = doorman.call(request).await.unwrap();
        answer.extensions().get::<&'static str>().copied()
    }

    #[tokio::test]
    async fn a_stranger_is_heard_only_where_it_asks_to_be_let_in() {
        let mut members = Doorman::before(Named("members"), Some(Named("strangers")));
        let mut raft = Doorman::before(Named("members"), None);
        let (join, other) = ("/holdfast.Members/Join", "/holdfast.Members/Propose");
        assert_eq!(served(&mut members, join, true).await, Some("members"));
        assert_eq!(served(&mut members, other, true).await, Some("members"));
        assert_eq!(served(&mut members, join, false).await, Some("strangers"));
        assert_eq!(served(&mut members, other, false).await, None);
        assert_eq!(
            served(&mut raft, "/holdfast.Raft/Append", true).await,
            Some("members")
        );
        assert_eq!(served(&mut raft, "/holdfast.Raft/Join", false).await, None);
    }
}
