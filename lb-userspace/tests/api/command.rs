//! The `usher` command as a user calls it: arguments in; stdout, stderr and exit code out.

use std::{
    fs,
    process::{Command, Output},
};

use lb_userspace::{
    config::{Edit, NewBackend},
    core::deny::parse_file,
    deny::Denied,
    metrics,
    status::Status,
};
use tempfile::TempDir;

use crate::support::{FakeDaemon, NO_PROGRAM, example};

/// Runs the command on a thread that may block: the fake daemon lives on the runtime's others.
async fn usher(words: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_usher"));
    command.args(words);
    for variable in ["USHER_SOCKET", "USHER_CONFIG", "USHER_LOG", "NO_COLOR"] {
        command.env_remove(variable);
    }
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("thread does not panic");
    Outcome::from(output.expect("command runs"))
}

#[derive(Debug, PartialEq)]
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        Outcome {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
        }
    }
}

impl Outcome {
    fn success(stdout: impl Into<String>) -> Self {
        Outcome { code: Some(0), stdout: stdout.into(), stderr: String::new() }
    }

    fn failure(stderr: impl Into<String>) -> Self {
        Outcome { code: Some(1), stdout: String::new(), stderr: stderr.into() }
    }
}

#[tokio::test]
async fn status_prints_the_page_without_colours_into_a_pipe() {
    let daemon = FakeDaemon::start().await;
    let socket = daemon.socket.to_str().expect("path is UTF-8");
    let page = include_str!("status.txt");
    assert_eq!(usher(&["status", "--socket", socket]).await, Outcome::success(page));
}

#[tokio::test]
async fn status_prints_json() {
    let daemon = FakeDaemon::start().await;
    let socket = daemon.socket.to_str().expect("path is UTF-8");
    let outcome = usher(&["--socket", socket, "status", "--json"]).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let status: Status = serde_json::from_str(&outcome.stdout).expect("stdout is a status");
    assert_eq!(status, example());
}

#[tokio::test]
async fn metrics_prints_the_text() {
    let daemon = FakeDaemon::start().await;
    let socket = daemon.socket.to_str().expect("path is UTF-8");
    let text = metrics::text(example()).expect("text");
    assert!(text.ends_with("# EOF\n"), "{text}");
    assert_eq!(usher(&["metrics", "--socket", socket]).await, Outcome::success(text));
}

#[tokio::test]
async fn explain_prints_the_answer() {
    let daemon = FakeDaemon::start().await;
    let socket = daemon.socket.to_str().expect("path is UTF-8");
    let words = ["explain", "--socket", socket, "--from", "198.51.100.7:40001", "--to", "192.0.2.11:80/udp"];
    let page = "\
198.51.100.7:40001 -> 192.0.2.11:80/udp
  verdict   forward (forwarded)
  service   web-udp
  flow      known: it stays with the backend it has
  slot      40001
  backend   backend1 at 192.0.2.11:8080
  next hop  02:00:5e:10:00:15 on back
";
    assert_eq!(usher(&words).await, Outcome::success(page));
}

#[tokio::test]
async fn explain_passes_the_daemons_error_on() {
    let daemon = FakeDaemon::start().await;
    let socket = daemon.socket.to_str().expect("path is UTF-8");
    let words = ["explain", "--socket", socket, "--from", "198.51.100.7:40001", "--to", "192.0.2.11:443"];
    let error = format!("usher: the daemon refused: {NO_PROGRAM}\n");
    assert_eq!(usher(&words).await, Outcome::failure(error));
}

#[tokio::test]
async fn flows_prints_the_answer() {
    let daemon = FakeDaemon::start().await;
    let socket = daemon.socket.to_str().expect("path is UTF-8");
    let words =
        ["flows", "--socket", socket, "--service", "web", "--client", "198.51.100.0/24", "--limit", "9"];
    let page = "\
Flow table: holds no client addresses; name one port to look into it: --client ADDRESS:PORT
NAT records: 9 flows: 0 new, 9 proven, 0 closing
";
    assert_eq!(usher(&words).await, Outcome::success(page));
}

