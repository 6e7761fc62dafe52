//! The cluster's secret, and the keys that derive from it.
//!
//! Its file holds a line, or two while one secret takes the place of another: the first chooses backends and signs what the
//! node says; whoever signs with the second is believed, too. So nodes can change one after the other.

use std::{
    io,
    path::{Path, PathBuf},
};

use hkdf::Hkdf;
use lb_common::HashKey;
use sha2::Sha256;

use crate::{
    dns::PeerKeys,
    secret_file::{self, SecretFileError},
    whole_file,
};

/// What derived bytes are for: no key tells anything about another.
const FLOW_HASH: &[u8] = b"usher flow hash v1";
const PEERS: &[u8] = b"usher peers v1";
const ID: &[u8] = b"usher id v1";

/// Fewer bytes than this are no secret.
const SHORTEST: usize = 16;

/// One that is in use, and one that takes its place or whose place it took.
const MOST: usize = 2;

/// A command that makes a secret.
pub(crate) const MAKE: &str = "usher init";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    /// It cannot be read, or others can read it.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// A line is too short to be one.
    #[error(
        "line {line} of the secret {path} holds {length} bytes, and at least {SHORTEST} are needed; make one with: \
         {}",
        make(path)
    )]
    Short { path: PathBuf, line: usize, length: usize },
    /// More than two.
    #[error(
        "the secret {path} has {lines} lines: one secret, or two while one takes the place of another (base64 -w 0 \
         writes one line)"
    )]
    Many { path: PathBuf, lines: usize },
}

fn make(path: &Path) -> String {
    format!("{MAKE} --secret-file {}", path.display())
}

/// What all nodes of a cluster share, and nobody else knows.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret {
    in_use: Vec<u8>,
    /// Believed, too.
    other: Option<Vec<u8>>,
}

impl Secret {
    /// From its file; `None` without one.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub(crate) fn read(path: Option<&Path>) -> Result<Option<Secret>, SecretError> {
        let read = |path| Secret::parse(&secret_file::read(path, "secret", &make(path))?, path);
        path.map(read).transpose()
    }

    /// From what its file holds; `path` is for errors.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn parse(content: &[u8], path: &Path) -> Result<Secret, SecretError> {
        let path = || path.to_owned();
        let mut lines: Vec<&[u8]> =
            content.trim_ascii().split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).collect();
        lines.retain(|line| !line.is_empty());
        if lines.len() > MOST {
            return Err(SecretError::Many { path: path(), lines: lines.len() });
        }
        for (line, secret) in (1..).zip(&lines) {
            if secret.len() < SHORTEST {
                return Err(SecretError::Short { path: path(), line, length: secret.len() });
            }
        }
        let mut lines = lines.into_iter().map(<[u8]>::to_vec);
        let in_use = lines.next().ok_or_else(|| SecretError::Short { path: path(), line: 1, length: 0 })?;
        Ok(Secret { in_use, other: lines.next() })
    }

    /// One that nobody else has.
    pub(crate) fn random() -> Secret {
        let digits = rand::random::<[u8; 32]>().map(|byte| format!("{byte:02x}"));
        Secret { in_use: digits.concat().into_bytes(), other: None }
    }

    /// Writes its file: whatever happens meanwhile, this or what was there before is there whole.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let lines = self.all().flat_map(|secret| [secret, b"\n"]);
        whole_file::write(path, &lines.collect::<Vec<_>>().concat())
    }

    /// The flow hash's key.
    pub(crate) fn hash_key(&self) -> HashKey {
        HashKey::from_bytes(&derive(&self.in_use, FLOW_HASH))
    }

    /// The keys with which nodes sign what they tell each other.
    pub(crate) fn peer_keys(&self) -> PeerKeys {
        let key = |secret: &[u8]| (id(secret), derive(secret, PEERS));
        PeerKeys::new(key(&self.in_use), self.other.as_deref().map(key))
    }

    /// Tells secrets apart, and nothing else about them: of the one that is in use.
    pub(crate) fn id(&self) -> u32 {
        id(&self.in_use)
    }

    /// The same of the one that is believed, too.
    pub(crate) fn other_id(&self) -> Option<u32> {
        self.other.as_deref().map(id)
    }

    /// Whether one of its secrets is one of the other's.
    pub(crate) fn has_one_of(&self, other: &Secret) -> bool {
        self.all().any(|own| other.all().any(|theirs| theirs == own))
    }

    /// The first step to another one: it is believed, too. `None` when there are two.
    pub(crate) fn with_next(&self) -> Option<Secret> {
        let next = Secret::random().in_use;
        self.other.is_none().then(|| Secret { in_use: self.in_use.clone(), other: Some(next) })
    }

    /// The second step: the other one is in use. `None` when there is no other.
    pub(crate) fn switched(&self) -> Option<Secret> {
        Some(Secret { in_use: self.other.clone()?, other: Some(self.in_use.clone()) })
    }

    /// The last step: only the one that is in use is believed. `None` when there is no other.
    pub(crate) fn alone(&self) -> Option<Secret> {
        self.other.is_some().then(|| Secret { in_use: self.in_use.clone(), other: None })
    }

    fn all(&self) -> impl Iterator<Item = &[u8]> {
        [&self.in_use].into_iter().chain(&self.other).map(Vec::as_slice)
    }
}

fn id(secret: &[u8]) -> u32 {
    u32::from_be_bytes(derive(secret, ID))
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
        assert_ne!(Secret::random().hash_key(), Secret::random().hash_key());
    }

    #[test]
    fn what_is_no_secret_is_refused_with_a_way_to_mend_it() {
        let refused = |path: &Path| Secret::read(Some(path)).map(drop).unwrap_err().to_string();
        let open = refused(file("0123456789abcdef", 0o644).path());
        assert!(open.contains("mode 0644") && open.contains("chmod 600"), "{open}");
        for (content, expected) in [
            ("", "line 1 of the secret /"),
            ("123", "holds 3 bytes"),
            ("0123456789abcdef\n123\n", "line 2 of the secret /"),
        ] {
            let short = refused(file(content, 0o600).path());
            assert!(short.contains(expected) && short.contains("usher init --secret-file /"), "{short}");
        }
        let many = refused(file(&"0123456789abcdef\n".repeat(3), 0o600).path());
        assert!(many.contains("has 3 lines"), "{many}");
        let missing = refused(Path::new("/nonexistent/secret"));
        assert!(missing.contains("cannot read the secret /nonexistent/secret"), "{missing}");
    }

    #[test]
    fn one_secret_takes_the_place_of_another_in_three_steps() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let stored = |secret: Secret| {
            secret.write(&path).unwrap();
            let stored = Secret::read(Some(&path)).unwrap().unwrap();
            assert!(stored == secret);
            stored
        };
        let first = stored(Secret::random());
        assert!(first.other_id().is_none() && first.switched().is_none() && first.alone().is_none());
        let both = stored(first.with_next().unwrap());
        assert!(both.id() == first.id() && both.hash_key() == first.hash_key() && both.with_next().is_none());
        let switched = stored(both.switched().unwrap());
        assert_eq!((Some(switched.id()), switched.other_id()), (both.other_id(), Some(first.id())));
        let last = stored(switched.alone().unwrap());
        assert_eq!((last.id(), last.other_id()), (switched.id(), None));
        assert!(both.has_one_of(&first) && switched.has_one_of(&last) && !last.has_one_of(&first));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
