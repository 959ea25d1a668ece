//! A browser without a screen, steered over WebDriver (W3C): Debian's Chromium and its driver.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::{free_port, wait_for};

const START_TIME_MAX: Duration = Duration::from_secs(30);
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);

/// How long a page may take to show what is expected.
const PAGE_TIME_MAX: Duration = Duration::from_secs(20);

/// Where pictures of pages are kept, to be looked at after the tests.
fn pictures() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"));
    target.join("pictures")
}

pub struct Browser {
    driver: Child,
    port: u16,
}

/// A window of a browser with cookies of its own.
pub struct Page<'a> {
    browser: &'a Browser,
    session: String,
}

impl Browser {
    /// # Panics
    /// If chromedriver is not installed.
    #[must_use]
    pub fn start() -> Self {
        let port = free_port();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts: `ops/set-up tests` installs it");
        let browser = Self { driver, port };
        wait_for("chromedriver", START_TIME_MAX, || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
        });
        browser
    }

    /// A new window, `width` and `height` in pixels.
    ///
    /// # Panics
    /// If Chromium does not start.
    #[must_use]
    pub fn open(&self, (width, height): (u32, u32), scripts: bool) -> Page<'_> {
        let mut options = json!({"args": [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--disable-dev-shm-usage", format!("--window-size={width},{height}"),
        ]});
        if !scripts {
            options["prefs"] = json!({"profile.managed_default_content_settings.javascript": 2});
        }
        let wanted = json!({
            "acceptInsecureCerts": true, "goog:chromeOptions": options,
            // What is looked for may come later; `expect` waits for it.
            "pageLoadStrategy": "none",
        });
        let begun = self.ask(
            "POST",
            "/session",
            &json!({"capabilities": {"alwaysMatch": wanted}}),
        );
        let session = begun["sessionId"].as_str().expect("a window").to_owned();
        Page {
            browser: self,
            session,
        }
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.try_ask(method, path, body);
        assert!(answer["error"].is_null(), "{method} {path}: {answer}");
        answer
    }

    fn try_ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let text = if method == "POST" {
            body.to_string()
        } else {
            String::new()
        };
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("the driver");
        stream
            .set_read_timeout(Some(ANSWER_TIME_MAX))
            .expect("a socket");
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost:{}\r\nContent-Type: application/json\r\n\
             Connection: close\r\nContent-Length: {}\r\n\r\n{text}",
            self.port,
            text.len()
        );
        stream
            .write_all(request.as_bytes())
            .expect("the driver listens");
        let mut answer = String::new();
        let mut buffer = [0; 65536];
        // It keeps the connection open whatever it is asked: the length says where it ends.
        loop {
            if let Some((head, body)) = answer.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    let is_length = name.eq_ignore_ascii_case("content-length");
                    is_length.then(|| value.trim().parse::<usize>().ok())?
                });
                if length.is_some_and(|length| body.len() >= length) {
                    let answer: Value = serde_json::from_str(body).expect("JSON");
                    return answer["value"].clone();
                }
            }
            let read = stream.read(&mut buffer).expect("the driver answers");
            assert!(read > 0, "the driver hung up: {answer}");
            answer.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.driver.kill());
        drop(self.driver.wait());
    }
}

impl Drop for Page<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            // What it shows instead of what was expected. The driver may be gone, too.
            drop(catch_unwind(AssertUnwindSafe(|| self.picture_of_failure())));
        }
        let path = format!("/session/{}", self.session);
        self.browser.try_ask("DELETE", &path, &Value::Null);
    }
}