#[tokio::test]
async fn capture_writes_the_file_and_says_what_was_lost() {
    let daemon = FakeDaemon::start().await;
    let socket = daemon.socket.to_str().expect("path is UTF-8");
    let file = daemon.socket.with_file_name("capture.pcapng");
    let path = file.to_str().expect("path is UTF-8");
    let outcome = usher(&["capture", "--socket", socket, "--count", "7", "-w", path]).await;
    let said = "0 packets captured, 7 lost\n".to_owned();
    assert_eq!(outcome, Outcome { code: Some(0), stdout: String::new(), stderr: said });
    let bytes = std::fs::read(&file).expect("file is written");
    assert_eq!(bytes[..4], [0x0a, 0x0d, 0x0d, 0x0a], "a section begins it");

    let taken = usher(&["capture", "--socket", socket, "-w", path]).await;
    assert_eq!(taken, Outcome::failure("usher: the daemon refused: another capture is running\n"));
}

#[tokio::test]
async fn f62_deny_sends_rules_and_says_what_became_of_them() {
    let daemon = FakeDaemon::start().await;
    let socket = daemon.socket.to_str().expect("path is UTF-8");
    let sum = "1,234,567 prefixes: 1 in the configuration, 2 in its file, 3 by command\n";
    let said = |said: &str| Outcome::success(format!("{said}; {sum}"));
    let words = ["deny", "add", "--socket", socket, "198.51.100.0/24", "!198.51.100.7"];
    assert_eq!(usher(&words).await, said("1 added (1 were there already)"));

    let file = daemon.socket.with_file_name("drop.txt");
    let path = file.to_str().expect("path is UTF-8");
    let many: String =
        (0..10_001_u32).map(|number| format!("10.0.{}.{}\n", number >> 8, number & 0xff)).collect();
    std::fs::write(&file, format!("# many\n{many}")).expect("a file");
    let outcome = usher(&["deny", "add", "--socket", socket, "--file", path]).await;
    assert_eq!(outcome, said("9,999 added (2 were there already)"), "in two requests");

    let refused = usher(&["deny", "del", "--socket", socket, "192.0.2.1"]).await;
    assert_eq!(refused, Outcome::failure("usher: the daemon refused: 192.0.2.1/32 was not added\n"));

    std::fs::write(&file, "192.0.2.0/24\n192.0.2.1/24 # a mistake\n").expect("a file");
    let mistake = format!(
        "usher: {path}:2: the rule has bits set beyond its 24 bits; write \"192.0.2.0/24\" for the network, \
         \"192.0.2.1\" for the one address; nothing was changed\n"
    );
    assert_eq!(usher(&["deny", "add", "--socket", socket, "--file", path]).await, Outcome::failure(mistake));
}

#[tokio::test]
async fn server_says_what_is_set_and_what_was() {
    let daemon = FakeDaemon::start().await;
    let socket = daemon.socket.to_str().expect("path is UTF-8");
    for (words, said) in [
        (&["web/b1", "state", "drain"][..], "web/b1: drain (was ready)\n"),
        (&["web/b1", "state", "drain", "--for", "5m"], "web/b1: drain, 5 min left (was ready)\n"),
        (&["web/b1", "weight", "50%"], "web/b1: ready, weight 50% (was ready)\n"),
        (&["web/b1", "health", "down"], "web/b1: ready, health down (was ready)\n"),
        (&["web/b1", "health", "auto"], "web/b1: ready already\n"),
    ] {
        let outcome = usher(&[&["server", "set", "--socket", socket], words].concat()).await;
        assert_eq!(outcome, Outcome::success(said));
    }
    let outcome = usher(&["server", "set", "--socket", socket, "web/b2", "state", "maint"]).await;
    let warned = "usher: it is in force, but forgotten if the daemon ends now: the disk is full\n";
    assert_eq!(
        outcome,
        Outcome { stderr: warned.to_owned(), ..Outcome::success("web/b2: maint (was ready)\n") }
    );
    let confused =
        usher(&["server", "set", "--socket", socket, "web/b1", "state", "maint", "--for", "5m"]).await;
    let mend = "usher: --for belongs to `state drain`; set `state maint` without it\n";
    assert_eq!(confused, Outcome::failure(mend));
    let refused = usher(&["server", "set", "--socket", socket, "wbe/b1", "state", "drain"]).await;
    assert_eq!(refused, Outcome::failure("usher: the daemon refused: no service is called `wbe`\n"));

    let wait = ["server", "wait", "--socket", socket, "--drained", "--timeout", "0s"];
    let of = async |name: &str| usher(&[&wait[..], &[name]].concat()).await;
    assert_eq!(of("web/backend1").await, Outcome::failure("usher: web/backend1 still has 1,203 flows\n"));
    let unknown = "usher: the daemon has no backend web/backend9; see `usher status`\n";
    assert_eq!(of("web/backend9").await, Outcome::failure(unknown));
}

