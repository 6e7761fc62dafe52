//! Checks over TLS, against nginx with good and bad certificates.

#![expect(clippy::unwrap_used, reason = "the lint spares tests, but not their helpers")]

mod certificates;

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use certificates::{Issuer, NAME, careless, ending, expired, in_days, issuer, trusting};
use lb_userspace::{
    config::{CheckKind, Http, Tls},
    core::check::{CheckResult, Code},
    probe::Probe,
};
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;
use tokio::net::TcpListener;

/// For checks that are meant to end by themselves.
const LONG: Duration = Duration::from_secs(20);
/// For checks that are meant to time out.
const SHORT: Duration = Duration::from_millis(200);

fn can_run_nginx() -> bool {
    let found = Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_ok();
    if !found {
        eprintln!("skipped: nginx is missing (Debian: nginx-light)");
        assert!(std::env::var_os("USHER_NO_SKIP").is_none(), "this test must not be skipped");
    }
    found
}

/// One nginx with a server for each certificate, and one without TLS.
struct Nginx {
    process: Child,
    directory: TempDir,
    ports: Vec<(&'static str, u16)>,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Nginx {
    /// Servers by name, with what their certificates should be.
    fn start(issuer: &Issuer, servers: Vec<(&'static str, CertificateParams)>) -> Nginx {
        let signed = servers.into_iter().map(|(name, wanted)| {
            let key = KeyPair::generate().unwrap();
            let certificate = wanted.signed_by(&key, issuer).unwrap();
            (name, certificate.pem(), key.serialize_pem())
        });
        Nginx::serve(&issuer.pem(), signed.collect())
    }

    /// Servers by name, with certificate and key.
    fn serve(ca: &str, servers: Vec<(&'static str, String, String)>) -> Nginx {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path();
        fs::write(folder.join("ca.pem"), ca).unwrap();
        let mut text = String::new();
        let mut ports = Vec::new();
        // Held until all are chosen, so that no port is chosen twice.
        let mut held = Vec::new();
        let mut port = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            held.push(listener);
            port
        };
        for (name, certificate, key) in servers {
            let (at, port) = (folder.join(name), port());
            fs::write(at.with_extension("pem"), certificate).unwrap();
            fs::write(at.with_extension("key"), key).unwrap();
            writeln!(
                text,
                "server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {at}.pem; ssl_certificate_key {at}.key; \
                 location / {{ return 200 ok; }} location /broken {{ return 503; }} }}",
                at = at.display()
            )
            .unwrap();
            ports.push((name, port));
        }
        ports.push(("plain", port()));
        writeln!(text, "server {{ listen 127.0.0.1:{}; }}", ports[ports.len() - 1].1).unwrap();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {}/{kind};\n", folder.display()))
            .concat();
        let configuration = folder.join("nginx.conf");
        let text = format!(
            "daemon off; master_process off; pid {folder}/pid; error_log stderr;\nevents {{}}\n\
             http {{ access_log off;\n{temporary}{text}}}\n",
            folder = folder.display()
        );
        fs::write(&configuration, text).unwrap();
        drop(held);
        let process = Command::new("nginx")
            .arg("-c")
            .arg(&configuration)
            .args(["-e", "stderr"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let nginx = Nginx { process, directory, ports };
        let begin = Instant::now();
        while std::net::TcpStream::connect(nginx.at("plain")).is_err() {
            assert!(begin.elapsed() < LONG, "nginx does not begin to listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        nginx
    }

    fn at(&self, server: &str) -> SocketAddr {
        let (_, port) = self.ports.iter().find(|(name, _)| *name == server).expect("a server");
        SocketAddr::from(([127, 0, 0, 1], *port))
    }

    fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }
}

async fn shake(target: SocketAddr, tls: Tls) -> CheckResult {
    Probe::new(CheckKind::Tls(tls), target, LONG).run_once().await
}

async fn get(target: SocketAddr, path: &str, tls: Tls) -> CheckResult {
    let path = path.to_owned();
    let http = Http { path, host: Some(NAME.to_owned()), tls: Some(tls), ..Http::default() };
    Probe::new(CheckKind::Http(Box::new(http)), target, LONG).run_once().await
}

#[track_caller]
fn expect(result: &CheckResult, code: Code, detail: &str) {
    assert!(result.code == code && result.detail.starts_with(detail), "{result:?}, expected {code} {detail}");
}

#[tokio::test]
async fn certificates_are_judged_by_issuer_name_and_dates() {
    if !can_run_nginx() {
        return;
    }
    let mut early = ending(NAME, 90);
    early.not_before = in_days(10).into();
    let issuer = issuer("ours");
    let servers = vec![
        ("good", ending(NAME, 90)),
        ("soon", ending(NAME, 6)),
        ("expired", expired(NAME)),
        ("early", early),
        ("other", ending("other.example.test", 90)),
        ("address", ending("127.0.0.1", 90)),
    ];
    let nginx = Nginx::start(&issuer, servers);
    let tls = trusting(&nginx.ca_file());

    let result = shake(nginx.at("good"), tls.clone()).await;
    expect(&result, Code::L6Ok, "TLSv1");
    assert_eq!(result.warning, None);
    let result = shake(nginx.at("soon"), tls.clone()).await;
    expect(&result, Code::L6Ok, "TLSv1");
    assert_eq!(result.warning.as_deref(), Some("its certificate expires in 6 days"));
    for (server, detail) in [
        ("expired", "its certificate has expired"),
        ("early", "its certificate is not valid yet"),
        ("other", "its certificate is for another name: "),
        ("plain", "does not speak TLS: "),
    ] {
        expect(&shake(nginx.at(server), tls.clone()).await, Code::L6Rsp, detail);
        expect(&get(nginx.at(server), "/", tls.clone()).await, Code::L6Rsp, detail);
    }
    // Without a name the certificate must be for the address.
    let unnamed = Tls { server_name: None, ..tls.clone() };
    expect(&shake(nginx.at("address"), unnamed.clone()).await, Code::L6Ok, "TLSv1");
    expect(&shake(nginx.at("good"), unnamed).await, Code::L6Rsp, "its certificate is for another name: ");

    expect(&get(nginx.at("good"), "/", tls.clone()).await, Code::L7Ok, "200 OK");
    expect(&get(nginx.at("good"), "/broken", tls.clone()).await, Code::L7Sts, "503 Service Unavailable");
    let result = get(nginx.at("soon"), "/", tls.clone()).await;
    expect(&result, Code::L7Ok, "200 OK");
    assert!(result.warning.is_some());

    // The host's own issuers know nothing of ours, and somebody else's neither.
    let unknown = "its certificate is of no issuer that is trusted";
    let stranger = nginx.directory.path().join("stranger.pem");
    fs::write(&stranger, certificates::issuer("a stranger's").pem()).unwrap();
    expect(&shake(nginx.at("good"), trusting(&stranger)).await, Code::L6Rsp, unknown);
    // A file that names another issuer by now is read again.
    let mut probe = Probe::new(CheckKind::Tls(trusting(&stranger)), nginx.at("good"), LONG);
    expect(&probe.run_once().await, Code::L6Rsp, unknown);
    fs::copy(nginx.ca_file(), &stranger).unwrap();
    expect(&probe.run_once().await, Code::L6Ok, "TLSv1");
    // Whoever does not look sees no fault; but a date that has passed is worth a word.
    for (server, warning) in
        [("good", None), ("other", None), ("expired", Some("its certificate has expired"))]
    {
        let result = get(nginx.at(server), "/", careless()).await;
        expect(&result, Code::L7Ok, "200 OK");
        assert_eq!(result.warning.as_deref(), warning, "{server}");
    }
    expect(&shake(nginx.at("plain"), careless()).await, Code::L6Rsp, "does not speak TLS: ");
}

/// Whose version cannot be read here: `openssl x509 -req -signkey` has made it, of version 1 as it does.
#[tokio::test]
async fn any_certificate_may_be_of_version_1() {
    if !can_run_nginx() {
        return;
    }
    let certificate = include_str!("certificates/version1.pem").to_owned();
    let key = include_str!("certificates/version1.key").to_owned();
    let nginx = Nginx::serve(&issuer("ours").pem(), vec![("old", certificate, key)]);
    expect(&get(nginx.at("old"), "/", careless()).await, Code::L7Ok, "200 OK");
    let verified = get(nginx.at("old"), "/", trusting(&nginx.ca_file())).await;
    expect(&verified, Code::L6Rsp, "its certificate is not trusted: ");
}

#[tokio::test]
async fn a_server_that_says_nothing_or_hangs_up_is_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let ca_file = directory.path().join("ca.pem");
    fs::write(&ca_file, issuer("ours").pem()).unwrap();
    let tls = trusting(&ca_file);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let result = Probe::new(CheckKind::Tls(tls.clone()), address, SHORT).run_once().await;
    expect(&result, Code::L6Tout, "timeout after 200ms");

    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // Read first, or the kernel answers with a reset.
            stream.readable().await.unwrap();
            let mut hello = [0; 4_096];
            let _ = stream.try_read(&mut hello);
        }
    });
    expect(&shake(address, tls).await, Code::L6Rsp, "connection closed during the handshake");
    server.abort();
}

#[tokio::test]
async fn issuers_that_cannot_be_read_are_this_hosts_trouble() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    let target = SocketAddr::from(([127, 0, 0, 1], 9));
    let missing = format!("cannot read ca_file {}: ", file.display());
    expect(&shake(target, trusting(&file)).await, Code::Sockerr, &missing);
    fs::write(&file, "no certificate\n").unwrap();
    let empty = format!("ca_file {} has no certificate", file.display());
    expect(&shake(target, trusting(&file)).await, Code::Sockerr, &empty);
}
