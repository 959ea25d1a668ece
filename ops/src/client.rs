//! Finding and asking a node: over its admin socket, or elsewhere with an identity that was granted.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use holdfast_node::config::Config;
use holdfast_node::net::grpc;
use holdfast_node::net::pass::Pass;
use holdfast_proto::admin::admin_client::AdminClient;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::cli::Global;
use crate::failure::{Exit, Failure};

pub(crate) type Client = AdminClient<Channel>;

const SOCKET_DEFAULT: &str = "/run/holdfast/admin.sock";
const SOCKET_VARIABLE: &str = "HOLDFAST_SOCKET";
const NODE_VARIABLE: &str = "HOLDFAST_NODE";
const IDENTITY_VARIABLE: &str = "HOLDFAST_IDENTITY";

/// How long a single question may take. An answer can need a new leader to be elected first,
/// which takes seconds on a global cluster.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// The node that the command line means.
pub(crate) async fn connect(global: &Global) -> Result<Client, Failure> {
    match afar(global) {
        Some(address) => elsewhere(global, &address).await,
        None => at(&socket(global)?).await,
    }
}

/// The address of a node elsewhere, if that is meant. What was typed counts more than what a
/// variable says, and that more than what lies in the home directory.
fn afar(global: &Global) -> Option<String> {
    if global.node.is_some() || global.socket.is_some() || global.config.is_some() {
        return global.node.clone();
    }
    variable(NODE_VARIABLE)
        .and_then(|node| node.into_string().ok())
        .or_else(|| {
            // A machine that has a node, or a variable that names one, needs no other.
            let here = variable(SOCKET_VARIABLE).is_some() || Path::new(SOCKET_DEFAULT).exists();
            let written = std::fs::read_to_string(home()?.join("node")).ok()?;
            (!here).then(|| written.trim().to_owned())
        })
        .filter(|node| !node.is_empty())
}

/// The socket that is meant, where this user may not use it: whether a node is behind it cannot be known.
pub(crate) async fn forbidden(global: &Global) -> Option<PathBuf> {
    if afar(global).is_some() {
        return None;
    }
    let socket = socket(global).ok()?;
    let error = tokio::net::UnixStream::connect(&socket).await.err()?;
    (error.kind() == io::ErrorKind::PermissionDenied).then_some(socket)
}

fn variable(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Where a person's own files are.
fn home() -> Option<PathBuf> {
    let folder = variable("XDG_CONFIG_HOME").map(PathBuf::from);
    let folder = folder.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".config")));
    Some(folder?.join("holdfast"))
}

/// How long a connection to a node elsewhere may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

async fn elsewhere(global: &Global, address: &str) -> Result<Client, Failure> {
    let file = global
        .identity
        .clone()
        .or_else(|| variable(IDENTITY_VARIABLE).map(PathBuf::from))
        .or_else(|| Some(home()?.join("identity.pem")));
    let refused = format!("{address} was not asked");
    let Some(file) = file else {
        return Err(Failure::new(refused, "there is no identity").fix("name it with --identity"));
    };
    let pass = Pass::read(&file).map_err(|error| {
        Failure::new(&refused, error).fix(
            "name what `holdfast access grant` wrote with --identity, or have access granted anew",
        )
    })?;
    let ended = pass.expires().is_none_or(|at| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.is_ok_and(|now| u64::try_from(at).unwrap_or(0) <= now.as_secs())
    });
    if ended {
        let why = format!("the identity in {} has ended", file.display());
        return Err(Failure::new(refused, why).fix("ask an admin for `holdfast access grant`"));
    }
    let client = pass
        .client()
        .map_err(|error| Failure::new(&refused, error))?;
    // A channel connects when first used, and then tells little about why it could not.
    let unreachable = |why: &dyn std::fmt::Display| {
        Failure::new(format!("no node answers at {address}"), why)
            .exit(Exit::Unreachable)
            .fix("it must be host:port of a node's admin.listen; try another node")
    };
    let connecting = grpc::reach(address, PEOPLE, &client);
    match tokio::time::timeout(CONNECT_TIME_MAX, connecting).await {
        Ok(Ok(())) => {}
        // What TLS does not like is not mended by another node.
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(unreachable(&error).fix(
                "it is no node of the cluster that gave the identity, or the cluster's certificate authority was \
                 replaced since: ask an admin for `holdfast access grant`",
            ));
        }
        Ok(Err(error)) => return Err(unreachable(&error)),
        Err(_) => return Err(unreachable(&"it did not answer in time")),
    }
    Ok(AdminClient::new(grpc::channel(address, PEOPLE, &client)))
}

/// A name for TLS that no certificate has: any node of the cluster will do.
const PEOPLE: &str = "people.holdfast.internal";

/// The node behind `socket`.
pub(crate) async fn at(socket: &Path) -> Result<Client, Failure> {
    // A channel connects when first used, and then tells little about why it could not.
    if let Err(error) = tokio::net::UnixStream::connect(socket).await {
        let failure = Failure::new(format!("no node answers at {}", socket.display()), &error)
            .exit(Exit::Unreachable);
        return Err(match error.kind() {
            io::ErrorKind::NotFound => failure
                .fix("start it: systemctl start holdfast; or name its socket with --socket, or its file with --config"),
            io::ErrorKind::PermissionDenied => {
                failure.fix("run this as root; or as a member of the socket's group: sudo adduser $USER holdfast, and log in again")
            }
            io::ErrorKind::ConnectionRefused => {
                failure.fix("the node has stopped; start it: systemctl start holdfast")
            }
            _ => failure,
        });
    }
    Ok(AdminClient::new(grpc::unix_channel(socket)))
}

/// Waits for the answer to one question; `failed` says in an error what was not done.
pub(crate) async fn answer<T>(
    failed: &str,
    asked: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(ANSWER_TIME_MAX, asked).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Failure::from_status(failed, &status)),
        Err(_) => Err(Failure::new(
            failed,
            format!(
                "no answer within {} s; it may still be done",
                ANSWER_TIME_MAX.as_secs()
            ),
        )
        .exit(Exit::Unreachable)
        .fix("look at `holdfast status` before trying again")),
    }
}

pub(crate) fn request<T>(message: T) -> Request<T> {
    Request::new(message)
}

fn socket(global: &Global) -> Result<PathBuf, Failure> {
    if let Some(socket) = &global.socket {
        return Ok(socket.clone());
    }
    if let Some(file) = &global.config {
        return Ok(read_config(file)?.admin_socket());
    }
    Ok(std::env::var_os(SOCKET_VARIABLE)
        .filter(|path| !path.is_empty())
        .map_or_else(|| PathBuf::from(SOCKET_DEFAULT), PathBuf::from))
}

/// Reads a node's file, or says what is wrong with it.
pub(crate) fn read_config(file: &Path) -> Result<Config, Failure> {
    Config::read(file).map_err(|error| {
        let unread = std::fs::File::open(file).err().map(|error| error.kind());
        let fix = match unread {
            Some(io::ErrorKind::NotFound) => "name the node's file with --config",
            Some(io::ErrorKind::PermissionDenied) => "run this as root, or as the node's user",
            _ => "correct the file, then run `holdfast config check FILE`",
        };
        Failure::new("the configuration cannot be used", error).fix(fix)
    })
}
