//! One node, from start to stop: the table of contents.
//!
//! Started in this order: log, configuration, admin socket, replica, courier, intake, finger, portal, metrics;
//! stopped in reverse, so that no new mail is taken while what is held is put in order.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use holdfast_ledger::{Command, Member, Primary};
use holdfast_mail::checkup::Finding;
use holdfast_mail::{Address, Domain, NodeId};
use holdfast_proto::admin as admin_wire;
use holdfast_proto::cluster as cluster_wire;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::accounts::Doorkeeper;
use crate::admin::{self, Ask, Belongs};
use crate::certificate_files::{self, CertificateFiles};
use crate::config::{Config, ConfigError, difference};
use crate::destination::Destination;
use crate::history::History;
use crate::intake::Door;
use crate::net::authority;
use crate::net::dns::{Memory, Resolver};
use crate::net::handed::Handed;
use crate::net::listen::{Listener, accept_any};
use crate::net::tls::{self, SmtpServer, WebServer};
use crate::observe::{self, Check, Metrics, Traces};
use crate::ondemand::{self, OnDemand};
use crate::replica::{self, Cluster, Looking, StartError, Stores, membership};
use crate::store::FlushTimes;
use crate::switchboard::Switchboard;
use crate::vitals::Board;
use crate::{acme, checkup, courier, dial, drill, finger, intake, portal, reach, release};

/// How long transactions in progress may take to finish when the node stops. Below the 90 s
/// after which systemd kills.
const STOP_TIME_MAX: Duration = Duration::from_secs(20);

/// A node that gave up its work in order to leave, and is still a member after that, will not be removed:
/// `membership::leave` tries no longer.
const LEAVE_TIME_MAX: Duration = Duration::from_secs(120);

/// Why a node does not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("cannot use {path}: {error}. Nothing was started")]
    DataDir {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error(
        "cannot listen on {address}: {error}. Is another program, or another Holdfast, using it?"
    )]
    Listen {
        address: String,
        error: std::io::Error,
    },
    #[error("a socket that was handed over cannot be used: {0}. Nothing was started")]
    Handed(String),
    #[error(
        "a socket unit listens on {address} as `{name}`, but the file does not name that address for it, so its \
         clients would wait without end. Change the file or the unit (systemctl edit holdfast-{name}.socket). \
         Nothing was started"
    )]
    Unattended { name: String, address: String },
    #[error("cannot make the admin socket {path}: {error}")]
    Admin {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("{0}")]
    Tls(String),
    #[error("cannot read the sandbox's clock {path}: {error}")]
    Clock {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error("traces.collector: {0}. Nothing was started")]
    Traces(String),
    #[error("no DNS resolver: {0}")]
    Dns(std::io::Error),
    #[error(
        "this node was removed from its cluster. The other nodes hold the mail. To bring the machine back, empty \
         {0} and join with a new token"
    )]
    Removed(PathBuf),
    #[error(
        "this node gave up its work to leave the cluster, and {seconds} seconds later it is still a member: its \
         removal broke off. All mail is safe: it is held here and by the other nodes. Started again, as systemd \
         does by itself, it takes and delivers mail as before. To take it out for good, on another node: \
         holdfast cluster leave {0}",
        seconds = LEAVE_TIME_MAX.as_secs()
    )]
    NotRemoved(String),
}

/// Runs the node that the file at `path` describes until SIGTERM or SIGINT.
pub async fn serve(path: &Path) -> Result<(), ServeError> {
    let config = Config::read(path)?;
    observe::start_log(&config.log);
    if let Some(path) = config.sandbox_clock.clone() {
        replica::follow_clock(path.clone()).map_err(|error| ServeError::Clock { path, error })?;
    }
    if let Some(seconds) = config.sandbox_certificate_life_seconds {
        authority::live_short(seconds.into());
    }
    if let Some(level) = config.sandbox_level {
        replica::level::pretend(level);
    }
    let node = Node::prepare(path, config)?;
    node.run().await
}

/// A node whose listeners are bound and whose admin socket answers.
struct Node {
    path: PathBuf,
    config: Arc<ArcSwap<Config>>,
    belongs: Arc<ArcSwap<Belongs>>,
    asks: mpsc::Receiver<Ask>,
    cluster_listener: Option<Listener>,
    smtp_listeners: Vec<Listener>,
    submission_listeners: Vec<(Door, Listener)>,
    finger_listener: Option<Listener>,
    atrn_listener: Option<Listener>,
    acme_listener: Option<Listener>,
    portal_listener: Option<Listener>,
    admin_listener: Option<Listener>,
    doorkeeper: Arc<Doorkeeper>,
    metrics: Metrics,
    traces: Option<Traces>,
    flush_times: FlushTimes,
    /// Set when the node was told to stop: whoever balances load must send it nothing more.
    stopping: Arc<AtomicBool>,
}

