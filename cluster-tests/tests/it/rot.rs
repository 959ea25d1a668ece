//! What lies on a disk changes, and nothing of it is served.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use holdfast_cluster_tests::harness::{DISK_BYTES, DOMAINS, Run, in_its_own_world, wait_for};
use holdfast_cluster_tests::history::Fault;
use holdfast_cluster_tests::random::Random;

use crate::{ALWAYS_TRIED, alone, is_soak, test_time};

const HEAL_TIME_MAX: Duration = Duration::from_secs(60);

/// A kind of file, and what tells it.
type Kind = (&'static str, fn(&Path) -> bool);

/// What lies in a data directory.
const KINDS: [Kind; 11] = [
    ("the ledger's write-ahead log", |path| {
        is(path, "ledger", "log")
    }),
    ("the ledger's tables", |path| is(path, "ledger", "sst")),
    ("the ledger's manifest", |path| {
        named(path, "ledger", "MANIFEST")
    }),
    ("the name of the ledger's manifest", |path| {
        named(path, "ledger", "CURRENT")
    }),
    ("the mark", |path| named(path, "ledger", "MARK")),
    ("the bodies' write-ahead log", |path| {
        is(path, "bodies", "log")
    }),
    ("the bodies' blobs", |path| is(path, "bodies", "blob")),
    ("the bodies' tables", |path| is(path, "bodies", "sst")),
    ("the bodies' manifest", |path| {
        named(path, "bodies", "MANIFEST")
    }),
    ("the name of the bodies' manifest", |path| {
        named(path, "bodies", "CURRENT")
    }),
    ("the identity", |path| named(path, "identity", "")),
];

fn is(path: &Path, folder: &str, extension: &str) -> bool {
    named(path, folder, "") && path.extension().is_some_and(|found| found == extension)
}

fn named(path: &Path, folder: &str, beginning: &str) -> bool {
    let parent = path.parent().and_then(Path::file_name);
    parent.is_some_and(|parent| parent == folder)
        && path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with(beginning))
}

/// A byte that was changed.
struct Rot {
    file: PathBuf,
    at: u64,
    was: u8,
    became: u8,
}

impl Rot {
    /// Changes one bit of one file of the kind; none where there is no such file with content.
    fn set_in(folder: &Path, kind: fn(&Path) -> bool, random: &mut Random) -> Option<Self> {
        let files = filled(folder, kind);
        let file = files.get(random.between(0, files.len().checked_sub(1)? as u64) as usize)?;
        let bytes = fs::read(file).expect("a file to change");
        // Where there is something: tables and logs begin files that are not filled yet.
        let last = bytes.iter().rposition(|byte| *byte != 0)?;
        Some(Self::set_at(file, random.between(0, last as u64), random))
    }

    /// Changes one bit of the byte at that place.
    fn set_at(file: &Path, at: u64, random: &mut Random) -> Self {
        let mut bytes = fs::read(file).expect("a file to change");
        let was = bytes[at as usize];
        let became = was ^ (1 << random.between(0, 7));
        bytes[at as usize] = became;
        fs::write(file, bytes).expect("a file changed");
        Self {
            file: file.to_owned(),
            at,
            was,
            became,
        }
    }

    /// Puts the byte back, if the file is still there; a node may be running on it.
    fn undo(&self) {
        let mut byte = [0];
        let Ok(file) = File::options().read(true).write(true).open(&self.file) else {
            return;
        };
        if file.read_exact_at(&mut byte, self.at).is_ok() && byte == [self.became] {
            file.write_all_at(&[self.was], self.at)
                .expect("a file mended");
        }
    }
}

/// The files of the kind that have content, in order.
fn filled(folder: &Path, kind: fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut files = Vec::new();
    collect(folder, &mut files);
    files.retain(|file| kind(file) && fs::metadata(file).is_ok_and(|found| found.len() > 0));
    files.sort();
    files
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, into);
        } else {
            into.push(path);
        }
    }
}

/// What became of nodes that found a kind of file changed.
#[derive(Default)]
struct Found {
    /// They did not start with it,
    refused: usize,
    /// or did,
    taken: usize,
    /// and of both, so many had to be replaced.
    replaced: usize,
    /// No node had such a file with content.
    absent: usize,
}

impl Found {
    fn is_tried(&self) -> bool {
        self.refused + self.taken > 0
    }
}

/// In the soak every kind comes so often at most for each to have been tried once.
const ROUNDS_MAX: usize = 3;
/// For a node to notice what it read at its start.
const LOOK_TIME: Duration = Duration::from_secs(4);

