//! `holdfast snapshot …` and `holdfast cluster recover …`: a copy of everything in a file, and a
//! cluster founded anew from what is left of one.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use holdfast_node::replica::Options;
use holdfast_node::replica::copy::{self, Contents};
use holdfast_node::replica::offline::{self, Merged, Restored, Stopped};
use holdfast_proto::admin::Empty;
use serde_json::{Value, json};

use crate::cli::{Global, Recover, Snapshot};
use crate::client;
use crate::failure::{Exit, Failure};
use crate::output::{self, Output};
use crate::stopped::{Data, not_done, with_suffix};

pub(crate) async fn run(
    global: &Global,
    command: Snapshot,
    output: Output,
) -> Result<Exit, Failure> {
    match command {
        Snapshot::Save {
            file,
            stopped: false,
        } => save(global, &file, output).await?,
        Snapshot::Save {
            file,
            stopped: true,
        } => {
            let failed = "no copy was made";
            let data = Data::of(global, failed)?;
            let saved = data.read(failed).and_then(|stopped| {
                let saved = stopped.save(&file);
                saved.map_err(|error| not_done(failed, &error))
            });
            data.hand_back(saved)?;
            told(&file, &checked(&file)?, output)?;
        }
        Snapshot::Inspect { file } => told(&file, &checked(&file)?, output)?,
        Snapshot::Restore {
            file,
            with,
            deliver,
        } => {
            let failed = "nothing was restored";
            let data = Data::of(global, failed)?;
            let restored = offline::restore(&data.options(), &file, &with, deliver).await;
            let restored = data.hand_back(restored.map_err(|error| not_done(failed, &error)))?;
            founded(&restored, deliver, output)?;
        }
    }
    Ok(Exit::Done)
}

/// From a running node.
async fn save(global: &Global, file: &Path, output: Output) -> Result<(), Failure> {
    let failed = "no copy was made";
    let mut client = client::connect(global).await?;
    let not_written = |error| {
        Failure::new(failed, format!("{}: {error}", file.display()))
            .fix("name a file that is not there yet, on a disk with room for all held mail")
    };
    if file.exists() {
        return Err(not_written(std::io::Error::other("it is there already")));
    }
    let part = Part(with_suffix(file, ".part"));
    let mut out = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&part.0)
        .map_err(not_written)?;
    let begun = client.snapshot_save(client::request(Empty {})).await;
    let mut pieces = begun
        .map_err(|status| Failure::from_status(failed, &status))?
        .into_inner();
    while let Some(piece) = pieces
        .message()
        .await
        .map_err(|status| Failure::from_status(failed, &status))?
    {
        out.write_all(&piece.bytes).map_err(not_written)?;
    }
    out.sync_all().map_err(not_written)?;
    // What was cut short on its way has no end.
    let contents = checked(&part.0)?;
    fs::rename(&part.0, file).map_err(not_written)?;
    told(file, &contents, output)
}

/// A copy that is not whole yet: nobody is to take it for one.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        // Once it is whole it has another name.
        let _gone = fs::remove_file(&self.0);
    }
}

pub(crate) async fn recover(
    global: &Global,
    command: Recover,
    output: Output,
) -> Result<Exit, Failure> {
    let failed = match command {
        Recover::Inspect => "the node's data was not looked at",
        Recover::Start { .. } => "nothing was recovered",
    };
    let data = Data::of(global, failed)?;
    match command {
        Recover::Inspect => {
            let looked = data
                .read(failed)
                .and_then(|stopped| inspected(&stopped, failed, output));
            data.hand_back(looked)?;
        }
        Recover::Start {
            with,
            dry_run: true,
            deliver,
        } => {
            let merged = data.read(failed).and_then(|stopped| {
                let merged = stopped.merge(&with, deliver);
                merged.map_err(|error| not_done(failed, &error))
            });
            let merged = data.hand_back(merged)?;
            if output.is_json() {
                let mut value = merged_json(&merged);
                value["dry_run"] = true.into();
                output.json("recover/v1", &value)?;
            } else {
                told_merged(&merged, output)?;
                output.line("Nothing was changed.")?;
            }
            if let Err(refused) = data.can_be_replaced("without --dry-run it would be refused") {
                eprintln!("{refused}");
            }
        }
        Recover::Start {
            with,
            dry_run: false,
            deliver,
        } => {
            let begun = anew(&data, &with, deliver, failed).await;
            let (restored, kept) = data.hand_back(begun)?;
            eprintln!(
                "The old data stays in {}, until all is well.",
                kept.display()
            );
            founded(&restored, deliver, output)?;
        }
    }
    Ok(Exit::Done)
}