/// What runs once the node belongs to a cluster.
struct Rooms {
    cluster: Cluster,
    intake_options: Arc<ArcSwap<intake::Options>>,
    courier_options: courier::Options,
    portal_tls: Arc<ArcSwap<WebServer>>,
    atrn_tls: Arc<ArcSwap<SmtpServer>>,
    intake_stop: watch::Sender<bool>,
    courier_stop: CancellationToken,
    /// Cancelled when the node gave up its work in order to leave, and was not removed.
    stranded: CancellationToken,
    intake: JoinHandle<()>,
    finger: Option<JoinHandle<()>>,
    ondemand: Option<JoinHandle<()>>,
    acme: Option<JoinHandle<()>>,
    portal: Option<JoinHandle<()>>,
    courier: JoinHandle<()>,
}

/// What must be so for senders to be sent to this node.
fn readiness(belongs: &Belongs, stopping: bool) -> Vec<Check> {
    let mut checks = vec![
        Check::that("running", !stopping, "the node is stopping"),
        Check::that(
            "open",
            !matches!(belongs, Belongs::Opening),
            "the node has not opened its data yet",
        ),
        Check::that(
            "member",
            !matches!(belongs, Belongs::Nowhere),
            "the node belongs to no cluster; it waits for init or join",
        ),
    ];
    if let Belongs::To(cluster) = belongs {
        checks.extend([
            Check::that(
                "staying",
                !cluster.is_retiring(),
                "the node is being removed from the cluster",
            ),
            Check::that(
                "in earnest",
                !cluster.rehearsal().is_dead(),
                "a drill has this node look as if it were down",
            ),
            Check::that(
                "drained",
                !cluster.is_drained(),
                "the node is drained for maintenance; `holdfast node undrain` gives its duties back",
            ),
            Check::that(
                "quorum",
                cluster.has_quorum(),
                "no leader that has a quorum was heard from; mail is refused for now (4xx)",
            ),
            Check::that(
                "current",
                cluster.is_current(),
                "the node still catches up with the log",
            ),
            Check::that(
                "disk",
                !cluster.disk_low(),
                "less is free than limits.disk_free_min_bytes; no new mail is taken",
            ),
        ]);
    }
    checks
}

