//! Every result code, produced by real sockets.

#![expect(clippy::unwrap_used, reason = "the lint spares tests, but not their helpers")]

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_userspace::{
    config::{CheckKind, Http},
    core::check::{CheckResult, Code},
    probe::{Probe, Source},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    task::JoinHandle,
    time::timeout,
};

/// For checks that are meant to end by themselves.
const LONG: Duration = Duration::from_secs(20);
/// For checks that are meant to time out.
const SHORT: Duration = Duration::from_millis(200);

fn tcp(target: SocketAddr) -> Probe {
    Probe::new(CheckKind::Tcp, target, LONG)
}

fn http(target: SocketAddr) -> Probe {
    asking(Http { path: "/healthz".to_owned(), ..Http::default() }, target)
}

fn asking(http: Http, target: SocketAddr) -> Probe {
    Probe::new(CheckKind::Http(Box::new(http)), target, LONG)
}

fn udp(target: SocketAddr, expect: Option<&str>) -> Probe {
    let kind = CheckKind::Udp { send: "ping".to_owned(), expect: expect.map(str::to_owned) };
    Probe::new(kind, target, LONG)
}

/// Answers each datagram with itself, behind `prefix`; or not at all.
async fn datagrams(prefix: Option<&'static str>) -> (SocketAddr, JoinHandle<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut buffer = [0; 100];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            if let Some(prefix) = prefix {
                let answer = [prefix.as_bytes(), &buffer[..length]].concat();
                socket.send_to(&answer, from).await.unwrap();
            }
        }
    });
    (address, task)
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address that refuses connections and that probes may use as their own; nobody else gets it meanwhile.
fn reserved() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Answers each connection with `answer` after the whole request came; then closes, or keeps the connection open.
async fn server(answer: Vec<u8>, close: bool) -> (SocketAddr, JoinHandle<()>) {
    let (listener, address) = listener().await;
    let task = tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream).await;
            // The probe may hang up before it has read everything.
            let _ = stream.write_all(&answer).await;
            if !close {
                open.push(stream);
            }
        }
    });
    (address, task)
}

async fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(request).unwrap()
}

#[track_caller]
fn assert_result(result: &CheckResult, code: Code, detail: &str) {
    assert_eq!((result.code, result.detail.as_str()), (code, detail));
}

/// Runs an HTTP check against a server that answers so and closes.
async fn answered(answer: impl Into<Vec<u8>>) -> CheckResult {
    let (address, _server) = server(answer.into(), true).await;
    http(address).run_once().await
}

#[tokio::test]
async fn l4ok() {
    let (_listener, address) = listener().await;
    assert_result(&tcp(address).run_once().await, Code::L4Ok, "");
}

#[tokio::test]
async fn l4ok_over_ipv6() {
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    assert_result(&tcp(listener.local_addr().unwrap()).run_once().await, Code::L4Ok, "");
}

#[tokio::test]
async fn l4con() {
    let (_socket, address) = reserved();
    assert_result(&tcp(address).run_once().await, Code::L4Con, "Connection refused");
    assert_result(&http(address).run_once().await, Code::L4Con, "Connection refused");
}

/// A listener whose queue is full does not answer: the kernel drops the SYN. The connections in the queue come with it.
async fn full() -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queue = Vec::new();
    while let Ok(stream) = timeout(Duration::from_secs(1), TcpStream::connect(address)).await {
        queue.push(stream.unwrap());
    }
    (listener, queue)
}

#[tokio::test]
async fn l4ok_after_a_while() {
    let (listener, queue) = full().await;
    let mut probe = tcp(listener.local_addr().unwrap());
    let check = tokio::spawn(async move { probe.run_once().await });
    tokio::time::sleep(SHORT).await;
    for _ in queue {
        drop(listener.accept().await.unwrap());
    }
    let result = check.await.unwrap();
    assert_result(&result, Code::L4Ok, "");
    assert!(result.duration > SHORT, "{:?}", result.duration);
}

#[tokio::test]
async fn l4tout() {
    let (listener, _queue) = full().await;
    let address = listener.local_addr().unwrap();
    for probe in [tcp(address), http(address)] {
        let result = Probe { timeout: SHORT, ..probe }.run_once().await;
        assert_result(&result, Code::L4Tout, "timeout after 200ms");
        assert!(result.duration >= SHORT);
    }
}

#[tokio::test]
async fn sockerr() {
    let source: IpAddr = "192.0.2.1".parse().unwrap();
    let (_listener, address) = listener().await;
    let result = Probe { source: Some(Source::address(source)), ..tcp(address) }.run_once().await;
    assert_result(&result, Code::Sockerr, "Cannot assign requested address here");
}

