//! The operators' API: on this node's local socket and, where `admin.listen` says so, to people with a
//! certificate of the cluster. Any node answers for the whole cluster.

mod access;
mod accounts;
mod acme;
mod callers;
mod domains;
mod drills;
mod duty;
mod events;
mod known;
mod mail;
mod message;
mod plans;
mod recipients;
mod replace;
mod roles;
mod rotation;
mod route;
mod snapshot;
mod status;
mod trace;
mod zone;

use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::Stream;
use holdfast_ledger::{Command, Refusal, Reply};
use holdfast_mail::NodeId;
use holdfast_proto::admin as wire;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::accounts::Doorkeeper;
use crate::net::listen::Listener;
use crate::replica::{Cluster, ProposeError, membership};
use callers::{Gate, Way, caller};

/// How long an operator's command may wait for a quorum.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(20);

/// How long an invitation is valid when the operator does not say.
const INVITE_TTL: Duration = Duration::from_secs(3600);

/// No invitation is valid longer: a token is a key to all mail.
const INVITE_TTL_MAX: Duration = Duration::from_secs(24 * 3600);

/// A person's connection that answers no ping is gone, and its long answers with it.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);

/// What only the node as a whole can do.
pub enum Ask {
    /// Found a new cluster with this node as its only member.
    Init {
        done: oneshot::Sender<Result<Cluster, Status>>,
    },
    /// Join with a token; progress goes to `progress`, and its end is the answer.
    Join {
        token: String,
        progress: mpsc::Sender<Result<wire::Progress, Status>>,
    },
}

/// Which cluster this node belongs to.
#[derive(Clone)]
pub enum Belongs {
    /// Not known before the data directory has been opened.
    Opening,
    Nowhere,
    To(Cluster),
}

/// The API's server.
#[derive(Clone)]
pub struct Admin {
    belongs: Arc<ArcSwap<Belongs>>,
    asks: mpsc::Sender<Ask>,
    doorkeeper: Arc<Doorkeeper>,
}

type Answer<T> = Result<Response<T>, Status>;
type AnswerStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves the API on the socket at `path` until the process ends. A returned error means that
/// the socket could not be made.
pub fn serve(
    path: &Path,
    belongs: Arc<ArcSwap<Belongs>>,
    asks: mpsc::Sender<Ask>,
    doorkeeper: Arc<Doorkeeper>,
) -> std::io::Result<()> {
    let incoming = crate::net::grpc::unix_incoming(path)?;
    let gate = Gate {
        way: Way::Socket,
        belongs: belongs.clone(),
    };
    let server = wire::admin_server::AdminServer::new(Admin {
        belongs,
        asks,
        doorkeeper,
    });
    tokio::spawn(async move {
        let served = tonic::transport::Server::builder()
            .layer(gate)
            .add_service(server)
            .serve_with_incoming(incoming)
            .await;
        if let Err(error) = served {
            tracing::error!("the admin socket stopped: {error}");
        }
    });
    Ok(())
}

/// Serves the API to people elsewhere until the process ends.
pub fn serve_afar(listener: Listener, cluster: &Cluster, doorkeeper: Arc<Doorkeeper>) {
    let belongs = Arc::new(ArcSwap::from_pointee(Belongs::To(cluster.clone())));
    let gate = Gate {
        way: Way::Afar,
        belongs: belongs.clone(),
    };
    // A member has nothing to ask of the node as a whole: `init` and `join` are refused before.
    let (asks, _) = mpsc::channel(1);
    let server = wire::admin_server::AdminServer::new(Admin {
        belongs,
        asks,
        doorkeeper,
    });
    let incoming = crate::net::grpc::people_incoming(listener, cluster.people_server());
    tokio::spawn(async move {
        let served = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
            .layer(gate)
            .add_service(server)
            .serve_with_incoming(incoming)
            .await;
        if let Err(error) = served {
            tracing::error!("the admin port stopped: {error}");
        }
    });
}

impl Admin {
    /// None: it belongs to none.
    fn member_of(&self) -> Result<Option<Cluster>, Status> {
        match self.belongs.load().as_ref() {
            // Not "to none": an operator, or a script, would found a second cluster over the first.
            Belongs::Opening => Err(Status::unavailable(
                "this node is still opening its data directory; try again in a moment",
            )),
            Belongs::Nowhere => Ok(None),
            Belongs::To(cluster) => Ok(Some(cluster.clone())),
        }
    }