/// True while the node stops or is drained: whoever is served over a long connection is sent to
/// another node.
fn closing(cluster: &Cluster, mut stop: watch::Receiver<bool>) -> watch::Receiver<bool> {
    let mut drained = cluster.drained();
    let (closing, told) = watch::channel(false);
    tokio::spawn(async move {
        loop {
            let is = *stop.borrow_and_update() || *drained.borrow_and_update();
            closing.send_replace(is);
            let changed = tokio::select! {
                changed = stop.changed() => changed,
                changed = drained.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    });
    told
}

/// Whether a node that gave up its work in order to leave was not removed.
async fn is_stranded(cluster: &Cluster) -> bool {
    if tokio::time::timeout(LEAVE_TIME_MAX, cluster.was_removed())
        .await
        .is_ok()
    {
        return false;
    }
    let me = cluster.me().id;
    cluster.standing().voter || cluster.members().iter().any(|member| member.id == me)
}

async fn until(mut stop: watch::Receiver<bool>) {
    let _sender_gone = stop.wait_for(|stop| *stop).await;
}

/// The socket that systemd holds open for this, or one of our own.
fn listen(
    handed: &mut Handed,
    name: &str,
    address: std::net::SocketAddr,
) -> Result<Listener, ServeError> {
    let taken = handed.take(name, address);
    match taken.map_err(|error| ServeError::Handed(error.to_string()))? {
        Some(listener) => Ok(listener),
        None => bind(address),
    }
}

fn bind(address: std::net::SocketAddr) -> Result<Listener, ServeError> {
    Listener::bind(address).map_err(|error| ServeError::Listen {
        address: address.to_string(),
        error,
    })
}

impl Node {
    fn prepare(path: &Path, config: Config) -> Result<Self, ServeError> {
        let dir = &config.data_dir;
        // Mail is in it: nobody but the owner reads it.
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|error| ServeError::DataDir {
                path: dir.clone(),
                error,
            })?;
        let handed = Handed::from_environment();
        let mut handed = handed.map_err(|error| ServeError::Handed(error.to_string()))?;
        let cluster_listener = bind(config.cluster.listen)?;
        let smtp_listeners = config
            .smtp
            .listen
            .iter()
            .map(|address| listen(&mut handed, "smtp", *address))
            .collect::<Result<_, _>>()?;
        let mut optional = |name, address: Option<_>| {
            address
                .map(|address| listen(&mut handed, name, address))
                .transpose()
        };
        let finger_listener = optional("finger", config.finger.listen)?;
        let submission = optional("submission", config.submission.listen)?;
        let submissions = optional("submissions", config.submission.listen_tls)?;
        let submission = submission.map(|listener| (Door::Submission { tls: false }, listener));
        let submissions = submissions.map(|listener| (Door::Submission { tls: true }, listener));
        let atrn_listener = optional("atrn", config.atrn.listen)?;
        let acme_listener = optional("acme", config.acme.listen)?;
        let portal_listener = optional("portal", config.portal.listen)?;
        let admin_listener = config.admin.listen.map(bind).transpose()?;
        if let Some((name, address)) = handed.left() {
            return Err(ServeError::Unattended {
                name: name.to_owned(),
                address: address.to_string(),
            });
        }
        let metrics = Metrics::default();
        let flush_times = FlushTimes::default();
        metrics.register(|registry| flush_times.register(registry));
        let belongs = Arc::new(ArcSwap::from_pointee(Belongs::Opening));
        let stopping = Arc::new(AtomicBool::new(false));
        if let Some(address) = config.metrics.listen {
            let (belongs, stopping) = (belongs.clone(), stopping.clone());
            metrics.clone().serve(bind(address)?, move || {
                readiness(&belongs.load(), stopping.load(Ordering::Relaxed))
            });
        }
        let traces = config.traces.collector.as_ref();
        let traces = traces.map(|to| Traces::start(to, &config.name, &config.region));
        let traces = traces.transpose().map_err(ServeError::Traces)?;
        let (asks_tx, asks) = mpsc::channel(1);
        let socket = config.admin_socket();
        let doorkeeper = Arc::new(Doorkeeper::default());
        admin::serve(&socket, belongs.clone(), asks_tx, doorkeeper.clone()).map_err(|error| {
            ServeError::Admin {
                path: socket,
                error,
            }
        })?;
        Ok(Self {
            path: path.to_owned(),
            config: Arc::new(ArcSwap::from_pointee(config)),
            belongs,
            asks,
            cluster_listener: Some(cluster_listener),
            smtp_listeners,
            submission_listeners: submission.into_iter().chain(submissions).collect(),
            finger_listener,
            atrn_listener,
            acme_listener,
            portal_listener,
            admin_listener,
            doorkeeper,
            metrics,
            traces,
            flush_times,
            stopping,
        })
    }

    async fn run(mut self) -> Result<(), ServeError> {
        let trap = |kind| {
            signal(kind).map_err(|error| ServeError::Listen {
                address: "signals".into(),
                error,
            })
        };
        let mut terminate = trap(SignalKind::terminate())?;
        let mut interrupt = trap(SignalKind::interrupt())?;
        let mut hangup = trap(SignalKind::hangup())?;

        let mut files = CertificateFiles::as_they_are(&self.config.load());
        let mut rooms = match replica::reopen(&self.replica_options())? {
            Some(stores) => Some(self.open(stores, None).await?),
            None => {
                tracing::info!("this node belongs to no cluster yet; waiting for init or join");
                self.belongs.store(Arc::new(Belongs::Nowhere));
                None
            }
        };
        let mut look = tokio::time::interval(certificate_files::LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        observe::supervisor::started();
        observe::supervisor::keep_watch();
        loop {
            let removed = async {
                match &rooms {
                    Some(rooms) => rooms.cluster.was_removed().await,
                    None => std::future::pending().await,
                }
            };
            let stranded = async {
                match &rooms {
                    Some(rooms) => rooms.stranded.cancelled().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => self.reload(rooms.as_ref()),
                _ = look.tick() => self.look_at(&mut files, rooms.as_ref()),
                // The rooms take the doors over once there are any.
                stream = accept_any(
                    self.submission_listeners
                        .iter()
                        .map(|(_, door)| door)
                        .chain(&self.smtp_listeners)
                        .chain(&self.atrn_listener)
                ) => intake::send_on(&stream),
                // Hung up.
                _stream = accept_any(
                    self.finger_listener
                        .iter()
                        .chain(&self.portal_listener)
                        .chain(&self.acme_listener)
                ) => {}
                () = removed => {
                    let dir = self.config.load().data_dir.clone();
                    if let Some(rooms) = rooms { rooms.stop().await; }
                    return Err(ServeError::Removed(dir));
                }
                () = stranded => {
                    let name = self.config.load().name.clone();
                    if let Some(rooms) = rooms { rooms.stop().await; }
                    return Err(ServeError::NotRemoved(name));
                }
                Some(ask) = self.asks.recv() => match ask {
                    // Two may have asked at once.
                    Ask::Init { done } if rooms.is_some() => {
                        let _gone = done.send(Err(admin::taken()));
                    }
                    Ask::Join { progress, .. } if rooms.is_some() => {
                        let _gone = progress.send(Err(admin::taken())).await;
                    }
                    Ask::Init { done } => {
                        let reply = match self.found().await {
                            Ok(opened) => {
                                let cluster = opened.cluster.clone();
                                rooms = Some(opened);
                                Ok(cluster)
                            }
                            Err(error) => Err(Status::failed_precondition(error.to_string())),
                        };
                        let _gone = done.send(reply);
                    }
                    Ask::Join { token, progress } => {
                        match self.join(&token).await {
                            Ok((opened, members)) => {
                                let cluster = opened.cluster.clone();
                                rooms = Some(opened);
                                tokio::spawn(async move { catch_up(cluster, members, Some(progress)).await });
                            }
                            Err(status) => { let _gone = progress.send(Err(status)).await; }
                        }
                    }
                },
            }
        }
        self.stopping.store(true, Ordering::Relaxed);
        observe::supervisor::stops();
        tracing::info!("stopping: transactions in progress are finished first");
        if let Some(rooms) = rooms {
            rooms.stop().await;
        }
        if let Some(traces) = self.traces {
            traces.stop().await;
        }
        let socket = self.config.load().admin_socket();
        if let Err(error) = std::fs::remove_file(&socket) {
            tracing::debug!("the admin socket was gone already: {error}");
        }
        tracing::info!("stopped");
        Ok(())
    }

    fn replica_options(&self) -> replica::Options {
        replica_options(&self.config.load(), self.flush_times.clone())
    }

    /// Starts the replica and the rooms that need it.
    async fn open(
        &mut self,
        stores: Stores,
        bootstrap: Option<Command>,
    ) -> Result<Rooms, ServeError> {
        let config = self.config.load_full();
        let listener = match self.cluster_listener.take() {
            Some(listener) => listener,
            None => bind(config.cluster.listen)?,
        };
        let cluster = replica::start(self.replica_options(), stores, listener, bootstrap).await?;
        self.belongs.store(Arc::new(Belongs::To(cluster.clone())));
        if let Some(listener) = self.admin_listener.take() {
            admin::serve_afar(listener, &cluster, self.doorkeeper.clone());
        }
        let history = config.data_dir.join("history");
        match History::open(&history) {
            Ok(history) => {
                self.metrics.register(|registry| history.register(registry));
                cluster.keep_history(history);
            }
            // Mail does not need it.
            Err(error) => tracing::error!(
                "no history can be kept in {}, `mail trace` will not know what this node did: {error}",
                history.display()
            ),
        }
        if let Some(traces) = self.traces.clone() {
            self.metrics.register(|registry| traces.register(registry));
            cluster.send_traces(traces);
        }
        tracing::info!(
            node = %cluster.me().id,
            name = config.name,
            region = config.region,
            "started"
        );

        let mut courier_options = courier::Options::default();
        courier_options.relay_via = config.relay_via();
        courier_options.set_connections_max(config.courier.connections_max);
        self.metrics
            .register(|registry| courier_options.counters.register(registry));
        let courier_stop = CancellationToken::new();
        let resolver = |memory| Resolver::new(&config.dns.servers, memory).map_err(ServeError::Dns);
        let fresh = resolver(Memory::None)?;
        let resolver = resolver(Memory::Kept)?;
        cluster.set_lookout(Arc::new(Lookout {
            cluster: cluster.clone(),
            resolver: resolver.clone(),
            fresh,
        }));
        tokio::spawn(crate::watch::run(
            cluster.clone(),
            Arc::new(resolver.clone()),
            courier_stop.clone(),
        ));
        tokio::spawn(drill::run(
            cluster.clone(),
            Arc::new(resolver.clone()),
            courier_stop.clone(),
        ));
        tokio::spawn(acme::run(
            cluster.clone(),
            Arc::new(resolver.clone()),
            courier_stop.clone(),
        ));
        let courier = courier::run(
            courier_options.clone(),
            cluster.clone(),
            Arc::new(resolver.clone()),
            courier_stop.clone(),
        );
        let courier_ended = CancellationToken::new();
        let courier = tokio::spawn({
            let ended = courier_ended.clone();
            async move {
                courier.await;
                ended.cancel();
            }
        });

        let (intake_stop, stopped) = watch::channel(false);
        let intake_options = Arc::new(ArcSwap::from_pointee(intake_options(
            &config,
            Some(&cluster),
        )?));
        let mut listeners = std::mem::take(&mut self.submission_listeners);
        let exchange = std::mem::take(&mut self.smtp_listeners).into_iter();
        listeners.extend(exchange.map(|listener| (Door::Exchange, listener)));
        let release = Arc::new(release::Desk::default());
        let intake = tokio::spawn(intake::run(
            intake_options.clone(),
            intake::House {
                cluster: cluster.clone(),
                release: release.clone(),
                resolver,
                doorkeeper: self.doorkeeper.clone(),
                metrics: self.metrics.clone(),
            },
            listeners,
            until(stopped),
        ));

        let closing = closing(&cluster, intake_stop.subscribe());
        let finger = self
            .finger_listener
            .take()
            .map(|listener| tokio::spawn(finger::run(cluster.clone(), release.clone(), listener)));

        let acme = self
            .acme_listener
            .take()
            .map(|listener| tokio::spawn(acme::answer(cluster.clone(), listener)));

        let atrn_tls = intake_options.load().tls.clone();
        let atrn_tls = Arc::new(ArcSwap::from_pointee(atrn_tls));
        let ondemand = self.atrn_listener.take().map(|listener| {
            let room = OnDemand {
                name: config.smtp.name.clone(),
                cluster: cluster.clone(),
                tls: atrn_tls.clone(),
                doorkeeper: self.doorkeeper.clone(),
                switchboard: courier_options.switchboard.clone(),
            };
            tokio::spawn(ondemand::run(room, listener, closing.clone()))
        });

        let portal_tls = Arc::new(ArcSwap::from_pointee(web_server(&config, Some(&cluster))?));
        let board = Board::new(cluster.clone(), portal_tls.clone());
        self.metrics
            .register(|registry| registry.register_collector(Box::new(board)));
        let portal = self.portal_listener.take().map(|listener| {
            let options = portal::Options {
                listener,
                tls: portal_tls.clone(),
                doorkeeper: self.doorkeeper.clone(),
                release,
                closing,
            };
            let stopped = intake_stop.subscribe();
            tokio::spawn(portal::run(options, cluster.clone(), stopped))
        });

        // A node about to be removed takes no new mail and hands back its leases. The rooms that stop for that
        // do not start again, so that the whole node does where its removal breaks off.
        let stranded = CancellationToken::new();
        tokio::spawn({
            let (cluster, intake_stop, courier_stop) =
                (cluster.clone(), intake_stop.clone(), courier_stop.clone());
            let stranded = stranded.clone();
            async move {
                cluster.retiring().await;
                tracing::info!("this node is being removed: no new mail, leases go back");
                intake_stop.send_replace(true);
                courier_stop.cancel();
                courier_ended.cancelled().await;
                cluster.retired();
                if is_stranded(&cluster).await {
                    stranded.cancel();
                }
            }
        });
        Ok(Rooms {
            cluster,
            intake_options,
            courier_options,
            portal_tls,
            atrn_tls,
            intake_stop,
            courier_stop,
            stranded,
            intake,
            finger,
            ondemand,
            acme,
            portal,
            courier,
        })
    }

    async fn found(&mut self) -> Result<Rooms, ServeError> {
        let options = self.replica_options();
        let (identity, bootstrap) = replica::found(&options.member)?;
        let stores = replica::create(&options, identity).await?;
        self.open(stores, Some(bootstrap)).await
    }

    async fn join(&mut self, token: &str) -> Result<(Rooms, Vec<cluster_wire::Member>), Status> {
        let options = self.replica_options();
        let (identity, members) = membership::redeem(token, &options.member)
            .await
            .map_err(admin::membership_status)?;
        let failed = |e: &dyn std::fmt::Display| Status::internal(e.to_string());
        let stores = replica::create(&options, identity)
            .await
            .map_err(|e| failed(&e))?;
        let rooms = self.open(stores, None).await.map_err(|e| failed(&e))?;
        Ok((rooms, members))
    }

    /// Reads the file again: all of it takes effect that can, or, where it is at fault, nothing.
    fn reload(&self, rooms: Option<&Rooms>) {
        let old = self.config.load_full();
        let cluster = rooms.map(|rooms| &rooms.cluster);
        let read = Config::read(&self.path).map_err(ServeError::from);
        let read = read.and_then(|new| {
            let config = old.reloaded(&new);
            let intake = intake_options(&config, cluster)?;
            Ok((intake, web_server(&config, cluster)?, new))
        });
        let (intake, web, new) = match read {
            Ok(read) => read,
            Err(error) => {
                tracing::error!(
                    "the configuration was not read again, the old one stays in force: {error}"
                );
                return;
            }
        };
        for change in difference(&old, &new) {
            tracing::info!("configuration: {change}");
        }
        let config = old.reloaded(&new);
        observe::set_log_level(config.log.level);
        if let Some(rooms) = rooms {
            rooms.present(intake, web);
            rooms
                .courier_options
                .set_connections_max(config.courier.connections_max);
            rooms
                .cluster
                .set_disk_free_min(config.limits.disk_free_min_bytes);
        }
        self.config.store(Arc::new(config));
        tracing::info!("the configuration was read again");
    }

    /// Takes the certificate of SMTP and the portal again, if its files have changed, or the cluster has
    /// ordered one.
    fn look_at(&self, files: &mut CertificateFiles, rooms: Option<&Rooms>) {
        let config = self.config.load();
        let cluster = rooms.map(|rooms| &rooms.cluster);
        let Some(stamp) = files.changed(&config, cluster) else {
            return;
        };
        let read = intake_options(&config, cluster)
            .and_then(|intake| Ok((intake, web_server(&config, cluster)?)));
        match read {
            Ok((intake, web)) => {
                if let Some(rooms) = rooms {
                    rooms.present(intake, web);
                }
                files.took(stamp);
                tracing::info!("the certificate of SMTP and the portal was read again");
            }
            Err(error) => {
                if files.are_broken(stamp) {
                    tracing::warn!(
                        "the certificate of SMTP and the portal was changed and cannot be used, the old one stays: \
                         {error}"
                    );
                }
            }
        }
    }
}

fn replica_options(config: &Config, flush_times: FlushTimes) -> replica::Options {
    let listen = config.smtp.listen.first();
    let listen = listen.map(ToString::to_string).unwrap_or_default();
    let poison = config.data_dir.clone();
    replica::Options {
        data_dir: config.data_dir.clone(),
        member: Member {
            id: NodeId(0),
            name: config.name.clone(),
            region: config.region.clone(),
            cluster_address: config.cluster.address.clone(),
            smtp_name: config.smtp.name.clone(),
            smtp_address: config.smtp.public_address.clone().unwrap_or(listen),
        },
        profile: config.wan_profile,
        snapshot_every: config
            .sandbox_snapshot_every
            .unwrap_or(crate::config::SNAPSHOT_EVERY),
        disk_free_min: config.limits.disk_free_min_bytes,
        fatal: Arc::new(move |why| {
            // Whatever was not acknowledged is not lost: its sender still has it.
            tracing::error!(data_dir = %poison.display(), "this node stops at once: {why}");
            std::process::exit(70);
        }),
        flush_times,
    }
}

/// For work on the data of a node that is stopped.
#[must_use]
pub fn offline_options(config: &Config) -> replica::Options {
    replica_options(config, FlushTimes::default())
}

/// The files go first, then what the cluster has ordered.
fn identity(config: &Config, cluster: Option<&Cluster>) -> Result<tls::Identity, ServeError> {
    if let (Some(cert), Some(key)) = (&config.smtp.tls_cert, &config.smtp.tls_key) {
        return tls::Identity::read(cert, key).map_err(|e| ServeError::Tls(e.to_string()));
    }
    if let Some((issued, _)) = certificate_files::ordered(config, cluster) {
        match tls::Identity::parse(&issued.chain, &issued.key) {
            Ok(identity) => return Ok(identity),
            // The leader has looked at it before; a node without any would take no mail.
            Err(error) => tracing::error!("the certificate in the ledger is not used: {error}"),
        }
    }
    tls::Identity::self_signed(&config.smtp.name).map_err(|e| ServeError::Tls(e.to_string()))
}

fn web_server(config: &Config, cluster: Option<&Cluster>) -> Result<WebServer, ServeError> {
    tls::web_server(identity(config, cluster)?).map_err(|e| ServeError::Tls(e.to_string()))
}

/// Looks at domains when another node asks.
struct Lookout {
    cluster: Cluster,
    resolver: Resolver,
    /// Without a memory.
    fresh: Resolver,
}

impl replica::Lookout for Lookout {
    fn check(&self, domain: Domain) -> Looking<Vec<Finding>> {
        let (cluster, resolver) = (self.cluster.clone(), self.fresh.clone());
        Box::pin(async move { checkup::findings(&cluster, &resolver, &domain).await })
    }

    fn reach(&self, domain: Domain) -> Looking<()> {
        let destination = Destination {
            cluster: self.cluster.clone(),
            resolver: Arc::new(self.resolver.clone()),
            domain,
            switchboard: Switchboard::default(),
            relay: None,
        };
        Box::pin(async move {
            let reached = reach::reached(&destination).await;
            reached.map_err(|why| why.to_string())
        })
    }

    fn leads_to_us(&self, domain: Domain, primary: Option<Primary>) -> Looking<bool> {
        let (cluster, resolver) = (self.cluster.clone(), self.fresh.clone());
        Box::pin(async move {
            Ok(match primary {
                Some(Primary { host, port }) => {
                    dial::leads_to_us(&cluster, &resolver, &host, port).await
                }
                None => dial::exchangers_lead_to_us(&cluster, &resolver, &domain).await,
            })
        })
    }
}

/// What the intake takes from the file, certificates read.
fn intake_options(
    config: &Config,
    cluster: Option<&Cluster>,
) -> Result<intake::Options, ServeError> {
    let tls = tls::smtp_server(identity(config, cluster)?);
    Ok(intake::Options {
        name: config.smtp.name.clone(),
        // Checked when the file was read.
        postmaster: config
            .smtp
            .postmaster
            .as_deref()
            .and_then(|text| Address::parse(text, false).ok()),
        message_bytes_max: config.limits.message_bytes_max,
        connections_max: config.limits.connections_max as usize,
        connections_per_client_max: config.limits.connections_per_client_max as usize,
        tls: tls.map_err(|e| ServeError::Tls(e.to_string()))?,
    })
}

impl Rooms {
    /// New connections are shown the certificate that these have.
    fn present(&self, intake: intake::Options, web: WebServer) {
        self.atrn_tls.store(Arc::new(intake.tls.clone()));
        self.intake_options.store(Arc::new(intake));
        self.portal_tls.store(Arc::new(web));
    }

    /// Stops in reverse order of starting.
    async fn stop(self) {
        for door in [self.finger, self.acme].into_iter().flatten() {
            door.abort();
        }
        // Sessions under way end with the courier, which lets messages finish.
        if let Some(ondemand) = self.ondemand {
            ondemand.abort();
        }
        self.intake_stop.send_replace(true);
        wait_for("intake", self.intake).await;
        if let Some(portal) = self.portal {
            wait_for("portal", portal).await;
        }
        self.courier_stop.cancel();
        wait_for("courier", self.courier).await;
        self.cluster.stop().await;
    }
}

async fn wait_for(room: &str, task: JoinHandle<()>) {
    match tokio::time::timeout(STOP_TIME_MAX, task).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!("{room} ended badly: {error}"),
        Err(_) => tracing::warn!(
            "{room} did not finish in time; what it had not acknowledged is tried again by its sender"
        ),
    }
}

/// Tells `progress` how a new node catches up, and makes it a voter.
async fn catch_up(
    cluster: Cluster,
    members: Vec<cluster_wire::Member>,
    progress: Option<mpsc::Sender<Result<admin_wire::Progress, Status>>>,
) {
    let node_id = cluster.me().id.0;
    let tell = async |step: admin_wire::Progress| {
        if let Some(progress) = &progress {
            // The operator may have gone; the node goes on.
            let _gone = progress.send(Ok(step)).await;
        }
    };
    let step = |step: &str| admin_wire::Progress {
        step: step.into(),
        node_id,
        ..admin_wire::Progress::default()
    };
    tell(step("admitted, certificate received")).await;
    let promotion = membership::promote(&cluster, &members);
    tokio::pin!(promotion);
    let mut every = tokio::time::interval(Duration::from_millis(250));
    let mut last = (0, 0);
    loop {
        tokio::select! {
            outcome = &mut promotion => {
                let end = match outcome {
                    Ok(()) => Ok(admin_wire::Progress { done: true, ..step("voter") }),
                    Err(error) => {
                        tracing::error!("this node is no voter yet: {error}");
                        Err(Status::failed_precondition(error.to_string()))
                    }
                };
                if let Some(progress) = &progress {
                    let _gone = progress.send(end).await;
                }
                return;
            }
            _ = every.tick() => {
                let standing = cluster.standing();
                let have = standing.applied.map_or(0, |log| log.index);
                let all = standing.last_log.map_or(0, |log| log.index).max(have);
                if (have, all) != last {
                    last = (have, all);
                    tell(admin_wire::Progress {
                        done_units: have,
                        all_units: all,
                        unit: "entries".into(),
                        ..step("catching up as learner")
                    }).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_proto::admin::admin_client::AdminClient;
    use holdfast_proto::admin::{Empty, InitRequest};
    use tonic::Code;

    use super::*;
    use crate::net::grpc::unix_channel;

    fn prepared(dir: &Path) -> Node {
        let file = dir.join("n1.toml");
        let text = r#"
data_dir = "n1"
name = "n1"
region = "eu"
[smtp]
listen = ["127.0.0.1:0"]
name = "n1.example.net"
[cluster]
listen = "127.0.0.1:0"
address = "127.0.0.1:7400"
"#;
        let config = Config::parse(text, &file).unwrap();
        Node::prepare(&file, config).unwrap()
    }

    /// "No cluster" would have a script found a second one over what the directory holds.
    #[tokio::test]
    async fn a_node_that_opens_its_data_does_not_know_yet_whether_it_has_a_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let node = prepared(dir.path());
        let mut client = AdminClient::new(unix_channel(&node.config.load().admin_socket()));
        let status = client.status(Empty {}).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        let status = client.init(InitRequest {}).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");

        let running = tokio::spawn(node.run());
        let status = loop {
            match client.status(Empty {}).await {
                Ok(status) => break status.into_inner(),
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert_eq!(status.cluster_id, "");
        running.abort();
    }

    /// Certificate and key, as PEM, good for so many seconds.
    fn renewed(seconds: u64) -> (String, String) {
        use crate::net::pass::block;
        let ca = authority::Authority::create([1; 16]).unwrap();
        let (key, request) = authority::request().unwrap();
        let life = Duration::from_secs(seconds);
        let certificate = ca.sign_person(&request, "mx", [1; 16], life).unwrap();
        (
            block("CERTIFICATE", &certificate),
            block("PRIVATE KEY", &key),
        )
    }

    #[tokio::test]
    async fn a_certificate_that_is_renewed_on_disk_is_presented_and_a_broken_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("mx.pem"), dir.path().join("mx.key"));
        let write = |(certificate, private): (String, String)| {
            std::fs::write(&cert, certificate).unwrap();
            std::fs::write(&key, private).unwrap();
        };
        write(renewed(1_000));
        let mut node = prepared(dir.path());
        let mut config = (**node.config.load()).clone();
        (config.smtp.tls_cert, config.smtp.tls_key) = (Some(cert.clone()), Some(key.clone()));
        node.config.store(Arc::new(config));
        let rooms = node.found().await.unwrap();
        let ends = || rooms.portal_tls.load().expires();
        let first = ends().unwrap();
        let mut files = CertificateFiles::as_they_are(&node.config.load());
        node.look_at(&mut files, Some(&rooms));
        assert_eq!(ends(), Some(first));

        // Only one of the two is there yet.
        let (certificate, private) = renewed(500_000);
        std::fs::write(&cert, &certificate).unwrap();
        node.look_at(&mut files, Some(&rooms));
        assert_eq!(ends(), Some(first), "they do not belong together");
        std::fs::write(&key, private).unwrap();
        node.look_at(&mut files, Some(&rooms));
        assert!(ends().unwrap() > first + 100_000);

        let second = ends();
        std::fs::write(&cert, "nonsense").unwrap();
        node.look_at(&mut files, Some(&rooms));
        assert_eq!(ends(), second);
        rooms.stop().await;
    }

    #[tokio::test]
    async fn of_two_who_found_a_cluster_at_once_one_does_and_the_other_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut node = prepared(dir.path());
        let (done, first) = tokio::sync::oneshot::channel();
        let (done_too, second) = tokio::sync::oneshot::channel();
        // Both were let through before the first was answered.
        let (asks, queue) = mpsc::channel(2);
        node.asks = queue;
        for done in [done, done_too] {
            assert!(asks.send(Ask::Init { done }).await.is_ok());
        }
        let running = tokio::spawn(node.run());
        let limit = Duration::from_secs(30);
        let first = tokio::time::timeout(limit, first).await.unwrap().unwrap();
        assert!(first.is_ok());
        let second = tokio::time::timeout(limit, second).await.unwrap().unwrap();
        assert_eq!(
            second.err().map(|status| status.code()),
            Some(Code::AlreadyExists)
        );
        running.abort();
    }
}
