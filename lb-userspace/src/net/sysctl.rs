//! Kernel settings under `/proc/sys`.
//!
//! Calls block, but only as long as the kernel takes to print a value. Settings under `net/` are those of the
//! calling thread's network namespace.

use std::{
    fs, io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

/// The kernel's release, as `uname -r` has it; "of unknown version" where `/proc` is not mounted.
pub fn kernel_release() -> String {
    read("kernel/osrelease").unwrap_or_else(|_| "of unknown version".to_owned())
}

/// A kernel setting that could not be used.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// It cannot be read: the kernel lacks the feature, or `/proc` is not mounted.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It cannot be written: not root, `/proc/sys` is read-only, or the value is refused.
    #[error("cannot write {value:?} to {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What was to be written.
        value: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It holds something else than it should.
    #[error("{} holds {value:?}, which is not {expected}", path.display())]
    Unexpected {
        /// The file.
        path: PathBuf,
        /// What it holds.
        value: String,
        /// What it should hold.
        expected: &'static str,
    },
}

/// The value of a setting, without the final newline.
///
/// `key` has slashes, because interface names may have dots: `net/ipv4/conf/eth0.100/rp_filter`.
///
/// # Errors
/// [`SysctlError::Read`].
pub fn read(key: &str) -> Result<String, SysctlError> {
    let path = path_of(key);
    match fs::read_to_string(&path) {
        Ok(value) => Ok(value.trim_end().to_owned()),
        Err(source) => Err(SysctlError::Read { path, source }),
    }
}

/// Sets a setting until the next boot.
///
/// # Errors
/// [`SysctlError::Write`].
pub fn write(key: &str, value: &str) -> Result<(), SysctlError> {
    let path = path_of(key);
    fs::write(&path, value).map_err(|source| SysctlError::Write { path, value: value.to_owned(), source })
}

/// The ports that the kernel gives to outgoing connections (`ip_local_port_range`; IPv6 too).
///
/// # Errors
/// [`SysctlError::Read`], [`SysctlError::Unexpected`].
pub fn local_port_range() -> Result<RangeInclusive<u16>, SysctlError> {
    parsed("net/ipv4/ip_local_port_range", "two ports", |value| port_range(value.split_whitespace()))
}

/// Ports of that range which the kernel leaves alone (`ip_local_reserved_ports`), ascending.
///
/// # Errors
/// [`SysctlError::Read`], [`SysctlError::Unexpected`].
pub fn local_reserved_ports() -> Result<Vec<RangeInclusive<u16>>, SysctlError> {
    parsed("net/ipv4/ip_local_reserved_ports", "a list of ports and ranges", |value| {
        value.split(',').filter(|item| !item.is_empty()).map(|item| port_range(item.split('-'))).collect()
    })
}

fn parsed<T>(
    key: &str,
    expected: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, SysctlError> {
    let value = read(key)?;
    parse(&value).ok_or_else(|| SysctlError::Unexpected { path: path_of(key), value, expected })
}

/// One port, or the first and the last.
fn port_range<'a>(mut ports: impl Iterator<Item = &'a str>) -> Option<RangeInclusive<u16>> {
    let first = ports.next()?.parse().ok()?;
    let last = ports.next().map_or(Ok(first), str::parse).ok()?;
    (ports.next().is_none() && first <= last).then_some(first..=last)
}

fn path_of(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key)
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn port_ranges() {
        let parse = |text: &'static str| port_range(text.split('-'));
        assert_eq!(parse("8080"), Some(8080..=8080));
        assert_eq!(parse("9148-9150"), Some(9148..=9150));
        for bad in ["", "x", "1-2-3", "5-4", "1-", "65536"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn this_host_has_a_port_range() {
        let range = local_port_range().unwrap();
        assert!(range.start() < range.end());
        local_reserved_ports().unwrap();
    }

    #[test]
    fn an_error_names_the_path_and_keeps_the_cause() {
        let error = read("net/ipv4/conf/no-such-interface/rp_filter").unwrap_err();
        assert_eq!(error.to_string(), "cannot read /proc/sys/net/ipv4/conf/no-such-interface/rp_filter");
        assert!(error.source().is_some());
        let error = write("net/no-such-setting", "1").unwrap_err();
        assert_eq!(error.to_string(), "cannot write \"1\" to /proc/sys/net/no-such-setting");
    }
}
