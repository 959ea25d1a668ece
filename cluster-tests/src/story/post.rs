//! Somebody who sends a message.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The last reply of a session: to the final dot, or to whatever was refused before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub code: u16,
    pub text: String,
}

const PATIENCE: Duration = Duration::from_secs(60);

/// Sends one message from `from` to `to` through the node at `address`.
///
/// # Panics
/// If the node does not answer.
#[must_use]
pub fn send(address: SocketAddr, from: &str, to: &str, subject: &str) -> Answer {
    let stream = TcpStream::connect(address).expect("a node listens");
    send_over(&stream, from, to, subject)
}

/// The same over a connection that was made.
///
/// # Panics
/// If the node does not answer.
#[must_use]
pub fn send_over(stream: &TcpStream, from: &str, to: &str, subject: &str) -> Answer {
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut lines = BufReader::new(stream);
    let mut hear = || hear(&mut lines);
    let say = |text: &str| {
        (&*stream)
            .write_all(text.as_bytes())
            .expect("the node listens")
    };
    let greeting = hear();
    if greeting.code != 220 {
        return greeting;
    }
    for command in [
        "EHLO sender.test\r\n".to_owned(),
        format!("MAIL FROM:<{from}>\r\n"),
        format!("RCPT TO:<{to}>\r\n"),
        "DATA\r\n".to_owned(),
    ] {
        say(&command);
        let answer = hear();
        if answer.code >= 400 {
            say("QUIT\r\n");
            return answer;
        }
    }
    say(&format!(
        "From: <{from}>\r\nTo: <{to}>\r\nSubject: {subject}\r\n\r\nHello.\r\n.\r\n"
    ));
    let answer = hear();
    say("QUIT\r\n");
    answer
}

/// Offers a message of `size` octets, as MAIL says, and takes it back: the answer to RCPT, or to what was
/// refused before.
///
/// # Panics
/// If the node does not answer.
#[must_use]
pub fn offer(address: SocketAddr, from: &str, to: &str, size: u64) -> Answer {
    let stream = TcpStream::connect(address).expect("a node listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut lines = BufReader::new(&stream);
    let mut answer = hear(&mut lines);
    for command in [
        "EHLO sender.test\r\n".to_owned(),
        format!("MAIL FROM:<{from}> SIZE={size}\r\n"),
        format!("RCPT TO:<{to}>\r\n"),
    ] {
        if answer.code >= 400 {
            break;
        }
        (&stream)
            .write_all(command.as_bytes())
            .expect("the node listens");
        answer = hear(&mut lines);
    }
    (&stream).write_all(b"QUIT\r\n").expect("the node listens");
    answer
}

fn hear(lines: &mut impl BufRead) -> Answer {
    let mut text = String::new();
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).expect("the node answers");
        assert!(!line.is_empty(), "the node hung up after {text:?}");
        let is_last = line.as_bytes().get(3) != Some(&b'-');
        text.push_str(&line);
        if is_last {
            let code = line.get(..3).and_then(|code| code.parse().ok());
            let code = code.expect("a reply begins with a code");
            return Answer { code, text };
        }
    }
}
