//! What the stores promise, tried on a real disk; crashes are real `kill -9`s of this test
//! binary, started again as a child.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use holdfast_ledger::{Kv, KvRead};
use holdfast_mail::{MessageId, Timestamp};

use super::{BodyStore, FlushTimes, Options, Store, StoreError};

fn options() -> Options {
    Options {
        fatal: Arc::new(|why| panic!("the store failed: {why}")),
        flush_times: FlushTimes::default(),
        failures: super::Failures::default(),
    }
}

fn open(dir: &Path) -> Store {
    Store::open(dir, options()).unwrap()
}

fn append(store: &Store, range: std::ops::Range<u64>) {
    let entries = range
        .map(|index| (index, index.to_string().into_bytes()))
        .collect();
    let (tx, rx) = mpsc::channel();
    store
        .append(entries, move |result| tx.send(result).unwrap())
        .unwrap();
    rx.recv().unwrap().unwrap();
}

fn indexes(store: &Store) -> Vec<u64> {
    let rows = store.log_limited(0, u64::MAX, usize::MAX).unwrap();
    for (index, bytes) in &rows {
        assert_eq!(bytes, index.to_string().as_bytes());
    }
    rows.into_iter().map(|(index, _)| index).collect()
}

#[test]
fn log_and_meta_are_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    append(&store, 0..10);
    futures::executor::block_on(store.put_meta_durable(b"vote", b"seven")).unwrap();
    store.truncate_after(Some(7)).unwrap();
    append(&store, 8..12);
    store.purge(2).unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!(indexes(&store), (3..12).collect::<Vec<_>>());
    assert_eq!(store.log_bounds().unwrap(), Some((3, 11)));
    assert_eq!(store.meta(b"vote").unwrap().unwrap(), b"seven");
}

#[test]
fn an_empty_log_has_no_bounds_even_after_a_purge_of_all() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(store.log_bounds().unwrap(), None);
    append(&store, 0..5);
    store.purge(4).unwrap();
    assert_eq!(store.log_bounds().unwrap(), None);
    drop(store);
    assert_eq!(open(dir.path()).log_bounds().unwrap(), None);
}

#[test]
fn a_limited_read_gives_at_least_one_entry() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    append(&store, 0..10);
    assert_eq!(store.log_limited(3, 8, 0).unwrap().len(), 1);
    assert_eq!(store.log_limited(3, 8, 2).unwrap().len(), 2);
    assert_eq!(store.log_limited(3, 8, 1000).unwrap().len(), 5);
}

#[test]
fn callbacks_fire_in_the_order_of_the_writes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let fired = Arc::new(Mutex::new(Vec::new()));
    for index in 0..200 {
        let fired = fired.clone();
        store
            .append(vec![(index, index.to_string())], move |result| {
                result.unwrap();
                fired.lock().unwrap().push(index);
            })
            .unwrap();
    }
    // A vote waits its turn: when it is durable, so is every entry before it.
    futures::executor::block_on(store.put_meta_durable(b"vote", b"x")).unwrap();
    assert_eq!(*fired.lock().unwrap(), (0..200).collect::<Vec<_>>());
}

/// The longest write-ahead log.
fn wal(dir: &Path) -> PathBuf {
    std::fs::read_dir(dir)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "log"))
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap()
}

