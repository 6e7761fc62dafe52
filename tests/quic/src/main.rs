//! QUIC for the lab: the backends' echo, whose connection ids bear a server id, and a client that moves.
//!
//! `usher-lab-quic serve NAME PORT CONFIG_ID SERVER_ID` answers on this port of all addresses: to what comes on a
//! stream, with `NAME ` and that. Its connection ids are those of docs/quic.md. It prints the port; 0 lets it choose one.
//!
//! `usher-lab-quic travel TO:PORT INITIAL_ID FROM:PORT…` opens a connection from the first FROM, with this connection
//! id in its first packets, and moves it to each other FROM. From each it asks on ten new streams, and prints who
//! answered: `FROM:PORT NAME`. It fails when an answer takes two seconds. Ids are hexadecimal digits.

use std::{
    env,
    net::{Ipv6Addr, SocketAddr, UdpSocket},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use quinn::{
    ClientConfig, Connection, ConnectionError, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig,
    Incoming, ServerConfig, TokioRuntime,
    rustls::{
        RootCertStore,
        pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    },
};
use rand::Rng;
use rcgen::{CertificateParams, KeyPair};
use tokio::time::timeout;

/// How long an answer may take; the lab's own paths take less than a millisecond.
const PATIENCE: Duration = Duration::from_secs(2);

/// Questions from each of the client's addresses.
const QUESTIONS: usize = 10;

/// Bytes of the longest question or answer.
const LONGEST: usize = 1_000;

/// Bytes of a connection id after the server id.
const NONCE: usize = 8;

/// What the certificate is for.
const SERVER_NAME: &str = "quic.example.test";

/// An Ed25519 key in PKCS #8, but for its last 32 bytes (RFC 8410 section 7).
const KEY_PREFIX: [u8; 16] = *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", name, port, config_id, server_id] => {
            let config_id = config_id.parse().context("CONFIG_ID")?;
            let ids = ServerIds { config_id, server_id: bytes(server_id)? };
            serve(name, port.parse().context("PORT")?, ids).await
        }
        ["travel", to, initial_id, from @ ..] => {
            let from: Vec<_> = from.iter().map(|from| address(from)).collect::<Result<_>>()?;
            travel(address(to)?, ConnectionId::new(&bytes(initial_id)?), &from).await
        }
        _ => bail!(
            "usage: usher-lab-quic serve NAME PORT CONFIG_ID SERVER_ID | travel TO:PORT INITIAL_ID FROM:PORT…"
        ),
    }
}

fn address(text: &str) -> Result<SocketAddr> {
    text.parse().with_context(|| format!("`{text}` is not ADDRESS:PORT"))
}

/// The bytes that hexadecimal digits stand for.
fn bytes(digits: &str) -> Result<Vec<u8>> {
    let pair = |at| digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let bytes = (0..digits.len()).step_by(2).map(pair).collect::<Option<Vec<_>>>();
    bytes.with_context(|| format!("`{digits}` is not a row of bytes in hexadecimal digits"))
}

/// Connection ids that name the backend.
#[derive(Clone)]
struct ServerIds {
    config_id: u8,
    server_id: Vec<u8>,
}

impl ConnectionIdGenerator for ServerIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = vec![0; self.cid_len()];
        rand::rng().fill(&mut id[..]);
        id[0] = self.config_id << 5 | id[0] & 0x1f;
        id[1..=self.server_id.len()].copy_from_slice(&self.server_id);
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        1 + self.server_id.len() + NONCE
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

async fn serve(name: &str, port: u16, ids: ServerIds) -> Result<()> {
    let mut config = EndpointConfig::default();
    config.cid_generator(move || Box::new(ids.clone()));
    // One socket for both families.
    let socket = bind((Ipv6Addr::UNSPECIFIED, port).into())?;
    let endpoint = Endpoint::new(config, Some(server_config()?), socket, Arc::new(TokioRuntime))?;
    println!("{}", endpoint.local_addr()?.port());
    while let Some(incoming) = endpoint.accept().await {
        let name = name.to_owned();
        tokio::spawn(async move {
            if let Err(error) = answer(incoming, &name).await {
                eprintln!("{error:#}");
            }
        });
    }
    Ok(())
}

async fn answer(incoming: Incoming, name: &str) -> Result<()> {
    let connection = incoming.await?;
    loop {
        let (mut sender, mut receiver) = match connection.accept_bi().await {
            Err(ConnectionError::ApplicationClosed(_)) => return Ok(()),
            streams => streams?,
        };
        let question = receiver.read_to_end(LONGEST).await?;
        sender.write_all(&[name.as_bytes(), b" ", &question].concat()).await?;
        sender.finish()?;
    }
}