#[test]
fn a_byte_that_changed_on_disk_is_refused_or_repaired() {
    let _alone = alone();
    in_its_own_world(|| {
        let mut run = Run::on_machines(3, 3 * DISK_BYTES);
        let mut random = Random::new(run.seed);
        run.send(2);
        run.wait_for_acknowledged(100);
        // Deliveries leave room on the disks.
        run.primaries_come_up();
        let mut found: BTreeMap<&str, Found> = BTreeMap::new();
        let begun = Instant::now();
        for round in 0..ROUNDS_MAX * KINDS.len() {
            let (kind, belongs) = KINDS[round % KINDS.len()];
            let is_enough = !is_soak() || found.values().all(Found::is_tried);
            if round >= KINDS.len() && begun.elapsed() > test_time(20) && is_enough {
                break;
            }
            let found = found.entry(kind).or_default();
            // One that has such a file, if any has.
            let mut names = run.sandbox.names();
            names.rotate_left(random.between(0, 2) as usize);
            let data_of = |name: &String| run.sandbox.node(name).data_dir.clone();
            let has_it = |name: &&String| !filled(&data_of(name), belongs).is_empty();
            let victim = names.iter().find(has_it).unwrap_or(&names[0]).clone();
            let data = data_of(&victim);
            run.kill(&victim);
            let Some(rot) = Rot::set_in(&data, belongs, &mut random) else {
                found.absent += 1;
                run.restart(&victim);
                run.sandbox.wait_until_healthy(HEAL_TIME_MAX);
                continue;
            };
            run.began(Fault::BitRot, std::slice::from_ref(&victim));
            run.recorder.note(format!(
                "{kind} of {victim}: bit changed at {} in {}",
                rot.at,
                rot.file.display()
            ));
            run.restart(&victim);
            sleep(LOOK_TIME);
            // The state is read in full.
            drop(run.sandbox.ask(&victim, &["status", "--state-hash"]));
            if run.sandbox.ended(&victim).is_some() {
                found.refused += 1;
                run.recorder
                    .note(format!("{victim} does not start with it"));
            } else {
                found.taken += 1;
            }
            // As if the disk had been put back: rot at two nodes at once is more than three bear.
            run.kill(&victim);
            rot.undo();
            run.restart(&victim);
            sleep(LOOK_TIME);
            if run.sandbox.ended(&victim).is_some() {
                // It had noticed while it ran, and condemned its data directory for ever.
                run.replace(&victim);
                found.replaced += 1;
            }
            run.sandbox.wait_until_healthy(HEAL_TIME_MAX);
            run.ended(Fault::BitRot, &[victim]);
            run.wait_for_acknowledged(5);
        }
        for (kind, found) in &found {
            let Found {
                refused,
                taken,
                replaced,
                absent,
            } = found;
            eprintln!(
                "  bit-rot in {kind}: {refused} times refused, {taken} times started with it, \
                 {replaced} nodes of these replaced, {absent} times there was no such file"
            );
        }
        let untried = found.iter().filter(|(_, found)| !found.is_tried());
        let untried: Vec<&str> = untried.map(|(kind, _)| *kind).collect();
        eprintln!("  bit-rot: kinds that were not tried: {untried:?}");
        assert!(!is_soak() || untried.is_empty(), "not tried: {untried:?}");
        assert!(
            found.values().any(|found| found.refused > 0),
            "nothing was noticed"
        );
        run.stop_sending();
        // All that is held is read from disk, by whoever delivers.
        run.primaries_come_up();
        run.drain();
        run.judge(&[ALWAYS_TRIED, &["replicas disagree"]].concat());
    });
}

/// Of two nodes that acknowledged mail one is away, and the end of the other's log is damaged. With the
/// third, which missed it all, it would be a quorum that knows of nothing.
#[test]
fn a_log_that_lost_its_end_is_not_gone_on_with() {
    let _alone = alone();
    in_its_own_world(|| {
        let mut run = Run::on_machines(3, DISK_BYTES);
        let mut random = Random::new(run.seed);
        run.send(6);
        run.wait_for_acknowledged(20);
        let mut names = run.sandbox.names();
        let behind = names.swap_remove(random.between(0, 2) as usize);
        let damaged = names.swap_remove(random.between(0, 1) as usize);
        let away = names.swap_remove(0);
        let data = run.sandbox.node(&damaged).data_dir.clone();
        run.kill(&behind);
        let (_, missed_from) = end_of_log(&data);
        run.wait_for_acknowledged(60);
        run.kill(&away);
        run.kill(&damaged);
        let (log, end) = end_of_log(&data);
        assert!(end > missed_from, "another log was begun meanwhile");
        run.began(Fault::BitRot, std::slice::from_ref(&damaged));
        let rot = Rot::set_at(&log, missed_from + (end - missed_from) / 4, &mut random);
        let next = run.load.next_attempt();
        run.restart_all(&[damaged.clone(), behind]);
        let is_refused = wait_for("an end, or mail", HEAL_TIME_MAX, || {
            let is_refused = run.sandbox.ended(&damaged).is_some();
            let is_taken = run.recorder.newest_acknowledged() >= next;
            (is_refused || is_taken).then_some(is_refused)
        });
        if is_refused {
            run.kill(&damaged);
            rot.undo();
            run.restart(&damaged);
            run.wait_for_recovery(Fault::BitRot, HEAL_TIME_MAX);
        }
        run.ended(Fault::BitRot, std::slice::from_ref(&damaged));
        run.restart(&away);
        run.wait_for_acknowledged(5);
        run.stop_sending();
        run.primaries_come_up();
        run.drain();
        run.judge(&[ALWAYS_TRIED, &["replicas disagree"]].concat());
        assert!(is_refused, "{damaged} went on with a damaged log");
    });
}

