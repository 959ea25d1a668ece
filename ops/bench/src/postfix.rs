//! One Postfix, with a configuration and a queue of its own, set up as a busy backup MX.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::child::{free_ports, memory_mb, wait_for_greeting};
use crate::{DOMAIN, Server};

pub(crate) struct Instance {
    etc: PathBuf,
    smtp: SocketAddr,
    primary: SocketAddr,
    dir: tempfile::TempDir,
}

impl Instance {
    pub(crate) fn start(scratch: &Path) -> io::Result<Self> {
        // Its processes drop their privileges and must get through.
        fs::set_permissions(scratch, fs::Permissions::from_mode(0o755))?;
        let dir = tempfile::tempdir_in(scratch)?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let [etc, queue, data] = ["etc", "queue", "data"].map(|name| dir.path().join(name));
        for path in [&etc, &queue, &data] {
            fs::create_dir(path)?;
        }
        let status = Command::new("chown").arg("postfix").arg(&data).status()?;
        if !status.success() {
            return Err(io::Error::other("chown failed: run the benchmark as root"));
        }
        let smtp = SocketAddr::from(([127, 0, 0, 1], free_ports(1)?));
        let primary = SocketAddr::from(([127, 0, 0, 1], free_ports(1)?));
        let log = dir.path().join("maillog");
        fs::write(
            etc.join("main.cf"),
            format!(
                "compatibility_level = 3.6\n\
                 queue_directory = {queue}\n\
                 data_directory = {data}\n\
                 command_directory = /usr/sbin\n\
                 daemon_directory = /usr/lib/postfix/sbin\n\
                 mail_owner = postfix\n\
                 setgid_group = postdrop\n\
                 myhostname = postfix.holdfast.test\n\
                 mydestination =\n\
                 mynetworks =\n\
                 local_recipient_maps =\n\
                 alias_maps =\n\
                 inet_interfaces = 127.0.0.1\n\
                 inet_protocols = ipv4\n\
                 relay_domains = {DOMAIN}\n\
                 relay_recipient_maps =\n\
                 smtpd_relay_restrictions = permit_auth_destination, reject\n\
                 smtpd_recipient_restrictions =\n\
                 smtpd_client_connection_count_limit = 0\n\
                 smtpd_peername_lookup = no\n\
                 transport_maps = inline:{{ {DOMAIN}=relay:[127.0.0.1]:{port} }}\n\
                 default_process_limit = 200\n\
                 in_flow_delay = 0\n\
                 relay_destination_concurrency_limit = 50\n\
                 relay_initial_destination_concurrency = 20\n\
                 smtp_connection_cache_on_demand = yes\n\
                 defer_transports = relay\n\
                 maillog_file_prefixes = {dir}\n\
                 maillog_file = {log}\n",
                queue = queue.display(),
                data = data.display(),
                dir = dir.path().display(),
                log = log.display(),
                port = primary.port(),
            ),
        )?;
        let services = fs::read_to_string("/etc/postfix/master.cf")?;
        let services: String = services
            .lines()
            .filter(|line| !line.starts_with('#') && !line.starts_with(' '))
            .map(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                match &fields[..] {
                    [] => String::new(),
                    ["smtp", "inet", ..] => format!("{smtp} inet n - n - - smtpd\n"),
                    // Not in a chroot: the queue has none of its files.
                    [name, kind, private, unprivileged, _chroot, rest @ ..] => {
                        format!(
                            "{name} {kind} {private} {unprivileged} n {}\n",
                            rest.join(" ")
                        )
                    }
                    _ => format!("{line}\n"),
                }
            })
            .collect();
        // Debian's file may lack the service that writes maillog_file.
        let postlog = "postlog unix-dgram n - n - 1 postlogd\n";
        let services = if services.contains("postlogd") {
            services
        } else {
            services + postlog
        };
        fs::write(etc.join("master.cf"), services)?;
        let instance = Self {
            etc,
            smtp,
            primary,
            dir,
        };
        instance.postfix("start")?;
        wait_for_greeting(smtp, Duration::from_secs(20))?;
        Ok(instance)
    }

    fn postfix(&self, verb: &str) -> io::Result<()> {
        run(Command::new("postfix").arg("-c").arg(&self.etc).arg(verb))
    }

    /// Its master process and all that it started.
    fn pids(&self) -> io::Result<Vec<u32>> {
        let master = fs::read_to_string(self.dir.path().join("queue/pid/master.pid"))?;
        let master: u32 = master.trim().parse().map_err(io::Error::other)?;
        let tasks = format!("/proc/{master}/task/{master}/children");
        let children = fs::read_to_string(tasks)?;
        let children = children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok());
        Ok(std::iter::once(master).chain(children).collect())
    }

    fn set(&self, setting: &str) -> io::Result<()> {
        run(Command::new("postconf")
            .arg("-c")
            .arg(&self.etc)
            .arg(setting))?;
        self.postfix("reload")
    }
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!(
        "{command:?} failed: {}",
        said.trim()
    )))
}

impl Server for Instance {
    fn addresses(&self) -> Vec<SocketAddr> {
        vec![self.smtp]
    }

    fn primary(&self) -> SocketAddr {
        self.primary
    }

    fn release(&mut self) -> io::Result<()> {
        self.set("defer_transports =")?;
        run(Command::new("postqueue").arg("-c").arg(&self.etc).arg("-f"))
    }

    fn hold(&mut self) -> io::Result<()> {
        self.set("defer_transports = relay")
    }

    fn memory_mb(&self) -> io::Result<f64> {
        // Its processes share their code: proportional shares add up. One may end meanwhile.
        let shares = self
            .pids()?
            .into_iter()
            .map(|pid| memory_mb(pid, "Pss:").unwrap_or(0.0));
        Ok(shares.sum())
    }

    fn restart(&mut self) -> io::Result<Duration> {
        self.postfix("stop")?;
        let begin = Instant::now();
        self.postfix("start")?;
        wait_for_greeting(self.smtp, Duration::from_secs(120))?;
        Ok(begin.elapsed())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Err(error) = self.postfix("stop") {
            eprintln!("bench: {error}");
        }
    }
}