#[tokio::test]
async fn reload_says_what_would_change_or_why_it_is_refused() {
    let daemon = FakeDaemon::start().await;
    let socket = daemon.socket.to_str().expect("path is UTF-8");
    let outcome = usher(&["reload", "--socket", socket, "--dry-run"]).await;
    let expected = Outcome {
        stderr: "warning: usher.toml:7: more\n".to_owned(),
        ..Outcome::success("service web: added\n1 change would be made\n")
    };
    assert_eq!(outcome, expected);
    let outcome = usher(&["reload", "--socket", socket]).await;
    let stderr = "usher.toml:1: wrong\nusher.toml:2: wrong too\n".to_owned();
    assert_eq!(outcome, Outcome { code: Some(2), stdout: String::new(), stderr });
}

#[tokio::test]
async fn services_and_backends_come_and_go() {
    let daemon = FakeDaemon::start().await;
    let socket = daemon.socket.to_str().expect("path is UTF-8");
    let file = daemon.socket.with_file_name("more.toml");
    fs::write(&file, "[[service]]").expect("a file");
    let file = file.to_str().expect("path is UTF-8");
    let stderr = "usher: it is in force, but forgotten if the daemon ends now: the disk is full\n";
    let backend = NewBackend {
        name: "b4".to_owned(),
        addresses: ["203.0.113.24", "2001:db8::24"].map(|address| address.parse().expect("address")).into(),
        port: Some(8080),
        weight: None,
        backup: true,
    };
    let named = || "web".to_owned();
    let add = [
        "server",
        "add",
        "web/b4",
        "--address",
        "203.0.113.24",
        "--address",
        "2001:db8::24",
        "--port",
        "8080",
    ];
    for (words, edit) in [
        ([&add[..], &["--backup"]].concat(), Edit::AddBackend { service: named(), backend }),
        (vec!["server", "reset", "web/b4"], Edit::Reset { service: named(), backend: Some("b4".to_owned()) }),
        (vec!["service", "reset", "web"], Edit::Reset { service: named(), backend: None }),
        (vec!["service", "add", file], Edit::AddService { text: "[[service]]".to_owned() }),
    ] {
        let outcome = usher(&[&words[..], &["--socket", socket]].concat()).await;
        let expected = Outcome { stderr: stderr.to_owned(), ..Outcome::success(format!("{edit:?}\n")) };
        assert_eq!(outcome, expected);
    }
    for words in [["server", "del", "web/b4"], ["service", "del", "web"]] {
        let outcome = usher(&[&words[..], &["--socket", socket]].concat()).await;
        let stderr = "there is no such thing\n".to_owned();
        assert_eq!(outcome, Outcome { code: Some(2), stdout: String::new(), stderr });
    }
    let outcome = usher(&["service", "add", "/nowhere/more.toml", "--socket", socket]).await;
    let why = "usher: cannot read /nowhere/more.toml: No such file or directory (os error 2)\n";
    assert_eq!(outcome, Outcome::failure(why));
}

#[tokio::test]
async fn diff_says_what_the_file_does_not_and_what_it_does() {
    let daemon = FakeDaemon::start().await;
    let socket = daemon.socket.to_str().expect("path is UTF-8");
    let text = "set by commands, not in the file:\n  server web/backend4: added\n  server web/backend2: drain\n\
                in the file, not reloaded yet:\n  service web: added\n";
    assert_eq!(usher(&["diff", "--socket", socket]).await, Outcome::success(text));
    let json = usher(&["diff", "--json", "--socket", socket]).await;
    let found: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(found["not_reloaded"][0], "service web: added");
}

#[tokio::test]
async fn node_says_what_it_is_now() {
    let daemon = FakeDaemon::start().await;
    let socket = daemon.socket.to_str().expect("path is UTF-8");
    for (words, said) in [
        (&["drain"][..], "drained\n"),
        (&["drain", "--for", "90m"], "drained for 1h 30m\n"),
        (&["ready"], "ready already\n"),
    ] {
        let outcome = usher(&[&["node", "--socket", socket], words].concat()).await;
        assert_eq!(outcome, Outcome::success(said));
    }
}

