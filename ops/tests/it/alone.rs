//! What the tests share: the binary, and a node to ask with it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub(crate) fn holdfast(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(arguments)
        .env_remove("HOLDFAST_SOCKET")
        .output()
        .expect("the binary runs")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder of our own. Not below the build's: that may be in somebody's home, and nodes of other users
/// could not come to it.
pub(crate) fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir()
        .join("holdfast-tests")
        .join(format!("{name}.{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port")
        .port()
}

/// Runs the node of `file`, which is told of `socket` by `name` and tells of itself at the socket
/// `notify` beside the file, where somebody listens there.
pub(crate) fn serve(
    file: &Path,
    socket: &std::net::TcpListener,
    name: &str,
) -> std::process::Child {
    let log = std::fs::File::create(file.with_file_name("log")).expect("a log");
    let socket = socket.try_clone().expect("the same");
    Command::new("sh")
        .args(["-c", "exec \"$0\" serve --config \"$1\" 3<&0 </dev/null"])
        .args([Path::new(env!("CARGO_BIN_EXE_holdfast")), file])
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", name)
        .env("NOTIFY_SOCKET", file.with_file_name("notify"))
        .env("WATCHDOG_USEC", "1000000")
        .stdin(std::os::fd::OwnedFd::from(socket))
        .stderr(log)
        .spawn()
        .expect("the node starts")
}

/// A node that runs, alone in its cluster, and dies with this value. Its SMTP socket is ours and
/// handed over, as systemd does.
pub(crate) struct Alone {
    pub(crate) node: std::process::Child,
    pub(crate) file: PathBuf,
    pub(crate) socket: std::net::TcpListener,
    pub(crate) metrics: u16,
    /// Where operators elsewhere connect to.
    pub(crate) admin: u16,
}

impl Alone {
    /// One that has made its cluster.
    pub(crate) fn start(name: &str) -> Self {
        let alone = Self::begin(name, "");
        let ran = alone.run(&["cluster", "init"]);
        assert!(ran.status.success(), "{}", text(&ran.stderr));
        alone
    }

    /// One that belongs to no cluster yet, and answers; with more in its file.
    pub(crate) fn begin(name: &str, more: &str) -> Self {
        // Another test may take a port before the node does.
        let mut tries = (0..3).filter_map(|_| Self::try_to_begin(name, more));
        tries.next().expect("the node answers within 60 s")
    }

    fn try_to_begin(name: &str, more: &str) -> Option<Self> {
        let folder = folder(name);
        let file = folder.join("n1.toml");
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
        let smtp = socket.local_addr().expect("its address");
        let [cluster, metrics, admin] = [free_port(), free_port(), free_port()];
        let text = format!(
            "data_dir = \"n1\"\nname = \"n1\"\nregion = \"eu\"\nwan_profile = \"lan\"\n\
             [smtp]\nname = \"localhost.example\"\nlisten = [\"{smtp}\"]\n\
             [cluster]\nlisten = \"127.0.0.1:{cluster}\"\naddress = \"127.0.0.1:{cluster}\"\n\
             [admin]\nlisten = \"127.0.0.1:{admin}\"\nsocket = \"/tmp/holdfast-{name}.{}\"\n\
             [metrics]\nlisten = \"127.0.0.1:{metrics}\"\n{more}",
            std::process::id()
        );
        std::fs::write(&file, text).expect("written");
        let mut alone = Self {
            node: serve(&file, &socket, "smtp"),
            file,
            socket,
            metrics,
            admin,
        };
        for _ in 0..1200 {
            std::thread::sleep(std::time::Duration::from_millis(50));
            // Unhealthy, for it belongs to no cluster.
            if alone.run(&["status"]).status.code() == Some(3) {
                return Some(alone);
            }
            if alone.node.try_wait().expect("a process").is_some() {
                return None;
            }
        }
        None
    }

    pub(crate) fn folder(&self) -> &Path {
        self.file.parent().expect("a folder")
    }

    /// Where operators on this machine connect to.
    pub(crate) fn socket_path(&self) -> PathBuf {
        let name = self.folder().file_name().expect("a name");
        Path::new("/tmp").join(format!("holdfast-{}", name.to_string_lossy()))
    }

    pub(crate) fn kill(&mut self) {
        self.node.kill().expect("it runs");
        self.node.wait().expect("it ended");
    }

    /// A command, asked of this node.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let file = self.file.to_str().expect("a path");
        holdfast(&[arguments, &["--config", file]].concat())
    }

    /// Asks for mail to somebody whom nobody protects, as strangers do; the reply.
    pub(crate) fn refused(&self) -> String {
        self.send("a@sender.example", "b@example.org", "refused")
    }

    /// Hands a message in, as strangers do; the last reply, or that which refused it.
    pub(crate) fn send(&self, from: &str, to: &str, subject: &str) -> String {
        use std::io::{BufRead, BufReader, Write};
        let at = self.socket.local_addr().expect("its address");
        let mut stream = std::net::TcpStream::connect(at).expect("it listens");
        let mut replies = BufReader::new(stream.try_clone().expect("it")).lines();
        let mut reply = move || replies.next().expect("a line").expect("it");
        let mut said = reply();
        for command in [
            "HELO sender.example".to_owned(),
            format!("MAIL FROM:<{from}>"),
            format!("RCPT TO:<{to}>"),
            "DATA".to_owned(),
            format!("From: {from}\r\nTo: {to}\r\nSubject: {subject}\r\n\r\nHello.\r\n."),
        ] {
            if !said.starts_with(['2', '3']) {
                break;
            }
            write!(stream, "{command}\r\n").expect("sent");
            said = reply();
        }
        said
    }

    pub(crate) fn get(&self, path: &str) -> String {
        use std::io::{Read, Write};
        let mut answer = String::new();
        let mut stream =
            std::net::TcpStream::connect(("127.0.0.1", self.metrics)).expect("it listens");
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").expect("asked");
        stream.read_to_string(&mut answer).expect("answered");
        answer
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        // A test may have done it.
        let _ended = self.node.kill();
        let _ended = self.node.wait();
        let _gone = std::fs::remove_file(self.socket_path());
        if !std::thread::panicking() {
            let _gone = std::fs::remove_dir_all(self.folder());
        }
    }
}

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).expect(path)
}

/// A word that must be in what was printed, but for times.
pub(crate) fn says(ran: &Output, exit: i32, words: &str) {
    let all = format!("{}{}", text(&ran.stdout), text(&ran.stderr));
    assert_eq!(ran.status.code(), Some(exit), "{all}");
    assert!(all.contains(words), "{words}: {all}");
}
