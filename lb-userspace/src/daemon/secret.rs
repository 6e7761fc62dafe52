//! The cluster's secret, and the keys that derive from it.

use std::path::{Path, PathBuf};

use hkdf::Hkdf;
use lb_common::HashKey;
use sha2::Sha256;

use crate::{
    dns::PeerKey,
    secret_file::{self, SecretFileError},
};

/// What derived bytes are for: no key tells anything about another.
const FLOW_HASH: &[u8] = b"usher flow hash v1";
const PEERS: &[u8] = b"usher peers v1";
const ID: &[u8] = b"usher id v1";

/// Fewer bytes than this are no secret.
const SHORTEST: usize = 16;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(super) enum SecretError {
    /// It cannot be read, or others can read it.
    #[error(transparent)]
    File(#[from] SecretFileError),
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

/// What all nodes of a cluster share, and nobody else knows.
pub(super) struct Secret(Vec<u8>);

impl Secret {
    /// From its file; `None` without one.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub(super) fn read(path: Option<&Path>) -> Result<Option<Secret>, SecretError> {
        path.map(|path| read(path).map(Secret)).transpose()
    }

    /// The flow hash's key.
    pub(super) fn hash_key(&self) -> HashKey {
        HashKey::from_bytes(&derive(&self.0, FLOW_HASH))
    }

    /// The key with which nodes sign what they tell each other.
    pub(super) fn peer_key(&self) -> PeerKey {
        PeerKey::new(&derive(&self.0, PEERS))
    }

    /// Tells secrets apart, and nothing else about them.
    pub(super) fn id(&self) -> u32 {
        u32::from_be_bytes(derive(&self.0, ID))
    }
}

/// A hash key that nobody else has.
pub(super) fn random_key() -> HashKey {
    Secret(rand::random::<[u8; 32]>().to_vec()).hash_key()
}

fn read(path: &Path) -> Result<Vec<u8>, SecretError> {
    let secret = secret_file::read(path, "secret", &make(path))?.trim_ascii().to_vec();
    if secret.len() < SHORTEST {
        return Err(SecretError::Short { path: path.to_owned(), length: secret.len() });
    }
    Ok(secret)
}

/// HKDF with SHA-256 (RFC 5869).
fn derive<const N: usize>(secret: &[u8], purpose: &[u8]) -> [u8; N] {
    const { assert!(N <= 255 * 32, "HKDF gives 255 hashes at most") };
    let mut bytes = [0; N];
    Hkdf::<Sha256>::new(None, secret).expand(purpose, &mut bytes).expect("the length is within HKDF's limit");
    bytes
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

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
        .map(|file| Secret::read(Some(file.path())).unwrap().unwrap())
        .map(|secret| (secret.hash_key(), secret.id()));
        assert_eq!(one, other, "a final newline does not count");
        assert_ne!(one, third);
    }

    #[test]
    fn without_a_file_every_start_has_another_key() {
        assert!(Secret::read(None).unwrap().is_none());
        assert_ne!(random_key(), random_key());
    }

    #[test]
    fn what_is_no_secret_is_refused_with_a_way_to_mend_it() {
        let refused = |path: &Path| Secret::read(Some(path)).map(drop).unwrap_err().to_string();
        let open = refused(file("0123456789abcdef", 0o644).path());
        assert!(open.contains("mode 0644") && open.contains("chmod 600"), "{open}");
        let short = refused(file("123", 0o600).path());
        assert!(short.contains("holds 3 bytes") && short.contains("/dev/urandom"), "{short}");
        let missing = refused(Path::new("/nonexistent/secret"));
        assert!(missing.contains("cannot read the secret /nonexistent/secret"), "{missing}");
    }
}