    fn cluster(&self) -> Result<Cluster, Status> {
        self.member_of()?.ok_or_else(|| {
            Status::failed_precondition(
                "this node belongs to no cluster yet: `holdfast cluster init` founds one, `holdfast cluster join TOKEN` joins one",
            )
        })
    }

    /// What `init` and `join` need.
    fn must_be_free(&self) -> Result<(), Status> {
        match self.member_of()? {
            None => Ok(()),
            Some(_) => Err(taken()),
        }
    }

    /// Proposes and turns a refusal into a status.
    async fn propose(&self, command: Command) -> Result<Reply, Status> {
        let cluster = self.cluster()?;
        let until = Instant::now() + COMMAND_TIME_MAX;
        done(caller().propose(&cluster, command, until).await)
    }

    /// The same for a command that the audit knows nobody to give: what it came to is noted apart.
    async fn propose_and_note(&self, command: Command, what: String) -> Result<Reply, Status> {
        let cluster = self.cluster()?;
        let until = Instant::now() + COMMAND_TIME_MAX;
        let reply = done(cluster.propose(command, until).await)?;
        caller().notes(&cluster, what).await;
        cluster.see_what_is_committed().await;
        Ok(reply)
    }
}

fn done(outcome: Result<Reply, ProposeError>) -> Result<Reply, Status> {
    match outcome {
        Ok(Reply::Refused(refusal)) => Err(refused(&refusal)),
        Ok(reply) => Ok(reply),
        Err(ProposeError::NotProposed(why)) => Err(Status::unavailable(format!(
            "{why}; nothing was changed, try again"
        ))),
        Err(ProposeError::Unknown(why)) => Err(Status::deadline_exceeded(format!(
            "{why}; it may still happen: look before trying again"
        ))),
    }
}

/// The answer to `init` or `join` at a member.
pub(crate) fn taken() -> Status {
    Status::already_exists("this node belongs to a cluster already; nothing was changed")
}

fn refused(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::UnknownDomain
        | Refusal::UnknownNode
        | Refusal::NotGranted
        | Refusal::NoAcme
        | Refusal::UnknownAccount
        | Refusal::UnknownDrill
        | Refusal::UnknownPlan => Status::not_found(refusal.to_string()),
        Refusal::DomainExists | Refusal::AccountExists | Refusal::PlanExists => {
            Status::already_exists(refusal.to_string())
        }
        _ => Status::failed_precondition(refusal.to_string()),
    }
}

fn broken(error: holdfast_ledger::KvError) -> Status {
    Status::internal(format!("this node cannot read its state: {}", error.0))
}

fn stream<T: Send + 'static>(mut queue: mpsc::Receiver<Result<T, Status>>) -> AnswerStream<T> {
    Box::pin(futures::stream::poll_fn(move |cx| queue.poll_recv(cx)))
}

/// A node by name or id.
fn find_node(cluster: &Cluster, text: &str) -> Result<NodeId, Status> {
    let members = cluster.members();
    members
        .iter()
        .find(|member| member.name == text || member.id.to_string() == text)
        .map(|member| member.id)
        .ok_or_else(|| {
            let names: Vec<&str> = members.iter().map(|m| m.name.as_str()).collect();
            Status::not_found(format!(
                "no node {text}; the members are {}",
                names.join(", ")
            ))
        })
}

#[tonic::async_trait]
impl wire::admin_server::Admin for Admin {
    type SnapshotSaveStream = AnswerStream<wire::Piece>;
    type DrillRunStream = AnswerStream<wire::Drill>;
    type JoinStream = AnswerStream<wire::Progress>;
    type LeaveStream = AnswerStream<wire::Progress>;
    type RotateCaStream = AnswerStream<wire::Progress>;
    type TransferLeaderStream = AnswerStream<wire::Progress>;
    type NodeDrainStream = AnswerStream<wire::Progress>;
    type NodeUndrainStream = AnswerStream<wire::Progress>;
    type NodeReplaceStream = AnswerStream<wire::Progress>;
    type UsageOfStream = AnswerStream<wire::UsagePage>;
    type MailListStream = AnswerStream<wire::Mail>;
    type EventsStream = AnswerStream<wire::Event>;
    type RecipientsListStream = AnswerStream<wire::Recipients>;
    type AuditStream = AnswerStream<wire::AuditList>;
    type KnownListStream = AnswerStream<wire::Knowns>;

