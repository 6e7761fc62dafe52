//! Both ends on one host, without a balancer between them: what the lab relies on.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};

const PROGRAM: &str = env!("CARGO_BIN_EXE_usher-lab-quic");

/// An id for first packets, as a client would choose it.
const INITIAL_ID: &str = "0011223344556677";

struct Server(Child);

impl Server {
    /// Starts it; the port on which it listens.
    fn start() -> Result<(Server, u16)> {
        let mut serve = Command::new(PROGRAM);
        serve.args(["serve", "server", "0", "1", "0a0b0c0d"]).stdout(Stdio::piped());
        let mut server = Server(serve.spawn().context("server")?);
        let output = server.0.stdout.take().context("no output")?;
        let mut port = String::new();
        BufReader::new(output).read_line(&mut port).context("port")?;
        Ok((server, port.trim().parse().with_context(|| format!("port `{port}`"))?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn travel(to: &str, from: &[&str]) -> Result<(bool, String)> {
    let output =
        Command::new(PROGRAM).args(["travel", to, INITIAL_ID]).args(from).output().context("client")?;
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    Ok((output.status.success(), String::from_utf8(output.stdout)?))
}

#[test]
fn connection_goes_on_from_other_addresses() -> Result<()> {
    let (_server, port) = Server::start()?;
    let to = format!("127.0.0.1:{port}");
    let (whole, answers) = travel(&to, &["127.0.0.2:0", "127.0.0.3:0", "127.0.0.2:0", "127.0.0.4:0"])?;
    assert_eq!(answers, "127.0.0.2:0 server\n127.0.0.3:0 server\n127.0.0.2:0 server\n127.0.0.4:0 server\n");
    assert!(whole);
    Ok(())
}

#[test]
fn server_that_is_not_there_is_given_up() -> Result<()> {
    let (server, port) = Server::start()?;
    drop(server);
    let (whole, answers) = travel(&format!("127.0.0.1:{port}"), &["127.0.0.2:0"])?;
    assert_eq!((whole, answers.as_str()), (false, ""));
    Ok(())
}
