//! A three-node Holdfast cluster and one Postfix on the same machine, in alternating rounds: the
//! load is Postfix's own `smtp-source`, the primary its `smtp-sink`. Ratios are what counts;
//! absolute figures belong to the machine and the hour.

mod child;
mod holdfast;
mod latency;
mod load;
mod postfix;
mod report;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};

use latency::Delay;
use report::{Better, Report};

/// The domain that both hold mail for.
pub(crate) const DOMAIN: &str = "example.test";
/// Bytes of a message's content, headers aside.
pub(crate) const MESSAGE_BYTES: usize = 10 << 10;
/// Sessions of the load at a time.
pub(crate) const SESSIONS: usize = 64;
/// Messages of one session of the load: Holdfast, like others, asks a sender with more to connect
/// again, which `smtp-source` does not.
const SESSION_MESSAGES_MAX: usize = 500;
/// Messages a second where both are to have the same work: less than half of what Postfix takes
/// on two cores, so that neither queues.
const PACE: u32 = 200;

/// Puts Holdfast and Postfix side by side and prints ratios.
#[derive(Parser)]
struct Options {
    /// What to measure; everything but `held-200000` when left out.
    #[arg(value_enum)]
    steps: Vec<Step>,
    /// Rounds; the median of each figure is printed.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Messages in a round of `flow` and of `latency`.
    #[arg(long, default_value_t = 6_000)]
    messages: usize,
    /// The holdfast binary.
    #[arg(long)]
    holdfast: PathBuf,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// Accept rate, one message per connection and with re-use; drain rate.
    Flow,
    /// From end of data, and from MAIL, to 250.
    Latency,
    /// Memory and start-up time with 20,000 messages held.
    #[value(name = "held-20000")]
    Held20k,
    /// The same with 200,000.
    #[value(name = "held-200000")]
    Held200k,
}

/// One of the two, running, with its primary down.
pub(crate) trait Server {
    /// Where it takes mail.
    fn addresses(&self) -> Vec<SocketAddr>;
    /// Where it expects the primary.
    fn primary(&self) -> SocketAddr;
    /// The primary is up: deliver what is held.
    fn release(&mut self) -> io::Result<()>;
    /// The primary is down: hold from now on.
    fn hold(&mut self) -> io::Result<()>;
    /// Resident memory of one node, MB: the largest of several.
    fn memory_mb(&self) -> io::Result<f64>;
    /// Stops one node in order and starts it again; until it greets an SMTP client.
    fn restart(&mut self) -> io::Result<Duration>;
}

