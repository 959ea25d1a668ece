//! The courier in simulated clusters: all of it is real, and the primary is one of some lines, which takes
//! everything and is in no hurry.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use holdfast_mail::MessageId;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Options;
use crate::net::dns::{Memory, Resolver};
use crate::net::simulated;
use crate::replica::Cluster;
use crate::replica::simulation::{Shared, goes_the_same_way, play};
use crate::world;

fn by_the_courier(cluster: Cluster, history: Shared) {
    let switch = simulated::switch().expect("a simulation");
    switch.set_primary(Arc::new(move |stream| {
        let history = history.clone();
        // A courier that dies in the middle of a message hangs up.
        tokio::spawn(async move { drop(serve(stream, history).await) });
    }));
    // Nobody is asked: the primary is an address.
    let nobody = "127.0.0.1:1".parse().expect("an address");
    let resolver = Arc::new(Resolver::new(&[nobody], Memory::None).expect("a resolver"));
    let stop = CancellationToken::new();
    tokio::spawn(super::run(Options::default(), cluster, resolver, stop));
}

async fn serve(stream: DuplexStream, history: Shared) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut content: Option<Vec<u8>> = None;
    stream.write_all(b"220 primary.example\r\n").await?;
    loop {
        let mut line = Vec::new();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let reply: &[u8] = match &mut content {
            Some(_) if line == b".\r\n" => {
                // Whoever dies now does not know whether it was taken.
                dawdle().await;
                let content = content.take().unwrap_or_default();
                let text = String::from_utf8_lossy(&content);
                let id: MessageId = text
                    .lines()
                    .nth(1)
                    .unwrap_or_default()
                    .parse()
                    .expect("an id");
                took(&history, id, &content);
                dawdle().await;
                b"250 2.0.0 taken\r\n"
            }
            Some(content) => {
                content.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
                continue;
            }
            None if line.starts_with(b"EHLO") => b"250-primary.example\r\n250 PIPELINING\r\n",
            None if line.starts_with(b"DATA") => {
                content = Some(Vec::new());
                b"354 go on\r\n"
            }
            None if line.starts_with(b"QUIT") => {
                return stream.write_all(b"221 2.0.0 bye\r\n").await;
            }
            None => b"250 2.0.0 ok\r\n",
        };
        stream.write_all(reply).await?;
    }
}

fn took(history: &Shared, id: MessageId, content: &[u8]) {
    let mut history = history.lock().unwrap_or_else(PoisonError::into_inner);
    history.took(id, content);
}

async fn dawdle() {
    let [ms] = world::random();
    sleep(Duration::from_millis(u64::from(ms) / 4)).await;
}

#[test]
fn no_seed_loses_mail() {
    play(by_the_courier);
}

#[test]
fn the_same_seed_goes_the_same_way() {
    goes_the_same_way(by_the_courier);
}
