use std::io;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UdpSocket},
    sync::{oneshot, watch},
};

use super::*;
use crate::{
    config::AllDown,
    core::{
        exchange::Serving,
        publish::{
            PeerStates,
            fixture::{config, ip, pool},
            publication,
        },
        zone::Zone,
    },
    dns::{self, tcp::frame},
};

/// Long enough never to matter when an answer comes.
const PATIENCE: Duration = Duration::from_secs(20);

const SECRET: [u8; 32] = [7; 32];

fn keys() -> PeerKeys {
    PeerKeys::new((7, SECRET), None)
}

/// What a node with so many services says.
fn word(services: usize) -> PeerWord {
    let serves = (0..services)
        .map(|n| (pool(&format!("echo{n}/v6")), Serving { serves: n % 2 == 0, up: n, of: services }))
        .collect();
    PeerWord { boot: 5, sequence: 3, serves, ..PeerWord::default() }
}

/// A real server of a node that says this; it ends with the sender.
fn serve(word: PeerWord) -> (SocketAddr, oneshot::Sender<()>) {
    serve_with(keys(), word)
}

fn serve_with(keys: PeerKeys, word: PeerWord) -> (SocketAddr, oneshot::Sender<()>) {
    let config = config(AllDown::All);
    let nothing = publication(&config, &Default::default(), &PeerStates::new());
    let zone = Zone::new(&config, config.dns.as_ref().unwrap(), &nothing, 1);
    let sockets = dns::bind(&["127.0.0.1:0".parse().unwrap()], &[]).unwrap();
    let address = sockets.local_addrs()[0];
    let (_, zone) = watch::channel(Arc::new(zone));
    let (_, word) = watch::channel(Arc::new(word));
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(sockets.serve(zone, Some(Exchange { keys, word }), async {
        let _ = stopped.await;
    }));
    (address, stop)
}

async fn ask(address: SocketAddr) -> Result<PeerWord, AskError> {
    ask_peer(address, &keys(), "example.test", PATIENCE).await
}

#[tokio::test]
async fn a_peer_says_what_is_true_of_it() {
    let (address, _stop) = serve(word(3));
    assert_eq!(ask(address).await.unwrap(), word(3));
}

#[tokio::test]
async fn a_long_word_comes_over_tcp() {
    let (address, _stop) = serve(word(400));
    assert_eq!(ask(address).await.unwrap(), word(400));
}

#[tokio::test]
async fn who_has_not_the_secret_is_told_nothing() {
    let (address, _stop) = serve(word(3));
    let error =
        ask_peer(address, &PeerKeys::new((8, [8; 32]), None), "example.test", PATIENCE).await.unwrap_err();
    assert!(matches!(error, AskError::Key { .. }), "{error:?}");
    assert!(error.to_string().contains("another secret"), "{error}");

    let name = name("example.test").unwrap();
    let unsigned = dns::ask::build_query(&name, Rtype::TXT, false).unwrap();
    let answer = exchange(address, Way::ANY, &unsigned).await.unwrap();
    assert_eq!(answer.header().rcode(), Rcode::NXDOMAIN);
    assert_eq!(answer.header_counts().ancount(), 0);
}

/// Two servers would go on for ever: a question with an unknown key needs no secret, and its source may be forged.
#[test]
fn an_answer_is_not_answered() {
    let (_, word) = watch::channel(Arc::new(word(3)));
    let exchange = Exchange { keys: keys(), word };
    let reply = |query: &[u8]| exchange.reply(query, "example.test", Transport::Udp);
    for keys in [keys(), PeerKeys::new((8, [8; 32]), None)] {
        let (query, _) = query(&name("example.test").unwrap(), &keys).unwrap();
        let answer = reply(query.as_slice()).expect("an answer");
        assert!(reply(&answer.octets).is_none());
        let mut update = query.as_slice().to_vec();
        update[2] |= 5 << 3;
        assert!(reply(&update).is_none(), "another kind of request");
    }
}