/// The ledger's write-ahead log that is written to, and how long it is.
fn end_of_log(data: &Path) -> (PathBuf, u64) {
    let mut logs = filled(data, |path| is(path, "ledger", "log"));
    let log = logs.pop().expect("a write-ahead log");
    let bytes = fs::metadata(&log).expect("a file's length").len();
    (log, bytes)
}

/// One bit in so many bytes: every body has several, and most records between them.
const SPOILED_EVERY: usize = 512;
/// What a blob file begins with, and what it ends with.
const BLOB_ENDS_BYTES: usize = 64;
const DELIVER_TIME_MAX: Duration = Duration::from_secs(120);
/// Between two requests to deliver at once what had to be fetched first.
const DELIVER_EVERY: Duration = Duration::from_secs(2);

#[test]
fn a_node_whose_bodies_have_all_rotted_delivers_what_was_sent() {
    let _alone = alone();
    in_its_own_world(|| {
        let mut run = Run::on_machines(3, DISK_BYTES);
        let mut random = Random::new(run.seed);
        run.send(4);
        run.wait_for_acknowledged(100);
        run.stop_sending();
        let mut others = run.sandbox.names();
        let victim = others.swap_remove(random.between(0, 2) as usize);
        // A start writes into blob files what lay in the write-ahead log.
        run.kill(&victim);
        run.restart(&victim);
        run.sandbox.wait_until_healthy(HEAL_TIME_MAX);
        run.kill(&victim);
        let spoiled = spoil_blobs(&run.sandbox.node(&victim).data_dir);
        assert!(spoiled > 100, "{spoiled} bits of {victim} are changed");
        run.began(Fault::BitRot, std::slice::from_ref(&victim));
        run.restart(&victim);
        run.sandbox.wait_until_healthy(HEAL_TIME_MAX);

        // Of the others one has no duties, and one is away: nobody else delivers.
        let [drained, away] = [&others[0], &others[1]];
        run.sandbox.must(&victim, &["node", "drain", drained]);
        run.kill(away);
        run.primaries_come_up();
        wait_for("all mail", DELIVER_TIME_MAX, || {
            for domain in DOMAINS {
                drop(
                    run.sandbox
                        .ask(&victim, &["mail", "deliver", "--domain", domain]),
                );
            }
            sleep(DELIVER_EVERY);
            let status = run.sandbox.status_of(&victim)?;
            (status["held_messages"] == 0).then_some(())
        });
        let history = run.recorder.history();
        for delivery in history.deliveries() {
            assert_eq!(delivery.by, victim, "{delivery:?}");
        }
        let log = run.sandbox.log(&victim);
        let fetched = log.matches("a body on this disk cannot be used").count();
        assert!(fetched > 10, "{fetched} bodies were noticed");
        eprintln!("  rot: {spoiled} bits changed, {fetched} bodies noticed and fetched");

        run.restart(away);
        run.sandbox.must(&victim, &["node", "undrain", drained]);
        run.sandbox.wait_until_healthy(HEAL_TIME_MAX);
        run.ended(Fault::BitRot, &[victim]);
        run.drain();
        run.judge(&[ALWAYS_TRIED, &["replicas disagree"]].concat());
    });
}

/// Changes bits all over the blob files of a node; how many.
fn spoil_blobs(data: &Path) -> usize {
    let mut files = Vec::new();
    collect(data, &mut files);
    files.retain(|file| is(file, "bodies", "blob"));
    let mut spoiled = 0;
    for file in files {
        let mut bytes = fs::read(&file).expect("a blob file");
        let end = bytes.len().saturating_sub(BLOB_ENDS_BYTES);
        for at in (BLOB_ENDS_BYTES..end).step_by(SPOILED_EVERY) {
            bytes[at] ^= 1;
            spoiled += 1;
        }
        fs::write(&file, bytes).expect("a blob file spoiled");
    }
    spoiled
}
