//! A world of its own for one test: namespaces for its network, mounts and processes. Whatever it
//! makes goes with it, also when the test is killed: the kernel takes it down with the last
//! process.

use std::any::type_name_of_val;
use std::ffi::OsStr;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

/// Set inside; names the file that the inner process makes, as a proof that it came so far.
const INSIDE_VARIABLE: &str = "HOLDFAST_TEST_WORLD";

/// Runs a test's `body` in a world of its own: this test's executable once more, for this test
/// alone. Where that is impossible the test is not run, and says so.
///
/// # Panics
/// If the body does.
pub fn in_its_own_world(body: impl FnOnce()) {
    if is_inside() {
        enter();
        body();
        return;
    }
    if let Some(why) = obstacle() {
        eprintln!("NOT RUN: {why}");
        return;
    }
    // The path of the test within its binary, without the crate's name and `::{{closure}}`.
    let closure = type_name_of_val(&body);
    let name = closure
        .split_once("::")
        .and_then(|(_, path)| path.rsplit_once("::"))
        .map_or(closure, |(path, _)| path);
    let arguments = [name, "--exact", "--nocapture", "--test-threads=1"];
    let how = in_a_new_world(&arguments);
    assert!(how.success(), "{name}, in a world of its own: {how}");
}

/// The same for a test that needs no more of it than that no other program takes its ports: where
/// there can be no world of its own, it runs in this one.
///
/// # Panics
/// If the body does.
pub fn apart(body: impl FnOnce()) {
    if is_inside() || obstacle().is_none() {
        in_its_own_world(body);
    } else {
        body();
    }
}

/// Runs this executable with `arguments` in a new world.
///
/// # Panics
/// If it does not start, or did not enter its world: a test that was not found there proves
/// nothing.
pub fn in_a_new_world<S: AsRef<OsStr>>(arguments: &[S]) -> ExitStatus {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let proof = folder.path().join("entered");
    // If this process is killed, so is the world.
    let how = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare"])
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child"])
        .args(["--mount-proc", "--"])
        .arg(std::env::current_exe().expect("this executable's path"))
        .args(arguments)
        .env(INSIDE_VARIABLE, &proof)
        .stdin(Stdio::null())
        .status()
        .expect("unshare starts");
    assert!(
        proof.exists(),
        "the inner process did not enter its world: {how}"
    );
    how
}

/// Whether this process has a world of its own.
#[must_use]
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE_VARIABLE).is_some()
}

/// Makes the new world usable. To be called once, inside.
///
/// # Panics
/// If it cannot.
pub fn enter() {
    let proof = std::env::var_os(INSIDE_VARIABLE).expect("inside a world");
    std::fs::write(proof, []).expect("the proof of having entered");
    must("ip", &["link", "set", "lo", "up"]);
    std::fs::create_dir_all("/run/netns").expect("a folder for namespaces");
    // Over the machine's own, which others may use.
    must("mount", &["-t", "tmpfs", "none", "/run/netns"]);
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwarding");
}

/// Gives this world's machine one more address, as a stranger's server on the Internet has: nobody
/// else has it in here.
///
/// # Panics
/// If it cannot.
pub fn have_address(address: IpAddr) {
    must("ip", &["addr", "add", &address.to_string(), "dev", "lo"]);
}

/// Why no world can be made here, if so.
#[must_use]
pub fn obstacle() -> Option<String> {
    if !runs("unshare", &["--net", "--mount", "--pid", "--fork", "true"]) {
        return Some("namespaces cannot be made here; it needs root".into());
    }
    for (program, arguments) in [
        ("ip", &["-V"][..]),
        ("iptables", &["--version"]),
        ("mkfs.ext4", &["-V"]),
        ("losetup", &["--version"]),
        ("perl", &["-v"]),
        ("cc", &["--version"]),
    ] {
        if !runs(program, arguments) {
            return Some(format!("{program} is not installed"));
        }
    }
    (!Path::new("/dev/loop-control").exists()).then(|| "there are no loop devices".into())
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|how| how.success())
}

/// Runs a command of the system that must succeed.
///
/// # Panics
/// If it does not.
pub(crate) fn must<S: AsRef<OsStr>>(program: &str, arguments: &[S]) {
    if let Err(why) = attempt(program, arguments) {
        panic!("{why}");
    }
}

/// Runs a command of the system; what it said if it fails.
pub(crate) fn attempt<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Result<(), String> {
    let ran = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if ran.status.success() {
        return Ok(());
    }
    let arguments: Vec<_> = arguments.iter().map(AsRef::as_ref).collect();
    let said = String::from_utf8_lossy(&ran.stderr);
    Err(format!("{program} {arguments:?}: {said}"))
}