fn inspected(stopped: &Stopped, failed: &str, output: Output) -> Result<(), Failure> {
    let held = stopped.held().map_err(|error| not_done(failed, &error))?;
    let head = &stopped.head;
    if output.is_json() {
        let value = json!({
            "cluster_id": hex(&head.cluster_id),
            "node": head.node,
            "node_id": stopped.identity.node_id.0,
            "term": head.term,
            "last_entry": head.index,
            "committed_entry": head.applied,
            "held_messages": held.messages,
            "held_bytes": held.bytes,
        });
        output.json("recover-inspect/v1", &value)?;
        return Ok(());
    }
    output.line(format!(
        "{}: its log goes to entry {} (term {}); {} held, {}.",
        head.node,
        head.index,
        head.term,
        output::count(held.messages, "message"),
        output::bytes(held.bytes)
    ))?;
    eprintln!(
        "Begin at the survivor whose term is highest, and of those at the one with the last entry."
    );
    Ok(())
}

/// Puts a new cluster's data in the place of the old, and gives where the old is now.
async fn anew(
    data: &Data,
    with: &[PathBuf],
    deliver: bool,
    failed: &str,
) -> Result<(Restored, PathBuf), Failure> {
    data.can_be_replaced(failed)?;
    let kept = with_suffix(&data.dir, ".before-recovery");
    let file = with_suffix(&data.dir, ".recovery-copy");
    let fresh = with_suffix(&data.dir, ".recovering");
    for path in [&kept, &file, &fresh] {
        if path.exists() {
            let why = format!("{} is there already; nothing was changed", path.display());
            return Err(Failure::new(failed, why)
                .exit(Exit::Refused)
                .fix("an earlier recovery left it: look at it, and move it away"));
        }
    }
    let stopped = data.read(failed)?;
    stopped
        .save(&file)
        .map_err(|error| not_done(failed, &error))?;
    drop(stopped);
    let options = Options {
        data_dir: fresh.clone(),
        ..data.options()
    };
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&fresh)
        .map_err(|error| {
            let _left = fs::remove_file(&file);
            Failure::new(failed, format!("{}: {error}", fresh.display()))
        })?;
    // It is made again from the node's data, which is as it was.
    let undo = || (fs::remove_file(&file), fs::remove_dir_all(&fresh));
    let restored = offline::restore(&options, &file, with, deliver).await;
    let restored = restored.map_err(|error| {
        let _left = undo();
        not_done(failed, &error)
    })?;
    // Before they are in their places: the node's user must be able to use whatever a crash leaves.
    for dir in [&fresh, &data.dir] {
        let given = data.owner.give(dir);
        given.map_err(|error| data.not_given(dir, &error))?;
    }
    // Complete beside the old one; a crash between the two leaves both, by their names.
    fs::rename(&data.dir, &kept).map_err(|error| {
        let _left = undo();
        Failure::new(failed, format!("{}: {error}", data.dir.display()))
    })?;
    fs::rename(&fresh, &data.dir).map_err(|error| {
        Failure::new("the new data is not in its place", error).fix(format!(
            "mv {} {}; the old data stays in {}",
            fresh.display(),
            data.dir.display(),
            kept.display()
        ))
    })?;
    fs::remove_file(&file).map_err(|error| {
        Failure::new("the copy in between was not removed", error)
            .fix(format!("rm {}", file.display()))
    })?;
    Ok((restored, kept))
}

/// What is in a copy; it is sound.
fn checked(file: &Path) -> Result<Contents, Failure> {
    let read = File::open(file).and_then(|file| copy::inspect(&file));
    read.map_err(|error| {
        let exit = match error.kind() {
            std::io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::Unhealthy,
        };
        Failure::new(format!("{} cannot be used", file.display()), error).exit(exit)
    })
}

fn told(file: &Path, contents: &Contents, output: Output) -> Result<(), Failure> {
    let head = &contents.head;
    if output.is_json() {
        output.json("snapshot/v1", &as_json(file, contents))?;
        return Ok(());
    }
    output.line(format!(
        "{}: cluster {} up to entry {}, written by {} at {}; {} rows, {}, {}. It is whole.",
        file.display(),
        hex(&head.cluster_id),
        head.index,
        output::plain(&head.node),
        output::rfc3339(head.at_ms / 1000 * 1000).unwrap_or_default(),
        contents.rows,
        output::count(contents.bodies.len() as u64, "message body").replace("bodys", "bodies"),
        output::bytes(contents.bytes)
    ))?;
    Ok(())
}

