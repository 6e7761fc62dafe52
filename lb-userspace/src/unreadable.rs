//! Why root, of all users, may not read a file.

use std::io::{self, ErrorKind};

use nix::unistd::geteuid;

/// The error, and what is behind it where the daemon's user is root and may not read.
pub(crate) fn explained(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::PermissionDenied if geteuid().is_root() => io::Error::new(
            ErrorKind::PermissionDenied,
            format!(
                "{error}: usher keeps no CAP_DAC_OVERRIDE, so owner and mode of the file and its directories must let \
                 root read; mend it with `chown root` and `chmod u+r`"
            ),
        ),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_roots_missing_permission_is_explained() {
        let denied = explained(io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
        assert_eq!(denied.to_string().contains("CAP_DAC_OVERRIDE"), geteuid().is_root(), "{denied}");
        let missing = explained(io::Error::from_raw_os_error(libc::ENOENT));
        assert_eq!(missing.to_string(), "No such file or directory (os error 2)");
    }
}
