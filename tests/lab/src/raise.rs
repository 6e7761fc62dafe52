//! Raising a lab: its files, its programs, and waiting until they work; and removing it.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Write},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, umount2},
};

use crate::{
    binaries, configs,
    configs::{BIG, BPFFS, client_etc, file, state},
    host::Host,
    lab::Lab,
    network, primary,
    process::spawn,
    quic::start_quic,
    secondary,
    topology::{Family, Options, Pair, ZONE, local_address, tunnel_sources},
    wait::until,
};

/// How long everything may take to be up after its start; it takes about two seconds.
const READY: Duration = Duration::from_secs(20);

/// Makes the network, starts everything and waits until it works.
pub(crate) fn raise(lab: &Lab) -> Result<()> {
    let options = lab.options();
    write_files(options)?;
    network::build(options)?;
    start_all(lab)?;
    wait_servers(lab)?;
    if options.run_usher {
        lab.wait_all_well(READY).with_context(|| usher_logs(options))?;
    }
    write(&state("lab.json"), &serde_json::to_string(options).context("lab.json")?)
}

/// Removes everything that a lab may have left.
pub(crate) fn clear() -> Result<()> {
    network::remove()?;
    unmount(&state(BPFFS))?;
    for folder in [state(""), PathBuf::from(BIG)] {
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", folder.display()));
            }
            _ => (),
        }
    }
    Ok(())
}

/// Every program of a lab and where it runs.
pub(crate) fn programs(options: &Options) -> Vec<(Host, &'static str)> {
    let backends = options.backend_hosts().flat_map(|host| [(host, "nginx"), (host, binaries::UDP)]);
    let quic = options.backend_hosts().filter(|_| options.quic).map(|host| (host, binaries::QUIC));
    let nodes = options.node_hosts().filter(|_| options.run_usher);
    let direct = options.backend_hosts().filter(|_| options.forward.is_direct());
    let ushers = nodes.chain(direct).map(|host| (host, binaries::USHER));
    let primary = primary::program(options).map(|program| (Host::Dns, program));
    let secondary = options.dns.has_secondary().then_some((Host::Secondary, secondary::PROGRAM));
    [(Host::Resolver, "unbound")]
        .into_iter()
        .chain(primary)
        .chain(secondary)
        .chain(ushers)
        .chain(backends)
        .chain(quic)
        .collect()
}

/// Starts usher on a node with the configuration that lies there.
pub(crate) fn start_usher(lab: &Lab, node: Host) -> Result<()> {
    start_usher_from(lab, node, &binaries::find(binaries::USHER)?)
}

/// The same with another program.
pub(crate) fn start_usher_from(lab: &Lab, node: Host, usher: &Path) -> Result<()> {
    let config = file(node, "usher.toml");
    let words = [&*usher.to_string_lossy(), "run", "--config", &config.to_string_lossy()];
    spawn(lab.command(node, &words), &log(node, binaries::USHER))
}

/// Starts a backend's web server.
pub(crate) fn start_nginx(lab: &Lab, backend: Host) -> Result<()> {
    let (config, folder) = (file(backend, "nginx.conf"), state(&backend.to_string()));
    let words = ["nginx", "-e", "stderr", "-p", &folder.to_string_lossy(), "-c", &config.to_string_lossy()];
    spawn(lab.command(backend, &words), &log(backend, "nginx"))
}

/// The last lines of a program's log, for an error; nothing when it said nothing.
pub(crate) fn log_tail(host: Host, program: &str) -> String {
    let text = fs::read_to_string(log(host, program)).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    if lines.is_empty() {
        return String::new();
    }
    format!("\nlog of {program} on {host}:\n{}\n", lines[lines.len().saturating_sub(15)..].join("\n"))
}

/// A program's log.
pub(crate) fn log(host: Host, program: &str) -> PathBuf {
    file(host, &format!("{program}.log"))
}

fn start_all(lab: &Lab) -> Result<()> {
    let options = lab.options();
    if let Some(program) = primary::program(options) {
        primary::start(lab, None)?;
        // A secondary that finds nobody tries again much later.
        wait_zone(lab, Host::Dns, program)?;
        secondary::start(lab)?;
    }
    let config = file(Host::Resolver, "unbound.conf");
    let unbound = lab.command(Host::Resolver, &["unbound", "-d", "-c", &config.to_string_lossy()]);
    spawn(unbound, &log(Host::Resolver, "unbound"))?;
    if options.forward.is_direct() {
        options.backend_hosts().try_for_each(|backend| set_up(lab, backend))?;
        options.backend_hosts().try_for_each(|backend| wait_set_up(lab, backend))?;
    }
    for backend in options.backend_hosts() {
        start_nginx(lab, backend)?;
        start_echo(lab, backend)?;
        if options.quic {
            start_quic(lab, backend)?;
        }
    }
    if options.run_usher {
        options.node_hosts().try_for_each(|node| start_usher(lab, node))?;
    }
    Ok(())
}

