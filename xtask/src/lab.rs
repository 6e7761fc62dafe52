//! `cargo xtask lab`: raise, look at, use and remove the lab.

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use usher_lab::{DnsServer, Family, Fault, Forward, Host, Lab, Options, XdpMode};

use crate::{build_ebpf, cargo};

const FAULTS: &str = "\
Faults:
  link-down  its cables are pulled: both ends see it
  drop       the network loses all packets to and from it, without a sign
  drop-in    only those to it
  drop-out   only those from it
  freeze     its processes are stopped, and nothing comes or goes
  heal       everything that befell it is over

Faults add up until heal; the same one twice is the same as once.";

/// What to do with the lab.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Build usher and raise a lab that stays; a lab of the same shape that works is left as it is
    Up {
        /// Hosts that run usher: 1 to 9
        #[arg(long, default_value_t = Options::default().nodes)]
        nodes: u8,
        /// Servers behind them
        #[arg(long, default_value_t = Options::default().backends)]
        backends: u8,
        /// How nodes forward: nat, dsr-l2, dsr-ipip, dsr-gue
        #[arg(long, default_value_t = Options::default().forward)]
        forward: Forward,
        /// How the kernel runs the nodes' program: native, generic
        #[arg(long, default_value_t = Options::default().xdp_mode)]
        xdp_mode: XdpMode,
        /// Who answers for the zone: embedded (the nodes), or bind, knot, powerdns on a host `dns`
        #[arg(long, default_value_t = Options::default().dns)]
        dns: DnsServer,
        /// Let clients reach nodes by public addresses only, which the router translates one to one
        #[arg(long)]
        public: bool,
        /// Leave the nodes without usher
        #[arg(long)]
        bare: bool,
    },
    /// Show hosts, addresses and whether everything runs
    Status,
    /// Run a command on a host: `lab exec client -- curl http://www.example.test/`
    Exec {
        /// client, router, resolver, dns, node1 …, backend1 …
        host: Host,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Let a host be lost, or bring it back: `lab fault node1 drop`, `lab fault node1 heal`
    #[command(after_help = FAULTS)]
    Fault {
        /// Any but the client
        host: Host,
        /// link-down, drop, drop-in, drop-out, freeze; heal ends them all
        fault: Fault,
    },
    /// Remove the lab, also what a crash left of one
    Down,
}

pub(crate) fn lab(verb: &Verb) -> Result<()> {
    match verb {
        Verb::Up { nodes, backends, forward, xdp_mode, dns, public, bare } => up(&Options {
            nodes: *nodes,
            backends: *backends,
            forward: *forward,
            xdp_mode: *xdp_mode,
            run_usher: !bare,
            dns: *dns,
            public: *public,
            ..Options::default()
        }),
        Verb::Status => status(&Lab::attach()?),
        Verb::Exec { host, command } => exec(*host, command),
        Verb::Fault { host, fault } => present(*host)?.fault(*host, *fault),
        Verb::Down => {
            Lab::remove_any()?;
            println!("no lab is up");
            Ok(())
        }
    }
}

/// Builds what the lab runs.
pub(crate) fn build() -> Result<()> {
    build_ebpf::build_ebpf()?;
    cargo::build_programs()
}

fn up(options: &Options) -> Result<()> {
    if let Ok(lab) = Lab::attach()
        && lab.options() == options
        && lab.verify().is_ok()
    {
        println!("the lab is up already");
        return status(&lab);
    }
    if options.run_usher || options.forward.is_direct() {
        build()?;
    } else {
        cargo::build_helpers()?;
    }
    let lab = Lab::up(options)?;
    println!("the lab is up");
    status(&lab)?;
    lab.keep();
    println!("try: cargo xtask lab exec client -- curl http://www.example.test/");
    Ok(())
}

fn status(lab: &Lab) -> Result<()> {
    let options = lab.options();
    println!("{} nodes, {} backends, forwarding by {}", options.nodes, options.backends, options.forward);
    for host in options.hosts().into_iter().filter(|&host| host != Host::Switch) {
        let address = lab.address(host)?;
        println!("  {:10} {:14} {}", host.to_string(), address.of(Family::V4), address.of(Family::V6));
    }
    lab.verify()?;
    for node in (1..=options.nodes).filter(|_| options.run_usher) {
        println!("  {}", summary(lab, node)?);
    }
    Ok(())
}

/// One line on what a node's usher says.
fn summary(lab: &Lab, node: u8) -> Result<String> {
    let status = lab.status(node)?;
    let modes: Vec<_> =
        status.interfaces.iter().map(|port| format!("{} {}", port.name, port.xdp_mode)).collect();
    let backends: Vec<_> = status.services.iter().flat_map(|service| &service.backends).collect();
    let up = backends.iter().filter(|backend| backend.health == "up").count();
    let published = status.published(&format!("www.{}", usher_lab::ZONE)).len();
    Ok(format!(
        "{}: XDP {}; {up} of {} backend addresses up; publishes {published} node addresses",
        status.node,
        modes.join(", "),
        backends.len()
    ))
}

/// Becomes the command, so that signals and the exit code are its own.
fn exec(host: Host, command: &[String]) -> Result<()> {
    let lab = present(host)?;
    let words: Vec<_> = command.iter().map(String::as_str).collect();
    let error = lab.command(host, &words).exec();
    Err(error).with_context(|| format!("cannot run `{}` on {host}", words.join(" ")))
}

/// The lab that stands, if it has this host.
fn present(host: Host) -> Result<Lab> {
    let lab = Lab::attach()?;
    let hosts = lab.options().hosts();
    if !hosts.contains(&host) {
        let names: Vec<_> = hosts.iter().map(ToString::to_string).collect();
        bail!("this lab has no {host}, but {}", names.join(", "));
    }
    Ok(lab)
}
