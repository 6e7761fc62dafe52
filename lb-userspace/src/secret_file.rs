//! Files that hold secrets: nobody but root and a group of its choice may read them.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::unreadable;

/// Why a file is not taken for a secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// It cannot be read.
    #[error("cannot read the {what} {path}; make one with: {make}")]
    Unreadable {
        /// What the file holds.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// A command that makes such a file.
        make: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Others can read it.
    #[error("the {what} {path} can be read by others (mode {mode:04o}); mend it with: chmod 600 {path}")]
    Open {
        /// What the file holds.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

/// The content of a file that others cannot read. `what` it is and a command to `make` one are for errors.
pub(crate) fn read(path: &Path, what: &'static str, make: &str) -> Result<Vec<u8>, SecretFileError> {
    let unreadable = |source| SecretFileError::Unreadable {
        what,
        path: path.to_owned(),
        make: make.to_owned(),
        source: unreadable::explained(source),
    };
    let mut file = File::open(path).map_err(unreadable)?;
    // Of the open file: another one may be put in its place at any time.
    let mode = file.metadata().map_err(unreadable)?.mode() & 0o7777;
    if mode & 0o007 != 0 {
        return Err(SecretFileError::Open { what, path: path.to_owned(), mode });
    }
    let mut content = Vec::new();
    file.read_to_end(&mut content).map_err(unreadable)?;
    Ok(content)
}
