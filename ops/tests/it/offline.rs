//! What is done with the data of a node that is stopped: by root, for a node that runs as somebody else.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::alone::{Alone, holdfast, says, text};

/// Nobody has it.
const NODE_USER: u32 = 47_110;

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("NOT RUN: only root can work for another user");
    }
    is_root
}

/// All at and below a path, that and who owns it.
fn all(path: &Path) -> Vec<(String, u32)> {
    let found = path.symlink_metadata().expect("it is there");
    let mut all = vec![(path.display().to_string(), found.uid())];
    if found.is_dir() {
        for entry in fs::read_dir(path).expect("a folder") {
            all.extend(self::all(&entry.expect("it").path()));
        }
    }
    all
}

fn is_the_nodes(path: &Path) {
    let others: Vec<_> = all(path)
        .into_iter()
        .filter(|(_, uid)| *uid != NODE_USER)
        .collect();
    assert!(others.is_empty(), "{others:?}");
}

fn as_user(user: u32) -> Command {
    let mut command = Command::new("setpriv");
    command
        .arg(format!("--reuid={user}"))
        .arg(format!("--regid={user}"))
        .arg("--clear-groups");
    command
}

/// The binary where everybody may run it: the build's folder may be in somebody's home.
fn everybodys_binary(node: &Alone) -> PathBuf {
    let binary = node.folder().join("holdfast");
    if !binary.exists() {
        fs::copy(env!("CARGO_BIN_EXE_holdfast"), &binary).expect("a copy");
    }
    binary
}

fn run_as(node: &Alone, user: u32, arguments: &[&str]) -> Output {
    as_user(user)
        .arg(everybodys_binary(node))
        .args(arguments)
        .output()
        .expect("setpriv runs")
}

#[test]
fn what_root_does_with_a_stopped_nodes_data_stays_the_nodes_own() {
    if !is_root() {
        return;
    }
    let mut node = Alone::start("offline");
    says(
        &node.run(&["cluster", "recover", "inspect"]),
        5,
        "systemctl stop 'holdfast*.socket'",
    );
    node.kill();
    let folder = node.file.parent().expect("a folder").to_owned();
    let data = folder.join("n1");
    for (path, _) in all(&data) {
        chown(path, Some(NODE_USER), Some(NODE_USER)).expect("given");
    }
    let file = node.file.to_str().expect("a path").to_owned();
    let copy = folder.join("copy");
    let copy = copy.to_str().expect("a path");

    let inspect = ["cluster", "recover", "inspect", "--config", &file];
    let ran = run_as(&node, NODE_USER + 1, &inspect);
    says(&ran, 1, "belongs to another user");
    says(&ran, 1, "fix: run it as root");
    says(
        &node.run(&["cluster", "recover", "inspect"]),
        0,
        "n1: its log goes to entry",
    );
    is_the_nodes(&data);
    let would = node.run(&["cluster", "recover", "start", "--dry-run"]);
    says(&would, 0, "Nothing was changed.");
    is_the_nodes(&data);
    says(
        &node.run(&["snapshot", "save", "--stopped", copy]),
        0,
        "It is whole.",
    );
    is_the_nodes(&data);
    let again = node.run(&["snapshot", "save", "--stopped", copy]);
    says(&again, 1, "fix: name a file that is not there yet");

    // The folder around the data is root's, as /var/lib is.
    let ran = run_as(
        &node,
        NODE_USER,
        &["cluster", "recover", "start", "--config", &file],
    );
    says(&ran, 1, "fix: run it as root");
    says(
        &node.run(&["cluster", "recover", "start"]),
        0,
        "A new cluster, ",
    );
    is_the_nodes(&data);
    is_the_nodes(&folder.join("n1.before-recovery"));

    // Emptied, and founded once more from the copy.
    fs::remove_dir_all(&data).expect("it goes");
    fs::create_dir(&data).expect("a folder");
    chown(&data, Some(NODE_USER), Some(NODE_USER)).expect("given");
    says(
        &node.run(&["snapshot", "restore", copy]),
        0,
        "A new cluster, ",
    );
    is_the_nodes(&data);
    starts_as_its_user(&mut node);
}

/// A node that stays until it is killed, and can use all its files.
fn starts_as_its_user(node: &mut Alone) {
    // Root's, from before, in a folder where everybody removes only his own.
    let config = fs::read_to_string(&node.file).expect("a file");
    let socket = config
        .split("socket = \"")
        .nth(1)
        .and_then(|it| it.split('"').next());
    fs::remove_file(socket.expect("a socket")).expect("it goes");
    let smtp = node.socket.try_clone().expect("the same");
    node.node = as_user(NODE_USER)
        .args([
            "sh",
            "-c",
            "exec \"$0\" serve --config \"$1\" 3<&0 </dev/null",
        ])
        .args([&everybodys_binary(node), &node.file])
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", "smtp")
        .stdin(std::os::fd::OwnedFd::from(smtp))
        .stderr(fs::File::create(node.file.with_file_name("log")).expect("a log"))
        .spawn()
        .expect("the node starts");
    let is_well = (0..600).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        node.run(&["status"]).status.success()
    });
    assert!(is_well, "{}", text(&node.run(&["status"]).stderr));
}

#[test]
fn a_data_directory_that_is_a_file_system_of_its_own_is_recovered_as_the_refusal_says() {
    if !is_root() {
        return;
    }
    let mut node = Alone::start("mounted");
    node.kill();
    let folder = node.file.parent().expect("a folder").to_owned();
    let file = node.file.to_str().expect("a path");
    let binary = Path::new(env!("CARGO_BIN_EXE_holdfast"));
    let path = format!(
        "{}:{}",
        binary.parent().expect("a folder").display(),
        std::env::var("PATH").unwrap_or_default()
    );
    // The mount is this shell's own, and gone with it.
    let mounted = |script: &str| {
        Command::new("unshare")
            .args(["--mount", "sh", "-c"])
            .arg(format!("mount --bind n1 n1 || exit 77\n{script}"))
            .current_dir(&folder)
            .env("PATH", &path)
            .output()
            .expect("unshare runs")
    };
    // Left where it is, it would take the place of what is recovered.
    let snapshot = "snapshots/current";
    fs::write(folder.join("n1").join(snapshot), "of the old cluster").expect("written");
    let ran = mounted(&format!(
        "exec holdfast cluster recover start --config {file}"
    ));
    if !matches!(ran.status.code(), Some(0..=6)) {
        eprintln!("NOT RUN: this machine mounts nothing");
        return;
    }
    says(&ran, 5, "is a file system of its own");
    assert!(!folder.join("n1.recovering").exists());
    let advice = text(&ran.stderr);
    let steps: Vec<&str> = advice
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .collect();
    assert_eq!(steps.len(), 4, "{advice}");
    let ran = mounted(&format!("set -e\n{}", steps.join("\n")));
    says(&ran, 0, "A new cluster, ");
    let kept = folder.join("n1/before-recovery");
    assert!(kept.join("ledger").is_dir() && kept.join(snapshot).exists());
    assert!(!folder.join("n1/snapshots").exists());
    // Without the mount, the same is done at once; a link to the data is as good as the data.
    fs::rename(folder.join("n1"), folder.join("elsewhere")).expect("moved");
    std::os::unix::fs::symlink("elsewhere", folder.join("n1")).expect("a link");
    says(
        &holdfast(&["cluster", "recover", "start", "--config", file]),
        0,
        "elsewhere.before-recovery",
    );
    assert!(folder.join("n1").is_symlink());
    assert!(folder.join("elsewhere/identity").is_dir());
}
