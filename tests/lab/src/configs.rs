//! The files that the lab's programs read.

use std::{
    fmt::Write,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    host::Host,
    primary::key_file,
    quic::{self, QUIC_PORT},
    topology::{Forward, Options, ZONE, back_address, local_address, public_address, tunnel_sources},
};

/// How long resolvers may keep the nodes' answers.
pub const TTL: Duration = Duration::from_secs(1);

/// Everything a lab keeps on disk, but for large files.
const STATE: &str = "/run/usher-lab";

/// Large files that the backends serve; /run may be small and in memory.
pub(crate) const BIG: &str = "/var/tmp/usher-lab";

/// The lab's own BPF file system.
pub(crate) const BPFFS: &str = "bpf";

/// A file or folder of the lab; the state folder itself for "".
pub(crate) fn state(name: &str) -> PathBuf {
    Path::new(STATE).join(name)
}

/// A file of one host.
pub(crate) fn file(host: Host, name: &str) -> PathBuf {
    state(&host.to_string()).join(name)
}

/// Where a node's data path outlives its daemon.
pub(crate) fn pins(node: Host) -> PathBuf {
    state(BPFFS).join(node.to_string())
}

/// Where a backend keeps what was uploaded to it as `/upload/NAME`.
pub(crate) fn uploads(backend: Host) -> PathBuf {
    Path::new(BIG).join(backend.to_string())
}

/// Where a backend keeps a file for each address that it tells that it is not well.
pub(crate) fn refused_checks(backend: Host) -> PathBuf {
    file(backend, "refused-checks")
}

/// A backend's web server, on ports 80 and 8080: one line that names the backend, and below `/numbered/`
/// what was asked for too; files in `/big/`; takes files in `/upload/`.
pub(crate) fn nginx(backend: Host) -> String {
    let folder = state(&backend.to_string());
    let folder = folder.display();
    let uploads = uploads(backend);
    let uploads = uploads.display();
    let refused = refused_checks(backend);
    let refused = refused.display();
    format!(
        r#"daemon off;
user root;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    keepalive_requests 1000000;
    default_type text/plain;
    client_body_temp_path {uploads}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 80 backlog=4096;
        listen 8080 backlog=4096;
        listen [::]:80 backlog=4096 ipv6only=on;
        listen [::]:8080 backlog=4096 ipv6only=on;
        location = /healthz {{
            if (-f {refused}/$remote_addr) {{ return 503 "not well\n"; }}
            return 200 "ok\n";
        }}
        location /big/ {{ alias {BIG}/; }}
        location /upload/ {{ root {uploads}; dav_methods PUT; create_full_put_path on; client_max_body_size 0; }}
        location /numbered/ {{ return 200 "{backend} $uri\n"; }}
        location / {{ return 200 "{backend}\n"; }}
    }}
}}
"#
    )
}

/// The resolver: the zone is delegated to all nodes, or to its primary; nothing else exists. What it remembers of a
/// server's silence is short-lived, so that a node is asked again soon after it came back.
pub(crate) fn unbound(options: &Options) -> String {
    let folder = state(&Host::Resolver.to_string());
    let mut text = format!(
        r#"server:
    username: ""
    chroot: ""
    directory: "{folder}"
    pidfile: ""
    use-syslog: no
    logfile: ""
    do-daemonize: no
    num-threads: 1
    module-config: "iterator"
    access-control: 0.0.0.0/0 allow
    access-control: ::/0 allow
    # "test." is empty by default (RFC 6761), and the lab reaches no root server.
    local-zone: "." refuse
    local-zone: "{ZONE}." transparent
    target-fetch-policy: "0 0 0 0 0"
    rrset-roundrobin: yes
    infra-host-ttl: 5
    infra-keep-probing: yes
    # Milliseconds. With the defaults (376, 120000) a query that meets a dead node takes up to 1.7 s.
    unknown-server-time-limit: 100
    infra-cache-max-rtt: 200
    cache-max-negative-ttl: 1
"#,
        folder = folder.display()
    );
    for address in local_address(Host::Resolver).into_iter().flat_map(|pair| pair.both()) {
        let _ = writeln!(text, "    interface: {address}");
    }
    let _ = write!(text, "remote-control:\n    control-enable: no\nstub-zone:\n    name: \"{ZONE}.\"\n");
    let nodes = options.node_hosts().filter(|_| !options.dns.is_shared());
    let servers = nodes.chain(options.dns.is_shared().then_some(Host::Dns));
    for address in servers.flat_map(addresses) {
        let _ = writeln!(text, "    stub-addr: {address}");
    }
    text
}

