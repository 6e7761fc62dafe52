//! Real name servers on loopback.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![expect(clippy::unwrap_used, reason = "the lint spares tests, but not their helpers")]

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use lb_userspace::dns::{Way, look_up};
use tempfile::TempDir;

/// How long a server may take to answer after its start.
const PATIENCE: Duration = Duration::from_secs(20);

/// As `faketime` has it, which would stay between us and the server. The C library comes before jemalloc, which asks for
/// the time while the other one looks for its functions.
const FAKETIME: &str = "/usr/$LIB/faketime/libfaketimeMT.so.1:libc.so.6";

/// Whether `program` is there; without it, the test says that it is skipped.
pub fn can_run(program: &str, package: &str) -> bool {
    let found =
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        eprintln!("skipped: {program} is missing (Debian: {package})");
        assert!(std::env::var_os("USHER_NO_SKIP").is_none(), "this test must not be skipped");
    }
    found
}

/// A folder for a server's files, and an address that it may listen on.
pub struct Place {
    pub directory: TempDir,
    pub address: SocketAddr,
}

/// An address that both protocols may use, and that no other connection of this host is given as its own: its port is
/// below those that the kernel chooses from (`net.ipv4.ip_local_port_range`, 32768 and up).
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(port < 32_768, "no port is free");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

impl Place {
    pub fn new() -> Place {
        Place { directory: TempDir::new().unwrap(), address: free_address() }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).unwrap();
    }
}

/// A server that runs until dropped.
pub struct NameServer {
    process: Child,
    place: Place,
}

impl Drop for NameServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl NameServer {
    /// Starts `command` and waits until it answers for the address of `ns.example.test`.
    pub async fn start(place: Place, command: &mut Command) -> NameServer {
        let log = fs::File::create(place.path().join("log")).unwrap();
        let process = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let server = NameServer { process, place };
        let start = Instant::now();
        loop {
            let limit = Duration::from_millis(200);
            let found = look_up(server.address(), Way::ANY, "ns.example.test", "A", limit).await;
            if found.as_ref().is_ok_and(|found| !found.records.is_empty()) {
                return server;
            }
            assert!(start.elapsed() < PATIENCE, "{command:?} does not answer: {found:?}\n{}", server.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.place.address
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.place.path().join("log")).unwrap_or_default()
    }
}

/// BIND; `zones` are its zones and keys.
pub async fn bind(place: Place, zones: &str) -> NameServer {
    bind_with_clock(place, zones, None).await
}

/// The same; its clock is right, or off by so many seconds (`"+3600"`).
pub async fn bind_with_clock(place: Place, zones: &str, clock: Option<&str>) -> NameServer {
    let (path, port) = (place.path().display(), place.address.port());
    let config = format!(
        r#"options {{
    directory "{path}";
    listen-on port {port} {{ 127.0.0.1; }};
    listen-on-v6 {{ none; }};
    pid-file none;
    session-keyfile none;
    managed-keys-directory "{path}";
    recursion no;
    dnssec-validation no;
}};
controls {{}};
{zones}"#
    );
    place.write("named.conf", &config);
    let config = place.path().join("named.conf");
    let mut command = Command::new("named");
    if let Some(clock) = clock {
        // Its time of day; timers go on as ever.
        command.env("LD_PRELOAD", FAKETIME).env("FAKETIME", clock).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
    NameServer::start(place, command.args(["-g", "-n", "1", "-c"]).arg(config)).await
}

/// Knot; `config` has its keys, access and zones.
pub async fn knot(place: Place, config: &str) -> NameServer {
    let (path, address) = (place.path().display(), place.address);
    let (ip, port) = (address.ip(), address.port());
    let config = format!(
        r#"server:
    rundir: "{path}"
    listen: {ip}@{port}
database:
    storage: "{path}"
log:
  - target: stderr
    any: info
{config}"#
    );
    place.write("knot.conf", &config);
    let config = place.path().join("knot.conf");
    NameServer::start(place, Command::new("knotd").arg("-c").arg(config)).await
}

/// PowerDNS; `setup` are its `pdnsutil` commands, run in the place before it starts.
pub async fn powerdns(place: Place, config: &str, setup: &[&[&str]]) -> NameServer {
    let (path, address) = (place.path().display(), place.address);
    let (ip, port) = (address.ip(), address.port());
    let config = format!(
        r#"launch=lmdb
lmdb-filename={path}/pdns.lmdb
local-address={ip}
local-port={port}
socket-dir={path}
disable-syslog=yes
security-poll-suffix=
{config}"#
    );
    place.write("pdns.conf", &config);
    let folder = format!("--config-dir={path}");
    for words in setup {
        let mut command = Command::new("pdnsutil");
        let output = command.arg(&folder).args(*words).current_dir(place.path()).output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    NameServer::start(place, Command::new("pdns_server").arg(folder)).await
}
