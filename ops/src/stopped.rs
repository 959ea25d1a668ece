//! The data of a node that is stopped: who may work on it, whose it stays, and what to do where nothing
//! can be done with it.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use holdfast_node::config::Config;
use holdfast_node::replica::offline::{self, OfflineError, Stopped};
use holdfast_node::replica::{Options, StartError};
use holdfast_node::run::offline_options;
use holdfast_node::store::StoreError;
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

use crate::cli::Global;
use crate::client;
use crate::failure::{Exit, Failure};
use crate::owner::Owner;

const STOP: &str = "stop it first: systemctl stop 'holdfast*.socket' holdfast.service";

const AS_ROOT: &str =
    "run it as root: what it makes in the data directory is given to the node's user";

/// A data directory, found to be one that this command may work on.
pub(crate) struct Data {
    /// Where it is in truth, whatever links lead to it.
    pub(crate) dir: PathBuf,
    pub(crate) owner: Owner,
    config: Config,
    file: PathBuf,
}

impl Data {
    /// Of the node whose file is named with `--config`; refused while it runs, and to whoever would
    /// leave files that the node could not use.
    pub(crate) fn of(global: &Global, failed: &str) -> Result<Self, Failure> {
        let file = global.needed_config(
            "this works on the data of a stopped node: name its file with --config FILE",
        );
        let mut config = client::read_config(file)?;
        let socket = config.admin_socket();
        if UnixStream::connect(&socket).is_ok() {
            let why = format!("the node runs: it answers at {}", socket.display());
            return Err(Failure::new(failed, why).exit(Exit::Refused).fix(STOP));
        }
        let unseen = |error: io::Error| {
            let why = format!("{}: {error}", config.data_dir.display());
            Failure::new(failed, why).fix(AS_ROOT)
        };
        let (dir, is_there) = match config.data_dir.canonicalize() {
            Ok(dir) => (dir, true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let dir = std::path::absolute(&config.data_dir).map_err(unseen)?;
                (dir, false)
            }
            Err(error) => return Err(unseen(error)),
        };
        let owner = Owner::of(&dir).map_err(unseen)?;
        if is_there && !owner.can_be_served() {
            let why = format!("{} belongs to another user", dir.display());
            return Err(Failure::new(failed, why).fix(AS_ROOT));
        }
        config.data_dir.clone_from(&dir);
        Ok(Self {
            dir,
            owner,
            config,
            file: file.to_owned(),
        })
    }

    pub(crate) fn options(&self) -> Options {
        offline_options(&self.config)
    }

    pub(crate) fn read(&self, failed: &str) -> Result<Stopped, Failure> {
        offline::read(&self.options()).map_err(|error| not_done(failed, &error))
    }

    /// Whatever came of the work, the files that it left belong to the node's user. A database makes
    /// some even when it is only read.
    pub(crate) fn hand_back<T>(&self, done: Result<T, Failure>) -> Result<T, Failure> {
        let given = self.owner.give(&self.dir);
        let done = done?;
        given.map_err(|error| self.not_given(&self.dir, &error))?;
        Ok(done)
    }

    pub(crate) fn not_given(&self, dir: &Path, error: &io::Error) -> Failure {
        let what = format!("some of {} still belongs to root", dir.display());
        Failure::new(what, error).fix(format!("chown -R {} {}", self.owner, dir.display()))
    }

    /// Refuses a directory that nothing can be put in the place of, and says how else.
    pub(crate) fn can_be_replaced(&self, failed: &str) -> Result<(), Failure> {
        // A kernel that does not tell refuses the renaming itself.
        let found = statx(CWD, &self.dir, AtFlags::empty(), StatxFlags::empty());
        if !found.is_ok_and(|it| it.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)) {
            return Ok(());
        }
        let copy = with_suffix(&self.dir, ".own-copy");
        let all = ["ledger", "bodies", "identity", "snapshots"].map(|name| self.dir.join(name));
        // A node that was never started has no snapshots.
        let there = all.iter().filter(|path| path.exists());
        let old: Vec<String> = there.map(|path| path.display().to_string()).collect();
        let old = old.join(" ");
        let (dir, file, copy) = (self.dir.display(), self.file.display(), copy.display());
        let why = format!(
            "{dir} is a file system of its own, so no other directory can take its place; nothing was changed"
        );
        Err(Failure::new(failed, why).exit(Exit::Refused).fix(format!(
            "the same in four steps, the last with --with and --deliver as here:\n    \
             holdfast snapshot save --stopped {copy} --config {file}\n    \
             mkdir {dir}/before-recovery\n    \
             mv {old} {dir}/before-recovery/\n    \
             holdfast snapshot restore {copy} --config {file}"
        )))
    }
}

/// What was not done, with the advice that fits its cause.
pub(crate) fn not_done(failed: &str, error: &OfflineError) -> Failure {
    let (exit, fix) = match error {
        OfflineError::Nobody(_) => (
            Exit::NotFound,
            Some("name the file of a node that was a member with --config"),
        ),
        // They say themselves what to do.
        OfflineError::NotEmpty(_) | OfflineError::Further { .. } => (Exit::Refused, None),
        OfflineError::Stranger(_) => (
            Exit::Refused,
            Some("leave that copy out; `holdfast snapshot inspect` tells a copy's cluster"),
        ),
        OfflineError::Start(StartError::Store(StoreError::NotOpened { .. })) => (
            Exit::Failed,
            Some(
                "if the node still stops, wait until it has: systemctl status holdfast; if its disk is full, make room",
            ),
        ),
        OfflineError::Start(StartError::Store(StoreError::Io { error, .. }))
        | OfflineError::Start(StartError::Io(error))
        | OfflineError::Io(error) => (Exit::Failed, of_io(error.kind())),
        OfflineError::Start(_) | OfflineError::Rows(_) | OfflineError::Entry(_) => (
            Exit::Failed,
            Some("leave it as it is: begin at another survivor, and keep this one's disk"),
        ),
    };
    let failure = Failure::new(failed, error).exit(exit);
    match fix {
        Some(fix) => failure.fix(fix),
        None => failure,
    }
}

pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn of_io(kind: io::ErrorKind) -> Option<&'static str> {
    match kind {
        io::ErrorKind::PermissionDenied => Some(AS_ROOT),
        io::ErrorKind::NotFound => Some("name a file that is there"),
        io::ErrorKind::AlreadyExists => Some("name a file that is not there yet"),
        io::ErrorKind::StorageFull => {
            Some("make room, or name a file on another disk: all held mail goes into it")
        }
        // They say themselves what to do.
        _ => None,
    }
}