async fn travel(to: SocketAddr, initial_id: ConnectionId, from: &[SocketAddr]) -> Result<()> {
    let [first, others @ ..] = from else { bail!("there is nowhere to start from") };
    let endpoint = Endpoint::new(EndpointConfig::default(), None, bind(*first)?, Arc::new(TokioRuntime))?;
    let connecting = endpoint.connect_with(client_config(initial_id)?, to, SERVER_NAME)?;
    let connection = timeout(PATIENCE, connecting).await.context("no connection")??;
    println!("{first} {}", ask(&connection).await.with_context(|| format!("from {first}"))?);
    for other in others {
        endpoint.rebind(bind(*other)?)?;
        println!("{other} {}", ask(&connection).await.with_context(|| format!("from {other}"))?);
    }
    connection.close(0_u8.into(), b"");
    endpoint.wait_idle().await;
    Ok(())
}

fn bind(address: SocketAddr) -> Result<UdpSocket> {
    UdpSocket::bind(address).with_context(|| format!("cannot use {address}"))
}

/// Asks questions, one after the other; who answered all of them.
async fn ask(connection: &Connection) -> Result<String> {
    let mut answered_by: Option<String> = None;
    for number in 0..QUESTIONS {
        let question = number.to_string();
        let answer = timeout(PATIENCE, exchange(connection, &question)).await;
        let name = answer.with_context(|| format!("no answer to question {number}"))??;
        ensure!(answered_by.as_ref().is_none_or(|first| *first == name), "{answered_by:?}, then {name}");
        answered_by = Some(name);
    }
    answered_by.context("nothing was asked")
}

/// Asks on a new stream; who answered.
async fn exchange(connection: &Connection, question: &str) -> Result<String> {
    let (mut sender, mut receiver) = connection.open_bi().await?;
    sender.write_all(question.as_bytes()).await?;
    sender.finish()?;
    let answer = String::from_utf8(receiver.read_to_end(LONGEST).await?)?;
    let (name, echoed) = answer.split_once(' ').with_context(|| format!("answer `{answer}`"))?;
    ensure!(echoed == question, "asked `{question}`, got `{answer}`");
    Ok(name.to_owned())
}

fn server_config() -> Result<ServerConfig> {
    let (certificate, key) = certificate()?;
    Ok(ServerConfig::with_single_cert(vec![certificate], key.into())?)
}

fn client_config(initial_id: ConnectionId) -> Result<ClientConfig> {
    let mut trusted = RootCertStore::empty();
    trusted.add(certificate()?.0)?;
    let mut config = ClientConfig::with_root_certificates(Arc::new(trusted))?;
    config.initial_dst_cid_provider(Arc::new(move || initial_id));
    Ok(config)
}

/// The certificate of all servers and its key. Both ends make the same one, so none has to be handed around.
fn certificate() -> Result<(CertificateDer<'static>, PrivatePkcs8KeyDer<'static>)> {
    // No secret: whoever is in the lab may know it.
    let key = PrivatePkcs8KeyDer::from([&KEY_PREFIX[..], &[1; 32]].concat());
    let pair = KeyPair::try_from(&key)?;
    let certificate = CertificateParams::new([SERVER_NAME.to_owned()])?.self_signed(&pair)?;
    Ok((certificate.into(), key))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The way of making ids that the documentation shows is the one that the lab proves.
    const DOCUMENTED: &str = include_str!("../../../docs/quic.md");

    #[test]
    fn ids_are_the_documented_ones() -> Result<()> {
        let mut ids = ServerIds { config_id: 1, server_id: bytes("0a0b0c0d")? };
        let (one, two) = (ids.generate_cid(), ids.generate_cid());
        for id in [&one, &two] {
            assert_eq!(id.len(), 13);
            assert_eq!((id[0] >> 5, &id[1..5]), (1, &[0x0a, 0x0b, 0x0c, 0x0d][..]));
        }
        assert_ne!(one[5..], two[5..], "a nonce that repeats");
        Ok(())
    }

    #[test]
    fn documentation_shows_this_code() {
        let (_, code) = DOCUMENTED.split_once("```rust\n").expect("docs/quic.md has code");
        let (code, _) = code.split_once("```").expect("code ends");
        let own = include_str!("main.rs");
        for line in code.lines() {
            assert!(own.contains(line), "docs/quic.md shows `{line}`");
        }
        assert!(code.contains("fn generate_cid"), "{code}");
    }

    #[test]
    fn both_ends_have_one_certificate() -> Result<()> {
        assert_eq!(certificate()?.0, certificate()?.0);
        Ok(())
    }

    #[test]
    fn digits_are_bytes() {
        assert_eq!(bytes("0aFf").expect("digits"), [0x0a, 0xff]);
        assert!(bytes("0aF").is_err() && bytes("zz").is_err());
    }
}
