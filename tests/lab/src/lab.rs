//! A whole lab: raised, used, removed.

use std::{
    fs::{self, File},
    io::{BufReader, Read},
    iter,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    binaries,
    command::{Output, check, finish, on},
    configs::{BIG, file, pins, refused_checks, state},
    fault::{Fault, befall},
    host::Host,
    network,
    owner::{self, Turn},
    primary::{self, key_file},
    process::{Signal, end, named},
    raise::{
        clear, log, log_tail, programs, raise, set_up, start_nginx, start_usher, start_usher_from,
        wait_set_up,
    },
    status::Status,
    topology::{Family, Options, Pair, ZONE, address, back_address, checks_leave_from, client_addresses},
    traffic::{Stream, Tally, script},
    wait::until,
};

/// Loops of requests at a time: more would only wait for each other on a small machine.
const PARALLEL: usize = 4;

/// A lab that stands. Dropping the value that raised it removes the lab.
#[derive(Debug)]
pub struct Lab {
    options: Options,
    /// Held by the value that raised the lab, which therefore removes it.
    turn: Option<Turn>,
}

impl Lab {
    /// Raises a lab, in place of whatever an earlier one left, and waits until it works: backends up
    /// on every node, all nodes published, names resolved.
    ///
    /// # Errors
    /// Without root or a needed program, when another process uses the lab, and when something does
    /// not come up; the reason holds the end of its log.
    pub fn up(options: &Options) -> Result<Lab> {
        options.check()?;
        ensure_root()?;
        let turn = owner::take()?;
        clear()?;
        turn.sign()?;
        let lab = Lab { options: options.clone(), turn: Some(turn) };
        raise(&lab)?;
        Ok(lab)
    }

    /// The lab that stands, raised by whomever. Dropping the value leaves it standing.
    ///
    /// # Errors
    /// When there is none, or a part of it is missing.
    pub fn attach() -> Result<Lab> {
        let text =
            fs::read_to_string(state("lab.json")).context("no lab is up: `cargo xtask lab up` raises one")?;
        let options = serde_json::from_str(&text).context("lab.json")?;
        let lab = Lab { options, turn: None };
        ensure_root()?;
        network::verify(&lab.options)?;
        Ok(lab)
    }

