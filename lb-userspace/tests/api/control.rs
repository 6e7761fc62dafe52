//! The control socket: the real client against the real server over a real Unix socket.

use std::{
    fs::{self, File, Permissions},
    io::{self, ErrorKind},
    net::SocketAddr,
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::Path,
};

use lb_userspace::{
    admin::ServerChange,
    api::{BindError, Client, ClientError, ControlSocket},
    config::Protocol,
    core::{
        admin::{Admin, Change, Weight},
        health::Health,
    },
    deny::{DenyAction, DenyChange, DenyQuery},
    explain::ExplainQuery,
    flows::FlowsQuery,
    metrics,
    reload::ReloadQuery,
};
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{FakeDaemon, NO_PROGRAM, denied, deny, example, explanation, flows, reloaded, server};

fn query(from: &str, to: &str, protocol: Protocol) -> ExplainQuery {
    ExplainQuery {
        from: from.parse().expect("socket address"),
        to: to.parse().expect("socket address"),
        protocol,
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("file exists").permissions().mode() & 0o7777
}

/// What a daemon leaves behind that was killed.
fn stale_socket(path: &Path) {
    drop(UnixListener::bind(path).expect("socket"));
    let refused = UnixStream::connect(path).expect_err("nobody listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

/// Sends one HTTP request as it stands; returns the status code and the body.
async fn raw(socket: &Path, head: &str, body: &str) -> (u16, Value) {
    let request =
        format!("{head}\r\nHost: usher\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut stream = tokio::net::UnixStream::connect(socket).await.expect("connection");
    stream.write_all(request.as_bytes()).await.expect("request is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answer is read");
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("status line");
    let (_, body) = answer.split_once("\r\n\r\n").expect("head and body");
    (code, serde_json::from_str(body).expect("body is JSON"))
}

#[tokio::test]
async fn status_arrives_as_the_daemon_gave_it() {
    let daemon = FakeDaemon::start().await;
    let status = Client::new(&daemon.socket).status().await.expect("status");
    assert_eq!(status, example());
}

#[tokio::test]
async fn status_that_cannot_be_made_says_why() {
    let why = "cannot read the counters in map BACKEND_COUNTERS";
    let daemon = FakeDaemon::start_with(Err(why.to_owned())).await;
    match Client::new(&daemon.socket).status().await {
        Err(ClientError::Refused { status: 500, message }) => assert_eq!(message, why),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn explain_takes_query_and_answer_both_ways() {
    let daemon = FakeDaemon::start().await;
    let client = Client::new(&daemon.socket);
    for query in [
        query("198.51.100.7:40001", "192.0.2.11:80", Protocol::Tcp),
        query("[2001:db8::7]:40002", "[2001:db8:1::11]:80", Protocol::Udp),
    ] {
        let answer = client.explain(&query).await.expect("explanation");
        assert_eq!(Ok(answer), explanation(query));
    }
}

#[tokio::test]
async fn daemons_error_arrives_in_its_own_words() {
    let daemon = FakeDaemon::start().await;
    let query = query("198.51.100.7:40001", "192.0.2.11:443", Protocol::Tcp);
    match Client::new(&daemon.socket).explain(&query).await {
        Err(ClientError::Refused { status: 500, message }) => assert_eq!(message, NO_PROGRAM),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn query_of_two_families_is_refused_before_the_daemon_is_asked() {
    let daemon = FakeDaemon::start().await;
    // Port 80, so that the fake daemon would have answered.
    let query = query("198.51.100.7:40001", "[2001:db8:1::11]:80", Protocol::Tcp);
    match Client::new(&daemon.socket).explain(&query).await {
        Err(ClientError::Refused { status: 422, message }) => {
            assert!(message.contains("both must be of one family"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn flows_take_query_and_answer_both_ways() {
    let daemon = FakeDaemon::start().await;
    let client = Client::new(&daemon.socket);
    let query = FlowsQuery { service: Some("web".to_owned()), limit: 7, ..FlowsQuery::default() };
    assert_eq!(Ok(client.flows(&query).await.expect("flows")), flows(&query));
    match client.flows(&FlowsQuery::default()).await {
        Err(ClientError::Refused { status: 422, message }) => {
            assert_eq!(message, "no service is called None");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn f62_the_deny_list_takes_changes_and_questions() {
    let daemon = FakeDaemon::start().await;
    let client = Client::new(&daemon.socket);
    let rules = ["198.51.100.0/24", "!2001:db8::7"].map(|text| text.parse().expect("a rule")).to_vec();
    let change = DenyChange { action: DenyAction::Add, rules };
    assert_eq!(Ok(client.deny(&change).await.expect("a change")), deny(&change));
    match client.deny(&DenyChange { action: DenyAction::Remove, ..change }).await {
        Err(ClientError::Refused { status: 422, message }) => {
            assert_eq!(message, "198.51.100.0/24 was not added");
        }
        other => panic!("{other:?}"),
    }
    let query = DenyQuery { after: "192.0.2.0/24".parse().ok(), limit: 7, ..DenyQuery::default() };
    assert_eq!(client.denied(&query).await.expect("rules"), denied(&query));
}

#[tokio::test]
async fn what_is_wanted_of_a_backend_takes_changes() {
    let daemon = FakeDaemon::start().await;
    let client = Client::new(&daemon.socket);
    for change in [
        Change::State(Admin::Drain),
        Change::DrainFor(300),
        Change::Weight(Weight::Percent(50)),
        Change::Health(Some(Health::Down)),
        Change::Health(None),
    ] {
        let change = ServerChange { service: "web".to_owned(), backend: "b1".to_owned(), change };
        assert_eq!(Ok(client.change_server(&change).await.expect("a change")), server(&change));
    }
    let unknown = ServerChange {
        service: "wbe".to_owned(),
        backend: "b1".to_owned(),
        change: Change::State(Admin::Ready),
    };
    match client.change_server(&unknown).await {
        Err(ClientError::Refused { status: 422, message }) => {
            assert_eq!(message, "no service is called `wbe`");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_reload_is_asked_for_and_answered() {
    let daemon = FakeDaemon::start().await;
    let client = Client::new(&daemon.socket);
    for dry_run in [true, false] {
        let query = ReloadQuery { dry_run };
        assert_eq!(client.reload(query).await.expect("an answer"), reloaded(query));
    }
}

#[tokio::test]
async fn every_error_is_json_with_a_fitting_code() {
    let daemon = FakeDaemon::start().await;
    let post = "POST /v1/explain HTTP/1.1\r\nContent-Type: application/json";
    let flows = "POST /v1/flows HTTP/1.1\r\nContent-Type: application/json";
    let deny = "POST /v1/deny HTTP/1.1\r\nContent-Type: application/json";
    let cases = [
        ("GET /nothing HTTP/1.1", "", 404),
        ("POST /v1/status HTTP/1.1", "", 405),
        ("GET /v1/explain HTTP/1.1", "", 405),
        ("GET /v1/flows HTTP/1.1", "", 405),
        ("POST /v1/explain HTTP/1.1\r\nContent-Type: text/plain", "{}", 415),
        (post, "{", 400),
        (post, "{}", 422),
        (flows, r#"{"client": "nobody"}"#, 422),
        (deny, r#"{"action": "add", "rules": ["192.0.2.1/24"]}"#, 422),
        (deny, r#"{"action": "remove", "rules": ["192.0.2.1"]}"#, 422),
        (post, r#"{"from": "198.51.100.7", "to": "192.0.2.11:80", "protocol": "tcp"}"#, 422),
        (post, r#"{"from": "198.51.100.7:1", "to": "192.0.2.11:80", "protocol": "sctp"}"#, 422),
    ];
    for (head, body, expected) in cases {
        let (code, answer) = raw(&daemon.socket, head, body).await;
        assert_eq!(code, expected, "{head} {body}");
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(!error.is_empty(), "{head} {body}: {answer}");
        assert_eq!(answer, json!({ "error": error }), "{head} {body}");
    }
}

/// Asks for a path over TCP; the status code and the whole answer.
async fn ask_for_figures(at: SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(at).await.expect("connection");
    let request = format!("GET {path} HTTP/1.1\r\nHost: usher\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("request is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answer is read");
    (answer.split(' ').nth(1).expect("status line").to_owned(), answer)
}

#[tokio::test]
async fn metrics_are_shown_over_tcp_and_nothing_else_is() {
    let daemon = FakeDaemon::start().await;
    let (code, answer) = ask_for_figures(daemon.figures, "/metrics").await;
    assert_eq!(code, "200");
    assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0"), "{answer}");
    assert!(answer.ends_with(&metrics::text(example()).expect("text")), "{answer}");
    for path in ["/v1/status", "/"] {
        assert_eq!(ask_for_figures(daemon.figures, path).await.0, "404", "{path}");
    }
    let daemon = FakeDaemon::start_with(Err("the maps cannot be read".to_owned())).await;
    let (code, answer) = ask_for_figures(daemon.figures, "/metrics").await;
    assert_eq!(code, "500");
    assert!(answer.contains("the maps cannot be read"), "{answer}");
}

#[tokio::test]
async fn missing_daemon_is_told_from_a_dead_one() {
    let directory = TempDir::new().expect("temporary directory");
    let path = directory.path().join("usher.sock");
    let kind = async || match Client::new(&path).status().await {
        Err(ClientError::Connect { source, .. }) => source.kind(),
        other => panic!("{other:?}"),
    };
    assert_eq!(kind().await, ErrorKind::NotFound);
    stale_socket(&path);
    assert_eq!(kind().await, ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn something_else_on_the_socket_is_no_daemon() {
    let directory = TempDir::new().expect("temporary directory");
    let path = directory.path().join("usher.sock");
    let listener = tokio::net::UnixListener::bind(&path).expect("socket");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"220 mail.example.test ESMTP\r\n").await;
        }
    });
    match Client::new(&path).status().await {
        Err(ClientError::Http { .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn stopping_removes_the_socket() {
    let daemon = FakeDaemon::start().await;
    Client::new(&daemon.socket).status().await.expect("status");
    // A visitor who never ends his request must not hold the daemon up.
    let mut slow = tokio::net::UnixStream::connect(&daemon.socket).await.expect("connection");
    let head = "POST /v1/explain HTTP/1.1\r\nHost: usher\r\nContent-Type: application/json";
    let request = format!("{head}\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n");
    slow.write_all(request.as_bytes()).await.expect("head is sent");
    // The server asks for the body: from here on it waits for it.
    let mut invitation = [0; 12];
    slow.read_exact(&mut invitation).await.expect("interim answer");
    assert_eq!(&invitation, b"HTTP/1.1 100");
    let path = daemon.socket.clone();
    assert!(path.exists());
    let _directory = daemon.stop().await;
    let gone = UnixStream::connect(&path).expect_err("daemon has stopped");
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn socket_is_for_root_and_its_group_in_a_directory_for_all() {
    let directory = TempDir::new().expect("temporary directory");
    let path = directory.path().join("run/usher/usher.sock");
    let _socket = ControlSocket::bind(&path).await.expect("control socket");
    assert_eq!(mode(&path), 0o660);
    assert_eq!(mode(&directory.path().join("run/usher")), 0o755);
}

#[tokio::test]
async fn directory_that_exists_keeps_its_mode() {
    let directory = TempDir::new().expect("temporary directory");
    fs::set_permissions(directory.path(), Permissions::from_mode(0o750)).expect("mode is set");
    let _socket = ControlSocket::bind(&directory.path().join("usher.sock")).await.expect("control socket");
    assert_eq!(mode(directory.path()), 0o750);
}

#[tokio::test]
async fn stale_socket_is_replaced() {
    let directory = TempDir::new().expect("temporary directory");
    let path = directory.path().join("usher.sock");
    stale_socket(&path);
    let _socket = ControlSocket::bind(&path).await.expect("control socket");
    UnixStream::connect(&path).expect("somebody listens");
    assert_eq!(mode(&path), 0o660);
}

#[tokio::test]
async fn second_daemon_is_refused_and_the_first_answers_on() {
    let daemon = FakeDaemon::start().await;
    match ControlSocket::bind(&daemon.socket).await {
        Err(error @ BindError::AnotherRuns { .. }) => {
            let expected = format!("another usher runs: it answers at {}", daemon.socket.display());
            assert_eq!(error.to_string(), expected);
        }
        other => panic!("{other:?}"),
    }
    Client::new(&daemon.socket).status().await.expect("first daemon answers");
}

#[tokio::test]
async fn daemon_that_starts_at_the_same_moment_is_refused() -> io::Result<()> {
    let directory = TempDir::new()?;
    let path = directory.path().join("usher.sock");
    stale_socket(&path);
    // Shared or not, whoever holds it keeps the others out: each needs it for itself.
    let other =
        Flock::lock(File::open(directory.path())?, FlockArg::LockShared).map_err(|(_, errno)| errno)?;
    match ControlSocket::bind(&path).await {
        Err(BindError::AnotherStarts { .. }) => {}
        outcome => panic!("{outcome:?}"),
    }
    drop(other);
    ControlSocket::bind(&path).await.expect("lock is free");
    Ok(())
}

#[tokio::test]
async fn file_that_is_no_socket_is_left_alone() {
    let directory = TempDir::new().expect("temporary directory");
    let path = directory.path().join("usher.sock");
    fs::write(&path, "precious").expect("file is written");
    match ControlSocket::bind(&path).await {
        Err(BindError::NotASocket { .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read_to_string(&path).expect("file is there"), "precious");
}