#[tokio::test]
async fn nodes_agree_at_every_step_from_one_secret_to_another() {
    let [old, new] = [(1, [1; 32]), (2, [2; 32])];
    let steps = [(old, None), (old, Some(new)), (new, Some(old)), (new, None)]
        .map(|(own, other)| PeerKeys::new(own, other));
    // Each node is one step ahead at most.
    for pair in steps.windows(2) {
        for (asks, answers) in [(&pair[0], &pair[1]), (&pair[1], &pair[0])] {
            let (address, _stop) = serve_with(answers.clone(), word(1));
            assert_eq!(ask_peer(address, asks, "example.test", PATIENCE).await.unwrap(), word(1));
        }
    }
    let (address, _stop) = serve_with(steps[3].clone(), word(1));
    let error = ask_peer(address, &steps[0], "example.test", PATIENCE).await.unwrap_err();
    assert!(matches!(error, AskError::Key { .. }), "{error:?}");
}

#[tokio::test]
async fn another_name_or_type_is_no_question_to_a_peer() {
    let (address, _stop) = serve(word(3));
    let error = ask_peer(address, &keys(), "example.org", PATIENCE).await.unwrap_err();
    assert!(matches!(&error, AskError::Refused { rcode, .. } if rcode == "REFUSED"), "{error}");
}

/// A server that answers one query with these octets.
async fn answers(forge: impl FnOnce(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 1024];
        let (len, client) = server.recv_from(&mut buffer).await.unwrap();
        for datagram in forge(&buffer[..len]) {
            server.send_to(&datagram, client).await.unwrap();
        }
    });
    address
}

/// What a node with this key answers.
fn answer_of(secret: &[u8; 32], query: &[u8]) -> Vec<u8> {
    let (_, word) = watch::channel(Arc::new(word(1)));
    let exchange = Exchange { keys: PeerKeys::new((7, *secret), None), word };
    exchange.reply(query, "example.test", Transport::Udp).unwrap().octets
}

#[tokio::test]
async fn what_does_not_belong_to_the_question_is_ignored() {
    let address = answers(|query| {
        let answer = answer_of(&SECRET, query);
        let mut wrong_id = answer.clone();
        wrong_id[0] ^= 1;
        let mut wrong_question = answer.clone();
        wrong_question[14] ^= 1;
        let mut no_answer = answer.clone();
        no_answer[2] &= 0x7f;
        vec![wrong_id, wrong_question, no_answer, b"noise".to_vec(), answer]
    });
    assert_eq!(ask(address.await).await.unwrap(), word(1));
}

#[tokio::test]
async fn a_falsified_answer_is_none() {
    let address = answers(|query| {
        let mut answer = answer_of(&SECRET, query);
        // Within the text.
        let at = answer.windows(5).position(|bytes| bytes == b"boot=").unwrap();
        answer[at + 10] ^= 1;
        vec![answer]
    });
    let error = ask(address.await).await.unwrap_err();
    assert!(matches!(&error, AskError::Key { .. }), "{error:?}");

    let unsigned = answers(|query| {
        let message = Message::from_octets(query).unwrap();
        vec![MessageBuilder::new_vec().start_answer(&message, Rcode::NOERROR).unwrap().finish()]
    });
    let error = ask(unsigned.await).await.unwrap_err();
    assert!(matches!(&error, AskError::Refused { .. }), "{error:?}");
}

#[test]
fn clocks_that_differ_are_named() {
    let (query, transaction) = query(&name("example.test").unwrap(), &keys()).unwrap();
    let mut answer = Message::from_octets(answer_of(&SECRET, query.as_slice())).unwrap();
    let later = Time48::from_u64(unix_seconds() + 1_000);
    let why = transaction.answer(&mut answer, later).unwrap_err();
    let error = unsigned((ip("192.0.2.12"), 53).into(), Rcode::NOERROR, &why);
    assert!(matches!(error, AskError::Clocks { .. }), "{error:?}");
    assert!(error.to_string().contains("NTP"), "{error}");
}

#[tokio::test]
async fn a_closed_port_is_known_at_once() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    drop(socket);
    let error = ask(address).await.unwrap_err();
    assert!(
        matches!(&error, AskError::Io { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused),
        "{error:?}"
    );
}

#[tokio::test]
async fn silence_ends_with_the_limit() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let limit = Duration::from_millis(50);
    let address = silent.local_addr().unwrap();
    let error = ask_peer(address, &keys(), "example.test", limit).await.unwrap_err();
    assert!(matches!(error, AskError::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn an_answer_cut_over_tcp_too_is_malformed() {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(address).await.unwrap();
    let cut = |query: &[u8]| {
        let mut answer = answer_of(&SECRET, query);
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
    let error = ask(address).await.unwrap_err();
    assert!(matches!(error, AskError::Malformed(_)), "{error}");
}