#[tokio::test]
async fn f62_deny_lists_all_pages_as_a_file_has_them() {
    let daemon = FakeDaemon::start().await;
    let socket = daemon.socket.to_str().expect("path is UTF-8");
    let page = "\
# 2 prefixes: 0 in the configuration, 1 in its file, 1 by command
198.51.100.0/24          # file, overridden
!2001:db8::7/128         # command
";
    assert_eq!(usher(&["deny", "list", "--socket", socket]).await, Outcome::success(page));
    assert_eq!(parse_file(page).expect("a file").len(), 2);
    let outcome = usher(&["deny", "list", "--socket", socket, "--json"]).await;
    let all: Denied = serde_json::from_str(&outcome.stdout).expect("stdout is a list");
    assert_eq!((all.rules.len(), all.next), (2, None));
}

#[tokio::test]
async fn missing_daemon_is_explained() {
    let directory = TempDir::new().expect("temporary directory");
    let socket = directory.path().join("usher.sock");
    let socket = socket.to_str().expect("path is UTF-8");
    let error = format!(
        "usher: cannot reach the daemon at {socket}: No such file or directory (os error 2); \
         is `usher run` running, and may you read the socket (root, or its group)?\n"
    );
    assert_eq!(usher(&["status", "--socket", socket]).await, Outcome::failure(error));
}

#[tokio::test]
async fn mistakes_on_the_command_line_exit_with_2() {
    let from = "198.51.100.7:40001";
    let cases: &[(&[&str], &str)] = &[
        (&[], "Usage: usher"),
        (&["dance"], "unrecognized subcommand 'dance'"),
        (&["explain", "--from", from], "--to"),
        (&["explain", "--from", from, "--to", "www.example.test:80"], "names are not looked up"),
        (&["explain", "--from", "198.51.100.7", "--to", "192.0.2.11:80"], "write 198.51.100.7:80"),
        (&["explain", "--from", from, "--to", "[2001:db8:1::11]:80"], "both must be of one family"),
        (&["flows", "--client", "nobody"], "`nobody` names no client; write 198.51.100.7"),
        (&["flows", "--state", "old"], "[possible values: new, proven, closing]"),
        (&["capture", "--client", "nobody"], "`nobody` is no network"),
        (&["capture", "--count", "0"], "0 is not in 1.."),
        (&["flows", "--limit", "0"], "0 is not in 1..=100000"),
        (&["deny", "add"], "<PREFIX>"),
        (&["deny", "add", "192.0.2.1/24"], "write \"192.0.2.0/24\" for the network"),
        (&["deny", "add", "nobody"], "`nobody` is not an address or prefix; write one such as"),
        (&["deny", "list", "--source", "me"], "[possible values: configuration, file, command]"),
        (&["server", "set", "web", "state", "drain"], "the service's name, a slash and the backend's name"),
        (&["server", "set", "web/b1", "state", "gone"], "[possible values: ready, drain, maint]"),
        (
            &["server", "set", "web/b1", "weight", "half"],
            "`half` is no weight; use 0 to 65535, or 0% to 100%",
        ),
        (&["server", "set", "web/b1", "health", "ill"], "[possible values: up, down, auto]"),
        (&["server", "wait", "web/b1"], "--drained"),
        (&["node", "drain", "--for", "soon"], "expected number"),
        (&["flows", "--limit", "5", "--count"], "cannot be used with"),
    ];
    for (words, expected) in cases {
        let outcome = usher(words).await;
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{words:?}");
        assert!(outcome.stderr.contains(expected), "{words:?}: {}", outcome.stderr);
    }
}

#[tokio::test]
async fn version_is_the_same_both_ways() {
    let version = concat!("usher ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(usher(&["version"]).await, Outcome::success(version));
    assert_eq!(usher(&["--version"]).await, Outcome::success(version));
}

#[tokio::test]
async fn completions_know_the_verbs() {
    for shell in ["bash", "zsh", "fish"] {
        let outcome = usher(&["completions", shell]).await;
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(outcome.stdout.contains("check-config"), "{shell}");
    }
}
