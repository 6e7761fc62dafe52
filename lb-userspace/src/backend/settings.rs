//! What a backend host is told: by arguments, or by a small file.

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::ValueEnum;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config::XdpMode;

/// Version of the file's format.
const VERSION: u32 = 1;

/// UDP port of GUE where none is given (IANA's).
pub const GUE_PORT: u16 = 6080;

/// What a backend host is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Version of the file's format: 1.
    pub version: u32,
    /// Interfaces on which the nodes' packets arrive.
    pub interfaces: Vec<String>,
    /// Addresses of the services: what clients connect to.
    pub vips: BTreeSet<IpAddr>,
    /// How nodes forward to this host.
    #[serde(default = "default_forward")]
    pub forward: BTreeSet<Forward>,
    /// UDP port on which GUE arrives.
    #[serde(default = "default_gue_port")]
    pub gue_port: u16,
    /// Addresses that nodes know this host by; empty: all that it has, but the VIPs.
    #[serde(default)]
    pub addresses: BTreeSet<IpAddr>,
    /// Where tunnel packets may come from; empty: from anywhere.
    #[serde(default)]
    pub allow: BTreeSet<IpNet>,
    /// What should listen on the VIPs; only `check` looks at it.
    #[serde(default)]
    pub listen: BTreeSet<Listen>,
    /// How the program is attached.
    #[serde(default)]
    pub xdp_mode: XdpMode,
}

fn default_forward() -> BTreeSet<Forward> {
    BTreeSet::from([Forward::default()])
}

fn default_gue_port() -> u16 {
    GUE_PORT
}

/// How nodes forward to a backend that answers clients itself; the words are those of the nodes'
/// configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forward {
    /// On the link; only MAC addresses change.
    #[default]
    DsrL2,
    /// IP in IP.
    DsrIpip,
    /// GUE version 1 over UDP.
    DsrGue,
}

impl Forward {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Forward::DsrL2 => "dsr-l2",
            Forward::DsrIpip => "dsr-ipip",
            Forward::DsrGue => "dsr-gue",
        }
    }

    /// Bytes that the tunnel puts before an inner packet, in an outer packet of a family.
    pub fn overhead(self, v6: bool) -> u32 {
        let ip = if v6 { 40 } else { 20 };
        match self {
            Forward::DsrL2 => 0,
            Forward::DsrIpip => ip,
            Forward::DsrGue => ip + 8,
        }
    }
}

/// What listens: `tcp/80`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Listen {
    /// Whether it is UDP, else TCP.
    pub udp: bool,
    /// The port.
    pub port: u16,
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Listen, String> {
        let parsed = text.split_once('/').and_then(|(protocol, port)| {
            let udp = match protocol {
                "tcp" => false,
                "udp" => true,
                _ => return None,
            };
            port.parse().ok().filter(|port| *port != 0).map(|port| Listen { udp, port })
        });
        parsed.ok_or_else(|| format!("{text:?} is no protocol and port; write tcp/80 or udp/53"))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", if self.udp { "udp" } else { "tcp" }, self.port)
    }
}

impl TryFrom<String> for Listen {
    type Error = String;

    fn try_from(text: String) -> Result<Listen, String> {
        text.parse()
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> String {
        listen.to_string()
    }
}

/// Why settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is no TOML, or has a wrong, unknown or missing key; the cause shows line and key.
    #[error("{}: {source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, key and what is wrong.
        source: Box<toml::de::Error>,
    },
    /// A value is not possible.
    #[error("{key}: {why}")]
    Value {
        /// The setting, as the file names it.
        key: &'static str,
        /// What is wrong and what to do.
        why: String,
    },
}

impl Settings {
    /// The settings of a host with these interfaces and VIPs, all else at its default.
    pub fn new(
        interfaces: impl IntoIterator<Item = String>,
        vips: impl IntoIterator<Item = IpAddr>,
    ) -> Settings {
        Settings {
            version: VERSION,
            interfaces: interfaces.into_iter().collect(),
            vips: vips.into_iter().collect(),
            forward: default_forward(),
            gue_port: GUE_PORT,
            addresses: BTreeSet::new(),
            allow: BTreeSet::new(),
            listen: BTreeSet::new(),
            xdp_mode: XdpMode::default(),
        }
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// Any [`SettingsError`].
    pub fn load(path: &Path) -> Result<Settings, SettingsError> {
        let text = fs::read_to_string(path)
            .map_err(|source| SettingsError::Read { path: path.to_owned(), source })?;
        let settings: Settings = toml::from_str(&text)
            .map_err(|source| SettingsError::Syntax { path: path.to_owned(), source: Box::new(source) })?;
        settings.checked()
    }

    /// The settings, if they can be: alone, without a look at the host.
    ///
    /// # Errors
    /// [`SettingsError::Value`].
    pub fn checked(self) -> Result<Settings, SettingsError> {
        let refuse = |key, why: String| Err(SettingsError::Value { key, why });
        if self.version != VERSION {
            return refuse("version", format!("{} is not known; this usher reads {VERSION}", self.version));
        }
        if self.interfaces.is_empty() {
            return refuse("interfaces", "none given; name those on which the nodes' packets arrive".into());
        }
        if self.vips.is_empty() {
            return refuse("vips", "none given; name the addresses that clients connect to".into());
        }
        if self.forward.is_empty() {
            return refuse("forward", "none given; dsr-l2, dsr-ipip or dsr-gue".into());
        }
        if self.gue_port == 0 {
            return refuse("gue_port", "0 is no port".into());
        }
        for (key, addresses) in [("vips", &self.vips), ("addresses", &self.addresses)] {
            if let Some(address) = addresses.iter().find(|address| !is_host(address)) {
                return refuse(key, format!("{address} is no address that a host can be reached by"));
            }
        }
        if let Some(vip) = self.vips.intersection(&self.addresses).next() {
            return refuse(
                "addresses",
                format!("{vip} is a VIP; nodes reach this host by an address of its own"),
            );
        }
        Ok(self)
    }

    /// Whether nodes send through a tunnel, so that a program has to unpack.
    pub fn has_tunnel(&self) -> bool {
        self.forward.iter().any(|forward| *forward != Forward::DsrL2)
    }
}

/// Whether an address can be a host's: not a group's, nor everybody's own.
fn is_host(address: &IpAddr) -> bool {
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || mapped || broadcast)
}
