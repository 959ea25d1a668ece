//! Log lines as systemd's journal takes them from a service's standard error: each begins with its
//! priority (sd-daemon(3)), so that `journalctl -p warning` finds what is wrong.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Where systemd says which stream it has connected to the journal: a device and an inode.
const VARIABLE: &str = "JOURNAL_STREAM";

/// Whether what is written to `stream` goes to the journal. The variable alone does not say it: whoever
/// is started by a service with its output elsewhere inherits it.
pub(super) fn is_at(stream: &impl AsFd) -> bool {
    let Some(named) = std::env::var_os(VARIABLE) else {
        return false;
    };
    let opened = stream.as_fd().try_clone_to_owned();
    let known = opened.and_then(|it| File::from(it).metadata());
    known.is_ok_and(|known| is_named(&named, known.dev(), known.ino()))
}

fn is_named(named: &OsStr, device: u64, inode: u64) -> bool {
    named == OsStr::new(&format!("{device}:{inode}"))
}

/// Makes writers that put the priority in front, around what makes those for the stream.
pub(super) struct Journal<M>(pub(super) M);

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Journal<M> {
    type Writer = Lines<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Lines {
            priority: priority(Level::INFO),
            out: self.0.make_writer(),
        }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Self::Writer {
        Lines {
            priority: priority(*event.level()),
            out: self.0.make_writer_for(event),
        }
    }
}

/// As syslog counts them.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// Takes one event, in one piece.
pub(super) struct Lines<W> {
    priority: u8,
    out: W,
}

impl<W: Write> Write for Lines<W> {
    /// An event of several lines becomes as many entries, each with its priority.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let mut text = Vec::with_capacity(event.len() + 3);
        for line in event.split_inclusive(|byte| *byte == b'\n') {
            write!(text, "<{}>", self.priority)?;
            text.extend(line);
        }
        self.out.write_all(&text)?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::prelude::*;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn each_line_begins_with_its_priority_and_no_time() {
        let kept = Kept::default();
        let writer = {
            let kept = kept.clone();
            move || kept.clone()
        };
        let out = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .without_time()
            .with_writer(Journal(writer));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(out), || {
            tracing::error!(target: "node", "the disk failed");
            tracing::warn!(target: "node", "it was refused:\nfix: ask again");
            tracing::info!(target: "node", "n1 leads");
            tracing::debug!(target: "node", "a vote");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "<3>ERROR node: the disk failed",
                "<4> WARN node: it was refused:",
                "<4>fix: ask again",
                "<6> INFO node: n1 leads",
                "<7>DEBUG node: a vote",
            ]
        );
    }

    #[test]
    fn a_stream_is_the_journals_only_if_it_is_the_one_that_is_named() {
        assert!(is_named(OsStr::new("8:77"), 8, 77));
        assert!(!is_named(OsStr::new("8:77"), 8, 7));
        assert!(!is_named(OsStr::new(""), 8, 77));
    }
}
