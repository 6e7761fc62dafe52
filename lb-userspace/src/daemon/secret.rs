//! The cluster's secret, and the hash key that derives from it.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path, path::PathBuf};

use hkdf::Hkdf;
use lb_common::{HashKey, hash::KEY_BYTES};
use sha2::Sha256;

use crate::unreadable;

/// Says what the derived bytes are for, so that other keys can derive from the same secret.
const PURPOSE: &[u8] = b"usher flow hash v1";

/// Fewer bytes than this are no secret.
const SHORTEST: usize = 16;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(super) enum SecretError {
    /// It cannot be read.
    #[error("cannot read the secret {path}; make one with: {}", make(path))]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Others can read it.
    #[error("the secret {path} can be read by others (mode {mode:04o}); mend it with: chmod 600 {path}")]
    Open { path: PathBuf, mode: u32 },
    /// It is too short to be one.
    #[error(
        "the secret {path} holds {length} bytes, and at least {SHORTEST} are needed; make one with: {}",
        make(path)
    )]
    Short { path: PathBuf, length: usize },
}

fn make(path: &Path) -> String {
    format!("(umask 077; head -c 32 /dev/urandom | base64 > {})", path.display())
}

/// The flow hash's key from the secret file that all nodes share; `None` without a file.
pub(super) fn hash_key(path: Option<&Path>) -> Result<Option<HashKey>, SecretError> {
    path.map(|path| Ok(derive(&read(path)?))).transpose()
}

/// A key that nobody else has.
pub(super) fn random_key() -> HashKey {
    derive(&rand::random::<[u8; 32]>())
}

fn read(path: &Path) -> Result<Vec<u8>, SecretError> {
    let unreadable =
        |source| SecretError::Unreadable { path: path.to_owned(), source: unreadable::explained(source) };
    let mode = fs::metadata(path).map_err(unreadable)?.mode() & 0o7777;
    if mode & 0o007 != 0 {
        return Err(SecretError::Open { path: path.to_owned(), mode });
    }
    let secret = fs::read(path).map_err(unreadable)?.trim_ascii().to_vec();
    if secret.len() < SHORTEST {
        return Err(SecretError::Short { path: path.to_owned(), length: secret.len() });
    }
    Ok(secret)
}

/// HKDF with SHA-256 (RFC 5869).
fn derive(secret: &[u8]) -> HashKey {
    let mut bytes = [0; KEY_BYTES];
    // Fails only above 255 hashes of output.
    Hkdf::<Sha256>::new(None, secret).expand(PURPOSE, &mut bytes).expect("224 bytes are within HKDF's limit");
    HashKey::from_bytes(&bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn file(content: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, content).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn the_same_secret_gives_the_same_key_on_every_node() {
        let [one, other, third] = [
            file("0123456789abcdef\n", 0o600),
            file("0123456789abcdef", 0o640),
            file("0123456789abcdeg", 0o600),
        ]
        .map(|file| hash_key(Some(file.path())).unwrap());
        assert_eq!(one, other, "a final newline does not count");
        assert_ne!(one, third);
    }

    #[test]
    fn without_a_file_every_start_has_another_key() {
        assert_eq!(hash_key(None).unwrap(), None);
        assert_ne!(random_key(), random_key());
    }

    #[test]
    fn what_is_no_secret_is_refused_with_a_way_to_mend_it() {
        let open = hash_key(Some(file("0123456789abcdef", 0o644).path())).unwrap_err().to_string();
        assert!(open.contains("mode 0644") && open.contains("chmod 600"), "{open}");
        let short = hash_key(Some(file("123", 0o600).path())).unwrap_err().to_string();
        assert!(short.contains("holds 3 bytes") && short.contains("/dev/urandom"), "{short}");
        let missing = hash_key(Some(Path::new("/nonexistent/secret"))).unwrap_err().to_string();
        assert!(missing.contains("cannot read the secret /nonexistent/secret"), "{missing}");
    }
}
