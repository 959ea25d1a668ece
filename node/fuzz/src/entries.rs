//! Entries of the log and replies: arbitrary bytes are a value or an error, never a guess.

use holdfast_ledger::{Batch, Command, Replies, Reply};

/// Bytes taken for each thing that lies in a log or goes between nodes.
pub fn entries(data: &[u8]) {
    if let Ok(batch) = Batch::decode(data) {
        assert_eq!(Batch::decode(&batch.encode()), Ok(batch));
    }
    if let Ok(command) = Command::decode(data) {
        assert_eq!(Command::decode(&command.encode()), Ok(command));
    }
    if let Ok(reply) = Reply::decode(data) {
        assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
    }
    if let Ok(replies) = Replies::decode(data) {
        assert_eq!(Replies::decode(&replies.encode()), Ok(replies));
    }
}