#[test]
fn a_database_that_lost_its_last_writes_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    append(&store, 0..10);
    futures::executor::block_on(store.put_meta_durable(b"vote", b"seven")).unwrap();
    drop(store);
    // What a careless recovery calls a torn tail; only the vote lay in it.
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(wal(dir.path()))
        .unwrap();
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    let error = Store::open(dir.path(), options()).err().unwrap();
    assert!(
        matches!(
            error,
            StoreError::ShorterThanMark {
                found: 10,
                mark: 11,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_poisoned_directory_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    super::poison(dir.path(), "fsync: input/output error");
    let error = Store::open(dir.path(), options()).err().unwrap();
    assert!(matches!(error, StoreError::Poisoned { .. }), "{error}");
}

#[test]
fn a_second_start_is_told_to_look_and_not_to_empty_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let _running = open(dir.path());
    let error = Store::open(dir.path(), options()).err().unwrap();
    assert!(matches!(error, StoreError::NotOpened { .. }), "{error}");
    assert!(
        !error.to_string().contains("empty its data directory"),
        "{error}"
    );
}

/// Tells how often the process would have ended.
fn told_options() -> (Options, Arc<Mutex<Vec<String>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let options = Options {
        fatal: {
            let told = told.clone();
            Arc::new(move |why| told.lock().unwrap().push(why))
        },
        ..options()
    };
    (options, told)
}

fn full() -> std::io::Error {
    std::io::Error::other("IO error: No space left on device: While appending to file: 000004.log")
}

fn lost() -> std::io::Error {
    std::io::Error::other("IO error: Input/output error: While fsync: 000004.log")
}

fn aftermath() -> std::io::Error {
    std::io::Error::other("IO error: Seen error. Skip writing buffer.")
}

#[test]
fn a_failed_write_poisons_the_directory_but_a_full_disk_does_not() {
    for (error, poisoned) in [(full(), false), (lost(), true)] {
        let (options, told) = told_options();
        let dir = tempfile::tempdir().unwrap();
        options.failed(dir.path(), "a write", &error);
        assert_eq!(super::refuse_poisoned(dir.path()).is_err(), poisoned);
        assert_eq!(told.lock().unwrap().len(), 1, "the process ends either way");
    }
}

/// A storm of faults found a node that was poisoned for ever because its disk had been full.
#[test]
fn what_fails_because_of_an_earlier_failure_is_judged_by_that_one_whoever_tells_first() {
    for (cause, poisoned) in [(full(), false), (lost(), true)] {
        for aftermath_first in [false, true] {
            let (options, told) = told_options();
            let dir = tempfile::tempdir().unwrap();
            if !aftermath_first {
                options.failed(dir.path(), "a flush", &cause);
            }
            std::thread::scope(|scope| {
                scope.spawn(|| options.failed(dir.path(), "a write", &aftermath()));
                if aftermath_first {
                    std::thread::sleep(super::CAUSE_POLL * 4);
                    options.failed(dir.path(), "a flush", &cause);
                }
            });
            assert_eq!(super::refuse_poisoned(dir.path()).is_err(), poisoned);
            assert_eq!(told.lock().unwrap().len(), 2);
        }
    }
    let (options, _) = told_options();
    let dir = tempfile::tempdir().unwrap();
    options.failed(dir.path(), "a write", &aftermath());
    assert!(
        super::refuse_poisoned(dir.path()).is_err(),
        "nobody knows why"
    );
}

#[test]
fn a_batch_sees_its_own_changes_and_a_view_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut batch = store.batch();
    for key in ["a1", "a3", "b1"] {
        batch.put(key.as_bytes(), b"old");
    }
    store.commit(batch, &[(b"applied", b"1".to_vec())]).unwrap();
    let before = store.view();
    let mut batch = store.batch();
    batch.put(b"a2", b"new");
    batch.put(b"a3", b"new");
    batch.delete(b"a1");
    let rows = |kv: &dyn KvRead, from: &[u8], limit| -> Vec<String> {
        let rows = kv.scan(b"a", from, limit).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        rows.iter()
            .map(|(key, value)| format!("{}={}", text(key), text(value)))
            .collect()
    };
    assert_eq!(rows(&batch, b"", 9), ["a2=new", "a3=new"]);
    assert_eq!(rows(&batch, b"", 1), ["a2=new"]);
    assert_eq!(rows(&batch, b"a3", 9), ["a3=new"]);
    assert_eq!(batch.get(b"a1").unwrap(), None);
    store.commit(batch, &[]).unwrap();
    assert_eq!(rows(&before, b"", 9), ["a1=old", "a3=old"]);
    assert_eq!(rows(&store.view(), b"", 9), ["a2=new", "a3=new"]);
}

#[test]
fn a_replaced_state_is_whole_and_an_interrupted_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut batch = store.batch();
    batch.put(b"old", b"1");
    store.commit(batch, &[]).unwrap();
    let all = |store: &Store| -> Vec<(Vec<u8>, Vec<u8>)> {
        store.view().rows().map(Result::unwrap).collect()
    };
    let torn = (0..3000u32)
        .map(|n| Ok((n.to_be_bytes().to_vec(), vec![])))
        .chain([Err(std::io::Error::other("the snapshot is cut short"))]);
    assert!(store.replace_state(torn, &[]).is_err());
    assert_eq!(all(&store), [(b"old".to_vec(), b"1".to_vec())]);
    let rows: Vec<_> = (0..3000u32)
        .map(|n| (n.to_be_bytes().to_vec(), b"new".to_vec()))
        .collect();
    store
        .replace_state(
            rows.clone().into_iter().map(Ok),
            &[(b"applied", b"9".to_vec())],
        )
        .unwrap();
    assert_eq!(all(&store), rows);
    drop(store);
    let store = open(dir.path());
    assert_eq!(all(&store), rows);
    assert_eq!(store.meta(b"applied").unwrap().unwrap(), b"9");
}

