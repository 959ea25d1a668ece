//! A client of a session that goes on under TLS, through `openssl s_client`.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// Behind STARTTLS.
pub struct Secure {
    pub(super) lines: BufReader<ChildStdout>,
    pub(super) out: ChildStdin,
    pub(super) client: Ended,
}

/// A process that ends with this.
pub(super) struct Ended(pub(super) Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Secure {
    /// # Panics
    /// If there is no openssl.
    #[must_use]
    pub fn connect(to: SocketAddr) -> Self {
        Self::connect_with(to, &[])
    }

    /// The same from an address of this machine.
    ///
    /// # Panics
    /// If there is no openssl.
    #[must_use]
    pub fn connect_from(from: IpAddr, to: SocketAddr) -> Self {
        Self::connect_with(to, &["-bind", &SocketAddr::new(from, 0).to_string()])
    }

    fn connect_with(to: SocketAddr, options: &[&str]) -> Self {
        let mut client = Command::new("openssl")
            .args(["s_client", "-quiet", "-starttls", "smtp"])
            .args(["-connect", &to.to_string()])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl");
        Self {
            out: client.stdin.take().expect("a pipe"),
            lines: BufReader::new(client.stdout.take().expect("a pipe")),
            client: Ended(client),
        }
    }

    /// The last line of the answer to a command.
    ///
    /// # Panics
    /// If the session ends.
    pub fn ask(&mut self, command: &str) -> String {
        let line = format!("{command}\r\n");
        self.out.write_all(line.as_bytes()).expect("a session");
        self.out.flush().expect("a session");
        loop {
            let mut line = String::new();
            let heard = self.lines.read_line(&mut line).expect("a session");
            assert!(heard > 0, "the session ended at {command}");
            if line.as_bytes().get(3) == Some(&b' ') {
                return line.trim_end().to_owned();
            }
        }
    }

    /// The answer to AUTH PLAIN.
    ///
    /// # Panics
    /// If the session ends.
    pub fn log_in(&mut self, (user, secret): (&str, &str)) -> String {
        let word = BASE64.encode(format!("\0{user}\0{secret}"));
        self.ask(&format!("AUTH PLAIN {word}"))
    }
}