/// Files in the client's /etc: names come from the lab's resolver and nowhere else.
pub(crate) fn client_etc() -> [(&'static str, String); 3] {
    let resolver = local_address(Host::Resolver).map(|pair| pair.v4.to_string()).unwrap_or_default();
    [
        ("resolv.conf", format!("nameserver {resolver}\noptions timeout:2 attempts:2\n")),
        ("nsswitch.conf", "hosts: files dns\n".to_owned()),
        ("hosts", "127.0.0.1 localhost\n::1 localhost\n".to_owned()),
    ]
}

/// A node's configuration.
pub(crate) fn usher(node: Host, options: &Options) -> String {
    let socket = file(node, "usher.sock");
    let secret = state("secret");
    let remembered = file(node, "state.json");
    let mut text = format!(
        r#"version = 1

[node]
name = "{node}"
interfaces = {interfaces}
xdp_mode = "{mode}"
addresses = {addresses}
socket = "{socket}"
secret_file = "{secret}"
state_file = "{remembered}"
pin_dir = "{pins}"
metrics_listen = ["127.0.0.1:9464"]

[dns]
zone = "{ZONE}"
listen = {listen}
ttl = "{ttl}s"
negative_ttl = "{ttl}s"
"#,
        ttl = TTL.as_secs(),
        interfaces = if options.forward.has_tunnel() { r#"["front"]"# } else { r#"["front", "back"]"# },
        mode = options.xdp_mode,
        addresses = node_addresses(node, options),
        listen = list(addresses(node).map(|address| SocketAddr::new(address, 53))),
        socket = socket.display(),
        secret = secret.display(),
        remembered = remembered.display(),
        pins = pins(node).display(),
    );
    if options.dns.is_shared() {
        let primaries = list(addresses(Host::Dns).map(|address| SocketAddr::new(address, 53)));
        let key_file = key_file(node);
        let _ = write!(
            text,
            "\n[[dns.publish]]\nkind = \"rfc2136\"\nprimaries = {primaries}\nkey_file = \"{}\"\n\
             lease = \"9s\"\nrenew = \"3s\"\n",
            key_file.display()
        );
    }
    if options.forward == Forward::Nat {
        let source = list(back_address(node).into_iter().flat_map(|pair| pair.both()));
        let _ = write!(text, "\n[nat]\nsource = {source}\n");
        if let Some(ports) = &options.nat_ports {
            let _ = writeln!(text, "ports = \"{ports}\"");
        }
    }
    if let (true, Host::Node(number)) = (options.forward.has_tunnel(), node) {
        let _ = write!(text, "\n[tunnel]\nsource = {}\n", list(tunnel_sources(number).into_iter()));
    }
    if let Some(flows) = options.flows {
        let _ = write!(text, "\n[flows]\nmax = {flows}\nudp_timeout = \"2s\"\n");
    }
    for peer in options.node_hosts().filter(|&peer| peer != node) {
        let _ =
            write!(text, "\n[[peer]]\nname = \"{peer}\"\naddresses = {}\n", node_addresses(peer, options));
    }
    let services = [&WEB, &ECHO].into_iter().chain(options.quic.then_some(&QUIC));
    text + &services.map(|one| service(one, options)).collect::<String>()
}

struct Service {
    name: &'static str,
    /// Its name in the zone.
    label: &'static str,
    protocol: &'static str,
    port: u16,
}

const WEB: Service = Service { name: "web", label: "www", protocol: "tcp", port: 80 };
const ECHO: Service = Service { name: "echo", label: "echo", protocol: "udp", port: 7 };
const QUIC: Service = Service { name: "quic", label: "quic", protocol: "udp", port: QUIC_PORT };

/// One service over all backends, checked by their web server.
fn service(service: &Service, options: &Options) -> String {
    let &Service { name, label, protocol, port } = service;
    let is_web = name == WEB.name;
    let backend_port = if is_web { options.forward.web_port() } else { port };
    let check_port = if is_web { backend_port } else { WEB.port };
    let is_quic = name == QUIC.name;
    let mut text = format!(
        r#"
[[service]]
name = "{name}"
dns_name = "{label}.{ZONE}"
protocol = "{protocol}"
port = {port}
forward = "{forward}"
check = {{ kind = "http", path = "/healthz", port = {check_port}, interval = "200ms", timeout = "200ms", rise = 2, fall = 3 }}
"#,
        forward = options.forward
    );
    if is_quic {
        text += &quic::setting();
    }
    for backend in options.backend_hosts() {
        let _ = write!(
            text,
            "[[service.backend]]\nname = \"{backend}\"\naddress = {}\nport = {backend_port}\n",
            list(addresses(backend))
        );
        if is_quic && let Some(id) = quic::known_id(backend, options) {
            let _ = writeln!(text, "quic_server_id = \"{id}\"");
        }
    }
    text
}

pub(crate) fn addresses(host: Host) -> impl Iterator<Item = IpAddr> {
    local_address(host).into_iter().flat_map(|pair| pair.both())
}

/// What a node has itself, and what DNS is to name instead.
fn node_addresses(node: Host, options: &Options) -> String {
    let Some(public) = public_address(node).filter(|_| options.public) else { return list(addresses(node)) };
    let pairs = addresses(node).zip(public.both());
    let tables = pairs.map(|(own, public)| format!("{{ address = \"{own}\", publish = \"{public}\" }}"));
    format!("[{}]", tables.collect::<Vec<_>>().join(", "))
}

/// `["a", "b"]`
fn list<T: ToString>(items: impl Iterator<Item = T>) -> String {
    let items: Vec<_> = items.map(|item| format!("\"{}\"", item.to_string())).collect();
    format!("[{}]", items.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_itself_its_peers_and_every_backend() {
        let options = Options { nodes: 3, backends: 2, ..Options::default() };
        let text = usher(Host::Node(2), &options);
        assert!(text.contains("name = \"node2\"\ninterfaces"));
        assert!(text.contains("addresses = [\"192.0.2.12\", \"2001:db8:1::12\"]"));
        assert!(text.contains("listen = [\"192.0.2.12:53\", \"[2001:db8:1::12]:53\"]"));
        assert!(text.contains("source = [\"203.0.113.12\", \"2001:db8:2::12\"]"));
        assert_eq!(text.matches("[[peer]]").count(), 2);
        assert_eq!(text.matches("address = [\"203.0.113.22\", \"2001:db8:2::22\"]").count(), 2);
        assert!(text.contains("port = 8080"));
        assert!(text.contains("xdp_mode = \"native\""));
    }

    #[test]
    fn nodes_behind_the_router_publish_what_it_translates() {
        let text = usher(Host::Node(1), &Options { public: true, ..Options::default() });
        let written = |local: &str, public: &str| {
            text.contains(&format!("{{ address = \"{local}\", publish = \"{public}\" }}"))
        };
        assert!(written("192.0.2.11", "198.51.100.71") && written("2001:db8:1::12", "2001:db8:100::72"));
        assert!(text.contains("listen = [\"192.0.2.11:53\", \"[2001:db8:1::11]:53\"]"));
    }

    #[test]
    fn all_backends_but_the_last_have_a_server_id() {
        let text = usher(Host::Node(1), &Options { quic: true, ..Options::default() });
        assert!(text.contains("quic = { server_id_length = 4, config_id = 1 }"));
        assert!(text.contains("port = 443\nquic_server_id = \"0a0b0c02\""));
        assert!(!text.contains("0a0b0c03"));
        assert!(!usher(Host::Node(1), &Options::default()).contains("quic"));
    }

    #[test]
    fn direct_return_needs_no_source_and_keeps_the_port() {
        let text = usher(Host::Node(1), &Options { forward: Forward::DsrL2, ..Options::default() });
        assert!(!text.contains("[nat]"));
        assert!(!text.contains("[tunnel]"));
        assert!(!text.contains("8080"));
    }

    #[test]
    fn tunnels_have_sources_of_their_own_and_no_back_interface() {
        let text = usher(Host::Node(2), &Options { forward: Forward::DsrGue, ..Options::default() });
        assert!(text.contains("interfaces = [\"front\"]"));
        assert!(text.contains("[tunnel]\nsource = [\"192.0.2.144/29\", \"2001:db8:11:2::/64\"]"));
        assert!(text.contains("forward = \"dsr-gue\""));
    }
}