fn id(n: u64) -> MessageId {
    MessageId::new(Timestamp(n), n.into())
}

fn content(n: u64, len: usize) -> Vec<u8> {
    (0..len)
        .map(|place| (place as u64 * 31 + n * 7) as u8)
        .collect()
}

fn put_body(store: &BodyStore, n: u64, len: usize, done: impl FnOnce() + Send + 'static) {
    let bytes = content(n, len);
    let mut writer = store.begin(id(n));
    for piece in bytes.chunks(70_000) {
        writer.write(piece).unwrap();
    }
    let digest = writer.digest();
    writer.finish(bytes.len() as u64, digest, move |result| {
        result.unwrap();
        done();
    });
}

fn read_body(store: &BodyStore, n: u64) -> std::io::Result<Vec<u8>> {
    let mut reader = store.reader(id(n))?;
    let mut bytes = Vec::new();
    while let Some(chunk) = reader.next()? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[test]
fn bodies_of_every_size_come_back_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let store = BodyStore::open(dir.path(), options()).unwrap();
    let sizes = [0, 1, 511, 262_143, 262_144, 262_145, 3 << 20];
    for (n, len) in sizes.into_iter().enumerate() {
        let (tx, rx) = mpsc::channel();
        assert!(!store.present(id(n as u64)).unwrap());
        put_body(&store, n as u64, len, move || tx.send(()).unwrap());
        rx.recv().unwrap();
        assert!(store.present(id(n as u64)).unwrap());
    }
    drop(store);
    let store = BodyStore::open(dir.path(), options()).unwrap();
    for (n, len) in sizes.into_iter().enumerate() {
        assert!(store.present(id(n as u64)).unwrap());
        assert_eq!(
            read_body(&store, n as u64).unwrap(),
            content(n as u64, len),
            "{len}"
        );
    }
    assert_eq!(store.ids(Some(id(5)), 3).unwrap(), [id(4), id(3), id(2)]);
    store.delete(&[id(2), id(6)]).unwrap();
    assert!(!store.present(id(6)).unwrap());
    assert_eq!(
        store.ids(None, 99).unwrap(),
        [id(5), id(4), id(3), id(1), id(0)]
    );
}

#[test]
fn deleted_bodies_give_their_room_back_though_nothing_new_comes() {
    fn used(dir: &Path) -> u64 {
        let files = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
        files.map(|file| file.metadata().unwrap().len()).sum()
    }
    const MIB: usize = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let store = BodyStore::open(dir.path(), options()).unwrap();
    for n in 0..80 {
        put_body(&store, n, MIB, || {});
    }
    let ids: Vec<MessageId> = (0..79).map(id).collect();
    store.delete(&ids).unwrap();
    assert!(used(dir.path()) > 60 * MIB as u64);
    store.reclaim().unwrap();
    // What is left shares its file with deleted ones. Files go a moment later.
    let until = Instant::now() + Duration::from_secs(20);
    while used(dir.path()) > 40 * MIB as u64 {
        assert!(Instant::now() < until, "{} are left", used(dir.path()));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(read_body(&store, 79).unwrap(), content(79, MIB));
}

#[test]
fn a_body_without_its_end_is_not_present() {
    let dir = tempfile::tempdir().unwrap();
    let store = BodyStore::open(dir.path(), options()).unwrap();
    let mut writer = store.begin(id(1));
    writer.write(&content(1, 600_000)).unwrap();
    drop(writer);
    assert!(!store.present(id(1)).unwrap());
    assert_eq!(store.ids(None, 9).unwrap(), [id(1)]);
    store.delete(&[id(1)]).unwrap();
    assert_eq!(store.ids(None, 9).unwrap(), []);
}

#[test]
fn a_changed_byte_is_noticed_before_the_last_chunk_is_handed_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = BodyStore::open(dir.path(), options()).unwrap();
    let (tx, rx) = mpsc::channel();
    put_body(&store, 1, 600_000, move || tx.send(()).unwrap());
    rx.recv().unwrap();
    store.spoil(id(1));
    let error = read_body(&store, 1).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
}

