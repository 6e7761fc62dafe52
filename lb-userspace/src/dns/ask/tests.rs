use std::sync::Arc;

use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
};

use super::*;
use crate::{
    config::{AllDown, Config},
    core::{
        publish::{
            PeerStates, SelfState,
            fixture::{all, config, pool},
            publication,
        },
        zone::Zone,
    },
    dns,
};

/// Long enough never to matter when an answer comes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A real server of a node with this configuration; it ends with the sender.
fn serve(config: &Config, own: &BTreeMap<PoolId, SelfState>) -> (SocketAddr, oneshot::Sender<()>) {
    let zone =
        Zone::new(config, config.dns.as_ref().unwrap(), &publication(config, own, &PeerStates::new()), 1);
    let sockets = dns::bind(&["127.0.0.1:0".parse().unwrap()], &[]).unwrap();
    let address = sockets.local_addrs()[0];
    let (_, receiver) = watch::channel(Arc::new(zone));
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(sockets.serve(receiver, async {
        let _ = stopped.await;
    }));
    (address, stop)
}

#[tokio::test]
async fn a_peer_says_what_it_serves() {
    let mut own = all(SelfState::Serves);
    own.insert(pool("echo/v6"), SelfState::NoBackend);
    let (address, _stop) = serve(&config(AllDown::All), &own);
    let answer = ask_serves(address, "example.test", PATIENCE).await.unwrap();
    let expected = own.into_iter().map(|(pool, state)| (pool, state == SelfState::Serves)).collect();
    assert_eq!(answer, expected);
}

#[tokio::test]
async fn a_long_list_comes_over_tcp() {
    let mut config = config(AllDown::All);
    let echo = config.services[2].clone();
    for n in 0..200 {
        let mut more = echo.clone();
        more.name = format!("echo{n}").into();
        config.services.push(more);
    }
    let (address, _stop) = serve(&config, &BTreeMap::new());
    let answer = ask_serves(address, "example.test", PATIENCE).await.unwrap();
    assert_eq!(answer.len(), 6 + 400);
    assert!(!answer[&pool("echo199/v6")]);
}

#[tokio::test]
async fn a_server_of_another_zone_is_no_answer() {
    let (address, _stop) = serve(&config(AllDown::All), &BTreeMap::new());
    let error = ask_serves(address, "example.org", PATIENCE).await.unwrap_err();
    assert!(matches!(&error, AskError::Refused { rcode, .. } if rcode == "REFUSED"), "{error}");
}

#[tokio::test]
async fn a_closed_port_is_known_at_once() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    drop(socket);
    let error = ask_serves(address, "example.test", PATIENCE).await.unwrap_err();
    assert!(
        matches!(&error, AskError::Io { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused),
        "{error:?}"
    );
}

#[tokio::test]
async fn silence_ends_with_the_limit() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let limit = Duration::from_millis(50);
    let error = ask_serves(silent.local_addr().unwrap(), "example.test", limit).await.unwrap_err();
    assert!(matches!(error, AskError::Timeout { .. }), "{error}");
}

/// The answer of a peer to one query, as octets; `value` is `up` or `down`.
fn forge(query: &[u8], value: &str) -> Vec<u8> {
    let query = Message::from_octets(query).unwrap();
    let mut answer = MessageBuilder::new_vec().start_answer(&query, Rcode::NOERROR).unwrap();
    answer.header_mut().set_aa(true);
    let name = query.sole_question().unwrap();
    let text = Txt::<Vec<u8>>::build_from_slice(format!("web/v4={value}").as_bytes()).unwrap();
    answer.push((name.qname(), 0, text)).unwrap();
    answer.finish()
}

#[tokio::test]
async fn what_does_not_belong_to_the_question_is_ignored() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        let (len, client) = server.recv_from(&mut buffer).await.unwrap();
        let query = &buffer[..len];
        let mut wrong_id = forge(query, "down");
        wrong_id[0] ^= 1;
        let mut wrong_question = forge(query, "down");
        wrong_question[14] ^= 1;
        let mut no_answer = forge(query, "down");
        no_answer[2] &= 0x7f;
        for datagram in [wrong_id, wrong_question, no_answer, b"noise".to_vec(), forge(query, "up")] {
            server.send_to(&datagram, client).await.unwrap();
        }
    });
    let answer = ask_serves(address, "example.test", PATIENCE).await.unwrap();
    assert_eq!(answer, BTreeMap::from([(pool("web/v4"), true)]));
}

#[tokio::test]
async fn an_answer_cut_over_tcp_too_is_malformed() {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(address).await.unwrap();
    let cut = |query: &[u8]| {
        let mut answer = forge(query, "up");
        answer[2] |= 2;
        answer
    };
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        let (len, client) = udp.recv_from(&mut buffer).await.unwrap();
        udp.send_to(&cut(&buffer[..len]), client).await.unwrap();
        let (mut stream, _) = tcp.accept().await.unwrap();
        let len = usize::from(stream.read_u16().await.unwrap());
        stream.read_exact(&mut buffer[..len]).await.unwrap();
        stream.write_all(&frame(&cut(&buffer[..len])).unwrap()).await.unwrap();
    });
    let error = ask_serves(address, "example.test", PATIENCE).await.unwrap_err();
    assert!(matches!(error, AskError::Malformed(_)), "{error}");
}