fn as_json(file: &Path, contents: &Contents) -> Value {
    let head = &contents.head;
    json!({
        "file": file,
        "cluster_id": hex(&head.cluster_id),
        "node": head.node,
        "at": output::rfc3339(head.at_ms),
        "entry": head.index,
        "rows": contents.rows,
        "bodies": contents.bodies.len(),
        "bytes": contents.bytes,
    })
}

fn founded(restored: &Restored, deliver: bool, output: Output) -> Result<(), Failure> {
    let merged = &restored.merged;
    if output.is_json() {
        let mut value = merged_json(merged);
        value["cluster_id"] = hex(&restored.cluster_id).into();
        value["node_id"] = restored.node.0.into();
        value["bodies"] = restored.bodies.into();
        output.json("restore/v1", &value)?;
        return Ok(());
    }
    told_merged(merged, output)?;
    output.line(format!(
        "A new cluster, {}, with this node as its only member. Start it: systemctl start holdfast",
        hex(&restored.cluster_id)
    ))?;
    if merged.sorted.set_aside > 0 && !deliver {
        output.line(format!(
            "{} set aside: the old cluster may have delivered such mail. To look: holdfast mail list --aside. \
             To deliver it: holdfast mail release --domain DOMAIN --yes",
            output::count(merged.sorted.set_aside, "message")
        ))?;
    }
    output.line(
        "Nodes, invitations and access of the old cluster count no more: holdfast cluster invite lets others in.",
    )?;
    Ok(())
}

/// What is kept, and what may be missing.
fn told_merged(merged: &Merged, output: Output) -> Result<(), Failure> {
    let head = &merged.head;
    output.line(format!(
        "Kept: all up to entry {} of term {}, as {} knew it; {} held, {}.",
        head.index,
        head.term,
        output::plain(&head.node),
        output::count(merged.held.messages, "message"),
        output::bytes(merged.held.bytes)
    ))?;
    if merged.foreign_bodies > 0 || merged.taken.taken > 0 {
        output.line(format!(
            "Taken from the other copies: the content of {}, of which {} here.",
            output::count(merged.foreign_bodies, "message"),
            match merged.taken.taken {
                1 => "1 was not known".to_owned(),
                more => format!("{more} were not known"),
            }
        ))?;
    }
    if merged.taken.refused > 0 {
        output.line(format!(
            "Not taken: {} of the other copies, so old that they were delivered since.",
            output::count(merged.taken.refused, "message")
        ))?;
    }
    for envelope in &merged.sorted.without_content {
        let to: Vec<String> = envelope
            .recipients
            .iter()
            .map(|recipient| recipient.address.to_string())
            .collect();
        output.line(output::plain(&format!(
            "Missing: the content of {} from {} to {}; it is given up, tell its sender.",
            envelope.id,
            envelope.reverse_path,
            to.join(", ")
        )))?;
    }
    if merged.sorted.notifications > 0 {
        output.line(format!(
            "To be sent once the node is started, though the old cluster may have done so: {} that mail failed or is \
             late.",
            output::count(merged.sorted.notifications, "notification")
        ))?;
    }
    if merged.is_majority && merged.unheard.is_empty() {
        output.line("Missing: nothing that the cluster had agreed on.")?;
    } else if merged.is_majority {
        output.line(format!(
            "Missing: nothing that the cluster had agreed on, for this is of a majority. Is it lost at all? Nodes that \
             are a majority work once they are started. Nothing is there of {}.",
            merged.unheard.join(", ")
        ))?;
    } else if merged.unheard.is_empty() {
        output.line(
            "May be missing: what was agreed on after that entry, for nobody knows whether this is of a majority.",
        )?;
    } else {
        output.line(format!(
            "May be missing: what {} had agreed on among themselves after that entry.",
            merged.unheard.join(", ")
        ))?;
    }
    Ok(())
}

fn merged_json(merged: &Merged) -> Value {
    let missing = merged.sorted.without_content.iter().map(|envelope| {
        let to = envelope.recipients.iter();
        json!({
            "id": envelope.id.to_string(),
            "from": envelope.reverse_path.to_string(),
            "to": to.map(|it| it.address.to_string()).collect::<Vec<_>>(),
        })
    });
    json!({
        "from_node": merged.head.node,
        "from_entry": merged.head.index,
        "from_term": merged.head.term,
        "held_messages": merged.held.messages,
        "held_bytes": merged.held.bytes,
        "foreign_bodies": merged.foreign_bodies,
        "taken": merged.taken.taken,
        "not_taken": merged.taken.refused,
        "set_aside": merged.sorted.set_aside,
        "notifications": merged.sorted.notifications,
        "missing_content": missing.collect::<Vec<_>>(),
        "nodes_unheard": merged.unheard,
        "is_majority": merged.is_majority,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
