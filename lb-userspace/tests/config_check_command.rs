//! `usher check-config`: what it prints and its exit code.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::{Command, ExitCode},
};

use lb_userspace::{
    cli::check_config,
    config::host::{HostFacts, Kernel},
};

const EXAMPLE: &str = include_str!("../../dist/usher.toml");

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

/// Output, errors and exit code (as `ExitCode` shows itself; it cannot be compared).
fn check(text: &str, facts: Option<HostFacts>) -> anyhow::Result<(String, String, String)> {
    let directory = tempfile::tempdir()?;
    let path: PathBuf = directory.path().join("usher.toml");
    fs::write(&path, text)?;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = block_on(check_config::run(&path, async |_| Ok(facts), |_| Ok(()), &mut out, &mut err))?;
    let [out, err] = [out, err]
        .map(|bytes| String::from_utf8_lossy(&bytes).replace(&*path.to_string_lossy(), "usher.toml"));
    Ok((out, err, format!("{code:?}")))
}

fn success() -> String {
    format!("{:?}", ExitCode::SUCCESS)
}

fn refused() -> String {
    format!("{:?}", ExitCode::from(2))
}

#[test]
fn a_good_file_is_summed_up() {
    let (out, err, code) = check(EXAMPLE, None).unwrap();
    assert_eq!(
        out,
        "node node1: 192.0.2.11, 2001:db8:1::11 on front, back; 1 peer\n\
         zone example.test: 2 listening addresses\n\
         service web: tcp port 80 on 2 addresses, 2 backends\n\
         service h3: udp port 443 on 2 addresses, 1 backend\n\
         service db: tcp port 5432 on 2 addresses, 1 backend\n\
         service dns: udp port 5353 on 2 addresses, 1 backend\n\
         service orders: tcp port 50051 on 2 addresses, 1 backend\n\
         service sorry: tcp port 8088 on 2 addresses, 1 backend\n\
         OK: usher.toml: not compared with this host\n"
    );
    assert_eq!((err.as_str(), code), ("", success()));
}

#[test]
fn a_bad_file_is_refused_with_exit_code_2_before_the_host_is_asked() {
    let (out, err, code) = check(&EXAMPLE.replace("port = 80\n", "port = 80000\n"), None).unwrap();
    assert_eq!(out, "");
    assert!(
        err.contains(": service \"web\": port: 80000 is more than 65535; use a port from 1 to 65535\n"),
        "{err}"
    );
    assert_eq!(code, refused());
}

#[test]
fn a_file_that_does_not_fit_the_host_is_refused_too() {
    let facts = HostFacts {
        interfaces: Vec::new(),
        settings: BTreeMap::new(),
        ip_local_port_range: 32_768..=60_999,
        ip_local_reserved_ports: Vec::new(),
        check_route: BTreeMap::new(),
        kernel: Kernel::default(),
    };
    let (out, err, code) = check(EXAMPLE, Some(facts)).unwrap();
    assert_eq!(out, "");
    assert!(
        err.contains(": node: interfaces: front: is no interface of this host; this host has nothing\n"),
        "{err}"
    );
    assert_eq!(code, refused());
}

#[test]
fn a_missing_file_says_why() {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let path = PathBuf::from("/nonexistent/usher.toml");
    let code =
        block_on(check_config::run(&path, async |_| Ok(None), |_| Ok(()), &mut out, &mut err)).unwrap();
    assert_eq!(
        String::from_utf8(err).unwrap(),
        "/nonexistent/usher.toml: cannot read the configuration: No such file or directory (os error 2)\n"
    );
    assert_eq!(format!("{code:?}"), refused());
}

/// The command itself, with a file: what it prints on stderr, and its exit code.
fn usher(words: &[&str], text: &str) -> (String, Option<i32>) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("usher.toml");
    fs::write(&path, text).expect("a file");
    let output = Command::new(env!("CARGO_BIN_EXE_usher")).args(words).arg("--config").arg(&path).output();
    let output = output.expect("usher runs");
    (String::from_utf8(output.stderr).expect("UTF-8"), output.status.code())
}

#[test]
fn every_command_that_reads_a_bad_file_says_so_alike() {
    let bad = EXAMPLE.replace("port = 80\n", "port = 80000\n");
    for words in [&["check-config"][..], &["run"], &["simulate"], &["dns", "plan"], &["dns", "delegation"]] {
        let (said, code) = usher(words, &bad);
        assert_eq!(said.lines().count(), 1, "{words:?}: {said}");
        assert!(said.contains(": service \"web\": port: 80000 is more than 65535;"), "{words:?}: {said}");
        assert_eq!(code, Some(2), "{words:?}");
    }
}
