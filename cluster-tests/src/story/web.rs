//! A program that talks to a node's portal over HTTPS, from an address of its choice, through
//! `openssl s_client`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use serde_json::Value;

/// Somebody who asks.
#[derive(Clone, Debug)]
pub struct Web {
    to: SocketAddr,
    from: Option<IpAddr>,
    /// Who it is: a line of the request.
    who: String,
}

/// What was answered.
#[derive(Clone, Debug)]
pub struct Reply {
    pub code: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }
}

/// A page that stays open until it is dropped.
pub struct OpenPage {
    client: Child,
    said: Arc<Mutex<String>>,
}

impl OpenPage {
    /// What has come so far.
    #[must_use]
    pub fn text(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.clone()
    }
}

impl Drop for OpenPage {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.client.kill());
        drop(self.client.wait());
    }
}

impl Web {
    /// Nobody in particular.
    #[must_use]
    pub fn new(to: SocketAddr) -> Self {
        Self {
            to,
            from: None,
            who: String::new(),
        }
    }

    /// Connects from there, an address of this machine.
    #[must_use]
    pub fn from(self, address: IpAddr) -> Self {
        Self {
            from: Some(address),
            ..self
        }
    }

    #[must_use]
    pub fn with_token(self, token: &str) -> Self {
        Self {
            who: format!("Authorization: Bearer {token}\r\n"),
            ..self
        }
    }

    /// Signs in, as a browser does.
    ///
    /// # Panics
    /// If that is refused.
    #[must_use]
    pub fn sign_in(self, name: &str, password: &str) -> Self {
        let reply = self.send_form("/sign-in", &[("name", name), ("password", password)]);
        let cookie = reply.head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            let (cookie, _) = value.split_once(';')?;
            name.eq_ignore_ascii_case("set-cookie")
                .then(|| cookie.to_owned())
        });
        let cookie = cookie.unwrap_or_else(|| panic!("no session: {reply:?}"));
        Self {
            who: format!("Cookie: {cookie}\r\n"),
            ..self
        }
    }

    /// # Panics
    /// If the node does not answer.
    #[must_use]
    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, "", "")
    }

    /// # Panics
    /// If the node does not answer.
    #[must_use]
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, "application/json", &body.to_string())
    }

    /// # Panics
    /// If the node does not answer.
    #[must_use]
    pub fn send_form(&self, path: &str, fields: &[(&str, &str)]) -> Reply {
        self.send("POST", path, FORM, &encoded(fields))
    }

    /// Presses a button of the page at `page`, and stays with what comes then from `path`.
    ///
    /// # Panics
    /// If the page has no form.
    #[must_use]
    pub fn press_and_stay(&self, page: &str, path: &str) -> OpenPage {
        let form = self.get(page).body;
        let key = form.split_once("name=\"key\" value=\"");
        let key = key.and_then(|(_, rest)| rest.split_once('"'));
        let (key, _) = key.unwrap_or_else(|| panic!("no form: {form}"));
        let request = self.request("POST", path, FORM, &encoded(&[("key", key)]));
        let (client, mut lines) = self.ask(&request);
        let said: Arc<Mutex<String>> = Arc::default();
        let heard = said.clone();
        thread::spawn(move || {
            let mut line = String::new();
            while lines.read_line(&mut line).is_ok_and(|length| length > 0) {
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                heard.push_str(&line);
                line.clear();
            }
        });
        OpenPage { client, said }
    }

    fn send(&self, method: &str, path: &str, kind: &str, body: &str) -> Reply {
        let (mut client, mut lines) = self.ask(&self.request(method, path, kind, body));
        let mut text = String::new();
        lines.read_to_string(&mut text).expect("an answer");
        drop(client.kill());
        drop(client.wait());
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Reply {
            code: code.unwrap_or_else(|| panic!("{method} {path}: no answer: {text}")),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    /// HTTP/1.0: the end of the connection is the end of the answer.
    fn request(&self, method: &str, path: &str, kind: &str, body: &str) -> String {
        let (to, who, length) = (self.to, &self.who, body.len());
        format!(
            "{method} {path} HTTP/1.0\r\nHost: {to}\r\n{who}Content-Type: {kind}\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
    }

    fn ask(&self, request: &str) -> (Child, BufReader<ChildStdout>) {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", "-connect", &self.to.to_string()]);
        if let Some(from) = self.from {
            command.args(["-bind", &SocketAddr::new(from, 0).to_string()]);
        }
        let mut client = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl");
        // At the end of its input it would go on: `-quiet` says so.
        let mut out = client.stdin.take().expect("a pipe");
        out.write_all(request.as_bytes()).expect("a connection");
        let lines = BufReader::new(client.stdout.take().expect("a pipe"));
        (client, lines)
    }
}

const FORM: &str = "application/x-www-form-urlencoded";

fn encoded(fields: &[(&str, &str)]) -> String {
    let escape = |text: &str| -> String {
        text.bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
                _ => format!("%{byte:02X}"),
            })
            .collect()
    };
    let pairs: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{}={}", escape(name), escape(value)))
        .collect();
    pairs.join("&")
}
