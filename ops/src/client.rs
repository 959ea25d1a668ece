//! Finding and asking a node over its admin socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_node::config::Config;
use holdfast_proto::admin::admin_client::AdminClient;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::cli::Global;
use crate::failure::{Exit, Failure};

pub(crate) type Client = AdminClient<Channel>;

const SOCKET_DEFAULT: &str = "/run/holdfast/admin.sock";
const SOCKET_VARIABLE: &str = "HOLDFAST_SOCKET";

/// How long a single question may take. An answer can need a new leader to be elected first,
/// which takes seconds on a global cluster.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// The node that the command line means.
pub(crate) async fn connect(global: &Global) -> Result<Client, Failure> {
    at(&socket(global)?).await
}

/// The node behind `socket`.
pub(crate) async fn at(socket: &Path) -> Result<Client, Failure> {
    // A channel connects when first used, and then tells little about why it could not.
    if let Err(error) = tokio::net::UnixStream::connect(socket).await {
        let failure = Failure::new(format!("no node answers at {}", socket.display()), &error)
            .exit(Exit::Unreachable);
        return Err(match error.kind() {
            io::ErrorKind::NotFound => failure
                .fix("start it with `holdfast serve --config FILE`, or name its socket with --socket or its file with --config"),
            io::ErrorKind::PermissionDenied => {
                failure.fix("become a member of the socket's group, or run this as the node's user")
            }
            io::ErrorKind::ConnectionRefused => {
                failure.fix("the node has stopped; start it with `holdfast serve --config FILE`")
            }
            _ => failure,
        });
    }
    Ok(AdminClient::new(holdfast_node::net::grpc::unix_channel(
        socket,
    )))
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
        Failure::new("the configuration cannot be used", error)
            .fix("correct the file, then run `holdfast config check FILE`")
    })
}
