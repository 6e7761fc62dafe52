//! The file format, version 1, as it is written: every value optional, as text or number, with its place.
//!
//! What is required, what the defaults are and what goes together is said in `check/`.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, value::MapAccessDeserializer},
    forward_to_deserialize_any,
};
use toml::Spanned;

/// The version of the format.
pub(super) const VERSION: i64 = 1;

/// A value that the file may leave out.
pub(super) type Value<T> = Option<Spanned<T>>;
/// A list that the file may leave out.
pub(super) type List<T> = Option<Spanned<Vec<Spanned<T>>>>;
/// Texts under names that are not this format's.
pub(super) type Texts = BTreeMap<String, Spanned<String>>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[expect(dead_code, reason = "`shape.rs` judges the version before it reads the rest")]
    pub version: Value<i64>,
    pub node: Value<Node>,
    pub nat: Value<Nat>,
    pub tunnel: Value<Tunnel>,
    pub flows: Value<Flows>,
    pub defence: Value<Defence>,
    pub dns: Value<Dns>,
    pub peer_check: Value<PeerCheck>,
    #[serde(default)]
    pub peer: Vec<Spanned<Peer>>,
    #[serde(default)]
    pub service: Vec<Spanned<Service>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    pub name: Value<String>,
    pub interfaces: List<String>,
    pub xdp_mode: Value<String>,
    pub addresses: List<NodeAddress>,
    pub socket: Value<String>,
    pub secret_file: Value<String>,
    pub state_file: Value<String>,
    pub pin_dir: Value<String>,
    pub on_stop: Value<String>,
    pub reload_on_change: Value<bool>,
    pub icmp_rate: Value<i64>,
    pub metrics_listen: List<String>,
}