#[test]
fn a_body_that_is_not_what_was_written_of_it_gets_no_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = BodyStore::open(dir.path(), options()).unwrap();
    for (len, flip) in [(3, 1), (4, 0), (2, 0)] {
        let mut writer = store.begin(id(1));
        writer.write(b"abc").unwrap();
        let mut digest = writer.digest();
        digest[0] ^= flip;
        let (tx, rx) = mpsc::channel();
        writer.finish(len, digest, move |result| tx.send(result).unwrap());
        assert!(rx.recv().unwrap().is_err(), "{len} {flip}");
        assert!(!store.present(id(1)).unwrap());
    }
}

#[test]
fn listing_bodies_reads_none_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = BodyStore::open(dir.path(), options()).unwrap();
    for n in 0..4 {
        let (tx, rx) = mpsc::channel();
        put_body(&store, n, 600_000, move || tx.send(()).unwrap());
        rx.recv().unwrap();
    }
    store.settle();
    let read = || store.counter("rocksdb.blobdb.blob.file.bytes.read");
    assert_eq!(read_body(&store, 1).unwrap(), content(1, 600_000));
    let before = read();
    assert!(before >= 600_000, "the counter counts");
    assert_eq!(store.ids(None, 9).unwrap(), [id(3), id(2), id(1), id(0)]);
    assert_eq!(read(), before);
}

/// A number of RocksDB's own statistics.
pub(super) fn counter(statistics: Result<Option<String>, rocksdb::Error>, name: &str) -> u64 {
    let statistics = statistics.unwrap().unwrap();
    let line = statistics.lines().find(|line| line.starts_with(name));
    let count = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    count.unwrap_or_else(|| panic!("no counter {name}"))
}

/// The directory as a process that is killed now leaves it.
fn as_if_killed(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    copy
}

#[test]
fn an_entry_is_in_the_files_and_synced_before_its_callback() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let synced = store.counter("rocksdb.wal.synced");
    let (tx, rx) = mpsc::channel();
    let path = dir.path().to_owned();
    store
        .append(vec![(0, "0")], move |result| {
            result.unwrap();
            tx.send(as_if_killed(&path)).unwrap();
        })
        .unwrap();
    let killed = rx.recv().unwrap();
    assert_eq!(indexes(&open(killed.path())), [0]);
    assert!(store.counter("rocksdb.wal.synced") > synced);
}

#[test]
fn a_vote_is_in_the_files_and_synced_when_it_is_called_durable() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let synced = store.counter("rocksdb.wal.synced");
    futures::executor::block_on(store.put_meta_durable(b"vote", b"seven")).unwrap();
    let killed = as_if_killed(dir.path());
    let vote = open(killed.path()).meta(b"vote").unwrap();
    assert_eq!(vote.as_deref(), Some(&b"seven"[..]));
    assert!(store.counter("rocksdb.wal.synced") > synced);
}

#[test]
fn a_body_is_in_the_files_and_synced_when_it_is_called_durable() {
    let dir = tempfile::tempdir().unwrap();
    let store = BodyStore::open(dir.path(), options()).unwrap();
    let synced = store.counter("rocksdb.wal.synced");
    let (tx, rx) = mpsc::channel();
    let path = dir.path().to_owned();
    put_body(&store, 1, 1000, move || {
        tx.send(as_if_killed(&path)).unwrap()
    });
    let killed = rx.recv().unwrap();
    let copy = BodyStore::open(killed.path(), options()).unwrap();
    assert_eq!(read_body(&copy, 1).unwrap(), content(1, 1000));
    assert!(store.counter("rocksdb.wal.synced") > synced);
}

#[test]
fn the_mark_is_written_when_nothing_more_comes() {
    let dir = tempfile::tempdir().unwrap();
    let marked = || {
        let mark = super::mark::Mark::open(&dir.path().join("MARK"), true);
        mark.unwrap().unwrap().reached().write
    };
    let store = open(dir.path());
    append(&store, 0..10);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(marked(), 10, "after a while");
    append(&store, 10..12);
    drop(store);
    assert_eq!(marked(), 12, "at the end");
}