    async fn status(&self, _request: Request<wire::Empty>) -> Answer<wire::StatusReply> {
        match self.member_of()? {
            Some(cluster) => status::status(&cluster).await.map(Response::new),
            None => Ok(Response::new(wire::StatusReply {
                health: "This node belongs to no cluster yet.".into(),
                ..wire::StatusReply::default()
            })),
        }
    }

    async fn snapshot_save(
        &self,
        _request: Request<wire::Empty>,
    ) -> Answer<Self::SnapshotSaveStream> {
        let cluster = self.cluster()?;
        snapshot::is_sound_here(&cluster)?;
        caller()
            .notes(&cluster, "a copy of everything taken".to_owned())
            .await;
        Ok(Response::new(stream(snapshot::save(cluster))))
    }

    async fn drill_run(
        &self,
        request: Request<wire::DrillRunRequest>,
    ) -> Answer<Self::DrillRunStream> {
        let progress = self.drill(request.into_inner()).await?;
        Ok(Response::new(stream(progress)))
    }

    async fn drill_list(&self, _request: Request<wire::Empty>) -> Answer<wire::DrillList> {
        self.drills().map(Response::new)
    }

    async fn drill_stop(&self, _request: Request<wire::Empty>) -> Answer<wire::Drill> {
        self.stop_drill().await.map(Response::new)
    }

    async fn drill_schedule_set(
        &self,
        request: Request<wire::DrillSchedule>,
    ) -> Answer<wire::Empty> {
        self.set_schedule(request.into_inner()).await?;
        Ok(Response::new(wire::Empty {}))
    }

    async fn state_hash(&self, _request: Request<wire::Empty>) -> Answer<wire::StateHashReply> {
        let cluster = self.cluster()?;
        let state = cluster.state_hash().await.map_err(|error| {
            Status::internal(format!("this node cannot read its state: {error}"))
        })?;
        Ok(Response::new(wire::StateHashReply {
            node_id: cluster.me().id.0,
            applied: state.applied,
            rows: state.rows,
            hash: hex(&state.hash),
        }))
    }

    async fn init(&self, _request: Request<wire::InitRequest>) -> Answer<wire::InitReply> {
        self.must_be_free()?;
        let (done, answer) = oneshot::channel();
        let stopping = || Status::unavailable("this node is stopping");
        self.asks
            .send(Ask::Init { done })
            .await
            .map_err(|_| stopping())?;
        let cluster = answer.await.map_err(|_| stopping())??;
        caller()
            .notes(&cluster, "the cluster was founded".into())
            .await;
        Ok(Response::new(wire::InitReply {
            cluster_id: hex(&cluster.cluster_id()),
            node_id: cluster.me().id.0,
        }))
    }

    async fn invite(&self, request: Request<wire::InviteRequest>) -> Answer<wire::InviteReply> {
        let cluster = self.cluster()?;
        let ttl = match request.into_inner().ttl_seconds {
            0 => INVITE_TTL,
            seconds => Duration::from_secs(seconds),
        };
        if ttl > INVITE_TTL_MAX {
            return Err(Status::invalid_argument(
                "an invitation is valid for 24 hours at most",
            ));
        }
        let (token, expires_at) =
            membership::invite(&cluster, ttl, |command| caller().gives(command))
                .await
                .map_err(membership_status)?;
        Ok(Response::new(wire::InviteReply {
            token,
            expires_at_ms: expires_at.0,
        }))
    }

    async fn join(&self, request: Request<wire::JoinRequest>) -> Answer<Self::JoinStream> {
        self.must_be_free()?;
        let (progress, mut steps) = mpsc::channel::<Result<wire::Progress, Status>>(64);
        let (tell, out) = mpsc::channel(64);
        let (caller, admin) = (caller(), self.clone());
        tokio::spawn(async move {
            while let Some(step) = steps.recv().await {
                if step.as_ref().is_ok_and(|step| step.done)
                    && let Ok(cluster) = admin.cluster()
                {
                    let (name, id) = (&cluster.me().name, cluster.me().id);
                    caller
                        .notes(&cluster, format!("node {name} ({id}) joined"))
                        .await;
                }
                // The operator may have gone; what was done is noted all the same.
                let _gone = tell.send(step).await;
            }
        });
        let token = request.into_inner().token;
        let stopping = |_| Status::unavailable("this node is stopping");
        self.asks
            .send(Ask::Join { token, progress })
            .await
            .map_err(stopping)?;
        Ok(Response::new(stream(out)))
    }

