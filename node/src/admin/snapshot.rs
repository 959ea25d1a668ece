//! A copy of everything, on its way to an operator.

use std::io::{self, Write};

use holdfast_proto::admin as wire;
use tokio::sync::mpsc;
use tonic::Status;

use crate::replica::Cluster;

/// Octets of one piece.
const PIECE_BYTES: usize = 256 << 10;

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
