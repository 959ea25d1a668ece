//! Content: after DATA up to the lone dot, after BDAT by length.

use super::{AfterData, Question, Session, State};
use crate::body::{Content, Progress};
use crate::limits::{DROPPED_BYTES_MAX, PIECE_BYTES};
use crate::reply::Reply;

impl Session {
    /// The shell takes content.
    pub(super) fn begin_content(&mut self) {
        self.transaction.content = true;
        match self.pending_chunk.take() {
            Some((left, last)) => self.state = State::Chunk { left, last },
            None => {
                self.flush = true;
                self.say(Reply::plain(354, "End data with <CR><LF>.<CR><LF>"));
                self.state = State::Data(Content::new());
            }
        }
    }

    /// The shell takes no content. The transaction is over, and the client told so.
    pub(super) fn refuse_content(&mut self, refusal: Reply) {
        self.abandon();
        match self.pending_chunk.take() {
            Some((left, _)) => self.state = State::DropChunk { left, refusal },
            None => {
                self.flush = true;
                // The shell's reason is no fault of the client's, so no error is counted.
                self.after_data = AfterData::Suspicious;
                self.say(refusal);
            }
        }
    }

    /// Reads content up to the lone dot; `false` when more input is needed.
    pub(super) fn data(&mut self) -> bool {
        let State::Data(content) = &mut self.state else {
            return true;
        };
        let rest = self.input.rest();
        if rest.is_empty() {
            return false;
        }
        let before = self.piece.len();
        let now = &rest[..rest.len().min(PIECE_BYTES - before)];
        let progress = content.read(now, &mut self.piece);
        let used = match progress {
            Progress::More => now.len(),
            Progress::End(used) => used,
            Progress::Broken => {
                self.broken_content();
                return true;
            }
        };
        let grown = self.piece.len() - before;
        self.input.consume(used);
        self.content_came(used);
        if !self.count(grown) {
            return true;
        }
        if progress != Progress::More {
            self.complete();
        }
        true
    }

    /// Reads a chunk; `false` when more input is needed.
    pub(super) fn chunk(&mut self, left: u64, last: bool) -> bool {
        let rest = self.input.rest();
        let now = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(rest.len())
            .min(PIECE_BYTES - self.piece.len());
        if now == 0 && left > 0 {
            return false;
        }
        if !self.transaction.octets.check(&rest[..now]) {
            self.broken_content();
            return true;
        }
        self.piece.extend_from_slice(&rest[..now]);
        self.input.consume(now);
        self.content_came(now);
        if !self.count(now) {
            return true;
        }
        let left = left - now as u64;
        self.state = State::Chunk { left, last };
        if left > 0 {
            return true;
        }
        if !last {
            self.state = State::Command;
            let text = format!("{} octets received", self.transaction.bytes);
            self.say(Reply::new(250, 0, 0, text));
        } else if self.transaction.octets.whole() {
            self.complete();
        } else {
            self.broken_content();
        }
        true
    }

    /// Drops a refused chunk; `false` when more input is needed.
    pub(super) fn drop_chunk(&mut self) -> bool {
        let State::DropChunk { left, refusal } = &mut self.state else {
            return true;
        };
        let here = self.input.rest().len();
        let now = usize::try_from(*left).unwrap_or(usize::MAX).min(here);
        *left -= now as u64;
        let refusal = (*left == 0).then(|| refusal.clone());
        self.input.consume(now);
        self.content_came(now);
        let Some(refusal) = refusal else {
            return false;
        };
        self.state = State::Command;
        self.error(refusal);
        true
    }

    /// Counts content. From the size limit on it is dropped, so that the client gets to its end
    /// and reads the refusal; `false` when even that has gone on for too long.
    fn count(&mut self, bytes: usize) -> bool {
        let max = self.options.message_bytes_max;
        self.transaction.bytes += bytes as u64;
        if self.transaction.bytes <= max {
            return true;
        }
        self.transaction.too_large = true;
        self.piece = Vec::new();
        if self.transaction.bytes - max > DROPPED_BYTES_MAX {
            self.say(too_large().and_close());
            return false;
        }
        true
    }

    fn complete(&mut self) {
        if self.transaction.too_large {
            self.abandon();
            self.state = State::Command;
            self.flush = true;
            self.error(too_large());
        } else {
            self.ask(Question::Message);
        }
    }

    /// RFC 5321 section 4.1.1.4: a bare LF must not be taken for an end of line "even in the name
    /// of improved robustness". Repairing it would change the message, so it is refused; and
    /// since the client's idea of where content ends may differ from ours, nothing behind it is
    /// read.
    fn broken_content(&mut self) {
        let text = "lines must end with CR LF; a bare CR, bare LF or NUL is not accepted";
        self.say(Reply::new(550, 5, 2, text).and_close());
    }
}

pub(super) fn too_large() -> Reply {
    Reply::new(552, 3, 4, "the message is larger than SIZE allows")
}