#[test]
fn a_log_whose_mark_is_missing_or_damaged_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    append(&store, 0..3);
    drop(store);
    let mark = dir.path().join("MARK");
    let whole = std::fs::read(&mark).unwrap();
    for damaged in [None, Some(vec![]), Some(vec![0; whole.len()])] {
        match damaged {
            None => std::fs::remove_file(&mark).unwrap(),
            Some(bytes) => std::fs::write(&mark, bytes).unwrap(),
        }
        let error = Store::open(dir.path(), options()).err().unwrap();
        assert!(matches!(error, StoreError::MarkLost { .. }), "{error}");
    }
    // Half a mark, of a directory that never became a database.
    let young = tempfile::tempdir().unwrap();
    std::fs::write(young.path().join("MARK"), b"torn").unwrap();
    append(&open(young.path()), 0..1);
    std::fs::write(&mark, whole).unwrap();
    assert_eq!(indexes(&open(dir.path())), [0, 1, 2]);
}

#[test]
fn one_of_the_marks_two_slots_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    append(&store, 0..3);
    drop(store);
    let path = dir.path().join("MARK");
    let whole = std::fs::read(&path).unwrap();
    for slot in [0, 4096] {
        let mut torn = whole.clone();
        torn[slot] ^= 1;
        std::fs::write(&path, torn).unwrap();
        assert_eq!(indexes(&open(dir.path())), [0, 1, 2]);
    }
}

#[test]
fn a_log_with_a_flipped_bit_is_whole_or_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for index in 0..40 {
        append(&store, index..index + 1);
    }
    drop(store);
    let wal = wal(dir.path());
    let whole = std::fs::read(&wal).unwrap();
    assert!(whole.len() > 1000, "the entries lie in the write-ahead log");
    let mut refused = 0;
    for place in (0..whole.len()).step_by(97) {
        let copy = as_if_killed(dir.path());
        let mut flipped = whole.clone();
        flipped[place] ^= 4;
        std::fs::write(copy.path().join(wal.file_name().unwrap()), flipped).unwrap();
        match Store::open(copy.path(), options()) {
            Ok(store) => assert_eq!(indexes(&store), (0..40).collect::<Vec<_>>()),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 10, "{refused}");
}

#[test]
fn garbage_behind_a_log_that_rocksdb_would_read_for_ever_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    append(&store, 0..3);
    drop(store);
    let current = std::fs::read_to_string(dir.path().join("CURRENT")).unwrap();
    for log in [wal(dir.path()), dir.path().join(current.trim_end())] {
        let whole = std::fs::read(&log).unwrap();
        for kind in [5, 6, 7, 8, 11, 131] {
            let record = [&[0x55, 0x55, 0x55, 0x55, 0x2a, 0x01, kind][..], &[0x55; 57]].concat();
            std::fs::write(&log, [&whole[..], &record].concat()).unwrap();
            let error = Store::open(dir.path(), options()).err().unwrap();
            assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        }
        std::fs::write(&log, whole).unwrap();
    }
    assert_eq!(indexes(&open(dir.path())), [0, 1, 2]);
}

