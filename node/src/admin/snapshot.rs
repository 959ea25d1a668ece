//! A copy of everything, on its way to an operator.

use std::io::{self, Write};

use holdfast_proto::admin as wire;
use tokio::sync::mpsc;
use tonic::Status;

use crate::replica::Cluster;

/// Octets of one piece.
const PIECE_BYTES: usize = 256 << 10;

/// A node that is cut off, or has yet to catch up, does not have what the others took meanwhile: a copy
/// of it would pass for one of everything.
pub(super) fn is_sound_here(cluster: &Cluster) -> Result<(), Status> {
    if cluster.has_quorum() && cluster.is_current() {
        return Ok(());
    }
    Err(Status::failed_precondition(
        "this node hears no leader or has yet to catch up, so its copy might lack mail that was accepted\n\
         fix: ask another node (--node); or stop this one and take what it has: holdfast snapshot save --stopped",
    ))
}

pub(super) fn save(cluster: Cluster) -> mpsc::Receiver<Result<wire::Piece, Status>> {
    let (pieces, out) = mpsc::channel(8);
    tokio::spawn(async move {
        let pipe = Pipe {
            pieces: pieces.clone(),
            bytes: Vec::with_capacity(PIECE_BYTES),
        };
        let written = crate::world::blocking(move || cluster.copy(pipe)).await;
        if let Err(error) = written.and_then(|written| written) {
            // Whoever asked has gone, or is told; a copy without its end is refused.
            let _gone = pieces.send(Err(Status::internal(error.to_string()))).await;
        }
    });
    out
}

struct Pipe {
    pieces: mpsc::Sender<Result<wire::Piece, Status>>,
    bytes: Vec<u8>,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.bytes).into();
        let sent = self.pieces.blocking_send(Ok(wire::Piece { bytes }));
        sent.map_err(|_| io::Error::other("nobody reads it any more"))
    }
}
