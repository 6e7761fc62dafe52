//! A lab whose process ended without removing it. Alone in its program: the forgotten lab holds the
//! turn, and another test would wait for it forever.

use std::{fs, mem, path::Path, process::Command};

use anyhow::Result;
use usher_lab::{Lab, Options, can_raise};

#[test]
fn nothing_is_left_not_even_after_a_crash() -> Result<()> {
    if !can_raise() {
        return Ok(());
    }
    let options = Options { run_usher: false, ..Options::default() };
    mem::forget(Lab::up(&options)?);
    assert_eq!(Lab::attach()?.options(), &options);
    Lab::remove_any()?;
    let namespaces = String::from_utf8(Command::new("ip").args(["netns", "list"]).output()?.stdout)?;
    assert!(!namespaces.contains("usher-client"), "{namespaces}");
    for path in ["/run/usher-lab", "/var/tmp/usher-lab", "/etc/netns/usher-client"] {
        assert!(!Path::new(path).exists(), "{path} is left");
    }
    assert!(fs::read_dir("/run/netns")?.flatten().all(|entry| entry.file_name() != "usher-switch"));
    assert!(Lab::attach().is_err());
    Ok(())
}
