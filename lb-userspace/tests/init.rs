//! `usher init`, as a user calls it.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What a command ended with.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs `usher init` for a file, with this on its standard input.
fn init(file: &Path, arguments: &[&str], stdin: &str) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_usher"));
    command.args(["init", "--secret-file"]).arg(file).args(arguments);
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = pipes.spawn().expect("command runs");
    // One that reads nothing may have ended.
    let _unread = running.stdin.take().expect("a pipe").write_all(stdin.as_bytes());
    let output = running.wait_with_output().expect("command ends");
    let text = |octets| String::from_utf8(octets).expect("UTF-8");
    Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Runs it, expects that it worked, and gives what the file holds then and what it said.
fn worked(file: &Path, arguments: &[&str], stdin: &str) -> (Vec<String>, String) {
    let ended = init(file, arguments, stdin);
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{arguments:?}");
    let content = fs::read_to_string(file).expect("a secret");
    assert!(content.lines().all(|line| !ended.stdout.contains(line)), "a secret is shown: {}", ended.stdout);
    (content.lines().map(str::to_owned).collect(), ended.stdout)
}

fn refused(file: &Path, arguments: &[&str], stdin: &str, expected: &str) {
    let before = fs::read(file).ok();
    let ended = init(file, arguments, stdin);
    assert_eq!((ended.code, &*ended.stdout), (Some(1), ""), "{arguments:?}");
    assert!(ended.stderr.contains(expected), "{expected}: {}", ended.stderr);
    assert_eq!(fs::read(file).ok(), before, "nothing is changed");
}

fn files() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let [one, other] = ["node1/usher/secret", "node2/secret"].map(|name| directory.path().join(name));
    (directory, one, other)
}

#[test]
fn a_secret_is_made_once_and_taken_over() {
    let (_directory, one, other) = files();
    let (secret, said) = worked(&one, &[], "");
    assert_eq!(secret.len(), 1);
    assert_eq!(fs::metadata(&one).unwrap().permissions().mode() & 0o777, 0o600);
    let id = said.split_once("secret: written; secret ").unwrap().1.split_once(' ').unwrap().0.to_owned();
    assert!(said.contains("| usher init --join --secret-file /"), "{said}");
    refused(&one, &[], "", &format!("holds secret {id}; another one takes its place in three steps"));

    let whole = secret.join("\n");
    let (joined, said) = worked(&other, &["--join"], &whole);
    assert_eq!(joined, secret);
    assert!(said.contains(&format!("written; secret {id} is in use")), "{said}");
    let (_, again) = worked(&other, &["--join"], &whole);
    assert!(again.contains("as it was"), "{again}");
}

#[test]
fn what_is_no_secret_of_the_cluster_is_not_taken_over() {
    let (_directory, one, other) = files();
    refused(&one, &["--join"], "\n", "did ssh reach the other node");
    refused(
        &one,
        &["--join"],
        "Welcome to node1, it is Monday\nMDEyMzQ1Njc4OWFiY2RlZjAx\n",
        "is no secret's file",
    );
    refused(&one, &["--join"], "short", "holds 5 bytes");
    let (secret, _) = worked(&one, &[], "");
    worked(&other, &[], "");
    refused(&other, &["--join"], &secret.join("\n"), "of another cluster");
    fs::set_permissions(&one, fs::Permissions::from_mode(0o644)).unwrap();
    refused(&one, &["--join"], &secret.join("\n"), "chmod 600");
}

#[test]
fn a_name_alone_is_a_file_here() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_usher"));
    let output =
        command.args(["init", "--secret-file", "secret"]).current_dir(directory.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(directory.path().join("secret").is_file());
}

#[test]
fn a_group_that_could_read_the_secret_still_can() {
    let (directory, one, _) = files();
    worked(&one, &[], "");
    fs::set_permissions(&one, fs::Permissions::from_mode(0o640)).unwrap();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&one, &link).unwrap();
    worked(&link, &["--rotate", "add"], "");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::metadata(&one).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(fs::read_to_string(&one).unwrap().lines().count(), 2);
}

#[test]
fn another_secret_takes_its_place_in_three_steps() {
    let (_directory, one, other) = files();
    refused(&one, &["--rotate", "add"], "", "make one with: usher init");
    let (first, _) = worked(&one, &[], "");
    worked(&other, &["--join"], &first.join("\n"));
    for step in ["switch", "drop"] {
        refused(&one, &["--rotate", step], "", "there is no other secret");
    }
    let (both, said) = worked(&one, &["--rotate", "add"], "");
    assert_eq!((both.len(), &both[0]), (2, &first[0]));
    assert!(said.contains("is believed, too") && said.contains("restart usher on every node"), "{said}");
    refused(&one, &["--rotate", "add"], "", "there are two secrets already");
    let (switched, _) = worked(&one, &["--rotate", "switch"], "");
    assert_eq!(switched, [both[1].clone(), both[0].clone()]);
    let (taken_over, _) = worked(&other, &["--join"], &switched.join("\n"));
    assert_eq!(taken_over, switched);
    let (last, _) = worked(&one, &["--rotate", "drop"], "");
    assert_eq!(last, [both[1].clone()]);
}