/// Has `usher backend` make the host one that answers clients itself.
pub(crate) fn set_up(lab: &Lab, backend: Host) -> Result<()> {
    let options = lab.options();
    let mut words: Vec<String> = ["usher", "backend", "run", "--interface", "back"].map(str::to_owned).into();
    words.extend(["--forward".to_owned(), options.forward.to_string()]);
    for vip in options.node_hosts().filter_map(local_address).flat_map(Pair::both) {
        words.extend(["--vip".to_owned(), vip.to_string()]);
    }
    if options.forward.has_tunnel() {
        let sources = (1..=options.nodes).flat_map(tunnel_sources);
        words.extend(sources.flat_map(|source| ["--allow".to_owned(), source]));
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    spawn(lab.command(backend, &words), &log(backend, binaries::USHER))
}

pub(crate) fn wait_set_up(lab: &Lab, backend: Host) -> Result<()> {
    until(&format!("{backend} is set up"), READY, || lab.run(backend, &["usher", "backend", "check"]))
        .with_context(|| format!("{backend} is not ready{}", log_tail(backend, binaries::USHER)))?;
    Ok(())
}

fn start_echo(lab: &Lab, backend: Host) -> Result<()> {
    let mut addresses: Vec<IpAddr> = lab.address(backend)?.both().to_vec();
    if lab.options().forward.is_direct() {
        addresses.extend(lab.options().node_hosts().filter_map(local_address).flat_map(Pair::both));
    }
    let (udp, name) = (binaries::find(binaries::UDP)?, backend.to_string());
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let words: Vec<&str> = [udp.to_str().context("path of the echo is not UTF-8")?, "echo", &name]
        .into_iter()
        .chain(addresses.iter().map(String::as_str))
        .collect();
    spawn(lab.command(backend, &words), &log(backend, binaries::UDP))
}

/// Waits until a server answers for the zone.
fn wait_zone(lab: &Lab, host: Host, program: &str) -> Result<()> {
    let server = format!("@{}", lab.address(host)?.of(Family::V4));
    until(&format!("{host} answers for the zone"), READY, || {
        let answer =
            lab.run(Host::Client, &["dig", "+short", "+time=1", "+tries=1", &server, ZONE, "SOA"])?;
        ensure!(!answer.is_empty(), "it has no zone {ZONE}");
        Ok(())
    })
    .with_context(|| format!("{program} is not ready{}", log_tail(host, program)))
}

/// Waits until web servers, echoes and the resolver answer.
fn wait_servers(lab: &Lab) -> Result<()> {
    for backend in lab.options().backend_hosts() {
        let address = lab.address(backend)?.of(Family::V4);
        let page = format!("http://{address}:{}/healthz", lab.options().forward.web_port());
        until(&format!("{backend} answers"), READY, || {
            lab.run(backend, &["curl", "-sSf", "-m", "1", &page])?;
            lab.run(backend, &[binaries::UDP, "ask", &format!("{address}:7"), "?"])
        })
        .with_context(|| {
            let (web, echo) = (log_tail(backend, "nginx"), log_tail(backend, binaries::UDP));
            format!("{backend} is not ready{web}{echo}")
        })?;
    }
    if lab.options().dns.has_secondary() {
        wait_zone(lab, Host::Secondary, secondary::PROGRAM)?;
    }
    // The zone may not be served yet; that anything is answered shows that unbound runs.
    until("the resolver answers", READY, || {
        lab.run(Host::Client, &["dig", "+time=1", "+tries=1", "localhost."])
    })
    .with_context(|| format!("the resolver is not ready{}", log_tail(Host::Resolver, "unbound")))?;
    Ok(())
}

fn usher_logs(options: &Options) -> String {
    let logs = options.node_hosts().map(|host| log_tail(host, binaries::USHER));
    "the nodes are not ready".to_owned() + &logs.collect::<String>()
}

fn write_files(options: &Options) -> Result<()> {
    for host in options.hosts() {
        create_folder(&state(&host.to_string()))?;
    }
    create_folder(Path::new(BIG))?;
    create_folder(&network::etc(Host::Client))?;
    for (name, text) in client_etc() {
        write(&network::etc(Host::Client).join(name), &text)?;
    }
    write(&file(Host::Resolver, "unbound.conf"), &configs::unbound(options))?;
    for backend in options.backend_hosts() {
        create_folder(&configs::uploads(backend))?;
        create_folder(&configs::refused_checks(backend))?;
        write(&file(backend, "nginx.conf"), &configs::nginx(backend))?;
    }
    for node in options.node_hosts() {
        write(&file(node, "usher.toml"), &configs::usher(node, options))?;
    }
    write_readable_by_root(&state("secret"), &(random_hex()? + "\n"))?;
    primary::write_files(options)?;
    secondary::write_files(options)?;
    mount(&state(BPFFS))
}

/// An init system's is the whole host's; this one holds nothing that the lab does not leave there.
pub(crate) fn mount(folder: &Path) -> Result<()> {
    create_folder(folder)?;
    let mounted = nix::mount::mount(Some("bpf"), folder, Some("bpf"), MsFlags::empty(), None::<&str>);
    mounted.with_context(|| format!("cannot mount a BPF file system at {}", folder.display()))
}

fn unmount(folder: &Path) -> Result<()> {
    match umount2(folder, MntFlags::MNT_DETACH) {
        // None was mounted.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot unmount {}", folder.display())),
    }
}

pub(crate) fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))
}

pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// 32 random bytes, in hexadecimal.
pub(crate) fn random_hex() -> Result<String> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .context("/dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes what is a secret.
pub(crate) fn write_readable_by_root(path: &Path, text: &str) -> Result<()> {
    OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}