    /// Removes any lab, also what a crash left of one. Needs no lab to be up.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove_any() -> Result<()> {
        ensure_root()?;
        clear()
    }

    /// Removes the lab that a process raised and has not left standing; does nothing when another did.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove_of(pid: u32) -> Result<()> {
        if owner::signed() == Some(pid) { clear() } else { Ok(()) }
    }

    /// Leaves the lab standing when this process ends.
    pub fn keep(mut self) {
        owner::leave();
        self.turn = None;
    }

    /// Removes the lab.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn down(mut self) -> Result<()> {
        let turn = self.turn.take();
        clear()?;
        drop(turn);
        Ok(())
    }

    /// What the lab consists of.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Whether every program that should run does.
    ///
    /// # Errors
    /// Names the first that does not.
    pub fn verify(&self) -> Result<()> {
        network::verify(&self.options)?;
        for (host, name) in programs(&self.options) {
            ensure!(!named(host, name).is_empty(), "no {name} runs on {host}{}", log_tail(host, name));
        }
        Ok(())
    }

    /// `command` with its arguments, to be run on `host` as somebody logged in there would: usher is
    /// on the path and finds the host's own socket.
    ///
    /// # Panics
    /// When `command` is empty.
    pub fn command(&self, host: Host, command: &[&str]) -> Command {
        assert!(!command.is_empty(), "a command has at least its name");
        self::command(host, command)
    }

    /// Runs a command on `host` and gives what it printed.
    ///
    /// # Errors
    /// Names command, host, exit code and complaint when the exit code is not 0.
    pub fn run(&self, host: Host, command: &[&str]) -> Result<String> {
        check(&mut self.command(host, command), &host.to_string())
    }

    /// Runs a command on `host`, whatever its exit code.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn output(&self, host: Host, command: &[&str]) -> Result<Output> {
        finish(&mut self.command(host, command))
    }

    /// The addresses by which clients know `host`: a node's VIPs, or where the router translates, its public ones.
    ///
    /// # Errors
    /// For the switch, which has none.
    pub fn address(&self, host: Host) -> Result<Pair> {
        address(host, &self.options).with_context(|| format!("{host} has no address"))
    }

    /// The addresses of `host` in the back network.
    ///
    /// # Errors
    /// When it is not in that network.
    pub fn back_address(&self, host: Host) -> Result<Pair> {
        back_address(host).with_context(|| format!("{host} is not in the back network"))
    }

    /// A node's configuration file.
    pub fn node_config(&self, node: u8) -> PathBuf {
        file(Host::Node(node), "usher.toml")
    }

    /// The key with which a node signs what it publishes on the host `dns`.
    pub fn key_file(&self, node: Host) -> PathBuf {
        key_file(node)
    }

    /// What a node's usher has printed so far.
    ///
    /// # Errors
    /// When usher was never started there.
    pub fn node_log(&self, node: u8) -> Result<String> {
        let path = log(Host::Node(node), binaries::USHER);
        fs::read_to_string(&path).with_context(|| format!("log {}", path.display()))
    }

    /// What a node says of itself.
    ///
    /// # Errors
    /// When its usher does not answer.
    pub fn status(&self, node: u8) -> Result<Status> {
        Status::parse(&self.run(Host::Node(node), &["usher", "status", "--json"])?)
    }

    /// The addresses that a node's DNS server answers for a name of the zone: `www`.
    ///
    /// # Errors
    /// When it does not answer, as dig sees it.
    pub fn dig(&self, node: u8, label: &str, family: Family) -> Result<Vec<String>> {
        let server = format!("@{}", self.address(Host::Node(node))?.of(Family::V4));
        let kind = if family == Family::V4 { "A" } else { "AAAA" };
        let name = format!("{label}.{ZONE}");
        let asked = ["dig", "+short", "+time=1", "+tries=1", &server, &name, kind];
        Ok(self.run(Host::Client, &asked)?.lines().map(str::to_owned).collect())
    }

    /// Sends a datagram from the client to `to` (`ADDRESS:PORT` or `NAME:PORT`), from an address and
    /// port of its own if `from` says so, and gives the answer: `backend1 PAYLOAD`.
    ///
    /// # Errors
    /// When no answer comes within a second.
    pub fn ask_udp(&self, to: &str, payload: &str, from: Option<&str>) -> Result<String> {
        let command: Vec<_> = [binaries::UDP, "ask", to, payload].into_iter().chain(from).collect();
        Ok(self.run(Host::Client, &command)?.trim_end().to_owned())
    }

    /// The client's addresses; connections leave from the first.
    pub fn client_addresses(&self) -> Vec<Pair> {
        client_addresses()
    }

    /// Fetches `http://www.example.test/` `count` times, several at a time, each on a connection of its own.
    ///
    /// # Errors
    /// When curl cannot be run; failed requests are counted.
    pub fn fetch(&self, family: Family, count: usize) -> Result<Tally> {
        let loops = (0..PARALLEL).map(|part| script(&web(), family, Some((count + part) / PARALLEL), "0"));
        let answers = self.requests(loops)?.finish();
        Ok(Tally::of(&answers))
    }

    /// Fetches `http://www.example.test/` in the background, several at a time, about 40 times a second.
    ///
    /// # Errors
    /// When curl cannot be run.
    pub fn stream(&self, family: Family) -> Result<Stream> {
        self.requests(iter::repeat_n(script(&web(), family, None, "0.1"), PARALLEL))
    }

    /// A file of `size` bytes without pattern that every backend serves as `/big/NAME`; its path here.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn big_file(&self, name: &str, size: u64) -> Result<PathBuf> {
        let path = Path::new(BIG).join(name);
        let random = File::open("/dev/urandom").context("/dev/urandom")?;
        let mut file = File::create(&path).with_context(|| format!("{}", path.display()))?;
        std::io::copy(&mut BufReader::with_capacity(1 << 20, random).take(size), &mut file)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Kills a backend's web server as a crash would. Its UDP echo lives on: checks ask the web server.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_backend(&self, backend: u8) -> Result<()> {
        end(Host::Backend(backend), "nginx", Signal::Kill)
    }

    /// Starts a backend's web server again.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_backend(&self, backend: u8) -> Result<()> {
        start_nginx(self, Host::Backend(backend))
    }

    /// Kills a backend's `usher backend` as a crash would: it unpacks nothing any more, and keeps the services' addresses.
    ///
    /// # Errors
    /// When it does not run.
    pub fn break_tunnel(&self, backend: u8) -> Result<()> {
        end(Host::Backend(backend), binaries::USHER, Signal::Kill)
    }

    /// Starts it again.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn mend_tunnel(&self, backend: u8) -> Result<()> {
        set_up(self, Host::Backend(backend))?;
        wait_set_up(self, Host::Backend(backend))
    }

    /// Lets a backend's web server answer a node's checks with 503. It serves clients as ever.
    ///
    /// # Errors
    /// When there is no such backend or node.
    pub fn fail_checks(&self, backend: u8, node: u8) -> Result<()> {
        self.refusals(backend, node)?.iter().try_for_each(|file| {
            File::create(file).map(drop).with_context(|| format!("cannot make {}", file.display()))
        })
    }

    /// Undoes [`Lab::fail_checks`].
    ///
    /// # Errors
    /// When it was not done.
    pub fn pass_checks(&self, backend: u8, node: u8) -> Result<()> {
        self.refusals(backend, node)?.iter().try_for_each(|file| {
            fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))
        })
    }

    /// The files that make a backend refuse a node's checks, in either family.
    fn refusals(&self, backend: u8, node: u8) -> Result<[PathBuf; 2]> {
        let from = checks_leave_from(node, &self.options).context("the node has no address")?;
        Ok(from.both().map(|address| refused_checks(Host::Backend(backend)).join(address.to_string())))
    }

    /// Kills a node's usher as a crash would.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_usher(&self, node: u8) -> Result<()> {
        end(Host::Node(node), binaries::USHER, Signal::Kill)
    }

    /// Stops a node's usher as an init system would, and waits until it is gone.
    ///
    /// # Errors
    /// When it does not run or does not stop within ten seconds.
    pub fn stop_usher(&self, node: u8) -> Result<()> {
        end(Host::Node(node), binaries::USHER, Signal::Term)
    }

    /// Starts usher on a node with the configuration that lies there.
    ///
    /// # Errors
    /// When it is not built.
    pub fn start_usher(&self, node: u8) -> Result<()> {
        start_usher(self, Host::Node(node))
    }

    /// Starts a program on a node in the place of usher: another build of it.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn start_usher_from(&self, node: u8, program: &Path) -> Result<()> {
        start_usher_from(self, Host::Node(node), program)
    }

    /// Where a node's data path outlives its usher.
    pub fn pin_dir(&self, node: u8) -> PathBuf {
        pins(Host::Node(node))
    }

    /// Lets a fault befall a host that is at the switch: any but the client.
    ///
    /// # Errors
    /// When there is no such host, or it is not at the switch.
    pub fn fault(&self, host: Host, fault: Fault) -> Result<()> {
        befall(host, fault)
    }

    /// The network loses without a sign what a host and some others send each other; what others were parted before are so
    /// no longer. With no others nobody is parted.
    ///
    /// # Errors
    /// When one of them is not at the switch.
    pub fn part(&self, host: Host, others: &[Host]) -> Result<()> {
        network::part(host, others)
    }

    /// Stops the zone's primary, and waits until it is gone.
    ///
    /// # Errors
    /// When there is none, or it does not stop within ten seconds.
    pub fn stop_primary(&self) -> Result<()> {
        end(Host::Dns, primary::program(&self.options).context("there is no primary")?, Signal::Term)
    }

    /// Starts the zone's primary with what it had; its clock is off by so many seconds (`"+3600"`), or right.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn start_primary(&self, clock: Option<&str>) -> Result<()> {
        primary::start(self, clock)
    }

    /// Changes the zone on BIND as its operator does, by lines of `nsupdate`.
    ///
    /// # Errors
    /// When the primary does not make the changes.
    pub fn change_zone(&self, lines: &[&str]) -> Result<()> {
        primary::change(self, lines)
    }

    /// Takes a node's interfaces away and gives it new ones, with the same names and addresses.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn rewire_node(&self, node: u8) -> Result<()> {
        network::rewire(Host::Node(node), &self.options)
    }

    /// Waits until on every node all backends are up and all addresses published, and the client
    /// resolves the name to all nodes.
    ///
    /// # Errors
    /// Names what is still amiss after `limit`.
    pub fn wait_all_well(&self, limit: Duration) -> Result<()> {
        let nodes = usize::from(self.options.nodes);
        until("every backend is up and every node published", limit, || {
            (1..=self.options.nodes).try_for_each(|node| self.status(node)?.expect_all_well())?;
            for family in Family::ALL {
                let kind = if family == Family::V4 { "A" } else { "AAAA" };
                let name = format!("www.{ZONE}");
                let found = self.run(Host::Client, &["dig", "+short", "+time=1", "+tries=1", &name, kind])?;
                ensure!(found.lines().count() == nodes, "the client sees under {name} {kind}: {found}");
            }
            Ok(())
        })
    }

    fn requests(&self, loops: impl Iterator<Item = String>) -> Result<Stream> {
        Stream::start(loops.map(|script| self.command(Host::Client, &["sh", "-c", &script])).collect())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.turn.is_some()
            && let Err(error) = clear()
        {
            eprintln!("the lab is not removed: {error:#}");
        }
    }
}

/// `command` as [`Lab::command`] has it.
pub(crate) fn command(host: Host, command: &[&str]) -> Command {
    let mut command = on(host, command);
    command
        .env("PATH", binaries::search_path())
        .env("USHER_SOCKET", file(host, "usher.sock"))
        .env("USHER_CONFIG", file(host, "usher.toml"))
        .env("USHER_PIN_DIR", pins(host))
        .env("USHER_BACKEND_STATE", file(host, "usher-backend"));
    command
}

pub(crate) fn ensure_root() -> Result<()> {
    let id = check(Command::new("id").arg("-u"), "here")?;
    if id.trim() != "0" {
        bail!("the lab needs root, to make network namespaces: run as root or with sudo -E");
    }
    Ok(())
}

fn web() -> String {
    format!("http://www.{ZONE}/")
}
