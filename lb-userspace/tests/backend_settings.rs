//! The settings of `usher backend`: what is accepted, what is refused and how, and that example, unit and
//! document are complete.

#![allow(clippy::unwrap_used)] // Clippy takes helper functions here for ordinary code.

use std::{collections::BTreeSet, fs, process::Command};

use lb_common::Verdict;
use lb_userspace::{
    backend::{Forward, Settings},
    config::XdpMode,
};

const EXAMPLE: &str = include_str!("../../dist/backend.toml");
const UNIT: &str = include_str!("../../dist/usher-backend.service");
const DOCUMENT: &str = include_str!("../../docs/backends.md");

/// Loads a file with this text; the error without the file's path.
fn load(text: &str) -> Result<Settings, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backend.toml");
    fs::write(&path, text).unwrap();
    Settings::load(&path).map_err(|error| error.to_string().replace(&format!("{}: ", path.display()), ""))
}

const SMALLEST: &str = "version = 1\ninterfaces = [\"eth0\"]\nvips = [\"192.0.2.11\"]\n";

#[test]
fn a_file_says_what_arguments_say() {
    let text = format!(
        "{SMALLEST}forward = [\"dsr-gue\", \"dsr-l2\"]\ngue_port = 6081\naddresses = [\"203.0.113.21\"]\n\
         allow = [\"198.51.100.0/24\"]\nlisten = [\"udp/53\"]\nxdp_mode = \"generic\"\n"
    );
    let mut expected = Settings::new(["eth0".to_owned()], ["192.0.2.11".parse().unwrap()]);
    expected.forward = BTreeSet::from([Forward::DsrL2, Forward::DsrGue]);
    expected.gue_port = 6081;
    expected.addresses = BTreeSet::from(["203.0.113.21".parse().unwrap()]);
    expected.allow = BTreeSet::from(["198.51.100.0/24".parse().unwrap()]);
    expected.listen = BTreeSet::from(["udp/53".parse().unwrap()]);
    expected.xdp_mode = XdpMode::Generic;
    assert_eq!(load(&text).unwrap(), expected);
    assert_eq!(load(SMALLEST).unwrap(), Settings::new(["eth0".to_owned()], ["192.0.2.11".parse().unwrap()]));
}

#[test]
fn what_cannot_be_is_refused() {
    for (from, to, complaint) in [
        ("version = 1", "version = 2", "version: 2 is not known; this usher reads 1"),
        ("[\"eth0\"]", "[]", "interfaces: none given; name those on which the nodes' packets arrive"),
        ("[\"192.0.2.11\"]", "[]", "vips: none given; name the addresses that clients connect to"),
        ("192.0.2.11", "224.0.0.1", "vips: 224.0.0.1 is no address that a host can be reached by"),
        (
            "192.0.2.11",
            "::ffff:192.0.2.11",
            "vips: ::ffff:192.0.2.11 is no address that a host can be reached by",
        ),
        ("\n", "\nforward = []\n", "forward: none given; dsr-l2, dsr-ipip or dsr-gue"),
        ("\n", "\ngue_port = 0\n", "gue_port: 0 is no port"),
        (
            "\n",
            "\naddresses = [\"192.0.2.11\"]\n",
            "addresses: 192.0.2.11 is a VIP; nodes reach this host by an address of its own",
        ),
    ] {
        assert_eq!(load(&SMALLEST.replacen(from, to, 1)).unwrap_err(), complaint);
    }
    for (line, complaint) in [
        ("vip = [\"192.0.2.12\"]", "unknown field `vip`"),
        ("forward = [\"nat\"]", "unknown variant `nat`"),
        ("listen = [\"sctp/80\"]", "\"sctp/80\" is no protocol and port; write tcp/80 or udp/53"),
        ("listen = [\"tcp/0\"]", "\"tcp/0\" is no protocol and port; write tcp/80 or udp/53"),
        ("allow = [\"198.51.100.0/33\"]", "invalid IP address syntax"),
    ] {
        let error = load(&format!("{SMALLEST}{line}\n")).unwrap_err();
        assert!(error.contains(complaint) && error.contains("line 4"), "{error}");
    }
}

#[test]
fn a_refused_command_line_ends_with_2_and_does_nothing() {
    let state = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_usher"))
        .args(["backend", "run", "--vip", "192.0.2.11", "--state"])
        .arg(state.path().join("never"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, "usher: interfaces: none given; name those on which the nodes' packets arrive\n");
    assert!(!state.path().join("never").exists());
}

/// The example's settings at their defaults, all of them.
#[test]
fn the_example_is_complete_and_true() {
    let plain = load(EXAMPLE).unwrap();
    let all: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert_eq!(load(&all).unwrap(), plain);
    let keys = serde_json::to_value(&plain).unwrap();
    for key in keys.as_object().unwrap().keys() {
        assert!(
            all.lines().any(|line| line.starts_with(&format!("{key} = "))),
            "{key} is not in the example"
        );
        assert!(DOCUMENT.contains(&format!("`{key}`")), "{key} is not in docs/backends.md");
    }
}

#[test]
fn the_document_has_every_verdict() {
    for verdict in Verdict::ALL {
        let label = verdict.label();
        assert!(DOCUMENT.contains(&format!("`{label}`")), "{label} is not in docs/backends.md");
    }
}

/// What systemd takes away cannot be had by being root.
#[test]
fn the_unit_leaves_the_capabilities_that_help_names() {
    let capabilities = |text: &str| -> BTreeSet<String> {
        let words = text.split(|letter: char| !letter.is_ascii_uppercase() && letter != '_');
        words.filter(|word| word.starts_with("CAP_")).map(str::to_owned).collect()
    };
    let kept = UNIT.lines().find(|line| line.starts_with("CapabilityBoundingSet=")).unwrap();
    let help = Command::new(env!("CARGO_BIN_EXE_usher")).args(["backend", "run", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(capabilities(kept).contains("CAP_NET_ADMIN"));
    assert_eq!(capabilities(kept), capabilities(&help));
}