#[tokio::test]
async fn connects_from_the_wanted_address_and_port() {
    let (listener, address) = listener().await;
    let other: IpAddr = "127.0.0.2".parse().unwrap();
    assert_result(
        &Probe { source: Some(Source::address(other)), ..tcp(address) }.run_once().await,
        Code::L4Ok,
        "",
    );
    assert_eq!(listener.accept().await.unwrap().1.ip(), other);

    let reserved = [reserved(), reserved()];
    let sources = reserved.each_ref().map(|(_, source)| *source);
    let mut ports = sources.map(|source| source.port()).into_iter();
    let source = Source::new(move || (Some(sources[0].ip()), ports.next()));
    let mut probe = Probe { source: Some(source), ..tcp(address) };
    for source in sources {
        assert_result(&probe.run_once().await, Code::L4Ok, "");
        assert_eq!(listener.accept().await.unwrap().1, source);
    }
    // Nothing left to choose: any port does.
    assert_result(&probe.run_once().await, Code::L4Ok, "");
}

/// The same four numbers can be used again at once: no TIME_WAIT stays behind.
#[tokio::test]
async fn leaves_no_time_wait() {
    let (tcp_listener, tcp_address) = listener().await;
    let (http_address, _server) =
        server(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(), true).await;
    for (probe, expected) in [(tcp(tcp_address), Code::L4Ok), (http(http_address), Code::L7Ok)] {
        let (_socket, source) = reserved();
        let source = Source::new(move || (Some(source.ip()), Some(source.port())));
        let mut probe = Probe { source: Some(source), ..probe };
        for run in 0..20 {
            let result = probe.run_once().await;
            assert_eq!(result.code, expected, "run {run}: {}", result.detail);
        }
    }
    drop(tcp_listener);
}

#[tokio::test]
async fn l7ok() {
    assert_result(&answered("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await, Code::L7Ok, "200 OK");
    assert_result(&answered("HTTP/1.0 204 No Content\r\n\r\n").await, Code::L7Ok, "204 No Content");
    // Without a length the answer ends with the connection.
    assert_result(&answered("HTTP/1.1 299 Fine\r\n\r\nok").await, Code::L7Ok, "299");
}

#[tokio::test]
async fn asks_for_path_and_host() {
    for (host, expected) in [(None, None), (Some("www.example.test"), Some("www.example.test"))] {
        let (listener, address) = listener().await;
        let path = "/a?b=c".to_owned();
        let http = Http { path, host: host.map(str::to_owned), expect: vec![200..=200], ..Http::default() };
        let check = tokio::spawn(async move { asking(http, address).run_once().await });
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        assert_eq!(check.await.unwrap().code, Code::L7Ok);

        let host = expected.map_or_else(|| address.to_string(), str::to_owned);
        let lines: Vec<&str> = request.lines().collect();
        assert_eq!(lines[0], "GET /a?b=c HTTP/1.1");
        assert!(lines.contains(&format!("host: {host}").as_str()), "{request}");
        assert!(lines.contains(&"connection: close"), "{request}");
    }
}

#[tokio::test]
async fn asks_by_method_and_with_headers() {
    for (method, answer) in
        [("HEAD", "content-length: 100\r\n"), ("OPTIONS", ""), ("POST", "content-length: 0\r\n")]
    {
        let (listener, address) = listener().await;
        let headers = [("X-Probe", "usher"), ("User-Agent", "probe/1")];
        let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.to_owned())).into();
        let http = Http { method, headers, ..Http::default() };
        let check = tokio::spawn(async move { asking(http, address).run_once().await });
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = read_request(&mut stream).await;
        stream.write_all(format!("HTTP/1.1 200 OK\r\n{answer}\r\n").as_bytes()).await.unwrap();
        drop(stream);
        assert_result(&check.await.unwrap(), Code::L7Ok, "200 OK");
        let lines: Vec<&str> = request.lines().collect();
        assert_eq!(lines[0], format!("{method} / HTTP/1.1"));
        assert!(lines.contains(&"x-probe: usher") && lines.contains(&"user-agent: probe/1"), "{request}");
        assert!(!request.contains("usher/"), "its own user agent gives way: {request}");
    }
}

#[tokio::test]
async fn l7rsp_when_the_body_is_another() {
    let long = "x".repeat(100_000);
    for (body, expect, code, detail) in [
        ("all is ready", "ready", Code::L7Ok, "200 OK"),
        ("not yet", "ready", Code::L7Rsp, "body \"not yet\" (7 bytes) does not contain \"ready\""),
        ("", "ready", Code::L7Rsp, "body \"\" (0 bytes) does not contain \"ready\""),
        (
            &long,
            "y",
            Code::L7Rsp,
            "body \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…\" (65536 bytes) does not contain \"y\"",
        ),
        ("line 1\n", "line 2\n", Code::L7Rsp, "body \"line 1\\n\" (7 bytes) does not contain \"line 2\\n\""),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let (address, _server) = server(answer.into(), true).await;
        let http = Http { expect_body: Some(expect.to_owned()), ..Http::default() };
        assert_result(&asking(http, address).run_once().await, code, detail);
    }
    // What comes behind the first 64 KiB is not looked at.
    let body = "x".repeat(64 * 1024) + "ready";
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let (address, _server) = server(answer.into(), true).await;
    let http = Http { expect_body: Some("ready".to_owned()), ..Http::default() };
    assert_eq!(asking(http, address).run_once().await.code, Code::L7Rsp);
}