fn main() -> std::process::ExitCode {
    let options = Options::parse();
    match measure(&options) {
        Ok(report) => {
            println!(
                "{}",
                if options.json {
                    report.json()
                } else {
                    report.table()
                }
            );
            std::process::ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench: {error}; everything that was started is stopped");
            std::process::ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> io::Result<Report> {
    let steps = if options.steps.is_empty() {
        vec![Step::Flow, Step::Latency, Step::Held20k]
    } else {
        options.steps.clone()
    };
    let mut report = Report::default();
    let scratch = tempfile::tempdir()?;
    for step in steps {
        match step {
            Step::Flow | Step::Latency => {
                let mut ours = holdfast::Sandbox::start(&options.holdfast, scratch.path())?;
                let mut theirs = postfix::Instance::start(scratch.path())?;
                for round in 1..=options.rounds {
                    eprintln!("round {round} of {}", options.rounds);
                    for (name, server) in both(&mut ours, &mut theirs) {
                        if step == Step::Flow {
                            flow(name, server, options.messages, &mut report)?;
                        } else {
                            delay(name, server, options.messages, &mut report)?;
                        }
                    }
                }
            }
            Step::Held20k => held(options, 20_000, scratch.path(), &mut report)?,
            Step::Held200k => held(options, 200_000, scratch.path(), &mut report)?,
        }
    }
    Ok(report)
}

fn both<'a>(
    ours: &'a mut holdfast::Sandbox,
    theirs: &'a mut postfix::Instance,
) -> [(&'static str, &'a mut dyn Server); 2] {
    [("holdfast", ours), ("postfix", theirs)]
}

fn rate(messages: usize, took: Duration) -> f64 {
    messages as f64 / took.as_secs_f64()
}

fn flow(name: &str, server: &mut dyn Server, messages: usize, to: &mut Report) -> io::Result<()> {
    let took = load::send(&server.addresses(), messages, load::Connections::OneEach)?;
    to.add(
        "accept, one message a connection, 1/s",
        Better::More,
        name,
        rate(messages, took),
    );
    let took = load::send(&server.addresses(), messages, load::Connections::Reused)?;
    to.add(
        "accept, connections re-used, 1/s",
        Better::More,
        name,
        rate(messages, took),
    );
    let took = drain(server, 2 * messages)?;
    // From the first message to the last.
    to.add(
        "drain, 1/s",
        Better::More,
        name,
        rate(2 * messages - 1, took),
    );
    Ok(())
}

fn drain(server: &mut dyn Server, messages: usize) -> io::Result<Duration> {
    let sink = load::Sink::start(server.primary())?;
    server.release()?;
    let took = sink.wait_for(messages)?;
    server.hold()?;
    Ok(took)
}

fn delay(name: &str, server: &mut dyn Server, messages: usize, to: &mut Report) -> io::Result<()> {
    for (sessions, pace) in [(8, None), (SESSIONS, None), (SESSIONS, Some(PACE))] {
        let delays = latency::delays(&server.addresses(), sessions, messages / 3, pace)?;
        let load = match pace {
            None => format!("{sessions} sessions"),
            Some(pace) => format!("{pace}/s"),
        };
        for (what, of) in [
            (
                "end of data to 250",
                Delay::end_of_data as fn(&Delay) -> Duration,
            ),
            ("MAIL to 250", Delay::transaction),
        ] {
            let mut delays: Vec<Duration> = delays.iter().map(of).collect();
            delays.sort_unstable();
            for (label, permille) in [("p50", 500), ("p99", 990)] {
                let at = (delays.len() * permille / 1000).min(delays.len() - 1);
                let key = format!("{what}, {load}, {label}, ms");
                to.add(&key, Better::Less, name, delays[at].as_secs_f64() * 1e3);
            }
        }
    }
    drain(server, messages / 3 * 3)?;
    Ok(())
}

fn held(
    options: &Options,
    messages: usize,
    scratch: &std::path::Path,
    to: &mut Report,
) -> io::Result<()> {
    for name in ["holdfast", "postfix"] {
        let mut server: Box<dyn Server> = if name == "holdfast" {
            Box::new(holdfast::Sandbox::start(&options.holdfast, scratch)?)
        } else {
            Box::new(postfix::Instance::start(scratch)?)
        };
        let begin = Instant::now();
        let mut left = messages;
        while left > 0 {
            let part = left.min(SESSIONS * SESSION_MESSAGES_MAX);
            load::send(&server.addresses(), part, load::Connections::Reused)?;
            left -= part;
        }
        eprintln!(
            "{name}: {messages} held after {:.0} s",
            begin.elapsed().as_secs_f64()
        );
        let key = |what: &str| format!("{what} with {messages} held");
        to.add(
            &key("memory of a node, MB,"),
            Better::Less,
            name,
            server.memory_mb()?,
        );
        let took = server.restart()?;
        to.add(
            &key("start to greeting, s,"),
            Better::Less,
            name,
            took.as_secs_f64(),
        );
        to.add(
            &key("memory after the start, MB,"),
            Better::Less,
            name,
            server.memory_mb()?,
        );
        let took = drain(&mut *server, messages)?;
        to.add(
            &key("drain, 1/s,"),
            Better::More,
            name,
            rate(messages - 1, took),
        );
    }
    Ok(())
}