/// `"192.0.2.11"`, or a table where DNS names another address.
#[derive(Debug)]
pub(super) enum NodeAddress {
    Plain(String),
    Split(SplitAddress),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SplitAddress {
    pub address: Value<String>,
    pub publish: Value<String>,
    pub check_address: Value<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nat {
    pub source: List<String>,
    pub ports: Value<String>,
    pub reply: Value<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tunnel {
    pub source: List<String>,
    pub gue_port: Value<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Flows {
    pub max: Value<i64>,
    pub fragments: Value<i64>,
    pub tcp_timeout: Value<String>,
    pub udp_timeout: Value<String>,
    pub closing_timeout: Value<String>,
    pub affinity: Value<i64>,
    pub new_per_second: Value<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Defence {
    pub deny: List<String>,
    pub deny_file: Value<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Dns {
    pub listen: List<String>,
    pub zone: Value<String>,
    pub ttl: Value<String>,
    pub ttl_in_doubt: Value<String>,
    pub negative_ttl: Value<String>,
    pub contact: Value<String>,
    pub all_down: Value<String>,
    #[serde(default)]
    pub publish: Vec<Spanned<Publish>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Publish {
    pub kind: Value<String>,
    pub zone: Value<String>,
    pub primaries: List<String>,
    pub key_file: Value<String>,
    pub lease: Value<String>,
    pub renew: Value<String>,
    pub share_rrset: Value<bool>,
    pub two_nodes: Value<String>,
    pub witness: Value<bool>,
}

/// What [`Timing`] has, too.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PeerCheck {
    pub interval: Value<String>,
    pub timeout: Value<String>,
    pub rise: Value<i64>,
    pub fall: Value<i64>,
    pub jitter: Value<f64>,
    pub restart_grace: Value<String>,
    pub peer_probe_rate: Value<i64>,
}

/// A part of `[peer_check]` and of a service's `check`. Not of serde's `flatten`, which would let unknown keys pass.
#[derive(Debug, Default)]
pub(super) struct Timing {
    pub interval: Value<String>,
    pub fast_interval: Value<String>,
    pub timeout: Value<String>,
    pub rise: Value<i64>,
    pub fall: Value<i64>,
    pub jitter: Value<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Peer {
    pub name: Value<String>,
    pub addresses: List<NodeAddress>,
    pub dns_port: Value<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Service {
    pub name: Value<String>,
    pub dns_name: Value<String>,
    pub require: Value<String>,
    pub protocol: Value<String>,
    pub port: Value<i64>,
    pub addresses: List<String>,
    pub forward: Value<String>,
    pub idle_timeout: Value<String>,
    pub on_backend_down: Value<String>,
    pub drain_timeout: Value<String>,
    pub on_drain_end: Value<String>,
    pub hash: Value<String>,
    pub affinity: Value<String>,
    pub rate_limit: Value<RateLimit>,
    pub quic: Value<Quic>,
    pub withdraw_below: Value<i64>,
    pub panic_below: Value<i64>,
    pub slow_start: Value<String>,
    pub all_down: Value<NoBackend>,
    pub check: Value<Check>,
    #[serde(default)]
    pub backend: Vec<Spanned<Backend>>,
}

/// `"reset"`, `"drop"`, or a table that names a service.
#[derive(Debug)]
pub(super) enum NoBackend {
    Word(String),
    Fallback(Fallback),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fallback {
    pub service: Value<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RateLimit {
    pub per_source: Value<i64>,
    pub burst: Value<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Quic {
    pub server_id_length: Value<i64>,
    pub config_id: Value<i64>,
}

/// What [`Timing`] has, too.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Check {
    pub kind: Value<String>,
    pub method: Value<String>,
    pub path: Value<String>,
    pub host: Value<String>,
    pub headers: Value<Texts>,
    pub expect_header: Value<Texts>,
    pub expect_body: Value<String>,
    pub send: Value<String>,
    pub expect: Value<String>,
    pub server_name: Value<String>,
    pub ca_file: Value<String>,
    pub verify: Value<bool>,
    pub command: List<String>,
    pub query: Value<String>,
    pub record: Value<String>,
    pub grpc_service: Value<String>,
    pub aim: Value<String>,
    pub source: Value<AddressPerFamily>,
    pub passive: Value<String>,
    pub port: Value<i64>,
    pub interval: Value<String>,
    pub fast_interval: Value<String>,
    pub timeout: Value<String>,
    pub rise: Value<i64>,
    pub fall: Value<i64>,
    pub jitter: Value<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Backend {
    pub name: Value<String>,
    pub address: Value<AddressPerFamily>,
    pub port: Value<i64>,
    pub weight: Value<i64>,
    pub backup: Value<bool>,
    pub quic_server_id: Value<String>,
}

/// `"203.0.113.21"`, or a list with one address per family.
#[derive(Debug)]
pub(super) enum AddressPerFamily {
    One(String),
    PerFamily(Vec<Spanned<String>>),
}

impl<'de> Deserialize<'de> for NodeAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = NodeAddress;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address, or a table with `address`, `publish` and `check_address`")
            }

            fn visit_str<E: de::Error>(self, address: &str) -> Result<NodeAddress, E> {
                Ok(NodeAddress::Plain(address.to_owned()))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<NodeAddress, A::Error> {
                SplitAddress::deserialize(MapAccessDeserializer::new(map)).map(NodeAddress::Split)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl<'de> Deserialize<'de> for NoBackend {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = NoBackend;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a word, or a table with `service`")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<NoBackend, E> {
                Ok(NoBackend::Word(word.to_owned()))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<NoBackend, A::Error> {
                Fallback::deserialize(MapAccessDeserializer::new(map)).map(NoBackend::Fallback)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl<'de> Deserialize<'de> for AddressPerFamily {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = AddressPerFamily;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address, or a list with one address per family")
            }

            fn visit_str<E: de::Error>(self, address: &str) -> Result<AddressPerFamily, E> {
                Ok(AddressPerFamily::One(address.to_owned()))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<AddressPerFamily, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(seq)).map(AddressPerFamily::PerFamily)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// Every table of the format by its path (`service.backend`; the whole file is the empty one), with its keys.
///
/// Read from the types above, so that neither the example file nor the documentation can miss one.
pub fn tables() -> Vec<(&'static str, &'static [&'static str])> {
    vec![
        ("", keys_of::<File>()),
        ("node", keys_of::<Node>()),
        ("node.addresses", keys_of::<SplitAddress>()),
        ("nat", keys_of::<Nat>()),
        ("tunnel", keys_of::<Tunnel>()),
        ("flows", keys_of::<Flows>()),
        ("defence", keys_of::<Defence>()),
        ("dns", keys_of::<Dns>()),
        ("dns.publish", keys_of::<Publish>()),
        ("peer_check", keys_of::<PeerCheck>()),
        ("peer", keys_of::<Peer>()),
        ("peer.addresses", keys_of::<SplitAddress>()),
        ("service", keys_of::<Service>()),
        ("service.all_down", keys_of::<Fallback>()),
        ("service.rate_limit", keys_of::<RateLimit>()),
        ("service.quic", keys_of::<Quic>()),
        ("service.check", keys_of::<Check>()),
        ("service.backend", keys_of::<Backend>()),
    ]
}

/// How the start of a table is written: `[dns]`, `[[service.backend]]`.
pub(super) fn header(table: &str) -> String {
    match table {
        "" => "the top of the file".to_owned(),
        "dns.publish" | "peer" | "service" | "service.backend" => format!("[[{table}]]"),
        _ => format!("[{table}]"),
    }
}

/// The keys that `T` was derived with: serde hands them to the deserializer, which stops there.
fn keys_of<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    struct Names<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Names<'_> {
        type Error = de::value::Error;

        fn deserialize_struct<V: de::Visitor<'de>>(
            self,
            _name: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Self::Error> {
            *self.0 = fields;
            self.deserialize_any(visitor)
        }

        fn deserialize_any<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
            visitor.visit_unit()
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    let mut names: &'static [&'static str] = &[];
    // The answer is in `names`; nothing is deserialized, so the result is an error every time.
    let _ = T::deserialize(Names(&mut names));
    names
}