#[tokio::test]
async fn l7rsp_when_a_header_is_another() {
    for (headers, code, detail) in [
        ("x-state: ready, set\r\n", Code::L7Ok, "200 OK"),
        ("X-State: busy\r\nX-State: ready\r\n", Code::L7Ok, "200 OK"),
        ("X-State: draining\r\n", Code::L7Rsp, "header x-state is \"draining\", expected \"ready\""),
        ("", Code::L7Rsp, "no header x-state, expected \"ready\""),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{headers}content-length: 0\r\n\r\n");
        let (address, _server) = server(answer.into(), true).await;
        let expect_header = vec![("X-State".parse().unwrap(), "ready".to_owned())];
        let http = Http { expect_header, ..Http::default() };
        assert_result(&asking(http, address).run_once().await, code, detail);
    }
    // The status comes first: what a server says of its trouble tells more.
    let (address, _server) = server("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n".into(), true).await;
    let http = Http { expect_body: Some("ready".to_owned()), ..Http::default() };
    let result = asking(http, address).run_once().await;
    assert_result(&result, Code::L7Sts, "503 Service Unavailable, expected 200-399");
}

#[tokio::test]
async fn l7sts() {
    let not_found = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
    assert_result(&answered(not_found).await, Code::L7Sts, "404 Not Found, expected 200-399");

    let (address, _server) = server(not_found.into(), true).await;
    let expecting = |expect| asking(Http { expect, ..Http::default() }, address);
    let result = expecting(vec![200..=200, 301..=302]).run_once().await;
    assert_result(&result, Code::L7Sts, "404 Not Found, expected 200,301-302");

    let result = expecting(vec![200..=200, 404..=404]).run_once().await;
    assert_result(&result, Code::L7Ok, "404 Not Found");
}

#[tokio::test]
async fn l7rsp() {
    let result = answered("SSH-2.0-OpenSSH_9.2p1\r\n").await;
    assert_eq!(result.code, Code::L7Rsp);
    assert!(result.detail.starts_with("not an HTTP answer: "), "{}", result.detail);

    for incomplete in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok"] {
        let result = answered(incomplete).await;
        assert_result(&result, Code::L7Rsp, "connection closed before the answer was complete");
    }

    // A close with data unread is a reset.
    let (listener, address) = listener().await;
    let check = tokio::spawn(async move { http(address).run_once().await });
    let (stream, _) = listener.accept().await.unwrap();
    stream.peek(&mut [0]).await.unwrap();
    drop(stream);
    assert_result(&check.await.unwrap(), Code::L7Rsp, "Connection reset by peer");
}

#[tokio::test]
async fn endless_head_is_no_answer() {
    let head = "HTTP/1.1 200 OK\r\nx: ".to_owned() + &"y".repeat(1 << 20);
    let (address, _server) = server(head.into(), false).await;
    assert_eq!(http(address).run_once().await.code, Code::L7Rsp);
}

#[tokio::test]
async fn l7tout() {
    for begun in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok"] {
        let (address, _server) = server(begun.into(), false).await;
        let result = Probe { timeout: SHORT, ..http(address) }.run_once().await;
        assert_result(&result, Code::L7Tout, "timeout after 200ms");
    }
}

/// A body of any length passes: reading stops.
#[tokio::test]
async fn endless_body_is_an_answer() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n".to_owned() + &"y".repeat(1 << 20);
    let (address, _server) = server(answer.into(), false).await;
    assert_result(&http(address).run_once().await, Code::L7Ok, "200 OK");
}

#[tokio::test]
async fn udp_l7ok_when_a_datagram_is_answered_as_expected() {
    let (address, _server) = datagrams(Some("> ")).await;
    for expect in [None, Some("> ping"), Some("pin")] {
        let result = udp(address, expect).run_once().await;
        assert_eq!((result.code, result.detail.as_str()), (Code::L7Ok, "6 bytes"), "{expect:?}");
    }
}

#[tokio::test]
async fn udp_l7rsp_when_the_answer_is_another() {
    let (address, _server) = datagrams(Some("\u{1}")).await;
    let result = udp(address, Some("pong")).run_once().await;
    assert_eq!(result.code, Code::L7Rsp);
    assert_eq!(result.detail, "\"\\x01ping\" (5 bytes) does not contain \"pong\"");
}

#[tokio::test]
async fn udp_l7tout_when_nothing_comes_back() {
    let (address, _server) = datagrams(None).await;
    let result = Probe { timeout: SHORT, ..udp(address, None) }.run_once().await;
    assert_eq!((result.code, result.detail.as_str()), (Code::L7Tout, "timeout after 200ms"));
}

#[tokio::test]
async fn udp_l4con_when_the_port_is_closed() {
    let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let result = udp(closed, None).run_once().await;
    assert_eq!((result.code, result.detail.as_str()), (Code::L4Con, "Connection refused"));
}

#[tokio::test]
async fn udp_sockerr_when_the_source_address_is_not_ours() {
    let (address, _server) = datagrams(Some("")).await;
    let mut probe =
        Probe { source: Some(Source::address("192.0.2.1".parse().unwrap())), ..udp(address, None) };
    assert_eq!(probe.run_once().await.code, Code::Sockerr);
}