#[test]
fn whatever_was_done_to_a_file_the_log_is_whole_or_the_damage_is_noticed() {
    const TRIALS: u64 = 120;
    let dir = tempfile::tempdir().unwrap();
    for life in 0..3 {
        let store = open(dir.path());
        for index in life * 20..(life + 1) * 20 {
            append(&store, index..index + 1);
        }
        futures::executor::block_on(store.put_meta_durable(b"vote", &[life as u8])).unwrap();
    }
    let all: Vec<u64> = (0..60).collect();
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.is_file() && path.metadata().unwrap().len() > 0)
        // Text for people, and options that are given anew.
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            !name.starts_with("LOG") && !name.starts_with("OPTIONS")
        })
        .collect();
    files.sort();
    let mut random = holdfast_fuzz::Random::new(holdfast_fuzz::seed());
    let (mut refused, mut unharmed) = (0, 0);
    for trial in 0..TRIALS * holdfast_fuzz::times() {
        let file = random.pick(&files).unwrap();
        let name = file.file_name().unwrap().to_owned();
        let whole = std::fs::read(file).unwrap();
        let (mut damaged, at) = (whole.clone(), random.below(whole.len()));
        let how = random.below(5);
        match how {
            0 => damaged[at] ^= 1 << random.below(8),
            1 => damaged.truncate(at),
            2 => damaged[at..].iter_mut().take(64).for_each(|byte| *byte = 0),
            3 => damaged.extend((0..64).map(|_| random.draw() as u8)),
            _ => damaged = (0..whole.len()).map(|_| random.draw() as u8).collect(),
        }
        let copy = as_if_killed(dir.path());
        std::fs::write(copy.path().join(&name), damaged).unwrap();
        match Store::open(copy.path(), options()) {
            Err(_) => refused += 1,
            // Damage within a table is met when the row is read.
            Ok(store) => match store.log_limited(0, u64::MAX, usize::MAX) {
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::InvalidData),
                Ok(rows) => {
                    unharmed += 1;
                    let found: Vec<u64> = rows.into_iter().map(|(index, _)| index).collect();
                    assert_eq!(found, all, "{trial}: {name:?} {how} at {at}");
                    let vote = store.meta(b"vote").unwrap();
                    assert_eq!(vote, Some(vec![2]), "{trial}: {name:?} {how} at {at}");
                }
            },
        }
    }
    assert!(
        refused > 20 && unharmed > 5,
        "{refused} refused, {unharmed} unharmed"
    );
}

/// Set in the child of [`what_was_called_durable_survives_kill_9`].
const CHILD: &str = "HOLDFAST_TEST_KILL_CHILD";

#[test]
fn what_was_called_durable_survives_kill_9() {
    if let Some(dir) = std::env::var_os(CHILD) {
        child(&PathBuf::from(dir));
    }
    let dir = tempfile::tempdir().unwrap();
    for round in 0..5u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "store::tests::what_was_called_durable_survives_kill_9",
                "--exact",
                "--nocapture",
            ])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reports = Arc::new(Mutex::new(Vec::new()));
        let reader = std::thread::spawn({
            let reports = reports.clone();
            move || {
                for line in lines.map_while(Result::ok) {
                    reports.lock().unwrap().push(line);
                }
            }
        });
        // Not before it has reported something, then at an odd moment.
        while !reports
            .lock()
            .unwrap()
            .iter()
            .any(|line| line.contains("durable-entry"))
        {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(13 * (round + 1)));
        child.kill().unwrap();
        child.wait().unwrap();
        reader.join().unwrap();
        let reports = reports.lock().unwrap();
        let last = |kind: &str| -> Option<u64> {
            reports
                .iter()
                .filter_map(|line| line.rsplit_once(kind)?.1.trim().parse().ok())
                .max()
        };
        let store = open(&dir.path().join("ledger"));
        let entry = last("durable-entry ").unwrap();
        assert!(
            store.log_bounds().unwrap().unwrap().1 >= entry,
            "entry {entry} was lost"
        );
        assert_eq!(indexes(&store).first(), Some(&0));
        if let Some(body) = last("durable-body ") {
            let bodies = BodyStore::open(&dir.path().join("bodies"), options()).unwrap();
            for n in 0..=body {
                assert_eq!(
                    read_body(&bodies, n).unwrap(),
                    content(n, 10_000),
                    "body {n} was lost"
                );
            }
        }
    }
}

/// Appends for ever and tells what is durable, until it is killed.
fn child(dir: &Path) -> ! {
    let store = open(&dir.join("ledger"));
    let bodies = BodyStore::open(&dir.join("bodies"), options()).unwrap();
    let mut index = store.log_bounds().unwrap().map_or(0, |(_, last)| last + 1);
    let mut body = bodies
        .ids(None, usize::MAX)
        .unwrap()
        .len()
        .saturating_sub(1) as u64;
    let report = |text: String| {
        let mut out = std::io::stdout().lock();
        // The parent is gone: so are we, soon.
        let _gone = writeln!(out, "{text}").and_then(|()| out.flush());
    };
    loop {
        let entry = index;
        store
            .append(vec![(entry, entry.to_string())], move |result| {
                result.unwrap();
                report(format!("durable-entry {entry}"));
            })
            .unwrap();
        index += 1;
        let n = body;
        put_body(&bodies, n, 10_000, move || {
            report(format!("durable-body {n}"))
        });
        body += 1;
        std::thread::sleep(Duration::from_micros(300));
    }
}
