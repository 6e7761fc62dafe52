//! What `usher backend run` has changed, kept on disk, so that a stop undoes it even after a crash.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, ErrorKind},
    net::IpAddr,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use serde::{Deserialize, Serialize};

use super::Settings;

/// Everything that was changed on the host, and what it was before. It is written before each change, so
/// what it names may not have happened; what happened, it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What was asked for.
    pub settings: Settings,
    /// The process that runs, or ran.
    pub pid: u32,
    /// Whether that process has set up everything.
    pub ready: bool,
    /// The decapsulation program; `None` where no tunnel is used.
    pub program: Option<Program>,
    /// VIPs that were put on `lo`; those that were there before are not among them.
    pub vips: BTreeSet<IpAddr>,
    /// Kernel settings that were changed, by their path below `/proc/sys`.
    pub sysctls: BTreeMap<String, Change>,
}

/// A loaded and attached program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The kernel's id of it.
    pub id: u32,
    /// `native` or `generic`.
    pub mode: String,
    /// Why it is not native, where that was tried; otherwise empty.
    pub why_not_native: String,
}

/// A kernel setting's values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Before.
    pub found: String,
    /// Since.
    pub set: String,
}

impl Record {
    /// A record of nothing done yet.
    pub fn new(settings: Settings) -> Record {
        Record {
            settings,
            pid: std::process::id(),
            ready: false,
            program: None,
            vips: BTreeSet::new(),
            sysctls: BTreeMap::new(),
        }
    }
}

/// Why the record cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or folder cannot be used.
    #[error("cannot {what} {}", path.display())]
    File {
        /// `read`, `write`, …
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The record is not one of ours.
    #[error("{} is not readable as what it should be; remove it after a look at it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// The folder where the record is.
#[derive(Debug, Clone)]
pub struct Store(PathBuf);

/// As long as it lives, no other process runs with the same folder.
#[derive(Debug)]
pub struct Turn(#[allow(dead_code, reason = "held, not used")] Flock<File>);

impl Store {
    /// The folder's record. Nothing is touched yet.
    pub fn new(folder: &Path) -> Store {
        Store(folder.to_owned())
    }

    /// Takes the folder for this process; `None` when another has it.
    ///
    /// # Errors
    /// When the folder or the lock in it cannot be made.
    pub fn take(&self) -> Result<Option<Turn>, StoreError> {
        fs::create_dir_all(&self.0).map_err(at("make", &self.0))?;
        let path = self.0.join("lock");
        let file = File::create(&path).map_err(at("make", &path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(Turn(lock))),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(at("lock", &path)(errno.into())),
        }
    }

    /// The record; `None` when nothing is changed.
    ///
    /// # Errors
    /// When there is one that cannot be read.
    pub fn load(&self) -> Result<Option<Record>, StoreError> {
        let path = self.path();
        let text = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            text => text.map_err(at("read", &path))?,
        };
        serde_json::from_slice(&text).map(Some).map_err(|source| StoreError::Unreadable { path, source })
    }

    /// Keeps the record, in place of the last one or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, record: &Record) -> Result<(), StoreError> {
        let path = self.path();
        let new = path.with_extension("new");
        let text = serde_json::to_vec_pretty(record)
            .map_err(|source| StoreError::Unreadable { path: path.clone(), source })?;
        fs::write(&new, text).map_err(at("write", &new))?;
        fs::rename(&new, &path).map_err(at("write", &path))
    }

    /// Forgets the record: nothing is changed any more.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn clear(&self) -> Result<(), StoreError> {
        let path = self.path();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(at("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    fn path(&self) -> PathBuf {
        self.0.join("state.json")
    }
}

fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File { what, path, source }
}