    async fn leave(&self, request: Request<wire::LeaveRequest>) -> Answer<Self::LeaveStream> {
        let cluster = self.cluster()?;
        let request = request.into_inner();
        let node = find_node(&cluster, &request.node)?;
        // Before anything is said of it in the audit; the leader looks again.
        cluster
            .must_not_rehearse()
            .map_err(Status::failed_precondition)?;
        let (progress, out) = mpsc::channel(64);
        let caller = caller();
        tokio::spawn(async move {
            let step = |step: &str, done| wire::Progress {
                step: step.into(),
                done,
                node_id: node.0,
                ..wire::Progress::default()
            };
            if request.dry_run {
                let would = status::without(&cluster, node).await;
                let _gone = progress.send(would.map(|text| step(&text, true))).await;
                return;
            }
            let _gone = progress
                .send(Ok(step(
                    "asked the leader, which moves leadership and leases away first",
                    false,
                )))
                .await;
            let asked = format!("removal of node {} ({node}) asked for", request.node);
            caller.notes(&cluster, asked).await;
            let outcome = membership::leave(&cluster, node).await;
            let last = outcome
                .map(|()| step("left; its data directory may be deleted", true))
                .map_err(membership_status);
            let _gone = progress.send(last).await;
        });
        Ok(Response::new(stream(out)))
    }

    async fn node_replace(
        &self,
        request: Request<wire::NodeReplaceRequest>,
    ) -> Answer<Self::NodeReplaceStream> {
        let steps = self.replace(request.into_inner())?;
        Ok(Response::new(stream(steps)))
    }

    async fn transfer_leader(
        &self,
        request: Request<wire::TransferRequest>,
    ) -> Answer<Self::TransferLeaderStream> {
        let steps = duty::transfer(self, request.get_ref())?;
        Ok(Response::new(stream(steps)))
    }

    async fn node_drain(
        &self,
        request: Request<wire::NodeRequest>,
    ) -> Answer<Self::NodeDrainStream> {
        let steps = duty::drain(self, request.get_ref())?;
        Ok(Response::new(stream(steps)))
    }

    async fn node_undrain(
        &self,
        request: Request<wire::NodeRequest>,
    ) -> Answer<Self::NodeUndrainStream> {
        let steps = duty::undrain(self, request.get_ref())?;
        Ok(Response::new(stream(steps)))
    }

    async fn finalize_upgrade(
        &self,
        request: Request<wire::FinalizeRequest>,
    ) -> Answer<wire::FinalizeReply> {
        duty::finalize(self, request.get_ref())
            .await
            .map(Response::new)
    }