impl Page<'_> {
    fn post(&self, what: &str, body: &Value) -> Value {
        let path = format!("/session/{}/{what}", self.session);
        self.browser.ask("POST", &path, body)
    }

    fn get(&self, what: &str) -> Value {
        let path = format!("/session/{}/{what}", self.session);
        self.browser.ask("GET", &path, &Value::Null)
    }

    /// Presses the button that says so, and does not wait for the page behind it, which never ends.
    pub fn press_and_go_on(&self, text: &str) {
        let script = "const text = arguments[0]; \
            const buttons = [...document.querySelectorAll('button')]; \
            const button = buttons.find((button) => button.textContent.trim() === text); \
            setTimeout(() => button.click(), 0);";
        self.post("execute/sync", &json!({"script": script, "args": [text]}));
    }

    pub fn go(&self, url: &str) {
        self.post("url", &json!({"url": url}));
    }

    #[must_use]
    pub fn url(&self) -> String {
        self.get("url").as_str().unwrap_or_default().to_owned()
    }

    /// All that one can read.
    #[must_use]
    pub fn text(&self) -> String {
        let path = format!("/session/{}/element", self.session);
        let wanted = json!({"using": "css selector", "value": "body"});
        let found = self.browser.try_ask("POST", &path, &wanted);
        let Some(id) = id(&found) else {
            return String::new();
        };
        let path = format!("/session/{}/element/{id}/text", self.session);
        // The page may have changed since.
        let text = self.browser.try_ask("GET", &path, &Value::Null);
        text.as_str().unwrap_or_default().to_owned()
    }

    /// What stands in the element that a CSS selector finds.
    #[must_use]
    pub fn read(&self, what: &str) -> String {
        let text = self.get(&format!("element/{}/text", self.find(what)));
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Types into the field that a CSS selector finds.
    pub fn fill(&self, field: &str, text: &str) {
        let element = self.find(field);
        self.post(&format!("element/{element}/clear"), &json!({}));
        self.post(&format!("element/{element}/value"), &json!({"text": text}));
    }

    pub fn click(&self, what: &str) {
        let element = self.find(what);
        self.post(&format!("element/{element}/click"), &json!({}));
    }

    /// Presses the button that says so.
    pub fn press(&self, text: &str) {
        let wanted = format!("//button[normalize-space()='{text}']");
        let found = self.post("element", &json!({"using": "xpath", "value": wanted}));
        let element = id(&found).expect("a button");
        self.post(&format!("element/{element}/click"), &json!({}));
    }

    fn find(&self, selector: &str) -> String {
        let found = self.post(
            "element",
            &json!({"using": "css selector", "value": selector}),
        );
        id(&found).expect("an element").to_owned()
    }

    /// Waits until the page says so.
    ///
    /// # Panics
    /// If it does not; tells what it says instead.
    pub fn expect(&self, text: &str) {
        let begun = std::time::Instant::now();
        while !self.text().contains(text) {
            assert!(
                begun.elapsed() < PAGE_TIME_MAX,
                "{} does not say {text:?}, but:\n{}",
                self.url(),
                self.text()
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// What the page's own rules forbade, and scripts that failed: nothing, on a good page. That a
    /// node was killed is no fault of the page.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let log = self.post("se/log", &json!({"type": "browser"}));
        let entries = log.as_array().cloned().unwrap_or_default();
        let text = |entry: &Value| entry["message"].as_str().unwrap_or_default().to_owned();
        let faults = ["Content Security Policy", "Uncaught"];
        let is_fault = |text: &String| faults.iter().any(|fault| text.contains(fault));
        entries.iter().map(text).filter(is_fault).collect()
    }

    /// Called as the test is.
    fn picture_of_failure(&self) {
        let test = thread::current()
            .name()
            .unwrap_or("test")
            .replace("::", "-");
        let name = format!(
            "failed-{test}-{}",
            &self.session[..8.min(self.session.len())]
        );
        self.picture(&name);
        eprintln!("the page is in {}", pictures().join(name).display());
    }

    /// Keeps a picture of the page.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn picture(&self, name: &str) {
        let taken = self.get("screenshot");
        let bytes = STANDARD
            .decode(taken.as_str().unwrap_or_default())
            .unwrap_or_default();
        assert!(bytes.starts_with(b"\x89PNG"), "no picture");
        fs::create_dir_all(pictures()).expect("a folder");
        fs::write(pictures().join(format!("{name}.png")), bytes).expect("a picture");
    }
}

/// Of an element, as WebDriver names it.
fn id(found: &Value) -> Option<&str> {
    found.get("element-6066-11e4-a52e-4f735466cecf")?.as_str()
}