    async fn domain_set(&self, request: Request<wire::DomainSetRequest>) -> Answer<wire::Domain> {
        domains::set(self, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn domain_get(&self, request: Request<wire::DomainName>) -> Answer<wire::Domain> {
        domains::get(self, &request.into_inner().name).map(Response::new)
    }

    async fn domain_remove(&self, request: Request<wire::DomainName>) -> Answer<wire::Empty> {
        domains::remove(self, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn domain_check(
        &self,
        request: Request<wire::DomainName>,
    ) -> Answer<wire::DomainCheckReply> {
        zone::check(self, &request.into_inner().name)
            .await
            .map(Response::new)
    }

    async fn domain_zone(
        &self,
        request: Request<wire::DomainZoneRequest>,
    ) -> Answer<wire::DomainZoneReply> {
        zone::lines(self, request.get_ref()).map(Response::new)
    }

    async fn domains(&self, _request: Request<wire::Empty>) -> Answer<wire::DomainList> {
        domains::list(self).map(Response::new)
    }

    async fn plan_set(&self, request: Request<wire::PlanSetRequest>) -> Answer<wire::Empty> {
        plans::set(self, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn plan_remove(&self, request: Request<wire::PlanName>) -> Answer<wire::Empty> {
        plans::remove(self, request.into_inner().name)
            .await
            .map(Response::new)
    }

    async fn plans(&self, request: Request<wire::PlanName>) -> Answer<wire::PlanList> {
        plans::list(self, &request.into_inner().name).map(Response::new)
    }

    async fn usage_of(&self, request: Request<wire::UsageRequest>) -> Answer<Self::UsageOfStream> {
        let pages = plans::usage(self, request.get_ref())?;
        Ok(Response::new(stream(pages)))
    }

    async fn deliver(&self, request: Request<wire::DeliverRequest>) -> Answer<wire::DeliverReply> {
        mail::deliver(self, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn route_set(&self, request: Request<wire::RouteSetRequest>) -> Answer<wire::Route> {
        route::set(self, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn askers_set(&self, request: Request<wire::AskersSetRequest>) -> Answer<wire::Empty> {
        domains::set_askers(self, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn recipients_set(
        &self,
        request: Request<wire::RecipientsSetRequest>,
    ) -> Answer<wire::Empty> {
        recipients::set(self, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn known_list(
        &self,
        request: Request<wire::DomainName>,
    ) -> Answer<Self::KnownListStream> {
        let pages = known::list(self, &request.into_inner().name)?;
        Ok(Response::new(stream(pages)))
    }

    async fn unlearn(&self, request: Request<wire::UnlearnRequest>) -> Answer<wire::Empty> {
        known::forget(self, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn recipients_list(
        &self,
        request: Request<wire::DomainName>,
    ) -> Answer<Self::RecipientsListStream> {
        let pages = recipients::list(self, &request.into_inner().name)?;
        Ok(Response::new(stream(pages)))
    }

    async fn mail_dispose(
        &self,
        request: Request<wire::MailDisposeRequest>,
    ) -> Answer<wire::MailDisposeReply> {
        mail::dispose(self, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn account_set(
        &self,
        request: Request<wire::AccountSetRequest>,
    ) -> Answer<wire::AccountSetReply> {
        accounts::set(self, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn accounts(&self, _request: Request<wire::Empty>) -> Answer<wire::AccountList> {
        accounts::list(self).map(Response::new)
    }

    async fn token_add(
        &self,
        request: Request<wire::TokenAddRequest>,
    ) -> Answer<wire::TokenAddReply> {
        accounts::add_token(self, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn token_remove(
        &self,
        request: Request<wire::TokenRemoveRequest>,
    ) -> Answer<wire::Empty> {
        accounts::remove_token(self, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn rotate_ca(
        &self,
        request: Request<wire::RotateCaRequest>,
    ) -> Answer<Self::RotateCaStream> {
        let progress = rotation::rotate(self, request.into_inner()).await?;
        Ok(Response::new(stream(progress)))
    }

    async fn access_grant(&self, request: Request<wire::GrantRequest>) -> Answer<wire::GrantReply> {
        access::grant(self, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn acme_set(&self, request: Request<wire::AcmeSetRequest>) -> Answer<wire::Empty> {
        acme::set(self, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn acme_show(&self, _request: Request<wire::Empty>) -> Answer<wire::AcmeReply> {
        acme::show(self).map(Response::new)
    }

    async fn access_revoke(&self, request: Request<wire::RevokeRequest>) -> Answer<wire::Empty> {
        access::revoke(self, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn accesses(&self, _request: Request<wire::Empty>) -> Answer<wire::AccessList> {
        access::list(self).map(Response::new)
    }

    async fn audit(&self, _request: Request<wire::Empty>) -> Answer<Self::AuditStream> {
        let pages = mail::audit(self)?;
        Ok(Response::new(stream(pages)))
    }

    async fn mail_show(&self, request: Request<wire::MailName>) -> Answer<wire::MailShown> {
        message::show(self, &request.into_inner().id)
            .await
            .map(Response::new)
    }

    async fn events(&self, request: Request<wire::EventsRequest>) -> Answer<Self::EventsStream> {
        let events = events::events(self, request.get_ref().follow)?;
        Ok(Response::new(stream(events)))
    }

    async fn mail_trace(
        &self,
        request: Request<wire::MailTraceRequest>,
    ) -> Answer<wire::MailTraceReply> {
        trace::trace(self, request.get_ref())
            .await
            .map(Response::new)
    }

    async fn mail_list(
        &self,
        request: Request<wire::MailListRequest>,
    ) -> Answer<Self::MailListStream> {
        let list = mail::list(self, request.get_ref())?;
        Ok(Response::new(stream(list)))
    }
}

pub(crate) fn membership_status(error: membership::MembershipError) -> Status {
    use membership::MembershipError as E;
    match error {
        E::Refused(_) => Status::failed_precondition(error.to_string()),
        E::NotAToken => Status::invalid_argument(error.to_string()),
        E::Unreachable { .. } | E::InDoubt(_) => Status::unavailable(error.to_string()),
        E::Certificate(_) => Status::internal(error.to_string()),
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
